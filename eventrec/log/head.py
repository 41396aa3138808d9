"""The head: the one segment that is being written."""

from __future__ import annotations

import bisect
import contextlib
import errno
import itertools
from collections import deque
from typing import TYPE_CHECKING, Final

from eventrec.log.commit import MAX_OFFSET
from eventrec.log.holes import pieces
from eventrec.log.index import ENTRY_SIZE, INDEX_INTERVAL, Entry, IndexPlan, encode_entries
from eventrec.log.repair import cut_index, rebuild_index
from eventrec.log.segment import index_name, load_index, replace_file, segment_name
from eventrec.log.storage import File, Storage, write_all, write_some

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ENTRIES_PER_WRITE: Final = 256
"""A page at once: an index file dirtied at every sync would slow each of them."""

SPARED: Final = 64 << 10
"""Bytes of a full disk that are left: a checkpoint needs them."""

SPARED_FILES: Final = 4
"""Files without which no segment is begun on a full disk: it takes two, with its index, and checkpoints the rest."""

SPARED_AT_END: Final = 24 << 10
"""How many of these bytes are left by what is written last: the next process needs them to begin."""

SPARED_BY_LETTERS: Final = 16 << 10
"""How many are left by dead letters, which hold up what makes room: checkpoints need these."""

SPARED_FILES_AT_END: Final = 3

DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class Head:
    """Segment `first`, to be written from byte `position` on, which is always the end of a whole commit."""

    def __init__(self, storage: Storage, first: int, position: int, *, index_interval: int = INDEX_INTERVAL) -> None:
        self.first = first
        self.position = position
        self._start = position
        self._file = storage.open(segment_name(first), "write")
        self._identity = storage.size(segment_name(first)).identity
        self._storage = storage
        self._index_interval = index_interval
        self._plan = IndexPlan(index_interval)
        self._due: deque[Entry] = deque()
        self._indexed = MAX_OFFSET
        self._index: File | None = None
        self._index_size = 0
        self._is_index_unsynced = self._is_index_unnamed = False

    def write(self, commits: Sequence[bytes]) -> None:
        """Write to the page cache. On an OSError too, `position` is past the last commit that is there.

        Where a large write fills the disk, the end of it is given back, so that a checkpoint still finds room.

        Raises:
            FileNotFoundError: The segment has no name any more, or another file has it: a promise about it would be
                worth nothing.
            OSError: The disk refused.
        """
        self.check_name()
        content = commits[0] if len(commits) == 1 else b"".join(commits)
        position, end = self.position, self.position + len(content)
        try:
            while position < end:
                position += write_some(self._file, content[position - self.position :], position)
        except OSError as exc:
            if exc.errno in DISK_FULL and position - self.position > 2 * SPARED:
                position -= SPARED
            ends = list(itertools.accumulate(map(len, commits), initial=self.position))
            self.position = ends[bisect.bisect_right(ends, position) - 1]
            # What could not be cut is overwritten by the next write, which begins at the same place.
            with contextlib.suppress(OSError):
                self._file.truncate(self.position)
            raise
        self.position = end

    def note(self, offset: int, position: int, size: int) -> None:
        """Remember a written commit for the index."""
        if entry := self._plan.note(offset, position, size):
            self._due.append(entry)

    def note_again(self, commits: Iterable[tuple[int, int, int]], *, indexed: int) -> None:
        """Remember commits that were written before, as `note` has them: the index knows those up to `indexed`."""
        self._indexed = indexed
        for commit in commits:
            if (entry := self._plan.note(*commit)) and entry.offset > indexed:
                self._due.append(entry)

    def sync(self) -> None:
        """On return what was written before the call survives a power cut, and the file has its name.

        Raises:
            OSError: This file must never be synced again.
        """
        self.sync_commits()
        self.spill_index()

    def sync_commits(self) -> None:
        """As `sync`, and the index is not touched: another thread may write meanwhile."""
        self._file.sync()
        self.check_name()

    def spill_index(self) -> None:
        """Write what the index lacks, if that is much, or it has no file yet: see `drop_index`."""
        if len(self._due) >= (_ENTRIES_PER_WRITE if self._index is not None else 1):
            self._write_index()

    def drop_index(self) -> bool:
        """Delete the index file, which readers do without; False: there is none. On a full disk that room is free."""
        if self._index is not None:
            self._index.close()
            self._index = None
        try:
            self._storage.delete(index_name(self.first))
        except FileNotFoundError:
            return False
        return True

    def check_name(self) -> None:
        """Raise FileNotFoundError where another program has deleted or replaced the file: readers find it by name."""
        name = segment_name(self.first)
        try:
            found = self._storage.size(name)
        except FileNotFoundError:
            raise
        except OSError:  # Whether it is there cannot be told.
            return
        if found.identity != self._identity:
            raise FileNotFoundError(errno.ENOENT, "another file has its name", name)

    def copy_to(self, storage: Storage, size: int) -> None:
        """Have the first `size` bytes of the segment in `storage` under its name, unless something has that there.

        The file is read by its descriptor, so that it need not have a name any more. On return the copy is synced.

        Raises:
            OSError: The disk refused.
        """
        name = segment_name(self.first)
        if name in storage.list():
            return

        def copy(file: File) -> None:
            for position, piece in pieces(self._file, 0, size):
                write_all(file, piece, position)

        replace_file(storage, name, copy)
        rebuild_index(storage, self.first, self._index_interval)

    def restore(self, commits: Sequence[bytes], position: int) -> None:
        """Have the page cache hold `commits` again, if that can be done: after a failed sync it may drop them."""
        with contextlib.suppress(OSError):
            write_all(self._file, b"".join(commits), position)

    def cut(self, position: int) -> None:
        """Cut the file, and its index, if that can be done."""
        with contextlib.suppress(OSError):
            self._file.truncate(position)
        self._due = deque(entry for entry in self._due if entry.position < position)
        self._start = min(self._start, position)
        if self._index is not None:
            self._index.close()
            self._index = None
        cut_index(self._storage, self.first, position)

    def sync_index(self) -> None:
        """Write what the index lacks, and have it on the disk, if that can be done: it is only a hint."""
        self._write_index()
        if self._index is not None and self._is_index_unsynced:
            with contextlib.suppress(OSError):
                self._index.sync()
                if self._is_index_unnamed:
                    self._storage.sync_directory()
                self._is_index_unsynced = self._is_index_unnamed = False

    def abandon(self) -> None:
        """Give the descriptors back and do nothing else."""
        self._due.clear()
        self.close()

    def close(self) -> None:
        """Give the descriptors back, and the index what it lacks."""
        self._write_index()
        self._file.close()
        if self._index is not None:
            self._index.close()

    def _write_index(self) -> None:
        """Write the entries that are due: never synced, and given up where the disk refuses, for it is only a hint."""
        entries = []
        while self._due:
            entries.append(self._due.popleft())
        if not entries:
            return
        try:
            if self._index is None:
                self._index, self._index_size = self._open_index()
            self._is_index_unsynced = True
            self._index_size = write_all(self._index, encode_entries(entries), self._index_size)
        except OSError:
            self._due.clear()

    def _open_index(self) -> tuple[File, int]:
        """The index file, cut to the entries that can be right, and its size."""
        kept = itertools.takewhile(
            lambda entry: entry.position < self._start and entry.offset <= self._indexed,
            load_index(self._storage, self.first),
        )
        size = ENTRY_SIZE * sum(1 for _ in kept)
        try:
            file = self._storage.open(index_name(self.first), "write")
        except FileNotFoundError:
            self._is_index_unnamed = True
            return self._storage.open(index_name(self.first), "create"), 0
        try:
            file.truncate(size)
        except OSError:
            file.close()
            raise
        return file, size
