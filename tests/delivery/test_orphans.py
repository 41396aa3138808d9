"""Which orphan comes next: decided without a disk and without a loop."""

from __future__ import annotations

from uuid import UUID

from eventrec.delivery.orphans.queue import FIRST_PAUSE, HELD_IN_A_ROUND, LONGEST_PAUSE, Changes, Failures, OrphanQueue

OWN = UUID(int=1 << 100)


def ids(*numbers: int) -> list[UUID]:
    return [UUID(int=number) for number in numbers]


def found(*numbers: int) -> OrphanQueue:
    queue = OrphanQueue()
    queue.look([*ids(*numbers), OWN])
    return queue


def next_of(queue: OrphanQueue, limit: int = 8, *, now: float = 0.0, failing: str = "") -> list[int]:
    return [id_.int for id_ in queue.next(limit, own=OWN, now=now, is_failing=lambda name: name in failing.split())]


def test_the_oldest_come_first_and_our_own_never() -> None:
    queue = found(3, 1, 2)

    assert next_of(queue, 2) == [1, 2]
    assert next_of(queue) == [1, 2, 3]


def test_what_was_answered_is_not_next_any_more() -> None:
    queue = found(1, 2, 3, 4, 5)

    queue.note_adopted(*ids(1))
    queue.note_held(*ids(2))
    queue.note_gone(*ids(3))
    queue.note_left(*ids(4))

    assert next_of(queue) == [5]
    queue.look([*ids(1, 2, 4, 5), OWN])
    assert next_of(queue) == [5]


def test_a_few_of_those_that_others_hold_are_asked_for_in_each_round() -> None:
    queue = found(*range(10))
    for id_ in ids(*range(10)):
        queue.note_held(id_)
    asked = []

    for _ in range(5):
        queue.begin_round()
        chosen = next_of(queue)
        assert len(chosen) <= HELD_IN_A_ROUND
        for number in chosen:
            queue.note_held(*ids(number))
        assert next_of(queue) == []
        asked += chosen

    assert set(asked) == set(range(10))


def test_a_parked_one_waits_until_one_of_its_destinations_is_back() -> None:
    queue = found(1, 2)
    queue.note_adopted(*ids(1))
    queue.note_parked(ids(1)[0], frozenset({"a", "b"}))

    assert next_of(queue, failing="a b") == [2]
    assert next_of(queue, failing="a") == [2, 1]
    assert next_of(queue, 1, failing="a") == [2]


def test_one_that_was_left_comes_back_when_a_destination_lost_something() -> None:
    queue = found(1, 2)
    for id_ in ids(1, 2):
        queue.note_left(id_)
    queue.look([*ids(2), OWN])

    assert next_of(queue) == []
    queue.retry_left()
    assert next_of(queue) == [2]


def test_what_was_refused_is_tried_again_after_a_pause_that_grows_up_to_a_bound() -> None:
    queue = found(1)
    now, pauses = 100.0, []

    for attempt in range(12):
        queue.note_adopted(*ids(1))
        assert queue.note_paused(UUID(int=1), now) is (attempt == 0)
        began = now
        while not next_of(queue, now=now):
            now += 0.5
        pauses.append(now - began)

    assert pauses[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE


def test_a_pause_begins_again_for_one_that_went_and_came_back() -> None:
    queue = found(1)
    queue.note_paused(UUID(int=1), 0.0)
    queue.look([OWN])
    queue.look([*ids(1), OWN])

    assert next_of(queue) == [1]
    assert queue.note_paused(UUID(int=1), 0.0)


def test_what_grew_though_it_was_locked_is_never_touched_again() -> None:
    queue = found(1, 2)
    queue.note_adopted(*ids(1))
    queue.distrust(*ids(1))
    queue.look([*ids(1, 2), OWN])
    queue.retry_left()

    assert next_of(queue) == [2]
    assert queue.by_rank(OWN) == ids(2)


def test_for_the_disk_bound_go_first_those_that_nobody_can_read_then_the_oldest() -> None:
    queue = found(1, 2, 3)
    queue.note_adopted(*ids(1))
    queue.note_paused(UUID(int=3), 0.0, is_unreadable=True)

    assert queue.by_rank(OWN) == ids(3, 1, 2)


def test_one_is_parked_only_where_that_helps() -> None:
    queue = found()
    stuck = dict.fromkeys(ids(4, 5), frozenset({"a"}))

    assert queue.to_park(stuck, is_full=True, has_others=True) == UUID(int=4)
    assert queue.to_park(stuck, is_full=False, has_others=True) is None
    assert queue.to_park(stuck, is_full=True, has_others=False) is None
    assert queue.to_park({}, is_full=True, has_others=True) is None


def test_fifty_thousand_are_chosen_from_at_once() -> None:
    queue = found(*range(50_000))
    chosen = []

    while some := next_of(queue):
        chosen += some
        for number in some:
            queue.note_gone(*ids(number))

    assert chosen == list(range(50_000))


def test_a_directory_is_listed_when_it_changed_and_once_a_minute() -> None:
    changes = Changes()
    assert changes.are_due(100.0, now=0.0)

    changes.note_looked(100.0, at=200.0, now=1.0)

    assert not changes.are_due(100.0, now=60.0)
    assert changes.are_due(101.0, now=60.0)
    assert changes.are_due(100.0, now=61.0)


def test_a_change_in_the_instant_of_a_look_is_not_missed() -> None:
    changes = Changes()

    changes.note_looked(100.0, at=100.001, now=1.0)

    assert changes.are_due(100.0, now=1.0)


def test_where_the_file_system_keeps_whole_seconds_a_change_in_the_second_of_a_look_is_not_missed() -> None:
    changes = Changes()

    changes.note_looked(100.0, at=101.5, now=1.0)

    assert changes.are_due(100.0, now=1.0)
    changes.note_looked(100.5, at=101.5, now=1.0)
    assert not changes.are_due(100.5, now=1.0)


def test_those_that_others_still_hold_are_not_next_and_one_adopted_meanwhile_stays_so() -> None:
    queue = found(1, 2, 3)
    for id_ in ids(1, 2, 3):
        queue.note_held(id_)
    queue.begin_round()
    assert sorted(id_.int for id_ in queue.asked) == [1, 2, 3]

    queue.note_adopted(*ids(2))
    queue.note_still_held(ids(1, 2))

    assert queue.asked == tuple(ids(3))
    assert next_of(queue) == [3]
    queue.begin_round()
    assert sorted(id_.int for id_ in queue.asked) == [1, 3]


def test_of_many_that_others_hold_one_is_asked_for_in_a_round_and_more_where_it_is_free() -> None:
    queue = found(*range(40))
    for id_ in ids(*range(40)):
        queue.note_held(id_)

    queue.begin_round()

    assert next_of(queue) == [0]
    queue.note_adopted(*ids(0))
    assert next_of(queue) == [1, 2, 3, 4]
    for id_ in ids(1, 2, 3, 4):
        queue.note_held(id_)
    assert next_of(queue) == []


def test_siblings_whose_turns_are_in_step_ask_for_different_ones_of_many() -> None:
    queue = found(*range(40))
    for id_ in ids(*range(40)):
        queue.note_held(id_)

    queue.begin_round(lambda held, count: held[-count:])

    assert next_of(queue) == [0, 37, 38, 39]


def test_those_for_groups_are_left_to_them_and_one_that_needs_a_closer_look_is_not_for_one_again() -> None:
    queue = found(1, 2, 3)
    assert [id_.int for id_ in queue.next_group(2, own=OWN)] == [1, 2]
    for id_ in ids(1, 2):
        queue.note_adopted(id_)

    queue.note_gone(*ids(1))
    queue.note_single(ids(2))

    assert [id_.int for id_ in queue.next_group(2, own=OWN)] == [3]
    assert queue.waiting == 1
    assert [id_.int for id_ in queue.next(8, own=OWN, now=0.0, is_failing=lambda _: False, only_single=True)] == [2]
    assert next_of(queue) == [2, 3]


def test_one_of_a_group_that_another_process_held_is_next_once_it_is_free() -> None:
    queue = found(1, 2)
    for id_ in queue.next_group(2, own=OWN):
        queue.note_adopted(id_)
    queue.note_held(*ids(1))

    queue.note_free(ids(1))

    assert next_of(queue) == [1]
    queue.look([*ids(1, 2), OWN])
    assert next_of(queue) == [1]
    assert repr(queue) == "<OrphanQueue fresh=1 adopted=1 held=0>"


def test_a_queue_says_how_many_it_knows_in_each_state() -> None:
    ids = [UUID(int=n) for n in range(3)]
    queue = OrphanQueue()
    queue.look(ids)
    queue.note_held(ids[0])
    queue.note_adopted(ids[1])

    assert repr(queue) == "<OrphanQueue fresh=1 adopted=1 held=1>"


def test_pauses_double_up_to_their_bound_and_begin_again_after_a_success() -> None:
    failures = Failures(2.0, 10.0)

    said, pauses = [], []
    for _ in range(5):
        said.append(failures.note_failed())
        pauses.append(failures.pause)
    failures.note_passed()
    rested = failures.pause
    said.append(failures.note_failed())

    assert pauses == [2.0, 4.0, 8.0, 10.0, 10.0]
    assert rested == 0.0
    assert failures.pause == 2.0
    assert said == [True, False, False, False, False, True]
