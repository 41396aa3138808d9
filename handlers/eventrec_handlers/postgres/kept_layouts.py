"""The layouts that a database keeps, in `eventrec_layouts`: read, and written before the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec_handlers._sql import LAYOUTS
from eventrec_handlers.postgres.checkpoints import creating, is_made, make_own

if TYPE_CHECKING:
    import asyncpg

    from eventrec import Layout
    from eventrec_handlers.postgres.checkpoints import Namespace


async def read_layouts(connection: asyncpg.Connection, namespace: Namespace) -> dict[str, str]:
    """What is kept: table to JSON."""
    table = namespace.named(LAYOUTS)
    async with connection.transaction(isolation="read_committed"):
        if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table):
            return {}
        rows = await connection.fetch(f"SELECT table_name::text, layout::text FROM {table}")  # noqa: S608 - quoted
    return {row[0]: row[1] for row in rows}


async def keep_layout(connection: asyncpg.Connection, namespace: Namespace, layout: Layout) -> None:
    """Keep `layout`, in a transaction of its own; the table is made where there is none."""
    table = namespace.named(LAYOUTS)
    async with creating(connection, namespace):
        # Looked for before: who may not make tables may still use the one that is there.
        if not await is_made(connection, namespace, LAYOUTS):
            await make_own(connection, namespace, LAYOUTS)
        await connection.execute(
            f"INSERT INTO {table} AS known (table_name, layout) VALUES ($1, $2) ON CONFLICT (table_name)"  # noqa: S608 - quoted
            " DO UPDATE SET layout = excluded.layout WHERE known.layout <> excluded.layout",
            layout.table,
            layout.to_json(),
        )
