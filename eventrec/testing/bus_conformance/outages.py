"""Claims about outages, refusals, and calls that are cancelled."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from eventrec.bus import Lease, Output, Shard, Step
from eventrec.errors import LeaseLostError, PauseError, TransientError
from eventrec.testing.bus_conformance.claim import (
    ALL,
    LONG,
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
    opened,
    patiently,
    samples,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from eventrec.bus import Bus
    from eventrec.testing.bus_conformance.harness import BusHarness


CALLS: Final[dict[str, Callable[[Shard, Lease, UUID], Awaitable[Any]]]] = {
    "logs": lambda shard, _lease, _log: shard.logs(),
    "read": lambda shard, _lease, log: shard.read(log, 0, max_records=9, max_bytes=ALL),
    "wait": lambda shard, _lease, log: shard.wait(log, 10, seconds=20.0),
    "acquire": lambda shard, _lease, _log: shard.acquire("other", "a", seconds=LONG),
    "renew": lambda shard, lease, _log: shard.renew(lease, seconds=LONG),
    "release": lambda shard, lease, _log: shard.release(lease),
    "subscriptions": lambda shard, _lease, _log: shard.subscriptions(),
    "forget": lambda shard, _lease, _log: shard.forget("other"),
    "load": lambda shard, lease, _log: shard.load(lease),
    "save": lambda shard, lease, log: shard.save(lease, log, scanned=1, content=b"1"),
    "progress": lambda shard, lease, _log: shard.progress(lease),
    "state": lambda shard, _lease, _log: shard.state(NAME, ["a"]),
    "due": lambda shard, _lease, _log: shard.due(NAME, limit=1),
    "commit": lambda shard, lease, log: shard.commit(lease, Step(Output(), log, 0, 1)),
    "time": lambda shard, _lease, _log: shard.time(),
    "size": lambda shard, _lease, _log: shard.size(NAME),
    "tallies": lambda shard, _lease, _log: shard.tallies(NAME),
    "view": lambda shard, _lease, _log: shard.view(NAME, "a"),
    "count_seen": lambda shard, _lease, _log: shard.count_seen(NAME, "a", seconds=1.0),
}
"""Every call, of the subscription of a stage."""


async def opened_and_used(bus: Bus) -> None:
    """Open `bus`, and ask it for something."""
    await bus.open()
    await (await bus.shards())[0].acquire("sqlite", "a", seconds=LONG)


class OutageClaims(BusClaims):
    """An outage has a word, passes, and mixes up no answers."""

    @claim("outage")
    @pytest.mark.parametrize("verb", CALLS)
    async def test_call_out_of_reach_is_transient_and_works_again_afterwards(
        self, harness: BusHarness, verb: str
    ) -> None:
        async with held_shard(harness) as (shard, log_id, lease):
            await harness.disconnect()

            with pytest.raises(TransientError):
                await CALLS[verb](shard, lease, log_id)

            await harness.reconnect()
            if verb != "wait":
                await patiently(harness, lambda: CALLS[verb](shard, lease, log_id))
            assert numbers_of(await patiently(harness, lambda: entries_of(shard)))[-4:] == [1, 2, 3, 4]

    @claim("outage")
    async def test_waiting_ends_where_the_bus_goes_out_of_reach(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 5))
        async with first_shard(harness) as shard:
            log_id = await live_log(shard)

            async def cut() -> None:
                await anyio.sleep(harness.tick / 5)
                await harness.disconnect()

            with anyio.fail_after(harness.patience / 2):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(cut)
                    with suppress(TransientError):
                        await shard.wait(log_id, 5, seconds=harness.patience / 4)
            await harness.reconnect()

    @claim("outage")
    async def test_bus_out_of_reach_opens_once_it_is_back(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 5))
        bus = harness.bus()
        await harness.disconnect()
        try:
            # One that connects with its first call may open, and shows then that it is out of reach.
            with pytest.raises(TransientError):
                await opened_and_used(bus)

            await harness.reconnect()
            await patiently(harness, bus.open)
            shards = await patiently(harness, bus.shards)
            assert numbers_of(await patiently(harness, lambda: entries_of(shards[0]))) == [0, 1, 2, 3, 4]
        finally:
            await bus.close()

    @claim("pause")
    async def test_refused_rights_are_for_an_operator_to_mend(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 5))
        bus = harness.bus()
        await harness.forbid()
        try:
            with pytest.raises(PauseError):
                await opened_and_used(bus)

            await harness.permit()
            await bus.close()
            await patiently(harness, bus.open)
            await acquired((await bus.shards())[0], "sqlite")
        finally:
            await bus.close()

    @claim()
    async def test_bus_closes_twice_and_opens_again(self, harness: BusHarness) -> None:
        await harness.append(samples(0, 5))
        never = harness.bus()
        await never.close()
        async with opened(harness) as bus:
            await bus.close()
            await bus.close()
            await bus.open()

            assert numbers_of(await entries_of((await bus.shards())[0])) == [0, 1, 2, 3, 4]
        await bus.close()

    @claim()
    @pytest.mark.parametrize("verb", CALLS)
    async def test_cancelled_call_leaves_no_connection_that_answers_another(
        self, harness: BusHarness, verb: str
    ) -> None:
        await harness.append(samples(0, 5))
        async with first_shard(harness) as shard:
            log_id = await live_log(shard)
            for delay in (0.0, 0.0001, 0.0005, 0.002):
                lease = await acquired(shard, STAGE)
                with anyio.move_on_after(delay):
                    # The second commit is fenced, rightly.
                    with suppress(LeaseLostError):
                        await CALLS[verb](shard, lease, log_id)

                for _ in range(3):
                    one = await shard.read(log_id, 2, max_records=2, max_bytes=ALL)
                    assert numbers_of(one.entries) == [2, 3]
                    assert list(await shard.state(NAME, ["a", "b"])) == [None, None]
                    assert await shard.size(NAME) == 0

    @claim("lost_answer")
    async def test_lost_answer_is_transient(self, harness: BusHarness) -> None:
        async with held_shard(harness, "sqlite") as (shard, log_id, lease):
            await harness.lose_answer()

            with pytest.raises(TransientError):
                await shard.save(lease, log_id, scanned=1, content=b"kept")

            assert dict(await patiently(harness, lambda: shard.load(lease))) == {log_id: b"kept"}

    @claim()
    async def test_notices_hold_nothing_up(self, harness: BusHarness) -> None:
        async with first_shard(harness) as shard:
            with anyio.fail_after(harness.patience / 2):
                await shard.notify("event:saved", [b'{"project":"p","count":1}'] * 50)
                await shard.notify("event:saved", [])
