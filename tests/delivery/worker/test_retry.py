"""When a batch is tried again, and what is remembered of failures: no loop."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from eventrec.delivery.worker.retry import Brake, Pauses, UnknownErrors


def test_ten_equal_errors_over_a_minute_are_not_an_accident() -> None:
    same = UnknownErrors()

    for number in range(UnknownErrors.TIMES):
        assert not same.is_stuck(now=number * 6.0)
        same.saw(ValueError("who knows"), now=number * 6.0)

    assert not same.is_stuck(now=UnknownErrors.SECONDS - 0.1)
    assert same.is_stuck(now=UnknownErrors.SECONDS)


def test_an_error_is_new_once_and_again_after_a_success() -> None:
    same = UnknownErrors()

    seen = [same.saw(ValueError("a"), now=0.0), same.saw(ValueError("a"), now=1.0), same.saw(KeyError("a"), now=2.0)]
    same.forget()

    assert seen == [True, False, True]
    assert same.saw(KeyError("a"), now=3.0)
    assert not same.is_stuck(now=1e9)


def test_over_half_of_the_last_thousand_of_one_type_pull_the_brake() -> None:
    brake = Brake()

    pulled = [brake.note("a", dead=True) for _ in range(Brake.MAX + 1)]

    assert pulled == [False] * Brake.MAX + [True]
    assert not brake.note("b", dead=True)


def test_what_passes_pushes_the_dead_out_of_the_window() -> None:
    brake = Brake()

    for _ in range(Brake.MAX):
        brake.note("a", dead=True)
    for _ in range(Brake.WINDOW):
        brake.note("a", dead=False)

    assert not brake
    assert not any(brake.note("a", dead=True) for _ in range(Brake.MAX))


def test_a_type_without_a_dead_letter_is_not_watched() -> None:
    brake = Brake()

    brake.note("a", dead=False)

    assert not brake


def test_a_released_brake_begins_again() -> None:
    brake = Brake()
    for _ in range(Brake.MAX):
        brake.note("a", dead=True)

    brake.release()

    assert not brake
    assert not brake.note("a", dead=True)


def test_errors_whose_text_and_class_change_are_still_errors_in_a_row() -> None:
    unknown = UnknownErrors()

    for number in range(UnknownErrors.TIMES):
        unknown.saw([ValueError, KeyError][number % 2](f"request {number} at 0x{number:x}"), now=number * 10.0)

    assert unknown.is_stuck(now=90.0)


def test_a_traceback_is_worth_it_once_for_each_class_and_for_sixteen_at_most() -> None:
    unknown = UnknownErrors()

    new = [unknown.saw(type(f"E{number}", (Exception,), {})("x"), now=0.0) for number in range(30)]

    assert new == [True] * UnknownErrors.MAX_KINDS + [False] * (30 - UnknownErrors.MAX_KINDS)


def test_pauses_double_up_to_their_bound_and_begin_again() -> None:
    pauses = Pauses(limit=3)

    grown = [pauses.next() for _ in range(5)]
    pauses.start_over()

    assert grown == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert pauses.next() == 0.5


def test_the_brake_watches_a_thousand_types_at_most_and_forgets_what_it_heard_of_longest_ago() -> None:
    brake = Brake()
    for _ in range(Brake.MAX):
        brake.note("often", dead=True)

    for number in range(3 * Brake.MAX_TYPES):
        brake.note(f"t{number}", dead=True)

    assert len(brake) == Brake.MAX_TYPES
    assert not brake.note("often", dead=True)


@given(st.lists(st.booleans(), max_size=3_000))
def test_the_brake_agrees_with_a_window_that_is_kept_in_full(outcomes: list[bool]) -> None:
    brake = Brake()
    window: deque[bool] = deque(maxlen=Brake.WINDOW)

    for dead in outcomes:
        if dead or window:
            window.append(dead)
        if not any(window):
            window.clear()
        assert brake.note("a", dead=dead) == (sum(window) > Brake.MAX)


def test_a_type_that_an_earlier_process_was_paused_for_pulls_the_brake_with_its_next_dead_record() -> None:
    brake = Brake()

    brake.distrust(["a"])

    assert brake.tight == ["a"]
    assert not brake.note("a", dead=False)
    assert not brake.note("b", dead=True)
    assert brake.note("a", dead=True)


def test_a_distrusted_type_is_one_of_many_again_once_a_window_of_it_passed() -> None:
    brake = Brake()
    brake.distrust(["a"])

    for _ in range(Brake.WINDOW):
        brake.note("a", dead=False)

    assert not brake
    assert brake.tight == []


def test_a_released_brake_distrusts_no_type() -> None:
    brake = Brake()
    brake.distrust(["a"])

    brake.release()

    assert brake.tight == []
    assert not brake.note("a", dead=True)
