"""A log that another process writes, as a source: read without its lock, in whole commits, as they are written."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.sources.log import LogSource
from eventrec.log.reader import Extent, LogReader
from eventrec.log.segment import list_segments
from eventrec.records.content import is_ours
from eventrec.runtime.backend import in_thread
from eventrec.runtime.native import allocate_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from uuid import UUID

    from eventrec.log.disk import DiskStorage
    from eventrec.log.resync import IsOurs

_PIECE: Final = 1 << 20
_PIECES: Final = 16
"""So many pieces are looked through at once, at most."""

_NO_SEGMENT: Final = -1
_PATIENCE: Final = 0.5


class FollowedLog:
    """The log `id_` in `storage`, which another process writes. Nothing of it can be deleted here.

    What is written is what `look` has seen. A record is read once it is in the page cache, so it may be delivered
    before it is synced, as in the process that writes it. Blocking.
    """

    def __init__(self, storage: DiskStorage, id_: UUID, *, near: int = 0) -> None:
        """Look at where it begins and ends: from `near` on, where that offset was reached.

        Raises:
            OSError: The disk does not give it.
            LogError: Its newest segment is of a version that we cannot read.
        """
        self._storage = storage
        self._id = id_
        firsts = list_segments(storage)
        self.begins = firsts[0] if firsts else 0
        """Where its oldest segment began when it was opened."""
        self._looking = allocate_lock()
        self._is_closed = False
        # It ends at its newest segment or later: what lies before need not be read for that.
        newest = firsts[-1] if firsts else 0
        self._end = newest
        self._scout = self._reader(max(newest, near - 1))
        is_more = self.look()
        if self._end == newest < near:
            # The record before `near` is not there: that offset was never reached.
            self._scout.close()
            self._scout = self._reader(newest)
            is_more = True
        while is_more:
            is_more = self.look()

    def _reader(self, start: int) -> LogReader:
        return LogReader(self._storage, start, is_ours=partial(is_ours, log_id=self._id))

    def __repr__(self) -> str:
        return f"<FollowedLog end={self._end} in {self._storage!r}>"

    def look(self) -> bool:
        """Look how far it is written; whether that takes another look. Nothing once it is closed.

        Raises:
            FileNotFoundError: Its directory is not in its place any more.
            OSError, LogError: It cannot be read, for now.
        """
        with self._looking:
            if self._is_closed:
                return False
            self.check_in_place()
            for _ in range(_PIECES):
                if not self._scout.read(max_bytes=_PIECE):
                    return False
                self._end = max(self._end, self._scout.next_offset)
            return True

    def check_in_place(self) -> None:
        """Raise FileNotFoundError where its directory was deleted, or another one has its name."""
        if not self._storage.is_in_place():
            raise FileNotFoundError(f"{self._storage.directory} is not in its place any more")

    # -- as a log: see `Log`

    @property
    def first(self) -> int:
        """The first offset of the oldest segment that is there."""
        return min(list_segments(self._storage), default=self._end)

    @property
    def appended(self) -> int:
        """As `written`: of what its owner has in memory nothing is known."""
        return self._end

    @property
    def written(self) -> int:
        """Every record below was seen."""
        return self._end

    @property
    def readable(self) -> int:
        """Likewise."""
        return self._end

    @property
    def extent(self) -> Extent:
        """Up to where it was seen; in which segment that is, a reader finds out."""
        return Extent(_NO_SEGMENT, 0, self._end, 0)

    def reader(self, start: int = 0, *, is_ours: IsOurs | None = None) -> LogReader:
        """A reader of what was seen, from record `start` on.

        Raises:
            FileNotFoundError: Its directory is not in its place any more.
        """
        self.check_in_place()
        return LogReader(self._storage, start, is_ours=is_ours, extent=lambda: self.extent)

    def restore_deleted(self) -> int:
        """Nothing: its owner does. Returns its end; 0 where the segment it ends in was deleted, and may come again."""
        with self._looking:
            newest = self._scout.segment
        return self._end if newest is None or newest <= max(list_segments(self._storage), default=-1) else 0

    def sealed(self) -> list[tuple[int, int, int, float]]:
        """None: they are its owner's."""
        return []

    def was_torn(self, offset: int) -> bool:
        """False: its owner writes it, and has cut nothing."""
        del offset
        return False

    def has_grown(self) -> bool:
        """False: that it grows is what it is followed for."""
        return False

    def begin_segment(self) -> bool:
        """False: its owner does."""
        return False

    def delete_below(self, offset: int) -> int:
        """None: its owner does."""
        del offset
        return 0

    def drop_index(self, *, of_head: bool = False) -> bool:
        """False: its owner does."""
        del of_head
        return False

    def standing_still(self) -> AbstractContextManager[object]:
        """It goes on: its owner writes it."""
        return nullcontext()

    def close(self) -> None:
        """Give the descriptors back, once a look that is on has ended."""
        with self._looking:
            self._is_closed = True
            self._scout.close()

    def abandon(self) -> None:
        """In the child of a fork, where the thread that looks is not."""
        self._is_closed = True
        self._scout.close()


class FollowedSource(LogSource):
    """What `followed` has seen, as `LogSource` has it. What its owner deletes before it was read is lost."""

    window_bytes = 4 << 20

    def __init__(self, followed: FollowedLog, id_: UUID, *, first: int, on_move: Callable[[], object]) -> None:
        super().__init__(followed, id_, first=first, on_move=on_move)
        self._followed = followed

    @property
    def _begins_at_end(self) -> bool:
        return True

    async def _fill_window(self, start: int) -> int | None:
        first = await super()._fill_window(start)
        if first is not None and first > start:
            try:
                oldest = await in_thread(self._oldest)
            except OSError:
                # Not lost: gone from here, and perhaps in another directory of that name.
                await anyio.sleep(_PATIENCE)
                return None
            if first <= oldest:
                self._lost_as = "retention"
        return first

    def _oldest(self) -> int:
        self._followed.check_in_place()
        return self._followed.first
