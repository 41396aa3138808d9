"""The queue itself: when its consumer is woken, and what of its bound is free again."""

from __future__ import annotations

from eventrec.events.reasons import Reason
from eventrec.intake.queue import Intake
from eventrec.records.entry import Entry, make_entry
from eventrec.records.schema import Shape

SHAPE = Shape("events", "numbered")


class Woken:
    """Counts how often it is woken, and answers `why`: that no consumer comes, where it is a reason."""

    def __init__(self, why: Reason | None = None) -> None:
        self.why = why
        self.wakes = 0
        self.intake = Intake(
            max_events=None, max_bytes=1_000, max_event_bytes=500, overflow="drop_new", wake=self._wake
        )

    def _wake(self) -> Reason | None:
        self.wakes += 1
        return self.why

    def offer(self, entry: Entry) -> Reason | None:
        return self.intake.offer(self.intake.cell(), entry)


def test_what_came_before_a_consumer_asked_to_be_woken_is_not_slept_on() -> None:
    woken = Woken()
    entry = make_entry(SHAPE, 1, b"1")
    assert woken.offer(entry) is None

    is_asleep = woken.intake.arm()

    assert not is_asleep
    assert woken.intake.take(10) == [entry]
    assert woken.intake.arm()
    assert woken.offer(entry) is None
    assert woken.wakes == 1


def test_bytes_of_what_no_consumer_comes_for_are_free_again() -> None:
    woken = Woken("no_writer")
    entry = make_entry(SHAPE, 1, b"1" * 200)
    assert woken.intake.arm()

    refused = [woken.offer(entry) for _ in range(50)]

    assert refused == ["no_writer"] * 50
    assert woken.intake.waiting_bytes() == 0
    assert len(woken.intake) == 0


def test_a_nudge_that_no_consumer_comes_for_is_given_again() -> None:
    woken = Woken("no_writer")
    assert woken.intake.arm()

    woken.intake.nudge()
    woken.why = None
    woken.intake.nudge()
    woken.intake.nudge()

    assert woken.wakes == 2
