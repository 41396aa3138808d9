"""Buckets of time: half-open, one after the other without gaps, in the local time of a zone.

A bucket is an integer: its start, in nanoseconds since the epoch, UTC. It ends where the next one starts.

unit           begins where the zone's
day            calendar first shows the date: after a change to summer time a day may have 23 hours, and begin at 1:00
week           calendar first shows a Monday, as ISO 8601 has it
month          calendar first shows the first day of a month
minute, hour   clock reads a multiple of `every`, counted from midnight: an hour that the clock shows twice is two
               buckets; of several hours, those around a change are longer or shorter; in a zone that is half an hour
               off UTC, hours begin at half past

A date that a zone has left out has no bucket. Where a clock was put back over midnight, a date that the calendar has
already shown goes on.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args
from zoneinfo import ZoneInfo

from eventrec.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Unit: TypeAlias = Literal["minute", "hour", "day", "week", "month"]

UNITS: Final[tuple[Unit, ...]] = get_args(Unit)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = 1_000_000_000
_DAY: Final = 86_400
_RULES_FROM, _RULES_TO = datetime(1900, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_STEPS: Final = {"minute": 60, "hour": 3_600}
_PARENTS: Final = {"minute": 60, "hour": 24}
_SAID: Final = re.compile(r"\s*(?:(\d{1,4})\s*)?(minute|hour|day|week|month)s?\s*")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A way to part time. All moments are nanoseconds since the epoch, of the years 2 to 9998.

    Attributes:
        unit: Of what a bucket is.
        every: How many of them: a divisor of 60 for minutes, of 24 for hours, else 1.
        zone: A name of the IANA database, or "UTC".
    """

    unit: Unit
    every: int = 1
    zone: str = "UTC"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise CatalogueError(f"a bucket is of {', '.join(UNITS)}, got {self.unit!r}")
        parent = _PARENTS.get(self.unit, 1)
        if not _divides(self.every, parent):
            allowed = ", ".join(str(n) for n in range(1, parent + 1) if parent % n == 0)
            raise CatalogueError(f"a bucket of {self.unit}s has {allowed} of them, got {self.every!r}")
        zone_of(self.zone)

    def __str__(self) -> str:
        return f"{self.every} {self.unit}{'s' * (self.every != 1)} in {self.zone}"

    @property
    def is_fixed(self) -> bool:
        """Whether all buckets are equally long, and begin at multiples of `step` since the epoch."""
        return self.zone == "UTC" and self.unit in {"minute", "hour", "day"}

    @property
    def step(self) -> int:
        """The length of a bucket away from changes of the clock, in nanoseconds; of months, the longest."""
        match self.unit:
            case "minute" | "hour":
                return _STEPS[self.unit] * self.every * _SECOND
            case "day":
                return _DAY * _SECOND
            case "week":
                return 7 * _DAY * _SECOND
            case _:
                return 31 * _DAY * _SECOND

    @property
    def rules(self) -> str | None:
        """A text that differs where this machine's rules of the zone part time otherwise; None: UTC, which has none.

        The rules of the years 1900 to 2099 count: later years repeat them. Of minutes and hours it is the same for all
        zones that are whole steps away from UTC.
        """
        if self.zone == "UTC":
            return None
        return _rules(self.zone, self.step // _SECOND if self.unit in _STEPS else None)

    def floor(self, moment: int) -> int:
        """The start of the bucket that holds `moment`."""
        if self.is_fixed:
            return moment - moment % self.step
        second = moment // _SECOND
        if self.unit in _STEPS:
            return self._clock_floor(second) * _SECOND
        start = self._first(_local(self.zone, second).date())
        while (after := self._calendar_after(start)) <= second:  # the calendar has shown a later date before
            start = after
        return start * _SECOND

    def after(self, start: int) -> int:
        """The start of the bucket that follows the one that starts at `start`."""
        if self.is_fixed:
            return start + self.step
        second = start // _SECOND
        return (self._clock_after(second) if self.unit in _STEPS else self._calendar_after(second)) * _SECOND

    def ceiling(self, moment: int) -> int:
        """The start of the first bucket that begins at `moment` or later."""
        start = self.floor(moment)
        return start if start == moment else self.after(start)

    def starts(self, start: int, end: int) -> Iterator[int]:
        """The starts of all buckets that begin in [`start`, `end`)."""
        bucket = self.ceiling(start)
        while bucket < end:
            yield bucket
            bucket = self.after(bucket)

    def floors(self) -> Callable[[int], int]:
        """`floor`, remembering the bucket that was found last: for moments that come about in order."""
        start = end = 0

        def floor(moment: int) -> int:
            nonlocal start, end
            if not start <= moment < end:
                start = self.floor(moment)
                end = self.after(start)
            return start

        return floor

    # -- by the clock: the last or next second at which it reads a multiple of the step

    def _clock_floor(self, second: int) -> int:
        step = self.step // _SECOND
        while True:
            offset = _offset(self.zone, second)
            start = second - (second + offset) % step
            if _offset(self.zone, start) == offset:
                return start
            # The clock was changed in between: what it read before decides.
            second = _first_second(lambda at, offset=offset: _offset(self.zone, at) == offset, start, second) - 1  # type: ignore[misc]

    def _clock_after(self, second: int) -> int:
        step = self.step // _SECOND
        while True:
            offset = _offset(self.zone, second)
            following = second + step - (second + offset) % step
            if _offset(self.zone, following) == offset:
                return following
            second = _first_second(lambda at, offset=offset: _offset(self.zone, at) != offset, second, following)  # type: ignore[misc]
            if (second + _offset(self.zone, second)) % step == 0:
                return second

    # -- by the calendar: the first second at which it shows a date

    def _first(self, day: date) -> int:
        """The start of the bucket in which `day` lies."""
        match self.unit:
            case "week":
                day -= timedelta(days=day.weekday())
            case "month":
                day = day.replace(day=1)
        return _start_of_day(self.zone, day)

    def _calendar_after(self, second: int) -> int:
        day = _local(self.zone, second).date()
        if self.unit == "month":
            following = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
        else:
            days = 7 - day.weekday() if self.unit == "week" else 1
            following = day + timedelta(days=days)
        return _start_of_day(self.zone, following)


class BucketDeclaration:
    """A bucket, as a class body declares it."""

    __slots__ = ("every", "unit", "zone")

    def __init__(self, said: str, *, zone: str) -> None:
        found = _SAID.fullmatch(str(said))
        if found is None:
            raise CatalogueError(f'a bucket is said as "1 hour", "15 minutes", "day", "week" or "month", got {said!r}')
        unit: Unit = found[2]  # type: ignore[assignment]
        self.unit: Final = unit
        self.every: Final = int(found[1] or 1)
        self.zone: Final = zone

    def __repr__(self) -> str:
        return f"bucket('{self.every} {self.unit}', zone={self.zone!r})"

    def resolve(self) -> Bucket:
        """The bucket.

        Raises:
            CatalogueError: There are no such buckets, or no such zone.
        """
        return Bucket(self.unit, self.every, self.zone)


def bucket(said: str, *, zone: str = "UTC") -> BucketDeclaration:
    """Buckets of "1 hour", "15 minutes", "day", "week" or "month", in the local time of `zone`."""
    return BucketDeclaration(said, zone=zone)


def _divides(every: object, whole: int) -> bool:
    return isinstance(every, int) and not isinstance(every, bool) and every >= 1 and whole % every == 0


_OF_THE_MACHINE: Final = frozenset({"localtime", "posixrules", "Factory"})
_OTHER_CLOCKS: Final = ("posix/", "right/")
"""Folders of rules that some machines have, and of clocks that count leap seconds."""


@lru_cache(maxsize=256)
def zone_of(name: str) -> tzinfo:
    """The zone called `name`. "UTC" needs no database of zones.

    Raises:
        CatalogueError: There is none.
    """
    if name == "UTC":
        return UTC
    if name in _OF_THE_MACHINE or name.startswith(_OTHER_CLOCKS):
        raise CatalogueError(f"there is no time zone {name!r} that is the same everywhere: name a place")
    try:
        return ZoneInfo(name)
    except (ValueError, TypeError, OSError, ImportError) as exc:  # ZoneInfoNotFoundError is a KeyError
        raise CatalogueError(f"there is no time zone {name!r}: {exc}") from exc
    except KeyError as exc:
        raise CatalogueError(
            f"there is no time zone {name!r} on this machine: see https://docs.python.org/3/library/zoneinfo.html"
        ) from exc


def _local(zone: str, second: int) -> datetime:
    return (_EPOCH + timedelta(seconds=second)).astimezone(zone_of(zone))


def _offset(zone: str, second: int) -> int:
    """By how many seconds the zone's clock is ahead of UTC then."""
    return _beyond(_local(zone, second).utcoffset(), None)


@lru_cache(maxsize=256)
def _rules(zone: str, step: int | None) -> str:
    """A digest of when the zone's clock is changed, and by how much it is ahead of UTC then: beyond whole `step`s."""
    known, day = zone_of(zone), timedelta(days=1)
    at, before = _RULES_FROM, _RULES_FROM.astimezone(known).utcoffset()
    said = [(0, _beyond(before, step))]
    while (at := at + day) < _RULES_TO:
        ahead = at.astimezone(known).utcoffset()
        if ahead == before:
            continue
        second, offset = (at - _EPOCH).days * _DAY, _beyond(before, None)
        changed = _first_second(lambda at, offset=offset: _offset(zone, at) != offset, second - _DAY, second)  # type: ignore[misc]
        before = ahead
        if said[-1][1] != _beyond(ahead, step):
            said.append((changed, _beyond(ahead, step)))
    return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


def _beyond(ahead: timedelta | None, step: int | None) -> int:
    """The seconds of `ahead`, without whole `step`s of them."""
    seconds = 0 if ahead is None else ahead.days * _DAY + ahead.seconds
    return seconds if step is None else seconds % step


@lru_cache(maxsize=4_096)
def _start_of_day(zone: str, day: date) -> int:
    """The first second at which the calendar shows `day`, or a later date where it leaves that one out."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone_of(zone))
    since = midnight.astimezone(UTC) - _EPOCH  # of two such moments, the first
    second = since.days * _DAY + since.seconds
    if _local(zone, second).replace(tzinfo=None) == midnight.replace(tzinfo=None):
        return second
    # The clock was put forward over midnight.
    return _first_second(lambda at: _local(zone, at).date() >= day, second - 2 * _DAY, second + _DAY)


def _first_second(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The first second in (`low`, `high`] at which `holds`: not at `low`, at `high`, and only one change between."""
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
