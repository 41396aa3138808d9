"""A producer to be killed: `redis_writer.py URL LOG FIRST`. Prints each number once its event is written."""

from __future__ import annotations

import sys
from itertools import count

import anyio

from eventrec import EventRecorder
from eventrec.testing.scripted import Numbered


async def main(url: str, log: str, first: int) -> None:
    async with EventRecorder(url, log=log) as recorder:
        for number in count(first):
            await recorder.record_durable(Numbered(number), until="written")
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
