"""The window of decoded commits: what stands in it is given whole and in order, and what goes is what nobody used."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.delivery.sources.source import Records
from eventrec.delivery.sources.window import DecodedCommit, DecodedWindow
from eventrec.records.entry import SIZE, TIMESTAMP, make_entry, total_size
from eventrec.records.schema import Shape

SHAPE = Shape("t", "a", ())
PLENTY = 1 << 20


def entry(number: int) -> Any:
    """Entry `number` of a log, in which one is larger than another."""
    return make_entry(SHAPE, number, b" " * (number % 3))


def commit(first: int, count: int, *, static_context: bytes | None = None) -> DecodedCommit:
    entries = [entry(first + number) for number in range(count)]
    return DecodedCommit(first, entries, total_size(entries), static_context)


def window(*commits: DecodedCommit, max_bytes: int = PLENTY) -> DecodedWindow:
    made = DecodedWindow(max_bytes)
    for each in commits:
        made.keep(each)
    return made


def read(window: DecodedWindow, start: int, *, max_records: int = 100, max_bytes: int = PLENTY) -> list[int]:
    """The numbers of the entries that are found, by what they say themselves."""
    found = window.read(start, max_records=max_records, max_bytes=max_bytes)
    numbers = [each[TIMESTAMP] for each in found.entries]
    assert list(found.offsets) == numbers
    assert (found.start, found.end) == (start, start + len(numbers))
    return numbers


def test_an_empty_window_gives_nothing_and_says_where_that_begins() -> None:
    assert window().read(7, max_records=10, max_bytes=PLENTY) == Records(7, 7, range(7, 7), [])


def test_a_read_goes_through_several_commits_whatever_the_order_they_came_in() -> None:
    assert read(window(commit(4, 2), commit(0, 4), commit(6, 3)), 2) == [2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(("start", "found"), [(0, []), (2, [2, 3]), (3, [3]), (4, []), (6, [6, 7]), (8, [])])
def test_a_read_ends_at_a_gap(start: int, found: list[int]) -> None:
    assert read(window(commit(2, 2), commit(6, 2)), start) == found


def test_a_read_is_of_one_static_context() -> None:
    several = window(commit(0, 2, static_context=b"{}"), commit(2, 1, static_context=b"{}"), commit(3, 2), commit(5, 1))

    first = several.read(0, max_records=100, max_bytes=PLENTY)
    second = several.read(first.end, max_records=100, max_bytes=PLENTY)

    assert (first.end, first.static_context) == (3, b"{}")
    assert (second.end, second.static_context) == (6, None)


@pytest.mark.parametrize("max_records", [1, 3, 4, 5])
def test_a_read_gives_at_most_the_records_that_were_asked_for(max_records: int) -> None:
    assert read(window(commit(0, 4), commit(4, 4)), 1, max_records=max_records) == list(range(1, 1 + max_records))


@pytest.mark.parametrize("spare", [0, 1])
@pytest.mark.parametrize("count", [2, 4, 6])
def test_a_read_gives_what_fits_to_the_byte(count: int, spare: int) -> None:
    fits = sum(entry(number)[SIZE] for number in range(count))

    assert read(window(commit(0, 4), commit(4, 4)), 0, max_bytes=fits + spare) == list(range(count))
    assert read(window(commit(0, 4), commit(4, 4)), 0, max_bytes=fits - 1) == list(range(count - 1))


def test_the_first_record_of_a_read_is_given_whatever_its_size() -> None:
    assert read(window(commit(0, 4)), 1, max_bytes=1) == [1]


def test_a_commit_that_is_kept_again_counts_once() -> None:
    one = commit(0, 4)
    several = window(one, one, max_bytes=one.size + commit(4, 4).size)
    several.keep(commit(4, 4))

    assert read(several, 0) == list(range(8))


def test_what_was_not_used_for_longest_goes() -> None:
    commits = [commit(0, 3), commit(3, 3), commit(6, 3)]
    several = window(*commits[:2], max_bytes=commits[0].size + commits[1].size)

    assert read(several, 0, max_records=1) == [0]
    several.keep(commits[2])

    assert read(several, 0) == [0, 1, 2]
    assert read(several, 3) == []
    assert read(several, 6) == [6, 7, 8]


def test_a_commit_larger_than_the_window_stays_until_the_next_one() -> None:
    several = window(commit(0, 3), commit(3, 3), max_bytes=1)

    assert read(several, 0) == []
    assert read(several, 3) == [3, 4, 5]
    assert repr(several) == f"<DecodedWindow of 1 commits, {commit(3, 3).size} bytes>"


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
    max_bytes=st.integers(1, 5_000),
    reads=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12), st.integers(1, 3_000)), max_size=8),
)
def test_whatever_is_kept_and_read_the_bound_holds_and_what_is_found_is_in_its_place(
    sizes: list[int], order: Any, max_bytes: int, reads: list[tuple[int, int, int]]
) -> None:
    firsts = [sum(sizes[:index]) for index in range(len(sizes))]
    commits = [commit(first, size) for first, size in zip(firsts, sizes, strict=True)]
    order.shuffle(commits)
    several = DecodedWindow(max_bytes)

    for index, each in enumerate(commits):
        several.keep(each)
        assert read(several, each.first, max_records=len(each.entries)) == list(range(each.first, each.end))
        for start, max_records, size in reads:
            found = several.read(start, max_records=max_records, max_bytes=size)
            assert [one[TIMESTAMP] for one in found.entries] == list(range(start, found.end))
            assert len(found.entries) <= max_records
            assert len(found.entries) <= 1 or total_size(found.entries) <= size
        there = [one for one in commits[: index + 1] if read(several, one.first, max_records=1)]
        assert len(there) == 1 or sum(one.size for one in there) <= max_bytes
