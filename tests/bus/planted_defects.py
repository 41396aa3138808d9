"""Buses with one defect each. Not collected by itself: `test_conformance_bites.py` runs it, and expects red.

`CAUGHT_BY` says for each defect the claims that must fail; others may.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID, uuid4

import anyio
import pytest

from eventrec.bus import Held, Lease, LogBounds, MemoryBus, Presence, Records, Step
from eventrec.bus.memory import MemoryShard
from eventrec.bus.memory_store import MemoryLease
from eventrec.errors import LeaseLostError, TransientError
from eventrec.testing.bus_conformance import BusClaims, BusConformance, BusHarness
from eventrec.testing.bus_conformance.model import MemoryHarness

CAUGHT_BY: dict[type[MemoryShard], set[str]] = {}
BUSES: dict[type[MemoryShard], type[MemoryBus]] = {}
C = TypeVar("C", bound=type[MemoryShard])
T = TypeVar("T")


def caught_by(*claims: str, bus: type[MemoryBus] = MemoryBus) -> Callable[[C], C]:
    """The claims that must turn red."""

    def noted(shard: C) -> C:
        CAUGHT_BY[shard] = {f"test_{claim}" for claim in claims}
        BUSES[shard] = type(f"{shard.__name__}Bus", (bus,), {"shard_class": shard})
        return shard

    return noted


# -- reading


@caught_by("answer_holds_as_many_records_as_were_asked_for_at_most")
class AsManyAsThereAre(MemoryShard):
    async def read(self, log_id: UUID, start: int, *, max_records: int, max_bytes: int) -> Records:
        return await super().read(log_id, start, max_records=1 << 30, max_bytes=max_bytes)


@caught_by("answer_is_bounded_by_bytes_and_holds_one_record_at_least")
class AsLargeAsItIs(MemoryShard):
    async def read(self, log_id: UUID, start: int, *, max_records: int, max_bytes: int) -> Records:
        return await super().read(log_id, start, max_records=max_records, max_bytes=1 << 30)


@caught_by("answer_is_bounded_by_bytes_and_holds_one_record_at_least")
class NothingWhereOneIsTooLarge(MemoryShard):
    async def read(self, log_id: UUID, start: int, *, max_records: int, max_bytes: int) -> Records:
        if max_bytes < 100:
            return Records(start, start)
        return await super().read(log_id, start, max_records=max_records, max_bytes=max_bytes)


@caught_by("each_record_keeps_the_static_context_it_came_with", "records_come_back_as_they_were")
class LosesTheStaticContext(MemoryShard):
    async def read(self, log_id: UUID, start: int, *, max_records: int, max_bytes: int) -> Records:
        records = await super().read(log_id, start, max_records=max_records, max_bytes=max_bytes)
        return replace(records, static_context=None)


@caught_by("records_are_numbered_without_a_gap_across_commits", "reading_begins_at_any_offset")
class NumbersByAnswer(MemoryShard):
    async def read(self, log_id: UUID, start: int, *, max_records: int, max_bytes: int) -> Records:
        records = await super().read(log_id, start, max_records=2, max_bytes=max_bytes)
        return replace(records, offsets=range(len(records.entries)))


@caught_by("nothing_is_read_past_the_end")
class WrapsAround(MemoryShard):
    async def read(self, log_id: UUID, start: int, *, max_records: int, max_bytes: int) -> Records:
        records = await super().read(log_id, start, max_records=max_records, max_bytes=max_bytes)
        if records.entries or not start:
            return records
        return await super().read(log_id, 0, max_records=max_records, max_bytes=max_bytes)


@caught_by("reading_begins_behind_what_is_lost")
class HidesWhatIsLost(MemoryShard):
    async def read(self, log_id: UUID, start: int, *, max_records: int, max_bytes: int) -> Records:
        records = await super().read(log_id, start, max_records=max_records, max_bytes=max_bytes)
        return replace(records, start=start)


@caught_by("waiting_ends_with_the_next_record", "waiting_for_what_is_there_ends_at_once")
class WaitsItsTime(MemoryShard):
    async def wait(self, log_id: UUID, end: int, *, seconds: float) -> None:
        await anyio.sleep(seconds)


class OneCallAtATime(MemoryBus):
    """Waits with its only connection in hand."""

    _turn: anyio.Lock | None = None

    async def call(self, verb: str, change: Callable[[], T]) -> T:
        self._turn = self._turn or anyio.Lock()
        async with self._turn:
            return await super().call(verb, change)


@caught_by("waiting_in_vain_ends_in_time_and_hinders_no_call", bus=OneCallAtATime)
class WaitsWithTheConnection(MemoryShard):
    async def wait(self, log_id: UUID, end: int, *, seconds: float) -> None:
        assert isinstance(self._bus, OneCallAtATime)
        self._bus._turn = self._bus._turn or anyio.Lock()
        async with self._bus._turn:
            await anyio.sleep(seconds)


@caught_by("log_that_lost_its_tail_ends_and_another_begins")
class AllLogsLive(MemoryShard):
    async def logs(self) -> Sequence[LogBounds]:
        return [replace(each, is_live=True) for each in await super().logs()]


@caught_by("log_that_lost_its_tail_ends_and_another_begins")
class NothingIsEverLost(MemoryShard):
    async def logs(self) -> Sequence[LogBounds]:
        return [replace(each, may_have_lost_tail=False) for each in await super().logs()]


# -- leases


@caught_by("lease_is_given_to_one_holder_at_a_time", "holders_that_ask_at_once_are_not_both_given_it")
class GivenToAll(MemoryShard):
    async def acquire(self, subscription: str, holder: str, *, seconds: float) -> Lease | None:
        return await super().acquire(subscription, holder, seconds=-1.0)


@caught_by("holders_that_ask_at_once_are_not_both_given_it")
class LooksThenTakes(MemoryShard):
    async def acquire(self, subscription: str, holder: str, *, seconds: float) -> Lease | None:
        held = {each.subscription: each for each in await self.subscriptions()}
        if subscription in held and held[subscription].holder not in ("", holder):
            return None
        await anyio.sleep(0.001)
        lease = Lease(subscription, holder, str(uuid4()))
        self._logs.held.leases[subscription] = MemoryLease(
            holder, lease.token, self._bus.store.time() + seconds, seconds
        )
        return lease


@caught_by("lease_that_ran_out_is_given_to_the_next", "late_holder_changes_nothing")
class NeverRunsOut(MemoryShard):
    async def acquire(self, subscription: str, holder: str, *, seconds: float) -> Lease | None:
        return await super().acquire(subscription, holder, seconds=1e9)


@caught_by("renewed_lease_lasts_from_then_on", "lease_that_only_ran_out_may_be_renewed")
class RenewsNothing(MemoryShard):
    async def renew(self, lease: Lease, *, seconds: float) -> None:
        self._lease(lease)


@caught_by("lease_that_only_ran_out_may_be_renewed")
class LapsedIsLost(MemoryShard):
    async def renew(self, lease: Lease, *, seconds: float) -> None:
        if self._lease(lease).until <= self._bus.store.time():
            raise LeaseLostError("too late")
        await super().renew(lease, seconds=seconds)


@caught_by("release_of_a_lost_lease_leaves_the_next_holder_its_own")
class ReleasesAnyLease(MemoryShard):
    async def release(self, lease: Lease) -> None:
        self._logs.held.leases.pop(lease.subscription, None)


@caught_by("released_lease_is_given_to_the_next_at_once_and_worth_nothing", "tokens_are_never_given_twice")
class ReleasesNothing(MemoryShard):
    async def release(self, lease: Lease) -> None:
        """Keeps it, and asks each time for a holder of its own."""

    async def acquire(self, subscription: str, holder: str, *, seconds: float) -> Lease | None:
        return await super().acquire(subscription, f"{holder}{len(subscription)}{uuid4()}", seconds=seconds)


@caught_by("holder_itself_is_given_another_lease_and_its_earlier_one_is_lost")
class SameLeaseAgain(MemoryShard):
    async def acquire(self, subscription: str, holder: str, *, seconds: float) -> Lease | None:
        kept = self._logs.held.leases.get(subscription, MemoryLease())
        if kept.holder == holder:
            return Lease(subscription, holder, kept.token)
        return await super().acquire(subscription, holder, seconds=seconds)


@caught_by("tokens_are_never_given_twice", "leases_from_before_everything_was_lost_are_lost_and_no_token_comes_again")
class CountsFromOne(MemoryShard):
    async def acquire(self, subscription: str, holder: str, *, seconds: float) -> Lease | None:
        lease = await super().acquire(subscription, holder, seconds=seconds)
        if lease is None:
            return None
        held = self._logs.held
        count = len(held.scanned)
        held.leases[subscription].token = f"{count}"
        return replace(lease, token=f"{count}")


class Unfenced(MemoryShard):
    """Takes any lease for the one that is held."""

    def _lease(self, lease: Lease) -> MemoryLease:
        return self._logs.held.leases.setdefault(lease.subscription, MemoryLease())


@caught_by("late_holder_changes_nothing", "holder_whose_subscription_was_forgotten_changes_nothing")
class UnfencedAltogether(Unfenced):
    pass


@caught_by("late_holder_changes_nothing", "late_holder_commits_nothing_of_time_either")
class UnfencedCommit(MemoryShard):
    async def commit(self, lease: Lease, step: Step) -> None:
        await Unfenced(self._bus, self._logs).commit(lease, step)


@caught_by("late_holder_changes_nothing")
class UnfencedSave(MemoryShard):
    async def save(self, lease: Lease, log_id: UUID, *, scanned: int, content: bytes) -> None:
        await Unfenced(self._bus, self._logs).save(lease, log_id, scanned=scanned, content=content)


@caught_by("late_holder_changes_nothing")
class UnfencedLoad(MemoryShard):
    async def load(self, lease: Lease) -> Mapping[UUID, bytes]:
        return await Unfenced(self._bus, self._logs).load(lease)


@caught_by("operators_see_who_serves_what")
class HoldersForEver(MemoryShard):
    async def subscriptions(self) -> Sequence[Held]:
        leases = self._logs.held.leases
        return [
            replace(each, holder=leases[each.subscription].holder if each.subscription in leases else "")
            for each in await super().subscriptions()
        ]


# -- checkpoints


@caught_by("saved_content_comes_back_to_the_next_holder_byte_for_byte")
class EndsAtZero(MemoryShard):
    async def save(self, lease: Lease, log_id: UUID, *, scanned: int, content: bytes) -> None:
        await super().save(lease, log_id, scanned=scanned, content=content.split(b"\0")[0])


@caught_by("each_subscription_has_checkpoints_of_its_own")
class OneCheckpointForAll(MemoryShard):
    async def load(self, lease: Lease) -> Mapping[UUID, bytes]:
        self._lease(lease)
        return {log_id: content for kept in self._logs.held.saved.values() for log_id, content in kept.items()}


@caught_by("checkpoint_may_go_back")
class OnlyForward(MemoryShard):
    async def save(self, lease: Lease, log_id: UUID, *, scanned: int, content: bytes) -> None:
        before = self._logs.held.scanned[lease.subscription].get(log_id, 0)
        if scanned >= before:
            await super().save(lease, log_id, scanned=scanned, content=content)


@caught_by("nothing_is_trimmed_that_one_subscription_has_not_settled")
class TrimsWhatOneHasSettled(MemoryShard):
    async def save(self, lease: Lease, log_id: UUID, *, scanned: int, content: bytes) -> None:
        await super().save(lease, log_id, scanned=scanned, content=content)
        self._logs.trim_all(log_id, scanned)


@caught_by("nothing_is_trimmed_that_one_subscription_has_not_settled")
class TrimsWithoutTheDead(MemoryShard):
    async def save(self, lease: Lease, log_id: UUID, *, scanned: int, content: bytes) -> None:
        await super().save(lease, log_id, scanned=scanned, content=content)
        saved = self._logs.held.saved
        self._logs.trim_all(log_id, min(self._logs.held.scanned[name].get(log_id, 0) for name in saved))


@caught_by("nothing_is_trimmed_that_a_stage_has_not_read")
class TrimsWithoutStages(MemoryShard):
    async def save(self, lease: Lease, log_id: UUID, *, scanned: int, content: bytes) -> None:
        await super().save(lease, log_id, scanned=scanned, content=content)
        others = [at for name, at in self._logs.held.scanned.items() if not name.startswith("stage:")]
        self._logs.trim_all(log_id, min(at.get(log_id, 0) for at in others))


@caught_by("what_all_have_settled_is_trimmed")
class TrimsNothing(MemoryShard):
    async def save(self, lease: Lease, log_id: UUID, *, scanned: int, content: bytes) -> None:
        self._lease(lease)


# -- stages


@caught_by("step_is_committed_once", "step_from_elsewhere_changes_nothing")
class CommitsFromAnywhere(MemoryShard):
    async def commit(self, lease: Lease, step: Step) -> None:
        at = 0 if step.log_id is None else (await self.progress(lease)).get(step.log_id, 0)
        await super().commit(lease, replace(step, start=at))


@caught_by("step_is_committed_once")
class RepeatsInSilence(MemoryShard):
    async def commit(self, lease: Lease, step: Step) -> None:
        try:
            await super().commit(lease, step)
        except LeaseLostError:
            self._lease(lease)


@caught_by("cancelled_commit_is_whole_or_absent_and_certain_once_acquired_again")
class CommitsInTwo(MemoryShard):
    async def commit(self, lease: Lease, step: Step) -> None:
        await super().commit(lease, replace(step, output=replace(step.output, entries=[])))
        await anyio.sleep(0.002)
        self._logs.outlet("halve").append(step.output.entries, static_context=step.output.static_context)


@caught_by("step_of_time_leaves_the_stage_where_it_is")
class TimeMovesOn(MemoryShard):
    async def commit(self, lease: Lease, step: Step) -> None:
        await super().commit(lease, step)
        if step.log_id is None:
            at = self._logs.stage("halve").at
            at.update({log_id: offset + 1 for log_id, offset in at.items()})


@caught_by("outlet_is_a_shard_of_its_own", "step_is_committed_as_a_whole")
class PutsItBack(MemoryShard):
    def outlet(self, stage: str) -> MemoryShard:
        return self

    async def commit(self, lease: Lease, step: Step) -> None:
        await super().commit(lease, replace(step, output=replace(step.output, entries=[])))
        self._logs.append([*step.output.entries, *step.output.entries])


@caught_by("keys_are_due_once_their_deadline_has_passed_the_oldest_first")
class DueTooEarly(MemoryShard):
    async def due(self, stage: str, *, limit: int) -> Sequence[tuple[str, bytes]]:
        kept = self._logs.stage(stage)
        return [(key, kept.state[key]) for key in kept.due][:limit]


@caught_by("keys_are_due_once_their_deadline_has_passed_the_oldest_first")
class DueInAnyOrder(MemoryShard):
    async def due(self, stage: str, *, limit: int) -> Sequence[tuple[str, bytes]]:
        return list(reversed(await super().due(stage, limit=limit)))


@caught_by("keys_are_due_once_their_deadline_has_passed_the_oldest_first")
class AllThatAreDue(MemoryShard):
    async def due(self, stage: str, *, limit: int) -> Sequence[tuple[str, bytes]]:
        return await super().due(stage, limit=1 << 30)


@caught_by("deadline_may_be_moved_and_taken_back_and_ends_with_its_key")
class DeadlinesStay(MemoryShard):
    async def commit(self, lease: Lease, step: Step) -> None:
        due = dict(self._logs.stage("halve").due)
        await super().commit(lease, step)
        kept = self._logs.stage("halve")
        kept.due.update({key: at for key, at in due.items() if key in kept.state or key == "removed"})
        kept.state.setdefault("removed", b"")


@caught_by("what_is_set_to_nothing_is_kept_no_more")
class KeepsNothings(MemoryShard):
    async def commit(self, lease: Lease, step: Step) -> None:
        state: dict[str, Any] = {key: value or b"" for key, value in step.output.state.items()}
        await super().commit(lease, replace(step, output=replace(step.output, state=state)))


@caught_by("step_is_committed_as_a_whole", "what_is_set_to_nothing_is_kept_no_more")
class CountsRoughly(MemoryShard):
    async def size(self, stage: str) -> int:
        return await super().size(stage) // 10 * 10


@caught_by("what_is_counted_of_the_state_changes_with_it_and_begins_at_nothing")
class CountsBeforeItKnows(MemoryShard):
    async def commit(self, lease: Lease, step: Step) -> None:
        tallies = self._logs.stage(lease.subscription.removeprefix("stage:")).tallies
        for name, change in step.output.tallies.items():
            tallies[name] = tallies.get(name, 0) + change
        await super().commit(lease, replace(step, output=replace(step.output, tallies={})))


@caught_by("views_are_published_for_their_time")
class ViewsForEver(MemoryShard):
    async def view(self, stage: str, key: str) -> bytes | None:
        await anyio.lowlevel.checkpoint()
        return self._logs.stage(stage).views.get(key, (None, 0.0))[0]


@caught_by("members_are_counted_while_they_were_seen_lately")
class SeenForEver(MemoryShard):
    async def count_seen(self, stage: str, index: str, *, seconds: float) -> int:
        await anyio.lowlevel.checkpoint()
        return len(self._logs.stage(stage).seen.get(index, {}))


# -- outages


class RawErrors(MemoryBus):
    """What its driver throws comes out."""

    async def call(self, verb: str, change: Callable[[], T]) -> T:
        try:
            return await super().call(verb, change)
        except TransientError as exc:
            raise ConnectionError(str(exc)) from exc


@caught_by("call_out_of_reach_is_transient_and_works_again_afterwards", "lost_answer_is_transient", bus=RawErrors)
class RawOutage(MemoryShard):
    pass


class Retries(MemoryBus):
    """Waits for an outage to end."""

    async def open(self) -> None:
        self._is_open = True

    async def call(self, verb: str, change: Callable[[], T]) -> T:
        while True:
            try:
                return await super().call(verb, change)
            except TransientError:
                await anyio.sleep(0.01)


@caught_by("bus_out_of_reach_opens_once_it_is_back", bus=Retries)
class RetriesForEver(MemoryShard):
    pass


class Alone(MemoryBus):
    """Tells each relay of itself."""

    async def announce(self, subscription: str, presence: Presence, *, seconds: float) -> Sequence[Presence]:
        return [each for each in await super().announce(subscription, presence, seconds=seconds) if each == presence]


@caught_by("relays_of_a_subscription_hear_of_each_other", "relay_is_there_for_as_long_as_it_said", bus=Alone)
class TellsOfNoOther(MemoryShard):
    pass


class OneRoom(MemoryBus):
    """Relays of all subscriptions are in one."""

    async def announce(self, subscription: str, presence: Presence, *, seconds: float) -> Sequence[Presence]:
        return await super().announce("", presence, seconds=seconds)


@caught_by("relays_of_a_subscription_hear_of_each_other", bus=OneRoom)
class TellsOfThoseOfOtherSubscriptions(MemoryShard):
    pass


class Faithful(MemoryBus):
    """What was said lasts for ever."""

    async def announce(self, subscription: str, presence: Presence, *, seconds: float) -> Sequence[Presence]:
        return await super().announce(subscription, presence, seconds=1e9 if seconds else 0.0)


@caught_by("relay_is_there_for_as_long_as_it_said", bus=Faithful)
class NeverForgetsARelay(MemoryShard):
    pass


class Clinging(MemoryBus):
    """Who leaves is still there."""

    async def announce(self, subscription: str, presence: Presence, *, seconds: float) -> Sequence[Presence]:
        return await super().announce(subscription, presence, seconds=seconds or 1e9)


@caught_by("relay_that_leaves_is_gone_at_once", bus=Clinging)
class KeepsARelayThatLeaves(MemoryShard):
    pass


class FirstWord(MemoryBus):
    """What a relay says first stands."""

    async def announce(self, subscription: str, presence: Presence, *, seconds: float) -> Sequence[Presence]:
        said = self.store.present.get(subscription, {}).get(presence.holder)
        return await super().announce(subscription, said[0] if said and seconds else presence, seconds=seconds)


@caught_by("what_a_relay_says_last_stands", bus=FirstWord)
class KeepsWhatARelaySaidFirst(MemoryShard):
    pass


class OnceOnly(MemoryBus):
    """Opens once."""

    was_closed = False

    async def open(self) -> None:
        if not self.was_closed:
            await super().open()

    async def close(self) -> None:
        self.was_closed = True
        await super().close()


@caught_by("bus_closes_twice_and_opens_again", bus=OnceOnly)
class OpensOnce(MemoryShard):
    pass


class Mixes(MemoryBus):
    """An answer that was not waited for is there for the next call."""

    late: object = None

    async def call(self, verb: str, change: Callable[[], T]) -> T:
        late, self.late = self.late, None
        if late is not None:
            return late  # type: ignore[return-value]
        is_done = False
        try:
            await anyio.sleep(0.0003)
            answer = await super().call(verb, change)
            is_done = True
            return answer
        finally:
            if not is_done:
                self.late = Records(0, 0)


@caught_by("cancelled_call_leaves_no_connection_that_answers_another", bus=Mixes)
class MixesAnswers(MemoryShard):
    pass


def _suite_of(shard: type[MemoryShard]) -> type:
    """Those claims of the suite that must catch `shard`."""

    class Harness(MemoryHarness):
        patience = 1.0

    @pytest.fixture
    def harness(_: object) -> BusHarness:
        return Harness(BUSES[shard])

    claims = {name: getattr(BusConformance, name) for name in CAUGHT_BY[shard]}
    return type(shard.__name__, (BusClaims,), {"harness": harness, **claims})


for _shard in CAUGHT_BY:
    globals()[f"Test{_shard.__name__}"] = _suite_of(_shard)
