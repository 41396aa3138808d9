"""Anything thrown from any method, at any moment, in any order: each record once, and the account balances."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventrec import (
    Backoff,
    Batch,
    BatchTooLargeError,
    DestinationCheckpoints,
    EventHandler,
    FencedError,
    PartialError,
    PauseError,
    PermanentError,
    TransientError,
)
from eventrec.delivery.letters.dead_letters import DeadLetter
from eventrec.delivery.sources.memory import MemorySource
from eventrec.delivery.subscription import Subscription
from eventrec.delivery.worker.worker import Worker
from eventrec.events.encoder import Encoder
from eventrec.testing.clock import VirtualTimeLoop
from eventrec.testing.scripted import Numbered, quickly

ID = UUID(int=7)
COUNT = 12

THROWN = {
    "transient": lambda: TransientError("busy"),
    "slow": lambda: TransientError("busy", retry_after=30),
    "odd pause": lambda: TransientError("busy", retry_after="later"),  # type: ignore[arg-type]
    "fenced": lambda: FencedError("moved"),
    "paused": lambda: PauseError("401"),
    "unknown": lambda: ValueError("who knows"),
    "partial of others": lambda: PartialError({-1: TransientError("x")}),
    "exit": lambda: SystemExit(1),
    "interrupt": KeyboardInterrupt,
    "generator exit": GeneratorExit,
    "cancelled": asyncio.CancelledError,
    "group": lambda: BaseExceptionGroup("several", [GeneratorExit(), asyncio.CancelledError()]),
    "stop": StopAsyncIteration,
    "memory": MemoryError,
    "answer": None,
}
METHODS = ("open", "close", "prepare", "destination_id", "resume", "before", "after", "checkpoints")
FAULTS = st.lists(st.tuples(st.sampled_from(METHODS), st.sampled_from(sorted(THROWN))), max_size=25)


class Faulty(EventHandler, DestinationCheckpoints):
    """Commits with its checkpoint; each method has its faults, one a call."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        self.faults = {method: deque(thrown for at, thrown in faults if at == method) for method in METHODS}
        self.rows: list[int] = []
        self.next: int | None = None

    def _strike(self, method: str) -> object:
        """Throw, or return a wrong answer; None: nothing happens."""
        if not self.faults[method]:
            return None
        throw = THROWN[self.faults[method].popleft()]
        if throw is None:
            return "a wrong answer"
        raise throw()

    @property
    def checkpoints(self) -> DestinationCheckpoints:
        self._strike("checkpoints")
        return self

    async def open(self) -> None:
        await anyio.sleep(0.01)
        self._strike("open")

    async def close(self) -> None:
        await anyio.sleep(0.01)
        self._strike("close")

    async def prepare(self, batch: Batch) -> None:
        await anyio.sleep(0.005)
        self._strike("prepare")

    async def destination_id(self) -> Any:
        await anyio.sleep(0.01)
        return b"no text" if self._strike("destination_id") else "the database"

    async def resume(self, log_id: UUID, subscription: str, start: int) -> Any:
        await anyio.sleep(0.01)
        if self.next is None:
            self.next = start
        return self._strike("resume") or self.next

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        self.next = end

    async def handle(self, batch: Batch) -> None:
        self._strike("before")
        await anyio.sleep(0.01)
        if len(batch) > 1 and 5 in batch.offsets and 6 not in batch.offsets:
            raise BatchTooLargeError("413")
        if 5 in batch.offsets:
            raise PermanentError("never")
        if self.next != batch.start:
            raise FencedError(f"at {self.next}, not at {batch.start}")
        self.rows += batch.offsets
        self.next = batch.end
        await anyio.sleep(0.01)
        self._strike("after")


class Letters:
    def __init__(self) -> None:
        self.offsets: list[int] = []

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        await anyio.sleep(0.01)
        self.offsets += [letter.offset for letter in letters]

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        return self.offsets


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(faults=FAULTS, rows=st.integers(1, 6), flushes=st.booleans())
def test_each_record_arrives_once_or_is_dead(faults: list[tuple[str, str]], rows: int, *, flushes: bool) -> None:
    handler, letters = Faulty(faults), Letters()
    source = MemorySource(ID, max_events=1_000, max_bytes=1 << 20)

    async def deliver() -> None:
        options = quickly(batch_rows=rows, flush_interval=0.1, retry=Backoff(jitter="none", max=8))
        subscription = Subscription("s", handler, options.resolve(has_log=True).delivery)
        worker = Worker(subscription, source, letters)
        encoder = Encoder()
        task = asyncio.get_running_loop().create_task(worker.run())
        for number in range(COUNT):
            entries: list[Any] = [encoder.encode(Numbered(number))]
            source.append(entries)
            await asyncio.sleep(0.02)
        if flushes:
            await worker.flush(COUNT)
        for _ in range(50):
            if worker.lag:
                await asyncio.sleep(100)
        assert not task.done(), task
        assert worker.lag == 0, worker
        assert worker.status().is_balanced
        assert (worker.progress.delivered, worker.progress.dead) == (COUNT - 1, 1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    loop = VirtualTimeLoop()
    try:
        loop.run_until_complete(deliver())
    finally:
        loop.close()

    assert handler.rows == [number for number in range(COUNT) if number != 5]
    assert letters.offsets == [5]


@pytest.fixture(autouse=True)
def _quietly(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="eventrec")
