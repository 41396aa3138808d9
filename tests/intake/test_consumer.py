"""The rule by which an intake is emptied, without a thread and without a loop."""

from __future__ import annotations

import pytest

from eventrec.intake.consumer import Consumer, Counts
from eventrec.intake.queue import Intake
from eventrec.records.entry import Entry, make_entry
from eventrec.records.schema import Shape

SHAPE = Shape("events", "numbered")


class Staged:
    """An intake that notes how often it woke its consumer."""

    def __init__(self) -> None:
        self.wakes = 0
        self.intake = Intake(
            max_events=None, max_bytes=1 << 20, max_event_bytes=1 << 20, overflow="drop_new", wake=self._wake
        )
        self.consumer = Consumer(self.intake, write_interval=0.25)

    def _wake(self) -> None:
        self.wakes += 1

    def offer(self, count: int) -> list[Entry]:
        entries = [make_entry(SHAPE, n, b"%d" % n) for n in range(count)]
        for entry in entries:
            assert self.intake.offer(self.intake.cell(), entry) is None
        return entries


def test_what_was_taken_is_in_one_term_at_every_step() -> None:
    staged = Staged()
    consumer = staged.consumer
    entries = staged.offer(5)
    assert consumer.counts == Counts(appended=0, in_intake=5, in_hand=0)

    assert consumer.take(3) == entries[:3]
    assert consumer.counts == Counts(appended=0, in_intake=2, in_hand=3)
    consumer.hold()
    assert consumer.counts == Counts(appended=0, in_intake=2, in_hand=3)
    consumer.append(2)
    assert consumer.counts == Counts(appended=2, in_intake=2, in_hand=1)
    consumer.append(1)
    consumer.take(3)
    assert consumer.counts == Counts(appended=3, in_intake=0, in_hand=2)
    consumer.append_taken()
    assert consumer.counts == Counts(appended=5, in_intake=0, in_hand=0)


def test_what_waits_at_the_end_is_lost_and_so_is_what_was_numbered_and_not_written() -> None:
    staged = Staged()
    consumer = staged.consumer
    staged.offer(9)
    consumer.take(4)
    consumer.hold()
    consumer.append(3)
    consumer.take(2)

    assert consumer.lose_rest(beyond=2) == 7
    assert consumer.counts == Counts(appended=2, in_intake=0, in_hand=0, lost=7)
    assert consumer.lose_rest(beyond=2) == 0
    assert consumer.counts == Counts(appended=2, in_intake=0, in_hand=0, lost=7)


def test_a_take_that_was_not_appended_comes_again() -> None:
    staged = Staged()
    entries = staged.offer(4)
    staged.consumer.take(2)

    assert staged.consumer.take(4) == entries[:2]


def test_after_a_take_it_waits_a_little_and_then_asks_to_be_woken() -> None:
    staged = Staged()

    pauses = staged.consumer.pauses()

    assert next(pauses) == 0.25
    assert staged.wakes == 0
    assert next(pauses) is None
    staged.offer(3)
    assert staged.wakes == 1, "one wake-up for all of them"


@pytest.mark.parametrize(("spent", "pause"), [(0.1, 0.05), (0.125, 0.0), (10.0, 0.0)])
def test_what_a_take_has_spent_is_waited_less(spent: float, pause: float) -> None:
    assert next(Staged().consumer.pauses(spent=spent)) == pytest.approx(pause)


def test_what_came_in_the_little_while_is_taken_without_a_wake_up() -> None:
    staged = Staged()

    pauses = staged.consumer.pauses()
    next(pauses)
    staged.offer(1)

    assert list(pauses) == []
    assert staged.wakes == 0
