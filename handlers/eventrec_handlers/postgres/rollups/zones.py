"""Rollups whose table was filled by other rules of its zone than this machine has: one machine fills them again.

What begins before the floor of their table stays as it was counted: its events may be gone. It ends where the last such
bucket ended by the rules that counted it (`kept_to`). There the next bucket begins, whatever the present rules say: no
event is counted twice, and none is left out.

Locks are taken in one order: the marks of a table, its floor, its rollups, what waits for them, and their tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import anyio.to_thread

from eventrec_handlers._sql.refreshing import bucket_of_row
from eventrec_handlers._sql.zone_rules import FilledBy, held_remark, refilled_remark
from eventrec_handlers.postgres.rollups.locks import begin, lock_marks
from eventrec_handlers.postgres.rollups.moments import FIRST_MOMENT, moment, nanoseconds, quoted_bucket
from eventrec_handlers.postgres.rollups.tables import FIRST, FLOORS, LAST, PENDING, ROLLUPS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    import asyncpg

    from eventrec.analytics import Bucket, RollupPlan
    from eventrec_handlers.postgres.checkpoints import Namespace

T = TypeVar("T")

NOTED: Final = "to_jsonb(known) ->> 'rules' AS rules, (to_jsonb(known) ->> 'kept_to')::timestamptz AS kept_to"
"""Of a row of `eventrec_rollups`, called `known`, in SQL; also where an earlier version has made that table."""

_ZONED: Final = f"""
SELECT name, unit, every, zone, todo_from, coalesce((to_jsonb(known) ->> 'refresh_every')::float8, 3600),
    coalesce(abs(extract(epoch FROM now() - (to_jsonb(known) ->> 'refreshed_at')::timestamptz)), 0)::float8, {NOTED}
FROM"""  # noqa: S608 - ours


@dataclass(frozen=True, slots=True)
class Zoned:
    """A rollup that the database has, and its zone.

    Attributes:
        name: Of the rollup.
        bucket: How time is parted from `kept_to` on.
        filled_by: By which rules of its zone its table is filled.
        rested: How many seconds ago it was refreshed.
        kept_to: Where the last bucket ends that begins before the floor of the table; None: it is not noted.
        was_filled: Whether its table holds anything: filling it has begun.
    """

    name: str
    bucket: Bucket
    filled_by: FilledBy
    rested: float
    kept_to: datetime | None
    was_filled: bool

    @property
    def is_ours(self) -> bool:
        """Whether it is filled by the rules of its zone that this machine has."""
        return self.filled_by.is_ours(self.bucket)

    @property
    def is_held(self) -> bool:
        """Whether others refresh it, by other rules."""
        return self.filled_by.is_held(self.bucket, rested=self.rested)


async def zoned(connection: asyncpg.Connection, namespace: Namespace, where: str, *values: object) -> list[Zoned]:
    """The rollups that the database has, by name, those that are meant by `where`, a condition in SQL."""
    rows = await connection.fetch(f"{_ZONED} {namespace.named(ROLLUPS)} AS known WHERE {where} ORDER BY name", *values)
    return [
        Zoned(
            name,
            await bucket_of(unit, every, zone, kept_to),
            FilledBy.of(rules, refresh_every=refresh_every),
            rested,
            kept_to,
            todo_from is None or todo_from > FIRST_MOMENT,
        )
        for name, unit, every, zone, todo_from, refresh_every, rested, rules, kept_to in rows
    ]


async def bucket_of(unit: str, every: int, zone: str, kept_to: datetime | None) -> Bucket:
    """The bucket that a row of `eventrec_rollups` is about, with what its zone's rules are.

    Raises:
        PauseError: Its zone is not known on this machine.
    """
    seam = None if kept_to is None else nanoseconds(kept_to)

    def made() -> Bucket:
        bucket = bucket_of_row(unit, every, zone, seam)
        _ = bucket.rules
        return bucket

    return await _with_rules(zone, made)


async def is_filled_by_ours(filled_by: FilledBy, bucket: Bucket) -> bool:
    """Whether these are the rules of its zone that this machine has."""
    return await _with_rules(bucket.zone, lambda: filled_by.is_ours(bucket))


async def _with_rules(zone: str, work: Callable[[], T]) -> T:
    """What `work` gives, which asks for the rules of `zone`: the first time its file is read, and they are digested."""
    return work() if zone == "UTC" else await anyio.to_thread.run_sync(work)


async def ruled_by_others(
    connection: asyncpg.Connection, namespace: Namespace, plans: Sequence[RollupPlan]
) -> set[str]:
    """The names of those of `plans` whose tables other rules of their zone have filled."""
    found = await zoned(connection, namespace, "name = ANY ($1)", [plan.name for plan in plans])
    return {each.name for each in found if not each.is_ours}


async def take_over(connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan) -> str | None:
    """Have `plan` counted by the rules of its zone that this machine has, unless others refresh it by theirs.

    On a connection in no transaction. What an operator is told; None: nothing has changed.
    """
    before = await zoned(connection, namespace, "name = $1 AND fingerprint = $2", plan.name, plan.fingerprint)
    if not before or before[0].is_ours:
        return None
    rollups, pending = namespace.named(ROLLUPS), namespace.named(PENDING)
    await begin(connection, namespace, plan.table, plan.name)
    await lock_marks(connection, namespace, plan.table)
    floor = await lock_floor(connection, namespace, plan.table)
    await connection.execute(f"SELECT FROM {rollups} WHERE name = $1 FOR UPDATE", plan.name)
    found = await zoned(connection, namespace, "name = $1 AND fingerprint = $2", plan.name, plan.fingerprint)
    if not found or found[0].is_ours:
        await connection.execute("ROLLBACK")
        return None
    (known,) = found
    if not known.filled_by.may_fill(plan.bucket, rested=known.rested):
        await connection.execute("ROLLBACK")
        return held_remark(plan)
    kept_to = known.kept_to
    if kept_to is None and floor > FIRST_MOMENT:
        kept_to = moment(plan.bucket.ceiling(nanoseconds(floor)))
    await connection.execute(
        f"WITH gone AS (DELETE FROM {pending} WHERE rollup = $1 RETURNING bucket, rows)"  # noqa: S608 - quoted
        f" UPDATE {rollups} SET rules = $2, kept_to = $3, todo_from = '{FIRST}', todo_to = '{LAST}',"
        " late_rows = late_rows + (SELECT coalesce(sum(rows), 0)::bigint FROM gone WHERE bucket < $4) WHERE name = $1",
        plan.name,
        known.filled_by.replaced(plan.bucket),
        kept_to,
        floor if kept_to is None else max(floor, kept_to),
    )
    # After what waits, as whatever else locks both: so does what makes a table.
    await connection.execute(
        f"DELETE FROM {namespace.named(plan.name)} WHERE {quoted_bucket(plan)} >= $1",  # noqa: S608 - quoted
        floor,
    )
    await connection.execute("COMMIT")
    return refilled_remark(plan, known.filled_by) if known.was_filled else None


async def lock_floor(connection: asyncpg.Connection, namespace: Namespace, table: str) -> datetime:
    """The floor of `table`: nothing raises it, fills a rollup, or takes one over, until this transaction ends."""
    found: datetime | None = await connection.fetchval(
        f"SELECT kept_from FROM {namespace.named(FLOORS)} WHERE table_name = $1 FOR UPDATE",  # noqa: S608 - quoted
        table,
    )
    return FIRST_MOMENT if found is None else max(found, FIRST_MOMENT)


async def note_floor(connection: asyncpg.Connection, namespace: Namespace, table: str, floor: datetime) -> None:
    """Note where the buckets end that begin before `floor`, that of `table`; in a transaction that has locked it."""
    for each in await zoned(connection, namespace, "table_name = $1", table):
        if each.bucket.rules is not None and each.is_ours:
            await connection.execute(
                f"UPDATE {namespace.named(ROLLUPS)} SET kept_to = greatest(kept_to, $2) WHERE name = $1",  # noqa: S608 - quoted
                each.name,
                moment(each.bucket.ceiling(nanoseconds(floor))),
            )
