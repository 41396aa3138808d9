"""`eventrec demo`: a shop's events through a recorder into SQLite, and then the two counts side by side.

    stream   the shop makes events, paced over some seconds, and records them
    read     the counts per type, by plain SQL, from the file
    tell     both counts, and the recorder's account

The shop's own count is made apart from the stream (`shop.count_by_type`): it holds even for a stream that was killed.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from eventrec.cli.demo_report import tell
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.progress import LiveProgress, Look
from eventrec.cli.shop import TABLES, count_by_type, shop_events
from eventrec.handler import EventHandler
from eventrec.recorder import EventRecorder
from eventrec_handlers.sqlite import SqliteHandler

if TYPE_CHECKING:
    from pathlib import Path

    from eventrec.batch import Batch
    from eventrec.cli.terminal import Terminal
    from eventrec.handler import DestinationCheckpoints
    from eventrec.status import Status

DATABASE: Final = "shop.db"
MOST_IN_A_SLICE: Final = 100
MOST_WAITING: Final = 5_000
"""Half of what a recorder without a log holds by default: the demo shall show delivery, not overflow."""

FLUSH_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    database: Path
    made: Counter[str]
    """By type, as the shop counts."""
    stored: Counter[str]
    """By type, as the database counts: rows with different ids."""
    rows: int
    batches: int
    seconds: float
    status: Status

    @property
    def is_complete(self) -> bool:
        """Whether the database holds each event once, and the account adds up."""
        return self.made == self.stored and self.rows == self.made.total() and self.status.is_balanced

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {
            "database": str(self.database),
            "made": dict(self.made),
            "stored": dict(self.stored),
            "rows": self.rows,
            "batches": self.batches,
            "seconds": round(self.seconds, 3),
            "is_complete": self.is_complete,
            "account": self.status.to_dict(),
        }


class Demo:
    """Records the first `events` events of the shop, over `seconds`, into a new directory inside of `directory`."""

    def __init__(self, directory: Path, *, events: int, seconds: float, terminal: Terminal) -> None:
        self._directory = directory
        self._events = events
        self._seconds = seconds
        self._terminal = terminal
        self._watched: _Watched

    async def run_and_tell(self, json: bool) -> int:  # noqa: FBT001 - anyio.run passes by position
        """The whole demo; its exit code.

        Raises:
            CommandError: The directory cannot be made, or the database does not take the events.
        """
        database = await anyio.to_thread.run_sync(_new_directory, self._directory) / DATABASE
        started = time.monotonic()
        if not json and not self._terminal.is_live:
            self._terminal.say(f"recording {self._events:,} events into {database}")
        status = await self._stream(database)
        seconds = time.monotonic() - started
        made, (stored, rows) = (
            await anyio.to_thread.run_sync(lambda: count_by_type(self._events)),
            await anyio.to_thread.run_sync(read_counts, database),
        )
        result = Result(database, made, stored, rows, self._watched.batches, seconds, status)
        if json:
            self._terminal.show_json(result.to_dict())
        else:
            tell(result, self._terminal)
        return ExitCode.OK if result.is_complete else ExitCode.INCOMPLETE

    async def _stream(self, database: Path) -> Status:
        self._watched = _Watched(SqliteHandler(database))
        recorder = EventRecorder()
        recorder.register(self._watched, name="sqlite", flush_interval=0.2)
        async with recorder, anyio.create_task_group() as tasks:
            with LiveProgress(self._terminal, lambda: self._look(recorder)) as progress:
                tasks.start_soon(progress.keep_fresh)
                await self._record(recorder)
                await recorder.flush(timeout=FLUSH_SECONDS)
            tasks.cancel_scope.cancel()
        return await recorder.close()

    async def _record(self, recorder: EventRecorder) -> None:
        """Record every event, evenly over the time, in slices; wait for the database before anything overflows."""
        started, slice_ = anyio.current_time(), max(1, min(MOST_IN_A_SLICE, self._events // 400))
        for number, event in enumerate(shop_events(self._events)):
            if number % slice_ == 0:
                due = started + self._seconds * number / self._events
                await anyio.sleep(max(0.0, due - anyio.current_time()))
                if number - self._watched.rows >= MOST_WAITING:
                    await recorder.flush(timeout=FLUSH_SECONDS)
            recorder.record(event)

    def _look(self, recorder: EventRecorder) -> Look:
        recorded, stored, batches = recorder.status().offered, self._watched.rows, self._watched.batches
        words = f"{recorded:,} recorded, {recorded - stored:,} waiting, {stored:,} stored in {batches:,} batches"
        return Look(stored, self._events, words)


class _Watched(EventHandler):
    """A handler that counts what another one stores."""

    def __init__(self, handler: EventHandler) -> None:
        self.batches = 0
        self.rows = 0
        self._handler = handler

    @property
    def checkpoints(self) -> DestinationCheckpoints | None:
        return self._handler.checkpoints

    async def open(self) -> None:
        await self._handler.open()

    async def handle(self, batch: Batch) -> None:
        await self._handler.handle(batch)
        self.batches += 1
        self.rows += len(batch)

    async def close(self) -> None:
        await self._handler.close()


def _new_directory(parent: Path) -> Path:
    """A directory that nobody has used before: two demos never share a count.

    Raises:
        CommandError: It cannot be made.
    """
    number = 1
    while True:
        directory = parent / f"run-{number}"
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            if not parent.is_dir():
                raise CommandError(f"{parent} is a file, no directory; see --dir", ExitCode.FILE) from None
            number += 1
        except OSError as exc:
            raise CommandError(f"cannot make {directory}: {exc.strerror}; see --dir", ExitCode.FILE) from exc
        else:
            return directory


def read_counts(database: Path) -> tuple[Counter[str], int]:
    """How many different ids the shop's tables hold of each type, and how many rows in all. Plain SQL, no eventrec."""
    stored: Counter[str] = Counter()
    rows = 0
    with closing(sqlite3.connect(database)) as connection:
        made = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table in made.intersection(TABLES):
            counts = f"SELECT type, count(DISTINCT id), count(*) FROM {table} GROUP BY type"  # noqa: S608 - our own names
            for kind, ids, all_rows in connection.execute(counts):
                stored[kind] += ids
                rows += all_rows
    return stored, rows
