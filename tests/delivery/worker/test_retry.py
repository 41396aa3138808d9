"""When a batch is tried again, and what is remembered of failures: no loop."""

from __future__ import annotations

from eventrec.delivery.worker.retry import Brake, UnknownErrors


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
