"""The life of delivery between `open` and the end of `close`: one task that owns it all and outlives cancellations."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from concurrent.futures import Future
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from eventrec.delivery.worker.containment import EndedFromWithinError, contained
from eventrec.errors import RecorderStateError
from eventrec.runtime.logging import described, get_logger
from eventrec.runtime.loop_thread import answer
from eventrec.status import Settled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from eventrec.delivery.subscription import NewDestination
    from eventrec.delivery.worker.worker import Worker
    from eventrec.intake.consumer import Counts
    from eventrec.intake.drops import Drops
    from eventrec.intake.queue import Intake
    from eventrec.runtime.backend import Backend
    from eventrec.status import PhaseTime, RelayPart, SubscriptionStatus

_logger = get_logger("eventrec.delivery")

GRACE: Final = 0.4
"""Seconds beyond the timeout of `close`, for handlers to close and for files to be closed."""

_WAIT: Final = 0.5
"""Seconds beyond the timeout after which `close` waits no longer, whatever a handler does."""

_POLL: Final = 0.01

_LOOK_SECONDS: Final = 10.0
"""How often it looks whether the handlers answer, while one is called."""

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0

T = TypeVar("T")


class Supervisor(ABC):
    """All methods but `wake` and the counts of the account are for the loop's thread."""

    workers: dict[str, Worker]
    """By subscription: those of this recorder's own log."""

    def __init__(self, intake: Intake, backend: Backend, drops: Drops, *, close_timeout: float) -> None:
        self.started = anyio.Event()
        """Set once there is something to deliver from: a cancellation leads to a flush from then on."""
        self.ended = anyio.Event()
        self.defect: BaseException | None = None
        """An error that nothing below has contained, until delivery goes on after it."""
        self.is_ended = False
        """The same as `ended`, for other threads."""
        self.makes_room = False
        """Whether the disk has no room for a log of our own, and logs of earlier runs are delivered to make some."""
        self._intake = intake
        self._backend = backend
        self._drops = drops
        drops.schedule = backend.wake
        self._close_timeout = close_timeout
        self._deadline = math.inf
        """When `close` is to have delivered what it can, by the loop's clock."""
        self._woken = anyio.Event()
        self._closing = anyio.Event()
        self._is_abandoned = False

    def wake(self) -> bool:
        """From any thread: something changed. False where the loop is gone."""
        return self._backend.wake(self._wake_here)

    def is_here(self) -> bool:
        """Whether the calling thread is the one that delivers."""
        return self._backend.is_here()

    def _wake_here(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """Deliver until `close` was called or the task is cancelled, flush for at most the close timeout, and end."""
        try:
            await self._deliver()
        except anyio.get_cancelled_exc_class():
            if self._is_abandoned:
                raise
            self.close(self._close_timeout)
            await self._backend.outlive(self._deliver, is_overdue=self._is_overdue)
            raise
        finally:
            if not self._is_abandoned:
                await self._backend.outlive(self._close_workers_in_time, is_overdue=self._is_overdue)
                # No handler is asked any more: what is left takes as long as the disk does.
                await self._backend.outlive(self._end_and_say)

    async def _deliver(self) -> None:
        """Deliver until closed, whatever is thrown meanwhile."""
        await self._keep_running(self._deliver_until_closed, "delivery")

    async def _keep_running(self, run: Callable[[], Awaitable[object]], what: str) -> None:
        """Call `run` until it returns: after an error again, with a pause that grows."""
        pause, said = _FIRST_PAUSE, ""
        while not self._is_abandoned:
            started = anyio.current_time()
            try:
                with contained(also_cancellations=False):
                    await run()
                    self._expect_closing()
            except Exception as exc:
                if anyio.current_time() - started > _LONGEST_PAUSE:
                    pause = _FIRST_PAUSE
                if pause == _FIRST_PAUSE or said != described(exc):
                    said = described(exc)
                    _logger.exception("task interrupted", task=what, error=said, again_in_seconds=pause)
                self.defect = exc
                if self._closing.is_set():
                    return
            else:
                return
            with anyio.move_on_after(pause):
                await self._closing.wait()
            pause = min(2 * pause, _LONGEST_PAUSE)
            self.defect = None

    async def _note_silence(self) -> None:
        """Say it where a handler was called and does not answer; look less and less often while none is called."""
        pause = _LOOK_SECONDS
        while True:
            await anyio.sleep(pause)
            are_called = [worker.note_silence() for worker in self._all_workers()]
            pause = _LOOK_SECONDS if any(are_called) else min(2 * pause, 16 * _LOOK_SECONDS)

    def _all_workers(self) -> list[Worker]:
        """Those of this recorder's own log, and of others."""
        return list(self.workers.values())

    def _expect_closing(self) -> None:
        if not self._closing.is_set():
            raise EndedFromWithinError("it ended by itself")

    def abandon(self) -> None:
        """In the child of a fork: if the parent's loop runs there, it delivers nothing of what the parent delivers."""
        self._is_abandoned = True
        for worker in self.workers.values():
            worker.abandon()

    # -- its end

    def close(self, timeout: float) -> None:
        """Take nothing any more, and end after `timeout` seconds at most. Only the first call counts."""
        if not self._closing.is_set():
            self._intake.close("closed")
            self._close_timeout = timeout
            self._deadline = self._backend.now() + timeout
            self._closing.set()
            self._wake_here()
            self._backend.spawn(self._let_go_in_time, "eventrec end")

    async def _let_go_in_time(self) -> None:
        """Where a handler holds up the end, let go without it of what others may take up."""
        with anyio.CancelScope(deadline=self._deadline + GRACE):
            await self.ended.wait()
        if not self.is_ended and not self._is_abandoned:
            await self._backend.outlive(self._let_go)

    async def close_and_wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - it says whether it was met
        """Close it, from any loop; False where it has not ended `timeout` and half a second later.

        Then a handler does not let go, or the loop that opened it no longer runs.
        """
        if self._backend.is_here():
            self.close(timeout)
            with anyio.move_on_after(timeout + _WAIT):
                await self.ended.wait()
            return self.is_ended
        if self.is_ended:
            return True
        self._close_elsewhere()
        if not self._backend.wake(partial(self.close, timeout)):
            return False
        with anyio.move_on_after(timeout + _WAIT):
            while not self.is_ended:  # noqa: ASYNC110 - an event of another loop wakes no one here
                await anyio.sleep(_POLL)
        return self.is_ended

    def close_and_block(self, timeout: float) -> bool:
        """Likewise, from a thread that runs no loop.

        Raises:
            RecorderStateError: The loop that delivers would wait for itself.
        """
        if self.is_here():
            raise RecorderStateError("this blocks the loop that delivers: `await` the recorder's `close`", state="open")
        self._close_elsewhere()
        latest = monotonic() + timeout + _WAIT
        is_there = self.is_ended or self._backend.wake(partial(self.close, timeout))
        while is_there and not self.is_ended and monotonic() < latest:
            sleep(_POLL)
        return self.is_ended

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns or raises when it is called on the loop that this runs on, from any loop.

        Raises:
            RecorderStateError: That loop is closed.
        """
        if self._backend.is_here():
            return await work()
        done: Future[T] = Future()
        gone = RecorderStateError("the loop that opened the recorder is closed", state="closed")

        def spawn() -> None:
            if self.is_ended:  # The loop may cancel no task any more, and would drop this one unrun.
                done.set_exception(gone)
            else:
                self._backend.spawn(partial(answer, done, work, ended=gone), "eventrec call")

        is_there = self._backend.wake(spawn)
        while is_there and not done.done():
            await anyio.sleep(_POLL)
            is_there = self._backend.wake(_nothing)
        if not done.done():
            raise gone
        return done.result()

    def is_stranded(self) -> bool:
        """Whether it can never end: the loop that it ran on is closed."""
        return not self.is_ended and not self.wake()

    def _close_elsewhere(self) -> None:
        """What closing begins with, from any thread, whether the loop comes to the rest or not."""
        self._intake.close("closed")

    def _is_overdue(self) -> bool:
        return anyio.current_time() > self._deadline + _WAIT

    async def _close_workers_in_time(self) -> None:
        with anyio.CancelScope(deadline=self._deadline + GRACE):
            await self._close_workers()

    async def _end_and_say(self) -> None:
        try:
            await self._end()
            self._drops.note_pushed_out(self._intake)
            self._drops.tell()
        finally:
            self.is_ended = True
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

    def adopted(self) -> dict[str, Callable[[], dict[str, SubscriptionStatus]]]:
        """What gives the same of each log that earlier runs left, by its id."""
        return {}

    def died(self) -> dict[str, int]:
        """Records that became dead letters, by subscription, of whichever logs."""
        return {name: part.dead for name, part in self.status().items()}

    def dead_letters(self) -> dict[str, int] | None:
        """Those that wait in the log directory, by subscription, whichever runs set them aside; None: there is none."""
        return None

    def elsewhere(self) -> dict[str, int]:
        """Records of this recorder's log that subscriptions of other processes need, where one is known to."""
        return {}

    def forfeited(self) -> dict[str, int]:
        """Records lost to the bound on the log directory, by subscription, that no worker counts."""
        return {}

    def since_forfeit(self) -> float | None:
        """Seconds since that was last counted; None: never."""
        return None

    def following(self) -> tuple[str, str | None, int] | None:
        """How live logs are followed: the state, what an operator has to mend, how often the directory refused.

        None: they are not.
        """
        return None

    def relay(self) -> list[RelayPart]:
        """What is delivered of a bus, part by part."""
        return []

    def phases(self) -> dict[str, PhaseTime]:
        """How long that took."""
        return {}

    def mirror_lags(self) -> dict[str, int]:
        """Records of the log that is written which each mirror lacks, by its name, as of the last look."""
        return {}

    def unsaved(self) -> int:
        """Of how many logs the disk refused the checkpoints when they were saved last."""
        return 0

    def left(self) -> dict[str, str]:
        """Those logs that wait for an operator, by their id, and why."""
        return {}

    async def flush_and_tell(self) -> bool | Settled:
        """`flush`, and where everything is settled, what of it was not delivered."""
        if not await self.flush():
            return False
        losses = [worker.take_losses() for worker in self.workers.values()]
        dead, dropped = sum(each[0] for each in losses), sum(each[1] for each in losses)
        return Settled(dead, dropped) if dead or dropped else True

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
    async def _close_workers(self) -> None:
        """Close what may take its time: whatever is not done when this is cancelled is left."""

    @abstractmethod
    async def _end(self) -> None:
        """Let go of the rest, and settle the account."""

    @abstractmethod
    async def _let_go(self) -> None:
        """Let go of what other processes may take up: the part of `_end` for which no handler is waited."""

    def end_stranded(self) -> None:
        """From any thread: the loop is closed, and nothing of the above will run. Blocking."""
        self.is_ended = True


async def flush_workers(workers: Iterable[Worker], to: int) -> bool:
    """True once each of them has settled everything below `to`; False where one of them is held."""
    flushed = list(workers)
    for worker in flushed:
        worker.hurry(to)
    return all([await worker.flush(to) for worker in flushed])


def _nothing() -> None:
    """What a loop is asked to do to learn whether it is there."""
