"""Logs that earlier runs left: found, locked, delivered a few at a time, and given back where others can do more.

`queue.py` decides which one is next, and `outcomes.py` what follows for one that ended; here it is done.
"""

from __future__ import annotations

import random
from contextlib import suppress
from time import time
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.directory_look import DirectoryLook
from eventrec.delivery.forfeiting import forfeit_all
from eventrec.delivery.orphans.group_adoption import GROUP, GroupAdoption
from eventrec.delivery.orphans.locks import OrphanLocks
from eventrec.delivery.orphans.opening import OrphanOpener
from eventrec.delivery.orphans.outcomes import OrphanOutcomes
from eventrec.delivery.orphans.queue import FIRST_PAUSE, LONGEST_PAUSE, Changes, Failures, OrphanQueue
from eventrec.runs.leftovers import sweep
from eventrec.runs.requests import asked_since, sweep_requests
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from contextlib import AbstractContextManager
    from uuid import UUID

    from anyio.abc import TaskGroup

    from eventrec.delivery.letters.log import LetterLog
    from eventrec.delivery.log_delivery import LogDelivery
    from eventrec.delivery.log_layouts import LogLayouts
    from eventrec.delivery.orphans.opened_orphan import OpenedOrphan
    from eventrec.delivery.orphans.small_orphans import SmallOrphans
    from eventrec.runs.directory import LogDirectory
    from eventrec.runs.requests import OperatorRequest
    from eventrec.runs.run import Run

MAX_ADOPTED: Final = 8
"""Orphans delivered at once; each costs a few descriptors."""

SCAN_SECONDS: Final = 2.0

_POLL_SECONDS: Final = 0.02

_GIVE_UP_SECONDS: Final = 10.0

_logger = get_logger("eventrec.delivery")


class Adoption:
    """Adopts orphans in `directory`, and has `deliver(run, opened)` make what delivers one.

    `is_failing(name)` tells of a subscription whether its destination is down. `locking` is held while locks are taken:
    a process that forks waits for it, so that the child knows which ones it inherits. `own_id()` is the log that is
    written here. `latest` are the subscriptions of ours that begin with what comes, if they are new. `on_requests` is
    called after each look, with what operators ask where that may have changed.
    """

    def __init__(
        self,
        directory: LogDirectory,
        *,
        deliver: Callable[[Run, OpenedOrphan], LogDelivery],
        small: SmallOrphans,
        letters: LetterLog,
        layouts: LogLayouts,
        is_failing: Callable[[str], bool],
        locking: AbstractContextManager[object],
        own_id: Callable[[], UUID],
        latest: Collection[str],
        on_requests: Callable[[Collection[OperatorRequest]], None],
    ) -> None:
        self.adopted: dict[UUID, LogDelivery] = {}
        self.queue = OrphanQueue()
        self.opening = anyio.Lock()
        """Held while orphans are locked and not yet among the adopted ones, or in a group."""
        self._locks = OrphanLocks(directory, locking)
        """Of orphans whose lock is ours, and that are not delivered yet."""
        self._groups = GroupAdoption(
            directory,
            small=small,
            letters=letters,
            queue=self.queue,
            locks=self._locks,
            opening=self.opening,
            own_id=own_id,
            on_ended=self._note_freed,
        )
        self._directory = directory
        self._look_around = DirectoryLook(directory, self._locks)
        self._on_requests = on_requests
        self._changed = 0.0
        """When a name in the directory was made or went, as of the last look around."""
        self._looks = 0
        self._changes = Changes()
        self._deliver = deliver
        self.resumed: dict[str, OperatorRequest] = {}
        """What this process was asked last, by subscription: it is meant for logs that are adopted later too."""
        self._letters = letters
        self._layouts = layouts
        self._is_failing = is_failing
        self._own_id = own_id
        self._opener = OrphanOpener(directory, self._locks, letters=letters, latest=latest)
        self._outcomes = OrphanOutcomes(self.queue)
        self._parking: dict[UUID, frozenset[str]] = {}
        """Those that are being given back, and the subscriptions they wait for."""
        self._scopes: dict[UUID, anyio.CancelScope] = {}
        self._freed = anyio.Event()
        self._has_looked = False
        self._failures = Failures(FIRST_PAUSE, LONGEST_PAUSE)

    async def wait_settled(self) -> None:
        """Return once all that is there was delivered, or waits: for others, for an operator, for what is down."""
        while self._may_settle_more():  # noqa: ASYNC110 - what it waits for happens in many places
            await anyio.sleep(_POLL_SECONDS)

    def _may_settle_more(self) -> bool:
        is_all_known = self._has_looked and not self._groups.is_busy and not self._next(1)
        return not is_all_known or not all(each.is_stuck for each in self.adopted.values())

    async def run(self) -> None:
        """Adopt and deliver until cancelled; may be called again. What is refused is tried again, after pauses."""
        async with anyio.create_task_group() as tasks:
            for delivery in self.adopted.values():
                tasks.start_soon(self._deliver_orphan, delivery)
            self._changes = Changes()
            while not self._looks:
                await self._freed.wait()
            while True:
                looks, stamp = self._looks, self._changed
                try:
                    has_work = self._groups.is_at_work and self.queue.waiting > 2 * GROUP
                    if self._changes.are_due(stamp, now=anyio.current_time(), has_work=has_work):
                        began = time()
                        found, known = await in_thread(self._look)
                        self.queue.look(found, known)
                        self._outcomes.keep(known)
                        self._changes.note_looked(stamp, at=began, now=anyio.current_time())
                    await self._let_go_of_what_grew()
                    self._let_go_of_later()
                    await self._fill_slots(tasks)
                    self._make_room()
                except Exception as exc:  # noqa: BLE001 - descriptors ran out, the disk fails: none of it ends delivery
                    self._has_looked = True
                    await self._failed(exc)
                else:
                    self._has_looked = True
                    self._failures.note_passed()
                    await self._rest(tasks, looks)

    async def _failed(self, exc: Exception) -> None:
        if self._failures.note_failed():
            _logger.warning("orphans not looked after", directory=str(self._directory), error=described(exc))
        await anyio.sleep(self._failures.pause)

    async def _rest(self, tasks: TaskGroup, looks: int) -> None:
        """Until the look around that follows the first `looks`; a slot that comes free meanwhile is filled at once."""
        while self._looks == looks:
            await self._freed.wait()
            try:
                await self._fill_slots(tasks)
            except Exception as exc:  # noqa: BLE001 - see `run`
                await self._failed(exc)

    async def watch(self) -> None:
        """Look around until cancelled, also while what `run` does is refused. May be called again."""
        while True:
            self.queue.begin_round(random.sample)
            seen = await in_thread(self._look_around.look, self.queue.asked)
            self.queue.note_still_held(seen.held)
            self._changed = seen.changed
            self._looks += 1
            if self._has_work():
                self._note_freed()
            self._on_requests(seen.requests)
            await anyio.sleep(SCAN_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - so that siblings spread out

    def _has_work(self) -> bool:
        """Whether there is anything to do after a look around: among many idle siblings there is not."""
        is_changed = self._changes.are_due(self._changed, now=anyio.current_time())
        return is_changed or self._groups.is_busy or bool(self.adopted or self._next(1))

    def _look(self) -> tuple[list[UUID], set[UUID]]:
        """In a thread. What is there, oldest first, and the same as a set."""
        sweep(self._directory)
        sweep_requests(self._directory)
        self._letters.learn()
        ids = self._directory.ids()
        self._layouts.learn()
        return ids, set(ids)

    def _next(self, limit: int, *, only_single: bool = False) -> list[UUID]:
        return self.queue.next(
            limit,
            own=self._own_id(),
            now=anyio.current_time(),
            is_failing=self._is_failing,
            only_single=only_single,
        )

    def _next_single(self, limit: int) -> list[UUID]:
        """Likewise, without those that are left to groups."""
        is_for_groups = self._groups.is_at_work and (self._groups.is_busy or self.queue.waiting > MAX_ADOPTED)
        return self._next(limit, only_single=is_for_groups)

    def _make_room(self) -> None:
        """Give back one that waits for a destination which is down, where another one need not wait."""
        is_full = len(self.adopted) >= MAX_ADOPTED
        stuck = {
            id_: delivery.waiting
            for id_, delivery in (self.adopted.items() if is_full else ())
            if delivery.is_stuck and id_ in self._scopes
        }
        id_ = self.queue.to_park(stuck, is_full=is_full, has_others=bool(self._next_single(1)))
        if id_ is not None:
            self._parking[id_] = stuck[id_]
            self._scopes[id_].cancel()

    # -- adopting

    async def _fill_slots(self, tasks: TaskGroup) -> None:
        self._groups.begin(tasks, spare=MAX_ADOPTED)
        while (room := MAX_ADOPTED - len(self.adopted)) > 0 and (chosen := self._next_single(room)):
            # A lock is ours once it is taken, also where this task is cancelled meanwhile.
            async with self.opening:
                with anyio.CancelScope(shield=True):
                    tried, requests = await in_thread(self._opener.open, chosen)
                    for id_, found in tried:
                        if isinstance(found, tuple):
                            self._outcomes.note_adopted(id_)
                            self.adopted[id_] = self._deliver(*found)
                            self.apply(requests, self.adopted[id_], found[1])
                        else:
                            self._outcomes.note_refused(id_, found, now=anyio.current_time())
                    self._locks.hand_on(id_ for id_, _ in tried)
            for id_, found in tried:
                if isinstance(found, tuple):
                    tasks.start_soon(self._deliver_orphan, self.adopted[id_])

    @property
    def left(self) -> dict[UUID, str]:
        """Orphans that wait for an operator, and why."""
        return self._outcomes.left

    @property
    def untrusted(self) -> set[UUID]:
        """Logs that grew though we held their locks: another process writes them, and locks mean nothing here."""
        return self.queue.untrusted

    def leave_to(self, is_followed: Callable[[UUID], bool]) -> None:
        """Adopt none of which `is_followed` says, from any thread, that it is delivered here in another way."""
        self._locks.is_followed = is_followed

    def finds_free(self) -> bool:
        """Blocking. Whether there is a log that no process holds.

        Raises:
            OSError: The directory cannot be read.
        """
        ids = self._directory.ids()
        return len(self._locks.still_held(ids)) < len(ids)

    def held(self) -> set[UUID]:
        """Those whose locks are ours. From any thread."""
        return {*self._locks.ids(), *list(self.adopted)}

    def note_free(self, ids: Iterable[UUID]) -> None:
        """Other processes hold `ids` no more."""
        self.queue.note_free(ids)
        self._note_freed()

    def apply(self, requests: Iterable[OperatorRequest], delivery: LogDelivery, opened: OpenedOrphan) -> None:
        """What was asked while no process delivered this log is meant for it too."""
        for request in asked_since([*requests, *self.resumed.values()], opened.saved.checkpoints, now=time()):
            delivery.apply(request)

    async def _deliver_orphan(self, delivery: LogDelivery) -> None:
        id_ = delivery.run_of.id
        is_first, is_defect = not self.queue.has_paused(id_), False
        with anyio.CancelScope() as scope:
            self._scopes[id_] = scope
            try:
                # What could not be saved before is not sent again until it can be.
                if is_first or await delivery.can_save():
                    await self._deliver_and_stamp(delivery, is_first=is_first)
            except Exception as exc:
                is_defect = True
                if is_first:
                    _logger.exception("delivery of an orphan failed", log=str(id_), error=described(exc))
        del self._scopes[id_]
        with anyio.CancelScope(shield=True):
            try:
                await delivery.end(is_first=is_first)
                parked_for, now = self._parking.pop(id_, None), anyio.current_time()
                self._outcomes.note_ended(id_, delivery, parked_for=parked_for, is_defect=is_defect, now=now)
            finally:
                self.adopted.pop(id_, None)
                self._note_freed()

    def _note_freed(self) -> None:
        freed, self._freed = self._freed, anyio.Event()
        freed.set()

    @staticmethod
    async def _deliver_and_stamp(delivery: LogDelivery, *, is_first: bool) -> None:
        await delivery.run(until_settled=True)
        await delivery.stamp(is_first=is_first)
        while not delivery.is_settled:
            # Asked where it is, a destination said that it lost some.
            await delivery.run(until_settled=True)
            await delivery.stamp()

    async def _let_go_of_what_grew(self) -> None:
        for id_, delivery in list(self.adopted.items()):
            if id_ in self._scopes and await in_thread(delivery.has_grown):
                _logger.error("log grew though it is locked", log=str(id_))
                self.queue.distrust(id_)
                delivery.distrust()
                self._scopes[id_].cancel()

    def _let_go_of_later(self) -> None:
        """Give back those that only a later eventrec delivers to their end: others need the slots."""
        for id_, delivery in self.adopted.items():
            if id_ in self._scopes and delivery.later:
                self._scopes[id_].cancel()

    async def let_go(self) -> None:
        """At the end, once those that are adopted singly were given back: give back the others."""
        await self._groups.let_go()

    def end_stranded(self) -> None:
        """The same from any thread, once the loop is closed. Blocking."""
        for delivery in list(self.adopted.values()):
            delivery.end_stranded()
        self._locks.release_all()

    def abandon(self) -> None:
        """In the child of a fork: give back what was inherited, and touch nothing."""
        self._locks.abandon()
        for delivery in self.adopted.values():
            with suppress(OSError):  # A daemon that closed every descriptor after the fork has closed these too.
                delivery.abandon()

    # -- what the disk bound asks

    async def give_up(self, id_: UUID) -> dict[str, int]:
        """Forfeit all that is open of an adopted log, and delete it: how many records, by subscription."""
        lost = forfeit_all(self.adopted[id_])
        with anyio.move_on_after(_GIVE_UP_SECONDS):
            while id_ in self.adopted:
                await self._freed.wait()
        return lost

    async def groups_ended(self) -> bool:
        """Wait till no orphan is locked and not adopted. Whether there was one. For a caller that holds `opening`."""
        return await self._groups.none_locked()

    def oldest(self) -> list[UUID]:
        """All orphans, adopted or not: those that cannot be read, then the oldest first."""
        return self.queue.by_rank(self._own_id())

    def take_up_again(self) -> None:
        """Look at everything again: a destination lost what it had."""
        self.queue.retry_left()
