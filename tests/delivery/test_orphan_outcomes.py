"""What follows for an orphan that could not be adopted, or was given back: without a disk and without a loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from eventrec.delivery.orphans.outcomes import OrphanOutcomes
from eventrec.delivery.orphans.queue import FIRST_PAUSE, OrphanQueue
from eventrec.errors import ContentError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

OWN = UUID(int=1 << 100)
LOG = UUID(int=1)


@dataclass
class Needs:
    kept_for_mirrors: Sequence[str] | None = ()


@dataclass
class Delivery:
    """What an ended delivery says of itself. Where nothing is told, all is delivered that we can deliver."""

    is_gone: bool = False
    is_refused: bool = False
    is_done: bool = False
    waiting: Collection[str] = ()
    later: str = ""
    held_for: Sequence[str] = ()
    needs: Any = field(default_factory=lambda: Needs([]))


@pytest.fixture
def queue() -> OrphanQueue:
    queue = OrphanQueue()
    queue.look([LOG, OWN])
    return queue


@pytest.fixture
def outcomes(queue: OrphanQueue) -> OrphanOutcomes:
    return OrphanOutcomes(queue)


def is_next(queue: OrphanQueue, *, now: float = 0.0, failing: str = "") -> bool:
    return bool(queue.next(8, own=OWN, now=now, is_failing=lambda name: name == failing))


Ending = dict[str, Any]


@pytest.fixture
def ended(outcomes: OrphanOutcomes) -> Callable[..., None]:
    """An orphan is adopted, delivered and given back, as told."""

    def end(*, parked_for: frozenset[str] | None = None, is_defect: bool = False, **told: Any) -> None:
        outcomes.note_adopted(LOG)
        outcomes.note_ended(LOG, Delivery(**told), parked_for=parked_for, is_defect=is_defect, now=0.0)

    return end


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"needs": Needs(["far"])}, "kept for 'far', to be mirrored"),
        ({"needs": Needs(None)}, "kept for mirrors, to be mirrored"),
        ({"is_done": True}, "checkpoints cannot be saved, or the log not deleted"),
        ({"is_refused": True, "waiting": ["s"]}, "checkpoints cannot be saved, or the log not deleted"),
        ({"is_defect": True, "waiting": ["s"]}, "delivery failed"),
        ({"waiting": ["s"], "later": "record 3: of a later one"}, "left alone: record 3: of a later one"),
        ({"waiting": ["s"]}, None),
    ],
)
def test_what_was_refused_is_tried_again_after_a_pause_and_says_why(
    queue: OrphanQueue, outcomes: OrphanOutcomes, ended: Callable[..., None], told: Ending, why: str | None
) -> None:
    ended(**told)

    assert outcomes.left.get(LOG) == why
    assert not is_next(queue, now=FIRST_PAUSE - 0.1)
    assert is_next(queue, now=FIRST_PAUSE)


def test_one_that_is_delivered_and_deleted_is_not_spoken_of(
    queue: OrphanQueue, outcomes: OrphanOutcomes, ended: Callable[..., None]
) -> None:
    ended(is_gone=True)

    assert outcomes.left == {}
    assert not is_next(queue, now=1e9)


def test_one_that_waits_for_a_destination_is_next_once_that_is_back(
    queue: OrphanQueue, ended: Callable[..., None]
) -> None:
    ended(parked_for=frozenset({"s"}), waiting=["s"])

    assert not is_next(queue, failing="s")
    assert is_next(queue)


def test_one_that_others_need_is_left_and_each_subscription_is_said_once(
    queue: OrphanQueue, outcomes: OrphanOutcomes, ended: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    ended(held_for=["a", "b"])
    ended(held_for=["a", "b"])

    assert outcomes.left == {LOG: "kept for 'a', 'b', not registered here"}
    assert not is_next(queue, now=1e9)
    assert len([each for each in caplog.records if "not registered" in each.message]) == 1


def test_one_that_another_process_writes_stays_untrusted(
    queue: OrphanQueue, outcomes: OrphanOutcomes, ended: Callable[..., None]
) -> None:
    outcomes.note_adopted(LOG)
    queue.distrust(LOG)

    outcomes.note_ended(LOG, Delivery(waiting=["s"]), parked_for=None, is_defect=False, now=0.0)

    assert queue.untrusted == {LOG}
    assert not is_next(queue, now=1e9)


def test_one_whose_bytes_cannot_be_read_is_said_once_and_tried_again(
    queue: OrphanQueue, outcomes: OrphanOutcomes, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        outcomes.note_refused(LOG, ContentError("a bad one"), now=0.0)

    assert outcomes.left == {LOG: "left alone: a bad one"}
    assert queue.unreadable == {LOG}
    assert len([each for each in caplog.records if "left alone" in each.message]) == 1
    assert is_next(queue, now=2 * FIRST_PAUSE)


def test_what_was_said_of_one_is_taken_back_once_it_is_held_adopted_or_gone(outcomes: OrphanOutcomes) -> None:
    refusal = OSError("no")

    outcomes.note_refused(LOG, refusal, now=0.0)
    outcomes.note_refused(LOG, "held", now=0.0)
    assert outcomes.left == {}

    outcomes.note_refused(LOG, refusal, now=0.0)
    outcomes.note_adopted(LOG)
    assert outcomes.left == {}

    outcomes.note_refused(LOG, refusal, now=0.0)
    outcomes.keep(set())
    assert outcomes.left == {}
