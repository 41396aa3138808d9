"""Delivery of a log that another process writes: its records, with our checkpoints beside those of its owner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from eventrec.delivery.log_delivery import LogDelivery
from eventrec.delivery.orphans.opened_orphan import OpenedOrphan, check_saved
from eventrec.delivery.sources.followed import FollowedLog, FollowedSource
from eventrec.errors import LogError
from eventrec.runs.checkpoint import CheckpointFiles, Saved

if TYPE_CHECKING:
    from collections.abc import Collection

    from eventrec.delivery.checkpoint_keeper import Save
    from eventrec.delivery.sources.log import LogSource
    from eventrec.runs.followed import FollowedRun


class FollowedDelivery(LogDelivery):
    """Delivers a `FollowedLog` until it is ended. It deletes nothing, and retires nothing."""

    is_held = False
    _running: anyio.CancelScope | None = None
    _is_left = False
    """Whether the process that holds it turned out to deliver one of our subscriptions itself."""

    async def run(self, *, until_settled: bool = False) -> None:
        """As `LogDelivery.run`; it returns too where the log is to be looked at again, for whom it is followed."""
        with anyio.CancelScope() as self._running:
            if not self._is_left:  # pragma: no branch - it is found when the first checkpoint is saved
                await super().run(until_settled=until_settled)

    def _note_try(self) -> None:
        # For a subscription that the log's holder delivers the checkpoint is its own.
        if self._is_left and self._running is not None:
            self._running.cancel()

    @property
    def is_done(self) -> bool:
        """False: its owner says when it is."""
        return False

    @property
    def followed(self) -> FollowedLog:
        """The log that is followed."""
        assert isinstance(self.log, FollowedLog)  # noqa: S101 - it is made with one
        return self.log

    def _source_of(self, first: int, *, is_orphan: bool) -> LogSource:
        del is_orphan
        return FollowedSource(self.followed, self.run_of.id, first=first, on_move=self._keeper.note_moved)

    def _save(self, save: Save) -> bool:
        """In a thread. Whether all that was saved so far is durable now; False too where the log is not there any more.

        Then its owner has retired it, since all of it is settled; or its directory was deleted. It deletes nothing, so
        nothing makes room here.
        """
        try:
            self.followed.check_in_place()
            for name, checkpoint in save.checkpoints.items():
                # Its owner may have begun, or saved its first one, after we had looked.
                if self._keeper.files.is_of_holder(name):
                    self._is_left = True
                else:
                    self._keeper.files.save(checkpoint, sync=save.sync)
            if save.sync:
                self._keeper.files.sync_names()
        except FileNotFoundError:
            if self.run_of.is_in_place():
                raise
            self.is_gone = True
            return False
        return save.sync

    async def stamp(self, *, is_first: bool = True) -> None:
        """Nothing: it is not over."""

    def _end(self, *, is_first: bool) -> None:
        del is_first
        self.source.close()
        self.log.close()
        self.run_of.release()


def open_followed(
    run: FollowedRun, names: Collection[str], *, new: Collection[str] = ()
) -> tuple[OpenedOrphan | None, frozenset[str]]:
    """The log of `run`, and those of the subscriptions `names` that the process which holds it delivers itself.

    None: there is nothing to do for the others. A subscription without a checkpoint has all of it to do, if there is a
    record. Those of `new` without one get what their `start` says. Blocking.

    Raises:
        OSError: The disk refused.
        LogError: It or a checkpoint is of a version that we cannot read.
    """
    saved = CheckpointFiles(run.storage).look(says_forbidden=False)
    check_saved(saved)
    furthest = max((each.progress.scanned for each in saved.checkpoints.values()), default=0)
    log = FollowedLog(run.storage, run.id, near=furthest)
    is_empty = log.written == log.begins
    holders = frozenset(name for name in names if not is_empty and _is_holders(name, saved))
    scanned = [_scanned(name, saved, log.begins) for name in names if name not in holders]
    if scanned and max(scanned) > log.written:
        log.close()
        raise LogError(f"a checkpoint is at {max(scanned):,}, and the log ends at {log.written:,}")
    if is_empty or all(each >= log.written for each in scanned):
        log.close()
        return None, holders
    known = frozenset(names) - frozenset(new)
    return OpenedOrphan(log, log.begins, saved, known), holders


def _scanned(name: str, saved: Saved, begins: int) -> int:
    return saved.checkpoints[name].progress.scanned if name in saved.checkpoints else begins


def _is_holders(name: str, saved: Saved) -> bool:
    return name in saved.checkpoints and saved.checkpoints[name].by_holder
