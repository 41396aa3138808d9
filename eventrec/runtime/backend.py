"""The seams to asyncio and trio: run the supervisor beside the application's tasks, wake its loop, block beside it."""

from __future__ import annotations

import asyncio
import math
import sys
from contextlib import nullcontext, suppress
from contextvars import Context
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from eventrec.runtime.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")

_NO_THREAD: Final = "new thread"
"""Python says "can't start new thread", and from 3.12 on "can't create new thread at interpreter shutdown"."""

_LOOK_SECONDS: Final = 0.1

_takes_no_thread: Final[RunVar[bool]] = RunVar("eventrec takes no thread", default=False)


class Backend(Protocol):
    """The running loop, as the recorder needs it."""

    def spawn(
        self,
        run: Callable[[], Coroutine[object, object, None]],
        name: str,
        *,
        on_unbegun: Callable[[], object] = lambda: None,
    ) -> None:
        """Run `run` beside the application's tasks, and in no context of theirs. It must contain its own errors.

        `on_unbegun` is called where it was cancelled before its first step, as at the end of `asyncio.run`.
        """

    def wake(self, callback: Callable[[], object]) -> bool:
        """Call `callback` on the loop soon. From any thread or signal handler; False where the loop is gone."""

    def now(self) -> float:
        """The loop's clock, in seconds. On the loop's thread, in callbacks too, where anyio knows no loop."""

    def is_here(self) -> bool:
        """Whether this is the loop that runs in the calling thread."""

    async def outlive(
        self, run: Callable[[], Coroutine[object, object, None]], *, is_overdue: Callable[[], bool] = lambda: False
    ) -> None:
        """Run `run` to its end, however often the tasks of the loop are cancelled meanwhile, or until it `is_overdue`.

        It is called again where it was cancelled itself.
        """


def current_backend() -> Backend:
    """The backend of the running loop.

    Raises:
        RuntimeError: No loop runs in this thread.
    """
    if is_trio():
        return TrioBackend()
    try:
        return AsyncioBackend()
    except RuntimeError:
        raise RuntimeError(
            "no event loop is running: use `await recorder.open()` in one, or `recorder.sync()`"
        ) from None


def is_trio() -> bool:
    """Whether the calling task is trio's."""
    trio = sys.modules.get("trio")
    if trio is None:
        return False
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


class AsyncioBackend:
    """asyncio: a task of the loop, held here because the loop itself holds tasks weakly."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(
        self,
        run: Callable[[], Coroutine[object, object, None]],
        name: str,
        *,
        on_unbegun: Callable[[], object] = lambda: None,
    ) -> None:
        unbegun = [on_unbegun]

        async def begin() -> None:
            unbegun.clear()  # What it refers to may be collected from now on.
            await run()

        task = self._loop.create_task(begin(), name=name, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: [call() for call in unbegun])

    def wake(self, callback: Callable[[], object]) -> bool:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RecursionError:
            raise
        except RuntimeError:
            return False
        return True

    def now(self) -> float:
        return self._loop.time()

    def is_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    async def outlive(
        self, run: Callable[[], Coroutine[object, object, None]], *, is_overdue: Callable[[], bool] = lambda: False
    ) -> None:
        # A shield would not stop a second `task.cancel()`; a task of its own, made after the first, is not its target.
        task = self._loop.create_task(run())
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task], timeout=_LOOK_SECONDS)
            if is_overdue():
                # A handler waits for a thread, or ignores its cancellation: no one waits for it any longer.
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([task], timeout=_LOOK_SECONDS)
                return
            if task.done() and task.cancelled() and task.cancelling():
                # All tasks of the loop were cancelled once more: this one too.
                task = self._loop.create_task(run())
        task.result()


class TrioBackend:
    """trio: a system task, which trio cancels only after the main task has ended."""

    def __init__(self) -> None:
        import trio  # noqa: PLC0415 - an optional dependency of anyio

        self._lowlevel = trio.lowlevel
        self._token = trio.lowlevel.current_trio_token()
        self._gone = trio.RunFinishedError

    def spawn(
        self, run: Callable[[], Awaitable[None]], name: str, *, on_unbegun: Callable[[], object] = lambda: None
    ) -> None:
        del on_unbegun  # A task of trio's begins in any case.
        self._lowlevel.spawn_system_task(run, name=name, context=Context())

    def wake(self, callback: Callable[[], object]) -> bool:
        try:
            self._token.run_sync_soon(callback, idempotent=True)
        except self._gone:
            return False
        return True

    def now(self) -> float:
        return self._lowlevel.current_clock().current_time()

    def is_here(self) -> bool:
        return is_trio() and self._lowlevel.current_trio_token() is self._token

    async def outlive(
        self, run: Callable[[], Awaitable[None]], *, is_overdue: Callable[[], bool] = lambda: False
    ) -> None:
        del is_overdue  # A thread that trio waits for is not given up.
        with anyio.CancelScope(shield=True):
            await run()


async def in_thread(work: Callable[..., T], *arguments: object, limiter: anyio.CapacityLimiter | None = None) -> T:
    """Call `work`, which blocks, in a thread; here on the loop after `take_no_thread`, or where none is to be had."""
    if not _takes_no_thread.get():
        try:
            if is_trio():
                return await anyio.to_thread.run_sync(work, *arguments, limiter=limiter)
            async with limiter or nullcontext():
                return await in_daemon_thread(work, *arguments)
        except RuntimeError as exc:
            if _NO_THREAD not in str(exc):
                raise
    await anyio.lowlevel.checkpoint()
    return work(*arguments)


def take_no_thread() -> None:
    """From now on `in_thread` blocks this loop: the interpreter ends, and what threads there are are the handlers'."""
    _takes_no_thread.set(True)


def current_task() -> object:
    """The running task; None where none runs, as when a coroutine is collected after its loop has ended."""
    try:
        if is_trio():
            return sys.modules["trio"].lowlevel.current_task()
        return asyncio.current_task()
    except RuntimeError:
        return None


def is_cancelled() -> bool:
    """Whether the running task was asked to stop: by its cancel scope, or by asyncio's own `task.cancel()`."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    if is_trio():
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
