"""Runs the workers of one recorder, moves what was taken into the source, and ends it all within a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from eventrec._logging import get_logger
from eventrec.delivery.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventrec.backend import Backend
    from eventrec.delivery.dead_letters import DeadLetters
    from eventrec.delivery.memory import MemorySource
    from eventrec.delivery.subscription import Subscription
    from eventrec.intake import Intake
    from eventrec.record import Entry
    from eventrec.status import SubscriptionStatus

_logging = get_logger("eventrec.delivery")

SLICE: Final = 200
"""Entries moved at once on the loop: its other tasks wait no longer than that."""

_LAST_SECOND: Final = 1.0
"""What handlers get to close, whatever the timeout was."""


class Dispatcher:
    """The life of a recorder without a log, between `open` and the end of `close`.

    All methods but `wake` are for the loop's thread.
    """

    def __init__(
        self,
        intake: Intake,
        source: MemorySource,
        backend: Backend,
        *,
        close_timeout: float,
        write_interval: float,
        on_slice: Callable[[], object] = lambda: None,
    ) -> None:
        self.workers: dict[str, Worker] = {}
        self.appended = 0
        self.moves = 0
        """Odd while entries are on their way from the intake into the source."""
        self.started = anyio.Event()
        """Set once all tasks run: from then on a cancellation finds somebody who flushes."""
        self.ended = anyio.Event()
        self.failure: BaseException | None = None
        """What ended it, if it was no cancellation: a defect of ours."""
        self._intake = intake
        self._source = source
        self._backend = backend
        self._close_timeout = close_timeout
        self._write_interval = write_interval
        self._on_slice = on_slice
        self._woken = anyio.Event()
        self._moved = anyio.Event()
        self._closing = anyio.Event()
        source.on_room = self._room_was_made

    def subscribe(self, subscription: Subscription, letters: DeadLetters, on_drop: Callable[[str, int], None]) -> None:
        """Add a worker; before `run`."""
        self.workers[subscription.name] = Worker(subscription, self._source, letters, on_drop=on_drop)

    def wake(self) -> bool:
        """From any thread: an entry waits in the intake. False where the loop is gone."""
        return self._backend.wake(self._wake_here)

    def _wake_here(self) -> None:
        self._woken.set()

    # -- its life

    async def run(self) -> None:
        """Deliver until `close` was called or the task is cancelled, flush for at most the close timeout, and end."""
        try:
            await self._deliver_until_closed()
        except anyio.get_cancelled_exc_class():
            self.close(self._close_timeout)
            await self._backend.outlive(self._deliver_until_closed)
            raise
        except Exception as exc:
            self.failure = exc
            _logging.exception("delivery ended by a defect", error=repr(exc))
        finally:
            await self._backend.outlive(self._end)

    def close(self, timeout: float) -> None:
        """Take nothing any more, and end after `timeout` seconds at most. Only the first call counts."""
        if not self._closing.is_set():
            self._intake.close("closed")
            self._close_timeout = timeout
            self._closing.set()
            self._woken.set()

    async def flush(self) -> bool:
        """True once everything taken before is settled in every subscription; False where one of them is held."""
        taken = self.appended + len(self._intake)
        while self.appended < taken and len(self._intake):
            self._woken.set()
            moved = self._moved
            if not await self._flush_all():
                return False
            if self.appended < taken and len(self._intake):
                await moved.wait()
        return await self._flush_all()

    def status(self) -> dict[str, SubscriptionStatus]:
        """The subscriptions' part of the account."""
        return {name: worker.status() for name, worker in self.workers.items()}

    async def _deliver_until_closed(self) -> None:
        self._move_slice()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._move_entries, name="eventrec intake")
            for worker in self.workers.values():
                tasks.start_soon(worker.run, name=f"eventrec {worker.name}")
            await anyio.lowlevel.checkpoint()
            self.started.set()
            await self._closing.wait()
            with anyio.move_on_after(self._close_timeout):
                await self.flush()
            tasks.cancel_scope.cancel()

    async def _flush_all(self) -> bool:
        settled: list[bool] = []

        async def flush(worker: Worker) -> None:
            settled.append(await worker.flush(self._source.end))

        async with anyio.create_task_group() as tasks:
            for worker in self.workers.values():
                tasks.start_soon(flush, worker)
        return all(settled)

    async def _end(self) -> None:
        self._intake.close("closed")
        while self._move_slice():
            pass
        with anyio.move_on_after(max(_LAST_SECOND, self._close_timeout)):
            async with anyio.create_task_group() as tasks:
                for worker in self.workers.values():
                    tasks.start_soon(worker.close)
        await self._drop_rest()
        self.ended.set()

    async def _drop_rest(self) -> None:
        """What is left lives in memory alone: count it as lost, subscription by subscription."""
        self._count_rest_of_intake()
        for worker in self.workers.values():
            start = self._source.position(worker.name)
            rest = await self._source.read(start, max_records=self._source.end - start + 1, max_bytes=1 << 62)
            self._source.fetched(worker.name, rest.end)
            worker.drop_rest("closed", rest)

    def _count_rest_of_intake(self) -> None:
        """Past the source's bound on purpose: it is only to be counted, by each subscription's own filter."""
        while entries := self._intake.take(SLICE):
            self.appended += len(entries)
            self._source.append(entries)

    # -- from the intake into the source

    async def _move_entries(self) -> None:
        while True:
            while self._move_slice():
                self._on_slice()
                await anyio.lowlevel.checkpoint()
            self._on_slice()
            # A wake-up per event would cost more than the event: after a take, look again in a little while, and only
            # when nothing came meanwhile ask to be woken.
            self._woken = anyio.Event()
            if len(self._intake) and not self._source.room():
                await self._woken.wait()
                continue
            with anyio.move_on_after(self._write_interval):
                await self._woken.wait()
            if not len(self._intake) and self._intake.arm():
                await self._woken.wait()

    def _move_slice(self) -> bool:
        """Move at most a slice; False where nothing was moved."""
        entries: Sequence[Entry] = ()
        room = self._source.room()
        if room and len(self._intake):
            self.moves += 1
            entries = self._intake.take(min(room, SLICE))
            self.appended += len(entries)
            self._source.append(entries)
            self._count_held()
            self.moves += 1
            moved, self._moved = self._moved, anyio.Event()
            moved.set()
        return bool(entries)

    def _room_was_made(self) -> None:
        self._count_held()
        if len(self._intake):
            self._woken.set()

    def _count_held(self) -> None:
        """What the source holds still counts against the intake's bound."""
        self._intake.held_events = len(self._source)
        self._intake.freed_bytes = self._source.freed_bytes
