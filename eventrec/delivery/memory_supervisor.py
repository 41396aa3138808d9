"""Delivers without a log on the disk: from the intake into the one in memory, and on to the workers."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.letters.dead_letters import DeadLetterFile, LoggedDeadLetters, Notices
from eventrec.delivery.sources.memory import MemorySource
from eventrec.delivery.supervisor import Supervisor, flush_workers
from eventrec.delivery.worker.worker import Worker
from eventrec.intake.consumer import Consumer
from eventrec.runtime.starting import when_begun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from uuid import UUID

    from eventrec.delivery.subscription import NewDestination, Subscription
    from eventrec.intake.consumer import Counts
    from eventrec.intake.drops import Drops
    from eventrec.intake.queue import Intake
    from eventrec.options import EventRecorderOptions
    from eventrec.runtime.backend import Backend
    from eventrec.status import SubscriptionStatus

SLICE: Final = 200
"""Entries moved at once on the loop: its other tasks wait no longer than that."""

_LOOK_ANYWAY: Final = 5.0
"""Seconds after which it looks without having been woken."""


class MemorySupervisor(Supervisor):
    """The life of a recorder without a log, between `open` and the end of `close`.

    All methods but `wake` and the counts are for the loop's thread.
    """

    def __init__(
        self,
        intake: Intake,
        backend: Backend,
        options: EventRecorderOptions,
        *,
        log_id: UUID,
        static_context: bytes | None,
        subscriptions: Iterable[Subscription],
        drops: Drops,
        on_slice: Callable[[], object],
    ) -> None:
        resolved = options.resolve(has_log=False)
        super().__init__(intake, backend, drops, close_timeout=resolved.close_timeout)
        # Half of what may wait: the intake has the other half.
        self._source = MemorySource(
            log_id,
            max_events=None if resolved.queue_events is None else max(1, resolved.queue_events // 2),
            max_bytes=max(1, resolved.queue_bytes // 2),
            static_context=static_context,
        )
        self._source.on_room = self._room_was_made
        self._consumer = Consumer(intake, write_interval=resolved.write_interval)
        self._on_slice = on_slice
        self._moved = anyio.Event()
        path = options.dead_letters
        letters = LoggedDeadLetters(time.monotonic) if path is None else DeadLetterFile(path, Notices(time.monotonic))
        self.workers = {each.name: Worker(each, self._source, letters, on_drop=drops.note) for each in subscriptions}

    @property
    def counts(self) -> Counts:
        return self._consumer.counts

    # -- its life

    async def flush(self) -> bool:
        consumer = self._consumer
        taken = consumer.appended + len(self._intake)
        while consumer.appended < taken and len(self._intake):
            self._woken.set()
            moved = self._moved
            if not await self._flush_all():
                return False
            if consumer.appended < taken and len(self._intake):
                await moved.wait()
        return await self._flush_all()

    def status(self) -> dict[str, SubscriptionStatus]:
        return {name: worker.status() for name, worker in self.workers.items()}

    def resume(self, name: str, start: NewDestination | None = None) -> None:
        self.workers[name].resume(start)

    async def _deliver_until_closed(self) -> None:
        self._move_slice()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(when_begun(self._move_entries), name="eventrec intake")
            for worker in self.workers.values():
                tasks.start_soon(when_begun(worker.run), name=f"eventrec {worker.name}")
            if self.workers:
                tasks.start_soon(when_begun(self._note_silence), name="eventrec answers")
            await anyio.lowlevel.checkpoint()
            self.started.set()
            await self._closing.wait()
            with anyio.CancelScope(deadline=self._deadline):
                await self.flush()
            tasks.cancel_scope.cancel()

    async def _flush_all(self) -> bool:
        return await flush_workers(self.workers.values(), self._source.end)

    async def _close_workers(self) -> None:
        self._intake.close("closed")
        while self._move_slice():
            pass
        async with anyio.create_task_group() as tasks:
            for worker in self.workers.values():
                tasks.start_soon(when_begun(worker.close))

    async def _end(self) -> None:
        """What is left lives in memory alone: count it as lost, subscription by subscription."""
        self._count_rest_of_intake()
        for worker in self.workers.values():
            await worker.drop_rest("closed")

    async def _let_go(self) -> None:
        """No other process has what is here, and no worker delivers it: it is lost, whatever holds up the end."""
        await self._end()
        self._drops.tell()

    def end_stranded(self) -> None:
        """Count what is left as lost, as `_end` does."""
        # Tasks of the closed loop wait for these, and each can fail to be woken but once.
        for wake in (self._wake_here, self._source.tell, *(worker.tell for worker in self.workers.values())):
            with suppress(RuntimeError):
                wake()
        with suppress(StopIteration):  # In memory nothing is waited for.
            self._end().send(None)
        self._drops.tell()
        super().end_stranded()

    def _count_rest_of_intake(self) -> None:
        """Past the source's bound on purpose: it is only to be counted, by each subscription's own filter."""
        while entries := self._consumer.take(SLICE):
            self._source.append(entries)
            self._consumer.append_taken()

    # -- from the intake into the source

    async def _move_entries(self) -> None:
        while True:
            while self._move_slice():
                self._on_slice()
                await anyio.lowlevel.checkpoint()
            self._on_slice()
            self._drops.note_pushed_out(self._intake)
            self._woken = anyio.Event()
            if len(self._intake) and not self._source.room():
                await self._woken.wait()
                continue
            for seconds in self._consumer.pauses():
                with anyio.move_on_after(_LOOK_ANYWAY if seconds is None else seconds):
                    await self._woken.wait()

    def _move_slice(self) -> bool:
        """Move at most a slice; False where nothing was moved."""
        room = self._source.room()
        entries = self._consumer.take(min(room, SLICE)) if room else []
        if not entries:
            return False
        self._source.append(entries)
        self._consumer.append_taken()
        self._count_held()
        moved, self._moved = self._moved, anyio.Event()
        moved.set()
        return True

    def _room_was_made(self) -> None:
        self._count_held()
        if len(self._intake):
            self._woken.set()

    def _count_held(self) -> None:
        """What the source holds still counts against the intake's bound."""
        self._intake.held_events = len(self._source)
        self._intake.freed_bytes = self._source.freed_bytes
