"""The floor of a table: the moment before which its events may be removed, because every rollup has counted them.

It is raised in the transaction that removes events, and only as far as no bucket waits: what a rollup lacks is never
removed. From then on buckets that begin before it are never computed again, whatever arrives for them.

It is at a whole quarter of an hour, as marks are: what one mark is about is below the floor, or above.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import asyncpg

from eventrec_handlers._sql import quoted
from eventrec_handlers._sql.refreshing import QUARTER
from eventrec_handlers._sql.zone_rules import FilledBy
from eventrec_handlers.postgres.checkpoints import literal
from eventrec_handlers.postgres.chunks import chunks_of
from eventrec_handlers.postgres.errors import brief, is_about_table
from eventrec_handlers.postgres.rollups.locks import begin
from eventrec_handlers.postgres.rollups.moments import FIRST_MOMENT, moment, nanoseconds
from eventrec_handlers.postgres.rollups.registry import is_marked
from eventrec_handlers.postgres.rollups.tables import DIRTY, EVERYTHING, FLOORS, PENDING, ROLLUPS
from eventrec_handlers.postgres.rollups.zones import NOTED, bucket_of, lock_floor, note_floor

if TYPE_CHECKING:
    from eventrec_handlers.postgres.checkpoints import Namespace

SLICE: Final = 20_000
"""Rows deleted in one transaction."""

_TABLES: Final = ("r", "p")
_HELD_AS: Final = "timestamp with time zone"

_FOUND: Final = """
SELECT c.relkind::text,
    (SELECT format_type(a.atttypid, NULL) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attname::text = $2 AND NOT a.attisdropped AND a.attnum > 0),
    (SELECT min(f.conrelid::regclass::text) FROM pg_constraint f
        WHERE f.confrelid = c.oid AND f.contype = 'f' AND f.confdeltype NOT IN ('a', 'r'))
FROM pg_class c WHERE c.oid = to_regclass($1)
"""


async def raise_floor(
    connection: asyncpg.Connection, namespace: Namespace, table: str, end: datetime, *, now: datetime
) -> str | None:
    """Raise the floor of `table` to `end`, inside a transaction; or why it cannot be: a rollup needs what is below.

    To be asked for when no transaction is left that stores rows below `end`, or when these may come too late.
    """
    if await _has_rollups(connection, namespace):
        needed = await first_needed(connection, namespace, table, now=now)
        if needed is None or needed[0] >= end:  # else it is not waited for those that refresh
            await lock_floor(connection, namespace, table)
            needed = await first_needed(connection, namespace, table, now=now)
        if needed is not None and needed[0] < end:
            return needed[1]
    await set_floor(connection, namespace, table, end)
    return None


async def set_floor(connection: asyncpg.Connection, namespace: Namespace, table: str, end: datetime) -> None:
    """Raise the floor, if the table has one: it has, once it has a rollup."""
    if await _has_rollups(connection, namespace):
        floor = await connection.fetchval(
            f"UPDATE {namespace.named(FLOORS)} SET kept_from = greatest(kept_from, $2) WHERE table_name = $1"  # noqa: S608 - quoted
            " RETURNING kept_from",
            table,
            end,
        )
        if floor is not None:
            await note_floor(connection, namespace, table, floor)


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
        f" SELECT name, unit, every, zone, todo_from, {NOTED}, floor.at,"
        f" (SELECT min(bucket) FROM {named(PENDING)} WHERE rollup = name AND bucket >= floor.at) AS pending,"
        f" (SELECT min(since) FROM {named(DIRTY)} WHERE table_name = $1"
        f" AND since > floor.at - interval '15 minutes' AND since < '{EVERYTHING}') AS marked,"
        f" EXISTS (SELECT FROM {named(DIRTY)} WHERE table_name = $1 AND since = '{EVERYTHING}') AS is_marked_whole"
        f" FROM {named(ROLLUPS)} AS known, floor WHERE table_name = $1 ORDER BY name",
        table,
        FIRST_MOMENT,
    )
    needed: list[tuple[datetime, str]] = []
    if rows and not await is_marked(connection, namespace, table):
        needed.append((FIRST_MOMENT, f"what arrives is not noticed: refresh rollup {rows[0][0]!r}"))
    for name, unit, every, zone, todo_from, rules, kept_to, floor, pending, marked, is_marked_whole in rows:
        bucket = await bucket_of(unit, every, zone, kept_to)
        is_ours = FilledBy.of(rules).is_ours(bucket)
        # A mark needs all of its bucket: not only what comes after it.
        of_mark = None if marked is None else moment(bucket.floor(nanoseconds(marked)))
        needed += [
            (at, f"rollup {name!r} has not counted its events yet: refresh it")
            for at in (todo_from if is_ours and not is_marked_whole else floor, pending, of_mark)
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
    await lock_floor(connection, namespace, table)
    present = await connection.fetchval("SELECT now()")
    needed = await first_needed(connection, namespace, table, now=present)
    if needed is None:
        return None
    end = max(_quarter(min(present - timedelta(seconds=ttl), needed[0])), FIRST_MOMENT)
    await set_floor(connection, namespace, table, end)
    return f"{literal(end.isoformat())}::timestamptz"


def _quarter(at: datetime) -> datetime:
    """The quarter of an hour that `at` is in, which begins there or before."""
    return moment(nanoseconds(at) // QUARTER * QUARTER)


async def remove_old(
    connection: asyncpg.Connection, namespace: Namespace, table: str, column: str, *, kept: timedelta, now: datetime
) -> str | None:
    """Delete what a table without partitions of ours keeps longer than `kept`; why something is left, in words.

    In slices, each a transaction of its own. Where rows cannot be removed without harm to others, none are.
    """
    why = await _why_kept(connection, namespace, table, column, kept)
    is_more = why is None
    while is_more:
        try:
            is_more, why = await _delete_slice(connection, namespace, table, column, before=now - kept, now=now)
        except asyncpg.PostgresError as exc:
            # The table, what refers to it, or its triggers refuse: the rollups are refreshed all the same.
            if not is_about_table(exc, connection):
                raise
            await connection.execute("ROLLBACK")
            return f"old rows are not removed: {brief(exc)}"
    return why or None


async def _why_kept(
    connection: asyncpg.Connection, namespace: Namespace, table: str, column: str, kept: timedelta
) -> str | None:
    """Why no row may be deleted: in words, or "" where there is nothing to say; None: they may be."""
    async with connection.transaction(isolation="read_committed"):
        found = await connection.fetchrow(_FOUND, namespace.named(table), column)
        chunks = await chunks_of(connection, namespace, table, kept.total_seconds(), time=column)
    if found is None:
        return ""
    kind, held_as, referring = found
    if chunks is not None:
        return (
            "" if chunks.has_policy else "old rows are not removed: it is a hypertable: give it a policy of retention"
        )
    if kind not in _TABLES:
        return "old rows are not removed: it is a view, or a table of another server"
    if held_as != _HELD_AS:
        return f"old rows are not removed: its column {column!r} is {held_as or 'not there'}, not {_HELD_AS}"
    if referring is not None:
        return f"old rows are not removed: rows of {referring!r} refer to them, and would be changed or deleted too"
    return None


async def _delete_slice(
    connection: asyncpg.Connection, namespace: Namespace, table: str, column: str, *, before: datetime, now: datetime
) -> tuple[bool, str | None]:
    """Delete a slice of what is older than `before`; whether there may be more, and why others are left."""
    await begin(connection, namespace, table)
    if await _has_rollups(connection, namespace):
        await lock_floor(connection, namespace, table)
    needed = await first_needed(connection, namespace, table, now=now)
    end = before if needed is None else _quarter(min(before, needed[0]))
    if end > FIRST_MOMENT:
        await set_floor(connection, namespace, table, end)
    name = namespace.named(table)
    # Refused, where rows of it are hidden. What its triggers do is none of ours, and may be under policies.
    await connection.execute(f"SELECT FROM {name} WHERE false; SET LOCAL row_security TO DEFAULT")
    # A ctid is a place in one partition: others have rows there too, and those that are old may go with them.
    seen, deleted = await connection.fetchrow(
        f"WITH old AS MATERIALIZED (SELECT ctid FROM {name} WHERE {quoted(column)} < $1 LIMIT {SLICE}),"  # noqa: S608 - quoted
        f" gone AS (DELETE FROM {name} WHERE ctid = ANY (ARRAY(SELECT ctid FROM old)) AND {quoted(column)} < $1"
        " RETURNING 1) SELECT (SELECT count(*) FROM old), (SELECT count(*) FROM gone)",
        end,
    )
    await connection.execute("COMMIT")
    if seen and not deleted:
        return False, "the server deletes none of its old rows: see its triggers and policies"
    return bool(seen), None if needed is None or needed[0] >= before else needed[1]


async def _has_rollups(connection: asyncpg.Connection, namespace: Namespace) -> bool:
    found: bool = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", namespace.named(ROLLUPS))
    return found
