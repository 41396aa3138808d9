"""Migrates a SQLite file: each statement in a transaction with the note that it ran.

    eventrec_migrations   version, name, phase, checksum, text, done, undone, adopted, started_at, applied_at

Two processes are kept apart by the lock of a file beside it, `NAME-migrate`, which ends with its process.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from contextlib import asynccontextmanager, closing, suppress
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

import anyio

from eventrec import PauseError
from eventrec.analytics import EarlierMigrations, MigrationError, MigrationRecord, MigrationTarget
from eventrec_handlers._descriptors import open_descriptor
from eventrec_handlers._sql.locks import acquired
from eventrec_handlers._thread import WorkThread
from eventrec_handlers.sqlite import ddl
from eventrec_handlers.sqlite.file import (
    check_kind,
    connect,
    connect_by_uri,
    errors_translated,
    is_at_rest,
    read_table,
)
from eventrec_handlers.sqlite.rollup_ddl import prepare_adopted
from eventrec_handlers.sqlite.rollups.registry import drop_idle_triggers
from eventrec_handlers.sqlite.transactions import writing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from eventrec.analytics import Declaration, Declarations, Migration, Statement, Steps
    from eventrec_handlers.sqlite.file import Table

T = TypeVar("T")

RECORDS: Final = "eventrec_migrations"

_RECORDS_TABLE: Final = (
    f"CREATE TABLE IF NOT EXISTS {RECORDS} (version INTEGER PRIMARY KEY, name TEXT NOT NULL, phase TEXT NOT NULL,"
    " checksum TEXT NOT NULL, text TEXT NOT NULL, done INTEGER NOT NULL, undone INTEGER NOT NULL DEFAULT 0,"
    " adopted TEXT NOT NULL, started_at INTEGER NOT NULL, applied_at INTEGER)"
)
_COLUMNS: Final = ("version", "name", "phase", "checksum", "text", "done", "undone", "adopted")


class SqliteMigrations(MigrationTarget):
    """Migrates the file `path`. `busy_timeout` is how many seconds to wait for other writers.

    `refreshes`: rollups are kept in tables, which are made, and replaced by those of another declaration.

    To look at a file changes nothing, also where there is none.
    """

    dialect: ClassVar[str] = "sqlite"

    def __init__(
        self, path: Path, *, busy_timeout: float, refreshes: bool = False, now: Callable[[], int] = time.time_ns
    ) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._refreshes = refreshes
        self._now = now
        self._thread = WorkThread("eventrec-sqlite-migrations")
        self._connection: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"<SqliteMigrations {str(self._path)!r}>"

    def declared(self, catalogue: Declarations) -> Sequence[Declaration]:
        return ddl.declared(catalogue, refreshes=self._refreshes)

    def steps(self, declaration: Declaration, before: str | None) -> Steps:
        return ddl.steps(declaration, before)

    # -- the database

    async def open(self) -> None:
        """Nothing: it is connected to when it is needed."""

    async def close(self) -> None:
        def disconnect() -> None:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

        if self._connection is not None:
            with anyio.CancelScope(shield=True):
                await self._run(disconnect)
        self._thread.end()

    @asynccontextmanager
    async def lock(self, on_wait: Callable[[], object]) -> AsyncIterator[None]:
        held = await acquired(lambda: self._run(lambda: _locked(self._path)), on_wait)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._run(lambda: _unlock(*held))

    async def records(self) -> Sequence[MigrationRecord]:
        return await self._run(lambda: self._look(_records, []))

    async def found(self, declarations: Sequence[Declaration]) -> Mapping[str, Sequence[str]]:
        def find(connection: sqlite3.Connection) -> dict[str, list[str]]:
            found = {each.key: ddl.differences(connection, each) for each in declarations}
            return {key: differs for key, differs in found.items() if differs is not None}

        return await self._run(lambda: self._look(find, {}))

    async def earlier(self) -> EarlierMigrations | None:
        return await self._run(lambda: self._look(_earlier, None))

    async def prepare(self) -> None:
        def make() -> None:
            connection = self._connected()
            with writing(connection, self._busy_timeout):
                _check_records(read_table(connection, RECORDS))
                connection.execute(_RECORDS_TABLE)

        await self._run(make)

    async def begin(self, migration: Migration, adopted: Sequence[str]) -> None:
        def store() -> None:
            connection = self._connected()
            with writing(connection, self._busy_timeout):
                for key, content in migration.declares:
                    if key in adopted:
                        prepare_adopted(connection, key, content)
                connection.execute(
                    f"INSERT INTO {RECORDS} (version, name, phase, checksum, text, done, adopted, started_at)"  # noqa: S608 - a constant
                    " VALUES (?, ?, ?, ?, ?, 0, ?, ?) ON CONFLICT (version) DO UPDATE SET name = excluded.name,"
                    " checksum = excluded.checksum, text = excluded.text",
                    (
                        migration.version,
                        migration.name,
                        migration.phase.value,
                        migration.checksum,
                        migration.text,
                        json.dumps(list(adopted)),
                        self._now(),
                    ),
                )

        await self._run(store)

    async def apply(self, migration: Migration, number: int) -> None:
        ended = self._now() if number + 1 == len(migration.up) else None
        note = (
            f"UPDATE {RECORDS} SET done = ?, applied_at = ? WHERE version = ? AND done = ?",  # noqa: S608 - a constant
            (number + 1, ended, migration.version, number),
        )
        await self._run(lambda: self._step(migration.up[number], note, migration))

    async def undo(self, migration: Migration, number: int) -> None:
        down = migration.down or ()
        note: tuple[str, tuple[object, ...]]
        if number + 1 >= len(down):
            note = (
                f"DELETE FROM {RECORDS} WHERE version = ? AND undone = ?",  # noqa: S608 - a constant
                (migration.version, number),
            )
        else:
            note = (
                f"UPDATE {RECORDS} SET undone = ? WHERE version = ? AND undone = ?",  # noqa: S608 - a constant
                (number + 1, migration.version, number),
            )
        await self._run(lambda: self._step(down[number] if down else None, note, migration, is_undoing=True))

    # -- from here on everything runs in the thread, one job at a time

    async def _run(self, job: Callable[[], T]) -> T:
        def guarded() -> T:
            with errors_translated(self._path):
                return job()

        return await self._thread.run(guarded)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self._path, self._busy_timeout)
        return self._connection

    def _look(self, job: Callable[[sqlite3.Connection], T], nothing: T) -> T:
        """What `job` reads; `nothing` where there is no file. Makes no file, also not beside it."""
        if self._connection is not None:
            return job(self._connection)
        check_kind(self._path)
        if not self._path.exists() or not self._path.stat().st_size:
            return nothing
        if is_at_rest(self._path):
            with closing(self._reading("mode=ro&immutable=1")) as connection:
                found = job(connection)
            if is_at_rest(self._path):
                return found
        with closing(self._reading("mode=ro")) as connection:
            return job(connection)

    def _reading(self, parameters: str) -> sqlite3.Connection:
        return connect_by_uri(self._path, parameters, self._busy_timeout, check_same_thread=False)

    def _step(
        self,
        statement: Statement | None,
        note: tuple[str, tuple[object, ...]],
        migration: Migration,
        *,
        is_undoing: bool = False,
    ) -> None:
        connection = self._connected()
        if statement is not None and not statement.in_transaction:
            self._execute(connection, statement)
            statement = None
        with writing(connection, self._busy_timeout):
            if statement is not None:
                self._execute(connection, statement)
                if not connection.in_transaction:
                    raise MigrationError("it ends the transaction that it runs in: mark it as outside a transaction")
            if connection.execute(*note).rowcount != 1:
                raise MigrationError(f"another process has changed what is noted of migration {migration.version}")
            if is_undoing:
                drop_idle_triggers(connection)

    @staticmethod
    def _execute(connection: sqlite3.Connection, statement: Statement) -> None:
        try:
            connection.execute(statement.sql)
        except sqlite3.OperationalError as exc:
            # ADD COLUMN knows no IF NOT EXISTS; a handler may have added it as the first such event came.
            if not str(exc).startswith("duplicate column name"):
                raise _refused(exc) from exc
        except (sqlite3.Error, sqlite3.Warning) as exc:
            raise _refused(exc) from exc


def _refused(exc: Exception) -> Exception:
    code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    is_about_statement = code in {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH}
    return MigrationError(" ".join(str(exc).split())) if is_about_statement else exc


def _check_records(table: Table) -> None:
    """Raise PauseError where something else has the name of our table of records."""
    if table.kind is not None and (table.kind != "table" or not {*_COLUMNS, "applied_at"} <= set(table.columns or ())):
        raise PauseError(f"{RECORDS} is a {table.kind} of another program: rename it, or give another file")


def _records(connection: sqlite3.Connection) -> list[MigrationRecord]:
    table = read_table(connection, RECORDS)
    if table.kind is None:
        return []
    _check_records(table)
    select = f"SELECT {', '.join(_COLUMNS)}, applied_at FROM {RECORDS} ORDER BY version"  # noqa: S608 - constants
    rows = connection.execute(select).fetchall()
    return [MigrationRecord.of(dict(zip(_COLUMNS, row, strict=False)), is_applied=row[-1] is not None) for row in rows]


def _earlier(connection: sqlite3.Connection) -> EarlierMigrations | None:
    table = read_table(connection, EarlierMigrations.TABLE)
    if table.kind is None:
        return None
    if table.kind != "table" or (table.columns or {}).keys() != EarlierMigrations.COLUMNS:
        return EarlierMigrations(None)
    select = f"SELECT version, name FROM {EarlierMigrations.TABLE} ORDER BY version"  # noqa: S608 - a constant
    rows = connection.execute(select).fetchall()
    is_known = all(isinstance(version, int) and isinstance(name, str) for version, name in rows)
    return EarlierMigrations(tuple(rows) if is_known else None)


def _unlock(descriptor: int, path: Path) -> None:
    with suppress(OSError):
        path.unlink()  # while it is held: who waits for it looks whether it is still there
    os.close(descriptor)


def _locked(path: Path) -> tuple[int, Path] | None:
    """The lock of the file beside `path`; None: another process has it.

    Raises:
        PauseError: It cannot be made.
    """
    beside = path.with_name(f"{path.name}-migrate")
    while True:
        try:
            descriptor = open_descriptor(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as exc:
            raise PauseError(f"{beside}: {exc.strerror}") from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                # The one who had it may have deleted the file after we opened it.
                if os.path.samestat(beside.stat(), os.fstat(descriptor)):
                    return descriptor, beside
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
