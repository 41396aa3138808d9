"""Migrates a PostgreSQL database: each statement in a transaction with the note that it ran, where it may be in one.

    eventrec_migrations   version, name, phase, checksum, text, done, undone, adopted, started_at, applied_at

One connection does it all, and holds the lock: an advisory one of the session, so it ends with the session. So the
session has to be one's own: a pooler that gives each transaction another one is refused, before anything is set or
locked in what is its other clients' too.

Who waits for the lock asks again and again: a statement that waits would hold up `CREATE INDEX CONCURRENTLY`, which
waits for all statements that are under way, and so for the one that waits for it.
"""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

import anyio
import asyncpg

from eventrec import PauseError
from eventrec.analytics import MigrationError, MigrationRecord, MigrationTarget, Statement
from eventrec_handlers._sql import quoted
from eventrec_handlers._sql.locks import acquired
from eventrec_handlers.postgres.calls import Calls
from eventrec_handlers.postgres.catalog import read_tables
from eventrec_handlers.postgres.checkpoints import Namespace
from eventrec_handlers.postgres.concurrent_indexes import (
    ConcurrentIndex,
    drop_invalid_index,
    has_partitions,
    index_partitions,
    shape_to_make,
)
from eventrec_handlers.postgres.ddl import PostgresDdl, differences
from eventrec_handlers.postgres.errors import brief, consume_errors, raise_refused_connection, without_frames
from eventrec_handlers.postgres.migration_checks import (
    read_earlier,
    refuse_hypertables,
    refuse_other_rollups,
    refuse_statement,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence

    from eventrec.analytics import Declaration, Declarations, EarlierMigrations, Migration, Steps
    from eventrec_handlers.postgres.options import Options
    from eventrec_handlers.postgres.target import Target

T = TypeVar("T")

RECORDS: Final = "eventrec_migrations"

LOCK_MOMENT: Final = 1_000
"""Milliseconds that those who use a table may have to wait behind a statement that waits for it."""

LOCK_PAUSE: Final = 0.5
"""Seconds between two such moments."""

CONCURRENT_LOCK_TIMEOUT: Final = 3_600_000
"""Milliseconds that a statement outside a transaction waits for others: no reader and no writer waits behind it."""

_BACKEND: Final = "SELECT pg_backend_pid()"
_COLUMNS: Final = ("version", "name", "phase", "checksum", "text", "done", "undone", "adopted")
_RECORDS_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS {} (version bigint PRIMARY KEY, name text NOT NULL, phase text NOT NULL,"
    " checksum text NOT NULL, text text NOT NULL, done integer NOT NULL, undone integer NOT NULL DEFAULT 0,"
    " adopted text NOT NULL, started_at timestamptz NOT NULL DEFAULT now(), applied_at timestamptz)"
)


class PostgresMigrations(MigrationTarget):
    """Migrates the database `target`. Of the `options`, namespace, connect_timeout and lock_timeout count."""

    dialect: ClassVar[str] = "postgresql"
    _ddl: ClassVar[PostgresDdl] = PostgresDdl()

    def __init__(self, target: Target, options: Options) -> None:
        self._target = target
        self._options = options
        self._calls = Calls(str(target), timeout=math.inf)
        self._connection: asyncpg.Connection | None = None
        self._namespace: Namespace | None = None
        self._path = ""

    def __repr__(self) -> str:
        return f"<PostgresMigrations '{self._target}'>"

    # -- what is to be there

    def declared(self, catalogue: Declarations) -> Sequence[Declaration]:
        return self._ddl.declared(catalogue)

    def steps(self, declaration: Declaration, before: str | None) -> Steps:
        return self._ddl.steps(declaration, before)

    # -- the database

    async def open(self) -> None:
        self._calls.start()
        try:
            await self._calls.run(self._connect)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        with anyio.CancelScope(shield=True):
            if self._connection is not None:
                await self._calls.run(self._disconnect)
            await self._calls.stop()

    @asynccontextmanager
    async def lock(self, on_wait: Callable[[], object]) -> AsyncIterator[None]:
        await acquired(lambda: self._run(self._try_lock), on_wait)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True), suppress(Exception):  # else the end of the session lets go of it
                await self._run(self._unlock)

    async def records(self) -> Sequence[MigrationRecord]:
        return await self._run(self._records)

    async def found(self, declarations: Sequence[Declaration]) -> Mapping[str, Sequence[str]]:
        async def find() -> dict[str, list[str]]:
            connection, namespace = self._open()
            names = {each.key: each.key.partition(" ")[2] for each in declarations}
            async with connection.transaction(isolation="read_committed", readonly=True):
                await self._check_tables(connection, namespace, list(names.values()))
                tables = await read_tables(connection, namespace, list(names.values()))
            found = {each.key: differences(tables[names[each.key]], each) for each in declarations}
            return {key: differs for key, differs in found.items() if differs is not None}

        return await self._run(find)

    async def earlier(self) -> EarlierMigrations | None:
        async def find() -> EarlierMigrations | None:
            return await read_earlier(*self._open())

        return await self._run(find)

    async def prepare(self) -> None:
        async def make() -> None:
            connection, namespace = self._open()
            async with self._changing(LOCK_MOMENT):
                exists = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname::text = $1)"
                if not await connection.fetchval(exists, namespace.namespace):
                    await connection.execute(f"CREATE SCHEMA {quoted(namespace.namespace)}")
                there = (await read_tables(connection, namespace, [RECORDS]))[RECORDS]
                if there.kind is None:  # else it would need the right to make tables, for nothing
                    await connection.execute(_RECORDS_TABLE.format(namespace.named(RECORDS)))
                    there = (await read_tables(connection, namespace, [RECORDS]))[RECORDS]
                if there.kind != "table" or not {*_COLUMNS, "applied_at"} <= there.columns.keys():
                    raise PauseError(f"{namespace.named(RECORDS)} is another program's: rename it")

        await self._run(make)

    async def begin(self, migration: Migration, adopted: Sequence[str]) -> None:
        async def store() -> None:
            connection, namespace = self._open()
            await refuse_other_rollups(connection, namespace, adopted)
            async with connection.transaction(isolation="read_committed"):
                await connection.execute(
                    f"INSERT INTO {namespace.named(RECORDS)}"  # noqa: S608 - quoted
                    " (version, name, phase, checksum, text, done, adopted) VALUES ($1, $2, $3, $4, $5, 0, $6)"
                    " ON CONFLICT (version) DO UPDATE SET name = excluded.name, checksum = excluded.checksum,"
                    " text = excluded.text",
                    migration.version,
                    migration.name,
                    migration.phase.value,
                    migration.checksum,
                    migration.text,
                    json.dumps(list(adopted)),
                )

        await self._run(store)

    async def apply(self, migration: Migration, number: int) -> None:
        _, namespace = self._open()
        ended = "now()" if number + 1 == len(migration.up) else "NULL"
        note = (
            f"UPDATE {namespace.named(RECORDS)} SET done = {number + 1:d}, applied_at = {ended}"  # noqa: S608 - quoted
            f" WHERE version = {migration.version:d} AND done = {number:d}"
        )
        await self._run(lambda: self._step(migration, migration.up[number], note))

    async def undo(self, migration: Migration, number: int) -> None:
        _, namespace = self._open()
        down = migration.down or ()
        where = f"WHERE version = {migration.version:d} AND undone = {number:d}"
        if number + 1 >= len(down):
            note = f"DELETE FROM {namespace.named(RECORDS)} {where}"  # noqa: S608 - quoted
        else:
            note = f"UPDATE {namespace.named(RECORDS)} SET undone = {number + 1:d} {where}"  # noqa: S608 - quoted
        await self._run(lambda: self._step(migration, down[number] if down else None, note))

    # -- from here on everything runs on asyncio

    async def _run(self, job: Callable[[], Coroutine[object, object, T]]) -> T:
        async def refusing() -> T:
            try:
                return await job()
            except asyncpg.PostgresError as exc:
                raise MigrationError(f"{self._target}: {brief(exc)}") from without_frames(exc)

        return await self._calls.run(refusing)

    def _open(self) -> tuple[asyncpg.Connection, Namespace]:
        if self._connection is None or self._namespace is None:
            raise RuntimeError(f"{self!r} is not open")
        return self._connection, self._namespace

    async def _connect(self) -> None:
        if (attributes := self._target.reads_only) is not None:
            raise PauseError(f"{self._target}: with target_session_attrs={attributes} nothing can be stored")
        try:
            self._connection = connection = await asyncpg.connect(
                **self._target.arguments(), statement_cache_size=0, timeout=self._options.connect_timeout
            )
        except Exception as exc:
            raise_refused_connection(exc, str(self._target))
            if isinstance(exc, OSError):
                self._target.check_files()
            raise
        await self._target.watch(connection)
        await self._refuse_shared_session(connection)
        name, longest = await connection.fetchrow(
            "SELECT coalesce($1::text, current_schema()::text), current_setting('max_identifier_length')::int",
            self._options.namespace,
        )
        if name is None:
            raise PauseError("no schema of the search path exists, and no namespace is given")
        lock_timeout = max(1, round(self._options.lock_timeout * 1_000))
        self._namespace = Namespace(name, longest, lock_timeout)
        path = await connection.fetchval("SELECT current_setting('search_path')")
        self._path = f"{quoted(name)}, {path or 'pg_catalog'}"
        # What is made takes as long as it takes; nothing waits for a lock without a bound. A machine that is gone
        # leaves the lock of its session within two minutes.
        await connection.execute(
            f"SET statement_timeout = 0; SET lock_timeout = {CONCURRENT_LOCK_TIMEOUT};"
            f" SET search_path = {self._path};"
            " SET tcp_keepalives_idle = 60; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 5"
        )

    async def _refuse_shared_session(self, connection: asyncpg.Connection) -> None:
        """Raise PauseError where `connection` leads to a session that others are given between its transactions.

        A pooler in between gives it a process id of its own, in session mode too. There a second connection that is in
        a transaction never has the session of the first one; in transaction mode it has that, or the first one has
        another one than before.
        """
        pid = await _backend_of(connection)
        if pid == connection.get_server_pid():
            return
        other = None
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                other = await asyncpg.connect(**self._target.arguments(), statement_cache_size=0)
                async with other.transaction():
                    is_shared = await other.fetchval(_BACKEND) == pid or await _backend_of(connection) != pid
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return  # There is no second session to be had: the only one is ours.
        finally:
            if other is not None:
                other.terminate()
        if is_shared:
            raise PauseError(
                f"{self._target}: a pooler gives each transaction another session, and migrations need one of their"
                " own: give a URL of the server itself, or of a pool in session mode"
            )

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                with suppress(Exception):
                    await connection.close(timeout=2)
            finally:
                consume_errors(connection)
                with suppress(asyncpg.InterfaceError):
                    connection.terminate()

    async def _try_lock(self) -> bool:
        connection, namespace = self._open()
        return bool(await connection.fetchval(f"SELECT pg_try_advisory_lock({_key(namespace)})"))

    async def _unlock(self) -> None:
        connection, namespace = self._open()
        await connection.execute(f"SELECT pg_advisory_unlock({_key(namespace)})")

    async def _records(self) -> list[MigrationRecord]:
        connection, namespace = self._open()
        async with connection.transaction(isolation="read_committed", readonly=True):
            there = (await read_tables(connection, namespace, [RECORDS]))[RECORDS]
            if there.kind is None:
                return []
            if not {*_COLUMNS, "applied_at"} <= there.columns.keys():
                raise PauseError(f"{namespace.named(RECORDS)} is another program's: rename it")
            rows = await connection.fetch(
                f"SELECT {', '.join(_COLUMNS)}, applied_at IS NOT NULL AS is_applied"  # noqa: S608 - quoted
                f" FROM {namespace.named(RECORDS)} ORDER BY version"
            )
        return [MigrationRecord.of({name: row[name] for name in _COLUMNS}, is_applied=row[-1]) for row in rows]

    async def _step(self, migration: Migration, statement: Statement | None, note: str) -> None:
        connection, _ = self._open()
        if statement is not None:
            refuse_statement(statement.sql)
        if statement is not None and not statement.in_transaction:
            await connection.execute(f"SET search_path = {self._path}")  # a statement before may have set another one
            statement = await self._execute_outside(statement)

        async def execute() -> None:
            await self._execute(statement)
            if await connection.execute(note) not in {"UPDATE 1", "DELETE 1"}:
                raise MigrationError(f"another process has changed what is noted of migration {migration.version}")

        await self._retry_while_locked(execute)

    async def _execute_outside(self, statement: Statement) -> Statement | None:
        """Run what is for no transaction; gives what of it is left for one."""
        connection, namespace = self._open()
        index = ConcurrentIndex.of(statement.sql)
        if index is not None:
            await self._drop_invalid_index(index)
            if await has_partitions(connection, index):
                shape = await self._retry_while_locked(lambda: shape_to_make(connection, index))
                if shape is None:
                    return None
                await index_partitions(connection, namespace, index, shape)
                return Statement(index.on_table)
        await connection.execute(statement.sql)
        return None

    async def _retry_while_locked(self, job: Callable[[], Awaitable[T]]) -> T:
        """What `job` gives, in a transaction of its own that waits for a lock a moment at a time."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._options.lock_timeout
        while True:
            try:
                async with self._changing(LOCK_MOMENT):
                    return await job()
            except asyncpg.LockNotAvailableError as exc:
                if clock() >= deadline:
                    raise MigrationError(f"others use the table all the time: {brief(exc)}") from without_frames(exc)
            await asyncio.sleep(LOCK_PAUSE)

    async def _execute(self, statement: Statement | None) -> None:
        if statement is not None:
            connection, _ = self._open()
            await connection.execute(statement.sql)
            if not connection.is_in_transaction():
                raise MigrationError("it ends the transaction that it runs in: mark it as outside a transaction")

    @asynccontextmanager
    async def _changing(self, moment: int) -> AsyncIterator[None]:
        """A transaction that waits for a lock no longer than `moment`, and in which no handler makes tables here."""
        connection, namespace = self._open()
        await connection.execute(
            f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {min(moment, namespace.lock_timeout)};"
            f" SET LOCAL search_path = {self._path}; SELECT pg_advisory_xact_lock({namespace.key})"
        )
        try:
            yield
            await connection.execute("COMMIT")
        except BaseException:
            with suppress(Exception):
                if connection.is_in_transaction():
                    await connection.execute("ROLLBACK")
            raise

    async def _drop_invalid_index(self, index: ConcurrentIndex) -> None:
        connection, namespace = self._open()
        await drop_invalid_index(connection, namespace.namespace, index.name)

    async def _check_tables(self, connection: asyncpg.Connection, namespace: Namespace, tables: Sequence[str]) -> None:
        """Raise MigrationError where one of `tables` is for another kind of target."""
        await refuse_hypertables(connection, namespace, tables)


async def _backend_of(connection: asyncpg.Connection) -> int:
    """The process of the server that a transaction of `connection` has; in one, since a pooler may stand between."""
    async with connection.transaction():
        return int(await connection.fetchval(_BACKEND))


def _key(namespace: Namespace) -> int:
    """The number of the advisory lock of those who migrate: another one than that under which handlers make tables."""
    name = f"eventrec migrations {namespace.namespace}"
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), signed=True)
