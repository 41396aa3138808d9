"""Whatever fails without end, and wherever, is tried again after pauses that grow: never in a hot loop."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any
from uuid import UUID

import anyio
import pytest

from eventrec import Backoff, Batch, BatchTooLargeError, FencedError, PartialError, PauseError, TransientError
from eventrec.delivery.letters.dead_letters import DeadLetter
from eventrec.delivery.sources.memory import MemoryCursor, MemorySource
from eventrec.delivery.sources.source import OnLost, Records, Start
from eventrec.delivery.subscription import Subscription
from eventrec.delivery.worker.worker import Worker
from eventrec.events.encoder import Encoder
from eventrec.runs.requests import OperatorRequest
from eventrec.testing.scripted import FencedHandler, Numbered, quickly

MINUTES = 10
LOG = UUID(int=7)


class Calls:
    """Counts calls by name, and throws at those that are to fail for as long as `is_down`."""

    def __init__(self, failing: str, throw: Callable[[], BaseException]) -> None:
        self.times: dict[str, list[float]] = {}
        self.failing = failing
        self.throw = throw
        self.is_down = True

    @property
    def counts(self) -> Counter[str]:
        return Counter({name: len(times) for name, times in self.times.items()})

    def note(self, name: str) -> None:
        self.times.setdefault(name, []).append(anyio.current_time())
        if self.is_down and name == self.failing:
            raise self.throw()


class Counted(FencedHandler):
    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self.calls = calls

    async def open(self) -> None:
        self.calls.note("open")

    async def prepare(self, batch: Batch) -> None:
        self.calls.note("prepare")

    async def handle(self, batch: Batch) -> None:
        self.calls.note("handle")
        if self.calls.is_down and self.calls.failing == "write":
            raise PartialError({batch.offsets[0]: BatchTooLargeError("never")})
        await super().handle(batch)

    async def close(self) -> None:
        self.calls.note("close")

    async def destination_id(self) -> str:
        self.calls.note("destination_id")
        return await super().destination_id()

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        self.calls.note("resume")
        return await super().resume(log_id, subscription, start)


class Source(MemorySource):
    """Its cursors fail too."""

    def __init__(self, calls: Calls) -> None:
        super().__init__(LOG, max_events=1_000, max_bytes=1 << 20)
        self.calls = calls

    def subscribe(self, name: str, start: Start, on_lost: OnLost) -> MemoryCursor:
        cursor = super().subscribe(name, start, on_lost)
        read, wait = cursor.read, cursor.wait

        async def counted_read(*, max_records: int, max_bytes: int) -> Records:
            await anyio.lowlevel.checkpoint()
            self.calls.note("read")
            return await read(max_records=max_records, max_bytes=max_bytes)

        async def counted_wait() -> None:
            await anyio.lowlevel.checkpoint()
            self.calls.note("wait")
            await wait()

        cursor.read, cursor.wait = counted_read, counted_wait  # type: ignore[method-assign]
        return cursor


class Letters:
    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.written: list[int] = []

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        await anyio.lowlevel.checkpoint()
        self.calls.note("write")
        self.written += [letter.offset for letter in letters]

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        self.calls.note("known")
        return self.written


SHORT = Backoff(jitter="none", first=0.5, max=8)
RESUME = OperatorRequest(subscription="s", asked=0)
HOURS = Backoff(jitter="none", first=36_000, max=36_000)


def worker_of(calls: Calls, source: Source, retry: Backoff = SHORT) -> Worker:
    options = quickly(batch_rows=3, flush_interval=0.1, retry=retry)
    subscription = Subscription("s", Counted(calls), options.resolve(has_log=True).delivery)

    async def freeze() -> None:
        await anyio.lowlevel.checkpoint()
        calls.note("freeze")

    return Worker(subscription, source, Letters(calls), freeze=freeze)


def numbered(count: int) -> list[Any]:
    encoder = Encoder()
    return [encoder.encode(Numbered(number)) for number in range(count)]


def skip_of(offset: int, log: UUID | None = LOG) -> OperatorRequest:
    return OperatorRequest(subscription="s", asked=0, skip=offset, log=log)


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        yield
        tasks.cancel_scope.cancel()


THROWN: Mapping[str, Callable[[], BaseException]] = {
    "transient": lambda: TransientError("busy"),
    "transient at once": lambda: TransientError("busy", retry_after=0),
    "fenced": lambda: FencedError("moved"),
    "paused": lambda: PauseError("401"),
    "unknown": lambda: ValueError("who knows"),
    "no descriptors": lambda: OSError(24, "Too many open files"),
    "exit": lambda: SystemExit(1),
}


FOREIGN = ("open", "prepare", "handle", "close", "destination_id", "resume")
OURS = ("read", "wait", "write", "known")
CASES = [
    (failing, thrown) for failing in (*FOREIGN, *OURS) for thrown in THROWN if failing in FOREIGN or thrown != "exit"
]


@pytest.mark.parametrize(("failing", "thrown"), CASES)
async def test_nothing_that_fails_without_end_is_called_in_a_hot_loop(
    failing: str, thrown: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="eventrec")
    calls = Calls(failing, THROWN[thrown])
    source = Source(calls)
    worker = worker_of(calls, source)
    source.append(numbered(7))

    async with running(worker):
        await anyio.sleep(60 * MINUTES)

        counts = Counter(calls.counts)
        assert max(counts.values()) <= 60 * MINUTES / 2, counts
        calls.is_down = False
        await anyio.sleep(60)
        assert worker.progress.scanned == 7, worker
        assert worker.status().is_balanced

    times = calls.times.get(failing, [])
    gaps = [after - before for before, after in pairwise(times)]
    assert not gaps or max(gaps) >= 1


# -- what an operator asks for

LONG_WAITS = [
    ("handle", "transient"),
    ("handle", "unknown"),
    ("handle", "paused"),
    ("open", "transient"),
    ("open", "no descriptors"),
    ("destination_id", "unknown"),
    ("resume", "fenced"),
    ("write", "no descriptors"),
]


@pytest.mark.parametrize(("failing", "thrown"), LONG_WAITS)
@pytest.mark.parametrize("asks", [Worker.resume, lambda worker: worker.apply(RESUME)], ids=["here", "from elsewhere"])
async def test_a_pause_of_hours_ends_when_an_operator_says_so(
    failing: str, thrown: str, asks: Callable[[Worker], object]
) -> None:
    calls = Calls(failing, THROWN[thrown])
    source = Source(calls)
    worker = worker_of(calls, source, HOURS)
    source.append(numbered(3))

    async with running(worker):
        await anyio.sleep(60)
        assert worker.is_failing, worker
        calls.is_down = False
        asks(worker)
        await anyio.sleep(1)

    assert worker.progress.scanned == 3, worker


async def test_a_pause_after_a_broken_disk_ends_when_an_operator_says_so() -> None:
    calls = Calls("read", THROWN["no descriptors"])
    source = Source(calls)
    worker = worker_of(calls, source, HOURS)
    source.append(numbered(1))

    async with running(worker):
        await anyio.sleep(600)
        calls.is_down = False
        assert worker.apply(RESUME)
        await anyio.sleep(1)

    assert worker.progress.scanned == 1


async def test_what_is_asked_for_during_an_attempt_is_done_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls("nothing", THROWN["transient"])
    source = Source(calls)
    worker = worker_of(calls, source, HOURS)
    source.append(numbered(3))
    handler = worker.subscription.handler
    assert isinstance(handler, Counted)

    async def fail_late(_: Batch) -> None:
        await anyio.sleep(5)
        raise TransientError("not yet")

    keep: Callable[[Batch], Any] = handler.handle
    monkeypatch.setattr(handler, "handle", fail_late)
    async with running(worker):
        await anyio.sleep(3)
        monkeypatch.setattr(handler, "handle", keep)
        assert worker.apply(skip_of(1))
        await anyio.sleep(5)

    assert (handler.delivered, worker.progress.dead) == ([0, 2], 1)


async def test_one_request_cuts_one_pause_short() -> None:
    calls = Calls("handle", THROWN["transient"])
    source = Source(calls)
    worker = worker_of(calls, source, HOURS)
    source.append(numbered(1))

    async with running(worker):
        await anyio.sleep(60)
        worker.resume()
        await anyio.sleep(3_600)

    assert calls.counts["handle"] == 2


@pytest.mark.parametrize("log", [None, LOG])
async def test_a_skip_is_done_at_once_in_a_pause_of_hours(log: UUID | None) -> None:
    calls = Calls("handle", THROWN["transient"])
    source = Source(calls)
    worker = worker_of(calls, source, HOURS)
    source.append(numbered(3))

    async with running(worker):
        await anyio.sleep(60)
        calls.is_down = False
        assert worker.apply(skip_of(0, log))
        await anyio.sleep(1)

    assert (worker.progress.delivered, worker.progress.dead) == (2, 1)


async def test_a_request_that_concerns_nothing_changes_nothing() -> None:
    calls = Calls("handle", THROWN["transient"])
    source = Source(calls)
    worker = worker_of(calls, source, HOURS)
    source.append(numbered(3))

    async with running(worker):
        await anyio.sleep(60)
        asked = [skip_of(2, None), skip_of(0, UUID(int=8))]
        assert [worker.apply(each) for each in asked] == [False, False]
        await anyio.sleep(60)
        assert calls.counts["handle"] == 1
        calls.is_down = False
        worker.resume()
        await anyio.sleep(1)
        assert [worker.apply(each) for each in (RESUME, skip_of(0, None), skip_of(0))] == [False] * 3

    assert (worker.progress.delivered, worker.progress.dead) == (3, 0)
