"""The log of a recorder that has none: records in memory, bounded, gone with the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.sources.source import Records
from eventrec.records.entry import SIZE, total_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from eventrec.delivery.sources.source import OnLost, Start
    from eventrec.records.entry import Entry

_UNBOUNDED: Final = 1 << 62


class MemorySource:
    """Records in memory, held until every subscription has fetched them.

    A subscription is *behind* when it has `max_events` records or `max_bytes` bytes still to fetch. Where some are
    behind and some are not, those behind forfeit their oldest records. Where all are, nothing more is taken (`room` is
    0), and the intake's own bound decides what is refused. Used on the loop's thread alone.
    """

    def __init__(
        self, id_: UUID, *, max_events: int | None, max_bytes: int, static_context: bytes | None = None
    ) -> None:
        self.id = id_
        self.end = 0
        self.freed_bytes = 0
        """Bytes of all records that are held no more."""
        self.on_room: Callable[[], object] = lambda: None
        """Called when there may be more room than before."""
        self._static_context = static_context
        self._max_events = max_events if max_events is not None else _UNBOUNDED
        self._max_bytes = max_bytes
        self._bytes = 0
        self._start = 0
        self._entries: list[Entry] = []
        self._cursors: list[MemoryCursor] = []
        self._appended = anyio.Event()

    def __repr__(self) -> str:
        settled = min((cursor.acknowledged for cursor in self._cursors), default=self.end)
        return f"<MemorySource {self.id} [{self._start}, {self.end}) settled={settled}>"

    def __len__(self) -> int:
        """Records held."""
        return len(self._entries)

    def subscribe(self, name: str, start: Start, on_lost: OnLost) -> MemoryCursor:
        """A cursor at the oldest record, or at the end. What it forfeits is told to `on_lost` as `overflow`."""
        at_end = start == "latest" or not self._entries
        at, skipped = (self.end, self._bytes) if at_end else (self._start, self.freed_bytes)
        cursor = MemoryCursor(self, name, at, skipped, on_lost)
        self._cursors.append(cursor)
        return cursor

    @property
    def furthest(self) -> int:
        return self.end

    async def oldest(self) -> int:
        return self._start

    # -- appending

    def room(self) -> int:
        """How many records may be appended now; 0 where every subscription is behind."""
        if self._cursors and all(self._is_behind(cursor) for cursor in self._cursors):
            return 0
        return self._max_events - min((self.end - cursor.next for cursor in self._cursors), default=0)

    def append(self, entries: Sequence[Entry]) -> None:
        """Number `entries` and make them readable; those too far behind forfeit their oldest, if there was room."""
        had_room = self.room() > 0
        self._entries.extend(entries)
        self.end += len(entries)
        self._bytes += total_size(entries)
        if had_room and self._cursors:
            # Also where it is filled by this: else the next room would be made for what the slowest keeps.
            first = max(cursor.next for cursor in self._cursors)
            for cursor in self._cursors:
                self._forfeit(cursor, first)
        self._free()
        self.tell()

    def tell(self) -> None:
        """Wake what waits for more."""
        appended, self._appended = self._appended, anyio.Event()
        appended.set()

    def _is_behind(self, cursor: MemoryCursor) -> bool:
        return self.end - cursor.next >= self._max_events or self._bytes - cursor.bytes >= self._max_bytes

    def _forfeit(self, cursor: MemoryCursor, end: int) -> None:
        """Let `cursor` lose its oldest below `end`, where another one is, until it is behind no more."""
        first = cursor.next - self._start
        count = 0
        while cursor.next < end and (
            self.end - cursor.next > self._max_events or self._bytes - cursor.bytes > self._max_bytes
        ):
            cursor.bytes += self._entries[first + count][SIZE]
            cursor.next += 1
            count += 1
        if count:
            cursor.on_lost("overflow", count, self._entries[first : first + count])

    def _free(self) -> None:
        keep = min((cursor.next for cursor in self._cursors), default=self.end)
        if keep > self._start:
            del self._entries[: keep - self._start]
            self._start = keep
            self.freed_bytes = min((cursor.bytes for cursor in self._cursors), default=self._bytes)
            self.on_room()

    def _moved_on(self) -> None:
        """A cursor did, and there may be room again: one that is slower forfeits its oldest for it."""
        held = len(self)
        self._free()
        if len(self) == held:
            self.on_room()

    # -- what its cursors do

    def _slice(self, start: int, end: int) -> Sequence[Entry]:
        return self._entries[start - self._start : end - self._start]

    def read(self, cursor: MemoryCursor, max_records: int, max_bytes: int) -> Records:
        """Give `cursor` what comes next, and hold it no more on its behalf."""
        start = cursor.next
        entries = self._slice(start, start + max_records)
        size = 0
        for count, entry in enumerate(entries):
            size += entry[SIZE]
            if size > max_bytes and count:
                entries = entries[:count]
                size -= entry[SIZE]
                break
        end = start + len(entries)
        cursor.next = end
        cursor.bytes += size
        self._moved_on()
        return Records(start, end, range(start, end), entries, self._static_context)

    def seek(self, cursor: MemoryCursor, offset: int) -> None:
        """Move `cursor` to `offset`, or as near as what is held allows."""
        offset = max(self._start, min(offset, self.end))
        cursor.bytes += total_size(self._slice(cursor.next, offset))
        cursor.bytes -= total_size(self._slice(offset, cursor.next))
        cursor.next = offset
        self._moved_on()

    async def wait_past(self, offset: int) -> None:
        """Return as soon as there is a record at `offset` or later."""
        while self.end <= offset:
            await self._appended.wait()


class MemoryCursor:
    """Where one subscription is.

    Attributes:
        next: The first offset that was neither fetched nor forfeited.
        bytes: Of all records below `next`.
        acknowledged: Everything below it is settled.
    """

    def __init__(self, source: MemorySource, name: str, at: int, skipped: int, on_lost: OnLost) -> None:
        self.next = self.acknowledged = at
        self.bytes = skipped
        self.on_lost = on_lost
        self._source = source
        self._name = name

    def __repr__(self) -> str:
        return f"<MemoryCursor {self._name!r} next={self.next} acknowledged={self.acknowledged}>"

    async def read(self, *, max_records: int, max_bytes: int) -> Records:
        return self._source.read(self, max_records, max_bytes)

    async def wait(self) -> None:
        await self._source.wait_past(self.next)

    def seek(self, offset: int) -> None:
        self._source.seek(self, offset)

    def acknowledge(self, next_offset: int) -> None:
        self.acknowledged = next_offset
