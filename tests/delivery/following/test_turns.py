"""Which live logs are followed where there are more than may be: without a disk, and without a loop."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import pytest

from eventrec.delivery.following.turns import MAX_FOLLOWED, QUIET_SECONDS, TURN_SECONDS, FollowTurns
from eventrec.delivery.orphans.queue import FIRST_PAUSE

LOGS = [UUID(int=number) for number in range(100)]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Delivery:
    is_settled: bool = False


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turns(clock: Clock) -> FollowTurns:
    return FollowTurns(clock)


def opened(turns: FollowTurns, *ids: UUID, is_settled: bool = False) -> dict[UUID, Delivery]:
    for id_ in ids:
        turns.note_moved(id_)
        turns.note_opened(id_)
    return {id_: Delivery(is_settled) for id_ in ids}


def test_the_log_that_waits_longest_is_opened_first(turns: FollowTurns) -> None:
    for id_ in (LOGS[2], LOGS[0], LOGS[1], LOGS[2]):
        turns.note_wanted(id_)

    assert list(turns.ready({})) == [LOGS[2], LOGS[0], LOGS[1]]


def test_one_that_is_followed_is_not_opened_again_and_stays_wanted(turns: FollowTurns) -> None:
    turns.note_wanted(LOGS[0])

    assert list(turns.ready({LOGS[0]})) == []
    assert list(turns.ready({})) == [LOGS[0]]


def test_one_that_is_let_go_while_others_are_opened_is_not_opened(turns: FollowTurns) -> None:
    turns.note_wanted(LOGS[0])
    turns.note_wanted(LOGS[1])

    ready = turns.ready({})

    assert next(ready) == LOGS[0]
    turns.forget(LOGS[1])
    assert list(ready) == []


def test_one_that_could_not_be_opened_is_wanted_again_after_pauses_that_grow(turns: FollowTurns, clock: Clock) -> None:
    turns.note_wanted(LOGS[0])
    turns.take(LOGS[0])

    assert turns.note_failed(LOGS[0])
    assert not turns.is_any_ready()
    clock.now += FIRST_PAUSE
    assert turns.is_any_ready()

    turns.take(LOGS[0])
    assert not turns.note_failed(LOGS[0]), "it is said once"
    clock.now += FIRST_PAUSE
    assert not turns.is_any_ready()
    clock.now += FIRST_PAUSE
    assert list(turns.ready({})) == [LOGS[0]]


def test_one_that_its_owner_delivers_is_not_looked_into_for_a_while(turns: FollowTurns, clock: Clock) -> None:
    turns.wait(LOGS[0], 5.0)
    turns.note_wanted(LOGS[0])

    assert list(turns.ready({})) == []
    clock.now += 5.0
    assert list(turns.ready({})) == [LOGS[0]]


def test_one_without_work_makes_room_before_one_that_had_its_turn(turns: FollowTurns, clock: Clock) -> None:
    followed = opened(turns, LOGS[0])
    clock.now += 2 * TURN_SECONDS
    followed |= opened(turns, LOGS[1], is_settled=True)

    assert turns.to_make_room(followed) == LOGS[1]
    del followed[LOGS[1]]
    assert turns.to_make_room(followed) == LOGS[0]


def test_one_with_work_keeps_its_place_for_a_turn(turns: FollowTurns, clock: Clock) -> None:
    followed = opened(turns, LOGS[0])
    clock.now += TURN_SECONDS

    assert turns.to_make_room(followed) is None
    clock.now += 0.1
    assert turns.to_make_room(followed) == LOGS[0]


def test_a_log_is_quiet_once_nothing_came_for_long_and_all_is_delivered(turns: FollowTurns, clock: Clock) -> None:
    followed = opened(turns, LOGS[0], LOGS[1], is_settled=True) | opened(turns, LOGS[2])
    clock.now += QUIET_SECONDS
    turns.note_moved(LOGS[1])

    assert turns.quiet(followed) == []
    clock.now += 0.1
    assert turns.quiet(followed) == [LOGS[0]]


def test_where_descriptors_run_out_half_are_followed_and_those_without_work_end_first(
    turns: FollowTurns, clock: Clock
) -> None:
    followed = opened(turns, *LOGS[:3]) | opened(turns, LOGS[3], is_settled=True)

    ends = turns.shrink(followed)

    assert turns.limit == 2
    assert ends == [LOGS[3], LOGS[0]]


def test_one_log_at_least_is_followed_however_few_descriptors_there_are(turns: FollowTurns) -> None:
    assert turns.shrink({}) == []
    assert turns.limit == 1


def test_long_after_descriptors_ran_out_more_are_followed_again_up_to_the_bound(
    turns: FollowTurns, clock: Clock
) -> None:
    turns.shrink(opened(turns, *LOGS[:6]))
    limits = [turns.limit]

    for _ in range(6):
        clock.now += QUIET_SECONDS
        turns.grow()
        limits.append(turns.limit)
        clock.now += 0.1
        turns.grow()
    limits.append(turns.limit)

    assert limits == [3, 3, 6, 12, 24, MAX_FOLLOWED, MAX_FOLLOWED, MAX_FOLLOWED]
