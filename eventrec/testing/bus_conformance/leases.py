"""Claims about leases: one holder at a time, and a late one changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import pytest

from eventrec.bus import Lease, Output, Step
from eventrec.testing.bus_conformance.claim import (
    LONG,
    STAGE,
    BusClaims,
    acquired,
    claim,
    entries_of,
    first_shard,
    held_shard,
    live_log,
    refused_with_lease_lost,
    samples,
    taken_over,
)

if TYPE_CHECKING:
    from uuid import UUID

    from eventrec.bus import Shard
    from eventrec.testing.bus_conformance.harness import BusHarness

FENCED_VERBS: Final = ["renew", "load", "save", "progress", "commit"]


async def attempt(verb: str, shard: Shard, lease: Lease, log_id: UUID) -> None:
    """Do what only the holder may."""
    step = Step(Output(entries=samples(90, 91), state={"key": b"late"}), log_id, 0, 1)
    match verb:
        case "renew":
            await shard.renew(lease, seconds=LONG)
        case "load":
            await shard.load(lease)
        case "save":
            await shard.save(lease, log_id, scanned=1, content=b"late")
        case "progress":
            await shard.progress(lease)
        case _:
            await shard.commit(lease, step)


class LeaseClaims(BusClaims):
    """One process serves a subscription, by the bus's clock."""

    @claim()
    async def test_lease_is_given_to_one_holder_at_a_time(self, harness: BusHarness) -> None:
        async with first_shard(harness) as one, first_shard(harness) as other:
            await acquired(one, "sqlite", "a")

            assert await other.acquire("sqlite", "b", seconds=LONG) is None

    @claim()
    async def test_holders_that_ask_at_once_are_not_both_given_it(self, harness: BusHarness) -> None:
        given: list[Lease | None] = []

        async def ask(holder: str) -> None:
            async with first_shard(harness) as shard:
                given.append(await shard.acquire("sqlite", holder, seconds=LONG))

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(ask, f"holder {number}")

        assert len([lease for lease in given if lease is not None]) == 1

    @claim()
    async def test_lease_that_ran_out_is_given_to_the_next(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard:
            late, now = await taken_over(harness, shard, "sqlite")

        assert now.token != late.token

    @claim()
    async def test_released_lease_is_given_to_the_next_at_once_and_worth_nothing(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard:
            lease = await acquired(shard, "sqlite", "a")

            await shard.release(lease)

            await refused_with_lease_lost(shard.renew(lease, seconds=LONG), "renew after release")
            await acquired(shard, "sqlite", "b")

    @claim()
    async def test_renewed_lease_lasts_from_then_on(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard:
            lease = await acquired(shard, "sqlite", "a", seconds=harness.tick)

            await shard.renew(lease, seconds=LONG)
            await harness.advance(2 * harness.tick)

            assert await shard.acquire("sqlite", "b", seconds=LONG) is None

    @claim()
    async def test_lease_that_only_ran_out_may_be_renewed(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard:
            lease = await acquired(shard, "sqlite", "a", seconds=harness.tick)
            await harness.advance(2 * harness.tick)

            await shard.renew(lease, seconds=LONG)

            assert await shard.acquire("sqlite", "b", seconds=LONG) is None

    @claim()
    async def test_holder_itself_is_given_another_lease_and_its_earlier_one_is_lost(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard:
            earlier = await acquired(shard, "sqlite", "a")

            now = await acquired(shard, "sqlite", "a")

            assert now.token != earlier.token
            await refused_with_lease_lost(shard.renew(earlier, seconds=LONG), "renew of the earlier one")
            await shard.renew(now, seconds=LONG)

    @claim()
    @pytest.mark.parametrize("verb", FENCED_VERBS)
    async def test_late_holder_changes_nothing(self, harness: BusHarness, verb: str) -> None:
        await harness.append(samples(0, 2))
        async with first_shard(harness) as shard:
            log_id = await live_log(shard)
            late, now = await taken_over(harness, shard, STAGE)

            await refused_with_lease_lost(attempt(verb, shard, late, log_id), verb)

            assert dict(await shard.load(now)) == {}
            assert (await shard.progress(now)).get(log_id, 0) == 0
            assert list(await shard.state("halve", ["key"])) == [None]
            assert await entries_of(shard.outlet("halve")) == []

    @claim()
    @pytest.mark.parametrize("verb", FENCED_VERBS)
    async def test_holder_whose_subscription_was_forgotten_changes_nothing(
        self, harness: BusHarness, verb: str
    ) -> None:
        async with held_shard(harness, records=2) as (shard, log_id, lease):
            assert await shard.forget(STAGE)

            await refused_with_lease_lost(attempt(verb, shard, lease, log_id), verb)
            assert STAGE not in [held.subscription for held in await shard.subscriptions()]
            assert not await shard.forget(STAGE)

    @claim()
    async def test_release_of_a_lost_lease_leaves_the_next_holder_its_own(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard:
            late, now = await taken_over(harness, shard, "sqlite")

            await shard.release(late)

            await shard.renew(now, seconds=LONG)
            assert await shard.acquire("sqlite", "third", seconds=LONG) is None

    @claim()
    async def test_tokens_are_never_given_twice(self, harness: BusHarness) -> None:
        tokens = []
        async with first_shard(harness) as shard:
            for number in range(20):
                lease = await acquired(shard, f"subscription {number % 3}")
                tokens.append(lease.token)
                await shard.release(lease)
            await shard.forget("subscription 0")
            tokens.append((await acquired(shard, "subscription 0")).token)

        assert len(set(tokens)) == len(tokens)

    @claim()
    async def test_subscriptions_and_shards_have_leases_of_their_own(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard:
            sqlite = await acquired(shard, "sqlite", "a")
            other = await acquired(shard, "größe 🙂", "b")
            of_outlet = await acquired(shard.outlet("halve"), "sqlite", "c")

            await shard.release(other)

            await shard.renew(sqlite, seconds=LONG)
            await shard.outlet("halve").renew(of_outlet, seconds=LONG)

    @claim()
    async def test_operators_see_who_serves_what(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 5))
        async with first_shard(harness) as shard, first_shard(harness) as operators:
            log_id = await live_log(shard)
            lease = await acquired(shard, "sqlite", "host:1")
            await shard.save(lease, log_id, scanned=3, content=b"")
            await shard.release(await acquired(shard, "released", "host:2"))
            await acquired(shard, "lapsed", "host:3", seconds=harness.tick)
            await harness.advance(2 * harness.tick)

            found = {held.subscription: held for held in await operators.subscriptions()}

        assert set(found) == {"sqlite", "released", "lapsed"}
        assert (found["sqlite"].holder, found["sqlite"].scanned[log_id]) == ("host:1", 3)
        assert 0 < found["sqlite"].lease_seconds <= LONG
        assert (found["released"].holder, found["released"].lease_seconds) == ("", 0.0)
        assert (found["lapsed"].holder, found["lapsed"].lease_seconds) == ("", 0.0)
