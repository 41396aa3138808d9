"""Claims about the event loop: no call of a handler keeps it from others."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
import pytest

from eventrec.testing.conformance.claim import Claims, claim, closing, deliver, failure_of, made, opened
from eventrec.testing.conformance.log import Log, numbered
from eventrec.testing.conformance.watched import watched

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from eventrec import EventHandler
    from eventrec.testing.conformance.harness import HandlerHarness
    from eventrec.testing.conformance.watched import Attempt

MEASUREMENTS: Final = 5
"""How often it is measured, at most, how long the loop stood still."""

TICK: Final = 0.001
"""Seconds between two looks at the loop."""


class BlockingClaims(Claims):
    """While a handler works, others run: what waits belongs into a driver that is async, or into a thread.

    Of each method the shortest of several measurements counts, so that a busy machine is not taken for a bad handler.
    Hence a block that comes once in the life of a process, or of a destination, is not seen: an import, say.
    """

    @claim()
    async def test_loop_is_never_blocked(self, harness: HandlerHarness) -> None:
        """By none of the methods, whether they await something or not, nor by what they leave behind on the loop."""

        async def measure(watch: LoopWatch) -> None:
            log = Log(*numbered(0, harness.largest_batch + 1))
            handler = watched(made(harness), watch.call)
            await handler.open()
            async with closing(handler, harness):
                if handler.checkpoints is not None:
                    await handler.checkpoints.destination_id()
                await log.resume(handler)
                await handler.prepare(log.batch(0, harness.largest_batch))
                await deliver(handler, log, rows=harness.largest_batch)
                await watch.call("remarks", lambda: _remarks(handler))
                if handler.checkpoints is not None:
                    await handler.checkpoints.retire(log.id, log.subscription, log.end)

        await _assert_never_blocked(harness, measure)

    @claim("outage")
    async def test_loop_is_never_blocked_out_of_reach(self, harness: HandlerHarness) -> None:
        """Nor while it waits for a destination that does not answer."""

        async def measure(watch: LoopWatch) -> None:
            log = Log(*numbered(0, 6))
            handler = watched(made(harness), watch.call)
            await handler.open()
            async with closing(handler, harness):
                await deliver(handler, log, end=3)
                await harness.disconnect()
                await failure_of(lambda: handler.handle(log.batch(3)))
                await failure_of(lambda: log.resume(handler))
                await handler.close()
                await failure_of(handler.open)
            await harness.reconnect()

        await _assert_never_blocked(harness, measure)

    @claim()
    async def test_reader_never_blocks_the_loop(self, harness: HandlerHarness) -> None:
        """In each of its three ways, nor where it is opened and closed."""
        own = harness.handler().reader()
        if own is None:
            pytest.skip("the handler has no reader")
        log = Log(*numbered(0, harness.largest_batch))
        async with opened(harness) as handler:
            await deliver(handler, log, rows=harness.largest_batch)

        async def measure(watch: LoopWatch) -> None:
            reader = watched(own, watch.call)
            await reader.open()
            try:
                cursor = (await reader.latest(limit=log.end)).cursor
                await reader.range(limit=log.end)
                await reader.follow(cursor, limit=log.end)
            finally:
                await reader.close()

        await _assert_never_blocked(harness, measure)


async def _assert_never_blocked(harness: HandlerHarness, measure: Callable[[LoopWatch], Awaitable[None]]) -> None:
    """Assert that each call which `measure` makes through its watch blocks for less than `longest_block`, at best."""
    shortest: dict[str, float] = {}
    blocked: dict[str, float] = {}
    for _ in range(MEASUREMENTS):
        async with LoopWatch() as watch:
            await measure(watch)
        shortest = {name: min(shortest.get(name, seconds), seconds) for name, seconds in watch.longest.items()}
        blocked = {name: seconds for name, seconds in shortest.items() if seconds >= harness.longest_block}
        if not blocked:
            return
    stood = " and ".join(f"{seconds:.3f} s in `{name}`" for name, seconds in blocked.items())
    raise AssertionError(
        f"the loop stood still for {stood}, at the best of {MEASUREMENTS} measurements; "
        f"`longest_block` is {harness.longest_block} s: await what waits, or give it to a thread"
    )


async def _remarks(handler: EventHandler) -> None:
    assert handler.remarks is not None


class LoopWatch:
    """Looks at the loop beside calls: `longest` is, by the name of a call, for how many seconds it stood still at most.

    From the moment at which a call begins until what it has left for the loop to do at once is done too, so that a
    call which awaits nothing counts as a whole. `clock` gives the seconds that this thread has had.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.longest: dict[str, float] = defaultdict(float)
        self._clock = clock
        self._last = 0.0
        self._running: str | None = None
        self._tasks = anyio.create_task_group()
        self._stack = ExitStack()

    async def __aenter__(self) -> Self:
        if self._clock is None:
            self._clock = self._stack.enter_context(_clock_of_this_thread())
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._tick)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._tasks.cancel_scope.cancel()
        with self._stack:
            await self._tasks.__aexit__(*exc_info)  # type: ignore[arg-type]

    async def call(self, name: str, attempt: Attempt, given: tuple[Any, ...] = ()) -> Any:  # noqa: ARG002 - an `Around`
        """What `attempt` gives, while it is looked at; no other call may be."""
        self._last = self._now()
        self._running = name
        try:
            return await attempt()
        finally:
            self._look()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(TICK)
            self._look()
            self._running = None

    async def _tick(self) -> None:
        while True:
            await anyio.sleep(TICK)
            self._look()

    def _look(self) -> None:
        now = self._now()
        if self._running is not None:
            self.longest[self._running] = max(self.longest[self._running], now - self._last)
        self._last = now

    def _now(self) -> float:
        assert self._clock is not None, "not entered"
        return self._clock()


@contextmanager
def _clock_of_this_thread() -> Iterator[Callable[[], float]]:
    """Gives the time without that for which others had the processor, as far as the system tells."""
    try:
        schedule = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    except OSError:  # not Linux
        yield time.perf_counter
        return

    def waited() -> int:
        return int(os.pread(schedule, 100, 0).split()[1])

    def had() -> float:
        while True:  # both of one instant, between which it waited for nothing
            before = waited()
            now = time.perf_counter()
            if waited() == before:
                return now - before / 1e9

    try:
        yield had
    finally:
        os.close(schedule)
