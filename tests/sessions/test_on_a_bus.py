"""Sessions on a bus: relays that die anywhere, answers that are lost, another relay each time."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest

from eventrec.bus import STAGE_PREFIX, Entry, LeaseLostError, MemoryBus, MemoryStore, Shard, Stage, Step
from eventrec.errors import TransientError
from eventrec.records.entry import EXPLICIT_ID
from eventrec.sessions import Sessions, SessionStage
from eventrec.sessions.kept import DeviceState, decode_state
from eventrec.sessions.session import Session
from eventrec.testing.sessions import VisitEvent, brute_force, collapsed, entry_of
from eventrec.testing.stages import payloads

T = 1_760_000_000_000
LEASE_SECONDS = 10

pytestmark = pytest.mark.anyio


async def relay(shard: Shard, stage: Stage, holder: str, *, max_records: int) -> None:
    """Process what is there, then what is due, as a relay does until it has caught up."""
    lease = await shard.acquire(STAGE_PREFIX + stage.name, holder, seconds=LEASE_SECONDS)
    assert lease is not None
    progress = await shard.progress(lease)
    for log in await shard.logs():
        at = progress.get(log.id, 0)
        while (records := await shard.read(log.id, at, max_records=max_records, max_bytes=1 << 20)).end > at:
            keys = stage.keys(log.id, records)
            state = dict(zip(keys, await shard.state(stage.name, keys), strict=True))
            output = stage.process(log.id, records, state, await shard.time())
            await shard.commit(lease, Step(output, log.id, at, records.end))
            at = records.end
    while due := await shard.due(stage.name, limit=2):
        await shard.commit(lease, Step(stage.expire(dict(due), await shard.time())))
    await shard.release(lease)


async def given_out(shard: Shard) -> list[Entry]:
    """All that the stage's outlet holds."""
    found: list[Entry] = []
    outlet = shard.outlet("sessions")
    for log in await outlet.logs():
        at = 0
        while (records := await outlet.read(log.id, at, max_records=100, max_bytes=1 << 20)).end > at:
            found += records.entries
            at = records.end
    return found


async def open_sessions(store: MemoryStore) -> int:
    """How many the stage has counted."""
    async with MemoryBus(store) as bus:
        (shard,) = await bus.shards()
        return ((await shard.tallies("sessions")) or {}).get("open_sessions", 0)


def looked_through(store: MemoryStore) -> list[Session]:
    """All that are kept open, device by device."""
    states = [decode_state(key, kept) for key, kept in store.shards[0].stage("sessions").state.items()]
    devices = [state for state in states if isinstance(state, DeviceState)]
    return [session for state in devices for session in (state.current, state.late) if session is not None]


@pytest.mark.parametrize("seed", range(6))
async def test_killed_anywhere_each_event_is_there_once_and_each_session_ends_once(seed: int) -> None:
    chance = random.Random(seed)
    events = [
        VisitEvent(
            id=str(i),
            at=T + i * 60_000 + chance.randrange(-40, 40) * 60_000,
            project="shop",
            device=f"d{chance.randrange(5)}",
            type=chance.choice(["screen_view", "click"]),
            profile=chance.choice(["", "ann", "bob"]),
            path=chance.choice(["", "/a", "/b"]),
            revenue=chance.choice([0.0, 0.5]),
        )
        for i in range(120)
    ]
    store = MemoryStore()
    faults: Counter[str] = Counter()

    async def fail(call: str) -> None:
        if chance.random() < 0.1:
            faults[call] += 1
            raise TransientError("cut")

    async def run_once(holder: str, *, is_calm: bool) -> bool:
        store.arriving = store.answering = None
        async with MemoryBus(store) as bus:
            (shard,) = await bus.shards()
            store.arriving = store.answering = None if is_calm else fail
            try:
                await relay(shard, SessionStage(Sessions()), holder, max_records=chance.randrange(1, 20))
            except (TransientError, LeaseLostError):
                store.advance(LEASE_SECONDS + 1)
                return False
            finally:
                store.arriving = store.answering = None
            return True

    for start in range(0, len(events), 10):
        store.append([entry_of(event, number=event.id) for event in events[start : start + 10]])
        await run_once(f"relay {start}", is_calm=False)
        assert await open_sessions(store) == len(looked_through(store))
    while not await run_once("one more", is_calm=False):
        pass
    store.advance(1_800)
    await run_once("while sessions end", is_calm=False)
    await run_once("the last", is_calm=True)

    async with MemoryBus(store) as bus:
        (shard,) = await bus.shards()
        found = await given_out(shard)
        left = await shard.size("sessions")
    assert faults["commit"] > 0
    assert left == 0
    assert await open_sessions(store) == 0
    passed = Counter(each["number"] for each in payloads(found, "screen_view", "click"))
    assert passed == Counter(event.id for event in events)
    assert len({entry[EXPLICIT_ID] for entry in found}) == len(found)
    expected = brute_force(events)
    rows = sorted(collapsed(payloads(found, "session")).values(), key=msgspec.json.encode)
    ends = payloads(found, "session_end")
    assert len(payloads(found, "session_start")) == len(ends) == len(rows) == len(expected)
    assert sorted((each["device_id"], each["_at"], each["duration"]) for each in ends) == sorted(
        (each.device, each.ended_event, each.duration) for each in expected
    )
    assert sorted((row["device_id"], row["_at"], row["version"], row["revenue"]) for row in rows) == sorted(
        (each.device, each.created_at, len(each.events), each.revenue) for each in expected
    )


async def test_an_event_that_waits_keeps_a_session_open_that_was_idle_while_no_relay_ran() -> None:
    store = MemoryStore()
    first, second = (VisitEvent(id=str(i), at=T + i, project="p", device="d") for i in range(2))

    async with MemoryBus(store) as bus:
        (shard,) = await bus.shards()
        store.append([entry_of(first)])
        await relay(shard, SessionStage(Sessions()), "before", max_records=10)
        store.advance(7_200)
        store.append([entry_of(second)])
        await relay(shard, SessionStage(Sessions()), "after", max_records=10)
        found = await given_out(shard)

    assert [each["_type"] for each in payloads(found) if each["_type"] != "session"] == [
        "session_start",
        "screen_view",
        "screen_view",
    ]


async def test_live_visitors_and_open_sessions_are_counted_by_the_bus() -> None:
    store = MemoryStore()

    async with MemoryBus(store) as bus:
        (shard,) = await bus.shards()
        store.append([entry_of(VisitEvent(id=str(i), at=T, project="p", device=f"d{i % 7}")) for i in range(20)])
        await relay(shard, SessionStage(Sessions()), "r", max_records=100)
        live, size = await shard.count_seen("sessions", "live:p", seconds=300), await shard.size("sessions")
        store.advance(301)
        later = await shard.count_seen("sessions", "live:p", seconds=300)

    assert (live, size, later) == (7, 7, 0)
