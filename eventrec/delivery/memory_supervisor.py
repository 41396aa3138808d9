"""Runs the workers of one recorder, moves what was taken into the source, and ends it all within a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.supervisor import LAST_SECOND, Supervisor, flush_workers
from eventrec.delivery.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventrec.delivery.letters.dead_letters import DeadLetters
    from eventrec.delivery.sources.memory import MemorySource
    from eventrec.delivery.subscription import NewDestination, Subscription
    from eventrec.intake.queue import Intake
    from eventrec.records.entry import Entry
    from eventrec.runtime.backend import Backend
    from eventrec.status import SubscriptionStatus

SLICE: Final = 200
"""Entries moved at once on the loop: its other tasks wait no longer than that."""


class MemorySupervisor(Supervisor):
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
        super().__init__(intake, backend, close_timeout=close_timeout)
        self.workers: dict[str, Worker] = {}
        self._appended = 0
        self._moves = 0
        self._source = source
        self._write_interval = write_interval
        self._on_slice = on_slice
        self._moved = anyio.Event()
        source.on_room = self._room_was_made

    def subscribe(self, subscription: Subscription, letters: DeadLetters, on_drop: Callable[[str, int], None]) -> None:
        """Add a worker; before `run`."""
        self.workers[subscription.name] = Worker(subscription, self._source, letters, on_drop=on_drop)

    @property
    def appended(self) -> int:
        return self._appended

    @property
    def in_intake(self) -> int:
        return len(self._intake)

    @property
    def moves(self) -> int:
        return self._moves

    # -- its life

    async def flush(self) -> bool:
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
        return {name: worker.status() for name, worker in self.workers.items()}

    def resume(self, name: str, start: NewDestination | None = None) -> None:
        self.workers[name].resume(start)

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
        return await flush_workers(self.workers.values(), self._source.end)

    async def _end(self) -> None:
        self._intake.close("closed")
        while self._move_slice():
            pass
        with anyio.move_on_after(max(LAST_SECOND, self._close_timeout)):
            async with anyio.create_task_group() as tasks:
                for worker in self.workers.values():
                    tasks.start_soon(worker.close)
        await self._drop_rest()

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
            self._appended += len(entries)
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
            self._moves += 1
            entries = self._intake.take(min(room, SLICE))
            self._appended += len(entries)
            self._source.append(entries)
            self._count_held()
            self._moves += 1
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
