"""One handler for several logs: its own log and the orphans take turns, so that a huge orphan starves no other log."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

import anyio

from eventrec.delivery.worker.destination import hand_over, is_true
from eventrec.delivery.worker.health import Outage
from eventrec.errors import DeliveryError, PauseError, TransientError
from eventrec.handler import DestinationCheckpoints, EventHandler
from eventrec.runtime.logging import text_of

if TYPE_CHECKING:
    from types import TracebackType
    from uuid import UUID

    from eventrec.records.batch import Batch


class FailedBatch(NamedTuple):
    """A batch that was sent, by its token, and what its handler said."""

    token: str
    error: Exception


class SharedHandler:
    """A handler that one worker at a time may use, in turn: first come, first served, all orphans as one."""

    def __init__(self, handler: EventHandler) -> None:
        self.handler = handler
        self.outage = Outage()
        self.knows_tokens = is_true(handler, "dedupes_by_token")
        """Whether the destination drops a batch whose token it has seen."""
        self.is_open = False
        self._turn = anyio.Lock()
        self._orphans = anyio.Lock()

    def lease(self, *, is_orphan: bool, failed: FailedBatch | None = None) -> EventHandler:
        """What one worker takes for its handler. The batch that `failed` fails like that the first time, unsent."""
        return _Lease(self, is_orphan=is_orphan, failed=failed)

    @property
    def is_wanted(self) -> bool:
        """Whether another worker waits for a turn."""
        return self._turn.statistics().tasks_waiting > 0

    def turn(self, *, is_orphan: bool) -> AbstractAsyncContextManager[EventHandler]:
        """The handler, which no other worker uses meanwhile."""
        return _Turn(self, is_orphan=is_orphan)

    def open_turn(self, *, is_orphan: bool) -> AbstractAsyncContextManager[EventHandler]:
        """Likewise, opened again if another worker has closed it.

        Raises:
            TransientError: It cannot be opened for now.
            PauseError: It cannot be opened for another reason, which is not the fault of the batch in hand.
        """
        return _Turn(self, is_orphan=is_orphan, opens=True)

    async def take_turn(self, stack: AsyncExitStack, *, is_orphan: bool) -> None:
        """Wait for a turn, which ends with `stack`."""
        if is_orphan:
            await stack.enter_async_context(self._orphans)
        await stack.enter_async_context(self._turn)
        self.outage.turn_since = monotonic()

    async def open_again(self) -> None:
        """Open it, if another worker has closed it. Raises as `open_turn`."""
        if self.is_open:
            return
        try:
            await self.handler.open()
        except TransientError:
            raise
        except DeliveryError as exc:
            # Not a word about the batch in hand.
            raise PauseError(text_of(exc)) from exc
        self.is_open = True


class _Turn(AbstractAsyncContextManager[EventHandler]):
    """A class: what leaves a generator's context manager is changed there, which an error that is frozen refuses."""

    def __init__(self, shared: SharedHandler, *, is_orphan: bool, opens: bool = False) -> None:
        self._shared = shared
        self._is_orphan = is_orphan
        self._opens = opens
        self._taken = AsyncExitStack()

    async def __aenter__(self) -> EventHandler:
        async with AsyncExitStack() as stack:
            await self._shared.take_turn(stack, is_orphan=self._is_orphan)
            if self._opens:
                await self._shared.open_again()
            self._taken = stack.pop_all()
        return self._shared.handler

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._taken.aclose()


class _Lease(EventHandler, DestinationCheckpoints):
    def __init__(self, shared: SharedHandler, *, is_orphan: bool, failed: FailedBatch | None) -> None:
        self._shared = shared
        self._is_orphan = is_orphan
        self._failed = failed

    @property
    def checkpoints(self) -> DestinationCheckpoints | None:
        return None if self._shared.handler.checkpoints is None else self

    @property
    def idle_check_seconds(self) -> float | None:
        return _checkpoints(self._shared.handler).idle_check_seconds

    async def open(self) -> None:
        async with self._shared.turn(is_orphan=self._is_orphan) as handler:
            if not self._shared.is_open:  # pragma: no branch - Python 3.11 hides the way out of an `async with`
                await handler.open()
                self._shared.is_open = True

    async def prepare(self, batch: Batch) -> None:
        # A handler keeps one batch prepared: with another worker about to use it, this one would only be in the way.
        if not self._shared.is_wanted:
            await self._shared.handler.prepare(batch)

    async def handle(self, batch: Batch) -> None:
        failed, self._failed = self._failed, None
        if failed is not None and failed.token == batch.token:
            raise failed.error
        async with self._shared.open_turn(is_orphan=self._is_orphan) as handler:
            await hand_over(handler, batch)

    async def close(self) -> None:
        async with self._shared.turn(is_orphan=self._is_orphan) as handler:
            if self._shared.is_open:
                self._shared.is_open = False
                await handler.close()

    async def destination_id(self) -> str:
        async with self._shared.open_turn(is_orphan=self._is_orphan) as handler:
            return await _checkpoints(handler).destination_id()

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        async with self._shared.open_turn(is_orphan=self._is_orphan) as handler:
            return await _checkpoints(handler).resume(log_id, subscription, start)

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        async with self._shared.open_turn(is_orphan=self._is_orphan) as handler:
            await _checkpoints(handler).retire(log_id, subscription, end)


def _checkpoints(handler: EventHandler) -> DestinationCheckpoints:
    found = handler.checkpoints
    if found is None:
        raise PauseError("the destination keeps no checkpoints any more")
    return found
