"""Claims about stages: place, state and output change together or not at all, and once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import pytest

from eventrec.bus import Lease, Output, Published, Seen, Shard, Step
from eventrec.errors import LeaseLostError
from eventrec.testing.bus_conformance.claim import (
    NAME,
    STAGE,
    BusClaims,
    acquired,
    claim,
    entries_of,
    first_shard,
    held_shard,
    live_log,
    numbers_of,
    patiently,
    read_all,
    refused_with_lease_lost,
    samples,
    taken_over,
)

if TYPE_CHECKING:
    from eventrec.testing.bus_conformance.harness import BusHarness

_SOON: Final = 4
"""Ticks: what has not passed yet is asked within them, on a busy machine too."""


async def change(shard: Shard, lease: Lease, **output: object) -> None:
    """Commit what time alone made."""
    await shard.commit(lease, Step(Output(**output)))  # type: ignore[arg-type]


async def due_keys(shard: Shard, *, limit: int = 100) -> list[str]:
    """Whose deadline has passed."""
    return [key for key, _ in await shard.due(NAME, limit=limit)]


class StageClaims(BusClaims):
    """What a stage commits."""

    @claim()
    async def test_step_is_committed_as_a_whole(self, harness: BusHarness) -> None:
        async with held_shard(harness) as (shard, log_id, lease):
            output = Output(
                entries=samples(100, 103), static_context=b'{"by":"stage"}', state={"a": b"\x00\xff", "ü 🙂": b""}
            )

            await shard.commit(lease, Step(output, log_id, 0, 3))

            (read,) = await read_all(shard.outlet(NAME), await live_log(shard.outlet(NAME)))
            assert dict(await shard.progress(lease)) == {log_id: 3}
            assert list(await shard.state(NAME, ["ü 🙂", "a", "none"])) == [b"", b"\x00\xff", None]
            assert ([tuple(entry) for entry in read.entries], read.static_context) == (
                samples(100, 103),
                b'{"by":"stage"}',
            )
            assert await shard.size(NAME) == 2

    @claim()
    async def test_step_is_committed_once(self, harness: BusHarness) -> None:
        async with held_shard(harness) as (shard, log_id, lease):
            step = Step(Output(entries=samples(100, 103), state={"a": b"1"}), log_id, 0, 3)
            await shard.commit(lease, step)

            await refused_with_lease_lost(shard.commit(lease, step), "the same step again")

            assert numbers_of(await entries_of(shard.outlet(NAME))) == [100, 101, 102]
            assert dict(await shard.progress(lease)) == {log_id: 3}

    @claim()
    async def test_step_from_elsewhere_changes_nothing(self, harness: BusHarness) -> None:
        async with held_shard(harness) as (shard, log_id, lease):
            await shard.commit(lease, Step(Output(), log_id, 0, 3))
            for start, end in [(2, 4), (4, 5), (0, 5)]:
                output = Output(
                    entries=samples(100, 101),
                    state={"a": b"1"},
                    published=[Published("view", b"1", 600.0)],
                    seen=[Seen("visitors", "one", 600.0)],
                )

                await refused_with_lease_lost(
                    shard.commit(lease, Step(output, log_id, start, end)), "a step from elsewhere"
                )

            assert await entries_of(shard.outlet(NAME)) == []
            assert list(await shard.state(NAME, ["a"])) == [None]
            assert await shard.view(NAME, "view") is None
            assert await shard.count_seen(NAME, "visitors", seconds=600.0) == 0

    @claim()
    async def test_late_holder_commits_nothing_of_time_either(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard:
            late, _ = await taken_over(harness, shard, STAGE)

            await refused_with_lease_lost(
                change(shard, late, entries=samples(0, 1), state={"a": b"1"}), "a step of time"
            )

            assert await entries_of(shard.outlet(NAME)) == []
            assert await shard.size(NAME) == 0

    @claim()
    async def test_step_of_time_leaves_the_stage_where_it_is(self, harness: BusHarness) -> None:
        async with held_shard(harness) as (shard, log_id, lease):
            await shard.commit(lease, Step(Output(), log_id, 0, 2))

            await change(shard, lease, entries=samples(100, 101), state={"a": b"1"})

            assert dict(await shard.progress(lease)) == {log_id: 2}
            assert numbers_of(await entries_of(shard.outlet(NAME))) == [100]

    @claim()
    async def test_output_is_numbered_without_a_gap_however_large_it_is(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard:
            lease = await acquired(shard, STAGE)

            await change(shard, lease, entries=samples(0, 9_000))
            await change(shard, lease, entries=[])
            await change(shard, lease, entries=samples(9_000, 9_001))

            outlet = shard.outlet(NAME)
            reads = await read_all(outlet, await live_log(outlet))
            assert [offset for read in reads for offset in read.offsets] == list(range(9_001))
            assert [number for read in reads for number in numbers_of(read.entries)] == list(range(9_001))

    @claim()
    async def test_outlet_is_a_shard_of_its_own(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 5))
        async with first_shard(harness) as shard, first_shard(harness) as other:
            stage = await acquired(shard, STAGE)
            await change(shard, stage, entries=samples(100, 104))
            outlet = other.outlet(NAME)
            lease = await acquired(outlet, "sqlite")

            await outlet.save(lease, await live_log(outlet), scanned=2, content=b"mine")

            assert NAME in outlet.name
            assert outlet.name != other.name
            assert list((await outlet.load(lease)).values()) == [b"mine"]
            assert [held.subscription for held in await shard.subscriptions()] == [STAGE]
            assert numbers_of(await entries_of(shard)) == list(range(5))
            assert numbers_of(await entries_of(outlet))[-2:] == [102, 103]

    @claim()
    async def test_what_is_set_to_nothing_is_kept_no_more(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard:
            lease = await acquired(shard, STAGE)
            await change(shard, lease, state={"a": b"1", "b": b"2", "c": b"3"})

            await change(shard, lease, state={"a": None, "b": b"22", "never there": None})

            assert list(await shard.state(NAME, ["a", "b", "c"])) == [None, b"22", b"3"]
            assert await shard.size(NAME) == 2
            assert list(await shard.state(NAME, [])) == []
            assert list(await shard.state("another", ["b"])) == [None]

    @claim()
    async def test_keys_are_due_once_their_deadline_has_passed_the_oldest_first(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard:
            lease = await acquired(shard, STAGE)
            kept = {key: key.encode() for key in ("later", "second", "first", "without")}
            soon = _SOON * harness.tick
            await change(
                shard, lease, state=kept, deadlines={"later": 600.0, "second": soon, "first": soon / 2, "absent": 0.0}
            )
            before = await due_keys(shard)

            await harness.advance(soon + harness.tick)

            assert before == []
            assert list(await shard.due(NAME, limit=10)) == [("first", b"first"), ("second", b"second")]
            assert await due_keys(shard, limit=1) == ["first"]

    @claim()
    async def test_deadline_may_be_moved_and_taken_back_and_ends_with_its_key(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard:
            lease, tick = await acquired(shard, STAGE), harness.tick
            names = ("moved", "without", "removed", "rewritten")
            await change(shard, lease, state=dict.fromkeys(names, b"1"), deadlines=dict.fromkeys(names, tick))

            await change(
                shard,
                lease,
                state={"removed": None, "rewritten": b"2"},
                deadlines={"moved": 600.0, "without": None},
            )
            await harness.advance(2 * tick)

            assert list(await shard.due(NAME, limit=10)) == [("rewritten", b"2")]
            await change(shard, lease, state={"removed": b"again"})
            assert await due_keys(shard) == ["rewritten"]

    @claim()
    async def test_views_are_published_for_their_time(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard, first_shard(harness) as reader:
            lease = await acquired(shard, STAGE)
            views = [
                Published("short", b"\x00", _SOON * harness.tick),
                Published("long", b"2", 600.0),
                Published("back", b"3", 600.0),
            ]
            await change(shard, lease, published=views)
            before = [await reader.view(NAME, key) for key in ("short", "long", "back", "none")]

            await change(shard, lease, published=[Published("back", None), Published("long", b"22", 600.0)])
            await harness.advance((_SOON + 1) * harness.tick)

            assert before == [b"\x00", b"2", b"3", None]
            assert [await reader.view(NAME, key) for key in ("short", "long", "back")] == [None, b"22", None]
            assert await shard.size(NAME) == 0

    @claim()
    async def test_what_is_counted_of_the_state_changes_with_it_and_begins_at_nothing(
        self, harness: BusHarness
    ) -> None:
        async with held_shard(harness) as (shard, log_id, lease):
            none_yet = await shard.tallies(NAME)
            step = Step(Output(state={"a": b"1", "b": b"1"}, tallies={"open": 2, "more": 1}), log_id, 0, 3)
            await shard.commit(lease, step)
            await refused_with_lease_lost(shard.commit(lease, step), "the same step again")
            await refused_with_lease_lost(
                shard.commit(lease, Step(Output(tallies={"open": 1}), log_id, 4, 5)), "a step from elsewhere"
            )
            await change(shard, lease, state={"a": None}, tallies={"open": -1})
            await change(shard, lease, state={"c": b"1"})
            await shard.release(lease)
            await refused_with_lease_lost(change(shard, lease, tallies={"open": 5}), "a late holder's")
            counted = await shard.tallies(NAME)
            another = await acquired(shard, STAGE, "another")
            await change(shard, another, state={"b": None, "c": None})
            await change(shard, another, state={"d": b"1"}, tallies={"open": 1})

            assert not none_yet
            assert counted == {"open": 1, "more": 1}
            assert await shard.tallies(NAME) == {"open": 1}

    @claim()
    async def test_members_are_counted_while_they_were_seen_lately(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard:
            lease, lately = await acquired(shard, STAGE), _SOON * harness.tick
            await change(shard, lease, seen=[Seen("visitors", member, 600.0) for member in ("one", "two", "one")])
            await change(shard, lease, seen=[Seen("others", "one", 600.0)])
            at_first = await shard.count_seen(NAME, "visitors", seconds=600.0)

            await harness.advance(lately + harness.tick)
            await change(shard, lease, seen=[Seen("visitors", "three", 600.0)])

            assert at_first == 2
            assert await shard.count_seen(NAME, "visitors", seconds=lately) == 1
            assert await shard.count_seen(NAME, "visitors", seconds=600.0) == 3
            assert await shard.count_seen(NAME, "nobody", seconds=600.0) == 0

    @claim()
    async def test_time_is_that_of_the_bus_and_passes(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard:
            before = await shard.time()

            await harness.advance(harness.tick)

            assert await shard.time() >= before + harness.tick / 2

    @claim()
    @pytest.mark.parametrize("delay", [0.0, 0.0003, 0.001, 0.003, 0.01])
    async def test_cancelled_commit_is_whole_or_absent_and_certain_once_acquired_again(
        self, harness: BusHarness, delay: float
    ) -> None:
        async with held_shard(harness) as (shard, log_id, lease):
            step = Step(Output(entries=samples(100, 2_100), state={"a": b"1"}), log_id, 0, 3)
            with anyio.move_on_after(delay):
                await shard.commit(lease, step)

            again = await acquired(shard, STAGE)
            at = (await shard.progress(again)).get(log_id, 0)

            (kept,) = await shard.state(NAME, ["a"])
            found = at, len(await entries_of(shard.outlet(NAME))), kept
            assert found in {(0, 0, None), (3, 2_000, b"1")}
            if not at:
                await shard.commit(again, step)
            assert numbers_of(await entries_of(shard.outlet(NAME))) == list(range(100, 2_100))

    @claim("lost_answer")
    async def test_commit_whose_answer_is_lost_is_found_done(self, harness: BusHarness) -> None:
        async with held_shard(harness) as (shard, log_id, lease):
            await harness.lose_answer()

            with pytest.raises(Exception) as caught:  # noqa: PT011 - which one, the claim about outages says
                await shard.commit(lease, Step(Output(entries=samples(100, 101)), log_id, 0, 3))

            again = await patiently(harness, lambda: acquired(shard, STAGE))
            assert caught.value is not None
            assert dict(await shard.progress(again)) == {log_id: 3}
            assert numbers_of(await entries_of(shard.outlet(NAME))) == [100]

    @claim()
    async def test_two_relays_that_fight_commit_each_step_once(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 30))
        rounds = 12

        async def fight(holder: str) -> None:
            async with first_shard(harness) as shard:
                log_id = await live_log(shard)
                while True:
                    lease = await shard.acquire(STAGE, holder, seconds=harness.tick / 4)
                    if lease is None:
                        await anyio.sleep(harness.tick / 20)
                        continue
                    with anyio.move_on_after(harness.tick):
                        try:
                            while (at := (await shard.progress(lease)).get(log_id, 0)) < rounds:
                                await anyio.sleep(harness.tick / 8)
                                await shard.commit(
                                    lease, Step(Output(entries=samples(100 + at, 101 + at)), log_id, at, at + 1)
                                )
                        except LeaseLostError:
                            continue
                        return

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fight, "one")
            tasks.start_soon(fight, "other")

        async with first_shard(harness) as shard:
            assert numbers_of(await entries_of(shard.outlet(NAME))) == list(range(100, 100 + rounds))
