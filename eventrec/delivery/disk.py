"""The bound on the log directory, and what goes when it is reached.

    1  what is delivered: retained logs, then segments that every subscription is past, retained or not yet deleted
    2  orphans that nobody can read, then orphans, the oldest first
    3  the oldest records of the subscriptions furthest behind, as long as another one is past them
    4  nothing: new events are refused until there is room

One process at a time judges, under a lock; each lets its own subscriptions forfeit, never another's.
"""

from __future__ import annotations

import shutil
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.errors import LogError, LogLockedError
from eventrec.log.storage import DiskStorage
from eventrec.log.verify import describe
from eventrec.runs.checkpoint import CheckpointFiles
from eventrec.runs.retention import Kept, forfeited
from eventrec.runs.run import CHECKPOINTS, DONE, Run, delete_done, list_runs, tree_size
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from uuid import UUID

    from eventrec.delivery.adoption import Adoption
    from eventrec.delivery.log_delivery import LogDelivery
    from eventrec.intake.writer import Writer
    from eventrec.runs.retention import Bound, Retain

LOCK: Final = "quota"

_LOOKS_EVERY: Final = 1.0
_LOOKS_SELDOM: Final = 10.0
_LOOKS_FOR: Final = 10
"""At most a tenth of the time is spent looking."""

_IS_OVER: Final = 0.25
"""The share of the bound that has to be free again, before a loss is a new one."""

_logger = get_logger("eventrec.delivery")


class DiskQuota:
    """Keeps `directory` within `bound`, and `done/` within `retain`. For the loop's thread.

    `own()` is the delivery of the log that is written; `by_all` lets it forfeit what nobody has delivered yet, instead
    of refusing new events. `on_drop(reason, count)` is told of records of earlier runs that went.
    """

    def __init__(
        self,
        directory: Path,
        bound: Bound,
        retain: Retain,
        *,
        writer: Writer,
        adoption: Adoption,
        own: Callable[[], LogDelivery | None],
        by_all: bool,
        on_drop: Callable[[str, int], None],
    ) -> None:
        self._directory = directory
        self._bound = bound
        self._retain = retain
        self._writer = writer
        self._adoption = adoption
        self._own = own
        self._by_all = by_all
        self._on_drop = on_drop
        self._look_seconds = 0.0
        self._is_over = False
        self._is_losing = False

    async def run(self) -> None:
        """Judge about once a second until cancelled; less often where there is so much that looking takes long."""
        while True:
            await self.enforce()
            await anyio.sleep(max(_LOOKS_EVERY, min(_LOOKS_SELDOM, self._look_seconds * _LOOKS_FOR)))

    async def enforce(self) -> None:
        """Look, and have go what must."""
        excess = await in_thread(self._excess)
        if excess > 0:
            with suppress(LogLockedError):
                excess = await self._under_lock(excess)
        if excess > 0 and not self._is_over:
            _logger.error("log directory full", directory=str(self._directory), excess_bytes=excess)
        if excess <= 0 and (self._is_over or (self._is_losing and excess < -self._bound.max_bytes * _IS_OVER)):
            _logger.info("log directory within its bound again", directory=str(self._directory))
            self._is_losing = False
        self._is_over = excess > 0
        self._writer.hold("the log directory has reached its bound" if self._is_over else None)

    def _excess(self) -> int:
        """In a thread."""
        started = time.monotonic()
        self._sweep_done()
        used = tree_size(self._directory)
        self._look_seconds = time.monotonic() - started
        try:
            disk = shutil.disk_usage(self._directory)
        except OSError:
            return 0
        return self._bound.excess(used=used, free=disk.free, capacity=disk.total)

    async def _under_lock(self, excess: int) -> int:
        storage = await in_thread(DiskStorage, self._directory)
        with closing(storage):
            with anyio.CancelScope(shield=True):
                lock = await in_thread(storage.lock, LOCK)
            try:
                # Another one may have judged meanwhile.
                excess = await in_thread(self._excess)
                return await self._make_room(excess)
            finally:
                lock.release()

    async def _make_room(self, excess: int) -> int:
        if excess > 0:
            excess -= await in_thread(self._delete_done, excess)
        if excess > 0:
            await self._trim()
            excess = await in_thread(self._excess)
        async with self._adoption.opening:
            for id_ in self._adoption.oldest() if excess > 0 else []:
                if excess > 0:
                    size, lost = await self._give_up(id_)
                    excess -= size
                    self._lost(lost, log=str(id_))
        own = self._own()
        if excess > 0 and own is not None:
            excess -= await self._forfeit(own, excess)
        return excess

    async def _give_up(self, id_: UUID) -> tuple[int, dict[str, int]]:
        """Bytes of an orphan that went, and its open records by subscription."""
        adopted = self._adoption.adopted.get(id_)
        if adopted is not None:
            size = await in_thread(adopted.run_of.size)
            return size, await self._adoption.give_up(id_)
        size, lost = await in_thread(self._delete_orphan, id_)
        for count in lost.values():
            self._on_drop("retention", count)
        return size, lost

    async def _trim(self) -> None:
        for delivery in [*self._adoption.adopted.values(), self._own()]:
            if delivery is not None:
                await delivery.trim()

    async def _forfeit(self, own: LogDelivery, excess: int) -> int:
        segments = await in_thread(own.sealed)
        scanned = [worker.progress.scanned for worker in own.workers.values()]
        end = forfeited(segments, scanned, excess, by_all=self._by_all)
        if end is None:
            return 0
        self._lost(own.forfeit(end), log=str(own.run_of.id))
        await own.forfeited(end)
        return sum(segment.size for segment in segments if segment.end <= end)

    def _lost(self, lost: Mapping[str, int], **where: str) -> None:
        """Say it once an outage."""
        if lost and not self._is_losing:
            self._is_losing = True
            _logger.warning("records forfeited to the disk bound", records=dict(lost), **where)

    # -- in a thread

    def _sweep_done(self) -> None:
        kept = self._done()
        for id_, _ in kept[: self._retain.outlived([each for _, each in kept])]:
            self._delete(id_)

    def _delete_done(self, excess: int) -> int:
        freed = 0
        for id_, each in self._done():
            if freed >= excess:
                break
            self._delete(id_)
            freed += each.size
        return freed

    def _done(self) -> list[tuple[UUID, Kept]]:
        done = self._directory / DONE
        found = []
        for id_ in list_runs(done):
            with suppress(OSError), closing(DiskStorage(done / str(id_))) as storage:
                ages = [storage.size(name).age for name in storage.list()]
                found.append((id_, Kept(tree_size(done / str(id_)), min(ages, default=0.0))))
        return found

    def _delete(self, id_: UUID) -> None:
        try:
            delete_done(self._directory / DONE, id_)
        except OSError as exc:
            _logger.warning("retained log not deleted", log=str(id_), error=str(exc))

    def _delete_orphan(self, id_: UUID) -> tuple[int, dict[str, int]]:
        """Bytes and open records that went; nothing where somebody holds it."""
        run = Run.adopt(self._directory, id_)
        if run is None:
            return 0, {}
        size, lost = run.size(), _open_records(run)
        try:
            run.retire()
        except OSError as exc:
            _logger.warning("orphan not deleted", log=str(id_), error=str(exc))
            return 0, {}
        return size, lost


def _open_records(run: Run) -> dict[str, int]:
    """By subscription; under "?" where nobody knows how many there were for whom."""
    try:
        found = describe(run.storage)
    except (OSError, LogError):
        return {"?": 1}
    end = found.end if found is not None else 0
    saved = CheckpointFiles(run.path / CHECKPOINTS).load()
    lost = {name: end - each.progress.scanned for name, each in saved.items() if end > each.progress.scanned}
    return lost if saved else {"?": end}
