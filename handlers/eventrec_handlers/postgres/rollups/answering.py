"""Answers of a rollup: what is in its table where that is up to date, and the rest from the events, in one snapshot.

So an answer is right at every moment, whether or when anything refreshes: what a refresh saves is time. Buckets that
begin before the floor of their table are answered from the rollup's table alone: their events may be gone.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from eventrec.analytics import ADDITIVE, Answer
from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.rollups.refreshing import (
    marked_buckets,
    moment,
    nanoseconds,
    quoted_bucket,
    runs,
)
from eventrec_handlers.postgres.rollups.select import compute, matching, reaggregated
from eventrec_handlers.postgres.rollups.tables import DIRTY, FIRST, FLOORS, LAST, PENDING, ROLLUPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Self

    import asyncpg

    from eventrec.analytics import Kind, Question, RollupPlan
    from eventrec_handlers.postgres.checkpoints import Namespace
    from eventrec_handlers.postgres.rollups.fields import Columns

_FIRST: Final = datetime.fromisoformat(FIRST)
_LAST: Final = datetime.fromisoformat(LAST)
EARLIEST, LATEST = nanoseconds(_FIRST), nanoseconds(_LAST)
"""Moments outside of these are in no bucket."""

LARGEST: Final = 2_048
"""Buckets that are computed by one statement."""


class Known:
    """What the snapshot knows of a rollup: which of its buckets cannot be taken from its table.

    Attributes:
        floor: Buckets that begin before it are never computed from the events: some of these may be gone.
        is_made: Whether the rollup has a table, or a view.
        waiting: Buckets whose events have changed.
        ranges: Of moments: buckets that have one have to be computed, too.
        complete_to: What happened from there on is not in the answer; None: all is.
        late_rows: Events that are in no bucket, because they came too late.
    """

    def __init__(self, plan: RollupPlan, floor: int, *, is_made: bool) -> None:
        self._plan = plan
        self.floor = floor
        self.is_made = is_made
        self.waiting: set[int] = set()
        self.ranges: list[tuple[int, int]] = []
        self.complete_to: int | None = None
        self.late_rows = 0

    @classmethod
    def nothing(cls, plan: RollupPlan) -> Self:
        """There is no table, or that of another declaration: all is computed from the events that are left."""
        known = cls(plan, EARLIEST, is_made=False)
        known.ranges.append((EARLIEST, LATEST))
        return known

    def note_marks(self, marks: Iterable[datetime]) -> None:
        """Rows have arrived for the quarters of an hour that begin then."""
        for since in marks:
            self.waiting.update(marked_buckets(self._plan.bucket, nanoseconds(since)))

    def from_events(self, start: int, end: int, events: tuple[int, int] | None) -> set[int]:
        """Those of the buckets in [`start`, `end`) to compute; `events`: the first and the last moment."""
        bucket, first = self._plan.bucket, max(start, self.floor)
        found = {at for at in self.waiting if first <= at < end}
        for low, high in self.ranges:
            if events is None:
                break
            since = max(first, bucket.floor(max(low, events[0])))
            until = min(end, high, events[1] + 1)
            found.update(bucket.starts(since, until) if since < until else ())
        return found


class Answering:
    """Answers questions about `plan`, on a connection in no transaction."""

    def __init__(self, namespace: Namespace, plan: RollupPlan, columns: Columns) -> None:
        self._namespace = namespace
        self._plan = plan
        self._columns = columns
        self._own = namespace.named(plan.name)
        self._events = namespace.named(plan.table)

    async def answer(self, connection: asyncpg.Connection, question: Question) -> Answer:
        """The answer, as of one moment.

        Raises:
            ValueError: Asked for fewer groups, a part of it cannot be computed: its events are no longer stored.
        """
        # The lock comes before the snapshot: what is dropped after it is dropped after the answer.
        await connection.execute(
            f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE {self._events} IN ACCESS SHARE MODE"
        )
        try:
            known = await self.known(connection)
            start = EARLIEST if question.start is None else max(question.start, EARLIEST)
            end = LATEST if question.end is None else min(question.end, LATEST)
            rows = await self._rows(connection, question, known, start, end) if start < end else []
            newest = await self._newest(connection)
            pending = await self._pending(connection, known, newest)
        finally:
            await connection.execute("ROLLBACK")
        if newest is not None and known.complete_to is not None:
            newest = min(newest, known.complete_to - 1)
        return Answer.of(question, rows, complete_to=newest, pending=pending, remarks=_remarks(known))

    async def known(self, connection: asyncpg.Connection) -> Known:
        """What the snapshot knows of the rollup."""
        plan, named = self._plan, self._namespace.named
        if await connection.fetchval("SELECT to_regclass($1) IS NULL", named(ROLLUPS)):
            return Known.nothing(plan)
        floor = await connection.fetchval(
            f"SELECT kept_from FROM {named(FLOORS)} WHERE table_name = $1",  # noqa: S608 - quoted
            plan.table,
        )
        low = nanoseconds(_FIRST if floor is None else max(floor, _FIRST))
        rows = await connection.fetch(
            f"SELECT fingerprint, todo_from, todo_to, late_rows FROM {named(ROLLUPS)} WHERE name = $1",  # noqa: S608 - quoted
            plan.name,
        )
        if not rows or rows[0][0] != plan.fingerprint:
            return Known.nothing(plan)
        known = Known(plan, low, is_made=True)
        _, todo_from, todo_to, known.late_rows = rows[0]
        if todo_from is not None:
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
    ) -> list[tuple[Any, ...]]:
        plan = self._plan
        is_whole = set(question.group_names) == {group.name for group in plan.groups}
        is_exact = is_whole or all(measure.function in ADDITIVE for measure in plan.measures)
        if is_exact:
            events = await self.extent(connection) if known.ranges else None
            computed = known.from_events(start, end, events)
        else:
            await self._refuse_gone(connection, known, start, end)
            computed = self._all_buckets(known, start, end, await self.extent(connection))
        found: list[Any] = []
        if known.is_made and is_exact:
            bucket = quoted_bucket(plan)
            where = f"{bucket} >= $1 AND {bucket} < $2 AND {bucket} <> ALL ($3::timestamptz[])"
            columns = ", ".join(quoted(name) for name in plan.column_names)
            statement = (
                f"SELECT {columns} FROM {self._own} WHERE {where}"  # noqa: S608 - quoted
                if is_whole
                else reaggregated(plan, self._own, question.group_names, where)
            )
            parameters = (_ceiling(start), _ceiling(end), [moment(at) for at in sorted(computed)])
            found += await connection.fetch(statement, *parameters)
        if computed:
            statement = compute(plan, self._columns, self._events, groups=question.group_names)
            for run in runs(plan.bucket, computed, longest=LARGEST):
                found += await connection.fetch(statement, *run.parameters)
        return _converted(found, [column.kind for column in question.columns])

    def _all_buckets(self, known: Known, start: int, end: int, events: tuple[int, int] | None) -> set[int]:
        """The buckets of all events that are stored in [`start`, `end`)."""
        if events is None:
            return set()
        low, high = max(start, known.floor, self._plan.bucket.floor(events[0])), min(end, events[1] + 1)
        return set(self._plan.bucket.starts(low, high)) if low < high else set()

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

    async def extent(self, connection: asyncpg.Connection) -> tuple[int, int] | None:
        """The first and the last moment of which an event is stored."""
        time = quoted(self._columns.time)
        row = await connection.fetchrow(
            f"SELECT min({time}), max({time}) FROM {self._events} WHERE {time} >= $1 AND {time} < $2",  # noqa: S608 - quoted
            _FIRST,
            _LAST,
        )
        first, last = row
        return None if first is None else (nanoseconds(first), nanoseconds(last))

    async def _newest(self, connection: asyncpg.Connection) -> int | None:
        """The moment of the newest event of the rollup's types."""
        time = quoted(self._columns.time)
        newest = f"SELECT {time} FROM {self._events} WHERE {time} < $1"  # noqa: S608 - quoted
        if self._plan.types is None:
            found = await connection.fetchval(f"{newest} ORDER BY {time} DESC LIMIT 1", _LAST)
        else:
            # Each type is looked up by itself: the index begins with it.
            kind = quoted(self._columns.type)
            found = await connection.fetchval(
                f"SELECT max(newest) FROM unnest($2::text[]) AS wanted (kind) CROSS JOIN LATERAL"  # noqa: S608 - quoted
                f" ({newest} AND {kind} = wanted.kind ORDER BY {time} DESC LIMIT 1) AS found (newest)",
                _LAST,
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
            _LAST,
        )
        return count


def _remarks(known: Known) -> list[str]:
    if not known.late_rows:
        return []
    return [f"{known.late_rows} rows arrived for buckets whose events are no longer stored, and are not counted in"]


def _converted(rows: Sequence[Any], kinds: Sequence[Kind]) -> list[tuple[Any, ...]]:
    """Rows as the driver gives them, as an answer has them: column by column, since most need nothing."""
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
    for place, (kind, column) in enumerate(zip(kinds, columns, strict=False)):
        if (convert := _CONVERTED.get(kind)) is not None:
            columns[place] = [None if value is None else convert(value) for value in column]
    return list(zip(*columns, strict=True))


_CONVERTED: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    "timestamp": lru_cache(maxsize=4_096)(nanoseconds),
    "integer": int,  # a sum is a Decimal
    "uuid": str,
}


def _ceiling(at: int) -> datetime:
    """The first microsecond that is not before `at`: buckets begin at whole ones."""
    return moment(-(-at // 1_000) * 1_000)
