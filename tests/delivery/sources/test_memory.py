"""The log of a recorder that has none."""

from __future__ import annotations

from uuid import UUID

import pytest

from eventrec.delivery.sources.memory import MemorySource
from eventrec.events.encoder import Encoder
from eventrec.records.entry import SIZE, Entry
from eventrec.testing.scripted import Numbered

ID = UUID(int=7)


def entries(count: int) -> list[Entry]:
    encoder = Encoder()
    made = [encoder.encode(Numbered(n)) for n in range(count)]
    return [entry for entry in made if not isinstance(entry, str)]


async def test_reading_gives_what_was_appended_from_any_offset() -> None:
    source = MemorySource(ID, max_events=100, max_bytes=1 << 20)
    cursor = source.subscribe("a", "earliest", lambda *_: None)
    ten = entries(10)
    source.append(ten)

    cursor.seek(3)
    records = await cursor.read(max_records=4, max_bytes=1 << 20)

    assert (records.start, records.end) == (3, 7)
    assert list(records.offsets) == [3, 4, 5, 6]
    assert list(records.entries) == ten[3:7]


async def test_a_read_is_bounded_by_bytes_but_gives_one_record_at_least() -> None:
    source = MemorySource(ID, max_events=100, max_bytes=1 << 20)
    source.subscribe("holds", "earliest", lambda *_: None)
    cursor = source.subscribe("a", "earliest", lambda *_: None)
    ten = entries(10)
    source.append(ten)

    assert (await cursor.read(max_records=10, max_bytes=ten[0][6] * 3)).end == 3
    cursor.seek(0)
    assert (await cursor.read(max_records=10, max_bytes=1)).end == 1


async def test_what_every_subscription_has_fetched_is_freed() -> None:
    source = MemorySource(ID, max_events=100, max_bytes=1 << 20)
    a = source.subscribe("a", "earliest", lambda *_: None)
    b = source.subscribe("b", "earliest", lambda *_: None)
    ten = entries(10)
    source.append(ten)

    a.seek(8)
    assert len(source) == 10
    b.seek(5)

    assert len(source) == 5
    assert source.freed_bytes == sum(entry[SIZE] for entry in ten[:5])


async def test_without_subscriptions_nothing_is_held() -> None:
    source = MemorySource(ID, max_events=10, max_bytes=1 << 20)

    source.append(entries(30))

    assert (len(source), source.end) == (0, 30)
    assert source.room() > 0


async def test_latest_begins_at_the_end() -> None:
    source = MemorySource(ID, max_events=100, max_bytes=1 << 20)
    source.subscribe("holds", "earliest", lambda *_: None)
    source.append(entries(10))

    assert source.subscribe("late", "latest", lambda *_: None).next == 10
    assert source.subscribe("early", "earliest", lambda *_: None).next == 0


@pytest.mark.parametrize("bound", ["events", "bytes"])
async def test_who_is_behind_forfeits_alone_and_who_is_not_loses_nothing(bound: str) -> None:
    thirty = entries(30)
    max_events = 10 if bound == "events" else None
    max_bytes = sum(entry[SIZE] for entry in thirty[20:]) if bound == "bytes" else 1 << 20
    source = MemorySource(ID, max_events=max_events, max_bytes=max_bytes)
    lost_slow: list[Entry] = []
    lost_fast: list[Entry] = []
    slow = source.subscribe("slow", "earliest", lambda _reason, _count, gone: lost_slow.extend(gone))
    fast = source.subscribe("fast", "earliest", lambda _reason, _count, gone: lost_fast.extend(gone))

    for start in range(0, 30, 5):
        source.append(thirty[start : start + 5])
        fast.seek(start + 5)

    assert lost_fast == []
    assert lost_slow == thirty[: len(lost_slow)]
    assert slow.next == len(lost_slow) == pytest.approx(20, abs=1)
    assert len(source) == 30 - len(lost_slow)


async def test_when_all_are_behind_there_is_no_room_and_none_forfeits() -> None:
    source = MemorySource(ID, max_events=10, max_bytes=1 << 20)
    lost: list[Entry] = []
    a = source.subscribe("a", "earliest", lambda _reason, _count, gone: lost.extend(gone))
    source.subscribe("b", "earliest", lambda _reason, _count, gone: lost.extend(gone))

    source.append(entries(source.room()))
    assert source.room() == 0
    a.seek(4)

    assert source.room() == 4
    assert lost == []


async def test_room_that_a_fast_subscription_makes_is_told_though_a_slow_one_keeps_the_records() -> None:
    source = MemorySource(ID, max_events=5, max_bytes=1 << 20)
    lost: list[int] = []
    source.subscribe("slow", "earliest", lambda _reason, count, _entries: lost.append(count))
    fast = source.subscribe("fast", "earliest", lambda *_: None)
    source.append(entries(5))
    told: list[int] = []
    source.on_room = lambda: told.append(source.room())
    assert source.room() == 0

    await fast.read(max_records=5, max_bytes=1 << 20)

    assert told == [5]
    source.append(entries(5))
    assert lost == [5]


async def test_what_is_held_says_how_far_it_is_settled() -> None:
    source = MemorySource(ID, max_events=9, max_bytes=1 << 20)
    cursor = source.subscribe("s", "earliest", lambda *_: None)
    source.append(entries(3))
    await cursor.read(max_records=2, max_bytes=1 << 20)
    cursor.acknowledge(1)

    assert repr(cursor) == "<MemoryCursor 's' next=2 acknowledged=1>"
    assert repr(source) == f"<MemorySource {ID} [2, 3) settled=1>"
