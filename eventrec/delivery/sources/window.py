"""Decoded commits of one log, kept for the next reader: at most so many bytes, those that were used last."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import TYPE_CHECKING

from eventrec.delivery.sources.source import Records
from eventrec.records.entry import size_of, total_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.records.entry import Entry


@dataclass(frozen=True, slots=True)
class DecodedCommit:
    """One commit: its first offset, its entries, what they count in bytes, and what is true of all of them."""

    first: int
    entries: Sequence[Entry]
    size: int
    static_context: bytes | None

    @property
    def end(self) -> int:
        """The offset behind the last one."""
        return self.first + len(self.entries)


class DecodedWindow:
    """Commits of at most `max_bytes`, by the size that their entries count; the one that was kept last always stays."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._commits: OrderedDict[int, DecodedCommit] = OrderedDict()
        """By first offset, in the order of their last use."""
        self._firsts: list[int] = []
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<DecodedWindow of {len(self._commits)} commits, {self._bytes} bytes>"

    def keep(self, commit: DecodedCommit) -> None:
        """Have `commit` here, in the place of those that were not used for longest; no change if it is here already."""
        if commit.first in self._commits:
            return
        self._commits[commit.first] = commit
        insort(self._firsts, commit.first)
        self._bytes += commit.size
        while self._bytes > self._max_bytes and len(self._commits) > 1:
            first, unused = self._commits.popitem(last=False)
            del self._firsts[bisect_right(self._firsts, first) - 1]
            self._bytes -= unused.size

    def read(self, start: int, *, max_records: int, max_bytes: int) -> Records:
        """The records from `start` on that are here without a gap and have one static context; none: `[start, start)`.

        At most `max_records`, and `max_bytes` by the size they count; the first one is given whatever its size.
        """
        found: list[Entry] = []
        size = 0
        static: bytes | None = None
        while len(found) < max_records:
            offset = start + len(found)
            place = bisect_right(self._firsts, offset) - 1
            if place < 0:
                break
            first = self._firsts[place]
            commit = self._commits[first]
            if offset >= first + len(commit.entries) or (found and commit.static_context != static):
                break
            static = commit.static_context
            self._commits.move_to_end(first)
            part = commit.entries[offset - first : offset - first + max_records - len(found)]
            part_size = commit.size if len(part) == len(commit.entries) else total_size(part)
            if size + part_size > max_bytes:
                sizes = accumulate(map(size_of, part), initial=size)
                fitting = sum(each <= max_bytes for each in islice(sizes, 1, None))
                found += part[: max(fitting, 0 if found else 1)]
                break
            size += part_size
            found += part
        end = start + len(found)
        return Records(start, end, range(start, end), found, static)
