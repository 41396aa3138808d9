"""A log on the disk as a source: read off the loop, decoded once for all workers that are near each other."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Literal

import anyio

from eventrec.delivery.sources.source import Records
from eventrec.errors import ContentError, LogError
from eventrec.records.content import ContentDecoder
from eventrec.records.entry import SIZE
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from eventrec.log.commit import Commit
    from eventrec.log.log import Log
    from eventrec.log.reader import LogReader
    from eventrec.records.entry import Entry

WINDOW_BYTES: Final = 8 << 20
"""Bytes of decoded commits kept for the next reader, by the size that entries count."""

READ_BYTES: Final = 1 << 20
_READERS: Final = 4
_THREADS: Final = 2
_PATIENCE: Final = 0.5

_logger = get_logger("eventrec.delivery")


class LogSource:
    """One log, which begins at `first`, read by several subscriptions at their own pace. For the loop's thread alone.

    `on_lost(name, count)` is called for records that `name` reached and nobody can read any more; they count as
    `dropped[corrupt]`.
    """

    def __init__(
        self,
        log: Log,
        id_: UUID,
        *,
        first: int = 0,
        static_context: bytes | None,
        on_lost: Callable[[str, int], None],
        on_move: Callable[[], object],
    ) -> None:
        self.id = id_
        self.static_context = static_context
        self._first = first
        self._log = log
        self._on_lost = on_lost
        self._on_move = on_move
        self._is_unreadable = False
        self._floor = 0
        self._positions: dict[str, int] = {}
        self._window: OrderedDict[int, tuple[Sequence[Entry], int]] = OrderedDict()
        """Entries and their bytes, by first offset, in the order of their last use."""
        self._starts: list[int] = []
        self._window_bytes = 0
        self._readers: OrderedDict[int, LogReader] = OrderedDict()
        self._decoder = ContentDecoder()
        self._limiter = anyio.CapacityLimiter(_THREADS)
        self._reading = anyio.Lock()
        self._grown = anyio.Event()

    def __repr__(self) -> str:
        return f"<LogSource {self.id} end={self.end}>"

    @property
    def end(self) -> int:
        """What is written; or what a destination has, which is more than a log that lost its tail."""
        self._floor = max(self._floor, self._log.readable)
        return self._floor

    def subscribe(self, name: str, start: Literal["earliest", "latest"], on_forfeit: Callable[[Entry], None]) -> int:
        """`on_forfeit` is never called: what a subscription forfeits, its worker is told."""
        del on_forfeit
        self._positions[name] = self._first if start == "earliest" else self.end
        return self._positions[name]

    def position(self, name: str) -> int:
        return self._positions[name]

    def fetched(self, name: str, next_offset: int) -> None:
        self._positions[name] = max(self._positions[name], next_offset)
        self._floor = max(self._floor, next_offset)

    async def oldest(self) -> int:
        return await in_thread(lambda: self._log.first)

    def rewind(self, name: str, offset: int) -> None:
        self._positions[name] = offset

    def acknowledge(self, name: str, next_offset: int) -> None:
        """It stands in the checkpoint soon, and what all checkpoints are past is deleted then."""
        del name, next_offset
        self._on_move()

    def grew(self) -> None:
        """There may be more to read."""
        grown, self._grown = self._grown, anyio.Event()
        grown.set()

    async def wait_past(self, offset: int) -> None:
        while self.end <= offset:
            await self._grown.wait()

    # -- reading

    async def read(self, start: int, *, max_records: int, max_bytes: int) -> Records:
        found = self._from_window(start, max_records, max_bytes)
        if not found and start < self.end:
            async with self._reading:
                # Another worker may have read it meanwhile.
                found = self._from_window(start, max_records, max_bytes)
                if not found and (first := await self._fill_window(start)) is not None:
                    if first > start:
                        self._lose(start, first)
                        return Records(first, first, ())
                    found = self._from_window(start, max_records, max_bytes)
        return Records(start, start + len(found), found)

    async def _fill_window(self, start: int) -> int | None:
        """Read on at `start`; the first offset there is now. None: nothing can be read for the moment."""
        readable = self._log.readable
        try:
            commits = await in_thread(self._read_commits, start, limiter=self._limiter)
            if not commits and start < readable:
                # Nothing but a second look, by a reader of its own, says that what is written is lost.
                commits = await in_thread(self._read_anew, start, limiter=self._limiter)
        except (LogError, OSError) as exc:
            if not self._is_unreadable:
                _logger.warning("log unreadable", log=str(self.id), offset=start, error=str(exc))
            self._is_unreadable = True
            await anyio.sleep(_PATIENCE)
            return None
        self._is_unreadable = False
        # The one that is asked for comes last, so that no other one of this read pushes it out of the window.
        for first, entries, size in reversed(commits):
            self._keep(first, entries, size)
        if commits:
            return commits[0][0]
        if start < readable:
            return readable
        if readable == self._log.written:
            # A destination had more than a log that lost its tail: what lies between is gone.
            return self.end
        # A sync failed: until it is mended only what is synced may be read.
        await anyio.sleep(_PATIENCE)
        return None

    def _from_window(self, start: int, max_records: int, max_bytes: int) -> Sequence[Entry]:
        found: list[Entry] = []
        size = 0
        while len(found) < max_records:
            offset = start + len(found)
            place = bisect_right(self._starts, offset) - 1
            if place < 0:
                break
            first = self._starts[place]
            entries, _ = self._window[first]
            if offset >= first + len(entries):
                break
            self._window.move_to_end(first)
            for entry in entries[offset - first : offset - first + max_records - len(found)]:
                size += entry[SIZE]
                if size > max_bytes and found:
                    return found
                found.append(entry)
        return found

    def _keep(self, first: int, entries: Sequence[Entry], size: int) -> None:
        if first in self._window:
            return
        self._window[first] = (entries, size)
        insort(self._starts, first)
        self._window_bytes += size
        while self._window_bytes > WINDOW_BYTES and len(self._window) > 1:
            oldest, (_, freed) = next(iter(self._window.items()))
            if oldest == first:
                break
            del self._window[oldest]
            del self._starts[bisect_right(self._starts, oldest) - 1]
            self._window_bytes -= freed

    def _lose(self, start: int, end: int) -> None:
        for name, position in self._positions.items():
            if position == start:
                self._positions[name] = end
                self._on_lost(name, end - start)

    def _read_commits(self, start: int) -> list[tuple[int, Sequence[Entry], int]]:
        """In a thread. First offset, entries and bytes of the commits from `start` on: at least one, if there is."""
        reader = self._readers.pop(start, None) or self._log.reader(start)
        read: list[tuple[int, Sequence[Entry], int]] = []
        while not read and (commits := reader.read(max_bytes=READ_BYTES)):
            for commit in commits:
                try:
                    entries = self._decoded(commit)
                except ContentError as exc:
                    _logger.exception("commit unreadable", log=str(self.id), offset=commit.offset, error=str(exc))
                    if read:
                        break  # A hole is met at the beginning of a read.
                    continue
                if read and commit.offset != read[-1][0] + len(read[-1][1]):
                    break
                read.append((commit.offset, entries, sum(entry[SIZE] for entry in entries)))
            else:
                self._keep_reader(reader)
                return read
            reader.close()
            return read
        self._keep_reader(reader)
        return read

    def _read_anew(self, start: int) -> list[tuple[int, Sequence[Entry], int]]:
        self.close()
        return self._read_commits(start)

    def _decoded(self, commit: Commit) -> Sequence[Entry]:
        entries = self._decoder.decode(commit.content).entries
        if len(entries) != commit.n:
            raise ContentError(f"{len(entries)} records, and its commit says {commit.n}")
        return entries

    def _keep_reader(self, reader: LogReader) -> None:
        other = self._readers.pop(reader.next_offset, None)
        if other is not None:
            other.close()
        self._readers[reader.next_offset] = reader
        while len(self._readers) > _READERS:
            self._readers.popitem(last=False)[1].close()

    async def let_go(self) -> None:
        """Segments were deleted: close what is open of them, so that the disk gets them back."""
        async with self._reading:
            await in_thread(self.close)

    def close(self) -> None:
        """Give the descriptors back. Blocking."""
        while self._readers:
            self._readers.popitem()[1].close()
