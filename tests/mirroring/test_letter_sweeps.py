"""When dead letters are looked through for a mirror: not for every few, and the less often the longer it takes."""

from __future__ import annotations

import pytest

from eventrec.mirroring.letter_sweeps import SWEEP_PAUSE, SWEEP_SHARE, SweepTimes


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("seconds", [0.0, SWEEP_PAUSE / SWEEP_SHARE, 3.0])
def test_the_pause_is_a_multiple_of_what_the_last_look_took(seconds: float) -> None:
    clock = Clock()
    times = SweepTimes(clock)
    pause = max(SWEEP_PAUSE, SWEEP_SHARE * seconds)

    assert times.begin(), "what was settled before the connection is not known"
    times.note_new()
    clock.now += seconds
    times.end()

    clock.now += pause - 0.25
    assert not times.begin()
    clock.now += 0.25
    assert times.begin()


def test_without_new_letters_it_is_not_looked_again() -> None:
    clock = Clock()
    times = SweepTimes(clock)
    times.begin()
    times.end()

    clock.now += 10_000

    assert not times.begin()
    times.note_new()
    assert times.begin()
