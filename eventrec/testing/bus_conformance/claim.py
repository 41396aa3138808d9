"""What every claim about a bus starts from: a bus of its own, open connections, records, and an end."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID

import anyio

from eventrec.bus import STAGE_PREFIX, Bus, Entry, Lease, Records, Shard, make_entry
from eventrec.errors import LeaseLostError, TransientError
from eventrec.records.entry import EXPLICIT_ID
from eventrec.records.schema import Shape
from eventrec.testing.claims import HarnessedClaims, harnessed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from eventrec.testing.bus_conformance.harness import BusHarness, Capability
    from eventrec.testing.claims import T

A = TypeVar("A")

SHAPE: Final = Shape("events", "sample", ())
LONG: Final = 600.0
"""Seconds of a lease that lasts as long as a claim."""

NAME: Final = "halve"
STAGE: Final = f"{STAGE_PREFIX}{NAME}"
"""A stage, and its subscription."""

ALL: Final = 1 << 30
PAUSE: Final = 0.05


class BusClaims(HarnessedClaims):
    """A room of claims about a bus: its fixture `harness` gives a `BusHarness`."""


def claim(*needs: Capability) -> Callable[[T], T]:
    """Mark a claim, with what it needs: see `harnessed`."""
    return harnessed(*needs)


@asynccontextmanager
async def opened(harness: BusHarness) -> AsyncIterator[Bus]:
    """A new connection, open; closed at the end whatever happens."""
    bus = harness.bus()
    await bus.open()
    try:
        yield bus
    finally:
        with anyio.CancelScope(shield=True):
            await bus.close()


@asynccontextmanager
async def first_shard(harness: BusHarness) -> AsyncIterator[Shard]:
    """The first shard, by a connection of its own."""
    async with opened(harness) as bus:
        yield (await bus.shards())[0]


def sample(number: int, *, payload: bytes | None = None, shape: Shape = SHAPE) -> Entry:
    """A record that says its number, under an id that follows from it."""
    payload = b'{"number":%d}' % number if payload is None else payload
    return make_entry(shape, 1_700_000_000_000_000_000 + number, payload, explicit_id=_id(number))


def samples(start: int, end: int) -> list[Entry]:
    """Those of `[start, end)`."""
    return [sample(number) for number in range(start, end)]


def _id(number: int) -> bytes:
    return UUID(int=0x8 << 76 | 0x2 << 62 | number).bytes


def numbers_of(entries: Sequence[Entry]) -> list[int]:
    """The numbers of `samples`."""
    return [int.from_bytes((entry[EXPLICIT_ID] or b"")[10:]) for entry in entries]


async def read_all(shard: Shard, log_id: UUID, start: int = 0, *, max_records: int = ALL) -> list[Records]:
    """All reads of a log from `start` to its end, in order."""
    reads = []
    while (records := await shard.read(log_id, start, max_records=max_records, max_bytes=ALL)).end > start:
        reads.append(records)
        start = records.end
    return reads


async def entries_of(shard: Shard) -> list[Entry]:
    """What all its logs hold, in order."""
    return [
        entry
        for log in await shard.logs()
        for read in await read_all(shard, log.id, log.oldest)
        for entry in read.entries
    ]


async def live_log(shard: Shard) -> UUID:
    """The log that is written."""
    live = [log.id for log in await shard.logs() if log.is_live]
    assert len(live) == 1, f"{len(live)} logs are live"
    return live[0]


async def acquired(shard: Shard, subscription: str, holder: str = "a", *, seconds: float = LONG) -> Lease:
    """Its lease, which is free."""
    lease = await shard.acquire(subscription, holder, seconds=seconds)
    assert lease is not None, f"{subscription!r} is free, and {holder!r} is not given its lease"
    assert (lease.subscription, lease.holder) == (subscription, holder)
    return lease


@asynccontextmanager
async def held_shard(
    harness: BusHarness, subscription: str = STAGE, *, records: int = 5
) -> AsyncIterator[tuple[Shard, UUID, Lease]]:
    """The first shard with so many records, the log that they are in, and the lease of `subscription`."""
    await harness.append(samples(0, records))
    async with first_shard(harness) as shard:
        yield shard, await live_log(shard), await acquired(shard, subscription)


async def taken_over(harness: BusHarness, shard: Shard, subscription: str) -> tuple[Lease, Lease]:
    """A lease that ran out, and the one that another holder has since."""
    late = await acquired(shard, subscription, "late", seconds=harness.tick)
    await harness.advance(2 * harness.tick)
    return late, await acquired(shard, subscription, "next")


async def refused_with_lease_lost(attempt: Awaitable[object], what: str) -> None:
    """Assert that `attempt` is fenced."""
    try:
        await attempt
    except LeaseLostError:
        return
    raise AssertionError(f"{what}: the lease was lost, and it was carried out all the same")


async def patiently(harness: BusHarness, attempt: Callable[[], Awaitable[A]]) -> A:
    """What `attempt` answers once an outage is over."""
    with anyio.fail_after(harness.patience):
        while True:
            try:
                return await attempt()
            except TransientError:
                await anyio.sleep(PAUSE)


async def eventually(harness: BusHarness, attempt: Callable[[], Awaitable[bool]], what: str) -> None:
    """Assert that `attempt` comes true."""
    with anyio.move_on_after(harness.patience / 2):
        while True:
            if await attempt():
                return
            await anyio.sleep(PAUSE)
    raise AssertionError(f"{what}: not within {harness.patience / 2:.0f} seconds")
