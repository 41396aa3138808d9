"""What follows from an attempt, as a table: no loop, no worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventrec.delivery.worker.outcome import (
    Bury,
    Deliver,
    Hold,
    Outcome,
    Remembered,
    Retry,
    Split,
    is_named,
    outcome_of,
    outcome_of_opening,
)
from eventrec.delivery.worker.piece import Piece
from eventrec.errors import (
    BatchTooLargeError,
    DeliveryError,
    FencedError,
    PartialError,
    PauseError,
    PermanentError,
    TransientError,
)

CALM = Remembered()
TRANSIENT, FENCED, UNKNOWN = TransientError("busy"), FencedError("moved"), ValueError("who knows")


@pytest.mark.parametrize(
    ("failure", "of_three", "of_one"),
    [
        (None, Deliver(), Deliver()),
        (TRANSIENT, Retry(TRANSIENT), Retry(TRANSIENT)),
        (FENCED, Retry(FENCED, asks_first=True), Retry(FENCED, asks_first=True)),
        (PauseError("401"), Hold("401"), Hold("401")),
        (PermanentError("22P02"), Split(), Bury({1: "22P02"})),
        (BatchTooLargeError("413"), Split(), Bury({1: "too large alone: 413"})),
        (UNKNOWN, Retry(UNKNOWN), Retry(UNKNOWN)),
    ],
    ids=str,
)
def test_each_word_of_a_handler_has_one_consequence(
    piece: Callable[..., Piece], failure: Exception | None, of_three: Outcome, of_one: Outcome
) -> None:
    assert outcome_of(piece(1, 4, 9), failure, CALM) == of_three
    assert outcome_of(piece(1), failure, CALM) == of_one


def test_records_that_a_permanent_error_names_are_dead_and_foreign_ones_are_not(piece: Callable[..., Piece]) -> None:
    failure = PermanentError("two", records={4: "bad", 77: "not in this batch"})

    assert outcome_of(piece(1, 4, 9), failure, CALM) == Bury({4: "bad"})


def test_what_a_partial_error_does_not_name_arrived(piece: Callable[..., Piece]) -> None:
    failure = PartialError({1: TRANSIENT, 4: PermanentError("never")})

    assert outcome_of(piece(1, 4, 9), failure, CALM) == Bury({4: "never"}, [9], then=Retry(TRANSIENT))


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ({}, "it names no record that failed"),
        ({1: TRANSIENT}, f"1 record failed: {TRANSIENT}"),
        (dict.fromkeys(range(1_200), TRANSIENT), f"1,200 records failed: {TRANSIENT}"),
    ],
)
def test_a_partial_error_says_how_many_records_failed(errors: dict[int, TransientError], said: str) -> None:
    assert str(PartialError(errors)) == said


def test_a_partial_error_that_pauses_holds_the_rest(piece: Callable[..., Piece]) -> None:
    failure = PartialError({1: TRANSIENT, 4: PauseError("401")})

    assert outcome_of(piece(1, 4, 9), failure, CALM) == Bury({}, [9], then=Hold("401"))


def test_a_partial_error_that_ends_it_asks_for_nothing_more(piece: Callable[..., Piece]) -> None:
    failure = PartialError({1: PermanentError("never"), 4: BatchTooLargeError("413")})

    assert outcome_of(piece(1, 4, 9), failure, CALM) == Bury({1: "never", 4: "413"}, [9])


@pytest.mark.parametrize(
    "errors",
    [{}, {5: TRANSIENT}, {1: "text"}, {1: ValueError()}, {1: DeliveryError("no word")}, {"1": TRANSIENT}, None],
)
def test_a_partial_error_that_cannot_be_true_is_an_unknown_error(piece: Callable[..., Piece], errors: Any) -> None:
    failure = PartialError({1: TRANSIENT})
    failure.errors = errors

    assert not is_named(piece(1, 4, 9), failure)
    assert outcome_of(piece(1, 4, 9), failure, CALM) == Retry(failure)


@pytest.mark.parametrize("records", [None, 7, "text"])
def test_a_permanent_error_that_names_nothing_usable_is_bisected(piece: Callable[..., Piece], records: Any) -> None:
    failure = PermanentError("never")
    failure.records = records

    assert outcome_of(piece(1, 4), failure, CALM) == Split()


def test_probing_splits_until_a_record_is_alone_and_asks_before_it_buries(piece: Callable[..., Piece]) -> None:
    probing = Remembered(is_probing=True)

    assert outcome_of(piece(1, 4), UNKNOWN, probing) == Split()
    assert outcome_of(piece(1), UNKNOWN, probing) == Bury(
        {1: "unmapped: ValueError: who knows"}, is_suspect=True, asks_first=True
    )


def test_a_record_that_fails_alone_while_another_passes_is_no_suspect_any_more(piece: Callable[..., Piece]) -> None:
    outcome = outcome_of(piece(1), UNKNOWN, Remembered(is_probing=True, has_passed=True))

    assert isinstance(outcome, Bury)
    assert not outcome.is_suspect


def test_a_record_that_fails_alone_waits_for_an_operator_where_that_was_asked_for(piece: Callable[..., Piece]) -> None:
    outcome = outcome_of(piece(1), UNKNOWN, Remembered(is_probing=True, holds_unmapped=True))

    assert outcome == Hold("unmapped: ValueError: who knows", is_paused=False, asks_first=True)


def test_a_batch_known_by_its_token_that_may_have_arrived_is_not_split(piece: Callable[..., Piece]) -> None:
    probing = Remembered(is_probing=True, knows_tokens=True)
    doubtful = piece(1, 4)
    doubtful.note_failure(None)

    assert outcome_of(piece(1, 4), UNKNOWN, probing) == Split()
    assert isinstance(outcome_of(doubtful, UNKNOWN, probing), Hold)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (TRANSIENT, Retry(TRANSIENT)),
        (UNKNOWN, Retry(UNKNOWN)),
        (PermanentError("no such schema"), Hold("no such schema")),
        (BatchTooLargeError("413"), Hold("413")),
        (PauseError("401"), Hold("401")),
    ],
    ids=str,
)
def test_what_fails_while_opening_is_not_a_word_about_the_batch(failure: Exception, expected: Outcome) -> None:
    assert outcome_of_opening(failure) == expected


class WithoutErrorsError(PartialError):
    """Cannot say which records it is about."""

    def __init__(self, thrown: BaseException) -> None:
        self.thrown = thrown

    @property
    def errors(self) -> Any:
        raise self.thrown

    @errors.setter
    def errors(self, errors: Any) -> None: ...


class WithoutRecordsError(PermanentError):
    """Likewise."""

    def __init__(self, thrown: BaseException) -> None:
        self.thrown = thrown

    @property
    def records(self) -> Any:
        raise self.thrown

    @records.setter
    def records(self, records: Any) -> None: ...

    def __bool__(self) -> bool:
        raise self.thrown


@pytest.mark.parametrize(
    "thrown",
    [RuntimeError("odd"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()],
    ids=lambda it: type(it).__name__,
)
@pytest.mark.parametrize("kind", [WithoutErrorsError, WithoutRecordsError])
def test_an_error_that_cannot_be_asked_is_no_word_of_a_handler(
    piece: Callable[..., Piece], kind: Callable[[BaseException], DeliveryError], thrown: BaseException
) -> None:
    failure = kind(thrown)

    assert not is_named(piece(1), failure)
    assert outcome_of(piece(1, 4), failure, CALM) == Retry(failure)
    assert outcome_of(piece(1, 4), failure, Remembered(is_probing=True)) == Split()
