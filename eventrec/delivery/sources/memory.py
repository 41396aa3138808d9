"""The log of a recorder that has none: records in memory, bounded, gone with the process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import anyio

from eventrec.delivery.sources.source import Records
from eventrec.records.entry import SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from eventrec.records.entry import Entry


@dataclass(slots=True)
class _Cursor:
    """Where one subscription is: the next offset to fetch, and the bytes of all records below it."""

    next: int
    bytes: int
    on_forfeit: Callable[[Entry], None]


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
        self.static_context = static_context
        self.end = 0
        self.freed_bytes = 0
        """Bytes of all records that are held no more."""
        self.on_room: Callable[[], object] = lambda: None
        """Called when records were freed."""
        self._max_events = max_events if max_events is not None else 1 << 62
        self._max_bytes = max_bytes
        self._bytes = 0
        self._start = 0
        self._entries: list[Entry] = []
        self._cursors: dict[str, _Cursor] = {}
        self._appended = anyio.Event()

    def __repr__(self) -> str:
        return f"<MemorySource {self.id} [{self._start}, {self.end})>"

    def __len__(self) -> int:
        """Records held."""
        return len(self._entries)

    def subscribe(self, name: str, start: Literal["earliest", "latest"], on_forfeit: Callable[[Entry], None]) -> int:
        at_end = start == "latest" or not self._entries
        next_offset = self.end if at_end else self._start
        self._cursors[name] = _Cursor(next_offset, self._bytes if at_end else self.freed_bytes, on_forfeit)
        return next_offset

    # -- appending

    def room(self) -> int:
        """How many records may be appended now; 0 where every subscription is behind."""
        cursors = self._cursors.values()
        if cursors and all(self._is_behind(cursor) for cursor in cursors):
            return 0
        return self._max_events - min((self.end - cursor.next for cursor in cursors), default=0)

    def append(self, entries: Sequence[Entry]) -> None:
        """Number `entries` and make them readable; those too far behind forfeit their oldest."""
        self._entries.extend(entries)
        self.end += len(entries)
        self._bytes += sum(entry[SIZE] for entry in entries)
        behind = [cursor for cursor in self._cursors.values() if self._is_behind(cursor)]
        if len(behind) < len(self._cursors):
            for cursor in behind:
                self._forfeit(cursor)
        self._free()
        appended, self._appended = self._appended, anyio.Event()
        appended.set()

    def _is_behind(self, cursor: _Cursor) -> bool:
        return self.end - cursor.next >= self._max_events or self._bytes - cursor.bytes >= self._max_bytes

    def _forfeit(self, cursor: _Cursor) -> None:
        while self.end - cursor.next > self._max_events or self._bytes - cursor.bytes > self._max_bytes:
            entry = self._entries[cursor.next - self._start]
            cursor.next += 1
            cursor.bytes += entry[SIZE]
            cursor.on_forfeit(entry)

    def _free(self) -> None:
        keep = min((cursor.next for cursor in self._cursors.values()), default=self.end)
        if keep > self._start:
            del self._entries[: keep - self._start]
            self._start = keep
            self.freed_bytes = min((cursor.bytes for cursor in self._cursors.values()), default=self._bytes)
            self.on_room()

    # -- reading

    async def read(self, start: int, *, max_records: int, max_bytes: int) -> Records:
        start = max(start, self._start)
        first = start - self._start
        entries = self._entries[first : first + max_records]
        size = 0
        for count, entry in enumerate(entries):
            size += entry[SIZE]
            if size > max_bytes and count:
                entries = entries[:count]
                break
        return Records(start, start + len(entries), entries)

    async def wait_past(self, offset: int) -> None:
        while self.end <= offset:
            await self._appended.wait()

    def position(self, name: str) -> int:
        return self._cursors[name].next

    def fetched(self, name: str, next_offset: int) -> None:
        cursor = self._cursors[name]
        for entry in self._entries[cursor.next - self._start : next_offset - self._start]:
            cursor.bytes += entry[SIZE]
        cursor.next = max(cursor.next, next_offset)
        self._free()

    async def oldest(self) -> int:
        return self._start

    def rewind(self, name: str, offset: int) -> None:
        cursor = self._cursors[name]
        cursor.bytes -= sum(entry[SIZE] for entry in self._entries[offset - self._start : cursor.next - self._start])
        cursor.next = min(cursor.next, offset)

    def acknowledge(self, name: str, next_offset: int) -> None:
        """Nothing to do: what is fetched is in the worker's hands, and nothing outlives the process."""
