"""The rollups of a PostgreSQL database: answered, refreshed, filled; partitions and retention of their events."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import asyncpg

from eventrec import EventrecError, PauseError, default_layout
from eventrec.analytics import Answer, Refreshed, RollupStore
from eventrec_handlers.postgres.catalog import read_tables
from eventrec_handlers.postgres.checkpoints import Namespace
from eventrec_handlers.postgres.divided import read_divided
from eventrec_handlers.postgres.errors import brief, errors_translated, is_about_table
from eventrec_handlers.postgres.rollups.answering import Answering
from eventrec_handlers.postgres.rollups.fields import Columns
from eventrec_handlers.postgres.rollups.refreshing import MAX_SET, SET, SET_SECONDS, Refreshing, distribute
from eventrec_handlers.postgres.rollups.registry import (
    bring_up_to_date,
    is_there,
    make_whole,
    note_refreshed,
    refuse_other,
    rollups_of_others,
)
from eventrec_handlers.postgres.rollups.retention import raise_floor, remove_old
from eventrec_handlers.postgres.rollups.zones import take_over
from eventrec_handlers.postgres.single_connection import SingleConnection
from eventrec_handlers.postgres.time_partitions import TimePartitions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from eventrec import Layout
    from eventrec.analytics import Progress, Question, RollupPlan
    from eventrec_handlers.postgres.maintained import Maintained
    from eventrec_handlers.postgres.options import Options
    from eventrec_handlers.postgres.target import Target

T = TypeVar("T")

LONGEST: Final = 3_600.0
"""Seconds that one transaction of a refresh may take: a month of many events is one bucket."""


class PostgresRollups(RollupStore):
    """Rollups in tables of their own, refreshed from what has arrived; see `refreshing.py` and `answering.py`.

    `layouts` are those of tables that are not ours; the others are as `default_layout` says. `refresh` makes the
    tables of a rollup that has none yet, unless the option `schema` is "strict". It also makes partitions of layouts
    that have them, and removes events older than a layout's retention once every rollup has counted them.

    Made by `PostgresHandler.rollups` alone: what it takes may change.
    """

    def __init__(self, target: Target, options: Options, *, layouts: Mapping[str, Layout] | None = None) -> None:
        self._target = target
        self._options = options
        self._layouts = dict(layouts or {})
        self._single = SingleConnection(target, options, timeout=LONGEST, on_connect=self._forget_namespace)
        self._namespace: Namespace | None = None

    def __repr__(self) -> str:
        return f"<PostgresRollups '{self._target}' {self._single.state}>"

    async def open(self) -> None:
        await self._single.open()

    async def close(self) -> None:
        await self._single.close()

    async def answer(self, question: Question) -> Answer:
        async def ask(connection: asyncpg.Connection, namespace: Namespace) -> Answer:
            columns = await self._columns(connection, namespace, question.plan)
            if columns is None:
                return Answer.of(question, ())
            return await self._answering(namespace, question.plan, columns).answer(connection, question)

        return await self._run(ask, seconds=self._options.timeout)

    def _answering(self, namespace: Namespace, plan: RollupPlan, columns: Columns) -> Answering:
        return Answering(namespace, plan, columns)

    async def refresh(self, plans: Sequence[RollupPlan], *, now: int | None = None) -> Refreshed:
        moment = time.time_ns() if now is None else now
        at = datetime.fromtimestamp(moment // 1_000_000_000, UTC)
        remarks: list[str] = []
        for layout in self._kept():
            remarks += await self._run(partial(self._maintain, layout, at, is_dropping=False))
        done = Refreshed()
        for table in dict.fromkeys(plan.table for plan in plans):
            mine = [plan for plan in plans if plan.table == table]
            done += await self._refresh_table(table, mine, moment)
        for layout in self._kept():
            remarks += await self._run(partial(self._maintain, layout, at, is_dropping=True))
        return done + Refreshed(remarks=tuple(remarks))

    async def claim_due(self, plans: Sequence[RollupPlan]) -> list[RollupPlan]:
        """Those of `plans` that no process has refreshed within their time: from now on others leave them to this one.

        Also those that are new, or not filled yet.
        """

        async def claim(connection: asyncpg.Connection, namespace: Namespace) -> list[RollupPlan]:
            if not await is_there(connection, namespace):
                return list(plans)
            await self._bring_up_to_date(connection, namespace)
            others = await rollups_of_others(connection, namespace, plans)
            return [plan for plan in plans if plan.name not in others]

        return await self._run(claim)

    async def backfill(self, plan: RollupPlan, *, progress: Progress | None = None) -> Refreshed:
        return await self._take_over(plan) + await self._fill(plan, progress)

    # -- refreshing

    async def _refresh_table(self, table: str, plans: Sequence[RollupPlan], now: int) -> Refreshed:
        done = Refreshed()
        for plan in plans:
            done += await self._take_over(plan) + await self._fill(plan, None)

        async def distributed(connection: asyncpg.Connection, namespace: Namespace) -> None:
            if await is_there(connection, namespace):
                await note_refreshed(connection, namespace, plans)
                await distribute(connection, namespace, table)

        await self._run(distributed)
        for plan in plans:
            done += await self._refresh_one(plan, now)
        return done

    async def _refresh_one(self, plan: RollupPlan, now: int) -> Refreshed:
        done, size, is_more = Refreshed(), SET, True

        async def step(connection: asyncpg.Connection, namespace: Namespace) -> tuple[Refreshed, bool]:
            made = await self._made(connection, namespace, plan)
            if made is None:
                return Refreshed(), False
            one = await made.refresh(connection, now=now, limit=size)
            if one.is_more:
                return Refreshed(one.buckets, 0, one.late), True
            await made.expire(connection, now=now)
            return Refreshed(one.buckets, await made.remaining(connection), one.late), False

        while is_more:
            begun = time.monotonic()
            one, is_more = await self._run(step)
            size = _adapted(size, time.monotonic() - begun)
            done += one
        return done

    async def _take_over(self, plan: RollupPlan) -> Refreshed:
        """Have `plan` counted by the rules of its zone that this machine has, unless others refresh it by theirs."""

        async def taken_over(connection: asyncpg.Connection, namespace: Namespace) -> str | None:
            if await self._made(connection, namespace, plan) is None:
                return None
            return await take_over(connection, namespace, plan)

        remark = await self._run(taken_over)
        return Refreshed(remarks=() if remark is None else (remark,))

    async def _fill(self, plan: RollupPlan, progress: Progress | None) -> Refreshed:
        done, size, is_more = 0, SET, True

        async def step(connection: asyncpg.Connection, namespace: Namespace) -> tuple[int, int, bool]:
            made = await self._made(connection, namespace, plan)
            if made is None:
                return 0, 0, False
            one, buckets, left = await made.fill(connection, limit=size)
            return buckets, left, one.is_more

        while is_more:
            begun = time.monotonic()
            buckets, left, is_more = await self._run(step)
            size = _adapted(size, time.monotonic() - begun)
            done += buckets
            if progress is not None and buckets:
                progress(done, done + left)
        return Refreshed(buckets=done)

    async def _made(self, connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan) -> Refreshing | None:
        """What refreshes `plan`, once it has its tables; None: there is no table of its events yet."""
        columns = await self._columns(connection, namespace, plan)
        if columns is None:
            return None
        await refuse_other(connection, namespace, plan)
        await self._bring_up_to_date(connection, namespace)
        with errors_translated(str(self._target), makes_tables=True):
            await make_whole(connection, namespace, plan, columns, may_make=self._options.may_make)
        return Refreshing(namespace, plan, columns)

    async def _bring_up_to_date(self, connection: asyncpg.Connection, namespace: Namespace) -> None:
        with errors_translated(str(self._target), makes_tables=True):
            await bring_up_to_date(connection, namespace, may_change=self._options.may_make)

    # -- partitions and retention

    def _kept(self) -> list[Layout]:
        return [layout for layout in self._layouts.values() if layout.partition or layout.retention_seconds]

    async def _maintain(
        self, layout: Layout, now: datetime, connection: asyncpg.Connection, namespace: Namespace, *, is_dropping: bool
    ) -> list[str]:
        """Make partitions, or remove what is too old; what was left undone, where the server refuses it too."""
        try:
            return await self._maintain_table(layout, now, connection, namespace, is_dropping=is_dropping)
        except asyncpg.PostgresError as exc:
            if not is_about_table(exc, connection):
                raise
            await self._clear(connection, exc)
            return [f"table {layout.table!r} is not maintained: {brief(exc)}"]

    async def _maintain_table(
        self, layout: Layout, now: datetime, connection: asyncpg.Connection, namespace: Namespace, *, is_dropping: bool
    ) -> list[str]:
        columns = Columns.of(layout)
        kept = None if layout.retention_seconds is None else timedelta(seconds=layout.retention_seconds)
        if layout.partition and await read_divided(connection, namespace, layout.table) is not None:
            partitions = TimePartitions(namespace, layout.table, layout.partition, kept=kept if is_dropping else None)

            async def why_kept(end: datetime) -> str | None:
                return await raise_floor(connection, namespace, layout.table, end, now=now)

            done: Maintained = await partitions.maintain(connection, now=now, why_kept=why_kept)
            return list(done.left)
        if kept is None or not is_dropping:
            return []
        # Also one that was there before the layout was declared, and is not divided.
        why = await remove_old(connection, namespace, layout.table, columns.time, kept=kept, now=now)
        return [] if why is None else [f"table {layout.table!r}: {why}"]

    # -- from here on everything runs on asyncio

    async def _run(
        self, work: Callable[[asyncpg.Connection, Namespace], Awaitable[T]], *, seconds: float = LONGEST
    ) -> T:
        async def whole() -> T:
            async with asyncio.timeout(seconds):
                connection = await self._single.connected()
                try:
                    return await work(connection, await self._found(connection))
                except BaseException as exc:
                    await self._clear(connection, exc)
                    raise

        return await self._single.run(whole)

    def _forget_namespace(self) -> None:
        self._namespace = None

    async def _found(self, connection: asyncpg.Connection) -> Namespace:
        """Where the tables are. Nothing is made."""
        if self._namespace is None:
            async with connection.transaction(isolation="read_committed"):
                name, longest, exists = await connection.fetchrow(
                    "WITH here AS (SELECT coalesce($1::text, current_schema()::text) AS name)"
                    " SELECT name, current_setting('max_identifier_length')::int,"
                    " EXISTS (SELECT FROM pg_namespace WHERE nspname::text = name) FROM here",
                    self._options.namespace,
                )
            if not exists:
                said = "no schema of the search path exists" if name is None else f"there is no schema {name!r}"
                raise PauseError(said)
            self._namespace = Namespace(name, longest, max(1, round(self._options.lock_timeout * 1_000)))
        return self._namespace

    async def _columns(self, connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan) -> Columns | None:
        """Where the fields of events are; None: their table is not there."""
        async with connection.transaction(isolation="read_committed"):
            table = (await read_tables(connection, namespace, [plan.table]))[plan.table]
        if table.kind is None:
            return None
        layout = self._layouts.get(plan.table) or default_layout(plan.table)
        return Columns.of(layout, table.columns)

    async def _clear(self, connection: asyncpg.Connection, exc: BaseException) -> None:
        """Roll back where the server is well, else disconnect."""
        if isinstance(exc, (asyncpg.PostgresError, EventrecError, ValueError)) and not connection.is_closed():
            with suppress(Exception):
                if connection.is_in_transaction():
                    await connection.execute("ROLLBACK")
                return
        await self._single.end(connection)


def _adapted(size: int, took: float) -> int:
    """How many buckets to take next, after `size` of them took so many seconds."""
    if took > SET_SECONDS:
        return max(1, size // 2)
    return min(MAX_SET, size * 2) if took < SET_SECONDS / 4 else size
