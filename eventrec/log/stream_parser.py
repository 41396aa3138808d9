"""A mirror's stream, cut at any byte, back into segment headers and valid commits. No file is touched here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import google_crc32c

from eventrec.errors import CorruptCommitError, Damage
from eventrec.log.commit import CHECKSUM_SIZE, MAX_OFFSET, Header, header_size, read_header, whole_header
from eventrec.log.crc import RESIDUE
from eventrec.log.segment import HEADER_SIZE, MAGIC, decode_header

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_COMMIT_BYTES: Final = 64 << 20
"""Bytes of one commit that a mirror takes: what a peer claims is refused before there is memory for it."""

_OFFSET_SIZE: Final = 8
_NAME: Final = "stream"


class Received(NamedTuple):
    """A commit that came whole and valid.

    Attributes:
        header: The bytes of the header of the segment that begins with it; None: the segment goes on.
        is_repeated: It is to be a commit that the log holds already, in a segment that begins elsewhere now.
        raw: All of its bytes.
    """

    offset: int
    end: int
    checksum: int
    header: bytes | None
    is_repeated: bool
    raw: bytes


class StreamParser:
    """Takes a stream piece by piece, and keeps no more of it than one commit that is not complete.

    Args:
        next_offset: The record that comes next; None: any, for there is none yet.
        version: Of the commits in the segment that goes on; None: a header has to come first.
        segment: The first offset of that segment.
        last: Offset and checksum of the last commit.
        max_commit_bytes: What a commit may have, in bytes.
        allows_gaps: A segment may begin past `next_offset`.
    """

    def __init__(
        self,
        *,
        next_offset: int | None,
        version: int | None,
        segment: int | None,
        last: tuple[int, int] | None,
        max_commit_bytes: int = MAX_COMMIT_BYTES,
        allows_gaps: bool = False,
    ) -> None:
        self._next_offset = next_offset
        self._version = version
        self._segment = segment
        self._last = last
        self._max_commit_bytes = max_commit_bytes
        self._allows_gaps = allows_gaps
        self._header: bytes | None = None
        self._is_header_new = self._is_header_next = False
        # Where the next commit of a repetition begins, while there is one.
        self._repeated: int | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self._needed = HEADER_SIZE
        self._position = 0

    def feed(self, *pieces: bytes | memoryview) -> Iterator[Received]:
        """What has become complete by the next `pieces`, in order. To be used up before more is fed.

        Raises:
            CorruptCommitError: The stream is not what may come next. Its position is a byte of the stream. What comes
                before was returned, and nothing more is taken.
        """
        self._held += sum(map(len, pieces))
        if self._held < self._needed:
            self._pieces += map(bytes, pieces)  # A view would keep all that it is a part of.
            return
        buffer = b"".join((*self._pieces, *pieces))
        self._pieces.clear()
        self._held = 0
        at = 0
        try:
            while (needed := self._look(buffer, at)) <= len(buffer) - at:
                if self._is_header_next:
                    self._take_header(buffer[at : at + HEADER_SIZE])
                    at += HEADER_SIZE
                    continue
                header = self._checked(buffer, at)
                needed = header.size
                if needed > len(buffer) - at:
                    break
                received = self._commit(buffer, at, header)
                at += header.size
                if received is not None:
                    yield received
                for plain in self._plain(buffer, at):
                    at += len(plain.raw)
                    yield plain
        except CorruptCommitError as exc:
            raise CorruptCommitError(
                exc.reason, segment=_NAME, position=self._position + at, offset=self._next_offset
            ) from None
        self._needed = needed
        self._position += at
        if at < len(buffer):
            self._pieces.append(buffer[at:] if at else buffer)
            self._held = len(buffer) - at

    def finish(self) -> None:
        """Say that the stream is over: what comes next is another one.

        Raises:
            CorruptCommitError: SHORT: it ended inside a header, a commit or a repetition.
        """
        if self._held or self._repeated is not None:
            raise CorruptCommitError(Damage.SHORT, segment=_NAME, position=self._position, offset=self._next_offset)
        self._is_header_new = False
        self._position = 0

    def _plain(self, buffer: bytes, at: int) -> Iterator[Received]:
        """The commits from `at` on that are whole, valid, and simply the next of their segment."""
        version, expected = self._version, self._next_offset
        if version is None or expected is None or self._repeated is not None or self._header is not None:
            return
        size_of_buffer, limit = len(buffer), self._max_commit_bytes
        while (header := whole_header(buffer, at, version)) is not None:
            offset, n, size = header
            end, after = at + size, offset + n
            if offset != expected or end > size_of_buffer or size > limit or after > MAX_OFFSET:
                return
            raw = buffer[at:end]
            if google_crc32c.value(raw) != RESIDUE or raw.startswith(MAGIC):
                return
            checksum = int.from_bytes(raw[-CHECKSUM_SIZE:], "little")
            self._next_offset, self._last = after, (offset, checksum)
            yield Received(offset, after, checksum, None, False, raw)  # noqa: FBT003 - one of a tuple's values
            at, expected = end, after

    def _look(self, buffer: bytes, at: int) -> int:
        """How many bytes must be there before what comes next can be taken; sets whether that is a header."""
        available = len(buffer) - at
        self._is_header_next = False
        if available < HEADER_SIZE or self._version is None:
            self._is_header_next = buffer.startswith(MAGIC, at)
            return HEADER_SIZE
        if self._is_header_new or not buffer.startswith(MAGIC, at):
            return header_size(self._version)
        expected = self._next_offset if self._repeated is None else self._repeated
        offset = b"" if expected is None else expected.to_bytes(_OFFSET_SIZE, "little")
        if not buffer.startswith(offset, at):
            self._is_header_next = True
            return HEADER_SIZE
        # The offset that comes next is, as bytes, a header. Behind a header there is a commit of that offset; behind
        # the offset itself an epoch, or a number and a length.
        if available < HEADER_SIZE + _OFFSET_SIZE:
            return HEADER_SIZE + _OFFSET_SIZE
        self._is_header_next = buffer.startswith(offset, at + HEADER_SIZE)
        return HEADER_SIZE if self._is_header_next else header_size(self._version)

    def _take_header(self, header: bytes) -> None:
        if self._repeated is not None:
            raise CorruptCommitError(Damage.HEADER)
        self._version = decode_header(header)
        self._header = header
        self._is_header_new = True

    def _checked(self, buffer: bytes, at: int) -> Header:
        """The header of the commit at `at`, which is one that may come next."""
        if self._version is None:
            raise CorruptCommitError(Damage.HEADER)
        header = read_header(buffer, at, self._max_commit_bytes, self._version)
        if header.end > MAX_OFFSET:
            raise CorruptCommitError(Damage.OVERLAPS)
        expected = self._next_offset if self._repeated is None else self._repeated
        if expected is None or header.offset == expected:
            return header
        if self._is_last(header) or self._may_repeat(header):
            return header
        if header.offset < expected:
            raise CorruptCommitError(Damage.OUT_OF_ORDER)
        if self._repeated is not None or not self._allows_gaps or self._header is None:
            raise CorruptCommitError(Damage.HOLE)
        return header

    def _is_last(self, header: Header) -> bool:
        """Whether it has the place of the commit that came last: of which it must then be an exact repetition."""
        return (
            self._header is None
            and self._repeated is None
            and self._last is not None
            and header.offset == self._last[0]
        )

    def _may_repeat(self, header: Header) -> bool:
        """Whether a segment may begin with it that begins inside the last one."""
        return (
            self._header is not None
            and self._repeated is None
            and self._segment is not None
            and self._next_offset is not None
            and self._segment < header.offset < self._next_offset
        )

    def _commit(self, buffer: bytes, at: int, header: Header) -> Received | None:
        """The commit at `at`, if it is valid; None for an exact repetition of the last one."""
        raw = buffer[at : at + header.size]
        if google_crc32c.value(raw) != RESIDUE:
            raise CorruptCommitError(Damage.CHECKSUM)
        checksum = int.from_bytes(raw[-CHECKSUM_SIZE:], "little")
        if self._is_last(header):
            if self._last != (header.offset, checksum):
                raise CorruptCommitError(Damage.FORKED)
            return None
        is_repeated = self._next_offset is not None and header.offset < self._next_offset
        if is_repeated:
            self._repeat(header)
        else:
            self._next_offset = header.end
            self._last = (header.offset, checksum)
            if self._header is not None:
                self._segment = header.offset
        received = Received(header.offset, header.end, checksum, self._header, is_repeated, raw)
        self._header = None
        self._is_header_new = False
        return received

    def _repeat(self, header: Header) -> None:
        assert self._next_offset is not None  # noqa: S101  else nothing is repeated
        if header.end > self._next_offset:
            raise CorruptCommitError(Damage.FORKED)
        if self._header is not None:
            self._segment = header.offset
        self._repeated = None if header.end == self._next_offset else header.end
