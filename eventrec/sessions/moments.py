"""Moments of sessions: milliseconds since the epoch, as times of entries and as text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

MIN_NANOSECOND: Final = -(2**63)
MAX_NANOSECOND: Final = 2**63 - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_LIMIT: Final = MAX_NANOSECOND // 1_000_000


def nanoseconds_at(milliseconds: int) -> int:
    """The time of an entry: what 64 bits hold of it."""
    return min(max(milliseconds * 1_000_000, MIN_NANOSECOND), MAX_NANOSECOND)


def moment_at(milliseconds: int) -> datetime:
    """As JSON has it: RFC 3339, UTC."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def milliseconds_of(value: float | str) -> int:
    """A number of milliseconds, or a text as RFC 3339 writes it (UTC where it has no zone), as milliseconds.

    Raises:
        ValueError: It is neither, or none that an entry can have.
        OverflowError: It is infinite.
    """
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        value = (moment - _EPOCH) // _MILLISECOND
    milliseconds = int(value)
    if not -_LIMIT <= milliseconds <= _LIMIT:
        raise ValueError(f"{milliseconds} milliseconds are beyond what an entry holds")
    return milliseconds
