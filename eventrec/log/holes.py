"""Holes in a file: bytes that no disk holds, and that read as zeros. They are passed over, not read.

A segment may have one of many GiB: a file system grew it before a crash, another program copied or truncated it.
Reading a hole takes as long as reading data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import google_crc32c

from eventrec.log.commit import CHECKSUM_SIZE
from eventrec.log.crc import extend_by_zeros

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventrec.log.commit import Header
    from eventrec.log.storage import ReadableFile

_CHUNK: Final = 1 << 20


def pieces(file: ReadableFile, position: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The bytes of `file` from `position` to `end`, each piece with its position; what is left out is zeros.

    Fewer where the file is shorter.
    """
    while position < end and (position := file.data_from(position)) < end:
        piece = file.read(position, min(_CHUNK, end - position))
        if not piece:
            return
        yield position, piece
        position += len(piece)


def is_zero(file: ReadableFile, position: int, end: int) -> bool:
    """Whether all bytes from `position` to `end`, or to where the file ends, are zeros."""
    return all(piece.count(0) == len(piece) for _, piece in pieces(file, position, end))


def has_right_checksum(file: ReadableFile, position: int, header: Header) -> bool:
    """Whether the commit of `header`, at `position`, is valid: looked at in little memory, whatever size it claims."""
    end = position + header.size - CHECKSUM_SIZE
    crc, at = 0, position
    for start, piece in pieces(file, position, end):
        crc = google_crc32c.extend(extend_by_zeros(crc, start - at), piece)
        at = start + len(piece)
    return file.read(end, CHECKSUM_SIZE) == extend_by_zeros(crc, end - at).to_bytes(CHECKSUM_SIZE, "little")
