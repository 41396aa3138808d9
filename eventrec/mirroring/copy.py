"""A mirror's copy of one log: a run in its directory, locked while the mirror runs, and an orphan after that."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING

from eventrec.errors import LogError, MirrorError, UnreadableFileError
from eventrec.log.maintenance import delete_below
from eventrec.log.mirror import OnTrailing, StreamWriter
from eventrec.log.segment import list_segments, replace_file
from eventrec.log.storage import write_all
from eventrec.mirroring.messages import Claim, Last
from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles
from eventrec.runs.files import decode, file_name
from eventrec.runs.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from eventrec.log.mirror import LastCommit
    from eventrec.runs.directory import LogDirectory


class Copy:
    """The copy of the log `id_` in `directory`, whose lock this process takes with `hold`. Blocking; from one thread.

    Attributes:
        is_dead: Whether it is a log of dead letters.
    """

    def __init__(self, directory: LogDirectory, id_: UUID, *, is_dead: bool) -> None:
        self.id = id_
        self.is_dead = is_dead
        self._checkpoints: dict[str, int] = {}
        self._records = 0
        self._directory = directory
        self._run: Run | None = None
        self._writer: StreamWriter | None = None
        self._last: LastCommit | None = None

    def __repr__(self) -> str:
        return f"<Copy {self.id} {self._writer!r}>"

    def hold(self, *, create: bool = False) -> bool:
        """Have its lock; with `create` it is made where it is not there. False: it is not there.

        Raises:
            MirrorError: Another process holds it.
            OSError: It cannot be made.
            LogError: Locks do not work in that file system.
        """
        if self._run is not None:
            return True
        found = Run.try_adopt(self._directory, self.id)
        if isinstance(found, Run):
            self._run = found
            return True
        if found == "held":
            raise MirrorError(f"another process holds {self._directory.path / str(self.id)}")
        if create:
            self._run = Run.create(self._directory, self.id)
        return create

    def claim(self) -> Claim:
        """What it has, synced: to be asked for while it is held, and no stream is being written. Raises as `begin`."""
        if self._last is None:
            self._open()
        last = self._last
        given = None if last is None else Last(*last)
        return Claim(run=self.id, is_dead=self.is_dead, last=given)

    def begin(self, *, is_fresh: bool, checkpoints: list[str]) -> None:
        """A stream begins, behind what it has; with `is_fresh` that goes first.

        Checkpoints whose files are not named go.

        Raises:
            MirrorError: Another process holds it.
            LogError: It cannot be written.
            OSError: Likewise.
        """
        self._shut()
        if is_fresh and self._run is None and self.hold():
            # It was not there when the source was told what is: another process made it, or put it there.
            raise MirrorError(f"{self._directory.path / str(self.id)} is there, and the source does not know of it")
        if is_fresh and self._run is not None:
            run, self._run = self._run, None
            self._last = None
            run.retire()
        self.hold(create=True)
        self._checkpoints, self._records = {}, 0
        run_ = self._held()
        with suppress(FileNotFoundError, NotADirectoryError):
            for name in CheckpointFiles(run_.storage).names():
                if name not in checkpoints:
                    self._remove(name)
        self._open()

    def write(self, piece: bytes | memoryview, *more: bytes | memoryview) -> None:
        """The next bytes of the stream, in pieces. Raises as `StreamWriter.write`."""
        self._opened().write(piece, more=more)

    def syncing(self) -> Callable[[], int]:
        """What has on the disk what came whole, and returns the record after it: see `StreamWriter.sync_beside`."""
        return self._opened().sync_beside

    def take_checkpoints(self) -> dict[str, int]:
        """The `scanned` of each checkpoint that came since the last call, in this stream, by the name of its file."""
        taken, self._checkpoints = self._checkpoints, {}
        return taken

    def take_records(self) -> int:
        """How many were written since the last call, in this stream."""
        records = self._opened().records
        taken, self._records = records - self._records, records
        return taken

    def sync_all(self) -> None:
        """Have its indexes on the disk too. Raises as `StreamWriter.sync_all`."""
        self._opened().sync_all()

    def sync_unsynced(self) -> None:
        """Have on the disk what came whole, where anything did that is not. Raises as `StreamWriter.sync_beside`."""
        if self._writer is not None and self._writer.synced != self._writer.next_offset:
            self._writer.sync_beside()

    def check_in_place(self) -> None:
        """See that what was synced is what is found by the name of the log.

        Raises:
            OSError: The copy was taken away.
        """
        self._held().check_in_place()

    def save_checkpoint(self, name: str, content: bytes | None) -> None:
        """Put a checkpoint's file there as the source has it, durably; None: it goes.

        What its log has is synced before.

        Raises:
            MirrorError: It is not one, or not of that name.
            LogError, OSError: The disk refused.
        """
        if content is None:
            self._remove(name)
            self._checkpoints.pop(name, None)
            return
        try:
            checkpoint, _ = decode(content, Checkpoint)
        except UnreadableFileError as exc:
            raise MirrorError(f"a checkpoint that cannot be read: {exc}") from exc
        if file_name(checkpoint.subscription) != name:
            raise MirrorError(f"a checkpoint of {checkpoint.subscription!r} by another name")
        self.sync_unsynced()
        run = self._held()
        with closing(run.storage.folder(CHECKPOINTS, create=True)) as folder:
            replace_file(folder, name, lambda file: write_all(file, content, 0))
        self._checkpoints[name] = checkpoint.progress.scanned

    def _remove(self, name: str) -> None:
        with (
            suppress(FileNotFoundError, NotADirectoryError),
            closing(self._held().storage.folder(CHECKPOINTS)) as folder,
        ):
            if name in CheckpointFiles(self._held().storage).names():
                folder.delete(name)
                folder.sync_directory()

    def trim(self, first: int) -> None:
        """The source's log begins at `first`: what lies below goes here too, as far as every checkpoint is past it.

        Raises:
            OSError: The disk refused.
        """
        run, saved = self._held(), CheckpointFiles(self._held().storage).look()
        if saved.unreadable or saved.newer or not saved.checkpoints:
            return
        lowest = min(each.progress.scanned for each in saved.checkpoints.values())
        firsts = list_segments(run.storage)
        if firsts and firsts[0] < first:
            delete_below(run.storage, min(first, lowest), head=firsts[-1])

    def retire(self) -> bool:
        """The source has it no more: delete it, where its checkpoints say that all is settled. Whether it was.

        One that is kept is let go: it is an orphan then, to be delivered from here.

        Raises:
            OSError, LogError: The disk refused.
        """
        self._shut()
        if not self.hold() or self._run is None:
            return True
        run, last = self._run, self.claim().last
        self._shut()
        end = 0 if last is None else last.next_offset
        saved = CheckpointFiles(run.storage).look()
        is_known = bool(saved.checkpoints) and not (saved.unreadable or saved.newer)
        is_settled = is_known and all(each.progress.scanned >= end for each in saved.checkpoints.values())
        self._run = None
        if not is_settled and end:
            run.release()
            return False
        run.retire()
        return True

    def rest(self) -> None:
        """The connection ended: what came whole is synced, and is what it claims next. Errors are met again then."""
        self._shut()

    def close(self) -> None:
        """Let go of it."""
        self._shut()
        run, self._run = self._run, None
        if run is not None:
            with suppress(OSError):
                run.release()

    def _shut(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
                self._last = writer.last
            except (LogError, OSError):
                self._last = None  # What it has, its files say.

    def _open(self) -> None:
        self._writer = StreamWriter.create(self._held().storage, on_trailing=OnTrailing.TRIM, allows_gaps=True)
        self._last = self._writer.last

    def _opened(self) -> StreamWriter:
        if self._writer is None:
            raise MirrorError("its stream has not begun")
        return self._writer

    def _held(self) -> Run:
        if self._run is None:
            raise MirrorError(f"{self._directory.path / str(self.id)} is not held")
        return self._run
