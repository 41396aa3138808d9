"""Follows the logs that other processes hold, and delivers what they write while they write it.

wait     for the locks of our subscriptions: one process at a time follows a directory for each
look     which logs are held by others, and which grew: `live_logs.py`
open     those that have something for us: `opening.py`; where these are more than may be, in turns: `turns.py`
give up  one whose owner let go: it is an orphan then, and adopted with the checkpoints that it has by now
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.following.live_logs import LiveLogs
from eventrec.delivery.following.opening import LiveOpener
from eventrec.delivery.following.sole_follower import SoleFollower
from eventrec.delivery.following.turns import FollowTurns
from eventrec.delivery.orphans.queue import Failures
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger
from eventrec.runtime.starting import when_begun

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager
    from uuid import UUID

    from anyio.abc import TaskGroup

    from eventrec.delivery.following.followed_delivery import FollowedDelivery
    from eventrec.delivery.following.live_logs import LiveMoves
    from eventrec.delivery.letters.log import LetterLog
    from eventrec.delivery.log_layouts import LogLayouts
    from eventrec.delivery.orphans.adoption import Adoption
    from eventrec.delivery.orphans.opened_orphan import OpenedOrphan
    from eventrec.runs.directory import LogDirectory
    from eventrec.runs.followed import FollowedRun

HOLDERS_SECONDS: Final = 5.0
"""How often it is looked whether a log is still delivered by the process that holds it."""

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 2.0

_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)

_BARRED: Final = "not followed: this user may not open it"

_POLL_SECONDS: Final = 0.02
_TURN_POLL: Final = 0.1
_IDLE_POLL: Final = 1.0

_logger = get_logger("eventrec.delivery")


class Following:
    """Follows `directory` for the subscriptions `names`; `deliver(run, opened, names)` makes what delivers a log.

    `adoption` gets what is let go; `guard` is held while locks are taken or asked for; `own_id()` is the log that is
    written here. `latest` are the subscriptions that begin with what comes, if they are new. For the loop's thread.
    """

    def __init__(
        self,
        directory: LogDirectory,
        names: Collection[str],
        *,
        deliver: Callable[[FollowedRun, OpenedOrphan, Collection[str]], FollowedDelivery],
        adoption: Adoption,
        letters: LetterLog,
        layouts: LogLayouts,
        guard: AbstractContextManager[object],
        own_id: Callable[[], UUID],
        latest: Collection[str],
    ) -> None:
        self.followed: dict[UUID, FollowedDelivery] = {}
        self.left: dict[UUID, str] = {}
        """Live logs that cannot be followed, and why."""
        self.allowed = anyio.Event()
        """Set once the locks of all our subscriptions are ours: then orphans are adopted too."""
        self._directory = directory
        self._deliver = deliver
        self._adoption = adoption
        self._own_id = own_id
        self.sole = SoleFollower(directory, names, guard=guard, own_id=own_id)
        """Whether it is us who follow for our subscriptions."""
        self._opener = LiveOpener(
            directory,
            names,
            letters=letters,
            layouts=layouts,
            guard=guard,
            sole=self.sole,
            latest=latest,
            since=own_id(),
        )
        self._live = LiveLogs(directory, guard=guard, ours=self._held_here)
        self._turns = FollowTurns()
        self._claimed: set[UUID] = set()
        """Those that are followed, or about to be: not to be adopted."""
        self._scopes: dict[UUID, anyio.CancelScope] = {}
        self._closing: set[UUID] = set()
        """Those that end: what they are told of now, the next that follows the log has to be told."""
        self._freed: set[UUID] = set()
        """Those that are followed and not held any more: adopted once they have ended."""
        adoption.leave_to(self._claimed.__contains__)

    def __repr__(self) -> str:
        return f"<Following {len(self.followed)} in {self._directory}>"

    def _held_here(self) -> set[UUID]:
        return {*self._adoption.held(), self._own_id()}

    # -- the locks of our subscriptions

    async def run(self) -> None:
        """Follow until cancelled; may be called again. Waits while another process does it for one of ours."""
        while True:
            await self.sole.take()
            if not self.allowed.is_set():
                # Before it was begun, our log had no id yet.
                await in_thread(self._opener.begin, self._own_id())
            self.allowed.set()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(when_begun(self._watch), name="eventrec live logs")
                await self.sole.until_lost()
                tasks.cancel_scope.cancel()
            await self.let_go()

    # -- looking

    async def _watch(self) -> None:
        failures = Failures(_FIRST_PAUSE, _LONGEST_PAUSE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(when_begun(self._stop_when_cancelled), name="eventrec live logs end")
            for id_ in list(self.followed):
                self._start(tasks, id_)
                if id_ in self._closing:
                    self._close(id_)
            while True:
                try:
                    seen = await in_thread(self._live.wait, _TURN_POLL if self._turns.is_any_ready() else _IDLE_POLL)
                    self._take_in(seen)
                    await self._open_wanted(tasks)
                    self._close_quiet()
                    self._turns.grow()
                except Exception as exc:  # noqa: BLE001 - descriptors ran out, the disk fails: none of it ends delivery
                    self.sole.note_refused(described(exc))
                    if failures.note_failed():
                        _logger.warning(
                            "live logs not looked after", directory=str(self._directory), error=described(exc)
                        )
                    await anyio.sleep(failures.pause)
                else:
                    self.sole.note_refused(None)
                    failures.note_passed()

    async def _stop_when_cancelled(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self._live.stop()

    def _take_in(self, seen: LiveMoves) -> None:
        for id_ in seen.replaced:
            if id_ in self.followed:
                self._close(id_)
        for id_ in [*seen.appeared, *seen.moved]:
            self._turns.note_moved(id_)
            if id_ in self.followed and id_ not in self._closing:
                self.followed[id_].source.note_growth()
            else:
                self._turns.note_wanted(id_)
        for id_ in seen.freed:
            self._give_up(id_)
        if seen.barred is not None:
            self._note_barred(seen.barred)

    def _note_barred(self, ids: Collection[UUID]) -> None:
        new = set(ids) - self.left.keys()
        self.left = {id_: why for id_, why in self.left.items() if why != _BARRED or id_ in ids}
        self.left |= dict.fromkeys(new, _BARRED)
        if new:
            _logger.warning("live logs that this user may not open", logs=len(new), directory=str(self._directory))

    def _give_up(self, id_: UUID) -> None:
        """Have what follows it end, with its checkpoints saved: then it is an orphan like others."""
        self._live.forget(id_)
        if id_ in self.followed:
            self._freed.add(id_)
            self._close(id_)
        else:
            self._forget(id_)

    def _forget(self, id_: UUID) -> None:
        self._turns.forget(id_)
        self.left.pop(id_, None)
        self._freed.discard(id_)
        self._opener.forget(id_)
        self._adoption.note_free([id_])

    def _close(self, id_: UUID) -> None:
        """Have it end: a handler that does not let go holds up nothing else."""
        self._closing.add(id_)
        if id_ in self._scopes:
            self._scopes[id_].cancel()

    # -- opening

    async def _open_wanted(self, tasks: TaskGroup) -> None:
        for id_ in self._turns.ready(self.followed):
            if len(self.followed) >= self._turns.limit:
                if (ends := self._turns.to_make_room(self._lasting())) is not None:
                    self._close(ends)
                return
            self._turns.take(id_)
            if id_ not in self._held_here():
                await self._open(tasks, id_)

    def _lasting(self) -> dict[UUID, FollowedDelivery]:
        """Those that are followed, and do not end."""
        return {id_: delivery for id_, delivery in self.followed.items() if id_ not in self._closing}

    def _close_quiet(self) -> None:
        for id_ in self._turns.quiet(self._lasting()):
            self._close(id_)

    async def _open(self, tasks: TaskGroup, id_: UUID) -> None:
        # What is opened is given back, also where this task is cancelled meanwhile.
        with anyio.CancelScope(shield=True):
            self._claimed.add(id_)
            try:
                found, holders = await in_thread(self._opener.open, id_)
            except Exception as exc:  # noqa: BLE001 - its bytes, its checkpoints or the system: of this log alone
                self._claimed.discard(id_)
                self._pause(id_, described(exc))
                if isinstance(exc, OSError) and exc.errno in _NO_DESCRIPTORS:
                    # Each that is open keeps others from being read.
                    for ends in self._turns.shrink(self.followed):
                        self._close(ends)
                return
            if found is None and holders:
                self._turns.wait(id_, HOLDERS_SECONDS)
            if found is None or id_ in self._held_here():
                # It was adopted here before it was claimed.
                self._claimed.discard(id_)
                if found is not None:
                    await in_thread(found.discard)
                return
            try:
                self.followed[id_] = delivery = self._deliver(found.run, found.opened, found.names)
            except BaseException:
                self._claimed.discard(id_)
                await in_thread(found.discard)
                raise
            self._adoption.apply(found.requests, delivery, found.opened)
            self._turns.note_opened(id_)
            self.left.pop(id_, None)
            self._live.follow(id_, delivery.followed.look)
            self._start(tasks, id_)

    def _pause(self, id_: UUID, why: str) -> None:
        """It is tried again, after a pause that grows."""
        if self._turns.note_failed(id_):
            _logger.warning("live log not followed", log=str(id_), error=why)
        self.left[id_] = f"not followed: {why}"

    # -- delivering

    def _start(self, tasks: TaskGroup, id_: UUID) -> None:
        self._scopes[id_] = anyio.CancelScope()
        tasks.start_soon(when_begun(partial(self._follow, id_)), name="eventrec live log")

    async def _follow(self, id_: UUID) -> None:
        try:
            with self._scopes[id_]:
                try:
                    # Its owner holds for us what it knows that we need.
                    await self.followed[id_].save(sync=False)
                    await self.followed[id_].run()
                except Exception as exc:
                    _logger.exception("delivery of a live log failed", log=str(id_), error=described(exc))
                    self._pause(id_, described(exc))
        finally:
            del self._scopes[id_]
        with anyio.CancelScope(shield=True):
            await self._end(id_)

    async def _end(self, id_: UUID) -> None:
        """Save its checkpoints, and close it. Called again, it waits for the same."""
        delivery = self.followed.get(id_)
        if delivery is None:
            return
        self._closing.add(id_)
        self._live.unfollow(id_)
        try:
            await delivery.end()
        finally:
            if self.followed.pop(id_, None) is not None:
                self._claimed.discard(id_)
                self._closing.discard(id_)
        if id_ in self._freed:
            self._forget(id_)
        elif not delivery.is_settled and not delivery.is_gone:
            self._turns.note_wanted(id_)

    # -- its end

    async def wait_settled(self) -> None:
        """Return once what they hold now was delivered, or waits: for an operator, or for what is down."""
        ends = {id_: delivery.source.end for id_, delivery in self.followed.items()}
        for id_, end in ends.items():
            for worker in self.followed[id_].workers.values():
                worker.hurry(end)
        while any(self._may_settle(id_, end) for id_, end in ends.items()):  # noqa: ASYNC110 - it happens in many places
            await anyio.sleep(_POLL_SECONDS)

    def _may_settle(self, id_: UUID, end: int) -> bool:
        if (delivery := self.followed.get(id_)) is None or delivery.is_stuck:
            return False
        return any(worker.progress.scanned < end for worker in delivery.workers.values())

    async def let_go(self) -> None:
        """End all that is followed, and give the locks back."""
        for id_ in list(self.followed):
            await self._end(id_)
        await self.sole.release()

    def end_stranded(self) -> None:
        """The same from any thread, once the loop is closed. Blocking."""
        for delivery in list(self.followed.values()):
            delivery.end_stranded()
        self.sole.release_stranded()

    def abandon(self) -> None:
        """In the child of a fork: give back what was inherited, and touch nothing."""
        self.sole.abandon()
        for delivery in self.followed.values():
            delivery.abandon()
