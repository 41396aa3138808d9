"""Claims about checkpoints: what is saved comes back, and only what all have settled is trimmed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec.bus import STAGE_PREFIX, Output, Step
from eventrec.testing.bus_conformance.claim import (
    BusClaims,
    acquired,
    claim,
    entries_of,
    eventually,
    first_shard,
    live_log,
    numbers_of,
    samples,
)

if TYPE_CHECKING:
    from eventrec.bus import Shard
    from eventrec.testing.bus_conformance.harness import BusHarness


async def oldest(shard: Shard) -> int:
    """The oldest record of its only log; the end where it is gone."""
    return next((log.oldest for log in await shard.logs()), 1 << 62)


class CheckpointClaims(BusClaims):
    """How far a subscription is."""

    @claim()
    async def test_saved_content_comes_back_to_the_next_holder_byte_for_byte(self, harness: BusHarness) -> None:
        content = bytes(range(256)) * 400
        await harness.append(samples(0, 5))
        async with first_shard(harness) as shard, first_shard(harness) as other:
            log_id = await live_log(shard)
            lease = await acquired(shard, "sqlite", "a")
            before = dict(await shard.load(lease))
            await shard.save(lease, log_id, scanned=2, content=b"first")
            await shard.save(lease, log_id, scanned=3, content=content)
            await shard.release(lease)

            after = dict(await other.load(await acquired(other, "sqlite", "b")))

        assert before == {}
        assert after == {log_id: content}

    @claim()
    async def test_each_subscription_has_checkpoints_of_its_own(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 5))
        async with first_shard(harness) as shard:
            log_id = await live_log(shard)
            one, other = await acquired(shard, "one"), await acquired(shard, "other")

            await shard.save(one, log_id, scanned=2, content=b"of one")

            assert dict(await shard.load(other)) == {}
            await shard.save(other, log_id, scanned=1, content=b"of other")
            assert dict(await shard.load(one)) == {log_id: b"of one"}

    @claim()
    async def test_checkpoint_may_go_back(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 5))
        async with first_shard(harness) as shard:
            log_id = await live_log(shard)
            await acquired(shard, "holds all of it")
            lease = await acquired(shard, "sqlite")
            await shard.save(lease, log_id, scanned=4, content=b"4")

            await shard.save(lease, log_id, scanned=1, content=b"1")

            assert dict(await shard.load(lease)) == {log_id: b"1"}
            held = {held.subscription: held for held in await shard.subscriptions()}
            assert held["sqlite"].scanned[log_id] == 1

    @claim()
    async def test_nothing_is_trimmed_that_one_subscription_has_not_settled(self, harness: BusHarness) -> None:
        for start in range(0, 40, 4):
            await harness.append(samples(start, start + 4))
        async with first_shard(harness) as shard:
            log_id = await live_log(shard)
            fast, slow = await acquired(shard, "fast"), await acquired(shard, "slow")
            await acquired(shard, "never saved", "dead", seconds=harness.tick)
            await shard.save(fast, log_id, scanned=40, content=b"")
            await shard.save(slow, log_id, scanned=13, content=b"")
            await harness.advance(2 * harness.tick)

            assert numbers_of(await entries_of(shard)) == list(range(40))

            assert await shard.forget("never saved")
            await shard.save(slow, log_id, scanned=13, content=b"")

            assert numbers_of(await entries_of(shard))[-27:] == list(range(13, 40))

    @claim()
    async def test_what_all_have_settled_is_trimmed(self, harness: BusHarness) -> None:
        for start in range(0, 40, 4):
            await harness.append(samples(start, start + 4))
        async with first_shard(harness) as shard:
            log_id = await live_log(shard)
            fast, slow = await acquired(shard, "fast"), await acquired(shard, "slow")
            await shard.save(fast, log_id, scanned=40, content=b"")

            async def is_trimmed() -> bool:
                await shard.save(slow, log_id, scanned=20, content=b"")
                return 0 < await oldest(shard) <= 20

            await eventually(harness, is_trimmed, "20 of 40 records that all have settled were trimmed")
            await harness.append(samples(40, 41))
            assert numbers_of(await entries_of(shard))[-21:] == list(range(20, 41))

    @claim()
    async def test_nothing_is_trimmed_that_a_stage_has_not_read(self, harness: BusHarness) -> None:
        for start in range(0, 12, 4):
            await harness.append(samples(start, start + 4))
        async with first_shard(harness) as shard:
            log_id = await live_log(shard)
            stage = await acquired(shard, f"{STAGE_PREFIX}halve")
            lease = await acquired(shard, "sqlite")
            await shard.save(lease, log_id, scanned=12, content=b"")

            assert numbers_of(await entries_of(shard)) == list(range(12))

            await shard.commit(stage, Step(Output(), log_id, 0, 6))

            assert numbers_of(await entries_of(shard))[-6:] == list(range(6, 12))

    @claim()
    async def test_bus_without_subscriptions_keeps_everything(self, harness: BusHarness) -> None:
        for start in range(0, 40, 4):
            await harness.append(samples(start, start + 4))

        async with first_shard(harness) as shard:
            assert numbers_of(await entries_of(shard)) == list(range(40))
