"""A source whose offsets have holes, and that loses records, as a bus does: worker, freezing, bisecting, rewinding."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar
from uuid import UUID

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventrec import Backoff, Batch, EventHandler, PermanentError, TransientError
from eventrec.delivery.letters.dead_letters import DeadLetter
from eventrec.delivery.sources.source import OnLost, Records, Start
from eventrec.delivery.subscription import Subscription
from eventrec.delivery.worker.worker import Worker
from eventrec.records.entry import Entry, make_entry
from eventrec.records.schema import Shape
from eventrec.runs.checkpoint import Checkpoint
from eventrec.testing.clock import VirtualTimeLoop
from eventrec.testing.scripted import FencedHandler, ScriptedHandler, numbers, quickly, raising, refusing

ID = UUID(int=7)
SHAPES = {kind: Shape("events", kind) for kind in "ab"}


def entry(number: int, kind: str = "a") -> Entry:
    return make_entry(SHAPES[kind], number, b'{"number":%d}' % number)


class Bus:
    """Records at `offsets`, numbered by them; what lies below `trimmed` is lost. A read gives at most `at_once`."""

    id = ID

    def __init__(self, *offsets: int, end: int | None = None, trimmed: int = 0, at_once: int = 1_000) -> None:
        self.entries = {offset: entry(offset) for offset in offsets}
        self.contexts: dict[int, bytes] = {}
        self.end = max(offsets, default=-1) + 1 if end is None else end
        self.trimmed = trimmed
        self.at_once = at_once
        self.acknowledged: list[int] = []

    @property
    def furthest(self) -> int:
        return self.end

    async def oldest(self) -> int:
        await anyio.lowlevel.checkpoint()
        return self.trimmed

    def subscribe(self, name: str, start: Start, on_lost: OnLost) -> BusCursor:
        del name
        return BusCursor(self, 0 if start == "earliest" else self.end, on_lost)


class BusCursor:
    def __init__(self, bus: Bus, at: int, on_lost: OnLost) -> None:
        self.next = at
        self._bus = bus
        self._on_lost = on_lost

    async def read(self, *, max_records: int, max_bytes: int) -> Records:
        await anyio.lowlevel.checkpoint()
        bus, start = self._bus, self.next
        if start < bus.trimmed:
            self.next = bus.trimmed
            self._on_lost("trimmed", self.next - start, ())
            return Records(self.next, self.next)
        found = [offset for offset in sorted(bus.entries) if offset >= start][: min(max_records, bus.at_once)]
        same = [offset for offset in found if bus.contexts.get(offset) == bus.contexts.get(found[0])]
        found = found[: next((at for at, offset in enumerate(found) if offset not in same), len(found))]
        self.next = found[-1] + 1 if found else bus.end
        static = bus.contexts.get(found[0]) if found else None
        return Records(start, self.next, found, [bus.entries[offset] for offset in found], static)

    async def wait(self) -> None:
        while self._bus.end <= self.next:
            await anyio.sleep_forever()

    def seek(self, offset: int) -> None:
        self.next = offset

    def acknowledge(self, next_offset: int) -> None:
        self._bus.acknowledged.append(next_offset)


class Letters:
    def __init__(self) -> None:
        self.written: list[DeadLetter] = []

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        await anyio.lowlevel.checkpoint()
        self.written += letters

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        return {letter.offset for letter in self.written}


@dataclass
class TokenHandler(ScriptedHandler):
    dedupes_by_token: ClassVar[bool] = True


def worker_of(
    handler: EventHandler,
    bus: Bus,
    letters: Letters | None = None,
    *,
    checkpoint: Checkpoint | None = None,
    freeze: Callable[[], Awaitable[None]] | None = None,
    types: frozenset[str] | None = None,
    rows: int = 4,
) -> Worker:
    options = quickly(batch_rows=rows, flush_interval=0.1, retry=Backoff(jitter="none", max=8))
    subscription = Subscription("s", handler, options.resolve(has_log=True).delivery, types)
    return Worker(subscription, bus, letters or Letters(), checkpoint=checkpoint, freeze=freeze)


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        yield
        tasks.cancel_scope.cancel()
    assert worker.status().is_balanced


async def test_what_has_no_record_is_filtered_and_the_checkpoint_moves_past_it() -> None:
    handler, bus = FencedHandler(), Bus(2, 3, 7, 30, end=40)

    async with running(worker := worker_of(handler, bus)):
        await anyio.sleep(5)

    assert handler.delivered == [2, 3, 7, 30]
    assert (worker.progress.delivered, worker.progress.filtered, worker.progress.scanned) == (4, 36, 40)
    assert bus.acknowledged[-1] == 40


async def test_a_batch_says_which_offsets_it_holds() -> None:
    seen: list[tuple[list[int], int, int]] = []
    handler = ScriptedHandler(always=lambda batch: seen.append((list(batch.offsets), batch.start, batch.end)))

    async with running(worker_of(handler, Bus(2, 3, 7, 8, 9, end=12))):
        await anyio.sleep(5)

    assert seen == [([2, 3, 7, 8], 0, 9), ([9], 9, 12)]


async def test_what_the_source_has_trimmed_is_dropped_under_its_reason_and_counted_once() -> None:
    handler, bus = FencedHandler(), Bus(9, 12, trimmed=5)
    dropped: list[tuple[str, int]] = []
    worker = Worker(
        worker_of(handler, bus).subscription, bus, Letters(), on_drop=lambda *dropping: dropped.append(dropping)
    )

    async with running(worker):
        await anyio.sleep(5)

    assert (handler.delivered, dropped) == ([9, 12], [("trimmed", 5)])
    assert worker.progress.dropped == {"trimmed": 5}


async def test_what_is_trimmed_while_it_reads_does_not_go_into_one_batch_with_what_follows() -> None:
    handler, bus = FencedHandler(), Bus(0, 1, 8, 9, at_once=2)

    async with running(worker := worker_of(handler, bus, rows=10)):
        await anyio.sleep(0.05)  # two are read, and wait for more
        bus.trimmed = 8
        del bus.entries[0], bus.entries[1]
        await anyio.sleep(5)

    assert handler.delivered == [0, 1, 8, 9]
    assert worker.status().is_balanced


async def test_bisecting_finds_the_bad_record_between_holes() -> None:
    handler, letters = FencedHandler(always=refusing({11}, lambda: PermanentError("never"))), Letters()

    async with running(worker := worker_of(handler, Bus(1, 5, 11, 20), letters)):
        await anyio.sleep(60)

    assert handler.delivered == [1, 5, 20]
    assert [letter.offset for letter in letters.written] == [11]
    assert (worker.progress.delivered, worker.progress.dead, worker.progress.filtered) == (3, 1, 17)


async def test_a_frozen_batch_is_made_the_same_again_though_a_read_gives_more_than_it_had() -> None:
    saved: list[Checkpoint] = []
    bus = Bus(1, 5, 11, 20, 21, 40)

    async def freeze() -> None:
        await anyio.lowlevel.checkpoint()
        saved.append(first.checkpoint())

    handler = TokenHandler(acts=[raising(TransientError("cut"))] * 9)
    async with running(first := worker_of(handler, bus, freeze=freeze)):
        await anyio.sleep(3)
    token = handler.tokens[-1]
    handler.acts.clear()

    async with running(second := worker_of(handler, bus, checkpoint=saved[-1], freeze=freeze, rows=6)):
        await anyio.sleep(60)

    assert handler.tokens[-2] == token
    assert handler.batches == [[1, 5, 11, 20], [21, 40]]
    assert second.progress.delivered == 6


async def test_a_frozen_batch_that_lost_a_record_is_given_up_and_the_rest_is_delivered() -> None:
    saved: list[Checkpoint] = []
    bus = Bus(1, 5, 11, 20, at_once=2)

    async def freeze() -> None:
        await anyio.lowlevel.checkpoint()
        saved.append(first.checkpoint())

    handler = TokenHandler(acts=[raising(TransientError("cut"))] * 9)
    async with running(first := worker_of(handler, bus, freeze=freeze)):
        await anyio.sleep(3)
    handler.acts.clear()
    del bus.entries[5]

    async with running(second := worker_of(handler, bus, checkpoint=saved[-1], freeze=freeze)):
        await anyio.sleep(60)

    assert handler.delivered == [1, 11, 20]
    assert second.progress.scanned == 21


async def test_a_destination_that_went_back_is_given_again_what_is_kept() -> None:
    handler, bus = FencedHandler(), Bus(*range(0, 40, 4))

    async with running(worker := worker_of(handler, bus)):
        await anyio.sleep(5)
        assert handler.delivered == list(range(0, 40, 4))
        bus.trimmed = 6
        handler.next[ID, "s"] = 3
        handler.batches.clear()
        bus.entries[50], bus.end = entry(50), 51
        handler.acts = [raising(TransientError("cut"))]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.flush, 51)
            await anyio.sleep(60)
            tasks.cancel_scope.cancel()

    assert handler.delivered == [*range(8, 40, 4), 50]
    assert worker.progress.dropped == {"rewound": 3}


async def test_records_of_several_logs_keep_their_own_static_context_in_one_batch() -> None:
    bus = Bus(0, 1, 2, 3)
    bus.contexts = {0: b'{"service":"shop"}', 1: b'{"service":"shop"}', 2: b'{"host":"b"}'}
    contexts: list[bytes | None] = []
    handler = ScriptedHandler(always=lambda batch: contexts.extend(record.context for record in batch.records))

    async with running(worker_of(handler, bus)):
        await anyio.sleep(5)

    assert handler.batches == [[0, 1, 2, 3]]
    assert contexts == [b'{"service":"shop"}', b'{"service":"shop"}', b'{"host":"b"}', None]


async def test_a_letter_has_the_static_context_of_its_record() -> None:
    bus, letters = Bus(0, 1), Letters()
    bus.contexts = {0: b'{"service":"shop"}', 1: b'{"service":"shop"}'}
    handler = ScriptedHandler(always=refusing({1}, lambda: PermanentError("never")))

    async with running(worker_of(handler, bus, letters)):
        await anyio.sleep(60)

    assert [letter.static_context for letter in letters.written] == [b'{"service":"shop"}']


@dataclass
class Scene:
    """What a source looks like, and what goes wrong at the destination."""

    steps: list[int]
    trimmed: int
    at_once: int
    rows: int
    poison: set[int]
    faults: list[str]
    types: frozenset[str] | None

    def bus(self) -> Bus:
        """Every third record is of another type, and none is left below `trimmed`."""
        offsets = list(accumulate(self.steps, initial=-1))[1:]
        bus = Bus(*offsets, trimmed=min(self.trimmed, max(offsets, default=-1) + 1), at_once=self.at_once)
        bus.entries |= {offset: entry(offset, "b") for offset in offsets[::3]}
        bus.entries = {offset: each for offset, each in bus.entries.items() if offset >= bus.trimmed}
        return bus


class Failing:
    """What the destination does to each batch of a scene."""

    def __init__(self, scene: Scene, bus: Bus, handler: FencedHandler) -> None:
        self._poison = scene.poison
        self._faults = list(scene.faults)
        self._bus = bus
        self._handler = handler

    def __call__(self, batch: Batch) -> None:
        if self._poison & set(numbers(batch)):
            raise PermanentError("never")
        match self._faults.pop() if self._faults else "":
            case "transient":
                raise TransientError("busy")
            case "unknown":
                raise ValueError("who knows")
            case "committed":
                self._handler.after_commit.append(raising(TransientError("cut")))
            case "back":
                # A destination put back to before this log: what is kept comes again.
                self._handler.next[ID, "s"] = self._bus.trimmed
                self._handler.batches.clear()
                raise TransientError("restored")


SCENES = st.builds(
    Scene,
    steps=st.lists(st.sampled_from([1, 1, 1, 2, 5, 40]), max_size=30),
    trimmed=st.integers(0, 30),
    at_once=st.integers(1, 8),
    rows=st.integers(1, 7),
    poison=st.sets(st.integers(0, 60), max_size=5),
    faults=st.lists(st.sampled_from(["transient", "unknown", "committed", "back"]), max_size=6),
    types=st.sampled_from([None, frozenset("a")]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(scene=SCENES)
def test_each_record_is_delivered_once_or_accounted_for_whatever_the_holes(scene: Scene) -> None:
    bus, letters, handler = scene.bus(), Letters(), FencedHandler()
    handler.always = Failing(scene, bus, handler)
    wanted = {offset for offset, each in bus.entries.items() if scene.types is None or each[0].type in scene.types}
    loop = VirtualTimeLoop()
    try:

        async def deliver() -> None:
            worker = worker_of(handler, bus, letters, types=scene.types, rows=scene.rows)
            async with running(worker):
                assert await worker.flush(bus.end)
            assert worker.progress.scanned == bus.end

        loop.run_until_complete(deliver())
    finally:
        loop.close()

    dead = {letter.offset for letter in letters.written}
    assert dead == wanted & scene.poison
    assert handler.delivered == sorted(wanted - dead)


@pytest.fixture(autouse=True)
def _quietly(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="eventrec")
