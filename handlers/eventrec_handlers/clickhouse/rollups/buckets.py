"""Buckets as SQL: the start of the one that holds a moment, in nanoseconds.

Within a known time they are exact: Python says where they begin, or when the zone's clock was changed. A view, which
has no end, leaves that to ClickHouse's own calendar, which knows hours, days, weeks and months of a zone; where a
clock is put back over midnight, the two may differ.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from eventrec import CatalogueError
from eventrec_handlers.clickhouse.sql import literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventrec.analytics import Bucket

_SECOND: Final = 1_000_000_000
_HOUR: Final = 3_600
_DAY: Final = 86_400
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def bucket_sql(bucket: Bucket, moment: str, *, first: int, last: int) -> str:
    """The start of the bucket that holds `moment`, which lies between `first` and `last`.

    Raises:
        CatalogueError: There are too many buckets between the two for one statement.
    """
    if bucket.is_fixed:
        return _multiple(moment, bucket.step)
    second = f"intDiv({_multiple(moment, _SECOND)}, {_SECOND})"
    if bucket.unit in {"minute", "hour"}:
        return f"({_by_clock(bucket, second, first // _SECOND, last // _SECOND)}) * {_SECOND}"
    starts = [start // _SECOND for start in bucket.starts(bucket.floor(first), last + 1)]
    if len(starts) > MAX_STARTS:
        raise CatalogueError(f"{len(starts)} buckets of {bucket}: ask for less time at once")
    return f"roundDown({second}, [{', '.join(map(_integer, starts))}]) * {_SECOND}"


MAX_STARTS: Final = 22_000
"""Starts of buckets in one statement, which by default has at most 256 KiB."""


def calendar_range(bucket: Bucket) -> tuple[int, int]:
    """From which start on, and before which, `calendar_sql` has the buckets."""
    if bucket.is_fixed:
        return EARLIEST + bucket.step - EARLIEST % bucket.step, LATEST - LATEST % bucket.step
    return bucket.after(bucket.floor(_SINCE * _SECOND)), bucket.floor(_UNTIL * _SECOND)


_SINCE: Final = 0
_UNTIL: Final = 4_102_444_800
"""The years 1970 to 2099, in seconds."""

# A DateTime64 with nine digits: the year 1900 to April 2262.
EARLIEST: Final = -2_208_988_800 * _SECOND
LATEST: Final = 2**63 - 1


def calendar_sql(bucket: Bucket, moment: str) -> str:
    """The start of the bucket that holds `moment`, of any time.

    Raises:
        CatalogueError: ClickHouse's calendar has no such buckets.
    """
    if bucket.is_fixed:
        return _multiple(moment, bucket.step)
    if bucket.unit == "minute" or bucket.every != 1:
        raise CatalogueError(f"ClickHouse's calendar has no buckets of {bucket}")
    if not _is_plain(bucket.zone, _HOUR if bucket.unit == "hour" else 60):
        raise CatalogueError(f"ClickHouse's calendar may part {bucket} otherwise, where the zone's clock was changed")
    local = f"toDateTime64(fromUnixTimestamp64Nano({moment}), 0, {literal(bucket.zone)})"
    start = f"toDateTime64({_CALENDAR[bucket.unit].format(local)}, 0, {literal(bucket.zone)})"
    return f"toInt64(toUnixTimestamp64Milli(toDateTime64({start}, 3))) * 1000000"


@lru_cache(maxsize=64)
def _is_plain(zone: str, step: int) -> bool:
    """Whether the clock of `zone` was always a multiple of `step` seconds off UTC, and never changed about midnight."""
    if zone == "UTC":
        return True
    (_, before), *changes = _changes(zone, _SINCE, _UNTIL)
    if before % step:
        return False
    for at, after in changes:
        low, high = sorted(((at or 0) + before, (at or 0) + after))
        if after % step or low // _DAY != high // _DAY or not low % _DAY or not high % _DAY:
            return False
        before = after
    return True


_CALENDAR: Final = {
    "hour": "toStartOfHour({})",
    "day": "toStartOfDay({})",
    "week": "toMonday({})",
    "month": "toStartOfMonth({})",
}


def _multiple(moment: str, step: int) -> str:
    """The last multiple of `step` that is not after `moment`; before the epoch too."""
    return f"({moment} - positiveModulo({moment}, {step}))"


def _by_clock(bucket: Bucket, second: str, first: int, last: int) -> str:
    """By what the zone's clock is ahead of UTC: between two changes of it, it reads a multiple every `step`."""
    step = bucket.step // _SECOND
    changes = list(_changes(bucket.zone, first - 2 * step, last + 1))
    said = ""
    for since, offset in reversed(changes):
        start = f"{second} - positiveModulo({second} + {_integer(offset)}, {step})"
        if since is None:
            said += start
            continue
        # What began before the change goes on over it.
        before = _integer(bucket.floor((since - 1) * _SECOND) // _SECOND)
        at = _integer(since)
        said += f"{second} >= {at}, if({start} >= {at}, {start}, {before}), "
    return f"multiIf({said})" if len(changes) > 1 else said


def _changes(zone: str, first: int, last: int) -> Iterator[tuple[int | None, int]]:
    """When the clock of `zone` is changed, in seconds (None: the first), and what it is ahead of UTC from then on."""
    info = ZoneInfo(zone)

    def offset(second: int) -> int:
        ahead = (_EPOCH + timedelta(seconds=second)).astimezone(info).utcoffset() or timedelta()
        return ahead.days * _DAY + ahead.seconds

    known = offset(first)
    yield None, known
    at = first
    while at < last:
        following = min(at + _DAY, last)
        if offset(following) != known:
            low, high = at, following
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle) == known else (low, middle)
            known = offset(high)
            yield high, known
            at = high
        else:
            at = following


def _integer(number: int) -> str:
    return f"({number})" if number < 0 else str(number)
