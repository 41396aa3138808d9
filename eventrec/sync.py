"""A recorder for programs without a loop: the same verbs, blocking, over a loop in a daemon thread."""

from __future__ import annotations

import atexit
import threading
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

import anyio
from anyio.from_thread import BlockingPortal

from eventrec.errors import RecorderClosedError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from types import TracebackType

    from eventrec.durable import Position
    from eventrec.event import Event, Eventable
    from eventrec.options import Duration
    from eventrec.recorder import EventRecorder
    from eventrec.status import Status


class SyncRecorder:
    """`EventRecorder` for a program without a loop.

        with EventRecorder("sqlite:///events.db").sync() as recorder:
            recorder.record(OrderPlaced(...))

    All methods may be called from any thread.
    """

    def __init__(self, recorder: EventRecorder) -> None:
        self._recorder = recorder
        self._portal: BlockingPortal | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eventrec", daemon=True)

    def __enter__(self) -> Self:
        self.open()
        return self

    def open(self) -> None:
        """Start delivering; raises what `EventRecorder.open` raises."""
        if self._portal is not None:
            raise RecorderClosedError("the recorder has been opened already")
        self._thread.start()
        self._started.wait()
        try:
            self._in_loop().call(self._recorder.open)
        except BaseException:
            self._stop()
            raise
        atexit.register(self._at_exit)

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

    def flush(self, timeout: Duration | None = None) -> bool:
        """See `EventRecorder.flush`; blocks."""
        return self._in_loop().call(self._recorder.flush, timeout)

    def resume(self, name: str) -> None:
        """See `EventRecorder.resume`."""
        self._in_loop().call(self._recorder.resume, name)

    def status(self) -> Status:
        """See `EventRecorder.status`."""
        return self._recorder.status()

    def close(self, timeout: Duration | None = None) -> Status:
        """See `EventRecorder.close`; blocks. May be called again."""
        if self._thread.is_alive():
            try:
                self._in_loop().call(self._recorder.close, timeout)
            finally:
                self._stop()
        return self._recorder.status()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        anyio.run(self._serve)

    async def _serve(self) -> None:
        async with BlockingPortal() as portal:
            self._portal = portal
            self._started.set()
            await portal.sleep_until_stopped()

    def _in_loop(self) -> BlockingPortal:
        if self._portal is None or not self._thread.is_alive():
            raise RecorderClosedError("the recorder is not open: use it in a `with` block")
        return self._portal

    def _stop(self) -> None:
        atexit.unregister(self._at_exit)
        if self._portal is not None:
            self._portal.start_task_soon(self._portal.stop)
        self._thread.join()

    def _at_exit(self) -> None:
        """The program forgot to close. Bounded by the close timeout, like any close."""
        if self._thread.is_alive():
            self.close()
