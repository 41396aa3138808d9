from datetime import UTC, datetime

import pytest

from eventrec.ingest.timestamps import Unit, nanoseconds

SECOND = 1_000_000_000
NOON = int(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()) * SECOND


@pytest.mark.parametrize(
    ("written", "unit", "expected"),
    [
        ("1700000000", "s", 1_700_000_000 * SECOND),
        ("1700000000.123456789", "s", 1_700_000_000_123_456_789),
        ("1.7000000001e9", "s", 1_700_000_000_100_000_000),
        ("0.1", "s", 100_000_000),
        ("-1.5", "s", -1_500_000_000),
        ("1700000000.1234567894", "s", 1_700_000_000_123_456_789),
        ("1700000000123", "ms", 1_700_000_000_123_000_000),
        ("1700000000123.25", "ms", 1_700_000_000_123_250_000),
        ("1700000000123456", "us", 1_700_000_000_123_456_000),
        ("1700000000123456789", "ns", 1_700_000_000_123_456_789),
        ("9223372036854775807", "ns", 2**63 - 1),
        ("1700000000", "ns", 1_700_000_000),
    ],
)
def test_numbers_are_exact_in_their_unit(written: str, unit: Unit, expected: int) -> None:
    assert nanoseconds(written, unit) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0", 0),
        ("99999999999", 99_999_999_999 * SECOND),
        ("1700000000.5", 1_700_000_000_500_000_000),
        ("100000000000", 100_000_000_000 * 1_000_000),
        ("1700000000123", 1_700_000_000_123_000_000),
        ("1700000000123456", 1_700_000_000_123_456_000),
        ("1700000000123456789", 1_700_000_000_123_456_789),
        ("-1700000000", -1_700_000_000 * SECOND),
    ],
)
def test_auto_goes_by_magnitude(written: str, expected: int) -> None:
    if expected > 2**63 - 1:
        with pytest.raises(ValueError, match="outside"):
            nanoseconds(written)
    else:
        assert nanoseconds(written) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2026-01-31T12:00:00Z", NOON),
        ("2026-01-31T12:00:00.123456789Z", NOON + 123_456_789),
        ("2026-01-31T12:00:00,5+00:00", NOON + 500_000_000),
        ("2026-01-31T13:30:00+01:30", NOON),
        ("2026-01-31T07:00:00-0500", NOON),
        ("2026-01-31 13:00:00 +0100", NOON),
        ("2026-01-31T13+01", None),
        ("2026-01-31T12:00", NOON),
        ("2026-01-31t12:00:00z", NOON),
        ("2026-01-31", NOON - 12 * 3600 * SECOND),
        ("2016-12-31T23:59:60Z", int(datetime(2017, 1, 1, tzinfo=UTC).timestamp()) * SECOND),
        ("1969-12-31T23:59:59.5Z", -500_000_000),
    ],
)
def test_iso_8601_is_exact_and_without_a_zone_utc(written: str, expected: int | None) -> None:
    for unit in ("iso", "auto"):
        if expected is None:
            with pytest.raises(ValueError, match="ISO 8601"):
                nanoseconds(written, unit)
        else:
            assert nanoseconds(written, unit) == expected


@pytest.mark.parametrize(
    ("written", "unit", "reason"),
    [
        ("yesterday", "auto", "ISO 8601"),
        ("2026-02-30", "iso", "ISO 8601"),
        ("2026-01-31T25:00:00Z", "auto", "ISO 8601"),
        ("2026-01-31T12:00:00+99:00", "auto", "zone"),
        ("1700000000", "iso", "ISO 8601"),
        ("2026-01-31", "s", "not a number of s"),
        ("", "auto", "ISO 8601"),
        ("1e999999999", "s", "outside"),
        ("1e999999999", "auto", "outside"),
        ("9223372036854775808", "ns", "outside"),
        ("9999-12-31", "auto", "outside"),
        ("1" * 1_000, "auto", "ISO 8601"),
        ("nan", "s", "not a number"),
        ("١٢", "s", "not a number"),
    ],
)
def test_what_is_no_time_is_refused_with_a_reason(written: str, unit: Unit, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        nanoseconds(written, unit)


def test_a_number_too_small_to_matter_is_zero() -> None:
    assert nanoseconds("1e-999999999", "s") == 0
