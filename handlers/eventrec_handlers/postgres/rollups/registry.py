"""What the database knows of rollups: whether it has them, and when they were refreshed.

So many processes refresh each of them once in its time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec_handlers.postgres.rollups.tables import ROLLUPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from eventrec.analytics import RollupPlan
    from eventrec_handlers.postgres.checkpoints import Namespace


async def is_there(connection: asyncpg.Connection, namespace: Namespace) -> bool:
    """Whether anything was ever rolled up here."""
    found: bool = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", namespace.named(ROLLUPS))
    return found


async def is_registered(connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan) -> bool:
    """Whether the rollup has its tables."""
    if not await is_there(connection, namespace):
        return False
    found: bool = await connection.fetchval(
        f"SELECT EXISTS (SELECT FROM {namespace.named(ROLLUPS)} WHERE name = $1)",  # noqa: S608 - quoted
        plan.name,
    )
    return found


async def note_refreshed(connection: asyncpg.Connection, namespace: Namespace, plans: Sequence[RollupPlan]) -> None:
    """A refresh of `plans` begins now. A row that another process works on is passed over: it is being filled."""
    await _note(connection, namespace, plans, "true")


async def rollups_of_others(
    connection: asyncpg.Connection, namespace: Namespace, plans: Sequence[RollupPlan]
) -> set[str]:
    """The names of those of `plans` that other processes refresh; the others are claimed, and noted as refreshed now.

    A claim holds for the time between two refreshes of that rollup. What is not filled yet belongs to no process.
    """
    claimed = await _note(
        connection,
        namespace,
        plans,
        "todo_from IS NOT NULL OR refreshed_at <= now() - seconds * interval '1 second'",
    )
    rows = await connection.fetch(
        f"SELECT name FROM {namespace.named(ROLLUPS)} WHERE name = ANY ($1)",  # noqa: S608 - quoted
        [plan.name for plan in plans],
    )
    return {row[0] for row in rows} - claimed


async def _note(
    connection: asyncpg.Connection, namespace: Namespace, plans: Sequence[RollupPlan], condition: str
) -> set[str]:
    rollups = namespace.named(ROLLUPS)
    rows = await connection.fetch(
        "WITH asked AS (SELECT known.name, seconds FROM unnest($1::text[], $2::float8[]) AS given (name, seconds)"  # noqa: S608 - quoted
        f" JOIN {rollups} AS known ON known.name = given.name WHERE {condition}"
        " FOR NO KEY UPDATE OF known SKIP LOCKED)"
        f" UPDATE {rollups} AS noted SET refreshed_at = now(), refresh_every = asked.seconds"
        " FROM asked WHERE noted.name = asked.name RETURNING noted.name",
        [plan.name for plan in plans],
        [plan.refresh.every for plan in plans],
    )
    return {row[0] for row in rows}
