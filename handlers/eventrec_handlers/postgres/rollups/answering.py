"""Answers of a rollup: what is in its table where that is up to date, and the rest from the events, in one snapshot.

So an answer is right at every moment, whether or when anything refreshes: what a refresh saves is time. Buckets that
begin before the floor of their table are answered from the rollup's table alone: their events may be gone.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Final

from eventrec.analytics import ADDITIVE, Answer
from eventrec_handlers._sql import quoted
from eventrec_handlers._sql.refreshing import late_remarks
from eventrec_handlers._sql.zone_rules import FilledBy, other_rules_remark, seamed
from eventrec_handlers.postgres.rollups.known import Known
from eventrec_handlers.postgres.rollups.locks import seeing_all
from eventrec_handlers.postgres.rollups.moments import (
    EARLIEST,
    FIRST_MOMENT,
    LAST_MOMENT,
    LATEST,
    LONGEST_RUN,
    moment,
    nanoseconds,
    quoted_bucket,
)
from eventrec_handlers.postgres.rollups.pages import Page, Pages
from eventrec_handlers.postgres.rollups.registry import standing
from eventrec_handlers.postgres.rollups.select import compute, matching, reaggregated
from eventrec_handlers.postgres.rollups.tables import DIRTY, FLOORS, OWN, PENDING, ROLLUPS, prefix_of
from eventrec_handlers.postgres.rollups.uncounted import Walk
from eventrec_handlers.postgres.rollups.zones import NOTED, is_filled_by_ours

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from eventrec.analytics import AnswerRow, Question, RollupPlan
    from eventrec_handlers.postgres.checkpoints import Namespace
    from eventrec_handlers.postgres.rollups.fields import Columns
    from eventrec_handlers.postgres.rollups.uncounted import Uncounted

RECENTLY: Final = 2 * 86_400 * 1_000_000_000
"""Nanoseconds before the present: where the newest event is looked for first."""

FEW: Final = 16
"""Buckets that are computed first for a page; then twice as many, until it is full."""


class Answering:
    """Answers questions about `plan`, on a connection in no transaction."""

    def __init__(self, namespace: Namespace, plan: RollupPlan, columns: Columns) -> None:
        self._namespace = namespace
        self._plan = plan
        self._columns = columns
        self._own = namespace.named(plan.name)
        self._events = namespace.named(plan.table)
        self._prefix = prefix_of(plan) if plan.index is None else None

    async def answer(self, connection: asyncpg.Connection, question: Question) -> Answer:
        """The answer, as of one moment.

        Raises:
            asyncpg.InsufficientPrivilegeError: Row-level security would hide rows from this role.
            ValueError: Asked for fewer groups, a part of it cannot be computed: its events are no longer stored.
        """
        # The lock comes before the snapshot: what is dropped after it is dropped after the answer.
        await connection.execute(
            f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE {self._events} IN ACCESS SHARE MODE;"
            + seeing_all(self._namespace, read=(self._plan.table, self._plan.name, *OWN))
        )
        try:
            known = await self.known(connection)
            page = question
            if question.empty_buckets and question.group_names:
                # Which groups there are, all rows tell.
                page = dataclasses.replace(question, limit=None, cursor=None)
            start, end = _range(page)
            rows = await self._rows(connection, page, known, start, end) if start < end else []
            newest = await self._newest(connection)
            pending = await self._pending(connection, known, newest)
        finally:
            await connection.execute("ROLLBACK")
        if newest is not None and known.complete_to is not None:
            newest = min(newest, known.complete_to - 1)
        made = Answer.of if question.empty_buckets else Answer.of_sorted
        remarks = [*late_remarks(known.late_rows), *known.remarks]
        return made(question, rows, complete_to=newest, pending=pending, remarks=remarks)

    async def known(self, connection: asyncpg.Connection) -> Known:
        """What the snapshot knows of the rollup."""
        plan, named = self._plan, self._namespace.named
        there = await standing(connection, self._namespace, plan, self._columns)
        if not there.has_own or not there.has_ours:
            return Known.nothing(plan)
        floor = await connection.fetchval(
            f"SELECT kept_from FROM {named(FLOORS)} WHERE table_name = $1",  # noqa: S608 - quoted
            plan.table,
        )
        low = nanoseconds(FIRST_MOMENT if floor is None else max(floor, FIRST_MOMENT))
        rows = await connection.fetch(
            f"SELECT fingerprint, todo_from, todo_to, late_rows, {NOTED}"  # noqa: S608 - quoted
            f" FROM {named(ROLLUPS)} AS known WHERE name = $1",
            plan.name,
        )
        if not rows or rows[0][0] != plan.fingerprint:
            return Known.nothing(plan)
        _, todo_from, todo_to, late_rows, rules, kept_to = rows[0]
        if kept_to is not None:
            low = max(low, nanoseconds(kept_to))
            plan = dataclasses.replace(plan, bucket=seamed(plan.bucket, nanoseconds(kept_to)))
        known = Known(plan, low, is_made=True)
        known.late_rows = late_rows
        known.is_ours = await is_filled_by_ours(FilledBy.of(rules), plan.bucket)
        if not known.is_ours:
            was_filled = todo_from is None or todo_from > FIRST_MOMENT
            known.remarks += [other_rules_remark(plan)] if was_filled else []
            known.ranges.append((EARLIEST, LATEST))
            return known
        if not there.is_marked:
            known.ranges.append((EARLIEST, LATEST))
        elif todo_from is not None:
            known.ranges.append((nanoseconds(todo_from), nanoseconds(todo_to)))
        marks = await connection.fetch(
            f"SELECT DISTINCT since FROM {named(DIRTY)} WHERE table_name = $1",  # noqa: S608 - quoted
            plan.table,
        )
        known.note_marks(row[0] for row in marks)
        waiting = await connection.fetch(
            f"SELECT DISTINCT bucket FROM {named(PENDING)} WHERE rollup = $1",  # noqa: S608 - quoted
            plan.name,
        )
        known.waiting.update(nanoseconds(row[0]) for row in waiting)
        return known

    async def _rows(
        self,
        connection: asyncpg.Connection,
        question: Question,
        known: Known,
        start: int,
        end: int,
    ) -> list[AnswerRow]:
        """The rows of buckets in [`start`, `end`), in order; of a page these and one more."""
        is_exact = self._is_whole(question) or all(measure.function in ADDITIVE for measure in self._plan.measures)
        if is_exact:
            events = await self.extent(connection) if known.ranges else None
            uncounted = known.uncounted(start, end, events)
        else:
            await self._refuse_gone(connection, known, start, end)
            uncounted = known.all_stored(start, end, await self.extent(connection))
        pages = Pages(question)
        found = Page([], [])
        if known.is_made and is_exact:
            kept_to = end if known.is_ours else min(end, known.floor)
            found = await self._counted(connection, pages, uncounted, start, kept_to)
        if found.rows and pages.is_full(found):
            # Buckets behind the page are not asked for.
            uncounted = uncounted.before(found.buckets[-1], newest_first=question.newest_first)
        return pages.merged(found, await self._computed(connection, pages, known.plan, uncounted))

    def _is_whole(self, question: Question) -> bool:
        return set(question.group_names) == {group.name for group in self._plan.groups}

    async def _counted(
        self, connection: asyncpg.Connection, pages: Pages, uncounted: Uncounted, start: int, end: int
    ) -> Page:
        """Rows of the rollup's table, without buckets that are `uncounted`."""
        plan, bucket, question = self._plan, quoted_bucket(self._plan), pages.question
        where = f"{bucket} >= $1 AND {bucket} < $2"
        parameters: list[object] = [_ceiling(start), _ceiling(end)]
        if uncounted.starts:
            where += f" AND {bucket} <> ALL ($3::timestamptz[])"
            parameters.append([moment(at) for at in sorted(uncounted.starts)])
        if uncounted.spans:
            lows, highs = (f"${len(parameters) + number}::timestamptz[]" for number in (1, 2))
            where += (
                f" AND NOT EXISTS (SELECT FROM unnest({lows}, {highs}) AS er_span (low, high)"
                f" WHERE {bucket} >= er_span.low AND {bucket} < er_span.high)"
            )
            parameters += ([moment(span[side]) for span in uncounted.spans] for side in (0, 1))
        if not self._is_whole(question):
            return await pages.read(connection, reaggregated(plan, self._own, question.group_names, where), *parameters)
        columns = ", ".join(quoted(name) for name in plan.column_names)
        statement = f"SELECT {columns} FROM {self._own} WHERE {where}"  # noqa: S608 - quoted
        # All rows are sorted sooner by the server's own plan.
        prefix = None if pages.limit is None else self._prefix
        return await pages.read(connection, statement, *parameters, prefix=prefix)

    async def _computed(
        self, connection: asyncpg.Connection, pages: Pages, plan: RollupPlan, uncounted: Uncounted
    ) -> Page:
        """Rows of what is `uncounted` as the events are now, in order: all, or enough for the page."""
        found, question = Page([], []), pages.question
        statement = compute(self._plan, self._columns, self._events, groups=question.group_names)
        walk = Walk(
            connection,
            plan,
            self._columns,
            self._events,
            uncounted,
            newest_first=question.newest_first,
            size=LONGEST_RUN if pages.limit is None else FEW,
        )
        while not pages.is_full(found) and (run := await walk.next()) is not None:
            page = await pages.read(connection, statement, *run.parameters)
            found.rows.extend(page.rows)
            found.buckets.extend(page.buckets)
        return found

    async def _refuse_gone(self, connection: asyncpg.Connection, known: Known, start: int, end: int) -> None:
        if not known.is_made or start >= known.floor:
            return
        bucket = quoted_bucket(self._plan)
        is_there = await connection.fetchval(
            f"SELECT EXISTS (SELECT FROM {self._own} WHERE {bucket} >= $1 AND {bucket} < $2)",  # noqa: S608 - quoted
            moment(start),
            moment(min(end, known.floor)),
        )
        if is_there:
            raise ValueError(
                f"before {moment(known.floor):%Y-%m-%d %H:%M} UTC the events are no longer stored, and what rollup"
                f" {self._plan.name!r} measures cannot be added up over its groups: ask for all of them, or for later"
            )

    async def extent(
        self, connection: asyncpg.Connection, start: int = EARLIEST, end: int = LATEST
    ) -> tuple[int, int] | None:
        """The first and the last moment in [`start`, `end`) of which an event is stored."""
        time = quoted(self._columns.time)
        row = await connection.fetchrow(
            f"SELECT min({time}), max({time}) FROM {self._events} WHERE {time} >= $1 AND {time} < $2",  # noqa: S608 - quoted
            moment(start),
            moment(end),
        )
        first, last = row
        return None if first is None else (nanoseconds(first), nanoseconds(last))

    async def _newest(self, connection: asyncpg.Connection) -> int | None:
        """The moment of the newest event of the rollup's types."""
        recently = moment(time.time_ns() - RECENTLY)
        # It is mostly a recent one: then no old partition is planned for.
        found = await self._newest_from(connection, recently)
        return await self._newest_from(connection, FIRST_MOMENT) if found is None else found

    async def _newest_from(self, connection: asyncpg.Connection, first: datetime) -> int | None:
        column = quoted(self._columns.time)
        newest = f"SELECT {column} FROM {self._events} WHERE {column} >= $1 AND {column} < $2"  # noqa: S608 - quoted
        if self._plan.types is None:
            found = await connection.fetchval(f"{newest} ORDER BY {column} DESC LIMIT 1", first, LAST_MOMENT)
        else:
            # Each type is looked up by itself: the index begins with it.
            kind = quoted(self._columns.type)
            found = await connection.fetchval(
                f"SELECT max(newest) FROM unnest($3::text[]) AS wanted (kind) CROSS JOIN LATERAL"  # noqa: S608 - quoted
                f" ({newest} AND {kind} = wanted.kind ORDER BY {column} DESC LIMIT 1) AS found (newest)",
                first,
                LAST_MOMENT,
                list(self._plan.types),
            )
        return None if found is None else nanoseconds(found)

    async def _pending(self, connection: asyncpg.Connection, known: Known, newest: int | None) -> int:
        """How many events are not in the answer yet."""
        if known.complete_to is None or newest is None or newest < known.complete_to:
            return 0
        time = quoted(self._columns.time)
        where = " AND ".join((f"{time} >= $1 AND {time} < $2", *matching(self._plan, self._columns)))
        count: int = await connection.fetchval(
            f"SELECT count(*) FROM {self._events} WHERE {where}",  # noqa: S608 - quoted
            moment(known.complete_to),
            LAST_MOMENT,
        )
        return count


def _range(question: Question) -> tuple[int, int]:
    """From when on buckets can be in the answer, and until when."""
    start = EARLIEST if question.start is None else max(question.start, EARLIEST)
    end = LATEST if question.end is None else min(question.end, LATEST)
    if (after := question.after()) is None:
        return start, end
    return (start, min(end, after[0] + 1)) if question.newest_first else (max(start, after[0]), end)


def _ceiling(at: int) -> datetime:
    """The first microsecond that is not before `at`: buckets begin at whole ones."""
    return moment(-(-at // 1_000) * 1_000)
