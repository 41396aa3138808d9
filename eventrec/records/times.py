"""Moments and spans of time, exact: what subclasses hold beyond microseconds, and what JSON has no words for."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Final

from eventrec.errors import EncodeError

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_subtract: Final = datetime.__sub__
_MINUTE: Final = timedelta(minutes=1)


def nanoseconds(moment: datetime) -> int:
    """`moment` as nanoseconds since the epoch, exact.

    Raises:
        EncodeError: It is naive: which zone it means is unknown. Or a subclass holds what this cannot read.
    """
    finer = 0 if moment.__class__ is datetime else nanoseconds_beyond(moment)
    if moment.utcoffset() is None:
        raise EncodeError(f"a datetime must carry a time zone, got {moment.isoformat()!r}: use datetime.now(UTC)")
    since = _subtract(moment, EPOCH)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000 + finer


def days_and_nanoseconds(span: timedelta) -> tuple[int, int]:
    """`span` as days and the nanoseconds beyond them, exact.

    Raises:
        EncodeError: A subclass holds what this cannot read.
    """
    finer = nanoseconds_beyond(span)
    return span.days, (span.seconds * 1_000_000 + span.microseconds) * 1_000 + finer


def nanoseconds_beyond(value: datetime | timedelta) -> int:
    """What `value` holds beyond its microseconds, as pandas' Timestamp and Timedelta do; 0 to 999.

    Raises:
        EncodeError: It is not a time (pandas' NaT), or holds something else there.
    """
    if value.__class__ in _BUILTIN:
        return 0
    if value != value:  # noqa: PLR0124 - as NaT says of itself
        raise EncodeError("it is not a time")
    finer = getattr(value, "nanosecond" if isinstance(value, datetime) else "nanoseconds", 0)
    if not isinstance(finer, int) or not 0 <= finer < 1_000:  # noqa: PLR2004 - of a microsecond
        raise EncodeError(f"what a {type(value).__name__} holds beyond microseconds is unknown")
    return int(finer)


_BUILTIN: Final = frozenset({datetime, timedelta})


def refuse_inexact_time(value: datetime | time | timedelta) -> None:
    """Raise EncodeError where the text that stands for `value` in JSON would mean another moment or span.

    RFC 3339 knows offsets of whole minutes; the encoders write microseconds at most.
    """
    if value.__class__ not in _BUILTIN and not isinstance(value, time) and nanoseconds_beyond(value):
        raise EncodeError(f"not a JSON value: a {type(value).__name__} with nanoseconds, which would be lost")
    if not isinstance(value, timedelta):
        offset = value.utcoffset()
        if offset and offset % _MINUTE:
            raise EncodeError(f"not a JSON value: a time with the UTC offset {offset}, which has seconds: use UTC")
