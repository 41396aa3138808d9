"""Migrates a ClickHouse: each statement, then the note that it ran (`migration_notes.py`). There are no transactions.

Killed between a statement and its note, the next run runs
the statement again where that does no harm, as with all that we make (`repeatable.py`). Any other one is noted before
it is sent, too: killed behind that, the next run does not know whether it ran, names it, and asks an operator.

One process at a time migrates, by a lease (`lease.py`).
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeVar

import anyio

from eventrec import PauseError
from eventrec.analytics import MigrationError, MigrationTarget
from eventrec_handlers._sql.locks import acquired
from eventrec_handlers.clickhouse.calls import Calls
from eventrec_handlers.clickhouse.errors import Failure
from eventrec_handlers.clickhouse.lease import LEASE, Lease
from eventrec_handlers.clickhouse.migration_ddl import MigrationDdl, differences
from eventrec_handlers.clickhouse.migration_notes import MigrationNotes
from eventrec_handlers.clickhouse.node import Node
from eventrec_handlers.clickhouse.repeatable import is_repeatable
from eventrec_handlers.clickhouse.sql import literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence

    from eventrec.analytics import Declaration, Declarations, Migration, MigrationRecord, Statement, Steps
    from eventrec_handlers.clickhouse.ddl import Ddl
    from eventrec_handlers.clickhouse.migration_notes import Note
    from eventrec_handlers.clickhouse.options import Options
    from eventrec_handlers.clickhouse.target import Target

T = TypeVar("T")

_SHOWN: Final = 200
"""Characters of a statement that a message quotes."""


class ClickHouseMigrations(MigrationTarget):
    """Migrates the database `target`, which is on one node."""

    dialect: ClassVar[str] = "clickhouse"

    def __init__(self, target: Target, options: Options, ddl: Ddl) -> None:
        self._target = target
        self._ddl = MigrationDdl(ddl)
        self._node = Node(target, target.addresses[0], options)
        self._notes = MigrationNotes(self._node)
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
        async def read() -> list[MigrationRecord]:
            return [note.record for note in await self._notes.newest()]

        return await self._run(read)

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
        await self._run(self._notes.prepare)

    async def unsure(self) -> str | None:
        async def look() -> str | None:
            for note in await self._notes.newest():
                if note.sent:
                    migration, number = note.record.migration, abs(note.sent)
                    statement = (migration.up if note.sent > 0 else migration.down or ())[number - 1].sql
                    what = f"statement {number}" if note.sent > 0 else f"statement {number} of its rollback"
                    shown = " ".join(statement.split())[:_SHOWN]
                    return f"migration {migration}: {what} was sent, and it is not known whether it ran: {shown}"
            return None

        return await self._run(look)

    async def settle_unsure(self, how: Literal["ran", "again"]) -> None:
        async def settle() -> None:
            for note in await self._notes.newest():
                if not note.sent:
                    continue
                migration, done, undone, state = note.record.migration, note.done, note.undone, note.state
                if how == "ran" and note.sent > 0:
                    done += 1
                    state = "applied" if done == len(migration.up) else "begun"
                elif how == "ran":
                    undone += 1
                    state = "gone" if undone >= len(migration.down or ()) else state
                await self._notes.add(migration, done=done, undone=undone, adopted=note.adopted, state=state)

        await self._run(settle)

    async def begin(self, migration: Migration, adopted: Sequence[str]) -> None:
        async def store() -> None:
            known = await self._notes.of(migration.version)
            done, undone, sent = (known.done, known.undone, known.sent) if known is not None else (0, 0, 0)
            kept = json.dumps(list(adopted)) if known is None else known.adopted
            await self._notes.add(migration, done=done, undone=undone, adopted=kept, state="begun", sent=sent)

        await self._run(store)

    async def apply(self, migration: Migration, number: int) -> None:
        async def step() -> None:
            known = await self._expected(migration, done=number)
            await self._send(migration, migration.up[number], known, sent=number + 1)
            is_last = number + 1 == len(migration.up)
            state = "applied" if is_last else "begun"
            await self._notes.add(migration, done=number + 1, undone=known.undone, adopted=known.adopted, state=state)

        await self._run(step)

    async def undo(self, migration: Migration, number: int) -> None:
        async def step() -> None:
            known = await self._expected(migration, undone=number)
            down = migration.down or ()
            if down:
                await self._send(migration, down[number], known, sent=-number - 1)
            state = "gone" if number + 1 >= len(down) else known.state
            await self._notes.add(migration, done=known.done, undone=number + 1, adopted=known.adopted, state=state)

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

    async def _send(self, migration: Migration, statement: Statement, known: Note, *, sent: int) -> None:
        """Run `statement`; where it must not run twice, that it is sent is noted first, and taken back if refused.

        Raises:
            MigrationError: It was sent before, and it is not known whether it ran.
        """
        if known.sent:
            raise MigrationError(
                "it was sent before, and it is not known whether it ran: look whether it did, then say"
                " `--unsure ran`, or `--unsure again` to have it run"
            )
        if is_repeatable(statement.sql):
            await self._execute(statement)
            return
        held = partial(
            self._notes.add, migration, done=known.done, undone=known.undone, adopted=known.adopted, state=known.state
        )
        await held(sent=sent)
        try:
            await self._execute(statement)
        except Failure as exc:
            if exc.code is not None and not exc.is_uncertain:
                await held()  # refused: it did nothing
            raise

    async def _execute(self, statement: Statement) -> None:
        await self._node.run(statement.sql)

    async def _expected(self, migration: Migration, *, done: int | None = None, undone: int | None = None) -> Note:
        """What is noted of `migration`, while the lock is ours.

        Raises:
            MigrationError: It is not this, or the lock is not ours any more.
        """
        known = await self._notes.of(migration.version)
        if known is not None and known.owner != self._lease.owner:
            raise MigrationError("another process has taken over: this one was silent for too long")
        if known is None or done not in {None, known.done} or undone not in {None, known.undone}:
            raise MigrationError(f"another process has changed what is noted of migration {migration.version}")
        return known
