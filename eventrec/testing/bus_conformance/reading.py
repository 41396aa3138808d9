"""Claims about what is read: numbers, values, bounds, waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from eventrec.bus import make_entry
from eventrec.records.column_types import ColumnType
from eventrec.records.schema import ColumnSchema, Shape
from eventrec.testing.bus_conformance.claim import (
    ALL,
    SHAPE,
    BusClaims,
    claim,
    entries_of,
    first_shard,
    live_log,
    numbers_of,
    opened,
    read_all,
    sample,
    samples,
)
from eventrec.testing.bus_conformance.harness import unsaid

if TYPE_CHECKING:
    from eventrec.testing.bus_conformance.harness import BusHarness


class ReadingClaims(BusClaims):
    """A record has one number for ever, and comes back as it was."""

    async def test_harness_has_or_names_each_capability(self, harness: BusHarness) -> None:
        faults = unsaid(harness)

        assert not faults, "; ".join(faults)

    @claim()
    async def test_new_bus_has_shards_with_names_and_no_records(self, harness: BusHarness) -> None:
        async with opened(harness) as bus:
            shards = await bus.shards()

            assert shards
            assert len({shard.name for shard in shards}) == len(shards)
            assert await entries_of(shards[0]) == []

    @claim()
    async def test_records_are_numbered_without_a_gap_across_commits(self, harness: BusHarness) -> None:
        for start, end in [(0, 3), (3, 4), (4, 9)]:
            await harness.append(samples(start, end))

        async with first_shard(harness) as shard:
            reads = await read_all(shard, await live_log(shard))

        assert [offset for read in reads for offset in read.offsets] == list(range(9))
        assert [number for read in reads for number in numbers_of(read.entries)] == list(range(9))
        assert [read.start for read in reads] == [0, *(read.end for read in reads[:-1])]

    @claim()
    async def test_end_of_a_log_is_that_of_its_records(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 7))

        async with first_shard(harness) as shard:
            (log,) = await shard.logs()

        assert (log.oldest, log.end, log.is_live) == (0, 7, True)

    @claim()
    async def test_reading_begins_at_any_offset(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 4))
        await harness.append(samples(4, 7))

        async with first_shard(harness) as shard:
            log_id = await live_log(shard)
            for start in range(7):
                reads = await read_all(shard, log_id, start)

                assert reads[0].start == start
                assert [offset for read in reads for offset in read.offsets] == list(range(start, 7))
                assert [number for read in reads for number in numbers_of(read.entries)] == list(range(start, 7))

    @claim()
    @pytest.mark.parametrize("max_records", [1, 2, 3, 5])
    async def test_answer_holds_as_many_records_as_were_asked_for_at_most(
        self, harness: BusHarness, max_records: int
    ) -> None:
        await harness.append(samples(0, 5))
        await harness.append(samples(5, 8))

        async with first_shard(harness) as shard:
            reads = await read_all(shard, await live_log(shard), max_records=max_records)

        assert max(len(read.entries) for read in reads) <= max_records
        assert [number for read in reads for number in numbers_of(read.entries)] == list(range(8))

    @claim()
    async def test_answer_is_bounded_by_bytes_and_holds_one_record_at_least(self, harness: BusHarness) -> None:
        await harness.append([sample(number, payload=b'"%s"' % (b"x" * 10_000)) for number in range(8)])

        async with first_shard(harness) as shard:
            log_id = await live_log(shard)
            one = await shard.read(log_id, 0, max_records=ALL, max_bytes=1)
            some = await shard.read(log_id, 1, max_records=ALL, max_bytes=35_000)

        assert len(one.entries) == 1
        assert 1 <= len(some.entries) <= 3

    @claim()
    async def test_nothing_is_read_past_the_end(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 3))

        async with first_shard(harness) as shard:
            at_end = await shard.read(await live_log(shard), 3, max_records=10, max_bytes=ALL)

        assert (at_end.start, at_end.end, list(at_end.entries)) == (3, 3, [])

    @claim()
    async def test_records_come_back_as_they_were(self, harness: BusHarness) -> None:
        wide = Shape("täble", "öäü 🙂", (ColumnSchema("größe", ColumnType.INT64),))
        entries = [
            make_entry(SHAPE, -1, b"{}", explicit_id=b"\x00" * 16),
            make_entry(wide, 2**62, '{"ü":"\\u0000"}'.encode(), b'{"user":"\xc3\xa9"}', b"\x91\x91\x2a", b"\xff" * 16),
            make_entry(SHAPE, 0, b'"%s"' % (b"z" * 300_000), explicit_id=b"\x00\x0a" * 8),
        ]
        await harness.append(entries, b'{"host":"\xc3\xa4"}')

        async with first_shard(harness) as shard:
            reads = await read_all(shard, await live_log(shard))

        assert [tuple(entry) for read in reads for entry in read.entries] == entries
        assert {read.static_context for read in reads} == {b'{"host":"\xc3\xa4"}'}

    @claim()
    async def test_each_record_keeps_the_static_context_it_came_with(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 2), b'{"of":"one"}')
        await harness.append(samples(2, 4), b'{"of":"two"}')
        await harness.append(samples(4, 5))

        async with first_shard(harness) as shard:
            reads = await read_all(shard, await live_log(shard))

        found = [(number, read.static_context) for read in reads for number in numbers_of(read.entries)]
        assert found == [
            (0, b'{"of":"one"}'),
            (1, b'{"of":"one"}'),
            (2, b'{"of":"two"}'),
            (3, b'{"of":"two"}'),
            (4, None),
        ]

    @claim()
    async def test_large_commit_keeps_its_order(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 10_000))
        await harness.append(samples(10_000, 10_001))

        async with first_shard(harness) as shard:
            reads = await read_all(shard, await live_log(shard), max_records=4_000)

        assert [number for read in reads for number in numbers_of(read.entries)] == list(range(10_001))
        assert [offset for read in reads for offset in read.offsets] == list(range(10_001))

    @claim()
    async def test_producers_at_once_lose_and_tear_nothing(self, harness: BusHarness) -> None:
        async with anyio.create_task_group() as tasks:
            for start in range(0, 200, 10):
                tasks.start_soon(harness.append, samples(start, start + 10))

        async with first_shard(harness) as shard:
            found = numbers_of(await entries_of(shard))

        assert sorted(found) == list(range(200))
        assert all(found[at : at + 10] == list(range(found[at], found[at] + 10)) for at in range(0, 200, 10))

    @claim()
    async def test_all_connections_read_the_same_logs(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 3))

        async with first_shard(harness) as one, first_shard(harness) as other:
            assert one.name == other.name
            assert [log.id for log in await one.logs()] == [log.id for log in await other.logs()]
            assert await entries_of(one) == await entries_of(other)

    @claim()
    async def test_waiting_ends_with_the_next_record(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 2))

        async with first_shard(harness) as shard:
            log_id = await live_log(shard)
            with anyio.fail_after(harness.patience / 2):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(lambda: shard.wait(log_id, 2, seconds=harness.patience))
                    await anyio.sleep(harness.tick / 5)
                    await harness.append(samples(2, 3))
            records = await shard.read(log_id, 2, max_records=9, max_bytes=ALL)

        assert numbers_of(records.entries) == [2]

    @claim()
    async def test_waiting_for_what_is_there_ends_at_once(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 2))

        async with first_shard(harness) as shard:
            with anyio.fail_after(harness.patience / 2):
                await shard.wait(await live_log(shard), 1, seconds=harness.patience)

    @claim()
    async def test_waiting_in_vain_ends_in_time_and_hinders_no_call(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 2))

        async with first_shard(harness) as shard:
            log_id = await live_log(shard)
            with anyio.fail_after(harness.patience / 2):
                await shard.wait(log_id, 2, seconds=harness.tick / 2)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(lambda: shard.wait(log_id, 2, seconds=harness.patience))
                    await anyio.sleep(harness.tick / 5)
                    with anyio.fail_after(harness.patience / 4):
                        assert numbers_of(await entries_of(shard)) == [0, 1]
                    tasks.cancel_scope.cancel()
