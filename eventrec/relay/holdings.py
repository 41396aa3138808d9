"""What a stage keeps on a shard, and who was seen there of late: looked at now and then, for operators."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import anyio

if TYPE_CHECKING:
    from eventrec.bus.bus import Shard
    from eventrec.bus.stage import Output, Stage

LOOK_SECONDS: Final = 2.0
"""How often the bus is asked; it answers in constant time for the keys, and for each index."""

MAX_INDEXES: Final = 50


class Holdings:
    """Of `stage` on `shard`."""

    def __init__(self, shard: Shard, stage: Stage) -> None:
        self._shard = shard
        self._stage = stage
        self._looked = -math.inf
        self._keys: int | None = None
        self._indexes: dict[str, float] = {}
        self._seen: dict[str, int] = {}
        self._tallies: dict[str, int] | None = None

    def note(self, output: Output) -> None:
        """What is given out says which indexes there are; those that changed long ago are forgotten."""
        for each in output.seen:
            self._indexes.pop(each.index, None)
            self._indexes[each.index] = each.seconds
        while len(self._indexes) > MAX_INDEXES:
            del self._indexes[next(iter(self._indexes))]

    async def look(self) -> None:
        """Ask the bus, if that is a while ago.

        Raises:
            Exception: What the bus says.
        """
        if anyio.current_time() - self._looked < LOOK_SECONDS:
            return
        self._looked = anyio.current_time()
        name = self._stage.name
        self._keys = await self._shard.size(name)
        tallies = await self._shard.tallies(name)
        self._tallies = None if tallies is None else dict(tallies)
        seen = {}
        for index, seconds in list(self._indexes.items()):
            seen[index] = await self._shard.count_seen(name, index, seconds=seconds)
        self._seen = seen

    def told(self) -> dict[str, Any]:
        """As members of `RelayPart`. From any thread."""
        return {"keys": self._keys, "kept": self._stage.kept, "seen": self._seen, "tallies": self._tallies}
