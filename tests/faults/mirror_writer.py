"""A recorder whose directory is mirrored, until it is killed.

    python mirror_writer.py rate DIRECTORY EVENTS_PER_SECOND
    python mirror_writer.py durable DIRECTORY URL START

`durable` prints the number of each event once a mirror has it, and delivers to URL beside that.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import anyio

from eventrec import EventRecorder, EventRecorderOptions
from eventrec.testing.scripted import Numbered

_SLICE = 0.02


def rate(directory: Path, per_second: int) -> None:
    """Record so many events a second, till killed."""
    recorder = EventRecorder(log=directory, options=EventRecorderOptions(segment_bytes=1 << 20))
    began, count = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - began) * per_second)
        recorder.record_many(Numbered(number) for number in range(count, due))
        count = due
        time.sleep(_SLICE)


async def durable(directory: Path, url: str, start: int) -> None:
    """Record events one after the other in a few tasks, each number said once a mirror has it."""
    options = EventRecorderOptions(segment_bytes=1 << 20, batch_rows=20, flush_interval=0.05)
    async with EventRecorder(url, log=directory, options=options) as recorder, anyio.create_task_group() as tasks:

        async def record(number: int) -> None:
            while True:
                await recorder.record_durable(Numbered(number), until="mirrored")
                print(number, flush=True)
                number += 10

        for number in range(start, start + 10):
            tasks.start_soon(record, number)


if __name__ == "__main__":
    if sys.argv[1] == "rate":
        rate(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        anyio.run(durable, Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
