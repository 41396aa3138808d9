"""Shards of a buffer among several relays: a number of them that changes, and leases when the server's clock steps."""

from __future__ import annotations

import sqlite3
from contextlib import AsyncExitStack, closing
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventrec import Backoff, EventRecorder, EventRecorderOptions, EventStruct, PauseError
from eventrec.bus import Presence, ShardsChangedError
from eventrec.testing import assert_conserved
from eventrec.testing.relays import QUICK
from eventrec_handlers.redis.bus import from_bus_url
from eventrec_handlers.redis.keys import relays_key, shards_key

pytestmark = [pytest.mark.handlers, pytest.mark.anyio]

OPTIONS = EventRecorderOptions(
    retry=Backoff(jitter="none", first=0.02, max=0.2), flush_interval=0.01, close_timeout=20.0
)


class Numbered(EventStruct):
    number: int


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def relay(place: Any, tmp_path: Path) -> Any:
    """Makes relays of `place` into one SQLite file."""
    numbers = count(1)

    def made() -> EventRecorder:
        return EventRecorder(
            f"sqlite:///{tmp_path}/events.db",
            log=tmp_path / f"relay-{next(numbers)}",
            options=OPTIONS,
            bus=from_bus_url(place.url()),
            relay=QUICK,
        )

    return made


@pytest.fixture
def rows(tmp_path: Path) -> Any:
    """How many rows there are, and how many of them are different."""

    def counted() -> tuple[int, int]:
        with closing(sqlite3.connect(tmp_path / "events.db")) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchall():
                return (0, 0)
            ((rows, ids),) = database.execute("SELECT count(*), count(DISTINCT payload) FROM events").fetchall()
            return (rows, ids)

    return counted


async def until(is_true: Any) -> None:
    with anyio.fail_after(120):
        while not await anyio.to_thread.run_sync(is_true):  # noqa: ASYNC110 - foreign state has no event
            await anyio.sleep(0.02)


def serving(recorder: EventRecorder) -> set[str]:
    return {part.shard for part in recorder.status().relay if part.state == "serving"}


async def produce(place: Any, tmp_path: Path, *, start: int, end: int, **options: Any) -> None:
    async with EventRecorder(
        place.url(shard_by="number", **options), log=tmp_path / f"producer-{start}", options=OPTIONS
    ) as recorder:
        for number in range(start, end):
            recorder.record(Numbered(number=number))
        assert await recorder.flush(timeout=30)
    assert_conserved(recorder.status())


async def test_three_relays_share_six_shards_and_follow_when_the_buffer_is_made_again_with_four(
    place: Any, tmp_path: Path, relay: Any, rows: Any
) -> None:
    await produce(place, tmp_path, start=0, end=300, shards=6)
    relays = [relay() for _ in range(3)]
    async with AsyncExitStack() as stack:
        for each in relays:
            await stack.enter_async_context(each)
        await until(lambda: sorted(len(serving(each)) for each in relays) == [2, 2, 2] and rows() == (300, 300))

        await place.do("FLUSHALL")
        await produce(place, tmp_path, start=300, end=600, shards=4)

        await until(lambda: sorted(len(serving(each)) for each in relays) == [1, 1, 2] and rows() == (600, 600))
        assert set().union(*map(serving, relays)) == {f"{place.name}:{number}" for number in range(4)}
    for each in relays:
        assert_conserved(each.status())
    assert sum(each.status().subscriptions["sqlite"].delivered for each in relays) == 600


async def test_relay_that_came_first_follows_the_producers_that_say_how_many_shards_there_are(
    place: Any, tmp_path: Path, relay: Any, rows: Any
) -> None:
    async with relay() as one:
        await until(lambda: serving(one) == {place.name})

        await produce(place, tmp_path, start=0, end=100, shards=4)

        await until(lambda: len(serving(one)) == 4 and rows() == (100, 100))
    assert_conserved(one.status())


async def test_shards_that_would_be_left_with_records_are_refused_in_one_line(place: Any, samples: Any) -> None:
    await place.do("SET", shards_key(place.name), 4)
    bus = await place.bus()
    for shard in await bus.shards():
        assert await shard.acquire("sqlite", "a", seconds=60.0)
    await place.append(samples(0, 5), keys=place.shard_keys(3, 4))
    await place.do("SET", shards_key(place.name), 2)

    with pytest.raises(ShardsChangedError, match=r"^redis://\S+ '\S+': the buffer has 2 shards by now, not 4$"):
        await bus.announce("sqlite", Presence("a", 4, 4), seconds=60.0)
    with pytest.raises(ShardsChangedError):
        await (await bus.shards())[0].acquire("sqlite", "a", seconds=60.0)
    await bus.close()
    with pytest.raises(PauseError, match=r"2 shards by now, not 4, and \S+:3 holds 5 records: set \{eventrec:\S+ to 4"):
        await bus.open()

    await place.do("SET", shards_key(place.name), 4)
    await bus.open()
    assert len(await bus.shards()) == 4


async def test_shards_that_come_to_those_that_were_are_followed_with_records_in_them(place: Any, samples: Any) -> None:
    await place.do("SET", shards_key(place.name), 2)
    bus = await place.bus()
    await place.append(samples(0, 5), keys=place.shard_keys(1, 2))
    await place.do("SET", shards_key(place.name), 3)

    await bus.close()
    await bus.open()

    assert [(await shard.sizes()).records for shard in await bus.shards()] == [0, 5, 0]


async def test_lease_and_presence_outlast_a_clock_that_went_back_by_no_more_than_they_said(place: Any) -> None:
    bus = await place.bus()
    shard = (await bus.shards())[0]
    assert await shard.acquire("sqlite", "a", seconds=0.2)
    await bus.announce("sqlite", Presence("a", 1, 1), seconds=0.2)
    lease, relays = place.keys.lease("sqlite"), relays_key(place.name, "sqlite")
    ahead = int(await place.do("HGET", lease, "until")) + 300_000
    # What they are where the server's clock was five minutes ahead.
    await place.do("HSET", lease, "until", ahead)
    await place.do("HSET", relays, "a", f"{ahead} 200 1 1")

    assert await shard.acquire("sqlite", "b", seconds=0.2) is None
    assert len(await bus.announce("sqlite", Presence("b", 0, 1), seconds=60.0)) == 2
    with anyio.fail_after(120):
        while await shard.acquire("sqlite", "b", seconds=60.0) is None:  # noqa: ASYNC110 - of another process
            await anyio.sleep(0.05)

    assert await bus.announce("sqlite", Presence("b", 1, 1), seconds=60.0) == [Presence("b", 1, 1)]
