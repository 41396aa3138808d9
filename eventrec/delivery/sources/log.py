"""A log on the disk as a source: read off the loop, decoded once for all workers that are near each other."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

import anyio

from eventrec.delivery.sources.source import Records
from eventrec.delivery.sources.window import DecodedCommit, DecodedWindow
from eventrec.errors import ContentError, LogError
from eventrec.log.walk import Tail
from eventrec.records.content import ContentDecoder, LaterContentError, is_ours
from eventrec.records.entry import total_size
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import get_logger, text_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from eventrec.delivery.sources.readable_log import ReadableLog
    from eventrec.delivery.sources.source import OnLost, Start
    from eventrec.intake.handover import Handover
    from eventrec.log.commit import Commit
    from eventrec.log.reader import Extent, LogReader

WINDOW_BYTES: Final = 8 << 20
"""Bytes of decoded commits kept for the next reader, by the size that entries count."""

READ_BYTES: Final = 1 << 20
_READERS: Final = 4
_THREADS: Final = 2
_PATIENCE: Final = 0.5
_ANY_OFFSET: Final = 1 << 62

_logger = get_logger("eventrec.delivery")


class LogSource:
    """One log, which begins at `first`, read by several subscriptions at their own pace. For the loop's thread alone.

    `is_orphan`: an earlier run wrote it.

    `on_move` is called when a subscription acknowledges something: it must stand in its checkpoint soon, and what all
    checkpoints are past may be deleted then.
    """

    window_bytes: ClassVar = WINDOW_BYTES

    def __init__(
        self,
        log: ReadableLog,
        id_: UUID,
        *,
        first: int = 0,
        is_orphan: bool = False,
        on_move: Callable[[], object],
    ) -> None:
        self.id = id_
        self.first = first
        self._handover: Handover | None = None
        self._handed_context: bytes | None = None
        """The static context of what is handed over."""
        self._is_orphan = is_orphan
        self._log = log
        self.on_move = on_move
        self._is_ours = partial(is_ours, log_id=id_)
        self._is_unreadable = False
        self.later: dict[int, str] = {}
        """Where a commit stands that a later eventrec reads, and what is wrong with it: no cursor of ours passes it."""
        self._lost_as = "corrupt"
        """Why what the last read did not find is: `corrupt`, or `lost` where no bytes stood in its place."""
        self._floor = 0
        self._cursors: list[LogCursor] = []
        self._window = DecodedWindow(self.window_bytes)
        self._readers: OrderedDict[int, LogReader] = OrderedDict()
        self._decoder = ContentDecoder()
        self._limiter = anyio.CapacityLimiter(_THREADS)
        self._reading = anyio.Lock()
        self._grown = anyio.Event()

    def __repr__(self) -> str:
        return f"<LogSource {self.id} end={self.end}>"

    @property
    def end(self) -> int:
        """What is written, whether it can be read for now or not.

        Or what a destination has, which is more than a log that lost its tail.
        """
        self._floor = max(self._floor, self._log.written)
        return self._floor

    def subscribe(self, name: str, start: Start, on_lost: OnLost) -> LogCursor:
        """A cursor at the first record, or at the end of another run's log: what this one records is new to all.

        What cannot be read is told to `on_lost` as `corrupt`; as `lost` where nothing is there to be read, because
        another program deleted it, or a power cut took it.
        """
        at_end = start == "latest" and self._begins_at_end
        cursor = LogCursor(self, name, self.end if at_end else self.first, on_lost)
        self._cursors.append(cursor)
        return cursor

    def take_over_from(self, handover: Handover, *, static_context: bytes | None) -> None:
        """Take what this process has just written, of which `static_context` is true, from `handover` where it can."""
        self._handover, self._handed_context = handover, static_context

    @property
    def _begins_at_end(self) -> bool:
        """Whether what is there is not new to a subscription that wants the latest."""
        return self._is_orphan

    @property
    def furthest(self) -> int:
        """A power cut may have taken the tail of an orphan, and more than any checkpoint here remembers."""
        return _ANY_OFFSET if self._is_orphan else self.end

    async def oldest(self) -> int:
        return await in_thread(lambda: self._log.first)

    def raise_end(self, offset: int) -> None:
        """A destination is at `offset`."""
        self._floor = max(self._floor, offset)

    def note_growth(self) -> None:
        """There may be more to read."""
        grown, self._grown = self._grown, anyio.Event()
        grown.set()

    async def wait_past(self, offset: int) -> None:
        """Return as soon as there is a record at `offset` or later."""
        while self.end <= offset:
            await self._grown.wait()

    # -- reading

    async def read(self, start: int, *, max_records: int, max_bytes: int) -> Records:
        """Records from `start` on; none where nothing can be read there now, or where what is lost begins there."""
        found = self._window.read(start, max_records=max_records, max_bytes=max_bytes)
        if self._take_over(found.end, max_records - len(found.entries), max_bytes):
            found = self._window.read(start, max_records=max_records, max_bytes=max_bytes)
        if not found.entries and self._log.readable <= start < self._log.written:
            await anyio.sleep(_PATIENCE)  # A sync failed: not in the way of those who read what is synced.
        elif not found.entries and start < self.end:
            if start in self.later:
                await anyio.sleep(_PATIENCE)  # Likewise not in the way of those who are not there yet.
            async with self._reading:
                # Another worker may have read it meanwhile.
                found = self._window.read(start, max_records=max_records, max_bytes=max_bytes)
                if not found.entries and (first := await self._fill_window(start)) is not None:
                    if first > start:
                        self._lose(start, first)
                    else:
                        found = self._window.read(start, max_records=max_records, max_bytes=max_bytes)
        return found

    def _take_over(self, offset: int, records: int, size: int) -> bool:
        """Whether there is more from `offset` on in the window now: what was handed over, about as much as is asked."""
        before = offset
        while records > 0 and size > 0 and self._handover is not None:
            commit = self._handover.take(offset, readable=self._log.readable)
            if commit is None:
                break
            self._window.keep(DecodedCommit(commit.first, commit.entries, commit.size, self._handed_context))
            offset, records, size = commit.end, records - len(commit.entries), size - commit.size
        return offset > before

    async def _fill_window(self, start: int) -> int | None:
        """Read on at `start`; the first offset there is now. None: nothing can be read for the moment."""
        extent = self._log.extent
        readable = extent.offset
        try:
            commits = await in_thread(self._read_commits, start, limiter=self._limiter)
            if not commits and start < readable:
                # Nothing but a second look, by a reader of its own, says that what is written is lost.
                commits = await in_thread(self._read_afresh, start, limiter=self._limiter)
        except LaterContentError as exc:
            self._note_later(start, exc)
            return None
        except (LogError, OSError) as exc:
            self._note_unreadable(start, exc)
            await anyio.sleep(_PATIENCE)
            return None
        self._is_unreadable = self._is_unreadable and not commits
        # The one that is asked for comes last, so that no other one of this read pushes it out of the window.
        for decoded in reversed(commits):
            self._window.keep(decoded)
        if commits:
            return commits[0].first
        now = self._log.extent
        is_steady = now.generation == extent.generation and now.offset >= readable
        if is_steady and start < readable:
            return await self._end_of_loss(start, extent)
        if is_steady and readable == self._log.written:
            # A destination had more than a log that lost its tail: what lies between is gone.
            return self.end
        # A sync failed: until it is mended only what is synced may be read.
        await anyio.sleep(_PATIENCE)
        return None

    async def _end_of_loss(self, start: int, extent: Extent) -> int | None:
        """Of what is written up to `extent` nothing is found from `start` on: up to where it is lost; None: look again.

        Where another program deleted it from a log of our own, its writer may have it still.
        """
        if self._is_orphan:
            return extent.offset
        try:
            lost_below = await in_thread(self._log.restore_deleted, limiter=self._limiter)
        except (LogError, OSError) as exc:
            self._note_unreadable(start, exc)
        else:
            if self._log.extent.generation != extent.generation:
                return None
            if lost_below > start:
                return min(lost_below, extent.offset)
        await anyio.sleep(_PATIENCE)
        return None

    def _note_later(self, start: int, error: LaterContentError) -> None:
        # Of an orphan this is said where it is left alone.
        if start not in self.later and not self._is_orphan:
            _logger.warning("log unreadable", log=str(self.id), offset=start, error=str(error))
        self.later[start] = text_of(error)

    def _note_unreadable(self, start: int, error: Exception) -> None:
        if not self._is_unreadable:
            _logger.warning("log unreadable", log=str(self.id), offset=start, error=str(error))
        self._is_unreadable = True

    def _lose(self, start: int, end: int) -> None:
        for cursor in self._cursors:
            if cursor.next == start:
                cursor.next = end
                cursor.on_lost(self._lost_as, end - start, ())

    def _read_commits(self, start: int) -> list[DecodedCommit]:
        """In a thread. The commits from `start` on: at least one, if there is.

        Raises:
            LaterContentError: A later eventrec reads what stands there. It is not lost, and not passed over.
        """
        reader = self._readers.pop(start, None) or self._log.reader(start, is_ours=self._is_ours)
        passed, are_readable = reader.skipped, True
        read: list[DecodedCommit] = []
        is_followed = True
        while not read and is_followed and (commits := reader.read(max_bytes=READ_BYTES)):
            for commit in commits:
                try:
                    decoded = self._decoded(commit)
                except LaterContentError:
                    if not read:
                        reader.close()
                        raise
                    is_followed = False
                    break
                except ContentError as exc:
                    are_readable = False
                    _logger.exception("commit unreadable", log=str(self.id), offset=commit.offset, error=str(exc))
                    if read:
                        is_followed = False  # A hole is met at the beginning of a read.
                        break
                    continue
                if read and commit.offset != read[-1].end:
                    is_followed = False
                    break
                read.append(decoded)
        is_damaged = not are_readable or reader.skipped > passed or reader.tail is not Tail.CLEAN
        self._lost_as = "corrupt" if is_damaged or self._log.was_torn(start) else "lost"
        if is_followed:
            self._keep_reader(reader)
        else:
            reader.close()
        return read

    def _read_afresh(self, start: int) -> list[DecodedCommit]:
        self.close()
        return self._read_commits(start)

    def _decoded(self, commit: Commit) -> DecodedCommit:
        content = self._decoder.decode(commit.content)
        entries = content.entries
        if content.log_id != self.id:
            raise ContentError(f"it is of the log {content.log_id}")
        if len(entries) != commit.n:
            raise ContentError(f"{len(entries)} records, and its commit says {commit.n}")
        return DecodedCommit(commit.offset, entries, total_size(entries), content.static_context)

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


class LogCursor:
    """Where one subscription is in the log: `next` is the first offset that was neither read nor lost."""

    def __init__(self, source: LogSource, name: str, at: int, on_lost: OnLost) -> None:
        self.next = at
        self.on_lost = on_lost
        self._source = source
        self._name = name

    def __repr__(self) -> str:
        return f"<LogCursor {self._name!r} next={self.next}>"

    async def read(self, *, max_records: int, max_bytes: int) -> Records:
        start = self.next
        found = await self._source.read(start, max_records=max_records, max_bytes=max_bytes)
        if self.next != start:
            return Records(self.next, self.next)
        self.next = found.end
        return found

    async def wait(self) -> None:
        await self._source.wait_past(self.next)

    def seek(self, offset: int) -> None:
        self.next = offset
        self._source.raise_end(offset)

    def acknowledge(self, next_offset: int) -> None:
        del next_offset
        self._source.on_move()
