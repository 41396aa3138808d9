"""The reference bus, as the suite reaches and hurts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec.bus import Bus, MemoryBus, MemoryStore
from eventrec.errors import PauseError, TransientError
from eventrec.testing.bus_conformance.harness import BusHarness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.bus import Entry


class MemoryHarness(BusHarness):
    """A `MemoryStore`, by connections of the class `bus`."""

    tick = 0.05
    patience = 10.0

    def __init__(self, bus: type[MemoryBus] = MemoryBus) -> None:
        self.kind = bus
        self.store = MemoryStore()

    def bus(self) -> Bus:
        return self.kind(self.store)

    async def append(self, entries: Sequence[Entry], context: bytes | None = None) -> None:
        self.store.append(entries, static_context=context)

    async def advance(self, seconds: float) -> None:
        self.store.advance(seconds)

    async def disconnect(self) -> None:
        self.store.is_reachable = False
        for shard in self.store.shards:
            shard.tell()

    async def reconnect(self) -> None:
        self.store.is_reachable = True

    async def forbid(self) -> None:
        async def refuse(verb: str) -> None:
            raise PauseError(f"{verb}: not permitted")

        self.store.arriving = refuse

    async def permit(self) -> None:
        self.store.arriving = None

    async def lose_answer(self) -> None:
        async def lose(verb: str) -> None:
            self.store.answering = None
            raise TransientError(f"{verb}: the answer was lost")

        self.store.answering = lose

    async def lose_head(self, count: int) -> None:
        shard = self.store.shards[0]
        (log,) = shard.held.logs.values()
        shard.trim_all(log.id, log.oldest + count)

    async def lose_tail(self, count: int) -> None:
        self.store.shards[0].seal(lost=count)

    async def lose_all(self) -> None:
        self.store.restore(MemoryStore().backup())
