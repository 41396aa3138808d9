"""Moments in questions and answers: what a caller may write, and how they are written.

2026-01-31T10:00:00.5+01:00    a moment: RFC 3339, to the nanosecond
2026-01-31T10:00               without a zone: in the zone of the question
2026-01-31                     where the calendar of that zone first shows the date
now, -7d, -90m, -1h30m         before the present moment: weeks, days, hours, minutes, seconds
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

from eventrec.analytics import Bucket, zone_of
from eventrec.errors import CatalogueError, EncodeError
from eventrec.ingest.timestamps import nanoseconds
from eventrec.records.times import EPOCH
from eventrec.records.times import nanoseconds as nanoseconds_of
from eventrec.runtime.backend import in_thread

if TYPE_CHECKING:
    from datetime import tzinfo

SECOND: Final = 1_000_000_000
FIRST: Final = -(2**63)
LAST: Final = 2**63 - 1

_RELATIVE: Final = re.compile(r"-((?:\d{1,7}[wdhms]){1,5})", re.ASCII)
_PART: Final = re.compile(r"(\d+)([wdhms])", re.ASCII)
_SECONDS: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_LOCAL: Final = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d)(?::(\d\d)(?:[.,](\d+))?)?", re.ASCII)
_PLUS_LOST: Final = re.compile(r"(\d{4}-\d\d-\d\d[Tt ][\d:.,]+) (\d\d:\d\d)", re.ASCII)
_FORMS: Final = "a moment as 2026-01-31T10:00:00Z, a date as 2026-01-31, or a span before now as -7d"
_MAX_SHOWN: Final = 40
_MINUTE: Final = timedelta(minutes=1)


def moment_of(text: str, zone: str, *, now: int) -> int:
    """The moment that `text` writes, in nanoseconds since the epoch; without a zone of its own, in `zone`.

    Raises:
        ValueError: It is not one, or outside of the years 1677 to 2262.
    """
    said = text.strip()
    if said == "now":
        return now
    if relative := _RELATIVE.fullmatch(said):
        seconds = sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(relative[1]))
        return _within(now - seconds * SECOND, said)
    try:
        if _DATE.fullmatch(said):
            return _within(_first_of(date.fromisoformat(said), zone), said)
        if local := _LOCAL.fullmatch(said):
            # Its minute by the zone; the rest as with a zone: other fractions, and a leap second.
            day, clock, _, _ = local.groups()
            minute = datetime.fromisoformat(f"{day}T{clock}")
            rest = nanoseconds(f"1970-01-01T00:00{said[local.end(2) :]}", "iso")
            return _within(nanoseconds_of(minute.replace(tzinfo=zone_of(zone))) + rest, said)
        if said[:1].isdigit() and said.count("-") > 1:
            # A "+" that was not encoded is a space in a query.
            return nanoseconds(_PLUS_LOST.sub(r"\1+\2", said), "iso")
    except OverflowError as exc:
        raise ValueError(f"{_shown(said)} is outside the years 1677 to 2262") from exc
    except (ValueError, EncodeError) as exc:
        outside = "outside the years" in str(exc)
        raise ValueError(str(exc) if outside else f"{_shown(said)} is not a time: {_FORMS}") from exc
    raise ValueError(f"{_shown(said)} is not a time: {_FORMS}")


async def known_zone(name: str) -> str:
    """`name`, once it is known to be a zone: its file is read beside the loop.

    Raises:
        ValueError: There is no such zone.
    """
    if name != "UTC":
        try:
            await in_thread(zone_of, name)
        except CatalogueError:
            raise ValueError(f"there is no time zone {_shown(name)}: a name is like Europe/Zurich") from None
    return name


def moment_text(moment: int, zone: str = "UTC") -> str:
    """RFC 3339, exact: without a fraction of a second where it has none, else to the micro- or nanosecond."""
    second, fraction = divmod(moment, SECOND)
    at = _local(second, zone_of(zone))
    offset = at.utcoffset()
    if offset is None or offset % _MINUTE:  # Before zones had whole minutes.
        at = _local(second, UTC)
    text = at.isoformat()
    body, zoned = text[:19], text[19:]
    digits = "" if not fraction else f".{fraction // 1_000:06}" if fraction % 1_000 == 0 else f".{fraction:09}"
    return f"{body}{digits}{'Z' if zoned == '+00:00' and zone == 'UTC' else zoned}"


def _local(second: int, zone: tzinfo) -> datetime:
    try:
        return (EPOCH + timedelta(seconds=second)).astimezone(zone)
    except OverflowError:
        return datetime.max.replace(microsecond=0, tzinfo=UTC) if second > 0 else datetime.min.replace(tzinfo=UTC)


def _first_of(day: date, zone: str) -> int:
    """When the calendar of `zone` first shows `day`."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=zone_of(zone))
    return Bucket("day", zone=zone).floor(nanoseconds_of(noon))


def _within(moment: int, said: str) -> int:
    if not FIRST <= moment <= LAST:
        raise ValueError(f"{_shown(said)} is outside the years 1677 to 2262")
    return moment


def _shown(text: str) -> str:
    return ascii(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...")
