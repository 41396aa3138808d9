"""Buckets as SQL: the start of the one that holds a moment, in nanoseconds.

Within a known time they are exact: Python says where they begin, and how long they are until the zone's clock is
changed again. A view, which has no end, leaves that to ClickHouse's own calendar, which knows hours, days, weeks and
months of a zone; where a clock is put back over midnight, the two may differ.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from eventrec import CatalogueError
from eventrec.analytics import zone_of
from eventrec_handlers.clickhouse.moments import HIGHEST, LOWEST
from eventrec_handlers.clickhouse.sql import literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from eventrec.analytics import Bucket

_SECOND: Final = 1_000_000_000
_HOUR: Final = 3_600
_DAY: Final = 86_400
_YEAR: Final = 366 * _DAY
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def bucket_sql(bucket: Bucket, moment: str, *, first: int, last: int) -> str:
    """The start of the bucket that holds `moment`, which lies between `first` and `last`."""
    # The first bucket of all begins before what 64 bits can tell.
    wide = "toInt128" if bucket.floor(first) < LOWEST else "toInt64"
    moment = f"{wide}({moment})"
    if bucket.is_fixed:
        return _multiple(moment, bucket.step)
    second = f"toInt64(intDiv({_multiple(moment, _SECOND)}, {_SECOND}))"
    starts, steps = _runs(bucket, first // _SECOND // _YEAR * _YEAR, (last // _SECOND // _YEAR + 1) * _YEAR)
    start = f"roundDown({second}, {starts})"
    if steps is not None:
        start = f"{second} - ({second} - {start}) % transform({start}, {starts}, {steps}, toInt64(1))"
    return f"{wide}({start}) * {_SECOND}"


def calendar_range(bucket: Bucket) -> tuple[int, int]:
    """From which start on, and before which, `calendar_sql` has the buckets."""
    if bucket.is_fixed:
        return _EARLIEST + bucket.step - _EARLIEST % bucket.step, _LATEST - _LATEST % bucket.step
    return bucket.after(bucket.floor(_SINCE * _SECOND)), bucket.floor(_UNTIL * _SECOND)


_SINCE: Final = 0
_UNTIL: Final = 4_102_444_800
"""The years 1970 to 2099, in seconds."""

_EARLIEST: Final = -2_208_988_800 * _SECOND
_LATEST: Final = HIGHEST
"""The year 1900, where ClickHouse's calendar begins, to April 2262: part of what names a rollup."""


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


@lru_cache(maxsize=64)
def _runs(bucket: Bucket, first: int, last: int) -> tuple[str, str | None]:
    """When buckets begin that follow each other and are equally long, and how long these are, in seconds, as SQL.

    They are all that hold a second from `first` to `last`. Around a change of the zone's clock a bucket is a run of its
    own. Months each are; how long they are is not told.
    """
    if bucket.unit == "month":
        starts = bucket.starts(bucket.floor(first * _SECOND), (last + 1) * _SECOND)
        return _array(start // _SECOND for start in starts), None
    found: dict[int, int] = {}
    for since, _ in _changes(bucket.zone, first, last + 1):
        start = bucket.floor((first if since is None else since) * _SECOND)
        after = bucket.after(start)
        found[start // _SECOND] = (after - start) // _SECOND
        found[after // _SECOND] = bucket.step // _SECOND
    runs: dict[int, int] = {}
    at, step = first, 0
    for second, length in sorted(found.items()):
        if length != step or (second - at) % step:
            runs[second] = length
            at, step = second, length
    return _array(runs), _array(runs.values())


def _array(numbers: Iterable[int]) -> str:
    """`numbers` as an array of whole numbers of 64 bits, whatever they are."""
    return f"CAST('[{','.join(map(str, numbers))}]', 'Array(Int64)')"


def _changes(zone: str, first: int, last: int) -> Iterator[tuple[int | None, int]]:
    """When the clock of `zone` is changed, in seconds (None: the first), and what it is ahead of UTC from then on."""
    info = zone_of(zone)

    def offset(second: int) -> int:
        ahead = (_EPOCH + timedelta(seconds=second)).astimezone(info).utcoffset() or timedelta()
        return ahead.days * _DAY + ahead.seconds

    known = offset(first)
    yield None, known
    if zone == "UTC":
        return
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
