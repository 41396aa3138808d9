"""A recorder for programs without a loop: the same verbs, blocking, over a loop in a daemon thread."""

from __future__ import annotations

import threading
import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, NoReturn, Protocol, Self

from eventrec.durations import duration_seconds
from eventrec.errors import RecorderStateError
from eventrec.runtime.logging import get_logger
from eventrec.runtime.loop_thread import LoopEndedError, LoopThread
from eventrec.runtime.native import RLock, threads_are_greenlets
from eventrec.runtime.process import (
    ProcessIdentity,
    refuse_copy,
    register_exit,
    register_exit_of_child,
    unregister_exit,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from contextlib import AbstractContextManager
    from types import TracebackType

    from eventrec.delivery.subscription import NewDestination
    from eventrec.durations import Duration
    from eventrec.errors import EventrecError
    from eventrec.events.event import Event, Eventable
    from eventrec.handler import EventHandler
    from eventrec.intake.durable import Position
    from eventrec.options import Backoff
    from eventrec.status import Settled, Status

_logger = get_logger("eventrec.recorder")

_BEYOND: Final = 0.5
"""Seconds that `close` waits beyond its timeout; delivery has ended, or was left, a little before."""

_SWITCH: Final = 0.05

_STOP_SECONDS: Final = 5.0
"""What the end of the process waits beyond the time that closing may take: a handler may block its loop."""


_LONGEST_WAIT: Final = min(threading.TIMEOUT_MAX, 1e9)
"""Seconds, about thirty years: what the system's waits take for "for ever"."""


class AsyncRecorder(Protocol):
    """The verbs of `EventRecorder`, as far as they need its loop: what `BlockingRecorder` blocks on."""

    async def open(self) -> None:
        """Start delivering on the running loop."""

    def register(
        self,
        handler_or_url: EventHandler | str,
        *,
        name: str | None = None,
        types: Collection[str] | None = None,
        start: Literal["earliest", "latest"] = "earliest",
        on_new_destination: NewDestination = "pause",
        batch_rows: int | None = None,
        batch_bytes: int | None = None,
        flush_interval: Duration | None = None,
        retry: Backoff | None = None,
    ) -> None:
        """Add a subscription, before `open`."""

    def record(self, event: Event | Eventable) -> bool:
        """Take `event`, or refuse and count it."""

    def record_many(self, events: Iterable[Event | Eventable]) -> int:
        """Record each of `events`; how many were taken."""

    def record_each(self, events: Iterable[Event | Eventable], *, atomic: bool = False) -> list[bool | EventrecError]:
        """Record each of `events`; what became of each."""

    async def record_durable(
        self,
        event: Event | Eventable,
        *,
        until: Literal["written", "synced", "mirrored"] = "synced",
        timeout: Duration | None = None,
    ) -> Position | None:
        """Record `event`, and return where it stands once it is in the log."""

    async def record_all_durable(
        self,
        events: Iterable[Event | Eventable],
        *,
        atomic: bool = False,
        until: Literal["written", "synced", "mirrored"] = "synced",
        timeout: Duration | None = None,
    ) -> list[Position | EventrecError | None]:
        """Record each of `events`, and return where each stands once all are in the log."""

    def context(self, **fields: object) -> AbstractContextManager[None]:
        """Add `fields` to every event recorded inside the block."""

    async def flush(self, timeout: Duration | None = None) -> bool | Settled:
        """True once all that was recorded before is delivered, and `Settled` once it is settled in another way."""

    def resume(self, name: str, *, start: Literal["earliest", "latest"] | None = None) -> None:
        """Let a paused subscription go on at once."""

    def disable(self) -> None:
        """Record nothing from here on, in this process."""

    def status(self) -> Status:
        """The account now."""

    async def close(self, timeout: Duration | None = None) -> Status:
        """Take nothing more, deliver what can be delivered, and return the account."""


class BlockingRecorder:
    """The verbs of `recorder`, over a loop in a thread of its own: all of `SyncRecorder` but how it is made.

    All methods may be called from any thread; but those that block not on its own loop, where handlers and `on_drop`
    run: there they raise `RecorderStateError` at once. At the end of the process it closes itself. In a forked child it
    may be opened again.
    """

    def __init__(
        self,
        recorder: AsyncRecorder,
        *,
        close_timeout: float,
        end: Callable[[Duration | None], object],
        stop: Callable[[], object],
        open_inert: Callable[[], object] | None = None,
    ) -> None:
        """`end` closes `recorder` where it is not open in this process; after `stop` it takes nothing more.

        `open_inert` opens it where it is switched off: then no loop and no thread is needed.
        """
        self._recorder = recorder
        self._close_timeout = close_timeout
        self._end = end
        self._stop = stop
        self._open_inert = open_inert
        self._process = ProcessIdentity()
        self._opening = RLock()
        """Held while it opens: of several threads one does. A child of a fork has another."""
        self._loop: LoopThread | None = None

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        refuse_copy(self)

    def __enter__(self) -> Self:
        self.open()
        return self

    def open(self) -> None:
        """Start delivering. A recorder that was closed may be opened again.

        Raises:
            RecorderStateError: It is open already.
            RuntimeError: gevent has patched the threads that delivery needs.
            OSError: The system gives no descriptors for a loop.
            EventrecError: What `EventRecorder.open` raises.
        """
        self._refuse_on_loop()
        if self._open_inert is not None:
            self._open_inert()
            return
        if threads_are_greenlets():
            raise RuntimeError(
                "gevent has replaced the threads that delivery needs: record here, with a log, and deliver with "
                "`eventrec drain` or a recorder in another process"
            )
        with self._opening:
            if self._loop is not None and not self._loop.is_stopped:
                raise RecorderStateError("the recorder is open already", state=self._recorder.status().state)
            self._loop = loop = LoopThread.start()
            try:
                loop.portal.call(self._recorder.open)
            except BaseException:
                loop.stop()
                raise
            loop.keep_threads(len(self._recorder.status().subscriptions))
            loop.owner = self  # A program may keep the recorder alone: at its end this closes it.
            loop.ending = register_exit(self._at_exit)
            register_exit_of_child(loop.ending)

    def register(
        self,
        handler_or_url: EventHandler | str,
        *,
        name: str | None = None,
        types: Collection[str] | None = None,
        start: Literal["earliest", "latest"] = "earliest",
        on_new_destination: NewDestination = "pause",
        batch_rows: int | None = None,
        batch_bytes: int | None = None,
        flush_interval: Duration | None = None,
        retry: Backoff | None = None,
    ) -> None:
        """See `EventRecorder.register`."""
        self._recorder.register(
            handler_or_url,
            name=name,
            types=types,
            start=start,
            on_new_destination=on_new_destination,
            batch_rows=batch_rows,
            batch_bytes=batch_bytes,
            flush_interval=flush_interval,
            retry=retry,
        )

    def record(self, event: Event | Eventable) -> bool:
        """See `EventRecorder.record`."""
        return self._recorder.record(event)

    def record_many(self, events: Iterable[Event | Eventable]) -> int:
        """See `EventRecorder.record_many`."""
        return self._recorder.record_many(events)

    def record_each(self, events: Iterable[Event | Eventable], *, atomic: bool = False) -> list[bool | EventrecError]:
        """See `EventRecorder.record_each`."""
        return self._recorder.record_each(events, atomic=atomic)

    def record_durable(
        self,
        event: Event | Eventable,
        *,
        until: Literal["written", "synced", "mirrored"] = "synced",
        timeout: Duration | None = None,
    ) -> Position | None:
        """See `EventRecorder.record_durable`; blocks."""
        if self._open_inert is not None:
            self._recorder.record(event)
            return None
        recording = partial(self._recorder.record_durable, event, until=until, timeout=timeout)
        return self._open_loop().portal.call(recording)

    def record_all_durable(
        self,
        events: Iterable[Event | Eventable],
        *,
        atomic: bool = False,
        until: Literal["written", "synced", "mirrored"] = "synced",
        timeout: Duration | None = None,
    ) -> list[Position | EventrecError | None]:
        """See `EventRecorder.record_all_durable`; blocks."""
        given = list(events)  # Here: the loop must not wait for it.
        if self._open_inert is not None:
            self._recorder.record_many(given)
            return [None] * len(given)
        recording = partial(self._recorder.record_all_durable, given, atomic=atomic, until=until, timeout=timeout)
        return self._open_loop().portal.call(recording)

    def context(self, **fields: object) -> AbstractContextManager[None]:
        """See `EventRecorder.context`."""
        return self._recorder.context(**fields)

    def flush(self, timeout: Duration | None = None) -> bool | Settled:
        """See `EventRecorder.flush`; blocks."""
        if self._open_inert is not None:
            return True
        flushing = self._open_loop().begin(partial(self._recorder.flush, timeout))
        try:
            return flushing.result(None if timeout is None else _bounded(duration_seconds(timeout) + _BEYOND))
        except (FutureTimeoutError, LoopEndedError):  # A handler does not let the loop go on; or it was closed.
            return False

    def resume(self, name: str, *, start: Literal["earliest", "latest"] | None = None) -> None:
        """See `EventRecorder.resume`."""
        if self._open_inert is not None:
            self._recorder.resume(name, start=start)
            return
        self._open_loop().portal.call(partial(self._recorder.resume, name, start=start))

    def disable(self) -> None:
        """See `EventRecorder.disable`."""
        self._recorder.disable()

    def status(self) -> Status:
        """See `EventRecorder.status`."""
        return self._recorder.status()

    def close(self, timeout: Duration | None = None) -> Status:
        """See `EventRecorder.close`; blocks, at most half a second longer than `timeout`. May be called again."""
        self._refuse_on_loop()
        seconds = self._close_timeout if timeout is None else duration_seconds(timeout)
        latest = time.monotonic() + _bounded(seconds + _BEYOND)
        if self._opening.acquire(timeout=_bounded(seconds + _BEYOND)):
            self._opening.release()  # What another thread opens meanwhile is open now.
        loop = self._running()
        if loop is None:
            self._end(timeout)
            return self._recorder.status()
        try:
            loop.begin(partial(self._recorder.close, timeout)).result(max(_SWITCH, latest - time.monotonic()))
        except LoopEndedError:  # Another thread has closed it.
            pass
        except FutureTimeoutError:
            _logger.warning("closed before delivery has ended: a handler does not let its loop go on")
            self._stop()
        finally:
            loop.stop(max(_SWITCH, latest - time.monotonic()))
        return self._recorder.status()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _running(self) -> LoopThread | None:
        self._process.detect_fork(self._forked)
        return self._loop if self._loop is not None and self._loop.is_running() else None

    def _open_loop(self) -> LoopThread:
        self._refuse_on_loop()
        loop = self._running()
        if loop is None:
            state = self._recorder.status().state
            if state == "open":
                raise RecorderStateError("the recorder is open on a loop that is not this one's", state=state)
            raise RecorderStateError(f"the recorder is not open, it is {state}: use it in a `with` block", state=state)
        return loop

    def _refuse_on_loop(self) -> None:
        """Where the loop itself would wait, it would wait for itself."""
        loop = self._running()
        if loop is not None and loop.is_here():
            raise RecorderStateError(
                "this blocks until the recorder's loop has done it, and a handler or `on_drop` called it on that loop: "
                "call it from another thread",
                state=self._recorder.status().state,
            )

    def _forked(self) -> None:
        """In a forked child: loop and thread are the parent's, and so is a thread that holds the lock."""
        self._opening = RLock()
        if self._loop is not None:
            unregister_exit(self._loop.ending)
            self._loop = None

    def _at_exit(self) -> None:
        """The program forgot to close. Bounded, whatever a handler does."""
        loop = self._running()
        if loop is None:
            return
        try:
            loop.begin(partial(loop.without_threads, self._recorder.close)).result(self._close_timeout + _STOP_SECONDS)
            loop.stop(_STOP_SECONDS)
        except LoopEndedError:
            pass
        except FutureTimeoutError:
            _logger.warning("left behind at exit: a handler does not let its loop go on")


def _bounded(seconds: float) -> float:
    """`seconds`, or as many as a wait of the system takes."""
    return min(seconds, _LONGEST_WAIT)
