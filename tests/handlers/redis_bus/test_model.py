"""Whatever relays and producers do, Redis has what the bus in memory has, but for trimming by whole commits."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

import pytest

from eventrec.bus import Lease, LeaseLostError, MemoryBus, MemoryStore, Output, Shard, Step

pytestmark = [pytest.mark.handlers, pytest.mark.anyio]

ALL = 1 << 30
STAGE = "stage:count"
NAMES = ("one", "other", STAGE)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def contents(shard: Shard, start: int) -> list[tuple[int, Any, bytes | None]]:
    """All records of the only log from `start` on, with their offsets and static context."""
    found: list[tuple[int, Any, bytes | None]] = []
    for log in await shard.logs():
        at = start
        while (records := await shard.read(log.id, at, max_records=7, max_bytes=3_000)).end > at:
            found += [
                (n, e[2:6], records.static_context) for n, e in zip(records.offsets, records.entries, strict=True)
            ]
            at = records.end
    return found


class Both:
    """The same done to both, with the leases that each has given."""

    def __init__(self, redis: Shard, memory: Shard) -> None:
        self.shards = redis, memory
        self.leases: dict[tuple[str, str], tuple[Lease | None, Lease | None]] = {}

    async def logs(self) -> list[UUID | None]:
        return [next((log.id for log in await shard.logs()), None) for shard in self.shards]

    async def acquire(self, name: str, holder: str) -> None:
        given = [await shard.acquire(name, holder, seconds=600.0) for shard in self.shards]
        assert (given[0] is None) == (given[1] is None), (name, holder)
        if given[0] is not None:
            self.leases[name, holder] = given[0], given[1]

    async def fenced(self, name: str, holder: str, verb: str, *args: Any, **options: Any) -> None:
        """Call both with their lease and log; they agree whether it is lost."""
        logs, outcomes = await self.logs(), []
        for shard, lease, log in zip(self.shards, self.leases.get((name, holder), ()), logs, strict=False):
            if log is None:
                return
            given = [Step(arg.output, log, arg.start, arg.end) if isinstance(arg, Step) else arg for arg in args]
            try:
                await getattr(shard, verb)(lease, *([log] if verb == "save" else []), *given, **options)
                outcomes.append("done")
            except LeaseLostError:
                outcomes.append("lost")
        assert len(set(outcomes)) <= 1, (verb, name, holder, outcomes)

    async def compare(self) -> None:
        redis, memory = self.shards
        held = [
            {each.subscription: (each.holder, [*each.scanned.values()]) for each in await shard.subscriptions()}
            for shard in self.shards
        ]
        assert held[0] == held[1]
        for one, other in ((redis, memory), (redis.outlet("count"), memory.outlet("count"))):
            logs, theirs = list(await one.logs()), list(await other.logs())
            assert [(log.end, log.is_live) for log in logs] == [(log.end, log.is_live) for log in theirs]
            if logs:
                assert logs[0].oldest <= theirs[0].oldest
                assert await contents(one, theirs[0].oldest) == await contents(other, theirs[0].oldest)
        keys = [f"k{number}" for number in range(5)]
        assert await redis.state("count", keys) == await memory.state("count", keys)
        assert await redis.size("count") == await memory.size("count")
        assert sorted(await redis.due("count", limit=9)) == sorted(await memory.due("count", limit=9))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        pytest.param(kind, seed, marks=[] if (kind, seed) in {("valkey", 0), ("redis", 1)} else pytest.mark.faults)
        for kind in ("valkey", "redis")
        for seed in range(3)
    ],
    indirect=["kind"],
)
async def test_redis_agrees_with_the_bus_in_memory(place: Any, samples: Any, seed: int) -> None:
    chance, store, written = random.Random(seed), MemoryStore(), 0
    async with MemoryBus(store) as memory:
        both = Both(await place.shard(), (await memory.shards())[0])
        at = 0
        for _ in range(150):
            name, holder = chance.choice(NAMES), chance.choice(("a", "a", "b"))
            match chance.choice(
                (
                    "append",
                    "append",
                    "acquire",
                    "acquire",
                    "acquire",
                    "release",
                    "save",
                    "save",
                    "step",
                    "step",
                    "forget",
                )
            ):
                case "append":
                    count = chance.randint(1, 6)
                    context = chance.choice((None, b'{"app":"x"}'))
                    await place.append(
                        samples(written, written + count, size := chance.choice((0, 900))), context=context
                    )
                    store.append(samples(written, written + count, size), static_context=context)
                    written += count
                case "acquire":
                    await both.acquire(name, holder)
                case "release":
                    await both.fenced(name, holder, "release")
                case "save" if name != STAGE:
                    scanned = chance.randint(0, written)
                    await both.fenced(name, holder, "save", scanned=scanned, content=b"%d" % scanned)
                case "step":
                    end = min(written, at + chance.randint(0, 4))
                    key = f"k{chance.randint(0, 4)}"
                    output = Output(
                        entries=samples(at, end),
                        state={key: chance.choice((None, b"x", b"y"))},
                        deadlines={f"k{chance.randint(0, 4)}": chance.choice((None, 0.0, 600.0))},
                    )
                    await both.fenced(STAGE, holder, "commit", Step(output, None, at, end))
                    held = {each.subscription: each for each in await both.shards[1].subscriptions()}
                    at = next(iter(held[STAGE].scanned.values()), 0) if STAGE in held else 0
                case "forget" if chance.random() < 0.3:
                    assert len({await shard.forget(name) for shard in both.shards}) == 1
                    at = 0 if name == STAGE else at
            await both.compare()
