"""Relays that take over from each other: whatever befalls one of them, each record arrives once where that can be."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import anyio
import pytest

from eventrec import Batch
from eventrec.bus import MemoryBus, MemoryStore
from eventrec.errors import TransientError
from eventrec.relay import RelayOptions
from eventrec.testing.relays import ABOVE, QUICK, Doubling, numbered
from eventrec.testing.scripted import FencedHandler, ScriptedHandler, numbers

NAME = "tested"
LONG = RelayOptions(lease_seconds=600.0, save_seconds=0.01, due_seconds=0.02)
T = TypeVar("T")


class FrailBus(MemoryBus):
    """A connection of a process that may be stopped for a while, or for good."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.runs = anyio.Event()
        self.runs.set()

    def stop(self) -> None:
        self.runs = anyio.Event()

    async def call(self, verb: str, change: Callable[[], T]) -> T:
        await self.runs.wait()
        return await super().call(verb, change)


@dataclass
class Table:
    """A destination with several clients: what is in it, and what it has been told."""

    rows: list[int] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)


class Deduping(ScriptedHandler):
    """Drops a batch whose token it has seen."""

    dedupes_by_token = True

    def __init__(self, table: Table, **given: Any) -> None:
        super().__init__(**given)
        self.table = table

    def keep(self, batch: Batch) -> None:
        super().keep(batch)
        if batch.token not in self.table.tokens:
            self.table.tokens.add(batch.token)
            self.table.rows += numbers(batch)


class Slow(FencedHandler):
    """Takes its time, or waits for ever, once it was called."""

    seconds = 0.0
    called = 0

    async def handle(self, batch: Batch) -> None:
        self.called += 1
        await anyio.sleep(self.seconds)
        await super().handle(batch)


def shared(of: FencedHandler, kind: type[FencedHandler] = FencedHandler) -> Any:
    """Another client of the same destination."""
    other = kind()
    other.next, other.batches = of.next, of.batches
    return other


async def test_second_relay_waits_and_takes_over_at_once_when_the_first_is_closed(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    first, second = ScriptedHandler(), ScriptedHandler()
    store.append(numbered(0, 100))
    async with relay(second, name=NAME, relay=LONG) as other:
        async with relay(first, name=NAME, relay=LONG) as recorder:
            await until(lambda: other.status().relay and recorder.status().relay)
            parts = [each.status().relay[0] for each in (other, recorder)]
            await until(lambda: len({*first.delivered, *second.delivered}) == 100)
            await until(lambda: any(each.status().relay[0].state.startswith("waiting") for each in (other, recorder)))
            # Whichever was first, the other one waits for it by its name.
            waiting = next(
                each.status().relay[0] for each in (other, recorder) if each.status().relay[0].state != "serving"
            )
            assert "serves it" in waiting.state
            assert waiting.healthy
            assert parts
        store.append(numbered(100, 200))
        await until(lambda: len({*first.delivered, *second.delivered}) == 200)

    assert sorted([*first.delivered, *second.delivered]) == list(range(200))


async def test_relay_that_comes_late_says_at_once_for_whom_it_waits(store: MemoryStore, relay: Any, until: Any) -> None:
    first, second = ScriptedHandler(), ScriptedHandler()

    def served() -> list[int]:
        return [presence.served for presence, *_ in store.present.get(NAME, {}).values()]

    async with relay(first, name=NAME, relay=LONG) as one:
        await until(lambda: served() == [1])
        async with relay(second, name=NAME, relay=LONG) as late:
            await until(lambda: late.status().relay and "serves it" in late.status().relay[0].state)
            part = late.status().relay[0]
            assert (part.healthy, part.holder) == (True, one.status().relay[0].holder)
            store.append(numbered(0, 100))
            await until(lambda: len(first.delivered) == 100)

    assert second.delivered == []


async def test_relay_that_is_stopped_for_good_is_taken_over_from_once_its_lease_ran_out(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    bus, first = FrailBus(store), FencedHandler()
    second = shared(first)
    store.append(numbered(0, 100))
    async with relay(first, name=NAME, bus=bus) as dead:
        await until(lambda: len(first.delivered) == 100)
        bus.stop()
        store.append(numbered(100, 200))
        async with relay(second, name=NAME) as recorder:
            await until(lambda: len(first.delivered) == 200)
            assert await recorder.flush(60)
        bus.runs.set()
        assert await dead.flush(60)

    assert first.delivered == list(range(200))


async def test_lease_lost_in_the_middle_of_a_batch_ends_that_batch_and_delivers_it_once(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    bus, first = FrailBus(store), Slow()
    second = shared(first)
    first.seconds = 600.0
    store.append(numbered(0, 50))
    async with relay(first, name=NAME, bus=bus) as late:
        await until(lambda: first.called == 1)
        bus.stop()
        async with relay(second, name=NAME) as recorder:
            assert await recorder.flush(60)
            bus.runs.set()
            await until(lambda: late.status().relay[0].state.startswith("waiting"))
            assert late.status().relay[0].account is None
            first.seconds = 0.0
        store.append(numbered(50, 60))
        await until(lambda: len(first.delivered) == 60)

    assert first.delivered == list(range(60))


async def test_insert_that_takes_longer_than_the_lease_keeps_it(store: MemoryStore, relay: Any, until: Any) -> None:
    first = Slow()
    second = shared(first, Slow)
    short = replace(QUICK, lease_seconds=2.0)
    first.seconds = second.seconds = 4.5
    store.append(numbered(0, 10))
    async with relay(first, name=NAME, relay=short) as recorder:
        await until(lambda: first.called == 1)
        async with relay(second, name=NAME, relay=short):
            assert await recorder.flush(60)

            assert second.called == 0

    assert first.delivered == list(range(10))


async def test_batch_that_a_dead_relay_may_have_sent_is_sent_again_as_it_was(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    table, bus = Table(), FrailBus(store)
    first, second = Deduping(table), Deduping(table)

    def die(_: Batch) -> None:
        bus.stop()

    first.acts = [lambda _: None, die]
    store.append(numbered(0, 30))
    async with relay(first, name=NAME, bus=bus, batch_rows=30) as dead:
        await until(lambda: len(table.rows) == 30)
        store.append(numbered(30, 45))
        await until(lambda: len(table.rows) >= 45)
        store.append(numbered(45, 90))
        async with relay(second, name=NAME, batch_rows=30) as recorder:
            assert await recorder.flush(60)
        bus.runs.set()
        assert await dead.flush(60)

    assert table.rows == list(range(90))
    # The batch that had arrived came again, under its own token.
    assert second.tokens[0] == first.tokens[1]


@pytest.mark.parametrize("kind", ["checkpoints", "tokens", "neither"])
async def test_relays_that_fight_deliver_each_record(  # noqa: C901 - three relays, and what befalls them
    store: MemoryStore, relay: Any, until: Any, kind: str
) -> None:
    chance = random.Random(7)
    table, fenced = Table(), FencedHandler()
    hasty = RelayOptions(lease_seconds=0.06, save_seconds=0.01, due_seconds=0.02)
    handlers: list[Any] = []
    buses = [FrailBus(store) for _ in range(3)]
    for _ in buses:
        match kind:
            case "checkpoints":
                handlers.append(shared(fenced))
            case "tokens":
                handlers.append(Deduping(table))
            case _:
                handlers.append(ScriptedHandler(batches=fenced.batches))

    async def trouble() -> None:
        while True:
            bus = chance.choice(buses)
            bus.stop()
            await anyio.sleep(chance.uniform(0.0, 0.15))
            bus.runs.set()
            await anyio.sleep(chance.uniform(0.0, 0.03))

    async with anyio.create_task_group() as relays, anyio.create_task_group() as tasks:

        async def run(bus: FrailBus, handler: Any) -> None:
            async with relay(handler, name=NAME, bus=bus, relay=hasty, batch_rows=7, stages=[Doubling()]):
                await done.wait()

        done = anyio.Event()
        for bus, handler in zip(buses, handlers, strict=True):
            relays.start_soon(run, bus, handler)
        tasks.start_soon(trouble)
        for start in range(0, 400, 20):
            store.append(numbered(start, start + 20))
            await anyio.sleep(0.02)
        arrived = table.rows if kind == "tokens" else None
        await until(lambda: len(set(arrived if arrived is not None else fenced.delivered)) == 800)
        tasks.cancel_scope.cancel()
        for bus in buses:
            bus.runs.set()
        done.set()

    found = table.rows if kind == "tokens" else fenced.delivered
    assert set(found) == {*range(400), *range(ABOVE, ABOVE + 400)}
    if kind != "neither":
        assert len(found) == 800
    state = await _state(store)
    assert state == b"400"


async def _state(store: MemoryStore) -> bytes | None:
    async with MemoryBus(store) as bus:
        return (await (await bus.shards())[0].state("doubling", ["count"]))[0]


async def test_call_that_fails_after_it_was_carried_out_doubles_nothing(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    chance = random.Random(11)
    handler = FencedHandler()

    async def lose(verb: str) -> None:
        if chance.random() < 0.2:
            raise TransientError(f"{verb}: the answer was lost")

    store.answering = lose
    quick = RelayOptions(lease_seconds=5.0, save_seconds=0.01, due_seconds=0.02)
    async with relay(handler, name=NAME, relay=quick, batch_rows=10, stages=[Doubling()]) as recorder:
        for start in range(0, 100, 10):
            store.append(numbered(start, start + 10))
            await anyio.sleep(0.01)
        await anyio.sleep(0.3)
        store.answering = None
        assert await recorder.flush(60)

    assert sorted(handler.delivered) == [*range(100), *range(ABOVE, ABOVE + 100)]


async def test_relays_share_the_shards_of_a_bus_where_they_are_told_to(relay: Any, until: Any) -> None:
    store = MemoryStore(["0", "1", "2", "3"])
    buses = [MemoryBus(store), MemoryBus(store)]
    half = replace(LONG, max_shards=2)
    handlers = [ScriptedHandler(), ScriptedHandler()]

    async with (
        relay(handlers[0], name=NAME, bus=buses[0], relay=half) as one,
        relay(handlers[1], name=NAME, bus=buses[1], relay=half) as other,
    ):

        def serving(recorder: Any) -> set[str]:
            return {part.shard for part in recorder.status().relay if part.state == "serving"}

        await until(lambda: len(serving(one)) == len(serving(other)) == 2)
        assert serving(one) | serving(other) == {"0", "1", "2", "3"}
        for number, shard in enumerate(store.shards):
            shard.append(numbered(10 * number, 10 * number + 10))
        await until(lambda: len(handlers[0].delivered) == len(handlers[1].delivered) == 20)

    assert sorted([*handlers[0].delivered, *handlers[1].delivered]) == list(range(40))
