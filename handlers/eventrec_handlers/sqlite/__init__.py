"""Stores records in tables of a SQLite file: the embedded default.

Effectively once: rows and checkpoint are one transaction (WAL, synchronous=FULL), and the checkpoint moves only from
where the batch starts. Any number of processes may share a file on a local file system. A table has the columns id,
type, timestamp (ns since the epoch, UTC), payload (JSON) and, where there is any, context (JSON), then the extra ones:
`columns.py` has the table of types. SQLite ignores the case of A to Z in names: tables called `Orders` and `orders` are
one, and columns that differ in nothing else are refused.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from anyio import CancelScope

from eventrec import Batch, DestinationCheckpoints, EventHandler, HandlerURL, HandlerURLError, PauseError
from eventrec_handlers._sql import SEEN_FOR, KeptLayouts, SchemaMode, fold_ascii
from eventrec_handlers._sql.refresher import Refresher
from eventrec_handlers._thread import Portal, WorkThread
from eventrec_handlers.sqlite.columns import BASE_DECLARED
from eventrec_handlers.sqlite.connected import Connected
from eventrec_handlers.sqlite.file import (
    MAX_COLUMNS,
    errors_translated,
    keeps_connection_usable,
)
from eventrec_handlers.sqlite.overdue import OverdueRollups
from eventrec_handlers.sqlite.own_tables import make_own_tables, next_of
from eventrec_handlers.sqlite.reader import SqliteReader
from eventrec_handlers.sqlite.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Self
    from uuid import UUID

    from eventrec import Layout
    from eventrec.analytics import Catalogue, MigrationTarget
    from eventrec_handlers.sqlite.rollups import SqliteRollups

__all__ = ["SchemaMode", "SqliteHandler", "SqliteReader", "SqliteRollups", "from_url"]

T = TypeVar("T")

SCHEMA_MODES: Final[tuple[SchemaMode, ...]] = ("evolve", "strict")
DEFAULT_MAX_COLUMNS: Final = 200
BUSY_TIMEOUT: Final = 5.0


def from_url(url: str) -> SqliteHandler:
    """The handler for `sqlite:///relative.db` or `sqlite:////absolute.db`; its keyword arguments are the options.

    Raises:
        HandlerURLError: It names no file, an unknown option, or a value that is not allowed.
    """
    given = HandlerURL(url)
    given.accept(
        "schema",
        "max_columns",
        "busy_timeout",
        "seen_for",
        "unique_ids",
        "refresh",
        "catalogue",
        parts=("host", "path"),
    )
    if given.host is not None or not given.path:
        raise HandlerURLError("a sqlite URL is sqlite:///relative.db, or with four slashes sqlite:////absolute.db")
    try:
        return SqliteHandler(
            given.path,
            schema=given.choice("schema", SCHEMA_MODES, default="evolve"),
            max_columns=given.integer("max_columns", default=DEFAULT_MAX_COLUMNS),
            busy_timeout=given.seconds("busy_timeout", default=BUSY_TIMEOUT),
            seen_for=given.seconds("seen_for", default=SEEN_FOR),
            unique_ids=given.boolean("unique_ids", default=False),
            refresh=given.boolean("refresh", default=False),
            catalogue=given.text("catalogue"),
        )
    except ValueError as exc:
        raise HandlerURLError(f"a sqlite URL: {exc}") from exc


class SqliteHandler(EventHandler, DestinationCheckpoints):
    """Stores batches in the file `path`, effectively once; a relative path counts from the directory at construction.

    `schema="evolve"` makes tables and missing columns, up to `max_columns` a table; `"strict"` makes only its own two
    tables, `eventrec_checkpoints` and `eventrec_destination`. Nothing is ever dropped or retyped. `busy_timeout` is how
    many seconds to wait for other writers. `now` gives nanoseconds since the epoch.

    A table with a layout is written as that says, and its layout is kept in `eventrec_layouts`, so that other programs
    find it. Where it has no column for the id, a record that came with one is stored once: for `seen_for` seconds its
    id is kept in `eventrec_seen`. In other tables it is stored again, under the same id; with `unique_ids` once, too.

    `refresh`: while it is open, the handler keeps the rollups of `catalogue` in tables of the file and brings them up
    to date, each as often as its `Refresh(every=…)` says, and removes events beyond the retention of their layout, as
    `eventrec refresh` does. `catalogue` is one, or `module:object`; None: EVENTREC_CATALOGUE, else `[tool.eventrec]` of
    pyproject.toml. It computes beside the batches, and holds the file for moments only. Processes share it. Without it
    rollups are answered from the events, and nothing is made for them. Where nothing refreshes rollups for which events
    wait, the `remarks` say so.

    A batch is stored whole or not at all, also when it is cancelled: once it has begun to write it is waited for.
    Records that do not fit are found before anything is written, and named with their reasons in one PermanentError.

    Raises:
        ValueError: `path` names no file, or an argument is not one of those allowed.
    """

    takes_unique_ids = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        schema: SchemaMode = "evolve",
        max_columns: int = DEFAULT_MAX_COLUMNS,
        busy_timeout: float = BUSY_TIMEOUT,
        seen_for: float = SEEN_FOR,
        unique_ids: bool = False,
        refresh: bool = False,
        catalogue: Catalogue | str | None = None,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        name = os.fspath(path)
        if not name or name == ":memory:":
            raise ValueError(f"path must name a file, got {name!r} (to keep records in memory there is MemoryHandler)")
        if schema not in SCHEMA_MODES:
            raise ValueError(f"schema must be one of {', '.join(SCHEMA_MODES)}, got {schema!r}")
        if not len(BASE_DECLARED) <= max_columns <= MAX_COLUMNS:
            raise ValueError(f"max_columns must be {len(BASE_DECLARED)} to {MAX_COLUMNS}, got {max_columns}")
        if not seen_for > 0:
            raise ValueError(f"seen_for must be more than 0 seconds, got {seen_for:g}")
        self._path = Path(name).absolute()
        self._busy_timeout = busy_timeout
        self._now = now
        self._thread = WorkThread("eventrec-sqlite")
        self._was_opened = False
        self._is_open = False
        self._file = Connected(self._path, busy_timeout=busy_timeout, now=now, on_change=self._forget_tables)
        self._layouts = KeptLayouts(fold=fold_ascii)
        self._may_make = schema == "evolve"
        self._overdue = OverdueRollups()
        self._refresher = Refresher(catalogue, self._rollups_of, database="sqlite") if refresh else None
        self._portal: Portal | None = None
        """Where the refresher runs: its loop is not the application's."""
        self._records = Store(
            self._path,
            schema=schema,
            max_columns=max_columns,
            layouts=self._layouts,
            seen_for=seen_for,
            unique_ids=unique_ids,
            now=now,
            transaction=self._transaction,
        )

    def __repr__(self) -> str:
        return f"<SqliteHandler {str(self._path)!r} {'open' if self._is_open else 'closed'}>"

    @property
    def checkpoints(self) -> Self:
        return self

    def use_layouts(self, layouts: Mapping[str, Layout]) -> None:
        self._layouts.declare(layouts)

    def assume_layouts(self, layouts: Mapping[str, Layout]) -> None:
        self._layouts.assume(layouts)

    @property
    def remarks(self) -> Sequence[str]:
        refresher = () if self._refresher is None else self._refresher.remarks
        return (*refresher, *self._overdue.remarks)

    def reader(self) -> SqliteReader:
        return SqliteReader(self._path, busy_timeout=self._busy_timeout, layouts=self._layouts.declared)

    def rollups(self) -> SqliteRollups:
        return self._rollups(self._layouts.declared)

    def _rollups_of(self, catalogue: Catalogue) -> SqliteRollups:
        """What refreshes the rollups of `catalogue`."""
        return self._rollups({**{layout.table: layout for layout in catalogue.layouts}, **self._layouts.declared})

    def _rollups(self, layouts: Mapping[str, Layout]) -> SqliteRollups:
        from eventrec_handlers.sqlite.rollups import SqliteRollups  # noqa: PLC0415 - most programs ask for none

        return SqliteRollups(self._path, busy_timeout=self._busy_timeout, layouts=layouts, may_make=self._may_make)

    def migrations(self) -> MigrationTarget:
        from eventrec_handlers.sqlite.migrations import SqliteMigrations  # noqa: PLC0415 - who records needs none of it

        return SqliteMigrations(self._path, busy_timeout=self._busy_timeout, refreshes=self._refresher is not None)

    async def open(self) -> None:
        """Connect, and make our own two tables.

        Raises:
            PauseError: The file cannot be used: no such directory, no rights, no database, corrupt.
            TransientError: It is locked, or the disk is full.
        """
        self._was_opened = self._is_open = True
        try:
            await self._run(self._connected)
            if self._refresher is not None and self._portal is None:
                self._portal = Portal("eventrec-sqlite-refresh")
                await self._portal.run(self._refresher.start)
        except BaseException:
            await self.close()
            raise

    async def handle(self, batch: Batch) -> None:
        await self._run(lambda: self._store(batch))

    async def close(self) -> None:
        """Disconnect, once a job that is still running has ended."""
        if self._was_opened:
            with CancelScope(shield=True):
                await self._stop_refreshing()
                await self._run(self._close)
            self._thread.end()

    async def _stop_refreshing(self) -> None:
        portal, self._portal = self._portal, None
        if portal is not None and self._refresher is not None:
            try:
                await portal.run(self._refresher.stop)
            finally:
                await portal.close()

    async def destination_id(self) -> str:
        def read() -> str:
            # Of several rows always the same one, whatever the order in which they stand.
            select = "SELECT min(id) FROM eventrec_destination WHERE typeof(id) = 'text'"
            (found,) = self._connected().execute(select).fetchone()
            if found is None:  # its row was deleted
                with self._transaction() as connection:
                    make_own_tables(connection, self._now())
                    (found,) = connection.execute(select).fetchone()
            return str(found)

        return await self._run(read)

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        def find() -> int:
            with self._transaction() as connection:
                connection.execute(
                    "INSERT OR IGNORE INTO eventrec_checkpoints (log_id, subscription, next) VALUES (?, ?, ?)",
                    (str(log_id), subscription, start),
                )
                found = next_of(connection, log_id, subscription)
                if found is None:
                    raise PauseError(
                        f"eventrec_checkpoints does not keep the row of {subscription!r}: see its triggers"
                    )
                return found

        return await self._run(find)

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        def stamp() -> None:
            with self._transaction() as connection:
                connection.execute(
                    "INSERT INTO eventrec_checkpoints (log_id, subscription, next, retired_at) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (log_id, subscription) DO UPDATE"
                    " SET next = max(next, excluded.next), retired_at = excluded.retired_at",
                    (str(log_id), subscription, end, self._now()),
                )

        await self._run(stamp)

    # -- from here on everything runs in a worker thread, one job at a time

    async def _run(self, job: Callable[[], T]) -> T:
        if not self._was_opened:
            raise RuntimeError(f"{self!r} has not been opened")

        def guarded() -> T:
            with errors_translated(self._path):
                try:
                    return job()
                except sqlite3.Error as exc:
                    if not keeps_connection_usable(exc):
                        self._file.disconnect(as_it_is=True)
                    raise

        return await self._thread.run(guarded)

    def _store(self, batch: Batch) -> None:
        self._records.store(batch)
        self._file.note_stored(batch)
        if self._overdue.is_due and self._file.connection is not None:
            self._overdue.look(self._file.connection, self._now())

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._check_open()
        with self._file.transaction() as connection:
            yield connection

    def _connected(self) -> sqlite3.Connection:
        self._check_open()
        return self._file.connected()

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError(f"{self!r} is not open")

    def _forget_tables(self) -> None:
        self._records.forget_tables()

    def _close(self) -> None:
        self._is_open = False
        self._file.disconnect()


if not TYPE_CHECKING:  # for which every name would be one of ours

    def __getattr__(name: str) -> object:
        if name != "SqliteRollups":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from eventrec_handlers.sqlite.rollups import SqliteRollups  # noqa: PLC0415 - most programs ask for none

        return SqliteRollups
