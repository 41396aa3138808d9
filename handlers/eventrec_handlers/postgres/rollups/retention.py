"""The floor of a table: the moment before which its events may be removed, because every rollup has counted them.

It is raised in the transaction that removes events, and only as far as no bucket waits: what a rollup lacks is never
removed. From then on buckets that begin before it are never computed again, whatever arrives for them.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.rollups.refreshing import bucket_of_row, moment, nanoseconds
from eventrec_handlers.postgres.rollups.tables import DIRTY, FIRST, FLOORS, PENDING, ROLLUPS

if TYPE_CHECKING:
    import asyncpg

    from eventrec_handlers.postgres.checkpoints import Namespace

_FIRST: Final = datetime.fromisoformat(FIRST)

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
    waiting = await connection.fetch(
        f"WITH floor AS (SELECT coalesce(max(kept_from), $2) AS at FROM {named(FLOORS)} WHERE table_name = $1),"  # noqa: S608 - quoted
        f" mine AS (SELECT name, todo_from FROM {named(ROLLUPS)} WHERE table_name = $1)"
        " SELECT at, name FROM ("
        " SELECT todo_from AS at, name FROM mine WHERE todo_from IS NOT NULL"
        f" UNION ALL SELECT min(bucket), rollup FROM {named(PENDING)}, floor"
        " WHERE rollup IN (SELECT name FROM mine) AND bucket >= floor.at GROUP BY rollup"
        f" UNION ALL SELECT (SELECT min(since) FROM {named(DIRTY)}, floor"
        " WHERE table_name = $1 AND since >= floor.at), name FROM mine"
        ") AS waiting WHERE at IS NOT NULL ORDER BY at, name LIMIT 1",
        table,
        _FIRST,
    )
    needed = [(at, f"rollup {name!r} has not counted its events yet: refresh it") for at, name in waiting]
    for name, unit, every, zone in await connection.fetch(
        f"SELECT name, unit, every, zone FROM {named(ROLLUPS)} WHERE table_name = $1",  # noqa: S608 - quoted
        table,
    ):
        start = bucket_of_row(unit, every, zone).floor(nanoseconds(now))
        needed.append((moment(start), f"a bucket of rollup {name!r} has not ended"))
    return min(needed, default=None)


async def delete_old(
    connection: asyncpg.Connection, namespace: Namespace, table: str, column: str, *, before: datetime, now: datetime
) -> tuple[int, str | None]:
    """Delete a slice of what is older than `before` from a table without partitions; how many rows, and why no more."""
    await connection.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {namespace.lock_timeout}")
    needed = await first_needed(connection, namespace, table, now=now)
    end = before if needed is None else min(before, needed[0])
    if end > _FIRST:
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
