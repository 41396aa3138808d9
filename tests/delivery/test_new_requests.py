"""Which requests of operators a process applies, and that it applies each once."""

from __future__ import annotations

import pytest

from eventrec.delivery.new_requests import NewRequests
from eventrec.runs.requests import KEPT_SECONDS, OperatorRequest


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.elapsed = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def requests(clock: Clock) -> NewRequests:
    return NewRequests(clock, monotonic=lambda: clock.elapsed)


def asked(seconds: float, name: str = "s") -> OperatorRequest:
    """A request made so long after the process began."""
    return OperatorRequest(subscription=name, asked=1_000_000.0 + seconds)


def test_each_request_is_applied_once_however_often_it_is_found(requests: NewRequests) -> None:
    assert requests.among([asked(1), asked(2), asked(1)]) == [asked(1), asked(2)]
    assert requests.among([asked(1), asked(2), asked(3)]) == [asked(3)]


def test_what_was_asked_before_the_process_began_is_not_for_it(requests: NewRequests) -> None:
    assert requests.among([asked(-1), asked(0)]) == [asked(0)]


def test_requests_of_one_moment_for_two_subscriptions_are_two(requests: NewRequests) -> None:
    assert requests.among([asked(1, "a")]) == [asked(1, "a")]
    assert requests.among([asked(1, "a"), asked(1, "b")]) == [asked(1, "b")]


@pytest.mark.parametrize("step", [-2 * KEPT_SECONDS, -3_600, 2 * KEPT_SECONDS])
def test_one_that_is_found_later_is_applied_whatever_time_it_says(requests: NewRequests, step: float) -> None:
    requests.among([asked(-1)])

    assert requests.among([asked(-1), asked(step)]) == [asked(step)]
    assert requests.among([asked(-1), asked(step)]) == []


def test_a_clock_that_is_set_back_applies_nothing_that_was_there_before(requests: NewRequests, clock: Clock) -> None:
    requests.among([asked(-1_000)])

    clock.now -= 2_000

    assert requests.among([asked(-1_000)]) == []


def test_what_was_seen_is_forgotten_a_day_after_it_was_there_last(requests: NewRequests, clock: Clock) -> None:
    requests.among([asked(seconds) for seconds in range(1_000)])

    clock.elapsed += KEPT_SECONDS - 1
    assert requests.among([asked(0)]) == []
    clock.elapsed += KEPT_SECONDS - 1

    assert requests.among([]) == []
    assert repr(requests) == "<NewRequests 1 seen>"
