"""The rollups of a TimescaleDB: continuous aggregates, refreshed by their policies or when they are told to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from eventrec import PauseError
from eventrec.analytics import Refreshed
from eventrec_handlers.postgres.hook import (
    PostgresRollups,
    creating,
    errors_translated,
    literal,
    moment,
    prefix_of,
    read_tables,
)
from eventrec_handlers.timescale.answering import TimescaleAnswering
from eventrec_handlers.timescale.ddl import continuous_aggregate, indexes, of_whole_texts
from eventrec_handlers.timescale.definition import Definition, compare_definition
from eventrec_handlers.timescale.extension import needed_extension
from eventrec_handlers.timescale.state import is_hypertable, kept_from, read_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import asyncpg

    from eventrec import Layout
    from eventrec.analytics import Answer, Progress, Question, RollupPlan
    from eventrec_handlers.postgres.hook import Answering, Columns, Namespace, Options, Target

WINDOW: Final = 64
"""Buckets that one call refreshes: between two calls others have their turn, and a process may be killed."""


class _Compared(NamedTuple):
    """How the view of a rollup, known by its number, compares with its declaration."""

    view: int
    plan: RollupPlan
    definition: Definition


class _Window(NamedTuple):
    """What one call refreshes: from `low` to `high`.

    Attributes:
        buckets: How many that are, without what is empty at its beginning where that is long.
    """

    low: int
    high: int
    buckets: int


class TimescaleRollups(PostgresRollups):
    """Rollups as continuous aggregates. `refresh` does what their policies do, and what these leave out: older events.

    A window of which retention may have removed events is never refreshed: its rows would vanish. A rollup whose
    buckets `time_bucket` does not have, or whose table is not a hypertable, has no continuous aggregate: it is
    answered from the events.

    Made by `TimescaleHandler.rollups` alone: what it takes may change.
    """

    def __init__(self, target: Target, options: Options, *, layouts: Mapping[str, Layout] | None = None) -> None:
        super().__init__(target, options, layouts=layouts)
        self._compared: dict[str, _Compared] = {}

    def __repr__(self) -> str:
        return super().__repr__().replace("PostgresRollups", "TimescaleRollups")

    def _answering(self, namespace: Namespace, plan: RollupPlan, columns: Columns) -> Answering:
        compared = self._compared.get(plan.name)
        is_another = compared is not None and compared.plan == plan and compared.definition.is_another
        return TimescaleAnswering(namespace, plan, columns, is_another=is_another)

    async def answer(self, question: Question) -> Answer:
        async def compare(connection: asyncpg.Connection, namespace: Namespace) -> None:
            columns = await self._columns(connection, namespace, question.plan)
            if columns is not None:
                await self._compare(connection, namespace, question.plan, columns)

        # Before the snapshot of the answer, in which nothing can be made.
        await self._run(compare, seconds=self._options.timeout)
        return await super().answer(question)

    async def _compare(
        self, connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan, columns: Columns
    ) -> Definition:
        """How the continuous aggregate of `plan` compares with it: looked at once, until another one is there."""
        view = await connection.fetchval("SELECT to_regclass($1)::oid", namespace.named(plan.name))
        if view is None:
            return Definition()
        known = self._compared.get(plan.name)
        if known is None or known.view != view or known.plan != plan:
            definition = await compare_definition(connection, namespace, plan, columns)
            known = self._compared[plan.name] = _Compared(view, plan, definition)
        return known.definition

    async def refresh(self, plans: Sequence[RollupPlan], *, now: int | None = None) -> Refreshed:
        at = time.time_ns() if now is None else now
        done = Refreshed()
        for plan in plans:
            done += await self._refresh_view(
                plan, plan.bucket.floor(at - round(plan.refresh.lag * 1_000_000_000)), None
            )
        return done

    async def backfill(self, plan: RollupPlan, *, progress: Progress | None = None) -> Refreshed:
        before = time.time_ns() - round(plan.refresh.lag * 1_000_000_000)
        return await self._refresh_view(plan, plan.bucket.floor(before), progress)

    async def _refresh_view(self, plan: RollupPlan, before: int, progress: Progress | None) -> Refreshed:
        """Refresh what of the buckets before `before` is not right any more."""

        async def look(connection: asyncpg.Connection, namespace: Namespace) -> list[_Window]:
            columns = await self._columns(connection, namespace, plan)
            if columns is None or not await self._make_view(connection, namespace, plan, columns):
                return []
            return await self._windows(connection, namespace, plan, columns, before)

        windows = await self._run(look)
        total = sum(window.buckets for window in windows)
        done = 0
        for low, high, buckets in windows:

            async def call(
                connection: asyncpg.Connection, namespace: Namespace, low: int = low, high: int = high
            ) -> None:
                async with connection.transaction(isolation="read_committed"):
                    extension = await needed_extension(connection, str(self._target))
                    floor = await kept_from(connection, namespace.namespace, plan.table)
                low = _first_whole(plan, low, floor)  # time has passed, and events may have been removed
                if low >= high:
                    return
                low, high = _wide_enough(plan, low, high, floor)
                refresh = extension.function("refresh_continuous_aggregate")
                view = literal(namespace.named(plan.name))
                start, end = (literal(moment(at).isoformat()) for at in (low, high))
                await connection.execute(f"CALL {refresh}({view}::regclass, {start}::timestamptz, {end}::timestamptz)")

            await self._run(call)
            done += buckets
            if progress is not None:
                progress(done, total)
        return Refreshed(buckets=done)

    async def _make_view(
        self, connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan, columns: Columns
    ) -> bool:
        """Make the continuous aggregate, if it is not there; False: it cannot have one.

        Raises:
            PauseError: An operator has to make it, or the extension; or another one has its name.
        """
        async with connection.transaction(isolation="read_committed"):
            extension = await needed_extension(connection, str(self._target))
            state = await read_state(connection, namespace.namespace, plan)
            is_chunked = await is_hypertable(connection, namespace.namespace, plan.table)
        differs = None if state is None else state.differs
        if state is not None and differs is None:
            definition = await self._compare(connection, namespace, plan, columns)
            differs = definition.differs[0] if definition.is_another else None
        if differs is not None:
            raise PauseError(f"rollup {plan.name!r}: the continuous aggregate of this name is another: {differs}")
        if state is not None:
            await self._cut_texts(connection, namespace, plan)
            return True
        await self._refuse_plain(connection, namespace, plan)
        if not is_chunked:
            return False
        statements = list(continuous_aggregate(plan, columns, named=namespace.named))
        if not statements:
            return False
        if not self._options.may_make:
            raise PauseError(
                f"rollup {plan.name!r} has no continuous aggregate there: migrate first; if it was dropped, refresh"
                " once with schema=evolve"
            )
        with errors_translated(str(self._target), makes_tables=True):
            async with creating(connection, namespace):
                await extension.reach(connection)
                for statement in statements:
                    await connection.execute(statement)
        return True

    async def _cut_texts(self, connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan) -> None:
        """Replace indexes that take no long texts, if tables may be made. What reads or refreshes meanwhile waits."""
        if prefix_of(plan) is None or not self._options.may_make:
            return
        # A role that may not replace them goes on with them.
        async with connection.transaction(isolation="read_committed"):
            found = await connection.fetchval(
                f"SELECT pg_has_role(relowner, 'USAGE') AND EXISTS ({of_whole_texts(plan, named=namespace.named)})"  # noqa: S608 - quoted
                " FROM pg_class WHERE oid = to_regclass($1)",
                namespace.named(plan.name),
            )
        if found:
            with errors_translated(str(self._target), makes_tables=True):
                async with creating(connection, namespace):
                    for statement in indexes(plan, named=namespace.named):
                        await connection.execute(statement)

    async def _refuse_plain(self, connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan) -> None:
        """Refuse what has the rollup's name and is not a continuous aggregate.

        Raises:
            PauseError: An operator has to rename it, or to give the URL in another way.
        """
        async with connection.transaction(isolation="read_committed"):
            there = (await read_tables(connection, namespace, [plan.name]))[plan.name]
        if there.kind is not None:
            hint = (
                "where PostgreSQL keeps rollups, give the URL as postgresql://"
                if there.kind == "table"
                else "rename it"
            )
            raise PauseError(f"rollup {plan.name!r}: a {there.kind} has its name: {hint}")

    async def _windows(
        self, connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan, columns: Columns, before: int
    ) -> list[_Window]:
        """The windows to refresh, of whole buckets: where there are events that were not counted."""
        answering = TimescaleAnswering(namespace, plan, columns)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            state = await read_state(connection, namespace.namespace, plan)
            floor = await kept_from(connection, namespace.namespace, plan.table)
            events = await answering.extent(connection)
            if state is None or events is None:
                return []
            low = _first_whole(plan, plan.bucket.floor(events[0]), floor)
            high = min(before, plan.bucket.after(plan.bucket.floor(events[1])))
            windows: list[_Window] = []
            for since, until in sorted([*state.invalid, (state.watermark, before)]):
                low = max(low, plan.bucket.floor(max(since, low)))
                while low < (end := min(until, high)):
                    window = _window(plan, low, end)
                    if window.high < end and await answering.extent(connection, low, window.high) is None:
                        window = _behind(plan, low, end, await answering.extent(connection, low, end))
                    windows.append(window)
                    low = window.high
        return windows


def _window(plan: RollupPlan, low: int, end: int) -> _Window:
    """The buckets from `low` on that begin before `end`: at most `WINDOW`."""
    after, buckets = low, 0
    while after < end and buckets < WINDOW:
        after, buckets = plan.bucket.after(after), buckets + 1
    return _Window(low, after, buckets)


def _behind(plan: RollupPlan, low: int, end: int, events: tuple[int, int] | None) -> _Window:
    """The same behind what is empty from `low` on; `events`: the first moment with one before `end`, and the last.

    What is empty goes with it, however long it is: what was counted there is gone.
    """
    if events is None:
        return _Window(low, plan.bucket.after(plan.bucket.floor(end - 1)), 0)
    return _window(plan, max(low, plan.bucket.floor(events[0])), end)._replace(low=low)


def _first_whole(plan: RollupPlan, start: int, floor: int | None) -> int:
    """The start of the first bucket from the one at `start` on that retention has left whole."""
    return start if floor is None or start >= floor else plan.bucket.ceiling(floor)


def _wide_enough(plan: RollupPlan, low: int, high: int, floor: int | None) -> tuple[int, int]:
    """The window itself, or one of two buckets: of one alone that begins off the hour, TimescaleDB refreshes none."""
    bucket = plan.bucket
    if bucket.is_fixed or bucket.after(low) < high:
        return low, high
    before = bucket.floor(low - 1)
    return (before, high) if floor is None or before >= floor else (low, bucket.after(high))
