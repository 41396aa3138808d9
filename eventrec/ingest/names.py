"""Names and ids that others give to events: which of them can be ours as they are."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from eventrec.errors import InvalidEventError
from eventrec.records.schema import MAX_NAME_BYTES, check_name

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def is_name(text: str) -> bool:
    """Whether a type or a table may be called `text`."""
    # What is longer is looked at each time: it must not fill the memory.
    return len(text) <= MAX_NAME_BYTES and _is_short_name(text)


@lru_cache(maxsize=1_024)
def _is_short_name(text: str) -> bool:
    try:
        check_name("a name", text)
    except InvalidEventError:
        return False
    return True


def uuid_in(text: str) -> bytes | None:
    """The UUID that `text` writes, as bytes; None where it is something else."""
    return bytes.fromhex(text.replace("-", "")) if _UUID.fullmatch(text) is not None else None
