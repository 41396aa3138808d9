"""Relays that come to equal shares of a bus by themselves: nothing lost or doubled, and nothing moved without need."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import anyio
import pytest

from eventrec import Batch, EventRecorderOptions
from eventrec.bus import MemoryBus, MemoryStore
from eventrec.bus.memory_store import MemoryLogs
from eventrec.errors import PauseError, TransientError
from eventrec.relay import RelayOptions
from eventrec.testing.relays import ABOVE, Doubling, numbered
from eventrec.testing.scripted import FencedHandler

NAME = "tested"
SHARDS = 6
QUICK = RelayOptions(lease_seconds=0.4, save_seconds=0.01, due_seconds=0.02)


class FrailBus(MemoryBus):
    """A connection of a process that may be stopped for a while; counts its calls."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.runs = anyio.Event()
        self.runs.set()
        self.calls: dict[str, int] = {}

    def stop(self) -> None:
        self.runs = anyio.Event()

    async def call(self, verb: str, change: Any) -> Any:
        self.calls[verb] = self.calls.get(verb, 0) + 1
        await self.runs.wait()
        return await super().call(verb, change)


@pytest.fixture
def anyio_backend() -> str:
    """One of them, but for the first test: nothing here knows which it is."""
    return "asyncio"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore([str(number) for number in range(SHARDS)])


class Producer:
    """Appends to all shards in turn."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.count = 0

    def append(self, count: int = SHARDS) -> None:
        for _ in range(count):
            shard = self.store.shards[self.count % len(self.store.shards)]
            shard.append(numbered(self.count, self.count + 1))
            self.count += 1


def another(of: FencedHandler) -> FencedHandler:
    """Another client of the same destination."""
    other = FencedHandler()
    other.next, other.batches = of.next, of.batches
    return other


def serving(recorder: Any, name: str = NAME) -> set[str]:
    return {part.shard for part in recorder.status().relay if part.state == "serving" and part.name == name}


def counts(*recorders: Any) -> list[int]:
    return sorted(len(serving(each)) for each in recorders)


async def longest_stall(seconds: float) -> float:
    """For so long, how late the loop was at the most."""
    longest, until = 0.0, anyio.current_time() + seconds
    while (now := anyio.current_time()) < until:
        await anyio.sleep(0.01)
        longest = max(longest, anyio.current_time() - now - 0.01)
    return longest


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_relays_that_join_and_leave_have_equal_shares_and_each_record_arrives_once(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    producer, table = Producer(store), FencedHandler()

    is_over = anyio.Event()

    async def records() -> None:
        while not is_over.is_set():
            producer.append()
            await anyio.sleep(0.01)

    async with anyio.create_task_group() as tasks, AsyncExitStack() as last:
        tasks.start_soon(records)
        one = await last.enter_async_context(relay(another(table), name=NAME, bus=FrailBus(store), relay=QUICK))
        await until(lambda: counts(one) == [6])
        async with relay(another(table), name=NAME, bus=FrailBus(store), relay=QUICK) as two:
            await until(lambda: counts(one, two) == [3, 3])
            async with relay(another(table), name=NAME, bus=FrailBus(store), relay=QUICK) as three:
                await until(lambda: counts(one, two, three) == [2, 2, 2])
                assert serving(one) | serving(two) | serving(three) == set("012345")
            await until(lambda: counts(one, two) == [3, 3])
        await until(lambda: counts(one) == [6])
        is_over.set()
        assert await one.flush(20)

    assert sorted(table.delivered) == list(range(producer.count))


async def test_shares_rest_once_they_are_equal_and_a_look_is_one_call(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    table, buses = FencedHandler(), [FrailBus(store) for _ in range(4)]

    def announced() -> list[int]:
        return sorted(presence.served for presence, *_ in store.present.get(NAME, {}).values())

    async with AsyncExitStack() as stack:
        relays = [
            await stack.enter_async_context(relay(another(table), name=NAME, bus=bus, relay=QUICK)) for bus in buses
        ]
        for _ in range(100):
            await until(lambda: counts(*relays) == announced() == [1, 1, 2, 2])
            # Until each has looked once more, one may take for free what another has just got, and ask for it again.
            if await longest_stall(QUICK.lease_seconds) >= QUICK.lease_seconds / 4:
                continue
            shares = [serving(each) for each in relays]
            before = [dict(bus.calls) for bus in buses]
            if await longest_stall(3 * QUICK.lease_seconds) < QUICK.lease_seconds / 4:
                break
            # Leases ran out while the machine did something else: that is not what is looked at here.
        else:
            pytest.fail("this machine never had a second for the test")

        assert [serving(each) for each in relays] == shares
        for bus, earlier in zip(buses, before, strict=True):
            calls = {verb: count - earlier.get(verb, 0) for verb, count in bus.calls.items()}
            # Three looks to a lease, with jitter; and a part asks for what is another's share once, for safety.
            assert 5 <= calls["announce"] <= 20
            assert calls["acquire"] <= SHARDS


async def test_holder_that_was_paused_wakes_late_changes_nothing_and_comes_to_its_share_again(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    producer, table = Producer(store), FencedHandler()
    buses = [FrailBus(store) for _ in range(3)]
    async with AsyncExitStack() as stack:
        relays = [
            await stack.enter_async_context(relay(another(table), name=NAME, bus=bus, relay=QUICK)) for bus in buses
        ]
        await until(lambda: counts(*relays) == [2, 2, 2])
        buses[0].stop()
        producer.append(60)
        await until(lambda: counts(*relays[1:]) == [3, 3])
        await until(lambda: len(table.delivered) == 60)

        buses[0].runs.set()
        producer.append(60)

        await until(lambda: counts(*relays) == [2, 2, 2])
        await until(lambda: len(table.delivered) == 120)

    assert sorted(table.delivered) == list(range(120))


@pytest.mark.parametrize("minutes", [-5, 5])
async def test_clock_of_the_bus_that_steps_by_minutes_delays_no_one_for_minutes(
    store: MemoryStore, relay: Any, until: Any, minutes: int
) -> None:
    producer, table = Producer(store), FencedHandler()
    buses = [FrailBus(store) for _ in range(2)]
    store.advance(600.0)  # nor does it agree with ours before
    async with (
        relay(another(table), name=NAME, bus=buses[0], relay=QUICK) as one,
        relay(another(table), name=NAME, bus=buses[1], relay=QUICK) as other,
    ):
        await until(lambda: counts(one, other) == [3, 3])
        buses[0].stop()
        store.advance(60.0 * minutes)
        producer.append(60)

        await until(lambda: counts(other) == [6])
        await until(lambda: len(table.delivered) == 60)
        buses[0].runs.set()
        await until(lambda: counts(one, other) == [3, 3])

    assert sorted(table.delivered) == list(range(60))


async def test_stages_and_subscriptions_are_shared_each_by_itself(store: MemoryStore, relay: Any, until: Any) -> None:
    producer, table = Producer(store), FencedHandler()
    async with AsyncExitStack() as stack:
        relays = []
        for _ in range(3):
            given = {"name": NAME, "bus": FrailBus(store), "relay": QUICK, "stages": [Doubling()]}
            relays.append(await stack.enter_async_context(relay(another(table), **given)))
            producer.append(30)
        for name in (NAME, "stage:doubling"):
            await until(lambda name=name: [len(serving(each, name)) for each in relays] == [2, 2, 2])
        producer.append(30)
        await until(lambda: len(table.delivered) == 240)

    assert sorted(table.delivered) == [*range(120), *range(ABOVE, ABOVE + 120)]


async def test_bound_holds_and_others_have_the_rest(store: MemoryStore, relay: Any, until: Any) -> None:
    table = FencedHandler()
    bounded = replace(QUICK, max_shards=1)
    async with (
        relay(another(table), name=NAME, bus=FrailBus(store), relay=bounded) as one,
        relay(another(table), name=NAME, bus=FrailBus(store), relay=QUICK) as other,
    ):
        await until(lambda: len(serving(one)) == 1 and len(serving(other)) == 5)


async def test_relay_whose_destination_takes_nothing_keeps_what_it_has(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    producer, table, refusing = Producer(store), FencedHandler(), FencedHandler()

    def refuse(_: Batch) -> None:
        raise PauseError("no rights")

    refusing.acts = [refuse] * 10_000
    producer.append(SHARDS)
    hasty = EventRecorderOptions(flush_interval=0.01, close_timeout=0.1)
    lasting = replace(QUICK, lease_seconds=3.0)  # It does not run out where the machine does something else.
    async with relay(refusing, name=NAME, bus=FrailBus(store), relay=lasting, options=hasty) as one:
        await until(lambda: all(part.account and part.account.held for part in one.status().relay))
        async with relay(another(table), name=NAME, bus=FrailBus(store), relay=lasting) as other:
            await anyio.sleep(lasting.lease_seconds)  # three looks

            assert counts(other) == [0]
            assert len(serving(one)) == SHARDS


async def test_bus_that_does_not_tell_of_relays_is_served_all_the_same(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    producer, table = Producer(store), FencedHandler()

    async def deny(verb: str) -> None:
        if verb == "announce":
            raise TransientError("no rights for that key")

    store.arriving = deny
    producer.append(60)
    async with relay(another(table), name=NAME, bus=FrailBus(store), relay=QUICK) as one:
        assert await one.flush(20)

    assert sorted(table.delivered) == list(range(60))


async def test_relay_follows_a_bus_that_has_other_shards_by_now(store: MemoryStore, relay: Any, until: Any) -> None:
    producer, table = Producer(store), FencedHandler()
    producer.append(60)
    async with (
        relay(another(table), name=NAME, bus=FrailBus(store), relay=QUICK) as one,
        relay(another(table), name=NAME, bus=FrailBus(store), relay=QUICK) as other,
    ):
        await until(lambda: len(table.delivered) == 60 and counts(one, other) == [3, 3])

        store.shards += [MemoryLogs("6", store), MemoryLogs("7", store)]

        producer.append(80)
        await until(lambda: len(table.delivered) == 140 and counts(one, other) == [4, 4])
        assert sum(each.status().subscriptions[NAME].delivered for each in (one, other)) == 140

    assert sorted(table.delivered) == list(range(140))
