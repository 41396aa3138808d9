"""What both processes of `eventrec demo` do: record a part of the shop's events, paced, into a log and SQLite.

Run as a program, it is the first one: it records up to an event, prints on stdout how far it is, three numbers a
line (written, stored, batches), and then waits to be killed, while the last events are on their way: its database takes
nothing meanwhile, so that the kill always comes between the log and the database.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.cli.demo.shop import shop_events
from eventrec.handler import EventHandler
from eventrec.recorder import EventRecorder
from eventrec_handlers.sqlite import SqliteHandler

if TYPE_CHECKING:
    from eventrec.handler import DestinationCheckpoints
    from eventrec.records.batch import Batch

DATABASE: Final = "shop.db"
LOG: Final = "log"
MAX_IN_A_SLICE: Final = 100

_SECONDS_BETWEEN_LINES: Final = 0.05

_LAST_PART: Final = 20
"""One event of so many, the last ones, is not delivered by the process that is killed."""


class CountingHandler(EventHandler):
    """A handler that counts what another one stores."""

    def __init__(self, handler: EventHandler) -> None:
        self.batches = 0
        self.rows = 0
        self._handler = handler
        self._is_slow = False

    def hold(self) -> None:
        """Store nothing more, as a database does that does not answer: the next batch stays on its way."""
        self._is_slow = True

    @property
    def checkpoints(self) -> DestinationCheckpoints | None:
        """Those of the wrapped handler."""
        return self._handler.checkpoints

    async def open(self) -> None:
        """As the wrapped handler."""
        await self._handler.open()

    async def handle(self, batch: Batch) -> None:
        """As the wrapped handler; counts on success."""
        if self._is_slow:
            await anyio.sleep_forever()
        await self._handler.handle(batch)
        self.batches += 1
        self.rows += len(batch)

    async def close(self) -> None:
        """As the wrapped handler."""
        await self._handler.close()


def recorder_in(directory: Path) -> tuple[EventRecorder, CountingHandler]:
    """A recorder with its log and its database in `directory`, not yet open."""
    watched = CountingHandler(SqliteHandler(directory / DATABASE))
    recorder = EventRecorder(log=directory / LOG, environment={})
    recorder.register(watched, name="sqlite", flush_interval=0.2)
    return recorder, watched


async def record_part(recorder: EventRecorder, start: int, stop: int, *, seconds: float) -> None:
    """Record the shop's events `start` to `stop`, evenly over `seconds`, and return when the last one is written."""
    started, slice_ = anyio.current_time(), max(1, min(MAX_IN_A_SLICE, (stop - start) // 200))
    for number, event in enumerate(islice(shop_events(stop), start, max(start, stop - 1))):
        if number % slice_ == 0:
            due = started + seconds * number / (stop - start)
            await anyio.sleep(max(0.0, due - anyio.current_time()))
        recorder.record(event)
    for event in islice(shop_events(stop), max(start, stop - 1), stop):
        await recorder.record_durable(event, until="written")


async def _run(directory: Path, stop: int, seconds: float) -> None:
    recorder, watched = recorder_in(directory)
    written = 0

    async def tell() -> None:
        while True:
            sys.stdout.write(f"{written} {watched.rows} {watched.batches}\n")
            sys.stdout.flush()
            await anyio.sleep(_SECONDS_BETWEEN_LINES)

    async with recorder, anyio.create_task_group() as tasks:
        tasks.start_soon(tell)
        last = max(1, stop // _LAST_PART)
        await record_part(recorder, 0, stop - last, seconds=seconds * (stop - last) / stop)
        # What is recorded from here on is in the log, and not in the database, when the process is killed.
        watched.hold()
        await record_part(recorder, stop - last, stop, seconds=seconds * last / stop)
        written = stop


if __name__ == "__main__":
    anyio.run(_run, Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
