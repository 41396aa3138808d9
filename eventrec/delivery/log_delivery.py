"""Delivery of one run's log: a worker for each subscription, their checkpoints, and the end of a log that is done."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import anyio
import msgspec

from eventrec.delivery.checkpoint_keeper import CheckpointKeeper, Save
from eventrec.delivery.needs import OTHERS_SECONDS, Needs
from eventrec.delivery.sources.log import LogSource
from eventrec.delivery.worker.worker import Worker
from eventrec.errors import LogError
from eventrec.log.head import DISK_FULL
from eventrec.runs.checkpoint import Saved
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger
from eventrec.runtime.starting import when_begun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from uuid import UUID

    from eventrec.delivery.delivered_log import DeliveredLog
    from eventrec.delivery.letters.dead_letters import DeadLetters
    from eventrec.delivery.orphans.opened_orphan import OpenedOrphan
    from eventrec.delivery.shared_handler import FailedBatch, SharedHandler
    from eventrec.delivery.subscription import Subscription
    from eventrec.runs.checkpoint import Checkpoint
    from eventrec.runs.requests import OperatorRequest
    from eventrec.runs.retention import Retain
    from eventrec.runs.run import Run
    from eventrec.status import SubscriptionStatus

_logger = get_logger("eventrec.delivery")

_STAMP_SECONDS: Final = 5.0

_CHECKPOINT_BYTES: Final = 8 << 10
"""What a checkpoint takes of a disk, in its blocks."""


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
        self._keeper = CheckpointKeeper(
            run,
            sync=sync,
            sync_interval=sync_interval,
            # A log of our own was begun, and its directory synced, when the folder was there.
            is_named=opened is None and run.incarnation == 1,
            now=self._checkpoints,
            end=lambda: self.source.end,
            write=self._save,
            on_saved=self._note_try,
        )
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
                freeze=self._keeper.freeze,
                outage=handlers[each.name].outage,
                on_rewind=on_rewind,
                on_health=self._keeper.note_moved,
            )
            for each in subscriptions
        }
        self.needs = Needs(run, log, self.workers.keys(), saved, first=first, retain=retain)
        self._sync = sync
        self._ending = anyio.Lock()
        self._is_ended = False
        self.is_gone = False
        """Whether the log was deleted, or moved to those that are retained."""
        self._is_stamped = False
        self._is_trusted = True

    def _source_of(self, first: int, *, is_orphan: bool) -> LogSource:
        return LogSource(self.log, self.run_of.id, first=first, is_orphan=is_orphan, on_move=self._keeper.note_moved)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.run_of.id} of {self.source!r}>"

    @property
    def is_settled(self) -> bool:
        """Whether our subscriptions are past everything that is written."""
        end = self.source.end
        return bool(self.workers) and self.settled_below(end) >= end

    @property
    def is_done(self) -> bool:
        """Whether no subscription needs anything of what was appended any more."""
        end = max(self.source.end, self.log.appended)
        return self.needs.lowest(self.settled_below(end)) >= end and (bool(self.workers) or end == 0)

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
        return {name: end - scanned for name, scanned in self.needs.of_others.items() if scanned < end}

    @property
    def is_stuck(self) -> bool:
        """Whether it waits for nothing but destinations that are down, or for an operator."""
        waiting = self.waiting
        return bool(waiting) and all(self.workers[name].is_failing for name in waiting)

    @property
    def later(self) -> str:
        """What a later eventrec is needed for, where our subscriptions wait for nothing else; else empty."""
        at = {self.workers[name].progress.scanned for name in self.waiting}
        if not at or not at <= self.source.later.keys():
            return ""
        first = min(at)
        return f"record {first:,}: {self.source.later[first]}"

    def has_grown(self) -> bool:
        """Blocking. Whether another process writes an adopted log all the same."""
        try:
            return self.log.has_grown()
        except LogError:
            return False

    def distrust(self) -> None:
        """Its lock means nothing: never delete it."""
        self._is_trusted = False

    @property
    def is_unsaved(self) -> bool:
        """Whether the disk did not take the checkpoints when they were saved last."""
        return self._keeper.is_unsaved

    @property
    def is_refused(self) -> bool:
        """Whether they were not saved, or may not be any more, since it has ended."""
        return self._keeper.is_refused

    async def moved_once(self) -> None:
        """Return once a subscription has acknowledged something, or after 50 ms."""
        await self._keeper.moved_once()

    def settled_below(self, end: int) -> int:
        """Up to where all subscriptions of ours are past it; `end` where there is none."""
        return min((worker.progress.scanned for worker in self.workers.values()), default=end)

    def status(self) -> dict[str, SubscriptionStatus]:
        """The account, by subscription."""
        return {name: worker.status() for name, worker in self.workers.items()}

    async def run(self, *, until_settled: bool = False) -> None:
        """Deliver until cancelled, or with `until_settled` until all that is written is. May be called again."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(when_begun(self._keeper.run), name="eventrec checkpoints")
            for worker in self.workers.values():
                tasks.start_soon(when_begun(worker.run), name=f"eventrec {worker.name}")
            if until_settled:
                end = self.source.end
                while not self.is_settled:
                    for worker in self.workers.values():
                        await worker.wait_settled(end)
                    end = self.source.end
                tasks.cancel_scope.cancel()

    def apply(self, request: OperatorRequest) -> bool:
        """An operator requests something of one of the subscriptions; False: it concerns nothing here."""
        worker = self.workers.get(request.subscription)
        return worker is not None and worker.apply(request)

    async def save(self, *, sync: bool, must_delete: bool = False, must_renew: bool = False) -> None:
        """Save every checkpoint that changed; with `sync` durably, and then delete what all are past.

        `must_renew`: that is all that is written, and nothing more is until it went: see `forfeiting.renew`.
        """
        await self._keeper.save(sync=sync, must_delete=must_delete, must_renew=must_renew)

    def note_saved(self, checkpoints: Mapping[str, Checkpoint], *, is_synced: bool) -> None:
        """A log of our own was begun with `checkpoints`. What is saved already is not saved again."""
        self._keeper.note_saved(checkpoints, is_synced=is_synced)

    async def can_save(self) -> bool:
        """Whether the disk takes the checkpoints: saves them, durably."""
        return await self._keeper.can_save()

    def _note_try(self) -> None:
        """The checkpoints were saved, or refused."""

    def _checkpoints(self) -> dict[str, Checkpoint]:
        """Those of our workers now, as they are saved."""
        now = {name: worker.checkpoint() for name, worker in self.workers.items()}
        return {name: msgspec.structs.replace(each, by_holder=self.is_held) for name, each in now.items()}

    def _save(self, save: Save) -> bool:
        """In a thread. Whether all that was saved so far is durable now; then what no subscription needs goes.

        On a disk that is full, to the last file perhaps, an index goes for a checkpoint. Where it is expected to be,
        the writer, which tries again and again, does not take that room meanwhile; nor, with `must_renew`, before a
        segment is begun, for which the place of the checkpoint before is enough.
        """
        below = self.needs.deletable_below(save.lowest)
        is_covered = below > 0 and self._sync != "interval" and self._keeper.covers(save.checkpoints)
        sync, with_needs = save.sync or is_covered, below > 0 or save.must_renew
        with self.log.standing_still() if save.is_full else nullcontext():
            try:
                self._save_files(save.checkpoints, sync=sync, with_needs=with_needs)
            except OSError as exc:
                if exc.errno not in DISK_FULL or not self.log.drop_index(of_head=save.must_renew):
                    raise
                self._save_files(save.checkpoints, sync=sync, with_needs=with_needs)
            if save.must_renew and self.log.written <= save.lowest:
                with suppress(LogError):  # It is tried again.
                    self.log.begin_segment()
                below = self.needs.deletable_below(save.lowest)
        if sync and below:
            self.log.delete_below(below)
        return sync

    def _save_files(self, checkpoints: Mapping[str, Checkpoint], *, sync: bool, with_needs: bool) -> None:
        for checkpoint in checkpoints.values():
            self._keeper.files.save(checkpoint, sync=sync)
        if sync:
            if with_needs:
                self.needs.sync()
            self._keeper.files.sync_names()

    async def keep_looking(self) -> None:
        """Of a log of our own, until cancelled: delete what others are past, of which no move of ours tells."""
        while True:
            await anyio.sleep(OTHERS_SECONDS)
            written = self.source.end
            has_sealed = self.needs.has_sealed
            if (has_sealed or not self.workers) and await in_thread(self._has_deletable):
                await self.save(sync=True, must_delete=True)
            elif has_sealed and self.elsewhere:
                await in_thread(self._give_place)
            elif not has_sealed and self.workers:
                # Nothing can go before more is written: an idle recorder is not woken for it.
                await self.source.wait_past(written)

    def _has_deletable(self) -> bool:
        return self.needs.has_deletable(self.settled_below(self.source.end))

    def _give_place(self) -> None:
        """In a thread. On a full disk an index goes for the checkpoint of another process, which deletes none."""
        with suppress(OSError):
            if not self.run_of.storage.has_room(size=_CHECKPOINT_BYTES, files=1):
                self.log.drop_index()

    async def end(self, *, is_first: bool = True) -> None:
        """Save, close the log, and retire the run if it is done; else leave it, unlocked, to the next that adopts it.

        That the disk refuses is said where it `is_first`. Called again, it does what is not done yet.
        """
        async with self._ending:
            if not self._is_ended:
                await self.save(sync=self._sync != "never" or self.is_done)
                self._note_ended()
                await in_thread(partial(self._end, is_first=is_first))
            # What could not be synced is in the log all the same.
            self.source.raise_end(self.log.written)

    def _note_ended(self) -> None:
        self._is_ended = True
        self._keeper.end()

    def end_stranded(self) -> None:
        """The same from another thread, once the loop is closed. Blocking."""
        if not self._is_ended:
            self._note_ended()
            with suppress(Exception):  # Its last checkpoints stand then.
                self._save(Save(self._checkpoints(), 0, sync=False))
            self._end(is_first=True)

    async def stamp(self, *, is_first: bool = True) -> None:
        """If the log is done, have every destination remember that: its rows still answer, to a copy of this log.

        What goes wrong is said where it `is_first`.
        """
        if self.needs.of_others and self.is_settled:
            with suppress(OSError):  # As they were, then: no later than they are.
                await in_thread(self.needs.look)
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
            self.needs.look()
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
            may_go = self.is_done and (self._is_stamped or self.needs.is_given_up)
            if may_go and self._keeper.is_full:
                # Its new name will say more than a checkpoint that has no room.
                self.needs.sync()
            may_go = may_go and (not self.is_refused or self._keeper.is_full) and self._is_trusted
            if may_go and self.log.appended:
                may_go = self._is_done_elsewhere()
            if not may_go or not self.needs.is_mirrored(self._scanned()):
                self.run_of.release()
            else:
                if self.needs.is_retained and self.log.appended:
                    self.run_of.retain()
                else:
                    self.run_of.retire()
                self.is_gone = True
        except OSError as exc:
            if is_first:
                _logger.warning("log not deleted", log=str(self.run_of.id), error=str(exc))

    def _scanned(self) -> dict[str, int]:
        return {name: worker.progress.scanned for name, worker in self.workers.items()}
