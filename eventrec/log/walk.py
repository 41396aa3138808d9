"""Walking through one segment, commit by commit, over whatever damage there is.

What stands at a position, where record `offset` is expected and the next segment begins at `upper`:

    nothing, or `offset` has reached `upper`         the walk ends; the rest is superseded
    a valid commit at `offset`                       it is next
    a valid commit, an exact repetition of the last  passed over
    a valid commit further on, ending by `upper`     a gap of records without bytes, then it is next
    a valid commit at or past `upper`                the walk ends; the rest is superseded
    any other valid commit                           a gap of bytes without records
    no valid commit, but one that fits behind it     a gap: corrupt
    no valid commit, and none behind it              the walk ends: a torn tail

What fits behind damage: bytes of a record may look like a commit, and be one, number and log id included. So the length
of the damaged one is believed where a commit follows there. Else its number of records is, where it begins at `offset`,
unless commits go on to the end of the segment from one that begins before their end. And of two that contradict each
other, since the later one's records come before the earlier one's end, the later counts.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

import google_crc32c

from eventrec.errors import CorruptCommitError, Damage
from eventrec.log.commit import (
    CHECKSUM_SIZE,
    MAX_OFFSET,
    MAX_RECORDS,
    Commit,
    Header,
    header_size,
    peek_header,
    read_commit,
    read_header,
    whole_header,
)
from eventrec.log.crc import RESIDUE
from eventrec.log.holes import has_right_checksum, is_zero
from eventrec.log.resync import IsOurs, Resync
from eventrec.log.segment import HEADER_SIZE, Segment

_CHUNK: Final = 1 << 20

_LARGE: Final = 16 << 20
"""Bytes of a commit that is looked at before there is memory for it: a flipped bit may claim the whole of a hole."""

_END: Final = MAX_OFFSET + 1


class Gap(NamedTuple):
    """Something passed over. `size` bytes at `position` of segment `segment`; `missing` records from `offset` on."""

    segment: int
    position: int
    size: int
    offset: int
    missing: int
    reason: Damage


class Tail(StrEnum):
    """Why a walk ended, and so what the bytes are that it did not pass."""

    CLEAN = "clean"
    SUPERSEDED = "superseded"
    ZEROS = "zeros"
    TORN = "torn"
    DAMAGED = "damaged"
    """One whole commit by its length, wrong by its checksum: torn, or the log's last commit gone bad."""


class Walk:
    """One pass through `segment` from `position`, where record `offset` is expected, to byte `size`.

    `upper` is the first offset of the next segment, None if there is none. `is_ours` may veto what is found behind
    damage. After each step `position` and `offset` say what is expected next, and `start` where the last commit began;
    at the end `tail` and `damage` say what the rest is.
    """

    def __init__(
        self,
        segment: Segment,
        *,
        position: int = HEADER_SIZE,
        offset: int | None = None,
        size: int | None = None,
        upper: int | None = None,
        is_ours: IsOurs | None = None,
    ) -> None:
        self.segment = segment
        self.position = position
        self.offset = segment.first if offset is None else offset
        self.start = position
        self.size = segment.file.size() if size is None else size
        self.tail = Tail.CLEAN
        self.damage: Damage | None = None
        self.upper = upper
        self._is_ours = is_ours
        self._head = header_size(segment.version)
        self._buffer = b""
        self._base = 0
        self._last: Commit | None = None
        self._resync: Resync | None = None

    @property
    def raw(self) -> bytes:
        """The bytes of the commit that the last step returned, as they stand in the segment."""
        return self._buffer[self.start - self._base : self.position - self._base]

    def step(self) -> Commit | Gap | None:
        """The next commit, or what had to be passed over, or None at the end: then `tail` says why.

        Raises:
            OSError: The file cannot be read.
        """
        self.tail, self.damage = Tail.CLEAN, None
        while self.position < self.size and self.offset != self.upper:
            try:
                commit = self._commit_at(self.position)
            except CorruptCommitError as exc:
                self.damage = exc.reason
                return self._pass_damage(exc.reason)
            if commit.offset != self.offset:
                found = self._pass_misplaced(commit)
                if found is not None or self.tail is Tail.SUPERSEDED:
                    return found
            elif commit.end > (_END if self.upper is None else self.upper):
                return self._gap(commit.size, 0, Damage.OVERLAPS)
            else:
                self.start = self.position
                self.position += commit.size
                self.offset = commit.end
                self._last = commit
                return commit
        if self.position < self.size:
            self.tail = Tail.SUPERSEDED
        return None

    def run(self, max_bytes: int) -> list[memoryview]:
        """The bytes of the commits that come next, one right behind the other: at most about `max_bytes` of them.

        It ends before anything that takes a closer look, and gives nothing where that comes next: `step` has it. The
        walk is past what is returned.
        """
        found: list[memoryview] = []
        version, upper = self.segment.version, _END if self.upper is None else self.upper
        at = self.position - self._base
        while True:
            buffer, start, last = self._buffer, at, None
            while at - start < max_bytes and (header := whole_header(buffer, at, version)) is not None:
                offset, n, size = header
                end = at + size
                if offset != self.offset or offset + n > upper or end > len(buffer) or self._base + end > self.size:
                    break
                raw = buffer[at:end]
                if google_crc32c.value(raw) != RESIDUE:
                    break
                at, last, self.offset = end, (offset, n, raw), offset + n
            if last is None:
                return found
            offset, n, raw = last
            checksum = int.from_bytes(raw[-CHECKSUM_SIZE:], "little")
            self._last = Commit(offset, 0, n, b"", checksum, len(raw))
            found.append(memoryview(buffer)[start:at])
            max_bytes -= at - start
            self.start, self.position = self._base + at - len(raw), self._base + at
            if max_bytes <= 0 or self._base + len(buffer) >= self.size or len(buffer) - at >= _CHUNK:
                return found
            # All before it was whole, so it is worth reading much at once.
            try:
                wanted = min(max(max_bytes, _CHUNK), self.size - self.position)
                self._buffer = self.segment.file.read(self.position, wanted)
            except OSError:
                return found  # `step` meets it.
            self._base, at = self.position, 0

    def _commit_at(self, position: int) -> Commit:
        header = self._header_at(position)
        if header.size > _LARGE and not has_right_checksum(self.segment.file, position, header):
            raise CorruptCommitError(Damage.CHECKSUM, position=position, offset=header.offset)
        at = self._load(position, header.size)  # It may replace the buffer: not to be read before.
        return read_commit(self._buffer, at, header)

    def _header_at(self, position: int) -> Header:
        available = self.size - position
        at = self._load(position, min(self._head, available))
        return read_header(self._buffer, at, available, self.segment.version)

    def _load(self, position: int, size: int) -> int:
        """Have `size` bytes from `position` on in the buffer. Returns where in it they begin."""
        at = position - self._base
        if at < 0 or at + size > len(self._buffer):
            wanted = min(max(size, _CHUNK), self.size - position)
            self._buffer = self.segment.file.read(position, wanted)
            self._base, at = position, 0
            if len(self._buffer) < wanted:
                self.size = position + len(self._buffer)
                raise CorruptCommitError(Damage.SHORT, position=position)
        return at

    def _gap(self, size: int, missing: int, reason: Damage) -> Gap:
        gap = Gap(self.segment.first, self.position, size, self.offset, missing, reason)
        self.position += size
        self.offset += missing
        return gap

    def _pass_misplaced(self, commit: Commit) -> Gap | None:
        """Deal with a valid commit that is not the one expected. None: it was a repetition, or ends the walk."""
        upper = _END if self.upper is None else self.upper
        if commit.offset >= upper:
            self.tail = Tail.SUPERSEDED
            return None
        last = self._last
        if last is not None and commit.offset == last.offset:
            if commit.checksum == last.checksum:
                self.position += commit.size
                return None
            return self._gap(commit.size, 0, Damage.FORKED)
        if commit.offset < self.offset:
            return self._gap(commit.size, 0, Damage.OUT_OF_ORDER)
        if commit.end > upper:
            return self._gap(commit.size, 0, Damage.OVERLAPS)
        self._resync = None
        return self._gap(0, commit.offset - self.offset, Damage.HOLE)

    def _pass_damage(self, reason: Damage) -> Gap | None:
        is_last = False
        offset, n, size = self._head_at(self.position)
        if reason in (Damage.CHECKSUM, Damage.NO_RECORDS):
            end = self.position + size
            is_last = reason is Damage.CHECKSUM and offset == self.offset and end == self.size
            is_last = is_last and (self.upper is None or offset + n <= self.upper)
            follower = self._offset_at(end) if end < self.size else None
            if follower is not None and self._is_length_right(offset, n, end, follower):
                # Looking inside its records could only find what is not a commit of ours.
                return self._gap(size, follower - self.offset, reason)
        claimed = self._claimed()
        found = None if reason is Damage.SHORT else self._search(self.offset + claimed)
        if is_last and found is not None and not self._chain(*found)[2]:
            # A commit inside its records. Had its length been wrong instead, commits would go on to the very end.
            found = None
        if found is None:
            self.tail = Tail.DAMAGED if is_last else self._tail(reason)
            return None
        position, offset = found
        return self._gap(position - self.position, offset - self.offset, reason)

    def _is_length_right(self, offset: int, n: int, end: int, follower: int) -> bool:
        """Whether the commit at `end`, which begins at `follower`, comes next behind one that says `offset` and `n`."""
        if not self.offset < follower <= self.offset + MAX_RECORDS:
            return False
        if offset != self.offset or follower <= offset + n or not n:
            return follower <= self.offset + n or not n
        # Either its number is wrong, or its length is, and there are others in between, which lead there.
        found = self._behind().find(self.position + 1, self.offset)
        while found is not None and found.position < end:
            if found.header.offset == offset + n and self._leads_to(end, found.position, offset + n):
                return False
            found = self._behind().find(found.position + 1, self.offset)
        return True

    def claimed(self) -> int:
        """At the end: how many records the bytes behind it were to hold, as far as they say so; at least one."""
        return max(1, self._claimed())

    def _claimed(self) -> int:
        """How many records the damaged commit says it has, where it says that it begins at `offset`; else 0."""
        offset, n, _ = self._head_at(self.position)
        return n if offset == self.offset and n <= (_END if self.upper is None else self.upper) - offset else 0

    def _head_at(self, position: int) -> tuple[int, int, int]:
        """What the header at `position` says, right or wrong: its offset, its number of records, its size in bytes."""
        head = self.segment.file.read(position, self._head)
        return peek_header(head, self.segment.version) if len(head) == self._head else (-1, 0, 0)

    def _leads_to(self, end: int, position: int, offset: int) -> bool:
        """Whether commits follow each other from `position` on to byte `end`."""
        try:
            while position < end:
                commit = self._commit_at(position)
                if commit.offset != offset:
                    return False
                position, offset = position + commit.size, commit.end
        except CorruptCommitError:
            return False
        return position == end

    def _chain(self, position: int, offset: int) -> tuple[int, int, bool]:
        """Where the commits that follow each other from `position` on end, and whether that is the end of the segment.

        The byte and the offset after the last of them.
        """
        try:
            while position < self.size:
                commit = self._commit_at(position)
                if commit.offset != offset:
                    return position, offset, False
                position, offset = position + commit.size, commit.end
        except CorruptCommitError:
            return position, offset, False
        return position, offset, self.upper is None or offset <= self.upper

    def _offset_at(self, position: int) -> int | None:
        try:
            return self._commit_at(position).offset
        except CorruptCommitError:
            return None

    def _search(self, trusted: int) -> tuple[int, int] | None:
        """Where a commit stands that goes on behind the damage, and its offset; below `trusted`, only if to the end."""
        found = self._behind().find(self.position + 1, self.offset)
        while found is not None:
            position, offset, is_end = self._chain(found.position, found.header.offset)
            if is_end:
                break
            after = self._behind().find(max(position, found.position + 1), self.offset)
            if found.header.offset >= trusted and (
                self._may_go_on(position, offset) if after is None else after.header.offset >= offset
            ):
                break
            found = after
        return None if found is None else (found.position, found.header.offset)

    def _may_go_on(self, position: int, offset: int) -> bool:
        """Whether what stands at `position` is one that comes later, or may be the one at `offset`, torn or damaged."""
        head = self.segment.file.read(position, self._head)
        # Torn, it may have been cut in the middle of its offset, with which it begins. One may end at 2**64.
        if not any(head) or offset.to_bytes(9, "little").startswith(head[:8]):
            return True
        if self._is_valid_as(position, offset, head):
            return True
        further = self._offset_at(position)
        return further is not None and further > offset

    def _is_valid_as(self, position: int, offset: int, head: bytes) -> bool:
        """Whether a valid commit stands at `position` but for its offset, which would be `offset`."""
        if len(head) < self._head or offset > MAX_OFFSET:
            return False
        _, _, size = peek_header(head, self.segment.version)
        if size > min(self.size - position, _LARGE):
            return False
        raw = self.segment.file.read(position, size)
        return bool(google_crc32c.value(offset.to_bytes(8, "little") + raw[8:]) == RESIDUE)

    def _behind(self) -> Resync:
        """The commits behind damage: one pass over the bytes, however often it is asked."""
        if self._resync is None:
            self._resync = Resync(
                self.segment.file,
                self.position + 1,
                self.size,
                version=self.segment.version,
                lowest=self.offset,
                upper=self.upper,
                is_ours=self._is_ours,
            )
        return self._resync

    def _tail(self, reason: Damage) -> Tail:
        is_rest_zero = reason is Damage.ZEROS and is_zero(self.segment.file, self.position, self.size)
        return Tail.ZEROS if is_rest_zero else Tail.TORN
