"""The format, and the pure functions that encode and decode one commit.

A log is a directory of segments. Other files in it are not part of it. All integers are little-endian and unsigned;
there is no padding. Version 1 is written; version 0, which has no epoch, is read too.

    log      = segment+                        the segments of a log, by the number in their names
    segment  = header commit+ [tail]           file {first:020d}.stdb.log; first = offset of its first record
    header   = magic version algorithm 0 0     10 bytes
    magic    = "(ds)^2"                        28 64 73 29 5e 32
    version  = 0x01 | 0x00                     of the commits that follow
    algorithm= 0x00                            CRC-32C
    commit   = offset:8 epoch:8 n:2 len:4 records:len crc:4        version 1, 26 bytes + records
             | offset:8         n:2 len:4 records:len crc:4        version 0, 18 bytes + records
    tail     = zeros | bytes of a commit that was not finished | superseded commits

offset   number of the commit's first record; records are numbered from 0 without gaps
epoch    a number that never falls; 0 where there is one writer
n        how many records, 1 to 65535; a commit of none is not a commit
records  opaque to the log, which cannot tell where one ends
crc      CRC-32C (Castagnoli) of every byte of the commit before it; a commit is valid if it matches

A header of zeros only (22 bytes in version 1, 14 in version 0) is not a commit: the space was reserved, or never
reached the disk. Bytes at or past the first offset of the next segment are superseded: they are not part of the log.
A segment's header is a hint, since commits prove themselves: where the first commit is valid only in the other
version, it is read in that one.

One segment of one commit, records 1 and 2 ("abc" and "def"), epoch 7; its name is 00000000000000000001.stdb.log:

    position  bytes
    0         28 64 73 29 5e 32                  magic
    6         01 00 00 00                        version 1, CRC-32C, reserved
    10        01 00 00 00 00 00 00 00            offset 1
    18        07 00 00 00 00 00 00 00            epoch 7
    26        02 00                              n = 2
    28        06 00 00 00                        len = 6
    32        61 62 63 64 65 66                  records
    38        49 45 4f 07                        crc = 0x074f4549

An index `{first:020d}.stdb.ofs` may stand beside a segment: entries of 16 bytes, the offset of a commit and its
position, rising; an offset of 0 ends it. It is a hint: it can be deleted, and what it says is checked before use.
A compressed segment holds the same bytes as frames of zstd's seekable format, at most 4096 bytes each; positions
are always those of the uncompressed bytes.
"""

from __future__ import annotations

import functools
import struct
from typing import Final, NamedTuple

import google_crc32c

from eventrec.errors import CorruptCommitError, Damage
from eventrec.runtime.logging import get_logger

VERSION: Final = 1
VERSIONS: Final = (1, 0)
MAX_RECORDS: Final = 0xFFFF
MAX_CONTENT: Final = 0xFFFF_FFFF
MAX_OFFSET: Final = 0xFFFF_FFFF_FFFF_FFFF
CHECKSUM_SIZE: Final = 4

_V1: Final = struct.Struct("<QQHI")
_V0: Final = struct.Struct("<QHI")
_CHECKSUM: Final = struct.Struct("<I")
_HEADER_SIZES: Final = (_V0.size, _V1.size)
_ZEROS: Final = bytes(_V1.size)


class Header(NamedTuple):
    """What a commit says of itself, before its checksum is known to be right. Sizes are in bytes."""

    offset: int
    epoch: int
    n: int
    length: int
    size: int

    @property
    def end(self) -> int:
        """The offset after its last record."""
        return self.offset + self.n


class Commit(NamedTuple):
    """One valid commit. `size` is what it takes in the segment, in bytes; `content` is its records, undivided."""

    offset: int
    epoch: int
    n: int
    content: bytes
    checksum: int
    size: int

    @property
    def end(self) -> int:
        """The offset after its last record."""
        return self.offset + self.n


def header_size(version: int) -> int:
    """Bytes of a commit before its records, in format `version`."""
    return _HEADER_SIZES[version]


def encode_commit(offset: int, content: bytes, n: int, *, epoch: int = 0) -> bytes:
    """The bytes of a commit of `n` records, version 1.

    Raises:
        ValueError: A number does not fit its field, or `n` is 0. Nothing that could be read back wrongly is encoded.
    """
    if not 1 <= n <= MAX_RECORDS:
        raise ValueError(f"a commit holds 1 to {MAX_RECORDS} records, not {n}")
    if not 0 <= offset <= MAX_OFFSET - n or not 0 <= epoch <= MAX_OFFSET:
        raise ValueError(f"offset {offset} or epoch {epoch} does not fit 64 bits")
    if len(content) > MAX_CONTENT:
        raise ValueError(f"a commit holds at most {MAX_CONTENT} bytes, not {len(content)}")
    head = _V1.pack(offset, epoch, n, len(content))
    return b"".join((head, content, _CHECKSUM.pack(google_crc32c.extend(google_crc32c.value(head), content))))


def read_header(buffer: bytes, at: int, available: int, version: int) -> Header:
    """The header at `at`. On return the whole commit fits the `available` bytes that remain of the log from there.

    `buffer` must hold the header, if `available` does; it need not hold the records.

    Raises:
        CorruptCommitError: SHORT, ZEROS, NO_RECORDS or TOO_LONG; its position is `at`.
    """
    if available < _HEADER_SIZES[version]:
        raise CorruptCommitError(Damage.SHORT, position=at)
    if version == 1:
        offset, epoch, n, length = _V1.unpack_from(buffer, at)
        size = length + 26
    else:
        offset, n, length = _V0.unpack_from(buffer, at)
        epoch, size = 0, length + 18
    if n == 0:
        is_zero = _ZEROS.startswith(buffer[at : at + _HEADER_SIZES[version]])
        raise CorruptCommitError(Damage.ZEROS if is_zero else Damage.NO_RECORDS, position=at)
    if size > available:
        # Known before a byte is allocated: a flipped bit here would ask for 4 GiB.
        raise CorruptCommitError(Damage.TOO_LONG, position=at, offset=offset)
    return Header(offset, epoch, n, length, size)


def peek_header(head: bytes, version: int) -> tuple[int, int, int]:
    """What a whole header says, be it of a commit or not: offset, number of records, size of the commit in bytes."""
    unpacked = (_V1 if version == 1 else _V0).unpack(head)
    return unpacked[0], unpacked[-2], unpacked[-1] + _HEADER_SIZES[version] + CHECKSUM_SIZE


def whole_header(buffer: bytes, at: int, version: int) -> tuple[int, int, int] | None:
    """As `peek_header`, at `at`; None where `buffer` does not hold a whole one that could be a commit's."""
    if len(buffer) - at < _HEADER_SIZES[version]:
        return None
    if version == 1:
        offset, _, n, length = _V1.unpack_from(buffer, at)
        return (offset, n, length + 26) if n else None
    offset, n, length = _V0.unpack_from(buffer, at)
    return (offset, n, length + 18) if n else None


def read_commit(buffer: bytes, at: int, header: Header) -> Commit:
    """The commit at `at`, of which `buffer` holds every byte and `header` was read there.

    Raises:
        CorruptCommitError: CHECKSUM; its position is `at`.
    """
    end = at + header.size - CHECKSUM_SIZE
    body = buffer[at:end]
    checksum = google_crc32c.value(body)
    if _CHECKSUM.unpack_from(buffer, end)[0] != checksum:
        raise CorruptCommitError(Damage.CHECKSUM, position=at, offset=header.offset)
    content = body[-header.length :] if header.length else b""
    return Commit(header.offset, header.epoch, header.n, content, checksum, header.size)


def decode_commit(buffer: bytes, at: int = 0, *, version: int = VERSION) -> Commit:
    """The commit that begins at byte `at` of `buffer`.

    Raises:
        CorruptCommitError: There is no valid commit; its reason says why and its position is `at`.
    """
    return read_commit(buffer, at, read_header(buffer, at, len(buffer) - at, version))


@functools.cache
def warn_if_slow() -> None:
    """Say once per process that checksums are computed by google-crc32c's pure-Python fallback."""
    if google_crc32c.implementation != "c":
        get_logger(__name__).warning("slow checksums", implementation=google_crc32c.implementation)
