"""The life of delivery between `open` and the end of `close`: one task that owns it all and outlives cancellations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventrec.delivery.subscription import NewDestination
    from eventrec.delivery.worker.worker import Worker
    from eventrec.intake.consumer import Counts
    from eventrec.intake.queue import Intake
    from eventrec.runtime.backend import Backend
    from eventrec.status import SubscriptionStatus

_logger = get_logger("eventrec.delivery")

LAST_SECOND: Final = 1.0
"""What handlers get to close, whatever the timeout was."""


class Supervisor(ABC):
    """All methods but `wake` and the counts of the account are for the loop's thread."""

    workers: dict[str, Worker]
    """By subscription: those of this recorder's own log."""

    def __init__(self, intake: Intake, backend: Backend, *, close_timeout: float) -> None:
        self.started = anyio.Event()
        """Set once all tasks run: from then on a cancellation leads to a flush."""
        self.ended = anyio.Event()
        self.defect: BaseException | None = None
        """What ended it, if it was no cancellation: a defect of ours."""
        self._intake = intake
        self._backend = backend
        self._close_timeout = close_timeout
        self._woken = anyio.Event()
        self._closing = anyio.Event()
        self._is_abandoned = False

    def wake(self) -> bool:
        """From any thread: something changed. False where the loop is gone."""
        return self._backend.wake(self._wake_here)

    def _wake_here(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """Deliver until `close` was called or the task is cancelled, flush for at most the close timeout, and end."""
        try:
            await self._deliver_until_closed()
        except anyio.get_cancelled_exc_class():
            if self._is_abandoned:
                raise
            self.close(self._close_timeout)
            await self._backend.outlive(self._deliver_until_closed)
            raise
        except Exception as exc:
            if self._is_abandoned:
                return
            self.defect = exc
            _logger.exception("delivery ended by a defect", error=repr(exc))
        finally:
            if not self._is_abandoned:
                await self._backend.outlive(self._end_and_say)

    def abandon(self) -> None:
        """In the child of a fork: if the parent's loop runs there, it delivers nothing of what the parent delivers."""
        self._is_abandoned = True
        for worker in self.workers.values():
            worker.abandon()

    def close(self, timeout: float) -> None:
        """Take nothing any more, and end after `timeout` seconds at most. Only the first call counts."""
        if not self._closing.is_set():
            self._intake.close("closed")
            self._close_timeout = timeout
            self._closing.set()
            self._woken.set()

    async def _end_and_say(self) -> None:
        try:
            await self._end()
        finally:
            self.ended.set()

    # -- the account

    @property
    @abstractmethod
    def counts(self) -> Counts:
        """Records that are numbered, and those that are taken and are not. From any thread."""

    @abstractmethod
    def status(self) -> dict[str, SubscriptionStatus]:
        """The subscriptions' part of the account."""

    @property
    def untrusted(self) -> str | None:
        """Why what we know of the log directory cannot be trusted."""
        return None

    def adopted(self) -> dict[str, dict[str, SubscriptionStatus]]:
        """Likewise of logs that earlier runs left, by their id."""
        return {}

    # -- what each kind does in its own way

    @abstractmethod
    async def flush(self) -> bool:
        """True once everything taken before is settled in every subscription; False where one of them is held."""

    @abstractmethod
    def resume(self, name: str, start: NewDestination | None = None) -> None:
        """Let the paused subscription `name` go on at once; `start` is where to begin at another destination."""

    @abstractmethod
    async def _deliver_until_closed(self) -> None:
        """Set `started`, deliver until `_closing`, flush. May be called again after it was cancelled."""

    @abstractmethod
    async def _end(self) -> None:
        """Close what is open, and settle the account."""


async def flush_workers(workers: Iterable[Worker], to: int) -> bool:
    """True once each of them has settled everything below `to`; False where one of them is held."""
    settled: list[bool] = []

    async def flush(worker: Worker) -> None:
        settled.append(await worker.flush(to))

    async with anyio.create_task_group() as tasks:
        for worker in workers:
            tasks.start_soon(flush, worker)
    return all(settled)
