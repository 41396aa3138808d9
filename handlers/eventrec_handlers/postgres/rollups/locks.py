"""Transactions of a refresh, and the advisory locks that keep them apart."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg

    from eventrec_handlers.postgres.checkpoints import Namespace


async def begin(connection: asyncpg.Connection, namespace: Namespace) -> None:
    """Begin a transaction each of whose statements sees what was committed before it."""
    await connection.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {namespace.lock_timeout}")


async def lock_marks(connection: asyncpg.Connection, namespace: Namespace, table: str) -> None:
    """Have nothing else distribute the marks of `table` until this transaction ends."""
    await connection.fetchval(f"SELECT pg_advisory_xact_lock({key(namespace, 'distribute', table)})")


def key(namespace: Namespace, *of: str) -> int:
    """The number of an advisory lock."""
    said = "\0".join(("eventrec", namespace.namespace, *of))
    return int.from_bytes(blake2b(said.encode(), digest_size=8).digest(), signed=True)
