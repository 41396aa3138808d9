"""The floor of a table: the moment before which its events may be removed, because every rollup has counted them.

It is raised in the transaction that removes events, and only as far as no bucket waits: what a rollup lacks is never
removed. From then on buckets that begin before it are never computed again, whatever arrives for them.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.checkpoints import literal
from eventrec_handlers.postgres.rollups.moments import FIRST_MOMENT, bucket_of_row, moment, nanoseconds
from eventrec_handlers.postgres.rollups.tables import DIRTY, FLOORS, PENDING, ROLLUPS

if TYPE_CHECKING:
    import asyncpg

    from eventrec_handlers.postgres.checkpoints import Namespace

SLICE: Final = 20_000
"""Rows deleted in one transaction."""


async def raise_floor(
    connection: asyncpg.Connection, namespace: Namespace, table: str, end: datetime, *, now: datetime
) -> str | None:
    """Raise the floor of `table` to `end`, inside a transaction; or why it cannot be: a rollup needs what is below.

    To be asked for when no transaction is left that stores rows below `end`, or when these may come too late.
    """
    needed = await first_needed(connection, namespace, table, now=now)
    if needed is not None and needed[0] < end:
        return needed[1]
    await set_floor(connection, namespace, table, end)
    return None


async def set_floor(connection: asyncpg.Connection, namespace: Namespace, table: str, end: datetime) -> None:
    """Raise the floor, if the table has one: it has, once it has a rollup."""
    if await _has_rollups(connection, namespace):
        await connection.execute(
            f"UPDATE {namespace.named(FLOORS)} SET kept_from = greatest(kept_from, $2) WHERE table_name = $1",  # noqa: S608 - quoted
            table,
            end,
        )


async def first_needed(
    connection: asyncpg.Connection, namespace: Namespace, table: str, *, now: datetime
) -> tuple[datetime, str] | None:
    """The first moment whose events a rollup of `table` still needs, and why; None: there is no rollup.

    It needs what it has not counted, and what is in a bucket that has not ended.
    """
    if not await _has_rollups(connection, namespace):
        return None
    named = namespace.named
    rows = await connection.fetch(
        f"WITH floor AS (SELECT coalesce(max(kept_from), $2) AS at FROM {named(FLOORS)} WHERE table_name = $1)"  # noqa: S608 - quoted
        " SELECT name, unit, every, zone, todo_from,"
        f" (SELECT min(bucket) FROM {named(PENDING)} WHERE rollup = name AND bucket >= floor.at) AS pending,"
        f" (SELECT min(since) FROM {named(DIRTY)} WHERE table_name = $1 AND since >= floor.at) AS marked"
        f" FROM {named(ROLLUPS)}, floor WHERE table_name = $1 ORDER BY name",
        table,
        FIRST_MOMENT,
    )
    needed: list[tuple[datetime, str]] = []
    for name, unit, every, zone, todo_from, pending, marked in rows:
        bucket = bucket_of_row(unit, every, zone)
        # A mark needs all of its bucket: not only what comes after it.
        of_mark = None if marked is None else moment(bucket.floor(nanoseconds(marked)))
        needed += [
            (at, f"rollup {name!r} has not counted its events yet: refresh it")
            for at in (todo_from, pending, of_mark)
            if at is not None
        ]
        needed.append((moment(bucket.floor(nanoseconds(now))), f"a bucket of rollup {name!r} has not ended"))
    return min(needed, default=None)


async def floor_for_ttl(connection: asyncpg.Connection, namespace: Namespace, table: str, ttl: float) -> str | None:
    """Raise the floor of `table` for a deletion of what is older than `ttl` seconds, inside its transaction.

    The moment before which rows may be deleted, in SQL; None: the table has no rollup, so nothing limits it.
    """
    if not await _has_rollups(connection, namespace):
        return None
    present = await connection.fetchval("SELECT now()")
    needed = await first_needed(connection, namespace, table, now=present)
    if needed is None:
        return None
    end = max(min(present - timedelta(seconds=ttl), needed[0]), FIRST_MOMENT)
    await set_floor(connection, namespace, table, end)
    return f"{literal(end.isoformat())}::timestamptz"


async def delete_old(
    connection: asyncpg.Connection, namespace: Namespace, table: str, column: str, *, before: datetime, now: datetime
) -> tuple[int, str | None]:
    """Delete a slice of what is older than `before` from a table without partitions; how many rows, and why no more."""
    await connection.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {namespace.lock_timeout}")
    needed = await first_needed(connection, namespace, table, now=now)
    end = before if needed is None else min(before, needed[0])
    if end > FIRST_MOMENT:
        await set_floor(connection, namespace, table, end)
    name = namespace.named(table)
    slice_ = f"SELECT ctid FROM {name} WHERE {quoted(column)} < $1 LIMIT {SLICE}"  # noqa: S608 - quoted
    status = await connection.execute(
        f"DELETE FROM {name} WHERE ctid = ANY (ARRAY({slice_})) AND {quoted(column)} < $1",  # noqa: S608 - quoted
        end,
    )
    await connection.execute("COMMIT")
    why = None if needed is None or needed[0] >= before else needed[1]
    return int(status.split()[-1]), why


async def _has_rollups(connection: asyncpg.Connection, namespace: Namespace) -> bool:
    found: bool = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", namespace.named(ROLLUPS))
    return found
