"""Appends to one shard: to its current log, within its bounds, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from eventrec import FencedError, TransientError
from eventrec.bus import new_log_id
from eventrec_handlers.redis.scripts import script
from eventrec_handlers.redis.shard_sizes import ShardSizes

if TYPE_CHECKING:
    from eventrec_handlers.redis.commits import Part
    from eventrec_handlers.redis.connection import Connection
    from eventrec_handlers.redis.keys import ShardKeys

RedisOverflow: TypeAlias = Literal["refuse", "drop_oldest"]

_TRIES: Final = 64
"""How often an append is tried while others begin logs, or fill the room that was made."""

_DROPPED_AT_ONCE: Final = 64
"""Commits that one call removes: a server must not stand still for long."""

_RETIRED_MS: Final = 30 * 24 * 3_600 * 1_000
"""How long a finished origin is kept."""

_SWEPT_AT_ONCE: Final = 100


class ShardWriter:
    """Appends batches of producers to one shard.

    `max_records` and `max_bytes` bound what it holds in all its logs, 0 does not: `overflow="refuse"` takes no more
    than that, `"drop_oldest"` makes room. A batch larger than the bound goes into an empty shard. `channel` is where
    notices are published.
    """

    def __init__(
        self,
        connection: Connection,
        keys: ShardKeys,
        *,
        channel: str,
        max_records: int,
        max_bytes: int,
        overflow: RedisOverflow,
    ) -> None:
        self.keys = keys
        self.dropped = 0
        """Records that made room for others, by this object."""
        self.untold = ""
        """Why what goes along with the last batch could not be told; empty: it was."""
        self._connection = connection
        self._channel = channel
        self._bounds = (max_records, max_bytes)
        self._overflow = overflow
        self._log = str(new_log_id())
        """The one that is taken for the current one."""
        self._sizes = ShardSizes(connection, keys)

    def __repr__(self) -> str:
        return f"<ShardWriter {self.keys.base}>"

    async def resume(self, origin: str, start: int) -> int:
        """The next offset of `origin`, which is made at `start` where there is none."""
        answer = await self._connection.run(script("resume"), [self.keys.meta, self.keys.origins], [origin, start])
        return int(answer)

    async def retire(self, origin: str, end: int, *, known: int | None = None) -> None:
        """Stamp `origin` as finished at `end`, or further if it is; forget some that were finished long ago.

        Raises:
            FencedError: It does not stand at `known`, or further, any more: records of it are gone.
        """
        args = [origin, end, _RETIRED_MS, _SWEPT_AT_ONCE, "" if known is None else known]
        answer, *rest = await self._connection.run(script("retire"), [self.keys.meta, self.keys.origins], args)
        if answer == b"lost":
            raise FencedError(f"{self.keys.base}: next is {rest[0].decode() or 'not there'}, it was {known}")

    async def append(self, origin: str, start: int, end: int, part: Part) -> None:
        """Append `part`, and move `origin` from `start` to `end`: both or neither.

        Raises:
            FencedError: It stands elsewhere; so it does where this very call was carried out before.
            TransientError: The shard is full, or as `Connection.run`.
        """
        notice = part.notice
        for _ in range(_TRIES):
            new = str(new_log_id())
            answer, *rest = await self._connection.run(
                script("append"),
                [self.keys.meta, self.keys.origins, self.keys.log(self._log), self.keys.log(new), *notice.sets],
                [
                    *(self._log, new, origin, start, end, *self._bounds, part.records, part.size),
                    *(self._channel, len(notice.messages), *notice.messages, len(notice.beats) // 2, *notice.beats),
                    *part.commits,
                ],
            )
            match answer:
                case b"ok":
                    self._log = rest[0].decode() or self._log
                    self.untold = rest[2].decode(errors="replace")
                    return
                case b"fenced":
                    where = rest[0].decode() or "not there"
                    raise FencedError(f"{self.keys.base}: next is {where}, the batch starts at {start}")
                case b"log":
                    self._log = rest[0].decode()
                case _:
                    records, size = (int(each) for each in rest)
                    if (records, size) != await self.sizes():
                        continue  # Of what it was taken to hold something was evicted.
                    if self._overflow == "refuse":
                        raise TransientError(f"{self.keys.base} is full: {records} records, {size} bytes")
                    await self._make_room(part)
        raise TransientError(f"{self.keys.base}: other producers were faster, {_TRIES} times")

    async def sizes(self) -> tuple[int, int]:
        """Records and bytes of content that the shard holds: without what is gone from where its streams begin."""
        return await self._sizes.look()

    async def _make_room(self, part: Part) -> None:
        """Remove some of the oldest commits."""
        log = (await self._connection.run(script("oldest"), [self.keys.meta])).decode()
        gone, _ = await self._connection.run(
            script("drop"),
            [self.keys.meta, self.keys.log(log)],
            [log, *self._bounds, part.records, part.size, _DROPPED_AT_ONCE],
        )
        self.dropped += int(gone)
