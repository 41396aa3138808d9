"""Delivery against a model destination: every fault in any order, on virtual time, and each record exactly once."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal
from uuid import UUID

import anyio
import anyio.lowlevel
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventrec.delivery.letters.dead_letters import DeadLetter
from eventrec.delivery.sources.source import OnLost, Records
from eventrec.delivery.subscription import NewDestination, Subscription
from eventrec.delivery.worker.worker import Worker
from eventrec.errors import (
    BatchTooLargeError,
    DeliveryError,
    FencedError,
    PartialError,
    PauseError,
    PermanentError,
    TransientError,
)
from eventrec.handler import DestinationCheckpoints, EventHandler
from eventrec.options import DeliverySettings, RetrySettings
from eventrec.records.batch import Batch
from eventrec.records.entry import SHAPE, Entry
from eventrec.records.schema import Shape
from eventrec.runs.checkpoint import Checkpoint
from eventrec.runs.requests import OperatorRequest
from eventrec.testing.clock import VirtualTimeLoop

EXAMPLES: Final = int(os.environ.get("EVENTREC_TEST_EXAMPLES", "150"))
STEPS: Final = 40
ID: Final = UUID(int=7)
NAME: Final = "s"
SHAPES: Final = {kind: Shape("events", kind) for kind in ("a", "b", "c", "d")}
STEP: Final = 0.01
"""Seconds that each half of a request takes: what is faster than that stops in the middle of one."""

Kind = Literal["fenced", "preparing", "token", "plain"]
FENCED: Final = ("fenced", "preparing")


# -- the world: a log, a destination, letters


@dataclass
class State:
    """What the destination has committed. `floor` is where its checkpoint began."""

    id: str
    rows: list[int] = field(default_factory=list)
    next: int | None = None
    floor: int = 0
    tokens: set[str] = field(default_factory=set)

    def copy(self) -> State:
        return State(self.id, list(self.rows), self.next, self.floor, set(self.tokens))


class Destination:
    """Commits whole batches, and fails as it is told: `faults` one for each batch, `ask_faults` for each question."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.state = State("first")
        self.earlier: list[State] = []
        """Destinations that were replaced."""
        self.epoch = 0
        """Counts restores: what is under way then never arrives."""
        self.faults: deque[str] = deque()
        self.ask_faults: deque[str] = deque()
        self.poison: dict[int, str] = {}
        self.is_broken = False
        self.limit = 1_000
        self.types: set[str] = set()
        self.sent: dict[str, tuple[int, ...]] = {}
        self.under_way: set[str] = set()
        """Tokens of batches that it took, and has not committed yet: it does not refuse these."""
        self.wrong: list[str] = []
        """What no handler should ever see: said here, because a worker survives whatever a handler raises."""

    async def ask(self, process: Process, start: int) -> int:
        """Where the checkpoint stands; made at `start` where there is none."""
        fault = self.ask_faults.popleft() if self.ask_faults else ""
        await process.step()
        self._fail(fault, "before")
        if self.state.next is None:
            self.state.next = self.state.floor = start
        answer = self.state.next
        await process.step()
        self._fail(fault, "after")
        return answer

    async def take(self, process: Process, batch: Batch) -> None:
        """Commit `batch`, or raise what a handler raises."""
        fault = self.faults.popleft() if self.faults else ""
        sent = self.sent.setdefault(batch.token, tuple(batch.offsets))
        if self.kind == "token" and sent != tuple(batch.offsets):
            self.wrong.append(f"{batch.token} was {sent}, is {batch.offsets}")
        if list(batch._entries) != [process.world.entries[offset] for offset in batch.offsets]:
            self.wrong.append(f"other records in {batch}")
        await process.step()
        self._fail(fault, "before")
        if self.is_broken:
            raise ZeroDivisionError("broken")
        self._quota(batch)
        if fault == "late":
            epoch = self.epoch
            self.under_way.add(batch.token)
            process.world.loop.call_later(2.5, lambda: self._commit_late(batch, epoch))
            raise TransientError("cut")
        failed = self._commit(batch, partial=fault == "partial")
        await process.step()
        self._fail(fault, "after")
        if failed:
            raise PartialError(failed)

    def _fail(self, fault: str, when: str) -> None:
        match fault.split():
            case ["transient", at] if at == when:
                raise TransientError("busy")
            case ["slow", at] if at == when:
                raise TransientError("slow down", retry_after=20)
            case ["unknown", at] if at == when:
                raise ValueError("who knows")
            case ["pause", at] if at == when:
                raise PauseError("401")
            case ["refused", at] if at == when:
                raise PermanentError("no such schema")
            case ["cancelled", at] if at == when:
                raise asyncio.CancelledError

    def _quota(self, batch: Batch) -> None:
        """Refuse what is poisoned, in the way it is, and types that were not seen before, once."""
        if batch.token in self.state.tokens or (self.kind == "token" and batch.token in self.under_way):
            return
        if len(batch) > self.limit:
            raise BatchTooLargeError("413")
        new = {entry[SHAPE].type for entry in batch._entries} - self.types
        if new:
            self.types |= new
            raise TransientError("schema changed")
        poison = {offset: self.poison[offset] for offset in batch.offsets if offset in self.poison}
        kinds = set(poison.values())
        if "large" in kinds:
            raise BatchTooLargeError("413")
        if "named" in kinds:
            raise PermanentError("22P02", records={o: "named" for o, how in poison.items() if how == "named"})
        if "unnamed" in kinds:
            raise PermanentError("22P02")
        if "unknown" in kinds:
            raise ValueError("cannot map")

    def _commit(self, batch: Batch, *, partial: bool = False) -> dict[int, DeliveryError]:
        state = self.state
        if self.kind in FENCED:
            if state.next != batch.start:
                raise FencedError(f"at {state.next}, not at {batch.start}")
            state.next = batch.end
        if self.kind == "token":
            if batch.token in state.tokens:
                return {}
            state.tokens.add(batch.token)
        failed: dict[int, DeliveryError] = {}
        if partial and self.kind == "plain":
            failed = {offset: TransientError("later") for offset in batch.offsets[::3]}
            failed |= {offset: PermanentError("never") for offset in batch.offsets[1::3]}
        state.rows += [offset for offset in batch.offsets if offset not in failed]
        return failed

    def _commit_late(self, batch: Batch, epoch: int) -> None:
        if epoch == self.epoch:
            with suppress(FencedError):  # rolled back, and no worker listens any more
                self._commit(batch)

    # -- what may happen to a destination

    def put_back(self, state: State) -> None:
        self.epoch += 1
        self.state = state

    def replace(self) -> None:
        self.earlier.append(self.state)
        self.put_back(State(f"another {len(self.earlier)}"))


class Letters:
    """Dead letters in memory, shared by all processes, as a directory is."""

    def __init__(self) -> None:
        self.written: list[DeadLetter] = []
        self.offsets: set[int] = set()
        self.is_full = False

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        return self.offsets


class World:
    """What outlives every process."""

    def __init__(self, kind: Kind) -> None:
        self.loop = VirtualTimeLoop()
        self.entries: list[Entry] = []
        self.first = 0
        """The oldest record that is kept."""
        self.destination = Destination(kind)
        self.letters = Letters()
        self.dropped: Counter[str] = Counter()
        self.saved: list[Checkpoint] = []
        self.frozen: int | None = None
        """Which of them had to be on the disk before something else was done."""


# -- a process


class View:
    """The log as one process reads it: a source, and its one cursor."""

    id = ID

    def __init__(self, world: World) -> None:
        self.next = 0
        self._world = world
        self._grown = anyio.Event()
        self._on_lost: OnLost = lambda _reason, _count, _entries: None

    @property
    def end(self) -> int:
        return len(self._world.entries)

    def subscribe(self, name: str, start: Literal["earliest", "latest"], on_lost: OnLost) -> View:
        self._on_lost = on_lost
        return self

    async def read(self, *, max_records: int, max_bytes: int) -> Records:
        await anyio.lowlevel.checkpoint()
        start = self.next
        if start < self._world.first:
            self.next = self._world.first
            self._on_lost("corrupt", self.next - start, ())
            return Records(self.next, self.next)
        entries = self._world.entries[start : start + max_records]
        self.next = start + len(entries)
        return Records(start, self.next, range(start, self.next), entries)

    async def wait(self) -> None:
        while self.end <= self.next:
            await self._grown.wait()

    def note_growth(self) -> None:
        grown, self._grown = self._grown, anyio.Event()
        grown.set()

    @property
    def furthest(self) -> int:
        return self.end

    async def oldest(self) -> int:
        await anyio.lowlevel.checkpoint()
        return self._world.first

    def seek(self, offset: int) -> None:
        self.next = offset

    def acknowledge(self, next_offset: int) -> None:
        pass


class Handler(EventHandler):
    """A destination that keeps no checkpoints."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.destination = process.world.destination

    async def handle(self, batch: Batch) -> None:
        await self.destination.take(self.process, batch)

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()


class TokenHandler(Handler):
    dedupes_by_token = True


class FencedHandler(Handler, DestinationCheckpoints):
    """The destination keeps the checkpoint, and compares it in the transaction."""

    @property
    def checkpoints(self) -> FencedHandler:
        return self

    async def destination_id(self) -> str:
        await self.process.step()
        return self.destination.state.id

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        return await self.destination.ask(self.process, start)

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        self.destination.state.next = end


class PreparingHandler(FencedHandler):
    async def prepare(self, batch: Batch) -> None:
        await self.process.step()


HANDLERS: Final = {"fenced": FencedHandler, "preparing": PreparingHandler, "token": TokenHandler, "plain": Handler}


class Process:
    """A worker, and the ends of its wires: it may stop at any of them, for a while or for ever."""

    def __init__(
        self, world: World, checkpoint: Checkpoint | None, subscription: Callable[[Process], Subscription]
    ) -> None:
        self.world = world
        self.is_alive = True
        self.is_paused = False
        self._woken = anyio.Event()
        self.dropped: Counter[str] = Counter()
        self.dropped_before = Counter(checkpoint.progress.dropped) if checkpoint is not None else Counter()
        self.source = View(world)
        self.worker = Worker(
            subscription(self),
            self.source,
            self,
            on_drop=self._drop,
            checkpoint=checkpoint,
            freeze=self._freeze,
        )
        self.task = world.loop.create_task(self.worker.run())

    async def step(self) -> None:
        """Half a request. A paused process goes no further, a dead one never."""
        await anyio.sleep(STEP)
        while self.is_paused:
            await self._woken.wait()
        assert self.is_alive

    def wake(self) -> None:
        self.is_paused = False
        woken, self._woken = self._woken, anyio.Event()
        woken.set()

    def _drop(self, reason: str, count: int) -> None:
        self.dropped[reason] += count
        self.world.dropped[reason] += count

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        await self.step()
        if self.world.letters.is_full:
            raise OSError("full")
        self.world.letters.written += letters
        self.world.letters.offsets |= {letter.offset for letter in letters}
        await self.step()

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        return self.world.letters.known(log_id, subscription)

    async def _freeze(self) -> None:
        await self.step()
        self.world.frozen = len(self.world.saved)
        self.save()
        await self.step()

    def save(self) -> None:
        """As to a file and back."""
        encoded = msgspec.json.encode(self.worker.checkpoint())
        self.world.saved.append(msgspec.json.decode(encoded, type=Checkpoint))

    def kill(self) -> None:
        self.is_alive = False
        self.stop()

    def stop(self) -> None:
        """End the task, wherever it is."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            self.world.loop.run_until_complete(self.task)


# -- the machine

FAULTS = st.sampled_from(
    [
        *(
            f"{how} {when}"
            for how in ("transient", "unknown", "slow", "pause", "cancelled")
            for when in ("before", "after")
        ),
        "transient after",
        "transient after",
        "late",
        "late",
        "partial",
        "",
    ]
)
ASK_FAULTS = st.sampled_from(
    [f"{how} {when}" for how in ("transient", "unknown", "refused") for when in ("before", "after")]
)
POISON = st.sampled_from([*[""] * 8, "named", "unnamed", "large", "unknown"])
MOMENTS = st.sampled_from([0.0, 0.005, 0.012, 0.02, 0.025, 0.03, 0.045, 0.06, 0.1])
"""Seconds in which a request may be half done."""


class Delivery(RuleBasedStateMachine):
    """`processes` deliver one log to one destination, by one subscription; the first is the one that is awake."""

    steps = 0

    @initialize(
        kind=st.sampled_from(["fenced", "fenced", "preparing", "preparing", "token", "plain"]),
        rows=st.tuples(st.integers(1, 6), st.sampled_from([1, 1, 4])),
        types=st.sampled_from([None, frozenset("ab"), frozenset("abcd")]),
        attempts=st.sampled_from([None, None, 2]),
        unmapped_and_new=st.tuples(
            st.sampled_from([False, False, True]), st.sampled_from(["pause", "pause", "earliest", "latest"])
        ),
    )
    def begin(
        self,
        kind: Kind,
        rows: tuple[int, int],
        types: frozenset[str] | None,
        attempts: int | None,
        unmapped_and_new: tuple[bool, NewDestination],
    ) -> None:
        self.kind, self.types, self.attempts = kind, types, attempts
        hold, self.policy = unmapped_and_new
        self.settings = DeliverySettings(
            batch_rows=rows[0],
            batch_bytes=1 << 20,
            flush_interval=0.05,
            ticks=False,
            retry=RetrySettings(first=0.5, factor=2, max=8, full_jitter=False, attempts=attempts),
            hold_unmapped=hold,
            backlog_batches=rows[1],
        )
        self.world = World(kind)
        self.destination = self.world.destination
        self.backups: list[State] = []
        self.unwanted: set[int] = set()
        self.was_put_back = False
        self.is_skipping = False
        self.had_one_process = True
        self.processes = [self.process(None)]

    def process(self, checkpoint: Checkpoint | None) -> Process:
        async def make() -> Process:
            return Process(self.world, checkpoint, self.subscription)

        return self.world.loop.run_until_complete(make())

    def subscription(self, process: Process) -> Subscription:
        return Subscription(
            NAME,
            HANDLERS[self.kind](process),
            self.settings,
            self.types,
            on_new_destination=self.policy,
        )

    def on_loop(self, change: Callable[[], object]) -> None:
        async def make() -> None:
            change()

        self.world.loop.run_until_complete(make())

    def skip_at(self, process: Process, offset: int) -> None:
        self.on_loop(lambda: process.worker.apply(OperatorRequest(subscription=NAME, asked=0, skip=offset, log=ID)))

    # -- what goes on

    @rule(kinds=st.lists(st.tuples(st.sampled_from("aaabcd"), POISON), min_size=1, max_size=9))
    def record(self, kinds: list[tuple[str, str]]) -> None:
        for kind, poison in kinds:
            offset = len(self.world.entries)
            self.world.entries.append((SHAPES[kind], offset, b"{}", None, None, None, 200))
            if poison:
                self.destination.poison[offset] = poison
            if self.types is not None and kind not in self.types:
                self.unwanted.add(offset)
        for process in self.processes:
            process.source.note_growth()

    @rule(seconds=MOMENTS)
    def run(self, seconds: float) -> None:
        self.world.loop.run_until_complete(asyncio.sleep(seconds))

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 3.0, 30.0, 300.0]))
    def run_on(self, seconds: float) -> None:
        self.run(seconds)

    @rule()
    def flush(self) -> None:
        self.on_loop(lambda: self.processes[0].worker._reader.flush(len(self.world.entries)))

    # -- what goes wrong at the destination

    @rule(faults=st.lists(FAULTS, min_size=1, max_size=4))
    def fail(self, faults: list[str]) -> None:
        self.destination.faults.extend(faults)

    @rule(faults=st.lists(ASK_FAULTS, min_size=1, max_size=2))
    def fail_to_answer(self, faults: list[str]) -> None:
        self.destination.ask_faults.extend(faults)

    @rule()
    def break_down(self) -> None:
        self.destination.is_broken = True

    @rule()
    def come_back(self) -> None:
        self.destination.is_broken = False

    @rule(limit=st.sampled_from([1, 2, 1_000]))
    def bound(self, limit: int) -> None:
        self.destination.limit = limit

    @rule(full=st.booleans())
    def fill_letters(self, full: bool) -> None:  # noqa: FBT001 - drawn
        self.world.letters.is_full = full

    # -- what happens to a destination that keeps checkpoints

    @precondition(lambda self: self.kind in FENCED)
    @rule()
    def back_up(self) -> None:
        self.backups.append(self.destination.state.copy())

    @precondition(lambda self: self.backups)
    @rule(back=st.integers(0, 3))
    def restore(self, back: int) -> None:
        """An operator never restores what came later than what was restored before."""
        del self.backups[len(self.backups) - back % len(self.backups) :]
        backup = self.backups[-1]
        if backup.id == self.destination.state.id:
            self.was_put_back = True
            self.destination.put_back(backup.copy())

    @precondition(lambda self: self.kind in FENCED)
    @rule()
    def lose_row(self) -> None:
        self.was_put_back = True
        self.backups.clear()
        self.destination.put_back(State(self.destination.state.id))

    @precondition(lambda self: self.kind in FENCED)
    @rule()
    def replace(self) -> None:
        self.was_put_back = True
        self.destination.replace()

    # -- what operators do

    @rule(start=st.sampled_from([None, "earliest", "latest"]))
    def resume(self, start: NewDestination | None) -> None:
        self.on_loop(lambda: self.processes[0].worker.resume(start))

    @precondition(lambda self: len(self.processes) == 1 and self.kind != "token")
    @rule(back=st.integers(0, 9))
    def skip(self, back: int) -> None:
        """Not where two deliver: one may send what the other sets aside. Nor where it cannot be asked what arrived."""
        self.is_skipping = True
        offset = len(self.world.entries) - 1 - back
        self.skip_at(self.processes[0], offset)

    # -- what happens to processes

    @rule()
    def save(self) -> None:
        self.processes[0].save()

    @rule(back=st.sampled_from([0, 0, 0, 1, 2, 5]))
    def kill(self, back: int) -> None:
        self.processes.pop(0).kill()
        self.processes.insert(0, self.process(self.last_saved(back)))

    @rule()
    def restart(self) -> None:
        old = self.processes.pop(0)
        old.stop()
        self.world.loop.run_until_complete(old.worker.close())
        old.save()
        old.is_alive = False
        self.processes.insert(0, self.process(self.last_saved(0)))

    @rule()
    def cancel(self) -> None:
        """And run again, with what is in hand."""
        process = self.processes[0]
        process.stop()
        process.task = self.world.loop.create_task(process.worker.run())

    def last_saved(self, back: int) -> Checkpoint | None:
        """Not older than what is deleted; nor than what was frozen, which is on the disk before it is sent."""
        world = self.world
        able = [each for each in world.saved[world.frozen or 0 :] if each.progress.scanned >= world.first]
        if back < len(able):
            return able[-1 - back]
        return None if world.first == 0 and world.frozen is None else able[0]

    @precondition(lambda self: self.kind in FENCED and len(self.processes) < 3 and not self.is_skipping)
    @rule()
    def stand_still(self) -> None:
        """The process stops for a while, and another one adopts its log."""
        self.had_one_process = False
        self.processes[0].is_paused = True
        self.processes.insert(0, self.process(self.last_saved(0)))

    @precondition(lambda self: len(self.processes) > 1)
    @rule()
    def wake_late(self) -> None:
        self.processes[-1].wake()
        self.processes.insert(0, self.processes.pop())

    @rule()
    def delete_old(self) -> None:
        """What the saved checkpoint is past goes."""
        if self.world.saved:
            self.world.first = max(self.world.first, self.world.saved[-1].progress.scanned)

    # -- what must be true

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def accounts_balance(self) -> None:
        type(self).steps += 1
        for process in self.processes:
            if process.task.done():
                process.task.result()
            status = process.worker.status()
            assert status.is_balanced, status
            assert min(status.delivered, status.filtered, status.dead, status.rewound, status.pending) >= 0, status
            assert status.acknowledged <= status.scanned, status
            assert Counter(status.dropped) == process.dropped + process.dropped_before

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def nothing_is_doubled(self) -> None:
        assert not self.destination.wrong
        if self.kind == "plain":
            return
        for state in [self.destination.state, *self.destination.earlier]:
            assert len(state.rows) == len(set(state.rows)), state.rows
            if self.kind in FENCED:
                assert state.rows == sorted(state.rows)
            assert self.unwanted.isdisjoint(state.rows)
            if state is self.destination.state:
                assert self.refused().isdisjoint(state.rows)

    def refused(self) -> set[int]:
        """Offsets of letters that no row may belong to.

        A record that fails alone, with an error that says nothing, may have arrived where it cannot be asked; and while
        another process delivers too, it is not known whose commit the answer is about. Rather a letter too many than a
        record that is nowhere.
        """
        unsure = ("unmapped",) if self.kind == "token" or not self.had_one_process else ()
        return {each.offset for each in self.world.letters.written if not each.reason.startswith(unsure)}

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.settle()
            self.accounts_balance()
            self.nothing_is_doubled()
            self.nothing_is_missing()
        finally:
            for process in self.processes:
                process.kill()
            self.world.loop.close()

    def settle(self) -> None:
        """Everything is mended: all processes get to the end."""
        self.destination.faults.clear()
        self.destination.ask_faults.clear()
        self.destination.is_broken = self.world.letters.is_full = False
        self.destination.limit = 1_000
        self.record([("a", "")])
        for process in self.processes:
            self.on_loop(process.wake)
        for patience in range(60):
            self.run(100)
            lagging = [process for process in self.processes if process.worker.lag]
            if not lagging:
                return
            for process in lagging:
                if process.worker.is_held:
                    self.on_loop(partial(process.worker.resume, "latest"))
                if patience > 20:  # the same record in all of them, whichever is first
                    self.skip_the_unknown(process)
        raise AssertionError(f"stuck: {[process.worker for process in lagging]}")

    def skip_the_unknown(self, process: Process) -> None:
        """Where every record fails, or what has no word may not be buried, an operator has to."""
        for offset, how in self.destination.poison.items():
            if how == "unknown":
                self.skip_at(process, offset)

    def nothing_is_missing(self) -> None:
        state, world = self.destination.state, self.world
        wanted = set(range(state.floor, len(world.entries))) - self.unwanted
        missing = wanted - set(state.rows) - world.letters.offsets
        gone = {offset for offset in missing if self.was_put_back and offset < world.first}
        assert self.attempts is not None or not missing - gone, (missing - gone, state, world.letters.offsets)
        assert len(missing) <= world.dropped.total(), (missing, world.dropped)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_record_is_delivered_once_or_accounted_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="eventrec")

    run_state_machine_as_test(
        Delivery,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

    assert Delivery.steps > EXAMPLES
