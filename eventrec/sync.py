"""A recorder for programs without a loop: the same verbs, blocking, over a loop in a daemon thread."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, Protocol, Self, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.from_thread import BlockingPortal

from eventrec.errors import RecorderStateError
from eventrec.options import duration_seconds
from eventrec.runtime.backend import current_backend, take_no_thread
from eventrec.runtime.logging import get_logger
from eventrec.runtime.native import threads_are_greenlets
from eventrec.runtime.process import ProcessIdentity, register_exit, register_exit_of_child, unregister_exit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable
    from contextlib import AbstractContextManager
    from types import TracebackType

    from anyio.abc import TaskStatus

    from eventrec.delivery.subscription import NewDestination
    from eventrec.events.event import Event, Eventable
    from eventrec.handler import EventHandler
    from eventrec.intake.durable import Position
    from eventrec.options import Backoff, Duration
    from eventrec.runtime.backend import Backend
    from eventrec.status import Settled, Status

T = TypeVar("T")

_logger = get_logger("eventrec.recorder")

_BEYOND: Final = 0.5
"""Seconds that `close` waits beyond its timeout; delivery has ended, or was left, a little before."""

_SWITCH: Final = 0.05

_STOP_SECONDS: Final = 5.0
"""What the end of the process waits beyond the time that closing may take: a handler may block its loop."""


class AsyncRecorder(Protocol):
    """The verbs of `EventRecorder`, as far as they need its loop: what `SyncRecorder` blocks on."""

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

    async def record_durable(
        self, event: Event | Eventable, *, until: Literal["written", "synced"] = "synced"
    ) -> Position | None:
        """Record `event`, and return where it stands once it is in the log."""

    def context(self, **fields: object) -> AbstractContextManager[None]:
        """Add `fields` to every event recorded inside the block."""

    async def flush(self, timeout: Duration | None = None) -> bool | Settled:
        """True once all that was recorded before is delivered, and `Settled` once it is settled in another way."""

    def resume(self, name: str, *, start: Literal["earliest", "latest"] | None = None) -> None:
        """Let a paused subscription go on at once."""

    def status(self) -> Status:
        """The account now."""

    async def close(self, timeout: Duration | None = None) -> Status:
        """Take nothing more, deliver what can be delivered, and return the account."""


class SyncRecorder:
    """`EventRecorder` for a program without a loop.

        with EventRecorder("sqlite:///events.db").sync() as recorder:
            recorder.record(OrderPlaced(...))

    All methods may be called from any thread. At the end of the process it closes itself. In a forked child it may be
    opened again.
    """

    def __init__(
        self, recorder: AsyncRecorder, *, close_timeout: float, end: Callable[[Duration | None], object]
    ) -> None:
        """`end` closes `recorder` where it is not open in this process."""
        self._recorder = recorder
        self._close_timeout = close_timeout
        self._end = end
        self._process = ProcessIdentity()
        self._portal: BlockingPortal | None = None
        self._backend: Backend | None = None
        self._thread: threading.Thread | None = None
        self._ending: Callable[[], None] = lambda: None
        self._spare = threading.Event()

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
        self._process.detect_fork(self._forked)
        if self._portal is not None:
            raise RecorderStateError("the recorder is open already", state=self._recorder.status().state)
        if threads_are_greenlets():
            raise RuntimeError(
                "gevent has replaced the threads that delivery needs: record here, with a log, and deliver with "
                "`eventrec drain` or a recorder in another process"
            )
        started = threading.Event()
        failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(started, failures), name="eventrec", daemon=True)
        self._thread.start()
        started.wait()
        if failures:
            self._thread.join()
            self._thread = None
            raise failures[0]
        try:
            self._in_loop().call(self._recorder.open)
        except BaseException:
            self._stop()
            raise
        self._spare = threading.Event()
        self._in_loop().start_task(self._keep_threads, len(self._recorder.status().subscriptions))
        self._ending = register_exit(self._at_exit)
        register_exit_of_child(self._ending)

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

    def record_durable(
        self, event: Event | Eventable, *, until: Literal["written", "synced"] = "synced"
    ) -> Position | None:
        """See `EventRecorder.record_durable`; blocks."""
        return self._in_loop().call(partial(self._recorder.record_durable, event, until=until))

    def context(self, **fields: object) -> AbstractContextManager[None]:
        """See `EventRecorder.context`."""
        return self._recorder.context(**fields)

    def flush(self, timeout: Duration | None = None) -> bool | Settled:
        """See `EventRecorder.flush`; blocks."""
        self._in_loop()
        flushing = self._begin(partial(self._recorder.flush, timeout))
        try:
            return flushing.result(None if timeout is None else duration_seconds(timeout) + _BEYOND)
        except FutureTimeoutError:  # A handler does not let the loop go on.
            return False

    def resume(self, name: str, *, start: Literal["earliest", "latest"] | None = None) -> None:
        """See `EventRecorder.resume`."""
        self._in_loop().call(partial(self._recorder.resume, name, start=start))

    def status(self) -> Status:
        """See `EventRecorder.status`."""
        return self._recorder.status()

    def close(self, timeout: Duration | None = None) -> Status:
        """See `EventRecorder.close`; blocks, at most half a second longer than `timeout`. May be called again."""
        if not self._is_running():
            self._end(timeout)
            return self._recorder.status()
        seconds = self._close_timeout if timeout is None else duration_seconds(timeout)
        latest = time.monotonic() + seconds + _BEYOND
        try:
            self._begin(partial(self._recorder.close, timeout)).result(seconds + _BEYOND)
        except FutureTimeoutError:
            _logger.warning("closed before delivery has ended: a handler does not let its loop go on")
        finally:
            self._stop(max(_SWITCH, latest - time.monotonic()))
        return self._recorder.status()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, started: threading.Event, failures: list[BaseException]) -> None:
        try:
            anyio.run(self._serve, started)
        except BaseException as exc:
            if started.is_set():
                raise
            failures.append(exc)
            started.set()

    async def _serve(self, started: threading.Event) -> None:
        async with BlockingPortal() as portal:
            self._portal, self._backend = portal, current_backend()
            self._spared = anyio.Event()
            started.set()
            await portal.sleep_until_stopped()

    def _is_running(self) -> bool:
        self._process.detect_fork(self._forked)
        return self._thread is not None and self._thread.is_alive()

    def _in_loop(self) -> BlockingPortal:
        if not self._is_running() or self._portal is None:
            state = self._recorder.status().state
            raise RecorderStateError(f"the recorder is not open, it is {state}: use it in a `with` block", state=state)
        return self._portal

    def _begin(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        """Have `work` done on the loop. Does not even wait until the loop takes it: a handler may block it."""
        done: Future[T] = Future()

        async def run() -> None:
            try:
                done.set_result(await work())
            except Exception as exc:  # noqa: BLE001 - it is the caller's
                done.set_exception(exc)

        if self._backend is None or not self._backend.wake(partial(self._backend.spawn, run, "eventrec verb")):
            done.set_exception(RecorderStateError("the recorder's loop has ended", state="closed"))
        return done

    def _stop(self, timeout: float | None = None) -> None:
        unregister_exit(self._ending)
        self._spare.set()
        if self._portal is not None and self._thread is not None:
            self._begin(self._portal.stop)
            self._thread.join(timeout)
            self._portal = self._thread = None

    def _forked(self) -> None:
        """In a forked child: loop and thread are the parent's."""
        unregister_exit(self._ending)
        self._portal = self._thread = None

    async def _keep_threads(self, count: int, *, task_status: TaskStatus[None]) -> None:
        """Keep one for each handler, waiting: at its end the interpreter starts none, and handlers block in some."""
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

    async def _close_at_exit(self) -> None:
        take_no_thread()
        self._spare.set()
        await self._spared.wait()
        await self._recorder.close()

    def _at_exit(self) -> None:
        """The program forgot to close. Bounded, whatever a handler does."""
        if not self._is_running():
            return
        try:
            self._begin(self._close_at_exit).result(self._close_timeout + _STOP_SECONDS)
            self._stop(_STOP_SECONDS)
        except FutureTimeoutError:
            _logger.warning("left behind at exit: a handler does not let its loop go on")
