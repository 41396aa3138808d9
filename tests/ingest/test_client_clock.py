from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.ingest.client_clock import FUTURE, MAX_IN_FLIGHT, corrected, moment

NOW = 1_767_312_001_000_000_000
times = st.integers(-(2**63), 2**63 - 1)


@given(times, times, st.integers(0, 2**62))
def test_time_lies_as_far_back_from_now_as_from_when_it_was_sent(timestamp: int, sent_at: int, now: int) -> None:
    found = corrected(timestamp, sent_at, now)

    if abs(now - sent_at) <= MAX_IN_FLIGHT:
        assert found == timestamp, "the clock is right, and its times stay exact"
    elif -(2**63) <= now - (sent_at - timestamp) <= now + FUTURE:
        assert now - found == sent_at - timestamp
    else:
        assert found == now


@given(times)
def test_client_that_does_not_say_when_it_sent_is_believed(timestamp: int) -> None:
    assert corrected(timestamp, None, NOW) == timestamp


@pytest.mark.parametrize("text", [b"null", b"{}", b'""', b'"soon"', b"true", b'"\xff"', b"1e400", b"[1]"])
def test_what_is_no_time_is_none(text: bytes) -> None:
    assert moment(msgspec.Raw(text)) is None


def test_time_is_a_text_or_a_number() -> None:
    assert moment(msgspec.Raw(b'"2026-01-02T00:00:01Z"')) == moment(msgspec.Raw(b"1767312001000")) == NOW
    assert moment(None) is None
