"""Buckets of time: days of 23 and 25 hours, zones off the whole hour, historic changes, and an oracle that counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from eventrec import CatalogueError
from eventrec.analytics import Bucket
from eventrec.testing.rollups import MOMENTS, ZONES

SECOND: Final = 1_000_000_000
HOUR: Final = 3_600 * SECOND


def at(said: str) -> int:
    """The moment, in nanoseconds since the epoch."""
    return int(datetime.fromisoformat(said).timestamp()) * SECOND


def said(moment: int, zone: str = "UTC") -> str:
    return (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=moment // SECOND)).astimezone(ZoneInfo(zone)).isoformat()
    )


CASES: Final = """
    # Summer time begins and ends: 23 and 25 hours.
    1 day Europe/Berlin 2024-03-31T12:00+02:00 2024-03-31T00:00+01:00 2024-04-01T00:00+02:00
    1 day Europe/Berlin 2024-10-27T23:59+01:00 2024-10-27T00:00+02:00 2024-10-28T00:00+01:00
    # An hour that the clock shows twice is two buckets.
    1 hour Europe/Berlin 2024-10-27T02:30+02:00 2024-10-27T02:00+02:00 2024-10-27T02:00+01:00
    1 hour Europe/Berlin 2024-10-27T02:30+01:00 2024-10-27T02:00+01:00 2024-10-27T03:00+01:00
    # One that it leaves out is none, and six of them are five.
    1 hour Europe/Berlin 2024-03-31T03:30+02:00 2024-03-31T03:00+02:00 2024-03-31T04:00+02:00
    6 hour Europe/Berlin 2024-03-31T05:00+02:00 2024-03-31T00:00+01:00 2024-03-31T06:00+02:00
    6 hour Europe/Berlin 2024-10-27T05:00+01:00 2024-10-27T00:00+02:00 2024-10-27T06:00+01:00
    # Half an hour, and three quarters, off UTC.
    1 hour Asia/Kolkata 2024-05-01T00:10+00:00 2024-05-01T05:00+05:30 2024-05-01T06:00+05:30
    1 hour Asia/Kathmandu 2024-05-01T12:50+05:45 2024-05-01T12:00+05:45 2024-05-01T13:00+05:45
    15 minute Asia/Kathmandu 2024-05-01T12:50+05:45 2024-05-01T12:45+05:45 2024-05-01T13:00+05:45
    # Lord Howe changes by half an hour: 1:59 → 1:30, and an hour of 90 minutes.
    1 hour Australia/Lord_Howe 2021-04-04T01:40+10:30 2021-04-04T01:00+11:00 2021-04-04T02:00+10:30
    # ISO weeks begin on Monday, also across a year.
    1 week UTC 2024-12-31T12:00+00:00 2024-12-30T00:00+00:00 2025-01-06T00:00+00:00
    1 week America/New_York 2024-11-03T12:00-05:00 2024-10-28T00:00-04:00 2024-11-04T00:00-05:00
    1 month Europe/Berlin 2024-02-29T23:30+01:00 2024-02-01T00:00+01:00 2024-03-01T00:00+01:00
    1 month Europe/Berlin 2024-12-31T23:30+01:00 2024-12-01T00:00+01:00 2025-01-01T00:00+01:00
    # A midnight that comes twice, one that never comes, and a day that was left out.
    1 day America/Havana 2024-11-03T00:30-05:00 2024-11-03T00:00-04:00 2024-11-04T00:00-05:00
    1 day America/Sao_Paulo 2018-11-04T12:00-02:00 2018-11-04T01:00-02:00 2018-11-05T00:00-02:00
    1 day Pacific/Apia 2011-12-29T12:00-10:00 2011-12-29T00:00-10:00 2011-12-31T00:00+14:00
    # Toronto put its clocks forward at half past eleven; the day began at half past midnight.
    1 day America/Toronto 1919-03-31T12:00-04:00 1919-03-31T00:30-04:00 1919-04-01T00:00-04:00
    # St. John's put them back a minute after midnight: the day that had begun goes on.
    1 day America/St_Johns 1990-10-27T23:30-03:30 1990-10-28T00:00-02:30 1990-10-29T00:00-03:30
    # Before there were zones, Paris was 9 minutes and 21 seconds ahead.
    1 hour Europe/Paris 1900-01-01T12:30+00:09:21 1900-01-01T12:00+00:09:21 1900-01-01T13:00+00:09:21
"""
"""How many of what, the zone, a moment, where its bucket begins and where it ends."""


@pytest.mark.parametrize("case", [line.strip() for line in CASES.splitlines() if line.strip() and "#" not in line])
def test_buckets_begin_where_the_zone_has_it(case: str) -> None:
    every, unit, zone, moment, start, end = case.split()
    bucket = Bucket(unit, int(every), zone)  # type: ignore[arg-type]

    found = bucket.floor(at(moment))

    assert said(found, zone) == said(at(start), zone)
    assert said(bucket.after(found), zone) == said(at(end), zone)


def test_moments_before_the_epoch_and_fractions_of_a_second_are_in_their_bucket() -> None:
    for bucket in (Bucket("hour"), Bucket("hour", zone="Europe/London"), Bucket("day", zone="Europe/London")):
        start = bucket.floor(-1)

        assert start <= -1 < bucket.after(start)
        assert bucket.floor(start) == start
        assert bucket.floor(start - 1) < start


def test_a_change_of_the_zone_itself_is_known() -> None:
    # Singapore: UTC+7:30 until the end of 1981, then UTC+8.
    hour = Bucket("hour", zone="Asia/Singapore")

    assert hour.floor(at("1981-06-01T00:10+00:00")) == at("1981-05-31T23:30+00:00")
    assert hour.floor(at("1982-06-01T00:10+00:00")) == at("1982-06-01T00:00+00:00")


def test_starts_are_those_that_begin_in_the_time() -> None:
    day = Bucket("day", zone="Europe/Berlin")
    first, last = at("2024-03-30T00:00+01:00"), at("2024-04-02T00:00+02:00")

    assert [said(start, "Europe/Berlin")[:10] for start in day.starts(first, last)] == [
        "2024-03-30",
        "2024-03-31",
        "2024-04-01",
    ]
    assert list(day.starts(first + 1, first + 2)) == []
    assert list(day.starts(last, first)) == []


def test_a_bucket_needs_no_database_of_zones_for_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventrec.analytics.buckets.ZoneInfo", None)

    assert Bucket("month").floor(at("2024-05-17T00:00+00:00")) == at("2024-05-01T00:00+00:00")


def test_what_is_not_a_bucket_is_refused() -> None:
    for unit, every, zone in (
        ("year", 1, "UTC"),
        ("hour", 5, "UTC"),
        ("hour", True, "UTC"),
        ("day", 1, ""),
        ("day", 1, "x\0"),
    ):
        with pytest.raises(CatalogueError):
            Bucket(unit, every, zone)  # type: ignore[arg-type]


# -- against an oracle that looks at every minute ---------------------------------------------------------------------


def counted(bucket: Bucket, moment: int) -> int:
    """The start of the bucket that holds `moment`, found by looking at the clock and the calendar of each minute."""
    zone = ZoneInfo(bucket.zone)
    base = moment // (60 * SECOND) * 60

    def local(second: int) -> datetime:
        return datetime.fromtimestamp(second, zone).replace(tzinfo=None)

    if bucket.unit in {"minute", "hour"}:
        step = bucket.every * (1 if bucket.unit == "minute" else 60)
        while (local(base).hour * 60 + local(base).minute) % step:
            base -= 60
        return base * SECOND
    # Forward from two days before: the latest date that was shown decides.
    second = base - 3 * 86_400
    shown, start = local(second).date(), second
    while second < base:
        second += 60
        if local(second).date() > shown:
            shown, start = local(second).date(), second
    return start * SECOND


units = st.sampled_from(
    [("minute", 1), ("minute", 15), ("minute", 30), ("hour", 1), ("hour", 2), ("hour", 12), ("day", 1)]
)
moments = st.builds(
    lambda around, minutes: (int(around.timestamp()) + minutes * 60) * SECOND,
    st.sampled_from(MOMENTS),
    st.integers(-2_000, 2_000),
)


@given(units, st.sampled_from(ZONES), moments)
def test_floor_is_what_looking_at_every_minute_finds(unit: tuple[str, int], zone: str, moment: int) -> None:
    bucket = Bucket(unit[0], unit[1], zone)  # type: ignore[arg-type]
    # In former times a clock was some seconds ahead of UTC, which the oracle does not look for.
    assume(datetime.fromtimestamp(moment // SECOND, ZoneInfo(zone)).second == 0)

    assert said(bucket.floor(moment), zone) == said(counted(bucket, moment), zone)


@given(st.sampled_from(["minute", "hour", "day", "week", "month"]), st.sampled_from(ZONES), moments)
def test_buckets_follow_one_another_without_gaps(unit: str, zone: str, moment: int) -> None:
    bucket = Bucket(unit, 1, zone)  # type: ignore[arg-type]
    start = bucket.floor(moment)
    end = bucket.after(start)

    assert start <= moment < end
    assert {bucket.floor(start), bucket.floor((start + end) // 2), bucket.floor(end - 1)} == {start}
    assert bucket.floor(end) == end
    assert bucket.floor(start - 1) < start
    assert bucket.after(bucket.floor(start - 1)) == start
    floor = bucket.floors()
    assert [floor(at) for at in (moment, end, moment)] == [start, end, start]


def test_years_of_days_are_each_a_date_once() -> None:
    for zone in ZONES:
        starts = list(Bucket("day", zone=zone).starts(at("2010-12-31T00:00+00:00"), at("2012-01-02T00:00+00:00")))
        dates = [datetime.fromtimestamp(start // SECOND, ZoneInfo(zone)).date() for start in starts]

        assert all(one < two for one, two in pairwise(dates))
        assert len(dates) in {366, 367}
