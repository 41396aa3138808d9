"""A reader's cursor as it is written in a query, a header, or the id of a server-sent event."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from eventrec.reading import Cursor

MAX_BYTES: Final = 2**20
"""Of a cursor: a short text that unpacks to more is not one."""


def cursor_text(cursor: Cursor) -> str:
    """`cursor` in letters, digits, `-` and `_`, and short: headers have little room."""
    return base64.urlsafe_b64encode(zlib.compress(cursor.encode(), 9)).decode().rstrip("=")


def cursor_of(text: str) -> Cursor:
    """What `cursor_text` wrote.

    Raises:
        ValueError: It did not write that.
    """
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        unpacking = zlib.decompressobj()
        found = unpacking.decompress(packed, MAX_BYTES).decode()
    except (binascii.Error, ValueError, zlib.error) as exc:
        raise ValueError("it was not given by this server") from exc
    if not unpacking.eof:
        raise ValueError("it was not given by this server")
    return found
