"""What goes when the disk bound is reached, and what is retained: decisions without a disk."""

from __future__ import annotations

import pytest

from eventrec.runs.retention import Bound, BoundChange, Kept, Overrun, Retain, SealedSegment, forfeited, to_free

GIB = 1 << 30
SEGMENTS = [SealedSegment(0, 10, 100), SealedSegment(10, 20, 100), SealedSegment(20, 30, 100)]


@pytest.mark.parametrize(
    ("bound", "used", "free", "excess"),
    [
        (Bound(1_000, 0), 999, 10, -1),
        (Bound(1_000, 0), 1_200, 10, 200),
        (Bound(GIB, 0.05), 10, 60, -10),
        (Bound(GIB, 0.05), 10, 30, 20),
        (Bound(GIB, 5_000.0), 10, 4_000, 1_000),
    ],
)
def test_the_greater_excess_rules(bound: Bound, used: int, free: int, excess: int) -> None:
    assert bound.excess(used=used, free=free, capacity=1_000) == excess


@pytest.mark.parametrize(
    ("bound", "used", "free", "is_far"),
    [
        (Bound(1_000, 0), 500, 0, True),
        (Bound(1_000, 0), 501, 0, False),
        (Bound(GIB, 0.05), 10, 100, True),
        (Bound(GIB, 0.05), 10, 99, False),
    ],
)
def test_a_bound_is_far_as_long_as_neither_half_is_taken(bound: Bound, used: int, free: int, *, is_far: bool) -> None:
    assert bound.is_far(used=used, free=free, capacity=1_000) == is_far


def test_a_share_of_a_large_file_system_is_a_gibibyte_at_most() -> None:
    assert Bound(GIB, 0.05).excess(used=0, free=GIB - 1, capacity=1_000 * GIB) == 1


@pytest.mark.parametrize(
    ("scanned", "excess", "by_all", "end"),
    [
        ([5, 30], 100, False, 10),
        ([5, 30], 101, False, 20),
        ([5, 30], 1_000, False, 30),
        ([5, 15], 1_000, False, 10),
        ([5, 5], 100, False, None),
        ([5, 5], 100, True, 10),
        ([10, 30], 100, False, None),
        ([10, 30], 150, False, 20),
        ([5], 100, False, None),
        ([5], 100, True, 10),
        ([], 100, False, None),
        ([5, 30], 0, False, None),
    ],
)
def test_only_who_is_furthest_behind_forfeits(
    scanned: list[int], excess: int, end: int | None, *, by_all: bool
) -> None:
    assert forfeited(SEGMENTS, scanned, excess, by_all=by_all) == end


KEPT = [Kept(10, 300.0), Kept(10, 200.0), Kept(10, 100.0)]


@pytest.mark.parametrize(
    ("retain", "count"),
    [
        (Retain(), 3),
        (Retain(seconds=250), 1),
        (Retain(seconds=1_000), 0),
        (Retain(bytes=20), 1),
        (Retain(bytes=0), 3),
        (Retain(seconds=1_000, bytes=10), 2),
        (Retain(seconds=150, bytes=1_000), 2),
    ],
)
def test_what_is_too_old_or_too_much_goes_oldest_first(retain: Retain, count: int) -> None:
    assert retain.outlived(KEPT) == count
    assert bool(retain) is (retain != Retain())


@pytest.mark.parametrize(("excess", "count"), [(0, 0), (-5, 0), (1, 1), (10, 1), (11, 2), (30, 3), (1_000, 3)])
def test_of_what_is_retained_only_as_much_goes_as_has_to(excess: int, count: int) -> None:
    assert to_free(KEPT, excess) == count


def test_that_a_directory_is_full_is_said_when_it_begins_and_when_it_ends() -> None:
    overrun = Overrun(Bound(1_000, 0))

    said = [overrun.note(excess) for excess in (-5, 10, 20, -1, -1, 5)]

    assert said == [None, BoundChange.FULL, None, BoundChange.WITHIN, None, BoundChange.FULL]
    assert overrun.is_over


def test_a_loss_is_new_again_only_when_a_quarter_of_the_bound_was_free() -> None:
    overrun = Overrun(Bound(1_000, 0))

    assert overrun.note_lost()
    assert not overrun.note_lost()
    assert overrun.note(-250) is None
    assert not overrun.note_lost()
    assert overrun.note(-251) is BoundChange.WITHIN
    assert overrun.note_lost()
