"""Redis as a bus: what relays read, take over from one another, and compute sessions on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from eventrec import PauseError
from eventrec.bus import Bus, Presence, ShardsChangedError
from eventrec_handlers._thread import WorkThread
from eventrec_handlers.redis.connection import Connection
from eventrec_handlers.redis.keys import relays_key, shard_keys, shards_key
from eventrec_handlers.redis.options import TARGET_NAMES, Target, parsed_url
from eventrec_handlers.redis.relay_scripts import relay_scripts
from eventrec_handlers.redis.shard import RedisShard
from eventrec_handlers.redis.shard_count import shard_count
from eventrec_handlers.redis.stages import OutletBounds
from eventrec_handlers.redis.steps import milliseconds

if TYPE_CHECKING:
    from collections.abc import Sequence

_BOUNDS: Final = ("max_bytes", "max_records")
_OF_PRODUCERS: Final = ("heartbeat_by", "notice_by", "notices", "overflow", "shard_by")


class RedisBus(Bus):
    """The buffer of `target`. `max_records` and `max_bytes` bound what each stage's outlet holds; 0: nothing does."""

    def __init__(self, target: Target, *, max_records: int = 0, max_bytes: int = 0) -> None:
        self.target = target
        self._bounds = OutletBounds(max_records, max_bytes)
        self._connection = Connection(target)
        self._shards: list[RedisShard] = []
        self._is_claimed = False

    def __repr__(self) -> str:
        return f"<RedisBus {self.target} {'open' if self._connection.is_open else 'closed'}>"

    async def open(self) -> None:
        thread = WorkThread("eventrec-redis")
        try:
            await thread.run(relay_scripts)
        finally:
            thread.end()
        await self._connection.open()
        try:
            await self._find_shards()
        except BaseException:
            await self._connection.close()
            raise

    async def close(self) -> None:
        await self._connection.close()

    async def shards(self) -> Sequence[RedisShard]:
        if not self._is_claimed and self._connection.is_open:
            await self._find_shards()
        return self._shards

    async def announce(self, subscription: str, presence: Presence, *, seconds: float) -> Sequence[Presence]:
        name = self.target.stream
        count, *found = await self._connection.run(
            relay_scripts()["announce"],
            [relays_key(name, subscription), shards_key(name)],
            [presence.holder, milliseconds(seconds), presence.served, presence.bound],
        )
        if count and self._shards and count != str(len(self._shards)).encode():
            raise self._changed(count.decode(errors="replace"))
        return [Presence(holder.decode(), int(served), int(bound)) for holder, served, bound in found]

    async def _find_shards(self) -> None:
        """As many as the buffer has. A caller that only looks does not say how many, unless the URL does."""
        name, is_said = self.target.stream, self.target.shards > 0
        count, is_claimed = await shard_count(self._connection, known=len(self._shards), claims=is_said)
        if len(self._shards) != count:
            made = [
                RedisShard(
                    self._connection,
                    shard_keys(name, number, count),
                    name if count == 1 else f"{name}:{number}",
                    bounds=self._bounds,
                    claim=partial(self._claim, count),
                )
                for number in range(count)
            ]
            await self._check_left(made)
            self._shards = made
        self._is_claimed = is_claimed

    async def _check_left(self, made: Sequence[RedisShard]) -> None:
        """What is in the shards that were, and are not among `made`, would never be read.

        Raises:
            PauseError: There is something.
        """
        names = {shard.name for shard in made}
        left = {shard.name: await shard.left() for shard in self._shards if shard.name not in names}
        if any(left.values()):
            held = ", ".join(f"{name} holds {records:,} records" for name, records in left.items() if records)
            key = shards_key(self.target.stream)
            raise PauseError(
                f"{self.target}: the buffer has {len(made)} shards by now, not {len(self._shards)}, and {held}: "
                f"set {key} to {len(self._shards)} until they are delivered, or delete them"
            )

    async def _claim(self, served: int) -> None:
        """Before a lease is given: the buffer is of as many shards as are `served`, as far as that was said.

        A relay whose URL does not say it leaves it to producers, and follows them.

        Raises:
            ShardsChangedError: It was made again, with another number of them.
        """
        is_said = self.target.shards > 0
        count, self._is_claimed = await shard_count(self._connection, known=served, claims=is_said)
        if count != served:
            raise self._changed(str(count))

    def _changed(self, count: str) -> ShardsChangedError:
        return ShardsChangedError(f"{self.target}: the buffer has {count:.20} shards by now, not {len(self._shards)}")


def from_bus_url(url: str) -> RedisBus:
    """The bus at the URL that producers have; what concerns them alone is left aside.

    `max_records` and `max_bytes` bound the outlet of each stage, too.

    Raises:
        HandlerURLError: An option is unknown, or a value is not allowed.
    """
    parsed = parsed_url(url)
    parts = ("path",) if parsed.scheme == "redis+unix" else ("host", "port", "path")
    parsed.accept(*TARGET_NAMES, *_BOUNDS, *_OF_PRODUCERS, parts=("user", "password", *parts))
    return RedisBus(
        Target.of(parsed),
        max_records=parsed.integer("max_records", default=0),
        max_bytes=parsed.integer("max_bytes", default=0),
    )
