"""The hash that Rerun's analytics put in the place of a value, with their salt."""

from __future__ import annotations

from typing import Final

from eventrec.events import hashing

RERUN_SALT: Final = "d6d6bed3-028a-49ac-94dc-8c89cfb19379"
"""With it, hashes equal those that Rerun's own analytics made. An application of yours takes a salt of its own."""


def hashed(value: bool | float | str, *, salt: str | bytes = RERUN_SALT) -> str:  # noqa: FBT001 - one of the values it hashes
    """SHA-256 of salt and value, as 64 lowercase hexadecimal digits; see `eventrec.events.hashing` for the bytes.

    Raises:
        EncodeError: The value is of another kind.
    """
    return hashing.hashed(value, salt)
