"""Of how many shards a buffer is: as the first producer has said that came to it, or a relay whose URL says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec import PauseError
from eventrec_handlers.redis.keys import shard_keys, shards_key
from eventrec_handlers.redis.options import MAX_SHARDS

if TYPE_CHECKING:
    from eventrec_handlers.redis.connection import Connection


async def shard_count(connection: Connection, *, known: int = 0, claims: bool) -> tuple[int, bool]:
    """How many shards the buffer has, and whether that stands in Redis.

    Where it does not, they are as many as the URL says, else as were `known` here before, else one; with `claims` that
    is written. Who only reads a buffer claims nothing, and goes by what others do.

    Raises:
        PauseError: It is not what the URL says, or not known any more.
        DeliveryError: As `Connection.call`.
    """
    target = connection.target
    asked, key = target.shards, shards_key(target.stream)
    stored = await connection.call("GET", key)
    if stored is None:
        if not asked and not known and await _has_several(connection):
            raise PauseError(f"{target}: {key} is gone; say in the URL how many shards the buffer has")
        count = asked or known or 1
        if not claims:
            return count, False
        await connection.call("SET", key, count, "NX")
        stored = await connection.call("GET", key)
    found = int(stored) if stored is not None and stored.isdigit() else 0
    if not 0 < found <= MAX_SHARDS:
        raise PauseError(f"{target}: {key} holds what is not ours: {stored!r:.100}")
    if asked not in {0, found}:
        raise PauseError(f"{target}: the buffer has {found} shards, the URL says {asked}")
    return found, True


async def _has_several(connection: Connection) -> bool:
    """Whether there is a buffer of several shards, though it is not known of how many."""
    first = shard_keys(connection.target.stream, 0, 2)
    try:
        return bool(await connection.call("EXISTS", first.meta, first.origins, first.subscriptions))
    except PauseError:  # rights for the keys of a single shard alone
        return False
