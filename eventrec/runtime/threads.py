"""Blocking work beside an asyncio loop, in daemon threads: a loop that is closed under us must not hold up the exit.

anyio ends its own threads with the task that asked for the first of them; where a program closes its loop between two
`run_until_complete`, no one is left to end them, and the interpreter waits for them for ever. trio's are daemons.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
from anyio.lowlevel import RunVar

from eventrec.runtime.native import start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_IDLE_SECONDS: Final = 5.0


class _Thread:
    """A daemon that does one job after the other, and goes when it had none for a while."""

    def __init__(self, loop: asyncio.AbstractEventLoop, idle: list[_Thread]) -> None:
        self._loop = loop
        self._idle = idle
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        start_new_thread(self._serve)

    def do(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)

    def _serve(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE_SECONDS)
            except Empty:
                try:
                    self._loop.call_soon_threadsafe(self._go)
                except RuntimeError:  # The loop is closed.
                    return
                job = self._jobs.get()
            if job is None:
                return
            job()

    def _go(self) -> None:
        """On the loop: unless it was given something meanwhile."""
        if self in self._idle:
            self._idle.remove(self)
            self._jobs.put(None)


_idle: Final[RunVar[list[_Thread]]] = RunVar("eventrec idle threads")


async def in_daemon_thread(work: Callable[..., T], *arguments: object) -> T:
    """Call `work` in a thread, on the running asyncio loop. Being cancelled waits for it, as anyio does.

    Raises:
        RuntimeError: There are too many threads, or the interpreter ends.
    """
    await anyio.lowlevel.checkpoint()
    loop = asyncio.get_running_loop()
    idle = _idle.get(None)
    if idle is None:
        idle = []
        _idle.set(idle)
    thread = idle.pop() if idle else _Thread(loop, idle)
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, failure: BaseException | None) -> None:
        idle.append(thread)
        if done.done():
            return
        if failure is None:
            done.set_result(result)
        elif isinstance(failure, StopIteration):  # No future takes it.
            done.set_exception(RuntimeError(f"work in a thread raised {failure!r}"))
        else:
            done.set_exception(failure)

    def job() -> None:
        result, failure = None, None
        try:
            result = work(*arguments)
        except BaseException as exc:  # noqa: BLE001 - it is the caller's
            failure = exc
        with suppress(RuntimeError):  # The loop is closed.
            loop.call_soon_threadsafe(settle, result, failure)

    thread.do(job)
    await _wait_whatever_comes(done)
    return done.result()


async def _wait_whatever_comes(done: asyncio.Future[T]) -> None:
    """Return once it is `done`; what was cancelled meanwhile is so then. In the child of a fork nothing is waited for.

    There the thread is not, and what is cancelled is a copy of the parent's task.
    """
    process = os.getpid()
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not done.done():
            try:
                await asyncio.wait([done])
            except asyncio.CancelledError as exc:  # asyncio's own, which no scope shields from.
                if os.getpid() != process:
                    raise
                cancelled = exc
    if cancelled is not None:
        raise cancelled
