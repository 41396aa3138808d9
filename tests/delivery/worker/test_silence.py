"""A handler that was called and does not answer: said in the state, once in the logging, and gone with the answer."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import anyio
import pytest

from eventrec import Batch, TransientError
from eventrec.delivery.letters.dead_letters import LoggedDeadLetters
from eventrec.delivery.sources.memory import MemorySource
from eventrec.delivery.subscription import Subscription
from eventrec.delivery.worker.health import Outage, SubscriptionHealth
from eventrec.delivery.worker.worker import Worker
from eventrec.events.encoder import Encoder
from eventrec.testing.scripted import FencedHandler, Numbered, quickly


class Slow(FencedHandler):
    """Takes `seconds[method]` for each call of it."""

    def __init__(self, **seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.failure: Exception | None = None

    async def _take_time(self, method: str) -> None:
        await anyio.sleep(self.seconds.get(method, 0))

    async def open(self) -> None:
        await self._take_time("open")

    async def handle(self, batch: Batch) -> None:
        await self._take_time("handle")
        if self.failure is not None:
            raise self.failure
        await super().handle(batch)

    async def destination_id(self) -> str:
        await self._take_time("destination_id")
        return await super().destination_id()

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        await self._take_time("resume")
        return await super().resume(log_id, subscription, start)

    async def close(self) -> None:
        await self._take_time("close")


class Delivery:
    def __init__(self, handler: Slow) -> None:
        self.source = MemorySource(UUID(int=7), max_events=1_000, max_bytes=1 << 20)
        settings = quickly(batch_rows=1, flush_interval=1.0).resolve(has_log=True).delivery
        letters = LoggedDeadLetters(anyio.current_time)
        self.worker = Worker(Subscription("slow", handler, settings), self.source, letters, clock=anyio.current_time)

    def grow(self, count: int = 1) -> None:
        self.source.append([Encoder().encode(Numbered(number)) for number in range(count)])  # type: ignore[misc]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.worker.run)
            yield
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("method", ["open", "handle", "destination_id", "resume"])
async def test_a_call_that_hangs_is_said(method: str) -> None:
    delivery = Delivery(Slow(**{method: 3_600}))
    delivery.grow()

    async with delivery.running():
        await anyio.sleep(9)
        early = delivery.worker.status()
        await anyio.sleep(20)
        late = delivery.worker.status()

    assert early.healthy
    assert not early.state.startswith("no answer")
    assert not late.healthy
    assert late.state in ("no answer for 29 s", "no answer for 28 s")
    assert late.unanswered == pytest.approx(29, abs=1)


async def test_a_handler_that_hangs_in_its_close_is_said() -> None:
    handler = Slow(close=3_600)
    handler.failure = ValueError("odd")
    delivery = Delivery(handler)
    delivery.grow()

    async with delivery.running():
        await anyio.sleep(9)

        assert delivery.worker.status().unanswered == pytest.approx(9, abs=1)


@pytest.fixture
def said_of_it(said_by: Callable[[str], list[logging.LogRecord]]) -> Callable[[], list[str]]:
    """Gives what delivery said of `slow`: of another subscription speaks a recorder left to garbage."""

    def said() -> list[str]:
        messages = [record.getMessage() for record in said_by("eventrec.delivery")]
        return [message for message in messages if "subscription=slow " in message]

    return said


async def test_it_is_well_again_once_it_answers(
    caplog: pytest.LogCaptureFixture, said_of_it: Callable[[], list[str]]
) -> None:
    caplog.set_level(logging.INFO, logger="eventrec")
    delivery = Delivery(Slow(handle=40))
    delivery.grow()

    async with delivery.running():
        for _ in range(30):
            await anyio.sleep(1)
            delivery.worker.note_silence()
        await anyio.sleep(20)
        status = delivery.worker.status()

    assert (status.state, status.healthy, status.unanswered, status.delivered) == ("delivering", True, None, 1)
    said = said_of_it()
    assert len(said) == 2
    assert "no answer for 10 s" in said[0]
    assert "delivery restored" in said[1]


async def test_a_failure_behind_it_is_the_same_outage(said_of_it: Callable[[], list[str]]) -> None:
    handler = Slow(handle=20)
    handler.failure = TransientError("too slow")
    delivery = Delivery(handler)
    delivery.grow()

    async with delivery.running():
        for _ in range(19):
            await anyio.sleep(1)
            delivery.worker.note_silence()
        await anyio.sleep(1.2)
        status = delivery.worker.status()

    assert (status.healthy, status.last_error) == (False, "too slow")
    assert status.state.startswith("retrying")
    assert len(said_of_it()) == 1


async def test_what_is_always_slow_is_not_silent() -> None:
    handler = Slow(handle=9)
    delivery = Delivery(handler)
    delivery.grow(5)

    async with delivery.running():
        for slower in (25, 70, 3_600):
            count = len(handler.delivered)
            while len(handler.delivered) == count:
                await anyio.sleep(0.5)
                assert delivery.worker.status().healthy, delivery.worker
            # The call that is open now takes as long as the last one, the next one this long.
            handler.seconds["handle"] = slower
        await anyio.sleep(290)
        assert not delivery.worker.status().healthy


async def test_no_call_is_waited_for_longer_than_five_minutes() -> None:
    handler = Slow(handle=10_000)
    delivery = Delivery(handler)
    delivery.grow(2)

    async with delivery.running():
        await anyio.sleep(10_010)
        assert delivery.worker.status().healthy
        await anyio.sleep(300)
        assert not delivery.worker.status().healthy


async def test_a_worker_that_waits_for_its_turn_is_not_without_an_answer() -> None:
    outage = Outage()
    health = SubscriptionHealth("s", lambda: None, outage, clock=anyio.current_time)

    with health.asking():
        await anyio.sleep(9)
        outage.turn_since = anyio.current_time()  # another worker is served
        await anyio.sleep(9)
        waiting = health.is_silent
        await anyio.sleep(2)
        hangs = health.state

    assert not waiting
    assert hangs == "no answer for 11 s"
    assert not health.is_silent


async def test_a_call_beside_a_batch_that_does_not_end_is_said_though_the_batch_did() -> None:
    health = SubscriptionHealth("s", lambda: None, Outage(), clock=anyio.current_time)

    with health.asking():
        with health.asking(is_batch=True):
            await anyio.sleep(1)
        await anyio.sleep(20)
        assert health.is_silent
