"""How long a mirror leaves a log alone that failed, and what is said of it."""

from __future__ import annotations

from uuid import UUID

import pytest

from eventrec.mirroring.pauses import FIRST_PAUSE, LONGEST_PAUSE, CopyPauses
from eventrec.mirroring.schedule import Key

LOG: Key = (UUID(int=1), False)
OTHER: Key = (UUID(int=2), False)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pauses(clock: Clock) -> CopyPauses:
    return CopyPauses(clock)


def length_of_pause(pauses: CopyPauses, clock: Clock) -> float:
    """How long the log is left alone, in seconds; afterwards it is due."""
    began = clock.now
    while LOG not in pauses.due(10):
        clock.now += 0.5
    return clock.now - began


def test_each_failure_doubles_the_pause_up_to_its_bound_and_the_first_alone_is_said(
    pauses: CopyPauses, clock: Clock
) -> None:
    said, lengths = [], []

    for _ in range(9):
        said.append(pauses.note_failed(LOG))
        lengths.append(length_of_pause(pauses, clock))

    assert said == [True] + 8 * [False]
    assert lengths == [FIRST_PAUSE, 2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]


def test_a_log_that_was_offered_is_not_offered_again_till_it_fails_again(pauses: CopyPauses, clock: Clock) -> None:
    pauses.note_failed(LOG)
    clock.now += FIRST_PAUSE

    pauses.note_offered([LOG])

    assert pauses.due(10) == []
    pauses.note_failed(LOG)
    clock.now += 2 * FIRST_PAUSE
    assert pauses.due(10) == [LOG]


def test_a_connection_offers_all_copies_and_so_none_is_due(pauses: CopyPauses, clock: Clock) -> None:
    pauses.note_failed(LOG)
    pauses.note_failed(OTHER)

    pauses.note_all_offered()

    clock.now += LONGEST_PAUSE
    assert pauses.due(10) == []


def test_what_is_due_is_bounded_and_the_rest_follows(pauses: CopyPauses, clock: Clock) -> None:
    pauses.note_failed(LOG)
    pauses.note_failed(OTHER)
    clock.now += FIRST_PAUSE

    first = pauses.due(1)
    pauses.note_offered(first)

    assert first == [LOG]
    assert pauses.due(1) == [OTHER]


def test_records_end_a_pause_at_once_and_the_next_failure_is_a_first_one(pauses: CopyPauses) -> None:
    pauses.note_failed(LOG)
    pauses.note_failed(LOG)

    assert pauses.note_passed(LOG, records=1)

    assert not pauses.note_passed(LOG, records=1), "it had ended"
    assert pauses.note_failed(LOG)


def test_without_records_a_pause_ends_once_what_went_on_has_lasted_as_long(pauses: CopyPauses, clock: Clock) -> None:
    pauses.note_failed(LOG)
    pauses.note_failed(LOG)

    assert not pauses.note_passed(LOG, records=0)

    clock.now += 2 * FIRST_PAUSE - 0.5
    assert pauses.take_lasting() == []
    clock.now += 0.5
    assert pauses.take_lasting() == [LOG]
    assert pauses.take_lasting() == []


def test_a_failure_soon_after_it_went_on_counts_on(pauses: CopyPauses, clock: Clock) -> None:
    pauses.note_failed(LOG)
    pauses.note_passed(LOG, records=0)
    clock.now += FIRST_PAUSE / 2

    assert not pauses.note_failed(LOG)

    assert length_of_pause(pauses, clock) == 2 * FIRST_PAUSE


def test_a_log_that_is_gone_is_forgotten(pauses: CopyPauses, clock: Clock) -> None:
    pauses.note_failed(LOG)

    pauses.forget(LOG)

    clock.now += LONGEST_PAUSE
    assert pauses.due(10) == []
    assert not pauses.note_passed(LOG, records=1)
