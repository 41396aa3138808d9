"""A process that records into ClickHouse until it is killed: `killed_writer.py URL DIRECTORY RUN`."""

from __future__ import annotations

import sys
from itertools import count

import anyio

from eventrec import Event, EventRecorder
from eventrec_handlers.clickhouse import from_url


class Counted(Event):
    """An event whose type is the run, and whose payload its number in it."""

    def __init__(self, run: str, number: int) -> None:
        self._run = run
        self._number = number

    @property
    def type(self) -> str:
        return self._run

    @property
    def payload(self) -> object:
        return self._number


async def record(url: str, directory: str, run: str) -> None:
    """Until the process ends."""
    recorder = EventRecorder(log=directory)
    recorder.register(from_url(url), name="clickhouse")
    async with recorder:
        for number in count():
            recorder.record(Counted(run, number))
            if number % 100 == 0:
                await anyio.sleep(0.05)


if __name__ == "__main__":
    anyio.run(record, sys.argv[1], sys.argv[2], sys.argv[3])
