"""The checkpoints of one log: when they are saved, how durably, and whether the disk took them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import anyio

from eventrec.delivery.saving import Saving
from eventrec.errors import TransientError
from eventrec.log.head import DISK_FULL
from eventrec.runs.checkpoint import CheckpointFiles
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from eventrec.runs.checkpoint import Checkpoint
    from eventrec.runs.run import Run

_logger = get_logger("eventrec.delivery")

_BETWEEN_SAVES: Final = 0.05
"""Seconds: as much as a handler without checkpoints of its own may have to take again after a crash."""

_BETWEEN_TRIES: Final = 1.0
"""Seconds: what the disk refused is tried again, though nothing moves meanwhile."""


class Save(NamedTuple):
    """What is to be put on the disk, and how.

    Attributes:
        checkpoints: Those that are due.
        lowest: What lies below may go once all that was saved is durable.
        sync: Whether it has to be.
        is_full: Whether the disk is expected to be.
        must_renew: See `CheckpointKeeper.save`.
    """

    checkpoints: Mapping[str, Checkpoint]
    lowest: int
    sync: bool
    is_full: bool = False
    must_renew: bool = False


class CheckpointKeeper:
    """Saves what `now()` gives, each time something moved. For the loop's thread.

    `write`, in a thread, puts a `Save` on the disk: whether all that was saved so far is durable now. `is_named` says
    that the directory of `run` was synced since the folder of the checkpoints was made in it. `end()` is where the log
    ends. `on_saved` is called after each try.
    """

    def __init__(
        self,
        run: Run,
        *,
        sync: Literal["interval", "never", "take"],
        sync_interval: float,
        is_named: bool,
        now: Callable[[], dict[str, Checkpoint]],
        end: Callable[[], int],
        write: Callable[[Save], bool],
        on_saved: Callable[[], None],
    ) -> None:
        self.files = CheckpointFiles(run.storage, is_named=is_named)
        self.is_unsaved = False
        """Whether the disk did not take the checkpoints when they were saved last."""
        self.is_full = False
        """Whether that was since it has no room for them."""
        self.is_refused = False
        """Whether they were not saved, or may not be any more, since it has ended."""
        self._run = run
        self._incarnation = run.incarnation
        self._sync = sync
        self._sync_interval = sync_interval
        self._now = now
        self._end = end
        self._write = write
        self._on_saved = on_saved
        self._saved = Saving()
        self._saving = anyio.Lock()
        self._moved = anyio.Event()
        self._is_ended = False

    def __repr__(self) -> str:
        state = "full" if self.is_full else "refused" if self.is_refused else "taken"
        return f"<CheckpointKeeper of {self._run.id} {state} {self._saved!r}>"

    def note_moved(self) -> None:
        """A checkpoint may be another one now."""
        self._moved.set()

    async def moved_once(self) -> None:
        """Return once something has moved, or after 50 ms."""
        with anyio.move_on_after(_BETWEEN_SAVES):
            await self._moved.wait()

    def covers(self, names: Collection[str]) -> bool:
        """Whether all that is not synced is among `names`."""
        return self._saved.covers(names)

    async def save(self, *, sync: bool, must_delete: bool = False, must_renew: bool = False) -> None:
        """Save every checkpoint that changed; with `sync` durably, and then delete what all are past.

        `must_delete`: also where none changed, on a disk that is expected to be full. `must_renew`: what all are past
        is all that is written, and nothing more is until it went: see `forfeiting.renew`.
        """
        async with self._saving:
            if self._is_ended:
                self.is_refused = True  # A handler that did not let go in time is back: the log may be another's now.
                return
            if self._run.incarnation != self._incarnation:
                # The directory was deleted, and the writer made it again.
                self._incarnation = self._run.incarnation
                self.files = CheckpointFiles(self._run.storage)
                self._saved.lose_all()
            now = self._now()
            due = self._saved.due(now, sync=sync)
            if due or must_delete or self.is_refused:
                lowest = min((each.progress.scanned for each in now.values()), default=self._end())
                await self._try(Save(due, lowest, sync, is_full=must_delete, must_renew=must_renew))
        self._on_saved()

    async def _try(self, save: Save) -> None:
        try:
            durable = await in_thread(self._write, save)
        except Exception as exc:  # noqa: BLE001 - whatever a disk, or a name, makes of it: it is tried again
            self.is_full = isinstance(exc, OSError) and exc.errno in DISK_FULL
            if not self.is_refused:
                self.is_unsaved = self.is_refused = True
                self.note_moved()  # From now on it is tried again.
                _logger.warning("checkpoint not saved", log=str(self._run.id), error=described(exc))
            return
        self.is_unsaved = self.is_refused = self.is_full = False
        self._saved.note(save.checkpoints, synced_at=anyio.current_time() if durable else None)

    def note_saved(self, checkpoints: Mapping[str, Checkpoint], *, is_synced: bool) -> None:
        """A log of our own was begun with `checkpoints`. What is saved already is not saved again."""
        if checkpoints and self._incarnation == 1:  # Else they went with the directory.
            self._saved.note(checkpoints, synced_at=anyio.current_time() if is_synced else None)

    async def run(self) -> None:
        """Save them until cancelled."""
        while True:
            with anyio.move_on_after(self._next_save()):
                await self._moved.wait()
            self._moved = anyio.Event()
            is_due = self._saved.is_due(anyio.current_time(), self._sync_interval)
            await self.save(sync=self._sync == "take" or (self._sync == "interval" and is_due))
            await anyio.sleep(_BETWEEN_SAVES)

    def _next_save(self) -> float | None:
        """In how many seconds the checkpoints are to be saved, though none moves; None: not before one does."""
        if self.is_refused:
            return _BETWEEN_TRIES
        return self._sync_interval if self._saved.unsynced and self._sync == "interval" else None

    async def freeze(self) -> None:
        """Make the checkpoints durable.

        Raises:
            TransientError: The disk refused, so the batch must not be sent.
        """
        if not await self.can_save():
            raise TransientError("the checkpoint cannot be saved")

    async def can_save(self) -> bool:
        """Whether the disk takes the checkpoints: saves them, durably."""
        await self.save(sync=True)
        return not self.is_refused

    def end(self) -> None:
        """Save nothing more: the log is let go of."""
        self._is_ended = True
