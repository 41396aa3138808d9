"""A relay under trouble of its own: a destination that holds, and records that are refused while shards move."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from eventrec import Batch, PauseError, PermanentError
from eventrec.bus import MemoryBus, MemoryStore
from eventrec.relay import RelayOptions
from eventrec.testing.relays import numbered
from eventrec.testing.scripted import FencedHandler, ScriptedHandler, numbers

QUICK = RelayOptions(lease_seconds=0.4, save_seconds=0.01, due_seconds=0.02)


@pytest.fixture
def anyio_backend() -> str:
    """One of them: nothing here knows which it is."""
    return "asyncio"


class Picky(FencedHandler):
    """Refuses every tenth number."""

    async def handle(self, batch: Batch) -> None:
        if any(number % 10 == 0 for number in numbers(batch)):
            raise PermanentError("it ends with a nought")
        await super().handle(batch)


async def test_destination_that_holds_keeps_its_records_on_the_bus_and_holds_up_no_other(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    holding, other = ScriptedHandler(), FencedHandler()
    is_refused = True

    def refuse(_: Batch) -> None:
        if is_refused:
            raise PauseError("no rights")

    holding.acts = [refuse] * 10_000
    store.append(numbered(0, 50))
    async with relay(holding, other, relay=QUICK) as one:
        await until(lambda: len(other.delivered) == 50)
        await until(lambda: any(part.account and part.account.held for part in one.status().relay))
        store.append(numbered(50, 100))
        await until(lambda: len(other.delivered) == 100)
        assert holding.delivered == []
        assert store.shards[0].held.logs
        assert [log.oldest for log in store.shards[0].held.logs.values()] == [0]

        is_refused = False
        for name in one.status().subscriptions:
            one.resume(name)
        await until(lambda: len(holding.delivered) == 100)

    assert holding.delivered == other.delivered == list(range(100))


async def test_what_is_refused_while_shards_are_handed_over_is_a_dead_letter_once(relay: Any, until: Any) -> None:
    store = MemoryStore(["0", "1", "2", "3"])
    table, count = Picky(), 0

    def another() -> Picky:
        made = Picky()
        made.next, made.batches = table.next, table.batches
        return made

    def append() -> None:
        nonlocal count
        for shard in store.shards:
            shard.append(numbered(count, count + 10))
            count += 10

    def settled() -> int:
        dead: list[int] = [each.status().subscriptions["tested"].dead for each in relays]
        return len(table.delivered) + sum(dead)

    relays: list[Any] = []
    async with AsyncExitStack() as stack:
        for _ in range(3):
            given = {"name": "tested", "bus": MemoryBus(store), "relay": QUICK, "batch_rows": 7}
            relays.append(await stack.enter_async_context(relay(another(), **given)))
            for _ in range(5):
                append()
                await anyio.sleep(0.05)
            # However busy the machine is: the new one has a shard, and gets what is refused there.
            await until(lambda: any(part.since is not None for part in relays[-1].status().relay))
            append()
        await until(lambda: settled() == count)
        dead = [each.status().subscriptions["tested"].dead for each in relays]

    assert sorted(table.delivered) == [number for number in range(count) if number % 10]
    assert sum(dead) == count // 10
    assert sum(each > 0 for each in dead) >= 2
