"""The bound on the log directory, and what goes when it is reached.

    1  what is delivered: retained logs, then segments that every subscription is past, retained or not yet deleted
    2  orphans that cannot be read, then orphans, the oldest first
    3  the oldest records of the subscriptions, or mirrors, furthest behind, as long as another one is past them
    4  nothing: new events are refused until there is room

Of a disk that refuses though it tells of room, since it lacks files or a quota binds, 1 goes too, and nothing else.

One process at a time judges, under a lock; each lets the subscriptions of its own log forfeit, never another log's.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import asynccontextmanager, closing, suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.forfeiting import delete_forfeited, forfeit, needed_from, renew, sealed, trim
from eventrec.delivery.orphans.queue import Failures
from eventrec.errors import LogError, LogFullError, LogLockedError
from eventrec.log.head import SPARED
from eventrec.runs.directory import DONE, list_runs
from eventrec.runs.done import delete_done
from eventrec.runs.measure import LOOKS_EVERY, LOOKS_SELDOM, SharedMeasure
from eventrec.runs.retention import BoundChange, Kept, Overrun, forfeited, to_free
from eventrec.runs.run import Run
from eventrec.runs.survey import see_opened
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from uuid import UUID

    from eventrec.delivery.log_delivery import LogDelivery
    from eventrec.delivery.orphans.adoption import Adoption
    from eventrec.intake.writer import Writer
    from eventrec.log.storage import Lock
    from eventrec.runs.directory import LogDirectory
    from eventrec.runs.measure import Measured
    from eventrec.runs.retention import Bound, Retain

_IDLE: Final = 5
"""So many times as long it rests where nothing is appended, and the bound is far; ten seconds at most."""

_logger = get_logger("eventrec.delivery")


class DiskQuota:
    """Keeps `directory` within `bound`, and `done/` within `retain`. For the loop's thread.

    `own()` is the delivery of the log that is written; `by_all` lets it forfeit what no subscription has yet, instead
    of refusing new events. `on_drop(reason, count)` is told of records of earlier runs that went.
    `next_change()` is set when the writer has appended more, or something else changed.
    """

    def __init__(
        self,
        directory: LogDirectory,
        bound: Bound,
        retain: Retain,
        *,
        writer: Writer,
        adoption: Adoption,
        own: Callable[[], LogDelivery | None],
        by_all: bool,
        on_drop: Callable[[str, int], None],
        next_change: Callable[[], anyio.Event],
    ) -> None:
        self._directory = directory
        self._bound = bound
        self._retain = retain
        self._writer = writer
        self._adoption = adoption
        self._own = own
        self._by_all = by_all
        self._on_drop = on_drop
        self._next_change = next_change
        self._measure = SharedMeasure(directory)
        self._pause = LOOKS_EVERY
        self._is_far = False
        """Whether the bound was far when it was judged last."""
        self._overrun = Overrun(bound)
        self._is_unlockable = False
        self._failures = Failures(LOOKS_EVERY, LOOKS_SELDOM)
        self.forfeited: Counter[str] = Counter()
        """Records lost to the bound, by subscription: of logs that earlier runs left; of our own, those of others."""
        self._forfeited_at: float | None = None
        self._staying: set[UUID] = set()
        """Retained logs that could not be deleted."""

    async def run(self) -> None:
        """Judge about once a second until cancelled; less often where there is so much that looking takes long.

        Where nothing is appended and the bound is far, every five seconds; what is appended then is judged at once.
        """
        while True:
            appended = self._writer.consumer.appended
            try:
                await self.enforce()
            except Exception as exc:  # noqa: BLE001 - descriptors ran out, the disk fails: none of it ends delivery
                if self._failures.note_failed():
                    _logger.warning("log directory not judged", directory=str(self._directory), error=described(exc))
                await anyio.sleep(self._failures.pause)
            else:
                self._failures.note_passed()
                await self._rest(appended)

    async def _rest(self, appended: int) -> None:
        """Until it is time to judge again, where so many records were `appended` when that began last."""
        pause = self._pause * random.uniform(0.9, 1.1)  # noqa: S311 - so that siblings spread out
        await anyio.sleep(pause)
        if self._is_far:
            with anyio.move_on_after(min(_IDLE * pause, LOOKS_SELDOM) - pause):
                while self._writer.consumer.appended == appended and self._writer.failure is None:
                    await self._next_change().wait()

    async def enforce(self) -> None:
        """Look, and have go what must."""
        self._is_far = False
        is_full, own = isinstance(self._writer.failure, LogFullError), self._own()
        if is_full and own is not None and await renew(own):
            self._writer.wake()  # It may go on at once.
        elif is_full and not self._writer.is_held:
            # It may lack files, or a quota may bind it: the bytes that are free do not tell.
            await self.give_up_delivered()
            self._writer.wake()
        excess = await in_thread(self._last_excess)
        if excess is None or excess > 0:
            try:
                async with self._locked():
                    excess = await in_thread(self._excess)
                    excess = await self._make_room(excess)
                # Where there are no others, the next look is not to rely on what was just left for them.
                await self.leave()
            except LogLockedError:
                # Another process judges: what it sees, the next look does.
                if excess is None:
                    return
        match self._overrun.note(excess):
            case BoundChange.FULL:
                _logger.error("log directory full", directory=str(self._directory), excess_bytes=excess)
            case BoundChange.WITHIN:
                _logger.info("log directory within its bound again", directory=str(self._directory))
        self._writer.hold("the log directory has reached its bound" if self._overrun.is_over else None)

    async def give_up_delivered(self) -> bool:
        """The disk refuses what is written, whatever it says of its room: delete some of what is delivered.

        The oldest retained logs, for as much as waits to be written; False: none went, so what every subscription is
        past does, of the logs that are delivered here. Processes that are refused at the same time each delete some.
        """
        log = self._writer.log
        with suppress(OSError):  # What cannot be listed now may be when the disk refuses the next time.
            if await in_thread(self._delete_done, 2 * SPARED + (0 if log is None else log.unsynced_bytes)):
                return True
        await self._trim()
        return False

    async def leave(self) -> None:
        """At the end of the recorder, and where it measured for others: leave nothing, if there are none."""
        with suppress(OSError):
            await in_thread(self._measure.is_alone)

    def _last_excess(self) -> int | None:
        """In a thread. By what any process measured just now; None where it is time to measure."""
        if (measured := self._measure.last()) is not None:
            return self._excess_of(measured)
        return self._excess() if self._measure.is_alone() else None

    def _excess(self) -> int:
        """In a thread; under the lock, where there are others."""
        self._sweep_done()
        return self._excess_of(self._measure.measure())

    def _excess_of(self, measured: Measured) -> int:
        self._pause = measured.lasts
        free, capacity = self._directory.opened().space()
        is_far = self._bound.is_far(used=measured.used, free=free, capacity=capacity)
        self._is_far = is_far and self._writer.failure is None
        return self._bound.excess(used=measured.used, free=free, capacity=capacity)

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Under the lock of the directory's judge; without it where the disk gives none, which is said once.

        Raises:
            LogLockedError: Another process judges.
        """
        with anyio.CancelScope(shield=True):
            lock = await in_thread(self._lock)
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    def _lock(self) -> Lock | None:
        try:
            return self._measure.lock()
        except OSError as exc:
            if not self._is_unlockable:
                _logger.warning("log directory judged without a lock", directory=str(self._directory), error=str(exc))
            self._is_unlockable = True
            return None

    async def _make_room(self, excess: int) -> int:
        if excess > 0:
            excess -= await in_thread(self._delete_done, excess)
        if excess > 0:
            await self._trim()
            excess = await in_thread(self._excess)
        async with self._adoption.opening:
            if excess > 0 and await self._adoption.groups_ended():
                excess = await in_thread(self._excess)
            for id_ in await self._oldest() if excess > 0 else []:
                if excess > 0:
                    size, lost = await self._give_up(id_)
                    excess -= size
                    self._count(lost)
                    self._lost(lost, log=str(id_))
        own = self._own()
        if excess > 0 and own is not None:
            excess -= await self._forfeit(own, excess)
        return excess

    def _count(self, lost: Mapping[str, int]) -> None:
        self.forfeited.update(lost)
        if lost:
            self._forfeited_at = monotonic()

    @property
    def since_forfeit(self) -> float | None:
        """Seconds since it counted some of these last; None: never."""
        return None if self._forfeited_at is None else max(0.0, monotonic() - self._forfeited_at)

    async def _oldest(self) -> list[UUID]:
        """The logs of earlier runs, in the order in which they go; those that processes hold may be among them."""
        if (own := self._own()) is not None and not own.workers:
            # Nothing is adopted here, so none is known.
            return await in_thread(self._directory.runs)
        return self._adoption.oldest()

    async def _give_up(self, id_: UUID) -> tuple[int, dict[str, int]]:
        """Bytes of an orphan that went, and its open records by subscription."""
        adopted = self._adoption.adopted.get(id_)
        if adopted is not None:
            size, ours = await in_thread(adopted.run_of.size), adopted.workers.keys()
            lost = await self._adoption.give_up(id_)
            self._on_drop("retention", sum(count for name, count in lost.items() if name not in ours))
            return size, lost
        size, lost = await in_thread(self._delete_orphan, id_)
        for count in lost.values():
            self._on_drop("retention", count)
        return size, lost

    async def _trim(self) -> None:
        for delivery in [*self._adoption.adopted.values(), self._own()]:
            if delivery is not None:
                await trim(delivery)

    async def _forfeit(self, own: LogDelivery, excess: int) -> int:
        segments = await in_thread(sealed, own)
        end = forfeited(segments, await needed_from(own), excess, by_all=self._by_all)
        if end is None:
            return 0
        of_mirrors = await in_thread(own.needs.forfeit_of_mirrors, end)
        lost = forfeit(own, end)
        # What our subscriptions lose, their workers count.
        self._count({name: count for name, count in lost.items() if name not in own.workers})
        self._on_drop("retention", sum(count for name, count in lost.items() if name not in own.workers))
        self._lost(lost, of_mirrors, log=str(own.run_of.id))
        await delete_forfeited(own, end)
        return sum(segment.size for segment in segments if segment.end <= end)

    def _lost(self, lost: Mapping[str, int], of_mirrors: Mapping[str, int] | None = None, **where: str) -> None:
        """Say it, once an outage."""
        if (lost or of_mirrors) and self._overrun.note_lost():
            who = {"records": dict(lost), "mirrors": dict(of_mirrors or {})}
            said = {name: counts for name, counts in who.items() if counts}
            _logger.warning("records forfeited to the disk bound", **said, **where)

    # -- in a thread

    def _sweep_done(self) -> None:
        kept = self._done()
        for id_, _ in kept[: self._retain.outlived([each for _, each in kept])]:
            self._delete(id_)

    def _delete_done(self, excess: int) -> int:
        """How many bytes went; 0: there is nothing that can be deleted."""
        # One that stays is not tried in the place of another.
        kept = sorted(self._done(), key=lambda each: each[0] in self._staying)
        going = kept[: to_free([each for _, each in kept], excess)]
        return sum(each.size for id_, each in going if self._delete(id_))

    def _done(self) -> list[tuple[UUID, Kept]]:
        """What is retained; nothing where that is another user's, who sweeps it: the bound is kept all the same."""
        found = []
        try:
            ids = list_runs(done := self._directory / DONE)
        except PermissionError:
            return []
        for id_ in ids:
            with suppress(OSError), closing(done.opened().folder(str(id_))) as storage:
                sizes = [storage.size(name) for name in storage.list()]
                kept = Kept(sum(each.length for each in sizes), min((each.age for each in sizes), default=0.0))
                found.append((id_, kept))
        return found

    def _delete(self, id_: UUID) -> bool:
        is_deleted = False
        try:
            is_deleted = delete_done(self._directory / DONE, id_)
        except OSError as exc:
            if id_ not in self._staying:
                _logger.warning("retained log not deleted", log=str(id_), error=str(exc))
        if is_deleted:
            self._staying.discard(id_)
        else:
            self._staying.add(id_)
        return is_deleted

    def _delete_orphan(self, id_: UUID) -> tuple[int, dict[str, int]]:
        """Bytes and open records that went; nothing where another process holds it."""
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
    """By subscription; under "?" where it is not known how many there were for which."""
    try:
        seen = see_opened(run.storage, run.id, run.path)
    except (OSError, LogError):
        return {"?": 1}
    return seen.open_records() if seen is not None else {}
