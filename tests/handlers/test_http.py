"""HTTP answers to our errors, without a network."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec import BatchTooLargeError, DeliveryError, PauseError, PermanentError, TransientError
from eventrec_handlers._http import MAX_QUOTED, MAX_RETRY_AFTER, error_of, retry_after

NOW = 1_700_000_000.0


@pytest.mark.parametrize("status", [200, 201, 202, 204, 207, 299])
def test_accepted_request_is_no_error(status: int) -> None:
    assert error_of(status, subject="s", now=NOW) is None


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *[(status, PauseError) for status in (0, 100, 301, 302, 304, 308, 401, 402, 403, 407, 600, 999)],
        *[(status, PermanentError) for status in (400, 404, 405, 409, 410, 411, 415, 422, 431, 499)],
        *[(status, TransientError) for status in (408, 425, 429, 500, 501, 502, 503, 504, 520, 599)],
        (413, BatchTooLargeError),
    ],
)
def test_each_status_has_one_meaning(status: int, expected: type[DeliveryError]) -> None:
    error = error_of(status, subject="https://host/path", now=NOW)

    assert type(error) is expected
    assert str(error) == f"https://host/path: HTTP {status}"


@pytest.mark.parametrize("name", ["Retry-After", "retry-after", "RETRY-AFTER"])
@pytest.mark.parametrize("status", [429, 503])
def test_demand_of_the_destination_goes_along(name: str, status: int) -> None:
    error = error_of(status, subject="s", now=NOW, headers={"Date": "x", name: "17"})

    assert isinstance(error, TransientError)
    assert error.retry_after == 17


def test_without_a_demand_there_is_none() -> None:
    error = error_of(503, subject="s", now=NOW, headers={"Date": "x"})

    assert isinstance(error, TransientError)
    assert error.retry_after is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        (" 120\t", 120),
        ("1.5", 1.5),
        ("3600", 3600),
        ("3601", MAX_RETRY_AFTER),
        ("9" * 5_000, MAX_RETRY_AFTER),
        (formatdate(NOW + 90, usegmt=True), 90),
        ("Tuesday, 14-Nov-23 22:14:50 GMT", 90),
        ("Tue Nov 14 22:14:50 2023", 90),
        ("Tue, 14 Nov 2023 23:14:50 +0100", 90),
        (formatdate(NOW - 90, usegmt=True), 0),
        (formatdate(NOW + 90_000, usegmt=True), MAX_RETRY_AFTER),
    ],
)
def test_seconds_and_dates_are_read_and_bounded(value: str, seconds: float) -> None:
    assert retry_after(value, now=NOW) == seconds


@pytest.mark.parametrize(
    "value", [None, "", "soon", "-5", "+5", "1e3", "nan", "inf", "٣", "5, 6", "5s", "Tue, 99 Nov 2023 22:14:50 GMT"]
)
def test_what_cannot_be_read_demands_nothing(value: str | None) -> None:
    assert retry_after(value, now=NOW) is None


def test_own_bound_is_kept() -> None:
    assert retry_after("50", now=NOW, limit=10) == 10


@given(st.text(), st.floats(min_value=0, max_value=1e11))
def test_no_header_can_do_harm(value: str, now: float) -> None:
    seconds = retry_after(value, now=now)

    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


def test_body_is_quoted_short_and_printable() -> None:
    error = error_of(400, subject="s", now=NOW, body=b'{"error":\n "no\x1b[31m \xff"}')
    long = error_of(400, subject="s", now=NOW, body="x" * 1_000_000)

    assert str(error) == 's: HTTP 400: {"error": "no [31m \ufffd"}'
    assert str(long) == f"s: HTTP 400: {'x' * MAX_QUOTED}…"
