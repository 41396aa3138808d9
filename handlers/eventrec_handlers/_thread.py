"""Threads of a handler's own: one for work that blocks, one for a driver that knows asyncio alone.

They are daemons, so that a call that hangs never holds up the exit of the application; and never the default executor,
which other libraries fill.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections import deque
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import anyio
import anyio.to_thread

from eventrec import TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

IDLE_SECONDS: Final = 5.0
"""How long a thread without work waits for more before it ends; the next job starts another one."""


def is_trio() -> bool:
    """Whether the running task is one of trio's."""
    trio = sys.modules.get("trio")
    if trio is None:
        return False
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


class JobCancelledError(BaseException):
    """The caller of a job has been cancelled. Raised in the job's thread alone, by `check_cancelled`."""


class WorkThread:
    """Runs blocking jobs, one at a time, in the order in which they were asked for, under asyncio and trio.

    One job has ended before the next begins, also where the caller of the first is gone: two jobs never share a
    connection or a file. The thread comes with the first job, and goes when it had none for a while, or was told to.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: deque[_Job[Any]] = deque()
        self._wake = threading.Condition()
        self._is_running = False
        self._is_ending = False

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, or raises.

        Cancelled by its scope, a job that has not begun is left out, and one that has is waited for: it may end at
        `check_cancelled`. A native `task.cancel()` of asyncio, which nothing withstands, leaves it running alone.

        Raises:
            TransientError: The system gives no thread.
        """
        job = _Job(work, from_any_thread())
        refused = self._start(job)
        if refused is not None:
            await self._borrow(refused)
        try:
            await job.ended.wait()
        except anyio.get_cancelled_exc_class():
            job.is_cancelled = True
            if anyio.current_effective_deadline() == -math.inf:
                with anyio.CancelScope(shield=True):
                    await job.ended.wait()
            raise
        return job.result()

    def end(self) -> None:
        """Let the thread go once it has done what was asked for so far. A later `run` starts another one."""
        with self._wake:
            self._is_ending = True
            self._wake.notify()

    def _start(self, job: _Job[Any]) -> RuntimeError | None:
        """Ask for it to be done: None, or why the system gives no thread."""
        with self._wake:
            self._jobs.append(job)
            self._is_ending = False
            if self._is_running:
                self._wake.notify()
                return None
            self._is_running = True
            try:
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
            except RuntimeError as exc:
                return exc
            return None

    async def _borrow(self, refused: RuntimeError) -> None:
        """Do what is asked for in a thread that anyio has left: at its end the interpreter starts none."""
        if not is_trio():
            with suppress(RuntimeError):
                await anyio.to_thread.run_sync(partial(self._serve, seconds=0.0), limiter=anyio.CapacityLimiter(1))
                return
        with self._wake:
            stranded, self._jobs = self._jobs, deque()
            self._is_running = False
        for each in stranded:
            error = TransientError(f"no thread for {self._name}: {refused}")
            error.__cause__ = refused
            each.fail(error)

    def _serve(self, *, seconds: float | None = None) -> None:
        seconds = IDLE_SECONDS if seconds is None else seconds
        while True:
            with self._wake:
                if not self._jobs:
                    self._wake.wait_for(lambda: self._jobs or self._is_ending, seconds)
                if not self._jobs:
                    self._is_running = False
                    return
                job = self._jobs.popleft()
            job.do()
            del job  # what it holds is not kept while the thread waits


def check_cancelled() -> None:
    """In a job: end it where its caller has been cancelled. For loops that wait for a lock; elsewhere it does nothing.

    Raises:
        JobCancelledError: The caller has been cancelled.
    """
    job: _Job[Any] | None = getattr(_current, "job", None)
    if job is not None and job.is_cancelled:
        raise JobCancelledError


_current: Final = threading.local()


class _Job(Generic[T]):
    """One call of `work`, and how its caller is told of its end. Made in the caller's task."""

    def __init__(self, work: Callable[[], T], tell: Callable[[Callable[[], object]], None]) -> None:
        self._work = work
        self._tell = tell
        self._outcome: tuple[T] | None = None
        self._failure: BaseException | None = None
        self.ended = anyio.Event()
        self.is_cancelled = False

    def do(self) -> None:
        if not self.is_cancelled:
            _current.job = self
            try:
                self._outcome = (self._work(),)
            except BaseException as exc:  # noqa: BLE001 - it is the caller's
                self._failure = exc
            finally:
                _current.job = None
        self._tell(self.ended.set)

    def fail(self, error: Exception) -> None:
        """It is not done: its caller is told `error`."""
        self._failure = error
        self._tell(self.ended.set)

    def result(self) -> T:
        """What it gave. It has ended, and its caller is there still."""
        if self._outcome is not None:
            return self._outcome[0]
        failure, self._failure = self._failure, None
        if failure is None or isinstance(failure, StopIteration):  # which no coroutine may raise
            raise RuntimeError(f"work in a thread raised {failure!r}")
        try:
            raise failure
        finally:
            del failure  # it refers to this frame, and this frame to it


def from_any_thread() -> Callable[[Callable[[], object]], None]:
    """What runs a function on the running task's loop, from any thread; nothing happens where that loop is gone."""
    if is_trio():
        import trio  # noqa: PLC0415 - only where it runs already

        token = trio.lowlevel.current_trio_token()

        def tell_trio(function: Callable[[], object]) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(function)

        return tell_trio
    loop = asyncio.get_running_loop()

    def tell(function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(function)

    return tell


class Portal:
    """An asyncio loop in a thread of its own, for a driver that knows no other: runs its coroutines for trio tasks."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    async def run(self, job: Callable[[], Coroutine[object, object, T]]) -> T:
        """What `job` gives. If the caller is cancelled, so is `job`, and it is waited for until it has cleaned up."""
        tell = from_any_thread()
        done = anyio.Event()
        tasks: list[asyncio.Task[T]] = []

        def start() -> None:
            # In no context of the caller's: its `anyio.run` has noted there that this is trio.
            tasks.append(self._loop.create_task(job(), context=Context()))
            tasks[0].add_done_callback(lambda _: tell(done.set))

        def cancel() -> None:
            tasks[0].cancel()  # which `start` has put there, though perhaps only just now

        self._loop.call_soon_threadsafe(start)
        try:
            await done.wait()
        except BaseException:
            self._loop.call_soon_threadsafe(cancel)
            with anyio.CancelScope(shield=True):
                await done.wait()
            if not tasks[0].cancelled():
                tasks[0].exception()  # looked at, so that asyncio does not warn of it
            raise
        return tasks[0].result()

    async def close(self) -> None:
        """End the loop and its thread, once what still runs on it has ended."""
        await self.run(_settled)
        self._loop.call_soon_threadsafe(self._loop.stop)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._thread.join)
        self._loop.close()


async def _settled() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=1)
    await asyncio.sleep(0)
