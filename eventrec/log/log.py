"""The log: append, write and sync numbered records; read them while they are written; keep going when the disk fails.

    append   the commits are taken: encoded, in memory, numbered for ever
    write    the commits are written: in the page cache, they survive the end of the process
    sync     the commits are synced: on the disk, they survive a power cut

Each of the three is a next offset that only rises, `synced <= written <= appended`. What is not yet synced is kept, so
that a failed sync loses nothing: after it the file may hold anything, and a later success of fsync means nothing, so
the kept commits are written again, byte for byte, into a new segment that begins at the synced offset, which appears
only when it is whole and synced; then the old file is cut there, and never synced again. Should the cut not reach
the disk, its rest is superseded: a segment ends where the next one begins.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Self

from eventrec.errors import LogError
from eventrec.log import maintenance
from eventrec.log.reader import LogReader
from eventrec.log.repair import Recovered, recover
from eventrec.log.segment import index_name, list_segments, segment_name
from eventrec.log.writer import LogOptions, LogWriter, translated
from eventrec.runtime.logging import get_logger
from eventrec.runtime.native import allocate_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from eventrec.log.resync import IsOurs
    from eventrec.log.storage import FileSize, Storage
    from eventrec.log.walk import Gap

__all__ = ["Log", "LogOptions"]

_logger = get_logger(__name__)


class Log(LogWriter):
    """One writer's log in a directory of its own: no other may write there, any reader may read.

    Every method may be called from any thread. `append` and `write` wait for each other, but not for a sync in
    another thread, except where `write` begins a new segment or too much is kept.

    Attributes:
        recovered: How the directory was found.
        failed_syncs: How often commits had to be moved because a sync failed.
    """

    def __init__(self, storage: Storage, options: LogOptions, found: Recovered) -> None:
        """Not to be called: see `create` and `open`."""
        self._maintaining = allocate_lock()
        super().__init__(storage, options, found)

    @classmethod
    def create(cls, storage: Storage, options: LogOptions | None = None, *, first: int = 0, epoch: int = 0) -> Self:
        """A new log whose first record is `first`. On return it is on the disk.

        Raises:
            LogError: There is a log already.
            LogWriteError: The disk refused.
        """
        with translated("create a log"):
            if list_segments(storage):
                raise LogError("there is a log already: open it")
            return cls(storage, options or LogOptions(), Recovered(None, 0, first, epoch, (), 0))

    @classmethod
    def open(
        cls,
        storage: Storage,
        options: LogOptions | None = None,
        *,
        strict: bool = False,
        is_ours: IsOurs | None = None,
        at_least: int = 0,
        counts_tail: bool = False,
    ) -> Self:
        """Go on with the log that is there, or begin one at record 0. Reads the last segment only, and syncs it again.

        A torn tail is cut; damage is passed over, kept in a side file and listed in `recovered`. On return all that
        the log holds is synced. Offsets of commits that were cut are given out again, unless `at_least` says from
        where on new ones are free.

        Raises:
            CorruptCommitError: `strict`, and there is damage in the last segment.
            LogWriteError: The disk refused.
        """
        with translated("open the log"):
            found = recover(storage, strict=strict, is_ours=is_ours, at_least=at_least, counts_tail=counts_tail)
            log = cls(storage, options or LogOptions(), found)
        if found.gaps or found.cut or found.lost:
            _logger.warning(
                "log recovered",
                storage=repr(storage),
                end=found.end,
                gaps=len(found.gaps),
                cut=found.cut,
                lost_records=found.lost,
            )
        return log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reader(
        self,
        start: int = 0,
        *,
        strict: bool = False,
        is_ours: IsOurs | None = None,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> LogReader:
        """A reader of this log from record `start`: it sees what is written, at once, and nothing of a failed sync."""
        return LogReader(
            self._storage, start, strict=strict, is_ours=is_ours, on_gap=on_gap, extent=self._readable, repair=True
        )

    @property
    def first(self) -> int:
        """The first offset of the oldest segment that is there."""
        return min(list_segments(self._storage), default=self._head.first)

    def sealed(self) -> list[tuple[int, int, int, float]]:
        """The segments that are not written any more, oldest first: first offset, end, bytes, seconds since written.

        Raises:
            LogError: The directory cannot be read.
        """
        with translated("list segments"):
            return maintenance.sealed(self._storage, head=self._head.first)

    def was_torn(self, offset: int) -> bool:
        """Whether what stood at `offset` was a torn tail, which was cut when this was opened."""
        found = self.recovered
        return found.lost_from <= offset < found.lost_from + found.lost

    def has_grown(self) -> bool:
        """Whether another process has written into it: never, where locks mean something."""
        with translated("look at the head"):
            newest = max(list_segments(self._storage), default=0)
            written = self._storage.size(segment_name(self._head.first)).length
            return newest > self._head.first or written > self._head.position

    def delete_below(self, offset: int) -> int:
        """Delete the sealed segments all of whose records are below `offset`. Returns how many.

        On return they are gone for good. That they are not needed, the caller made durable before.

        Raises:
            LogWriteError: The disk refused; some may be gone.
        """
        with self._maintaining, translated("delete segments"):
            return maintenance.delete_below(self._storage, offset, head=self._head.first)

    def drop_index(self, *, of_head: bool = False) -> bool:
        """Delete the index of one sealed segment, which readers do without; False: there is none. That room is free.

        With `of_head`, where none of these has one, that of the segment that is written.

        Raises:
            OSError: The disk refused.
        """
        for first in list_segments(self._storage):
            if first < self._head.first:
                with suppress(FileNotFoundError):
                    self._storage.delete(index_name(first))
                    return True
        with self._writing, self._syncing:
            return of_head and self._head.drop_index()

    def standing_still(self) -> AbstractContextManager[object]:
        """While it is entered, nothing is written, and no segment begun: what that needs for a moment is free."""
        return self._writing

    def compress_below(self, offset: int) -> tuple[int, int]:
        """Compress the sealed segments all of whose records are below `offset` and which are not yet.

        Returns the bytes of them before and after. Each is replaced when its compressed form is on the disk.

        Raises:
            LogWriteError: The disk refused; some may be compressed.
            LogError: zstd is not installed.
        """
        with self._maintaining, translated("compress segments"):
            return maintenance.compress_below(self._storage, offset, head=self._head.first)

    def reset_to(self, offset: int) -> None:
        """Forget every commit after the one that holds record `offset`, which stays whole. Older readers are void.

        Raises:
            ValueError: That record is deleted. Nothing was changed.
            LogWriteError: The disk refused. The log goes on with what is left, or is closed if it cannot.
        """
        self._reset(lambda: maintenance.cut_after(self._storage, offset))

    def reset(self) -> None:
        """Forget everything, and begin again at record 0. Older readers are void. Raises as `reset_to`."""
        self._reset(lambda: maintenance.delete_all(self._storage))

    def _reset(self, cut: Callable[[], None]) -> None:
        with self._maintaining, self._writing:
            self.write()
            with self._syncing, translated("reset the log"):
                self.sync()
                self._is_closed = True
                self._head.close()
                try:
                    cut()
                finally:
                    self._generation += 1
                    self._begin(recover(self._storage, strict=False, is_ours=None, at_least=0))
                    self._is_closed = False

    def size(self) -> FileSize:
        """Bytes of all files in the directory, and what the disk gave them."""
        with translated("measure the log"):
            return maintenance.directory_size(self._storage)
