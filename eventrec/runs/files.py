"""Small files of a log directory: replaced at once and durably, with a checksum, and decoded at one seam.

    file    = value newline [trailer newline]
    value   = JSON on one line
    trailer = {"crc32c":"8 hexadecimal digits"}       CRC-32C of the bytes of the value

A file without a trailer is read as it is: versions before the checksum wrote the value alone, without a newline. So
damage to the trailer costs the file, as damage to the value does. The value `{"a":1}` is this file:

    7b 22 61 22 3a 31 7d 0a 7b 22 63 72 63 33 32 63 22 3a 22 63 66 66 37 64 35 36 61 22 7d 0a
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

import google_crc32c
import msgspec

from eventrec.errors import UnreadableFileError
from eventrec.log.segment import replace_file
from eventrec.log.storage import write_all

if TYPE_CHECKING:
    from eventrec.log.segment import Sync
    from eventrec.log.storage import Storage

T = TypeVar("T")

SUFFIX: Final = ".json"

_MAX_STEM: Final = 100
"""A file name has at most 255 bytes, and a quoted name of a subscription may have three times as many."""

_MAX_BYTES: Final = 64 << 20
"""No small file is larger: a batch that is remembered has some bytes for each of its records."""


def file_name(subscription: str) -> str:
    """The name of a small file that belongs to `subscription`."""
    return safe_name(subscription) + SUFFIX


def safe_name(subscription: str) -> str:
    """The name of a file or a folder that belongs to `subscription`: nothing in it means anything to a file system."""
    quoted = quote(subscription, safe="", errors="surrogatepass").replace(".", "%2E")
    if len(quoted) > _MAX_STEM:
        digest = blake2b(subscription.encode(errors="surrogatepass"), digest_size=16).hexdigest()
        quoted = quoted[: _MAX_STEM // 2] + digest
    return quoted


def encode(value: object) -> bytes:
    """The bytes of a small file that holds `value`."""
    line = msgspec.json.encode(value)
    return b'%b\n{"crc32c":"%08x"}\n' % (line, google_crc32c.value(line))


def decode(content: bytes, kind: type[T]) -> tuple[T, bool]:
    """The value of a small file, and whether a checksum says that it is the one that was written.

    Raises:
        UnreadableFileError: The bytes are not such a file, or not as they were written.
    """
    line, _, trailer = content.partition(b"\n")
    if trailer and trailer != b'{"crc32c":"%08x"}\n' % google_crc32c.value(line):
        raise UnreadableFileError("its checksum is wrong")
    try:
        return msgspec.json.decode(line, type=kind), bool(trailer)
    except Exception as exc:
        # Whatever a decoder makes of odd bytes: UnicodeDecodeError, OverflowError, RecursionError, ValueError.
        raise UnreadableFileError(f"{type(exc).__name__}: {exc}") from exc


def replace(storage: Storage, name: str, value: object, *, sync: Sync = "name") -> None:
    """Put a file that holds `value` in the place of `name`, which is old or new at any instant.

    It survives a power cut on return; with "content" once the directory is synced too, with "nothing" when the system
    gets to it.

    Raises:
        OSError: The disk refused. The old file stands.
    """
    content = encode(value)
    replace_file(storage, name, lambda file: write_all(file, content, 0), sync=sync)


def load(storage: Storage, name: str, kind: type[T]) -> tuple[T, bool]:
    """The value of the file `name`, and whether a checksum says that it is the one that was written.

    Raises:
        FileNotFoundError: There is none.
        UnreadableFileError: The disk does not give its bytes, or they are not those of a small file.
    """
    return decode(read(storage, name), kind)


def read(storage: Storage, name: str) -> bytes:
    """The bytes of the small file `name`, for `decode`. Raises as `load`."""
    try:
        file = storage.open(name, "read")
        try:
            content = file.read(0, _MAX_BYTES + 1)
        finally:
            file.close()
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise UnreadableFileError(f"{type(exc).__name__}: {exc.strerror}") from exc
    if len(content) > _MAX_BYTES:
        raise UnreadableFileError(f"it has more than {_MAX_BYTES:,} bytes")
    return content


def is_forbidden(exc: BaseException) -> bool:
    """Whether `exc`, an UnreadableFileError, says that this user may not read the file: what is in it counts."""
    return isinstance(exc.__cause__, PermissionError)
