"""What a caller may write for a moment: with a zone, without one, relative, and what is refused."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from eventrec.ingest.moments import moment_of

SECOND = 10**9
NOW = 1_800_000_000 * SECOND


def at(text: str, zone: str = "Europe/Berlin") -> int:
    """The same by the standard library, to the second."""
    moment = datetime.fromisoformat(text)
    local = moment if moment.tzinfo is not None else moment.replace(tzinfo=ZoneInfo(zone))
    return (local.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1) * SECOND


@pytest.mark.parametrize(
    ("rest", "nanoseconds"),
    [
        ("", 0),
        (":07", 7 * SECOND),
        (":07.5", 7 * SECOND + 500_000_000),
        (":07,5", 7 * SECOND + 500_000_000),
        (":07.123456789", 7_123_456_789),
        (":07.1234567894", 7_123_456_789),
        (":07,123456789012345678901", 7_123_456_789),
        (":60", 60 * SECOND),
        (":60.25", 60 * SECOND + 250_000_000),
    ],
)
@pytest.mark.parametrize("day", ["2026-01-31", "2026-07-31"])
def test_what_has_no_zone_is_in_that_of_the_question_however_its_seconds_are_written(
    day: str, rest: str, nanoseconds: int
) -> None:
    for zone in ("Europe/Berlin", "America/New_York", "Asia/Kathmandu", "UTC"):
        assert moment_of(f"{day}T10:59{rest}", zone, now=NOW) == at(f"{day}T10:59", zone) + nanoseconds
    for between in ("T", "t", " "):
        assert moment_of(f"{day}{between}10:59{rest}Z", "Europe/Berlin", now=NOW) == at(f"{day}T10:59Z") + nanoseconds


def test_of_an_hour_that_comes_twice_it_is_the_first_and_a_lost_plus_is_no_zone_less_time() -> None:
    assert moment_of("2026-10-25T02:30", "Europe/Berlin", now=NOW) == at("2026-10-25T02:30+02:00")
    for fraction in ("", ".5", ",5"):
        said = moment_of(f"2026-10-25T02:30:00{fraction} 01:00", "Europe/Berlin", now=NOW)
        assert said == at("2026-10-25T02:30+01:00") + (500_000_000 if fraction else 0)


def test_a_date_begins_where_the_calendar_of_the_zone_first_shows_it() -> None:
    assert moment_of("2026-01-31", "Europe/Berlin", now=NOW) == at("2026-01-30T23:00Z")
    assert moment_of("1919-03-31", "America/Toronto", now=NOW) == at("1919-03-31T04:30Z")


def test_a_span_is_before_now() -> None:
    assert moment_of("now", "UTC", now=NOW) == NOW
    assert moment_of(" -1h30m ", "UTC", now=NOW) == NOW - 5_400 * SECOND


@pytest.mark.parametrize(
    "said",
    [
        *("", "soon", "2026", "1774483792", "2026-02-30T10:00", "2026-01-31T24:00", "2026-01-31T10:60"),
        *("2026-01-31T10:00:61", "2026-01-31T10:00.5", "2026-01-31T10:00:00.", "2026-01-31T10:00:00+99:00"),
        *("-", "-7", "-7y", "+7d"),
    ],
)
def test_what_is_no_time_is_refused_in_one_line(said: str) -> None:
    with pytest.raises(ValueError, match=r"^'.*' is not a time: a moment as .*$"):
        moment_of(said, "Europe/Berlin", now=NOW)


@pytest.mark.parametrize("said", ["0001-01-01", "9999-12-31", "1600-01-01T00:00", "2300-01-01T00:00Z", "-9999999w"])
def test_what_no_event_can_have_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match="outside the years 1677 to 2262"):
        moment_of(said, "Europe/Berlin", now=NOW)
