"""Transactions of a refresh, from which no row is hidden, and the advisory locks that keep them apart."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from eventrec_handlers.postgres.checkpoints import literal
from eventrec_handlers.postgres.rollups.tables import OWN

if TYPE_CHECKING:
    from collections.abc import Iterable

    import asyncpg

    from eventrec_handlers.postgres.checkpoints import Namespace


async def begin(connection: asyncpg.Connection, namespace: Namespace, table: str, *rollups: str) -> None:
    """Begin a transaction each of whose statements sees what was committed before it: all of it, or it is refused.

    `table` is that of the events, `rollups` are those whose own tables are written.
    """
    await connection.execute(
        f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {namespace.lock_timeout};"
        + seeing_all(namespace, read=(table,), written=(*OWN, *rollups))
    )


def seeing_all(namespace: Namespace, *, read: Iterable[str], written: Iterable[str] = ()) -> str:
    """The statement from which on, until the transaction ends, the server refuses (42501) instead of hiding rows.

    It refuses whatever row-level security concerns this role, which is right unless policies show the role all rows:
    if that is so of each of these tables that it concerns, nothing changes.
    """
    tables = [f"({literal(namespace.named(name))}, 'r')" for name in read]
    tables += [f"({literal(namespace.named(name))}, '*')" for name in written]
    # Where it concerns none of them it is switched off all the same: it may be enabled before they are read.
    return (
        f"WITH concerned AS (SELECT * FROM (SELECT to_regclass(name) AS at, command FROM (VALUES {', '.join(tables)})"  # noqa: S608 - quoted
        " AS named (name, command)) AS asked WHERE row_security_active(at)),"
        " policies AS (SELECT polrelid AS of, polcmd, polpermissive,"
        " pg_get_expr(polqual, polrelid) IS NOT DISTINCT FROM 'true' AS shows_all"
        " FROM pg_policy WHERE polrelid IN (SELECT at FROM concerned) AND polcmd <> 'a'"
        " AND EXISTS (SELECT FROM unnest(polroles) AS role WHERE role = 0 OR pg_has_role(role, 'USAGE')))"
        " SELECT set_config('row_security', CASE WHEN bool_and("
        "EXISTS (SELECT FROM policies WHERE of = at AND polpermissive AND shows_all AND polcmd IN ('*', command))"
        " AND NOT EXISTS (SELECT FROM policies WHERE of = at AND NOT polpermissive AND NOT shows_all)"
        ") THEN current_setting('row_security') ELSE 'off' END, true) FROM concerned"
    )


async def lock_marks(connection: asyncpg.Connection, namespace: Namespace, table: str) -> None:
    """Have nothing else distribute the marks of `table` until this transaction ends."""
    await connection.fetchval(f"SELECT pg_advisory_xact_lock({key(namespace, 'distribute', table)})")


def key(namespace: Namespace, *of: str) -> int:
    """The number of an advisory lock."""
    said = "\0".join(("eventrec", namespace.namespace, *of))
    return int.from_bytes(blake2b(said.encode(), digest_size=8).digest(), signed=True)
