"""Buckets of a rollup as `time_bucket` has them, where it has the very same ones.

    UTC                       time_bucket('1 hour', t)
    days, weeks, months       time_bucket('1 day', t, 'Europe/Berlin')
    minutes and hours         as UTC where the zone is always whole buckets away from it, else by a fixed distance

Elsewhere `time_bucket` differs: it makes one hour of the two that a clock shows when it is put back, and of several
hours, or where a day begins twice, it takes the other beginning. Such rollups have no continuous aggregate: they are
answered from the events. The two are compared from the year 2000 on: of events before it, a zone whose clock was then
off by other minutes may have other buckets.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from eventrec.analytics import Bucket
from eventrec_handlers.postgres.hook import literal

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = date(2000, 1, 1)
_LAST: Final = date(2040, 1, 1)
"""The days that a zone is tried on, from `_FIRST` on."""

_SECOND: Final = 1_000_000_000


def time_bucket(bucket: Bucket, time: str) -> str | None:
    """The start of the bucket of `time`, a column in SQL; None: this database has no such buckets."""
    width = f"INTERVAL '{bucket.every} {bucket.unit}'"
    if bucket.zone == "UTC":
        return f"time_bucket({width}, {time})"
    if bucket.unit in {"day", "week", "month"}:
        return f"time_bucket({width}, {time}, {literal(bucket.zone)})" if _days_agree(bucket.zone) else None
    offsets = {offset % (bucket.step // _SECOND) for offset in _offsets(bucket.zone)}
    if len(offsets) != 1:
        return None
    (offset,) = offsets
    if not offset:
        return f"time_bucket({width}, {time})"
    return f"time_bucket({width}, {time}, INTERVAL '-{offset} seconds')"


@lru_cache(maxsize=256)
def _offsets(zone: str) -> frozenset[int]:
    """By how many seconds a zone has ever been ahead of UTC on one of those days."""
    known = ZoneInfo(zone)
    found = set()
    at = datetime(_FIRST.year, 1, 1, tzinfo=UTC)
    while at.year < _LAST.year:
        offset = at.astimezone(known).utcoffset()
        found.add(round(offset.total_seconds()) if offset is not None else 0)
        at += timedelta(days=1)
    return frozenset(found)


@lru_cache(maxsize=256)
def _days_agree(name: str) -> bool:
    """Whether PostgreSQL takes every midnight of the zone for the moment at which the day begins."""
    zone, days = ZoneInfo(name), Bucket("day", 1, name)
    day = _FIRST
    while day < _LAST:
        local = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - what a clock shows
        start = _nanoseconds(_as_postgres(local, zone))
        if days.floor(start) != start:
            return False
        day += timedelta(days=1)
    return True


def _as_postgres(local: datetime, zone: ZoneInfo) -> datetime:
    """The moment that PostgreSQL takes `local` for: of two the later one; a time left out by the clock before it."""
    first, second = local.replace(tzinfo=zone, fold=0), local.replace(tzinfo=zone, fold=1)
    earlier, later = first.utcoffset(), second.utcoffset()
    is_ambiguous = earlier is not None and later is not None and earlier > later
    return (second if is_ambiguous else first).astimezone(UTC)


def _nanoseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1) * 1_000
