"""A program that records the platform's events into a TimescaleDB until it is killed: URL LOG EXAMPLE NUMBER.

It prints a line as soon as all of them are written to its log. They have no ids: nothing but the checkpoint tells
whether a batch is stored.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module

import anyio

from eventrec import EventRecorder, EventRecorderOptions

OPTIONS = EventRecorderOptions(batch_rows=40, flush_interval=0.05)


async def main(*arguments: str) -> None:
    url, log, example, number = arguments
    sys.path.insert(0, example)
    layout = import_module("layout").ANALYTICS_EVENTS
    *events, last = import_module("generate").arrivals(
        start=datetime(2025, 3, 1, tzinfo=UTC), days=4, number=int(number), users=20, doubled=0
    )
    async with EventRecorder(url, log=log, layouts=[layout], options=OPTIONS) as recorder:
        taken = sum(recorder.record(replace(event, id=None)) for event in events)
        await recorder.record_durable(replace(last, id=None), until="written")
        sys.stdout.write(f"WRITTEN {taken + 1}\n")
        sys.stdout.flush()
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
