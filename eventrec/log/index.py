"""The offset index of a segment: hints where to begin reading. Entries of 16 bytes: offset u64, position u64.

The offset 0 marks an unused entry, so the commit at offset 0 is never in an index. Nothing here is trusted: a reader
checks that a valid commit with that offset begins there.
"""

from __future__ import annotations

import bisect
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

INDEX_INTERVAL: Final = 4096
ENTRY_SIZE: Final = 16

_ENTRY: Final = struct.Struct("<QQ")


class Entry(NamedTuple):
    """The commit whose first record is `offset` begins at byte `position` of the uncompressed segment."""

    offset: int
    position: int


class IndexPlan:
    """Decides which commits of a segment being written get an entry: the first of every `interval` bytes."""

    def __init__(self, interval: int = INDEX_INTERVAL) -> None:
        self._interval = interval
        self._candidate = Entry(0, 0)
        self._bytes = 0

    def note(self, offset: int, position: int, size: int) -> Entry | None:
        """Say that a commit of `size` bytes was written. Returns the entry that is due now, if one is."""
        self._bytes += size
        if not self._candidate.offset:
            self._candidate = Entry(offset, position)
        if self._bytes < self._interval or not self._candidate.offset:
            return None
        entry, self._candidate, self._bytes = self._candidate, Entry(0, 0), 0
        return entry


class OffsetIndex:
    """The entries of one index file, rising in offset and position."""

    def __init__(self, content: bytes = b"") -> None:
        """Takes entries from `content` up to the first that is unused, incomplete or does not rise."""
        self._entries: list[Entry] = []
        for raw in _ENTRY.iter_unpack(content[: len(content) - len(content) % ENTRY_SIZE]):
            last = self._entries[-1] if self._entries else Entry(0, 0)
            if raw[0] <= last.offset or raw[1] <= last.position:
                break
            self._entries.append(Entry(*raw))

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def append(self, entry: Entry) -> None:
        """Add an entry.

        Raises:
            ValueError: Its offset is not above the last one's.
        """
        if entry.offset <= (self._entries[-1].offset if self._entries else 0):
            raise ValueError(f"offset {entry.offset} does not follow the index's last entry")
        self._entries.append(entry)

    def lookup(self, offset: int) -> Entry:
        """The entry with the greatest offset that is at most `offset`.

        Raises:
            KeyError: There is none.
        """
        at = bisect.bisect_right(self._entries, offset, key=lambda entry: entry.offset)
        if at == 0:
            raise KeyError(offset)
        return self._entries[at - 1]

    def truncate(self, offset: int) -> None:
        """Forget every entry at or above `offset`."""
        del self._entries[bisect.bisect_left(self._entries, offset, key=lambda entry: entry.offset) :]

    def candidates(self, offset: int) -> Iterator[Entry]:
        """The entries at or below `offset`, nearest first: where to try, one after the other."""
        at = bisect.bisect_right(self._entries, offset, key=lambda entry: entry.offset)
        return reversed(self._entries[:at])

    def encode(self) -> bytes:
        """The bytes of the index file."""
        return encode_entries(self._entries)


def encode_entries(entries: list[Entry]) -> bytes:
    """The bytes of `entries`, as they stand in an index file."""
    return b"".join(_ENTRY.pack(*entry) for entry in entries)
