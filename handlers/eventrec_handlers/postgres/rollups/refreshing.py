"""Bringing the tables of rollups up to date: what arrived marks its buckets, and these are computed again.

Three steps, each a transaction, each of which may be the last one of a process that is killed:

    distribute   marks become buckets that wait, for every rollup of the table
    refresh      a set of waiting buckets is taken from the list and computed from the events, whole or not at all
    fill         of a new rollup, the next buckets from its beginning on

**No mark is lost.** A set is taken by one statement and computed by a later one, which sees at least the rows whose
marks the first has seen. A row that is stored in between is counted in, and marks its bucket once more.

**Nothing is done twice.** A bucket is taken under an advisory lock of its own, so that an older result never replaces
a newer one; those that another process has are passed over. While a rollup is being filled, that is done by one
process, and its waiting buckets wait for it.

**What was rolled up stays.** A bucket that begins before the floor of its table is never computed again: some of its
events may be gone. The floor is held still while buckets are computed, and is only raised together with what removes
events (`retention.py`). Rows that arrive for such buckets are counted.

**What this role may not see is not taken for gone.** Where row-level security would hide rows, the server refuses the
step, and nothing of it is done (`locks.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from eventrec import PauseError
from eventrec_handlers._sql import quoted
from eventrec_handlers._sql.refreshing import marked_buckets
from eventrec_handlers._sql.zone_rules import FilledBy, seamed
from eventrec_handlers.postgres.rollups.locks import begin, key, lock_marks
from eventrec_handlers.postgres.rollups.moments import (
    EPOCH,
    FIRST_MOMENT,
    LAST_MOMENT,
    LONGEST_RUN,
    moment,
    nanoseconds,
    quoted_bucket,
    runs,
)
from eventrec_handlers.postgres.rollups.select import compute, written_columns
from eventrec_handlers.postgres.rollups.tables import DIRTY, FIRST, FLOORS, LAST, PENDING, ROLLUPS
from eventrec_handlers.postgres.rollups.zones import NOTED, is_filled_by_ours, zoned

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import asyncpg

    from eventrec.analytics import Bucket, RollupPlan
    from eventrec_handlers.postgres.checkpoints import Namespace
    from eventrec_handlers.postgres.rollups.fields import Columns
    from eventrec_handlers.postgres.rollups.moments import Run

SET: Final = 24
"""Buckets that are taken at once, to begin with; more or fewer as they take less or more than `SET_SECONDS`."""

MAX_SET: Final = LONGEST_RUN
SET_SECONDS: Final = 2.0


async def distribute(connection: asyncpg.Connection, namespace: Namespace, table: str) -> int:
    """Turn the marks of `table` into buckets that wait, for each of its rollups; how many rows they were for.

    Where others refresh one of them, by other rules of its zone, marks are left to them: they mean other buckets.
    """
    await begin(connection, namespace, table)
    await lock_marks(connection, namespace, table)
    if any(each.is_held for each in await zoned(connection, namespace, "table_name = $1", table)):
        await connection.execute("ROLLBACK")
        return 0
    # Of a table that was renamed, or whose last rollup is gone. A mark that is seen is younger than its rollup.
    await connection.execute(
        f"DELETE FROM {namespace.named(DIRTY)} AS mark WHERE NOT EXISTS"  # noqa: S608 - quoted
        f" (SELECT FROM {namespace.named(ROLLUPS)} AS known WHERE known.table_name = mark.table_name)"
    )
    marks = await connection.fetch(
        f"WITH taken AS (DELETE FROM {namespace.named(DIRTY)} WHERE table_name = $1 RETURNING since, rows)"  # noqa: S608 - quoted
        " SELECT since, sum(rows)::bigint AS rows FROM taken GROUP BY since",
        table,
    )
    if marks:
        # Those that there are after the marks were taken: one that is made meanwhile may count on later marks.
        known = await zoned(connection, namespace, "table_name = $1", table)
        waiting: dict[tuple[str, int], int] = {}
        is_everything = any(since == LAST_MOMENT for since, _ in marks)
        for each in known:
            if is_everything or not each.is_ours:  # which buckets of it wait, is not known here
                await connection.execute(
                    f"UPDATE {namespace.named(ROLLUPS)} SET todo_from = '{FIRST}', todo_to = '{LAST}' WHERE name = $1",  # noqa: S608 - quoted
                    each.name,
                )
                continue
            for since, rows in marks:
                start = 0
                for start in marked_buckets(each.bucket, nanoseconds(since)):
                    waiting.setdefault((each.name, start), 0)
                waiting[each.name, start] += rows  # in the last one: how many are in which is not known
        await connection.execute(
            f"INSERT INTO {namespace.named(PENDING)} (rollup, bucket, rows)"  # noqa: S608 - quoted
            " SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::bigint[])",
            [name for name, _ in waiting],
            [moment(start) for _, start in waiting],
            list(waiting.values()),
        )
    await connection.execute("COMMIT")
    return sum(mark["rows"] for mark in marks)


@dataclass(frozen=True, slots=True)
class Done:
    """What one transaction has done: buckets computed, rows that came too late, and whether there may be more."""

    buckets: int = 0
    late: int = 0
    is_more: bool = False


class Refreshing:
    """Refreshes `plan`, whose events are in the columns `columns` of their table, on a connection in no transaction."""

    def __init__(self, namespace: Namespace, plan: RollupPlan, columns: Columns) -> None:
        self._namespace = namespace
        self._plan = plan
        self._bucket = plan.bucket
        self._own = namespace.named(plan.name)
        self._compute = compute(plan, columns, namespace.named(plan.table))
        self._time = columns.time

    async def refresh(self, connection: asyncpg.Connection, *, now: int, limit: int = SET) -> Done:
        """Compute at most `limit` of the buckets that wait and have ended `lag` before `now`; of these the earliest."""
        plan, pending = self._plan, self._namespace.named(PENDING)
        await begin(connection, self._namespace, plan.table, plan.name)
        floor = await self._floor(connection)
        state = await self._state(connection, "FOR KEY SHARE SKIP LOCKED")
        if state is None:
            await connection.execute("ROLLBACK")  # another process fills it
            return Done()
        before = plan.bucket.floor(now - round(plan.refresh.lag * 1_000_000_000))
        todo_from, todo_to, kept_to = state
        floor = max(floor, kept_to)
        candidates = await connection.fetch(
            f"SELECT DISTINCT bucket FROM {pending} WHERE rollup = $1 AND bucket < $2"  # noqa: S608 - quoted
            " AND NOT (bucket >= $3 AND bucket < $4) ORDER BY bucket LIMIT $5",
            plan.name,
            moment(before),
            todo_from or EPOCH,
            todo_to or EPOCH,
            4 * limit,
        )
        starts = [nanoseconds(row[0]) for row in candidates]
        taken = await self._lock(connection, starts, limit)
        counts = await connection.fetch(
            f"WITH taken AS (DELETE FROM {pending} WHERE rollup = $1 AND bucket = ANY ($2) RETURNING bucket, rows)"  # noqa: S608 - quoted
            " SELECT bucket, sum(rows)::bigint FROM taken GROUP BY bucket",
            plan.name,
            [moment(start) for start in taken],
        )
        late = sum(rows for bucket, rows in counts if bucket < floor)
        if late:
            await connection.execute(
                f"UPDATE {self._namespace.named(ROLLUPS)} SET late_rows = late_rows + $2 WHERE name = $1",  # noqa: S608 - quoted
                plan.name,
                late,
            )
        kept = [start for start in taken if moment(start) >= floor]
        for run in runs(self._bucket, kept):
            await self._replace(connection, run)
        await connection.execute("COMMIT")
        return Done(len(kept), late, is_more=bool(taken) and len(starts) > len(taken))

    async def fill(self, connection: asyncpg.Connection, *, limit: int = SET) -> tuple[Done, int, int]:
        """Compute the next `limit` buckets of a rollup that is new; what was done, how many are, and how many will be.

        Nothing, where it is not new, or where another process is at it.
        """
        plan = self._plan
        await begin(connection, self._namespace, plan.table, plan.name)
        floor = await self._floor(connection)
        state = await self._state(connection, "FOR UPDATE SKIP LOCKED")
        if state is None or state[0] is None:
            await connection.execute("ROLLBACK")
            return Done(), 0, 0
        todo_from, todo_to, kept_to = state
        todo = await self._todo(connection, todo_from, todo_to, floor=max(floor, kept_to))
        starts = [] if todo is None else _first(self._bucket, *todo, limit)
        rows = 0
        for run in runs(self._bucket, starts):
            array, end = run.parameters
            await connection.execute(
                f"DELETE FROM {self._namespace.named(PENDING)} WHERE rollup = $1 AND bucket >= $2 AND bucket < $3",  # noqa: S608 - quoted
                plan.name,
                array[0],
                end,
            )
            rows += await self._replace(connection, run)
        reached = self._bucket.after(starts[-1]) if starts else 0
        if todo is not None and not rows:
            reached = await self._next(connection, reached, todo[1])
        is_more = todo is not None and reached < todo[1]
        await connection.execute(
            f"UPDATE {self._namespace.named(ROLLUPS)} SET todo_from = $2, todo_to = $3 WHERE name = $1",  # noqa: S608 - quoted
            plan.name,
            moment(reached) if is_more else None,
            moment(todo[1]) if is_more and todo is not None else None,
        )
        await connection.execute("COMMIT")
        left = 0 if todo is None or not is_more else max(1, (todo[1] - reached) // plan.bucket.step)
        return Done(len(starts), is_more=is_more), len(starts), left

    async def expire(self, connection: asyncpg.Connection, *, now: int) -> int:
        """Delete the rollup's own rows that are older than its retention; how many those were."""
        if self._plan.retention is None:
            return 0
        before = self._plan.bucket.floor(now - round(self._plan.retention * 1_000_000_000))
        status = await connection.execute(
            f"DELETE FROM {self._own} WHERE {quoted_bucket(self._plan)} < $1",  # noqa: S608 - quoted
            moment(before),
        )
        return int(status.split()[-1])

    async def remaining(self, connection: asyncpg.Connection) -> int:
        """How many buckets wait, those included that have not ended."""
        found: int = await connection.fetchval(
            f"SELECT count(DISTINCT bucket) FROM {self._namespace.named(PENDING)} WHERE rollup = $1",  # noqa: S608 - quoted
            self._plan.name,
        )
        return found

    # -- inside a transaction

    async def _state(
        self, connection: asyncpg.Connection, lock: str
    ) -> tuple[datetime | None, datetime | None, datetime] | None:
        """What is still to be filled, and up to where rows stay; None: another process has it, or other rules fill it.

        Raises:
            PauseError: The rollup is declared otherwise here than in the database.
        """
        rows = await connection.fetch(
            f"SELECT fingerprint, todo_from, todo_to, {NOTED} FROM {self._namespace.named(ROLLUPS)} AS known"  # noqa: S608 - quoted
            f" WHERE name = $1 {lock}",
            self._plan.name,
        )
        if not rows:
            return None
        fingerprint, todo_from, todo_to, rules, kept_to = rows[0]
        if fingerprint != self._plan.fingerprint:
            raise PauseError(
                f"rollup {self._plan.name!r} is declared otherwise here than in the database: migrate it first"
            )
        if not await is_filled_by_ours(FilledBy.of(rules), self._plan.bucket):
            return None
        if kept_to is None:
            return todo_from, todo_to, FIRST_MOMENT
        self._bucket = seamed(self._plan.bucket, nanoseconds(kept_to))
        return todo_from, todo_to, kept_to

    async def _floor(self, connection: asyncpg.Connection) -> datetime:
        """Before it, events may be gone. It stays where it is until this transaction ends."""
        found: datetime | None = await connection.fetchval(
            f"SELECT kept_from FROM {self._namespace.named(FLOORS)}"  # noqa: S608 - quoted
            " WHERE table_name = $1 FOR SHARE",
            self._plan.table,
        )
        return found if found is not None else FIRST_MOMENT

    async def _lock(self, connection: asyncpg.Connection, starts: Sequence[int], limit: int) -> list[int]:
        """Those of `starts` that no other process has, at most `limit`."""
        rows = await connection.fetch(
            "SELECT at FROM unnest($1::bigint[], $2::bigint[]) AS bucket (at, key)"
            " WHERE pg_try_advisory_xact_lock(key) LIMIT $3",
            list(starts),
            [key(self._namespace, self._plan.name, str(start)) for start in starts],
            limit,
        )
        return [row[0] for row in rows]

    async def _replace(self, connection: asyncpg.Connection, run: Run) -> int:
        """Compute the buckets of `run` from the events; how many rows they have."""
        array, end = run.parameters
        bucket = quoted_bucket(self._plan)
        await connection.execute(f"DELETE FROM {self._own} WHERE {bucket} >= $1 AND {bucket} < $2", array[0], end)  # noqa: S608
        status = await connection.execute(
            f"INSERT INTO {self._own} ({written_columns(self._plan)}) {self._compute}",
            array,
            end,
        )
        return int(status.split()[-1])

    async def _next(self, connection: asyncpg.Connection, reached: int, end: int) -> int:
        """The first bucket from `reached` on that has an event; `end`, where there is none before."""
        time = quoted(self._time)
        found: datetime | None = await connection.fetchval(
            f"SELECT min({time}) FROM {self._namespace.named(self._plan.table)}"  # noqa: S608 - quoted
            f" WHERE {time} >= $1 AND {time} < $2",
            moment(reached),
            moment(end),
        )
        return end if found is None else self._bucket.floor(nanoseconds(found))

    async def _todo(
        self,
        connection: asyncpg.Connection,
        todo_from: datetime | None,
        todo_to: datetime | None,
        *,
        floor: datetime,
    ) -> tuple[int, int] | None:
        """The first bucket that is to be filled, and the end; None: there are no events.

        Asked for the first time, these are the buckets of all events that are stored: later ones are marked.
        """
        bucket, time = self._bucket, quoted(self._time)
        if todo_from is None or todo_to is None or (todo_from, todo_to) == (FIRST_MOMENT, LAST_MOMENT):
            first, last = await connection.fetchrow(
                f"SELECT min({time}), max({time}) FROM {self._namespace.named(self._plan.table)}"  # noqa: S608 - quoted
                f" WHERE {time} >= $1 AND {time} < $2",
                max(floor, FIRST_MOMENT),
                LAST_MOMENT,
            )
            if first is None:
                return None
            todo_from, todo_to = first, moment(bucket.after(bucket.floor(nanoseconds(last))))
        start = bucket.floor(nanoseconds(max(todo_from, floor)))
        if moment(start) < floor:
            start = bucket.after(start)
        return (start, nanoseconds(todo_to)) if start < nanoseconds(todo_to) else None


def _first(bucket: Bucket, start: int, end: int, limit: int) -> list[int]:
    """At most `limit` buckets from `start` on, those that begin before `end`."""
    found: list[int] = []
    while start < end and len(found) < limit:
        found.append(start)
        start = bucket.after(start)
    return found
