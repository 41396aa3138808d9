"""Claims about living inside an application: opened and closed in any order, cancelled, and gone without a trace."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import pytest
from anyio import to_thread

from eventrec import FencedError, TransientError
from eventrec.testing.conformance.claim import Claims, claim, closing, deliver, failure_of, made, opened
from eventrec.testing.conformance.log import Log, numbered
from eventrec.testing.conformance.rows import assert_holds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventrec import Batch, EventHandler
    from eventrec.testing.conformance.harness import HandlerHarness

ORDERS: Final = (
    "open",
    "close open",
    "close close open",
    "open close open",
    "open close close open",
    "close open close open",
    "open close open close open",
)

POOLED: Final = ("AnyIO worker thread", "Trio thread", "asyncio_")
"""Names of threads that belong to the event loop and are kept for the next job."""

INSTANTS: Final = (0.0, 0.0002, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
"""Seconds after which a batch is cancelled."""


class LifecycleClaims(Claims):
    """A handler is a guest."""

    @claim()
    @pytest.mark.parametrize("order", ORDERS)
    async def test_handler_works_after(self, harness: HandlerHarness, *, order: str) -> None:
        """Opened and closed in any order, as long as it was opened last."""
        log = Log(*numbered(0, 3))
        handler = made(harness)
        async with closing(handler, harness):
            for step in order.split():
                await (handler.open() if step == "open" else handler.close())

            await deliver(handler, log)

        await assert_holds(harness, log)

    @claim()
    async def test_closing_is_always_allowed(self, harness: HandlerHarness) -> None:
        """Never opened, twice, after work: closing raises nothing."""
        log = Log(*numbered(0, 3))
        handler = made(harness)
        await handler.close()
        await handler.open()
        await deliver(handler, log)
        for _ in range(3):
            await handler.close()

    @claim()
    async def test_one_object_serves_one_loop_after_another(self, harness: HandlerHarness) -> None:
        """What `open` makes belongs to the running loop; nothing of it may outlive `close`."""
        log = Log(*numbered(0, 6))
        handler = made(harness)
        for end in (3, 6):

            async def work(end: int = end) -> None:
                await handler.open()
                async with closing(handler, harness):
                    await deliver(handler, log, end=end)

            await to_thread.run_sync(lambda work=work: anyio.run(work))  # type: ignore[misc]

        await assert_holds(harness, log)

    # -- nothing is left

    @claim()
    async def test_nothing_is_left_after_close(self, harness: HandlerHarness) -> None:
        """No task, no thread, no open file or socket."""
        log = Log(*numbered(0, 9))

        async def cycle() -> None:
            async with opened(harness) as handler:
                await deliver(handler, log, end=log.acknowledged + 3)

        await cycle()  # what a driver loads once, and keeps, it has loaded now
        before = await _Leftovers.now()
        await cycle()
        await cycle()

        await before.assert_nothing_more(when="after close")

    @claim("outage")
    async def test_nothing_is_left_after_an_open_that_failed(self, harness: HandlerHarness) -> None:
        """A program that tries to connect for hours must not run out of sockets."""
        async with opened(harness):
            pass
        before = await _Leftovers.now()
        await harness.disconnect()

        handler = made(harness)
        async with closing(handler, harness):
            for _ in range(3):
                await failure_of(handler.open)
        await harness.reconnect()

        await before.assert_nothing_more(when="after three failed opens and a close")

    # -- cancellation

    @claim()
    async def test_cancelled_batch_is_whole_or_absent_and_the_handler_usable(self, harness: HandlerHarness) -> None:
        """Cancelled by a scope, at several instants, without a close afterwards."""
        await _cancel_often(harness, _cancelled_by_scope)

    @claim()
    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_batch_cancelled_by_its_task_is_whole_or_absent_and_the_handler_usable(
        self, harness: HandlerHarness
    ) -> None:
        """By `task.cancel()` of asyncio, which no shield stops."""
        await _cancel_often(harness, _cancelled_by_task)

    @claim()
    async def test_cancellation_ends_handle_soon(self, harness: HandlerHarness) -> None:
        """It is not swallowed: `close` waits for it."""
        log = Log(*numbered(0, harness.largest_batch))
        async with opened(harness) as handler:
            await log.resume(handler)
            start = anyio.current_time()
            with anyio.move_on_after(0.001) as scope:
                await failure_of(lambda: handler.handle(log.batch(0)))
                await anyio.sleep(60)

            assert scope.cancelled_caught
            seconds = anyio.current_time() - start
            assert seconds < harness.patience / 3, f"cancelled, handle still ran for {seconds:.1f} s"

    @claim()
    async def test_cancelled_open_leaves_nothing_and_may_be_repeated(self, harness: HandlerHarness) -> None:
        """A program that stops while it starts."""
        log = Log(*numbered(0, 3))
        async with opened(harness):
            pass
        before = await _Leftovers.now()
        handler = made(harness)
        for delay in INSTANTS:
            with anyio.move_on_after(delay):
                await handler.open()
        await handler.close()
        await before.assert_nothing_more(when="after cancelled opens and a close")

        await handler.open()
        async with closing(handler, harness):
            await deliver(handler, log)
        await assert_holds(harness, log)


async def _cancelled_by_scope(work: Callable[[], Awaitable[None]], delay: float) -> None:
    with anyio.move_on_after(delay):
        await work()


async def _cancelled_by_task(work: Callable[[], Awaitable[None]], delay: float) -> None:
    task = asyncio.ensure_future(work())
    await asyncio.sleep(delay)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _cancel_often(
    harness: HandlerHarness, cancelled: Callable[[Callable[[], Awaitable[None]], float], Awaitable[None]]
) -> None:
    """Cancel batch after batch; each must be whole or absent, and the next one pass."""
    size = 50
    log = Log(*numbered(0, size * 2 * len(INSTANTS)))
    async with opened(harness) as handler:
        for delay in INSTANTS:
            start = await log.resume(handler)
            batch = log.batch(start, start + size)
            returned: list[Batch] = []

            async def work(batch: Batch = batch, returned: list[Batch] = returned) -> None:
                # What is abandoned by its caller may still come first.
                with suppress(FencedError):
                    await handler.handle(batch)
                    returned.append(batch)

            await cancelled(work, delay)
            if returned and handler.checkpoints is None:
                log.acknowledged = batch.end
            stands = await _resumed(log, handler)
            assert not returned or stands == batch.end, "`handle` returned, though it was cancelled and wrote nothing"
            assert stands in {start, start + size}, f"half a batch: asked for {size} records, it stands at {stands}"
            await deliver(handler, log, end=stands + size)

    await assert_holds(harness, log, end=log.acknowledged, may_double="checkpoints" in harness.lacks)


async def _resumed(log: Log, handler: EventHandler) -> int:
    while True:
        try:
            return await log.resume(handler)
        except TransientError:
            await anyio.sleep(0.05)


class _Leftovers:
    """What the process holds: tasks, threads, open descriptors."""

    def __init__(self, tasks: dict[int, str], threads: dict[int, str], descriptors: Counter[str]) -> None:
        self.tasks = tasks
        self.threads = threads
        self.descriptors = descriptors

    @classmethod
    async def now(cls) -> _Leftovers:
        descriptors = await to_thread.run_sync(_descriptors)  # first: it starts a thread of the loop's
        tasks = {task.id: str(task.name) for task in anyio.get_running_tasks()}
        threads = {
            thread.ident or 0: thread.name
            for thread in threading.enumerate()
            if not thread.name.startswith(POOLED) and thread.is_alive()
        }
        return cls(tasks, threads, descriptors)

    async def assert_nothing_more(self, *, when: str) -> None:
        """Assert that nothing was added, at the latest after ten seconds: what is closed may take turns of the loop."""
        for _ in range(500):
            now = await self.now()
            tasks = [name for id_, name in now.tasks.items() if id_ not in self.tasks]
            threads = [name for id_, name in now.threads.items() if id_ not in self.threads]
            descriptors = list((now.descriptors - self.descriptors).elements())
            if now.descriptors.total() <= self.descriptors.total():
                descriptors = []
            if not (tasks or threads or descriptors):
                return
            await anyio.sleep(0.02)
        raise AssertionError(f"{when} there is left: tasks {tasks}, threads {threads}, descriptors {descriptors}")


def _descriptors() -> Counter[str]:
    """What is open, as the system calls it; nothing where the system does not tell."""
    found: Counter[str] = Counter()
    with suppress(FileNotFoundError):
        for descriptor in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                found[str(descriptor.readlink())] += 1
    return found
