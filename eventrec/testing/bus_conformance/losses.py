"""Claims about a bus that loses what it had: no number stands for two records, and nothing is taken for settled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec.testing.bus_conformance.claim import (
    ALL,
    LONG,
    BusClaims,
    acquired,
    claim,
    entries_of,
    first_shard,
    live_log,
    numbers_of,
    patiently,
    read_all,
    refused_with_lease_lost,
    samples,
)

if TYPE_CHECKING:
    from eventrec.testing.bus_conformance.harness import BusHarness


class LossClaims(BusClaims):
    """What is lost is told."""

    @claim("lost_head")
    async def test_reading_begins_behind_what_is_lost(self, harness: BusHarness) -> None:
        for start in range(0, 12, 4):
            await harness.append(samples(start, start + 4))
        async with first_shard(harness) as shard:
            log_id = await live_log(shard)
            await acquired(shard, "sqlite")

            await harness.lose_head(6)

            records = await shard.read(log_id, 0, max_records=ALL, max_bytes=ALL)
            assert 6 <= records.start < 12
            assert numbers_of(records.entries)[0] == records.start == records.offsets[0]
            assert (await shard.logs())[0].oldest == records.start
            assert (await shard.logs())[0].end == 12

    @claim("lost_head")
    async def test_log_that_lost_all_it_had_goes_on_with_its_numbers(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 4))
        async with first_shard(harness) as shard:
            log_id = await live_log(shard)
            await acquired(shard, "sqlite")
            await harness.lose_head(4)

            await harness.append(samples(4, 6))

            reads = await read_all(shard, log_id)
            assert [offset for read in reads for offset in read.offsets] == [4, 5]
            assert reads[0].start == 4
            assert numbers_of([entry for read in reads for entry in read.entries]) == [4, 5]

    @claim("lost_tail")
    async def test_log_that_lost_its_tail_ends_and_another_begins(self, harness: BusHarness) -> None:
        for number in range(8):
            await harness.append(samples(number, number + 1))
        async with first_shard(harness) as shard:
            before = await live_log(shard)

        await harness.lose_tail(3)
        await patiently(harness, lambda: harness.append(samples(100, 102)))

        async with first_shard(harness) as shard:
            logs = await shard.logs()
            now = await live_log(shard)
            old = next((log for log in logs if log.id == before), None)
            kept = numbers_of(await entries_of(shard))

        assert now != before
        assert logs[-1].id == now
        assert kept[-2:] == [100, 101]
        assert kept[:-2] == list(range(len(kept) - 2))
        assert len(kept) - 2 <= 5
        if old is not None:
            assert (old.is_live, old.may_have_lost_tail, old.end) == (False, True, len(kept) - 2)

    @claim("lost_all")
    async def test_bus_that_lost_everything_begins_another_log(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 8))
        async with first_shard(harness) as shard:
            before = await live_log(shard)

        await harness.lose_all()
        await patiently(harness, lambda: harness.append(samples(100, 102)))

        async with first_shard(harness) as shard:
            now = await live_log(shard)
            records = await shard.read(now, 0, max_records=ALL, max_bytes=ALL)
            assert now != before
            assert numbers_of(await entries_of(shard)) == [100, 101]
            assert list(records.offsets) == [0, 1]

    @claim("lost_all")
    async def test_leases_from_before_everything_was_lost_are_lost_and_no_token_comes_again(
        self, harness: BusHarness
    ) -> None:
        await harness.append(samples(0, 8))
        async with first_shard(harness) as shard:
            before = [await acquired(shard, "sqlite"), await acquired(shard, "jsonl")]

        await harness.lose_all()

        async with first_shard(harness) as shard:
            for lease in before:
                await refused_with_lease_lost(
                    patiently(harness, lambda lease=lease: shard.renew(lease, seconds=LONG)),  # type: ignore[misc]
                    "renew",
                )
            now = [await acquired(shard, name, "another") for name in ("sqlite", "jsonl", "third")]
            assert {lease.token for lease in now}.isdisjoint(lease.token for lease in before)
            for lease in before:
                await refused_with_lease_lost(shard.load(lease), "load")
