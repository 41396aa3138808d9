"""Whose turn it is: every log that waits begins, however busy the others are, and the newest is not kept waiting."""

from __future__ import annotations

from uuid import UUID

import pytest

from eventrec.mirroring.schedule import Key
from eventrec.mirroring.turns import PATIENCE, SLICE_BYTES, LogTurns

KEYS: list[Key] = [(UUID(int=number), False) for number in range(100)]


def never(_: Key) -> bool:
    return False


def taken(turns: LogTurns, count: int, size: int) -> list[Key]:
    """Whose the next turns are, where all have always more, of `size` bytes each."""
    found = []
    for _ in range(count):
        key = turns.take(has_begun=never)
        assert key is not None
        found.append(key)
        turns.give_back(key, size)
    return found


@pytest.mark.parametrize("size", [10, SLICE_BYTES // 4, SLICE_BYTES])
def test_every_log_begins_though_all_have_always_more(size: int) -> None:
    turns = LogTurns(8)
    turns.offer(KEYS[:20])

    assert set(taken(turns, 20 * (PATIENCE + 20), size)) == set(KEYS[:20])


@pytest.mark.parametrize("size", [10, SLICE_BYTES])
def test_an_old_log_that_comes_late_begins_beside_busy_ones(size: int) -> None:
    turns = LogTurns(8)
    turns.offer(KEYS[1:9])
    taken(turns, 100, size)

    turns.offer(KEYS[:1])

    assert KEYS[0] in taken(turns, 2 * PATIENCE, size)


def test_no_log_has_a_second_slice_before_all_that_wait_had_one() -> None:
    turns = LogTurns(2)
    turns.offer(KEYS[:10])

    found = taken(turns, 30, SLICE_BYTES)

    assert sorted(found[:10]) == KEYS[:10]
    assert sorted(found[10:20]) == KEYS[:10]


def test_the_newest_begins_at_once_though_there_is_no_room() -> None:
    turns = LogTurns(2)
    turns.offer(KEYS[:5])
    taken(turns, 3, 10)

    turns.offer(KEYS[5:6])

    assert taken(turns, 1, 10) == [KEYS[5]]


def test_one_that_has_no_more_is_not_asked_again() -> None:
    turns = LogTurns(2)
    turns.offer(KEYS[:1])

    assert turns.take(has_begun=never) == KEYS[0]
    assert turns.take(has_begun=never) is None
