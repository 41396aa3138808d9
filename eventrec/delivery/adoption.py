"""Logs that earlier runs left: found, locked, delivered a few at a time, and given back where others can do more.

orphan    nobody holds its lock
adopted   we do, and our subscriptions deliver it
parked    given back, because what it lacks waits for a destination that is down, and other orphans wait for us
left      given back: what it lacks is not ours to deliver, or we cannot read it
unstamped given back: it is done, and its destination could not be told so; adopted again after a pause
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.log_delivery import open_orphan
from eventrec.errors import LogError
from eventrec.runs.requests import load_requests, sweep_requests
from eventrec.runs.run import Run, list_runs, sweep
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path
    from uuid import UUID

    from anyio.abc import TaskGroup

    from eventrec.delivery.letters.log import LetterLog
    from eventrec.delivery.log_delivery import LogDelivery, OpenedOrphan
    from eventrec.runs.requests import OperatorRequest

MAX_ADOPTED: Final = 8
"""Orphans delivered at once; each costs a few descriptors."""

SCAN_SECONDS: Final = 2.0

_GIVE_UP_SECONDS: Final = 10.0

_FIRST_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 300.0

_logger = get_logger("eventrec.delivery")


class Adoption:
    """Adopts orphans in `directory`, and has `deliver(run, opened)` make what delivers one.

    `is_failing(name)` tells of a subscription whether its destination is down. `locking` is held while locks are taken:
    who forks waits for it, so that the child knows which ones it inherits. `own_id()` is the log that is written here.
    """

    def __init__(
        self,
        directory: Path,
        *,
        deliver: Callable[[Run, OpenedOrphan], LogDelivery],
        letters: LetterLog,
        is_failing: Callable[[str], bool],
        locking: AbstractContextManager[object],
        own_id: Callable[[], UUID],
    ) -> None:
        self.adopted: dict[UUID, LogDelivery] = {}
        self.unreadable: set[UUID] = set()
        """Orphans whose format we do not know, or whose bytes the disk does not give."""
        self.untrusted: set[UUID] = set()
        """Logs that grew though we held their locks: somebody else writes them, and locks mean nothing here."""
        self.opening = anyio.Lock()
        """Held while orphans are locked and not yet among the adopted ones."""
        self._directory = directory
        self._deliver = deliver
        self._letters = letters
        self._is_failing = is_failing
        self._locking = locking
        self._own_id = own_id
        self._locked: list[Run] = []
        """Orphans whose lock is ours, and that are not delivered yet."""
        self._left: set[UUID] = set()
        self._parked: dict[UUID, frozenset[str]] = {}
        """The subscriptions it waits for, by log; the one parked first comes first."""
        self._unstamped: dict[UUID, tuple[float, float]] = {}
        """Those that are done, and whose destination could not be told so: when to try again, and after what pause."""
        self._orphans: list[UUID] = []
        """What the last look into the directory found, oldest first."""
        self._held: set[UUID] = set()
        """Those that somebody else held when we asked last; no change of the directory tells when they let go."""
        self._scopes: dict[UUID, anyio.CancelScope] = {}
        self._freed = anyio.Event()

    async def run(self) -> None:
        """Adopt and deliver until cancelled; may be called again."""
        async with anyio.create_task_group() as tasks:
            for delivery in self.adopted.values():
                tasks.start_soon(self._deliver_orphan, delivery)
            seen: float | None = None
            while True:
                stamp = await in_thread(self._stamp)
                if stamp != seen:
                    seen = stamp
                    self._orphans = await in_thread(self._look)
                self._held.clear()
                await self._let_go_of_what_grew()
                await self._fill_slots(tasks)
                self._make_room()
                await self._rest(tasks)

    async def _rest(self, tasks: TaskGroup) -> None:
        """Until it is time to look again; a slot that comes free meanwhile is filled at once."""
        with anyio.move_on_after(SCAN_SECONDS * random.uniform(0.8, 1.2)):  # noqa: S311 - so that siblings spread out
            while True:
                freed = self._freed
                await freed.wait()
                await self._fill_slots(tasks)

    def _stamp(self) -> float:
        try:
            return self._directory.stat().st_mtime
        except OSError:
            return 0.0

    def _look(self) -> list[UUID]:
        """In a thread."""
        sweep(self._directory)
        sweep_requests(self._directory)
        self._letters.learn()
        return list_runs(self._directory)

    # -- which

    def _candidates(self) -> list[UUID]:
        """Orphans to adopt next, the oldest first; then those parked for a destination that is back."""
        now = anyio.current_time()
        known = {
            self._own_id(),
            *(id_ for id_, (when, _) in self._unstamped.items() if when > now),
            *self.adopted,
            *self._left,
            *self._held,
            *self._parked,
            *self.unreadable,
            *self.untrusted,
        }
        fresh = [id_ for id_ in self._orphans if id_ not in known]
        parked = {id_: names for id_, names in self._parked.items() if id_ not in self._held}
        back = [id_ for id_, names in parked.items() if any(not self._is_failing(name) for name in names)]
        return [*fresh, *back]

    def _make_room(self) -> None:
        """Give back one that waits for a destination which is down, where another one need not wait."""
        if len(self.adopted) < MAX_ADOPTED or not self._candidates():
            return
        for id_, delivery in self.adopted.items():
            if delivery.is_stuck and id_ in self._scopes:
                self._parked[id_] = delivery.waiting
                self._scopes[id_].cancel()
                return

    # -- adopting

    async def _fill_slots(self, tasks: TaskGroup) -> None:
        while len(self.adopted) < MAX_ADOPTED and (candidates := self._candidates()):
            room = MAX_ADOPTED - len(self.adopted)
            # A lock is ours once it is taken, whoever cancels meanwhile.
            async with self.opening:
                with anyio.CancelScope(shield=True):
                    found, requests = await in_thread(self._open, candidates[:room])
                    for run, opened in found:
                        self.adopted[run.id] = self._deliver(run, opened)
                        self._apply(requests, self.adopted[run.id], opened)
                    self._locked = []
            for run, _ in found:
                tasks.start_soon(self._deliver_orphan, self.adopted[run.id])

    def _open(self, ids: list[UUID]) -> tuple[list[tuple[Run, OpenedOrphan]], list[OperatorRequest]]:
        """In a thread. Those of `ids` that nobody holds."""
        self._letters.learn()
        opened: list[tuple[Run, OpenedOrphan]] = []
        for id_ in ids:
            self._parked.pop(id_, None)
        with self._locking:
            found = [Run.adopt(self._directory, id_) for id_ in ids]
            self._locked = [run for run in found if run is not None]
        self._held.update(set(ids) - {run.id for run in self._locked})
        for run in self._locked:
            try:
                opened.append((run, open_orphan(run)))
            except (OSError, LogError) as exc:
                _logger.warning("orphan left alone", log=str(run.id), error=str(exc))
                self.unreadable.add(run.id)
                run.release()
            else:
                _logger.info("orphan adopted", log=str(run.id), records=opened[-1][1][0].written)
        return opened, load_requests(self._directory, since=0.0)

    @staticmethod
    def _apply(requests: list[OperatorRequest], delivery: LogDelivery, opened: OpenedOrphan) -> None:
        """What was wished while nobody delivered this log is meant for it too."""
        saved = opened[2]
        for request in requests:
            if request.subscription in saved and request.asked > saved[request.subscription].saved:
                delivery.apply(request)

    async def _deliver_orphan(self, delivery: LogDelivery) -> None:
        id_ = delivery.run_of.id
        with anyio.CancelScope() as scope:
            self._scopes[id_] = scope
            await delivery.run(until_settled=True)
            await delivery.stamp(is_first=id_ not in self._unstamped)
            while not delivery.is_settled:
                # Asked where it is, a destination said that it lost some.
                await delivery.run(until_settled=True)
                await delivery.stamp()
        del self._scopes[id_]
        with anyio.CancelScope(shield=True):
            await delivery.end()
            _, pause = self._unstamped.pop(id_, (0.0, _FIRST_PAUSE / 2))
            if delivery.lacks_stamp:
                pause = min(2 * pause, _LONGEST_PAUSE)
                self._unstamped[id_] = anyio.current_time() + pause, pause
            elif id_ not in self._parked and not delivery.is_done:
                self._left.add(id_)
            self.adopted.pop(id_, None)
            freed, self._freed = self._freed, anyio.Event()
            freed.set()

    async def _let_go_of_what_grew(self) -> None:
        for id_, delivery in list(self.adopted.items()):
            if id_ in self._scopes and await in_thread(delivery.has_grown):
                _logger.error("log grew though it is locked", log=str(id_))
                self.untrusted.add(id_)
                delivery.distrust()
                self._scopes[id_].cancel()

    def abandon(self) -> None:
        """In the child of a fork: give back what was inherited, and touch nothing."""
        for run in self._locked:
            with suppress(OSError):  # Whoever closed every descriptor after the fork has closed these too.
                run.forget()
        for delivery in self.adopted.values():
            with suppress(OSError):
                delivery.abandon()

    # -- what the disk bound asks

    async def give_up(self, id_: UUID) -> dict[str, int]:
        """Forfeit all that is open of an adopted log, and delete it: how many records, by subscription."""
        lost = self.adopted[id_].forfeit_all()
        with anyio.move_on_after(_GIVE_UP_SECONDS):
            while id_ in self.adopted:
                await self._freed.wait()
        return lost

    def oldest(self) -> list[UUID]:
        """All orphans, adopted or not: those that nobody can read, then the oldest first."""
        known = {*self._orphans, *self.adopted} - self.untrusted - {self._own_id()}
        return sorted(known, key=lambda id_: (id_ not in self.unreadable, id_))

    def take_up_again(self) -> None:
        """Look at everything anew: a destination lost what it had."""
        self._left.clear()
