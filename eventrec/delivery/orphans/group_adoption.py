"""Small orphans adopted, delivered and deleted by the group, where more wait than are adopted singly."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import anyio

from eventrec.delivery.orphans.queue import FIRST_PAUSE, LONGEST_PAUSE, Failures
from eventrec.delivery.orphans.small_orphans import SmallOrphan, end_group
from eventrec.records.content import ContentDecoder
from eventrec.runs.followers import Followers
from eventrec.runs.requests import asked_since, load_requests
from eventrec.runs.run import Run
from eventrec.runs.small_log import read_small_log
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from uuid import UUID

    from anyio.abc import TaskGroup

    from eventrec.delivery.letters.log import LetterLog
    from eventrec.delivery.orphans.locks import OrphanLocks
    from eventrec.delivery.orphans.queue import OrphanQueue
    from eventrec.delivery.orphans.small_orphans import SmallOrphans
    from eventrec.runs.directory import LogDirectory
    from eventrec.runs.requests import OperatorRequest

GROUP: Final = 32
"""Orphans in a group; each costs two descriptors."""

_GROUPS: Final = 2
"""One is read or deleted by a thread while the loop delivers the other."""

_STUCK_SECONDS: Final = 2.0
"""A group takes a fraction of it. Where a handler hangs, orphans are adopted singly: other handlers get them."""

_logger = get_logger("eventrec.delivery")

_Refused: TypeAlias = Literal["held", "gone", "single"]


class GroupAdoption:
    """Takes orphans of `queue` by the group. `on_ended` is called when one is through. For the loop's thread."""

    def __init__(
        self,
        directory: LogDirectory,
        *,
        small: SmallOrphans,
        letters: LetterLog,
        queue: OrphanQueue,
        locks: OrphanLocks,
        opening: anyio.Lock,
        own_id: Callable[[], UUID],
        on_ended: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._small = small
        self._letters = letters
        self._queue = queue
        self._locks = locks
        self._opening = opening
        self._own_id = own_id
        self._on_ended = on_ended
        self._began: dict[int, float] = {}
        """When each group in flight began."""
        self._locked = 0
        """Groups in flight whose locks are taken."""
        self._ended = anyio.Event()
        self._delivering: set[UUID] = set()
        """Those that handlers have."""
        self._failures = Failures(FIRST_PAUSE, LONGEST_PAUSE)
        self._not_before = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether there is a group in flight."""
        return bool(self._began)

    @property
    def is_at_work(self) -> bool:
        """Whether orphans that nothing is known of are left to groups."""
        now = anyio.current_time()
        is_stuck = any(now - began > _STUCK_SECONDS for began in self._began.values())
        return self._small.may_begin and now >= self._not_before and not is_stuck

    async def none_locked(self) -> bool:
        """Return once no group holds locks, or after a while. While the caller holds `opening`, none takes any.

        Whether there was one.
        """
        if not self._locked:
            return False
        with anyio.move_on_after(_STUCK_SECONDS):
            while self._locked:
                await self._ended.wait()
        return True

    def begin(self, tasks: TaskGroup, *, spare: int) -> None:
        """Begin as many groups as may be, where more than `spare` orphans wait."""
        while self.is_at_work and len(self._began) < _GROUPS and self._queue.waiting > spare:
            ids = self._queue.next_group(GROUP, own=self._own_id())
            if not ids:
                return
            for id_ in ids:
                self._queue.note_adopted(id_)
            number = max(self._began, default=0) + 1
            self._began[number] = anyio.current_time()
            tasks.start_soon(self._run, number, ids, name="eventrec small orphans")

    async def _run(self, number: int, ids: list[UUID]) -> None:
        try:
            await self._deliver(ids)
        finally:
            del self._began[number]
            self._on_ended()

    async def _deliver(self, ids: list[UUID]) -> None:
        try:
            async with self._opening:
                # A lock is ours once it is taken, also where this task is cancelled meanwhile.
                with anyio.CancelScope(shield=True):
                    orphans, refused = await in_thread(self._open, ids)
                self._locked += 1
        except Exception as exc:  # noqa: BLE001 - descriptors ran out, the disk fails: none of it ends delivery
            self._pause(exc)
            self._queue.note_single(ids)
            return
        except BaseException:
            # A shield does not stop asyncio's own `task.cancel()`: the thread has gone to its end, and has the locks.
            self._locks.release(ids)
            self._queue.note_single(ids)
            raise
        delivering = {each.log.run.id for each in orphans}
        self._delivering |= delivering
        try:
            self._note_refused(refused)
            await self._small.deliver(orphans)
        finally:
            self._delivering -= delivering
            with anyio.CancelScope(shield=True):
                await self._end(orphans)
            self._locked -= 1
            ended, self._ended = self._ended, anyio.Event()
            ended.set()

    async def let_go(self) -> None:
        """At the end: give back what a handler does not let go of. What a thread has in hand it gives back itself."""
        await in_thread(self._locks.release, list(self._delivering))

    async def _end(self, orphans: Sequence[SmallOrphan]) -> None:
        ids = [each.log.run.id for each in orphans]
        try:
            ended = await in_thread(end_group, orphans)
        except Exception as exc:  # noqa: BLE001 - likewise
            await in_thread(self._locks.release, ids)
            self._pause(exc)
            self._queue.note_single(ids)
            return
        self._locks.hand_on(ids)
        for id_ in ended.gone:
            self._queue.note_gone(id_)
        for id_ in ended.grown:
            _logger.error("log grew though it is locked", log=str(id_))
            self._queue.distrust(id_)
        for id_, why in ended.refused.items():
            if self._queue.note_paused(id_, anyio.current_time()):
                _logger.warning("log not deleted", log=str(id_), error=str(why))
        self._queue.note_single(ended.again)
        if ended.again or ended.refused:
            self._not_before = anyio.current_time() + FIRST_PAUSE
        else:
            self._failures.note_passed()

    def _pause(self, exc: Exception) -> None:
        if self._failures.note_failed():
            _logger.warning("orphans not looked after", directory=str(self._directory), error=described(exc))
        self._not_before = anyio.current_time() + self._failures.pause

    def _note_refused(self, refused: dict[UUID, _Refused]) -> None:
        for id_, why in refused.items():
            if why == "held":
                self._queue.note_held(id_)
            elif why == "gone":
                self._queue.note_gone(id_)
            else:
                self._queue.note_single([id_])

    # -- in a thread

    def _open(self, ids: list[UUID]) -> tuple[list[SmallOrphan], dict[UUID, _Refused]]:
        """Those of `ids` that are small, locked, and why not the others."""
        orphans: list[SmallOrphan] = []
        refused: dict[UUID, _Refused] = {}
        found = self._locks.take(ids)
        try:
            self._letters.learn()
            requests = load_requests(self._directory, since=0.0)
            decoder = ContentDecoder()
            followers = Followers(self._directory).names()
            for id_, run in found:
                if not isinstance(run, Run):
                    refused[id_] = run
                elif (orphan := self._planned(run, decoder, requests, followers)) is not None:
                    orphans.append(orphan)
                else:
                    refused[id_] = "single"
                    self._locks.release([id_])
        except BaseException:
            self._locks.release(ids)
            raise
        return orphans, refused

    def _planned(
        self, run: Run, decoder: ContentDecoder, requests: list[OperatorRequest], followers: Collection[str]
    ) -> SmallOrphan | None:
        try:
            log = read_small_log(run, decoder)
        except OSError:
            return None
        if log is None or any(asked_since(requests, log.checkpoints, now=time())):
            return None
        return self._small.plan(log, followers=followers)
