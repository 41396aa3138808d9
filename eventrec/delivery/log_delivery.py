"""Delivery of one run's log: a worker for each subscription, their checkpoints, and the end of a log that is done."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final, Literal

import anyio
import msgspec

from eventrec.delivery.mirror_hold import MirrorHold
from eventrec.delivery.sources.log import LogSource
from eventrec.delivery.worker.worker import Worker
from eventrec.errors import LogError, TransientError
from eventrec.log.segment import list_segments
from eventrec.runs.checkpoint import CheckpointFiles, Saved
from eventrec.runs.files import file_name
from eventrec.runs.others import OtherCheckpoints
from eventrec.runs.retention import Kept, Retain, SealedSegment
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger
from eventrec.runtime.starting import when_begun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from uuid import UUID

    from eventrec.delivery.delivered_log import DeliveredLog
    from eventrec.delivery.letters.dead_letters import DeadLetters
    from eventrec.delivery.opened_orphan import OpenedOrphan
    from eventrec.delivery.shared_handler import FailedBatch, SharedHandler
    from eventrec.delivery.subscription import Subscription
    from eventrec.runs.checkpoint import Checkpoint
    from eventrec.runs.requests import OperatorRequest
    from eventrec.runs.run import Run
    from eventrec.status import SubscriptionStatus

_logger = get_logger("eventrec.delivery")

_STAMP_SECONDS: Final = 5.0
_FORFEIT_SECONDS: Final = 5.0

_BETWEEN_SAVES: Final = 0.05
"""Seconds: as much as a handler without checkpoints of its own may have to take again after a crash."""

OTHERS_SECONDS: Final = 2.0
"""How often it looks how far others are with a log of our own, where something of that could go."""


class LogDelivery:
    """Delivers `log`, which is that of `run`, to `subscriptions`. For the loop's thread, mostly.

    `opened` is what a log of others was found to be; None: it is our own. The checkpoints of subscriptions that are not
    ours hold records too, also those that appear meanwhile. `failed` gives a batch of it, by log and subscription, that
    was sent already and failed.
    """

    is_held = True
    """Whether the log's lock is ours; else another process writes it meanwhile."""

    def __init__(
        self,
        run: Run,
        log: DeliveredLog,
        *,
        opened: OpenedOrphan | None,
        subscriptions: Iterable[Subscription],
        handlers: Mapping[str, SharedHandler],
        letters: DeadLetters,
        on_drop: Callable[[str, int], None],
        sync: Literal["interval", "never", "take"],
        sync_interval: float,
        retain: Retain,
        on_rewind: Callable[[], None],
        failed: Callable[[UUID, str], FailedBatch | None] = lambda _log_id, _name: None,
    ) -> None:
        self.run_of = run
        self.log = log
        self._moved = anyio.Event()
        saved = opened.saved if opened is not None else Saved({}, frozenset(), frozenset())
        first = opened.first if opened is not None else 0
        is_orphan = self.is_held and opened is not None
        self.source = self._source_of(first, is_orphan=is_orphan)
        self.workers = {
            each.name: Worker(
                # What is pending is never skipped: "latest" is for a subscription that is new.
                replace(each, start="earliest") if opened is not None and each.name in opened.known else each,
                self.source,
                letters,
                on_drop=on_drop,
                checkpoint=saved.checkpoints.get(each.name),
                handler=handlers[each.name].lease(is_orphan=is_orphan, failed=failed(run.id, each.name)),
                freeze=self._freeze,
                outage=handlers[each.name].outage,
                on_rewind=on_rewind,
                on_health=self._notice,
            )
            for each in subscriptions
        }
        self._others = OtherCheckpoints(run, self.workers.keys(), saved, first=first)
        self._oldest = first
        """Where the oldest segment begins, as of the last look."""
        self._looked_at = -math.inf
        self._is_hidden = False
        """Whether the last look at what others need was refused."""
        self._mirrors = MirrorHold(run)
        self.kept_for_mirrors: list[str] | None = []
        """At its end: the mirrors for which it was not deleted; None: it is not known which."""
        # A log of our own was begun, and its directory synced, when the folder was there.
        self._files = CheckpointFiles(run.storage, is_named=opened is None and run.incarnation == 1)
        self._sync = sync
        self._sync_interval = sync_interval
        self._retain = retain
        self._saved: dict[str, Checkpoint] = {}
        self._incarnation = run.incarnation
        self._unsynced: set[str] = set()
        self._synced_at = -math.inf
        self._saving = anyio.Lock()
        self._ending = anyio.Lock()
        self._is_ended = False
        self.is_refused = False
        """Whether the disk did not take the checkpoints when they were saved last."""
        self.is_gone = False
        """Whether the log was deleted, or moved to those that are retained."""
        self._is_stamped = False
        self._is_given_up = False
        self._is_trusted = True

    def _source_of(self, first: int, *, is_orphan: bool) -> LogSource:
        return LogSource(self.log, self.run_of.id, first=first, is_orphan=is_orphan, on_move=self._notice)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.run_of.id} of {self.source!r}>"

    @property
    def is_settled(self) -> bool:
        """Whether our subscriptions are past everything that is written."""
        end = self.source.end
        return bool(self.workers) and self._settled_below(end) >= end

    @property
    def is_done(self) -> bool:
        """Whether no subscription needs anything of what was appended any more."""
        end = max(self.source.end, self.log.appended)
        return self._others.lowest(self._settled_below(end)) >= end and (bool(self.workers) or end == 0)

    @property
    def waiting(self) -> frozenset[str]:
        """The subscriptions of ours that are not settled."""
        end = self.source.end
        return frozenset(name for name, worker in self.workers.items() if worker.progress.scanned < end)

    @property
    def held_for(self) -> list[str]:
        """The subscriptions of others that need something of it still."""
        return sorted(self.elsewhere)

    @property
    def elsewhere(self) -> dict[str, int]:
        """How many records the subscriptions of others need still, as of the last look at their checkpoints."""
        end = self.source.end
        return {name: end - scanned for name, scanned in self._others.needed.items() if scanned < end}

    async def needed_from(self) -> list[int]:
        """From which offset on each subscription needs it, those of others too, which are looked at."""
        with suppress(OSError):  # The bound holds all the same.
            await in_thread(self._others.look)
        return [*(worker.progress.scanned for worker in self.workers.values()), *self._others.needed.values()]

    @property
    def is_stuck(self) -> bool:
        """Whether it waits for nothing but destinations that are down, or for an operator."""
        waiting = self.waiting
        return bool(waiting) and all(self.workers[name].is_failing for name in waiting)

    def has_grown(self) -> bool:
        """Blocking. Whether another process writes an adopted log all the same."""
        try:
            return self.log.has_grown()
        except LogError:
            return False

    def distrust(self) -> None:
        """Its lock means nothing: never delete it."""
        self._is_trusted = False

    def forfeit_all(self) -> dict[str, int]:
        """All that is open is lost, for everybody, to the disk bound: how many records, by subscription."""
        self._is_given_up = True
        end = self.source.end
        lost = {name: end - worker.progress.scanned for name, worker in self.workers.items()}
        lost |= self._others.forfeit(end)
        self._others.give_up()
        self._mirrors.give_up(end)
        for worker in self.workers.values():
            worker.forfeit(end)
        return {name: count for name, count in lost.items() if count}

    def forfeit(self, end: int) -> dict[str, int]:
        """The subscriptions that are behind `end`, those of others too, lose what lies below it.

        How many records each, at most.
        """
        lost = self._others.forfeit(end)
        for name, worker in self.workers.items():
            if worker.progress.scanned < end:
                lost[name] = end - worker.progress.scanned
                worker.forfeit(end)
        return lost

    def mirrored(self) -> list[int]:
        """Blocking. Up to where each mirror has it."""
        return list((self._mirrors.positions() or {}).values())

    def forfeit_of_mirrors(self, end: int) -> dict[str, int]:
        """Blocking. What mirrors lack below `end` is held no longer: how many records each, at most."""
        return self._mirrors.forfeit(end)

    async def forfeited(self, end: int) -> None:
        """Once no subscription is behind `end` any more, delete what lies below."""
        with anyio.move_on_after(_FORFEIT_SECONDS):
            while any(worker.progress.scanned < end for worker in self.workers.values()):
                await self._moved_once()
        await self.save(sync=True, must_delete=True)
        await self.source.let_go()

    async def _moved_once(self) -> None:
        with anyio.move_on_after(_BETWEEN_SAVES):
            await self._moved.wait()

    def sealed(self) -> list[SealedSegment]:
        """Blocking. What could go of it, oldest first."""
        try:
            return [SealedSegment(first, end, size) for first, end, size, _ in self.log.sealed()]
        except LogError:
            return []

    async def trim(self) -> None:
        """Delete what is delivered, retained or not: the disk is full."""
        self._retain = Retain()
        await self.save(sync=True, must_delete=True)

    @property
    def _is_passed_by_all(self) -> bool:
        """Whether all that is written is settled, here and as far as we know elsewhere."""
        end = self.source.end
        return self._others.lowest(self._settled_below(end)) >= end

    def _settled_below(self, end: int) -> int:
        """Up to where all subscriptions of ours are past it; `end` where there is none."""
        return min((worker.progress.scanned for worker in self.workers.values()), default=end)

    async def renew(self) -> bool:
        """Delete all that is written, where it is delivered, the segment that is written now included; whether it was.

        Else a segment that is larger than its disk would keep that full for ever.
        """
        if self._is_passed_by_all:
            try:
                has_begun = await in_thread(self.log.begin_segment)
            except LogError:
                return False  # It is tried again.
            if has_begun:
                await self.trim()
                await self.source.let_go()
                return True
        return False

    def status(self) -> dict[str, SubscriptionStatus]:
        """The account, by subscription."""
        return {name: worker.status() for name, worker in self.workers.items()}

    async def run(self, *, until_settled: bool = False) -> None:
        """Deliver until cancelled, or with `until_settled` until all that is written is. May be called again."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(when_begun(self._keep_checkpoints), name="eventrec checkpoints")
            for worker in self.workers.values():
                tasks.start_soon(when_begun(worker.run), name=f"eventrec {worker.name}")
            if until_settled:
                end = self.source.end
                while not self.is_settled:
                    for worker in self.workers.values():
                        await worker.settled(end)
                    end = self.source.end
                tasks.cancel_scope.cancel()

    def apply(self, request: OperatorRequest) -> bool:
        """An operator requests something of one of the subscriptions; False: it concerns nothing here."""
        worker = self.workers.get(request.subscription)
        return worker is not None and worker.apply(request)

    async def save(self, *, sync: bool, must_delete: bool = False) -> None:
        """Save every checkpoint that changed; with `sync` durably, and then delete what all are past."""
        async with self._saving:
            if self._is_ended:
                self.is_refused = True  # A handler that did not let go in time is back: the log may be another's now.
                return
            if self.run_of.incarnation != self._incarnation:
                # The directory was deleted, and the writer made it again.
                self._incarnation = self.run_of.incarnation
                self._files = CheckpointFiles(self.run_of.storage)
                self._saved.clear()
            now = self._checkpoints()
            changed = {name: each for name, each in now.items() if each != self._saved.get(name)}
            if not changed and not (sync and self._unsynced) and not must_delete:
                return
            self._unsynced.update(changed)
            again = {name: now[name] for name in self._unsynced} if sync else changed
            lowest = min((each.progress.scanned for each in now.values()), default=self.source.end)
            try:
                durable = await in_thread(partial(self._save, again, lowest, sync=sync))
            except Exception as exc:  # noqa: BLE001 - whatever a disk, or a name, makes of it: it is tried again
                if not self.is_refused:
                    _logger.warning("checkpoint not saved", log=str(self.run_of.id), error=described(exc))
                self.is_refused = True
                return
            self.is_refused = False
            self._saved.update(changed)
            if durable:  # pragma: no branch - Python 3.11 hides the way out of an `async with`
                self._unsynced.clear()
                self._synced_at = anyio.current_time()

    def note_saved(self, checkpoints: Mapping[str, Checkpoint], *, is_synced: bool) -> None:
        """A log of our own was begun with `checkpoints`. What is saved already is not saved again."""
        if self._incarnation > 1:
            return  # They went with the directory.
        self._saved.update(checkpoints)
        if not is_synced:
            self._unsynced.update(checkpoints)
        elif checkpoints:
            self._synced_at = anyio.current_time()

    def _checkpoints(self) -> dict[str, Checkpoint]:
        """Those of our workers now, as they are saved."""
        now = {name: worker.checkpoint() for name, worker in self.workers.items()}
        return {name: msgspec.structs.replace(each, by_holder=self.is_held) for name, each in now.items()}

    def _save(self, checkpoints: Mapping[str, Checkpoint], lowest: int, *, sync: bool) -> bool:
        """In a thread. Whether all that was saved so far is durable now; then what no subscription needs goes."""
        firsts = list_segments(self.run_of.storage)
        self._oldest = firsts[0] if firsts else self._oldest
        below = self._passed(firsts, lowest)
        may_delete = below > firsts[0] if firsts else False
        sync = sync or (may_delete and self._sync != "interval" and set(checkpoints) >= self._unsynced)
        for checkpoint in checkpoints.values():
            self._files.save(checkpoint, sync=sync)
        if sync:
            if may_delete:
                self._others.sync()
            self._files.sync_names()
            if may_delete:
                self.log.delete_below(below)
        return sync

    def _passed(self, firsts: Sequence[int], lowest: int) -> int:
        """The offset below which segments may go, where ours are past `lowest`; 0: none. The others are looked at."""
        if len(firsts) < 2 or firsts[1] > lowest:  # noqa: PLR2004 - the last one is written
            return 0
        is_held = self._others.lowest(lowest) < firsts[1]
        if is_held and monotonic() - self._looked_at < OTHERS_SECONDS:
            return 0
        self._looked_at = monotonic()
        try:
            self._others.look()
        except OSError as exc:
            if not self._is_hidden:
                _logger.warning(
                    "what others need is not known, so nothing is deleted",
                    log=str(self.run_of.id),
                    error=described(exc),
                )
            self._is_hidden = True
        else:
            self._is_hidden = False
        return self._outlived(self._mirrors.lowest(self._others.lowest(lowest)))

    def _outlived(self, lowest: int) -> int:
        """The offset below which segments go, of those that everybody is past."""
        done = [each for each in self.log.sealed() if each[1] <= lowest]
        count = self._retain.outlived([Kept(size, age) for _, _, size, age in done])
        return done[count - 1][1] if count else 0

    async def _keep_checkpoints(self) -> None:
        while True:
            waits = self._unsynced and self._sync == "interval"
            with anyio.move_on_after(self._sync_interval if waits else None):
                await self._moved.wait()
            self._moved = anyio.Event()
            is_due = anyio.current_time() - self._synced_at >= self._sync_interval
            await self.save(sync=self._sync == "take" or (self._sync == "interval" and is_due))
            await anyio.sleep(_BETWEEN_SAVES)

    async def keep_looking(self) -> None:
        """Of a log of our own, until cancelled: delete what others are past, of which no move of ours tells."""
        while True:
            await anyio.sleep(OTHERS_SECONDS)
            written = self.source.end
            may_go = self.log.extent.first > self._oldest
            if (may_go or not self.workers) and await in_thread(self._could_delete):
                await self.save(sync=True, must_delete=True)
            elif not may_go and self.workers:
                # Nothing can go before more is written: an idle recorder is not woken for it.
                await self.source.wait_past(written)

    def _could_delete(self) -> bool:
        """In a thread. Whether there is something that is needed no more; also has the others looked at."""
        lowest = self._settled_below(self.source.end)
        try:
            firsts = list_segments(self.run_of.storage)
            if not self.workers:
                self._others.look()
            self._oldest = firsts[0] if firsts else self._oldest
            return self._passed(firsts, lowest) > self._oldest
        except (OSError, LogError):
            return False  # It is tried again.

    async def _freeze(self) -> None:
        """Make the checkpoints durable.

        Raises:
            TransientError: The disk refused, so the batch must not be sent.
        """
        await self.save(sync=True)
        if self.is_refused:
            raise TransientError("the checkpoint cannot be saved")

    def _notice(self) -> None:
        self._moved.set()

    async def can_save(self) -> bool:
        """Whether the disk takes the checkpoints: saves them, durably."""
        await self.save(sync=True)
        return not self.is_refused

    async def end(self, *, is_first: bool = True) -> None:
        """Save, close the log, and retire the run if it is done; else leave it, unlocked, to the next that adopts it.

        That the disk refuses is said where it `is_first`. Called again, it does what is not done yet.
        """
        async with self._ending:
            if not self._is_ended:
                await self.save(sync=self._sync != "never" or self.is_done)
                self._is_ended = True
                await in_thread(partial(self._end, is_first=is_first))
            # What could not be synced is in the log all the same.
            self.source.raise_end(self.log.written)

    def end_stranded(self) -> None:
        """The same from another thread, once the loop is closed. Blocking."""
        if not self._is_ended:
            self._is_ended = True
            with suppress(Exception):  # Its last checkpoints stand then.
                self._save(self._checkpoints(), 0, sync=False)
            self._end(is_first=True)

    async def stamp(self, *, is_first: bool = True) -> None:
        """If the log is done, have every destination remember that: its rows still answer, to a copy of this log.

        What goes wrong is said where it `is_first`.
        """
        if self._others.needed and self.is_settled:
            with suppress(OSError):  # As they were, then: no later than they are.
                await in_thread(self._others.look)
        if not self.is_done or self._is_stamped:
            return
        await self.save(sync=self._sync != "never")
        with anyio.move_on_after(_STAMP_SECONDS):
            try:
                for worker in self.workers.values():
                    await worker.retire()
                self._is_stamped = self.is_done
            except Exception as exc:  # noqa: BLE001 - foreign code; the next adopter asks again
                if is_first:
                    _logger.warning("log not retired", log=str(self.run_of.id), error=described(exc))

    def abandon(self) -> None:
        """In the child of a fork: give back what was inherited, and touch nothing."""
        for worker in self.workers.values():
            worker.abandon()
        self.source.close()
        self.log.abandon()
        self.run_of.forget()

    def _is_done_elsewhere(self) -> bool:
        """Whether that is so still: there may be others that were not there before."""
        try:
            self._others.look()
        except OSError:
            return False
        return self.is_done

    def _end(self, *, is_first: bool) -> None:
        self.source.close()
        try:
            self.log.close()
        except (OSError, LogError) as exc:
            _logger.warning("log not synced at its end", log=str(self.run_of.id), error=str(exc))
        try:
            may_go = self.is_done and (self._is_stamped or self._is_given_up)
            may_go = may_go and not self.is_refused and self._is_trusted
            if may_go and self.log.appended:
                may_go = self._is_done_elsewhere()
            if not may_go or not self._is_mirrored():
                self.run_of.release()
            else:
                if self._retain and self.log.appended and not self._is_given_up:
                    self.run_of.retain()
                else:
                    self.run_of.retire()
                self.is_gone = True
        except OSError as exc:
            if is_first:
                _logger.warning("log not deleted", log=str(self.run_of.id), error=str(exc))

    def _is_mirrored(self) -> bool:
        """Whether no mirror lacks anything of what is done; else `kept_for_mirrors` says which one does."""
        if self._is_given_up:
            return True
        scanned = self._others.needed | {name: worker.progress.scanned for name, worker in self.workers.items()}
        saved = {file_name(name): each for name, each in scanned.items()}
        self.kept_for_mirrors = self._mirrors.lacking(self.log.written, saved)
        return self.kept_for_mirrors == []
