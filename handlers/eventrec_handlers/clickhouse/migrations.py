"""Migrates a ClickHouse: each statement, then the note that it ran. There are no transactions.

    eventrec_migrations   version, name, phase, checksum, text, done, undone, adopted, state, noted_at,
                          sent: the number, from 1 on, of a statement that was sent and may have run; below 0, of the
                          rollback; 0: none

A note is a row that is added; the newest of a version holds. Killed between a statement and its note, the next run runs
the statement again where that does no harm, as with all that we make (`repeatable.py`). Any other one is noted before
it is sent, too: killed behind that, the next run does not know whether it ran, names it, and asks an operator.

One process at a time migrates, by a lease (`lease.py`).
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeVar

import anyio

from eventrec import PauseError
from eventrec.analytics import MigrationError, MigrationRecord, MigrationTarget
from eventrec_handlers._sql.locks import acquired
from eventrec_handlers.clickhouse.calls import Calls
from eventrec_handlers.clickhouse.errors import Failure
from eventrec_handlers.clickhouse.lease import LEASE, OWNER, Lease
from eventrec_handlers.clickhouse.migration_ddl import MigrationDdl, differences
from eventrec_handlers.clickhouse.node import Node
from eventrec_handlers.clickhouse.repeatable import is_repeatable
from eventrec_handlers.clickhouse.sql import literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence

    from eventrec.analytics import Declaration, Declarations, Migration, Statement, Steps
    from eventrec_handlers.clickhouse.ddl import Ddl
    from eventrec_handlers.clickhouse.options import Options
    from eventrec_handlers.clickhouse.target import Target

T = TypeVar("T")

RECORDS: Final = "eventrec_migrations"

_SHOWN: Final = 200
"""Characters of a statement that a message quotes."""

_COLUMNS: Final = ("version", "name", "phase", "checksum", "text", "done", "undone", "adopted")
_RECORDS_TABLE: Final = (
    f"CREATE TABLE IF NOT EXISTS {RECORDS} (version UInt32, name String, phase String, checksum String, text String,"
    " done UInt32, undone UInt32, adopted String, state Enum8('begun' = 0, 'applied' = 1, 'gone' = 2),"
    " noted_at DateTime64(9, 'UTC') DEFAULT now64(9), sent Int32 DEFAULT 0)"
    " ENGINE = MergeTree ORDER BY (version, noted_at)"
)
_ADD_SENT: Final = f"ALTER TABLE {RECORDS} ADD COLUMN IF NOT EXISTS sent Int32 DEFAULT 0"
"""What a table of an earlier eventrec lacks."""


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
        self._has_sent = False
        """Whether the table of records is known to have that column."""

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
            names = await self._check_records()
            await self._node.run(_RECORDS_TABLE)
            if names and "sent" not in names:
                await self._node.run(_ADD_SENT)

        await self._run(make)

    async def unsure(self) -> str | None:
        async def look() -> str | None:
            for row in await self._rows() if await self._check_records() else ():
                if row[9]:
                    migration = _record_of(row).migration
                    statement = (migration.up[row[9] - 1] if row[9] > 0 else (migration.down or ())[-row[9] - 1]).sql
                    what = f"statement {row[9]}" if row[9] > 0 else f"statement {-row[9]} of its rollback"
                    shown = " ".join(statement.split())[:_SHOWN]
                    return f"migration {migration}: {what} was sent, and it is not known whether it ran: {shown}"
            return None

        return await self._run(look)

    async def settle_unsure(self, how: Literal["ran", "again"]) -> None:
        async def settle() -> None:
            for row in await self._rows() if await self._check_records() else ():
                if not row[9]:
                    continue
                migration, (done, undone) = _record_of(row).migration, (row[5], row[6])
                state = str(row[8])
                if how == "ran" and row[9] > 0:
                    done += 1
                    state = "applied" if done == len(migration.up) else "begun"
                elif how == "ran":
                    undone += 1
                    state = "gone" if undone >= len(migration.down or ()) else state
                await self._note(migration, done=done, undone=undone, adopted=row[7], state=state)

        await self._run(settle)

    async def begin(self, migration: Migration, adopted: Sequence[str]) -> None:
        async def store() -> None:
            known = await self._noted(migration.version)
            done, undone, sent = (known[5], known[6], known[9]) if known is not None else (0, 0, 0)
            kept = json.dumps(list(adopted)) if known is None else known[7]
            await self._note(migration, done=done, undone=undone, adopted=kept, state="begun", sent=sent)

        await self._run(store)

    async def apply(self, migration: Migration, number: int) -> None:
        async def step() -> None:
            known = await self._expected(migration, done=number)
            await self._send(migration, migration.up[number], known, sent=number + 1)
            is_last = number + 1 == len(migration.up)
            state = "applied" if is_last else "begun"
            await self._note(migration, done=number + 1, undone=known[6], adopted=known[7], state=state)

        await self._run(step)

    async def undo(self, migration: Migration, number: int) -> None:
        async def step() -> None:
            known = await self._expected(migration, undone=number)
            down = migration.down or ()
            if down:
                await self._send(migration, down[number], known, sent=-number - 1)
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

    async def _send(self, migration: Migration, statement: Statement, known: Sequence[Any], *, sent: int) -> None:
        """Run `statement`; where it must not run twice, that it is sent is noted first, and taken back if refused.

        Raises:
            MigrationError: It was sent before, and it is not known whether it ran.
        """
        if known[9]:
            raise MigrationError(
                "it was sent before, and it is not known whether it ran: look whether it did, then say"
                " `--unsure ran`, or `--unsure again` to have it run"
            )
        if is_repeatable(statement.sql):
            await self._execute(statement)
            return
        held: dict[str, Any] = {"done": known[5], "undone": known[6], "adopted": known[7], "state": str(known[8])}
        await self._note(migration, **held, sent=sent)
        try:
            await self._execute(statement)
        except Failure as exc:
            if exc.code is not None and not exc.is_uncertain:
                await self._note(migration, **held)  # refused: it did nothing
            raise

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
        if known is not None and known[10] != self._lease.owner:
            raise MigrationError("another process has taken over: this one was silent for too long")
        if known is None or done not in {None, known[5]} or undone not in {None, known[6]}:
            raise MigrationError(f"another process has changed what is noted of migration {migration.version}")
        return known

    async def _noted(self, version: int) -> Sequence[Any] | None:
        return next((row for row in await self._rows() if row[0] == version), None)

    async def _note(
        self, migration: Migration, *, done: int, undone: int, adopted: str, state: str, sent: int = 0
    ) -> None:
        texts = (migration.name, migration.phase.value, migration.checksum, migration.text)
        values = f"{migration.version:d}, {', '.join(map(literal, texts))}, {done:d}, {undone:d}, {literal(adopted)}"
        columns = f"{', '.join(_COLUMNS)}, state, sent"
        await self._node.run(f"INSERT INTO {RECORDS} ({columns}) VALUES ({values}, {literal(state)}, {sent:d})")  # noqa: S608 - literals

    async def _check_records(self) -> set[str]:
        """The columns of the table of records; none: there is no such table.

        Raises:
            PauseError: Something else has its name.
        """
        there = await self._node.query(
            f"SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '{RECORDS}'"  # noqa: S608 - a constant
        )
        names = {str(name) for (name,) in there}
        if names and not {*_COLUMNS, "state", "noted_at"} <= names:
            raise PauseError(f"{RECORDS} is another program's: rename it")
        return names

    async def _rows(self) -> list[list[Any]]:
        """The newest note of each version that is not gone, by version; last in a row, who has the lock."""
        self._has_sent = self._has_sent or "sent" in await self._check_records()
        sent = "sent" if self._has_sent else "toInt32(0)"
        newest = ", ".join(f"argMax({name}, noted_at)" for name in (*_COLUMNS[1:], "toString(state)", sent))
        newest = f"{newest}, ({OWNER})"
        rows = await self._node.query(f"SELECT version, {newest} FROM {RECORDS} GROUP BY version ORDER BY version")  # noqa: S608 - constants
        return [row for row in rows if row[8] != "gone"]

    async def _records(self) -> list[MigrationRecord]:
        if not await self._check_records():
            return []
        return [_record_of(row) for row in await self._rows()]


def _record_of(row: Sequence[Any]) -> MigrationRecord:
    return MigrationRecord.of(dict(zip(_COLUMNS, row, strict=False)), is_applied=row[8] == "applied")
