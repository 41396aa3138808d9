"""The times of a client whose clock is wrong, put right by when it says that it sent them."""

from __future__ import annotations

from typing import Final

import msgspec

from eventrec.ingest.members import is_number, text_of
from eventrec.ingest.timestamps import nanoseconds

SECOND: Final = 1_000_000_000
MAX_IN_FLIGHT: Final = 5 * SECOND
"""A request may take so long. A clock that is no further off counts as right: its times stay exactly as they are."""

FUTURE: Final = 23 * 3_600 * SECOND
"""What is put right to later than this from now was said by no clock: it becomes now."""


def corrected(timestamp: int, sent_at: int | None, now: int) -> int:
    """`timestamp`, by the clock that said `sent_at`, in the server's, which says `now`: `now - (sent_at - timestamp)`.

    All are nanoseconds since the epoch. `sent_at` None: the client does not say, and its clock is believed.
    """
    if sent_at is None or abs(now - sent_at) <= MAX_IN_FLIGHT:
        return timestamp
    moved = now - (sent_at - timestamp)
    return moved if -(2**63) <= moved <= now + FUTURE else now


def moment(raw: msgspec.Raw | None) -> int | None:
    """The time that a member says, ISO 8601 text or a number; None where it says none that can be read."""
    if raw is None:
        return None
    try:
        text = text_of(raw)
        if text is None and not is_number(raw):
            return None
        return nanoseconds(bytes(raw).decode() if text is None else text)
    except (ValueError, msgspec.DecodeError):  # the second: it is not Unicode
        return None
