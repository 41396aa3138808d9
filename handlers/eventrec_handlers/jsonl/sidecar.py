"""The sidecar `next`: what of a folder counts, and where delivery goes on.

    {"version":1,"subscription":…,"file":…,"length":…,"next":…,"started":…,"retired_at":…,"crc32c":"8 digits"}

It is JSON on one line, so that an operator can read it, and change it where a handler says so. Every byte of it may be
bad: what is not exactly such a value is refused, a name of a file that is not one of ours above all. `crc32c` is the
CRC-32C of the line without it (`{…,"retired_at":…}`). One without it is taken as it is: versions before wrote none, and
an operator who changes a value takes it away.
"""

from __future__ import annotations

import re
from typing import Final

import google_crc32c
import msgspec

SIDECAR: Final = "next"
VERSION: Final = 1

_FILE_NAME: Final = re.compile(r"([0-9]{20})(?:-([0-9]{1,20}))?\.jsonl")
_CHECKSUM: Final = b',"crc32c":"'
_END: Final = b'"}\n'
_MAX_OFFSET: Final = 2**63 - 1


class UnreadableError(Exception):
    """Bytes that are not a sidecar."""


class Next(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `next` holds: the first `length` bytes of `file` count, and `next` is the offset to go on with.

    `file` is None until something is written. `started` is when the file was begun, in nanoseconds since the epoch,
    `retired_at` when the log was finished.
    """

    version: int = VERSION
    subscription: str
    file: str | None = None
    length: int = 0
    next: int
    started: int = 0
    retired_at: int | None = None


_decode: Final = msgspec.json.Decoder(Next).decode
"""Made before there are threads: where two decode a class first, at once, msgspec ends the process."""


def encoded(stands: Next) -> bytes:
    """The bytes of a sidecar."""
    line = msgspec.json.encode(stands)
    return b"%b%b%08x%b" % (line[:-1], _CHECKSUM, google_crc32c.value(line), _END)


def decoded(content: bytes) -> Next:
    """The sidecar that `content` is.

    Raises:
        UnreadableError: It is not one.
    """
    line, checksum, digits = content.rpartition(_CHECKSUM)
    if checksum:
        content = line + b"}"
        if digits != b"%08x%b" % (google_crc32c.value(content), _END):
            raise UnreadableError('its checksum is wrong (where its values are right, take "crc32c" away)')
    try:
        stands = _decode(content)
    except Exception as exc:  # whatever a decoder makes of odd bytes: UnicodeDecodeError, RecursionError, ValueError …
        raise UnreadableError(f"{exc}") from exc
    if stands.version != VERSION:
        raise UnreadableError(f"it is of version {stands.version}, not {VERSION}")
    if stands.file is not None and file_order(stands.file) is None:
        raise UnreadableError(f"it names {stands.file!r}, which is not a file of lines")
    if not (0 <= stands.length <= _MAX_OFFSET and 0 <= stands.next <= _MAX_OFFSET):
        raise UnreadableError(f"its length {stands.length} or its next {stands.next} cannot be")
    return stands


def file_name(start: int, begun: int | None = None) -> str:
    """The name of a file that begins with the offset `start`; a second one of that offset says when it was begun."""
    return f"{start:020}.jsonl" if begun is None else f"{start:020}-{begun}.jsonl"


def file_order(name: str) -> tuple[int, int] | None:
    """What files are sorted by, in the order in which they were written; None: `name` is not one of ours."""
    match = _FILE_NAME.fullmatch(name) if name.isascii() else None
    return None if match is None else (int(match[1]), int(match[2] or -1))
