"""`on_failure="stop"`: after the first send that fails nothing more goes to any destination of this recorder.

    FencedError                                     not a failure: the checkpoint has moved
    PermanentError that names no record,
      BatchTooLargeError, of several records        no verdict yet: the batch is parted
    any other error of `open`, `handle`,
      or of the destination's checkpoints           stops; what follows for the records in hand is as ever

From then on a handler is only closed: whatever else is asked of it is answered with `PauseError`, here. So what is not
delivered stays in the log, for another process.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import TYPE_CHECKING

from eventrec.delivery.worker.destination import hand_over, is_true
from eventrec.delivery.worker.outcome import error_text
from eventrec.errors import BatchTooLargeError, FencedError, PauseError, PermanentError
from eventrec.handler import DestinationCheckpoints, EventHandler
from eventrec.runtime.signals import pass_on

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from uuid import UUID
    from weakref import WeakMethod

    from eventrec.reading import EventReader
    from eventrec.records.batch import Batch
    from eventrec.records.layout import Layout


class FailureStop:
    """Whether a send of one recorder has failed; `on_stop` is called with what it said, the first time.

    It does not keep that method's object.
    """

    def __init__(self, on_stop: WeakMethod[Callable[[str], object]]) -> None:
        self._on_stop = on_stop
        self.reason: str | None = None
        """What the send that failed said; None: none has."""

    def stop(self, exc: Exception) -> None:
        """A send failed with `exc`."""
        if self.reason is None:
            self.reason = error_text(exc)
            if (on_stop := self._on_stop()) is not None:
                on_stop(self.reason)

    def guarded(self, handler: EventHandler) -> EventHandler:
        """What stands before `handler`, and lets nothing through once a send has failed."""
        # A class of that handler's name: dead letters tell it. What it says of its class holds for this one too.
        dedupes = is_true(handler, "dedupes_by_token")
        guarding = type(type(handler).__name__, (_StoppingHandler,), {"dedupes_by_token": dedupes})
        guarded: EventHandler = guarding(handler, self)
        return guarded


class _StoppingHandler(EventHandler, DestinationCheckpoints):
    def __init__(self, handler: EventHandler, stop: FailureStop) -> None:
        self._handler = handler
        self._stop = stop

    def __repr__(self) -> str:
        return f"<stops after a failure: {self._handler!r}>"

    @property
    def checkpoints(self) -> DestinationCheckpoints | None:
        self._refuse_once_stopped()
        return None if self._handler.checkpoints is None else self

    @property
    def idle_check_seconds(self) -> float | None:
        return self._checkpoints().idle_check_seconds

    @property
    def remarks(self) -> Sequence[str]:
        return self._handler.remarks

    def reader(self) -> EventReader | None:
        return self._handler.reader()

    def inherit_ttl(self, seconds: float) -> None:
        self._handler.inherit_ttl(seconds)

    def inherit_chunk_rows(self, rows: int) -> None:
        self._handler.inherit_chunk_rows(rows)

    def use_layouts(self, layouts: Mapping[str, Layout]) -> None:
        self._handler.use_layouts(layouts)

    def assume_layouts(self, layouts: Mapping[str, Layout]) -> None:
        self._handler.assume_layouts(layouts)

    async def open(self) -> None:
        with self._sending():
            await self._handler.open()

    async def prepare(self, batch: Batch) -> None:
        self._refuse_once_stopped()
        await self._handler.prepare(batch)

    async def handle(self, batch: Batch) -> None:
        with self._sending(batch):
            await hand_over(self._handler, batch)

    async def close(self) -> None:
        await self._handler.close()

    async def destination_id(self) -> str:
        with self._sending():
            return await self._checkpoints().destination_id()

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        with self._sending():
            return await self._checkpoints().resume(log_id, subscription, start)

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        with self._sending():
            await self._checkpoints().retire(log_id, subscription, end)

    def _checkpoints(self) -> DestinationCheckpoints:
        found = self._handler.checkpoints
        if found is None:
            raise PauseError("the destination keeps no checkpoints any more")
        return found

    def _refuse_once_stopped(self) -> None:
        if self._stop.reason is not None:
            raise PauseError(f"stopped after a failed send: {self._stop.reason}")

    def _sending(self, batch: Batch | None = None) -> AbstractContextManager[object]:
        """Around what reaches the destination: the first failure is the last."""
        self._refuse_once_stopped()
        # What leaves a generator's context manager is changed there, which an error that is frozen refuses.
        around = ExitStack()
        around.push(partial(self._sent, batch))
        return around

    def _sent(
        self,
        batch: Batch | None,
        _kind: type[BaseException] | None,
        exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if isinstance(exc, Exception) and not isinstance(exc, FencedError) and not _is_parted(batch, exc):
            self._stop.stop(exc)


def _is_parted(batch: Batch | None, exc: Exception) -> bool:
    """Whether `exc` only makes halves of `batch`."""
    if batch is None or len(batch) == 1:
        return False
    try:
        return isinstance(exc, BatchTooLargeError) or (isinstance(exc, PermanentError) and not exc.records)
    except BaseException as fault:  # noqa: BLE001 - foreign code
        pass_on(fault)
        return False
