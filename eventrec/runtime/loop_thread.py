"""A loop in a daemon thread, on which other threads have work done."""

from __future__ import annotations

import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.from_thread import BlockingPortal

from eventrec.runtime.backend import Backend, current_backend, take_no_thread
from eventrec.runtime.process import unregister_exit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskStatus

T = TypeVar("T")


class LoopEndedError(Exception):
    """The loop ended before the work was done."""


class LoopThread:
    """One loop with its thread, from its start to its end; it is not started again.

    Attributes:
        portal: Calls on the loop, and waits.
        ending: What `register_exit` gave for this loop; `stop` takes it back.
        owner: Lives as long as the thread.
        is_stopped: `stop` was called. The thread may still run, where something blocks its loop.
    """

    portal: BlockingPortal
    _backend: Backend
    _spared: anyio.Event

    def __init__(self) -> None:
        self.ending: Callable[[], None] = lambda: None
        self.owner: object = None
        self.is_stopped = False
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._spare = threading.Event()
        self._pending: set[Future[Any]] = set()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="eventrec", daemon=True)

    @classmethod
    def start(cls) -> Self:
        """One that runs.

        Raises:
            RuntimeError: The system gives no thread.
            OSError: It gives no descriptors for a loop.
        """
        loop = cls()
        loop._thread.start()
        loop._started.wait()
        if loop._failure is not None:
            loop._thread.join()
            raise loop._failure
        return loop

    def is_running(self) -> bool:
        """Whether work can be given to it."""
        return not self.is_stopped and self._thread.is_alive()

    def is_here(self) -> bool:
        """Whether it runs in the calling thread."""
        return self._thread is threading.current_thread()

    def begin(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        """Have `work` done on the loop. Does not even wait until the loop takes it: a handler may block it.

        The future always has an end: `LoopEndedError` where the loop ended first.
        """
        done: Future[T] = Future()

        async def run() -> None:
            try:
                await answer(done, work, ended=LoopEndedError())
            finally:
                self._pending.discard(done)

        def spawn() -> None:
            if not self._is_ending:  # Else the loop cancels no task any more, and would drop this one unrun.
                self._backend.spawn(run, "eventrec verb")

        self._pending.add(done)
        if not self._backend.wake(spawn):
            self._pending.discard(done)
            _settle(done, LoopEndedError())
        return done

    def stop(self, timeout: float | None = None) -> None:
        """End the loop, and wait `timeout` seconds for its thread. From any thread but its own, any number of times."""
        unregister_exit(self.ending)
        self._spare.set()
        self.is_stopped = True
        self.begin(self.portal.stop)
        self._thread.join(timeout)

    def keep_threads(self, count: int) -> None:
        """Keep `count` threads, waiting: at its end the interpreter starts none, and handlers block in some."""
        self.portal.start_task(self._keep_threads, count)

    async def without_threads(self, work: Callable[[], Awaitable[T]]) -> T:
        """On the loop: let the kept threads go, and do `work` with those and no others."""
        take_no_thread()
        self._spare.set()
        await self._spared.wait()
        return await work()

    def _run(self) -> None:
        try:
            anyio.run(self._serve)
        except BaseException as exc:
            if self._started.is_set():
                raise
            self._failure = exc
            self._started.set()
        finally:
            # The loop is closed, so nothing is added that is not refused.
            while self._pending:
                _settle(self._pending.pop(), LoopEndedError())

    async def _serve(self) -> None:
        async with BlockingPortal() as self.portal:
            self._backend = current_backend()
            self._spared = anyio.Event()
            self._started.set()
            try:
                await self.portal.sleep_until_stopped()
            finally:
                self._is_ending = True

    async def _keep_threads(self, count: int, *, task_status: TaskStatus[None]) -> None:
        limiter = anyio.CapacityLimiter(max(1, count))
        missing = count

        def arrive() -> None:
            nonlocal missing
            missing -= 1
            if not missing:
                task_status.started()

        def wait() -> None:
            anyio.from_thread.run_sync(arrive)
            self._spare.wait()

        async def keep() -> None:
            try:
                await anyio.to_thread.run_sync(wait, limiter=limiter)
            except RuntimeError:  # The system gives none.
                arrive()

        if not count:
            task_status.started()
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(keep)
        self._spared.set()


async def answer(done: Future[T], work: Callable[[], Awaitable[T]], *, ended: Exception) -> None:
    """Give `done` what `work` returns or raises; `ended`, where the loop ends first and cancels what runs on it."""
    try:
        _settle(done, await work())
    except Exception as exc:  # noqa: BLE001 - it is the caller's
        _settle(done, exc)
    except BaseException:
        _settle(done, ended)
        raise


def _settle(done: Future[T], outcome: T | Exception) -> None:
    """Give `done` its end, unless it has one."""
    with suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            done.set_exception(outcome)
        else:
            done.set_result(outcome)
