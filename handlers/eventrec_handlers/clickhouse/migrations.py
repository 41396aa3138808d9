"""Migrates a ClickHouse: each statement, then the note that it ran. There are no transactions.

    eventrec_migrations   version, name, phase, checksum, text, done, undone, adopted, state, noted_at

A note is a row that is added; the newest of a version holds. Killed between a statement and its note, the next run runs
the statement again: what we make may be, and what stands in a file by hand must be such that it does no harm.

One process at a time migrates, by a lease (`lease.py`).
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import anyio

from eventrec import PauseError
from eventrec.analytics import MigrationError, MigrationRecord, MigrationTarget
from eventrec_handlers._sql.locks import acquired
from eventrec_handlers.clickhouse.calls import Calls
from eventrec_handlers.clickhouse.errors import Failure
from eventrec_handlers.clickhouse.lease import LEASE, OWNER, Lease
from eventrec_handlers.clickhouse.migration_ddl import MigrationDdl, differences
from eventrec_handlers.clickhouse.node import Node
from eventrec_handlers.clickhouse.sql import literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence

    from eventrec.analytics import Declaration, Declarations, Migration, Statement, Steps
    from eventrec_handlers.clickhouse.ddl import Ddl
    from eventrec_handlers.clickhouse.options import Options
    from eventrec_handlers.clickhouse.target import Target

T = TypeVar("T")

RECORDS: Final = "eventrec_migrations"

_COLUMNS: Final = ("version", "name", "phase", "checksum", "text", "done", "undone", "adopted")
_RECORDS_TABLE: Final = (
    f"CREATE TABLE IF NOT EXISTS {RECORDS} (version UInt32, name String, phase String, checksum String, text String,"
    " done UInt32, undone UInt32, adopted String, state Enum8('begun' = 0, 'applied' = 1, 'gone' = 2),"
    " noted_at DateTime64(9, 'UTC') DEFAULT now64(9)) ENGINE = MergeTree ORDER BY (version, noted_at)"
)


class ClickHouseMigrations(MigrationTarget):
    """Migrates the database `target`, which is on one node."""

    dialect: ClassVar[str] = "clickhouse"

    def __init__(self, target: Target, options: Options, ddl: Ddl) -> None:
        self._target = target
        self._ddl = MigrationDdl(ddl)
        self._node = Node(target, target.addresses[0], options)
        self._calls = Calls()
        self._lease = Lease()
        self._renewing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<ClickHouseMigrations '{self._target}'>"

    def declared(self, catalogue: Declarations) -> Sequence[Declaration]:
        return self._ddl.declared(catalogue)

    def steps(self, declaration: Declaration, before: str | None) -> Steps:
        return self._ddl.steps(declaration, before)

    # -- the database

    async def open(self) -> None:
        if len(self._target.addresses) > 1:
            raise PauseError(f"{self._target}: one node is migrated at a time: name one host in the URL")
        self._calls.start()
        try:
            await self._run(self._node.connect)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        with anyio.CancelScope(shield=True):
            if self._calls.can_run:
                await self._calls.run(self._node.close)
            await self._calls.stop()
        self._lease.close()

    @asynccontextmanager
    async def lock(self, on_wait: Callable[[], object]) -> AsyncIterator[None]:
        await acquired(lambda: self._run(lambda: self._lease.acquire(self._node)), on_wait)
        try:
            await self._run(self._start_renewing)
            yield
        finally:
            with anyio.CancelScope(shield=True), suppress(Exception):  # else it ends by itself
                await self._run(self._release)

    async def records(self) -> Sequence[MigrationRecord]:
        return await self._run(self._records)

    async def found(self, declarations: Sequence[Declaration]) -> Mapping[str, Sequence[str]]:
        async def find() -> dict[str, Sequence[str]]:
            names = {each.key: each.key.partition(" ")[2] for each in declarations}
            listed = ", ".join(map(literal, names.values())) or "''"
            where = f"WHERE database = currentDatabase() AND {{}} IN ({listed})"
            engines = dict(await self._node.query(f"SELECT name, engine FROM system.tables {where.format('name')}"))  # noqa: S608 - literals
            columns: dict[str, dict[str, str]] = {}
            for table, name, declared in await self._node.query(
                f"SELECT table, name, type FROM system.columns {where.format('table')}"  # noqa: S608 - literals
            ):
                columns.setdefault(table, {})[name] = declared
            compared = {
                each.key: differences(each, engines.get(names[each.key]), columns.get(names[each.key], {}))
                for each in declarations
            }
            return {key: differs for key, differs in compared.items() if differs is not None}

        return await self._run(find)

    async def prepare(self) -> None:
        async def make() -> None:
            await self._check_records()
            await self._node.run(_RECORDS_TABLE)

        await self._run(make)

    async def begin(self, migration: Migration, adopted: Sequence[str]) -> None:
        async def store() -> None:
            known = await self._noted(migration.version)
            done, undone = (known[5], known[6]) if known is not None else (0, 0)
            kept = json.dumps(list(adopted)) if known is None else known[7]
            await self._note(migration, done=done, undone=undone, adopted=kept, state="begun")

        await self._run(store)

    async def apply(self, migration: Migration, number: int) -> None:
        async def step() -> None:
            known = await self._expected(migration, done=number)
            await self._execute(migration.up[number])
            is_last = number + 1 == len(migration.up)
            state = "applied" if is_last else "begun"
            await self._note(migration, done=number + 1, undone=known[6], adopted=known[7], state=state)

        await self._run(step)

    async def undo(self, migration: Migration, number: int) -> None:
        async def step() -> None:
            known = await self._expected(migration, undone=number)
            down = migration.down or ()
            if down:
                await self._execute(down[number])
            state = "gone" if number + 1 >= len(down) else str(known[8])
            await self._note(migration, done=known[5], undone=number + 1, adopted=known[7], state=state)

        await self._run(step)

    # -- from here on everything runs on asyncio

    async def _run(self, job: Callable[[], Coroutine[object, object, T]]) -> T:
        async def refusing() -> T:
            try:
                return await job()
            except Failure as exc:
                if exc.kind in {"down", "transient"} or exc.code is None:
                    raise
                raise MigrationError(str(exc)) from exc

        return await self._calls.run(refusing)

    async def _start_renewing(self) -> None:
        # A context of its own: in the caller's, trio's say, anyio takes the loop for trio's.
        self._renewing = asyncio.create_task(self._renew(), name="eventrec-clickhouse-lease", context=Context())

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE / 5)
            with suppress(Failure):  # the next statement will tell
                await self._lease.renew(self._node)

    async def _release(self) -> None:
        renewing, self._renewing = self._renewing, None
        if renewing is not None:
            renewing.cancel()
            await asyncio.wait([renewing])
        await self._lease.release(self._node)

    async def _execute(self, statement: Statement) -> None:
        await self._node.run(statement.sql)

    async def _expected(
        self, migration: Migration, *, done: int | None = None, undone: int | None = None
    ) -> Sequence[Any]:
        """What is noted of `migration`, while the lock is ours.

        Raises:
            MigrationError: It is not this, or the lock is not ours any more.
        """
        known = await self._noted(migration.version)
        if known is not None and known[9] != self._lease.owner:
            raise MigrationError("another process has taken over: this one was silent for too long")
        if known is None or done not in {None, known[5]} or undone not in {None, known[6]}:
            raise MigrationError(f"another process has changed what is noted of migration {migration.version}")
        return known

    async def _noted(self, version: int) -> Sequence[Any] | None:
        return next((row for row in await self._rows() if row[0] == version), None)

    async def _note(self, migration: Migration, *, done: int, undone: int, adopted: str, state: str) -> None:
        texts = (migration.name, migration.phase.value, migration.checksum, migration.text)
        values = f"{migration.version:d}, {', '.join(map(literal, texts))}, {done:d}, {undone:d}, {literal(adopted)}"
        columns = f"{', '.join(_COLUMNS)}, state"
        await self._node.run(f"INSERT INTO {RECORDS} ({columns}) VALUES ({values}, {literal(state)})")  # noqa: S608 - literals

    async def _check_records(self) -> bool:
        """Whether there is a table of records.

        Raises:
            PauseError: Something else has its name.
        """
        there = await self._node.query(
            f"SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '{RECORDS}'"  # noqa: S608 - a constant
        )
        names = {name for (name,) in there}
        if names and not {*_COLUMNS, "state", "noted_at"} <= names:
            raise PauseError(f"{RECORDS} is another program's: rename it")
        return bool(names)

    async def _rows(self) -> list[list[Any]]:
        """The newest note of each version that is not gone, by version; last in a row, who has the lock."""
        newest = ", ".join(f"argMax({name}, noted_at)" for name in (*_COLUMNS[1:], "toString(state)"))
        newest = f"{newest}, ({OWNER})"
        rows = await self._node.query(f"SELECT version, {newest} FROM {RECORDS} GROUP BY version ORDER BY version")  # noqa: S608 - constants
        return [row for row in rows if row[8] != "gone"]

    async def _records(self) -> list[MigrationRecord]:
        if not await self._check_records():
            return []
        return [
            MigrationRecord.of(dict(zip(_COLUMNS, row, strict=False)), is_applied=row[8] == "applied")
            for row in await self._rows()
        ]
