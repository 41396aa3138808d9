"""Pieces, and the hand that holds them: pure values."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from eventrec.delivery.worker.hand import Hand
from eventrec.delivery.worker.piece import Piece
from eventrec.records.entry import CONTEXT, PAYLOAD, Entry, make_entry
from eventrec.records.schema import Shape

SHAPE = Shape("events", "a")


def test_a_piece_is_split_at_an_offset_with_what_is_settled_of_it(piece: Callable[..., Piece]) -> None:
    whole = piece(1, 4, 9, 12, end=20)
    whole.settle(dead=[4], delivered=[12])

    left, right = whole.split_at(9)

    assert (left.offsets, left.dead, left.delivered, left.end) == ([1], [4], [], 9)
    assert (right.offsets, right.dead, right.delivered, right.end) == ([9], [], [12], 20)
    assert left.generation == right.generation == whole.generation + 1


@given(offsets=st.sets(st.integers(0, 50), min_size=2), dead=st.sets(st.integers(0, 50)))
def test_halves_hold_together_what_the_whole_held(offsets: set[int], dead: set[int]) -> None:
    whole = Piece(60)
    for offset in sorted(offsets):
        whole.add(offset, make_entry(SHAPE, offset, b"1"))
    if len(offsets - dead) < 2:
        dead = set()
    whole.settle(dead=sorted(dead & offsets))

    left, right = whole.halves()

    assert left.offsets + right.offsets == whole.offsets
    assert left.dead + right.dead == whole.dead
    assert abs(len(left) - len(right)) <= 1
    assert left.end <= right.offsets[0] < right.end == whole.end


def test_settling_makes_another_batch(piece: Callable[..., Piece]) -> None:
    some = piece(1, 4, 9)

    some.settle(dead=[4])

    assert (some.offsets, some.dead, some.generation) == ([1, 9], [4], 1)
    assert [entry[PAYLOAD] for entry in some.entries] == [b"1", b"9"]


def test_equal_failures_leave_no_doubt_and_others_do(piece: Callable[..., Piece]) -> None:
    same, other, transient = piece(1), piece(1), piece(1)

    for failure in ("a", "a", "a"):
        same.note_failure(failure)
    for failure in ("a", "b"):
        other.note_failure(failure)
    transient.note_failure(None)

    assert (same.is_doubtful, other.is_doubtful, transient.is_doubtful) == (False, True, True)


def test_a_batch_names_its_offsets_in_the_shortest_way(piece: Callable[..., Piece]) -> None:
    dense = piece(3, 4, 5).as_batch(UUID(int=7), "s", 0)
    holed = piece(3, 5).as_batch(UUID(int=7), "s", 2)

    assert dense.offsets == range(3, 6)
    assert tuple(holed.offsets) == (3, 5)
    assert (holed.start, holed.end, len(holed)) == (2, 6, 2)


def test_records_of_another_static_context_have_it_in_the_context_of_their_call() -> None:
    def one(number: int, context: bytes | None = None) -> Entry:
        return make_entry(SHAPE, number, b"1", context)

    mixed = Piece(4)
    mixed.extend([0], [one(0)], b'{"host":"a"}')
    mixed.extend([1], [one(1, b'{"user":1}')], b'{"host":"a"}')
    assert (mixed.static_context, mixed.entries[0][CONTEXT]) == (b'{"host":"a"}', None)

    mixed.extend([2], [one(2, b'{"user":2}')], b'{"host":"b"}')
    mixed.extend([3], [one(3)], None)

    assert mixed.static_context is None
    assert [entry[CONTEXT] for entry in mixed.entries] == [
        b'{"host":"a"}',
        b'{"host":"a","user":1}',
        b'{"host":"b","user":2}',
        None,
    ]


def test_a_hand_gives_its_pieces_in_the_order_of_their_offsets(piece: Callable[..., Piece]) -> None:
    hand = Hand()
    hand.add(first := piece(1, 2, 3, 4))
    hand.add(second := piece(5))

    assert hand.is_next(first)
    assert not hand.is_next(second)
    assert (hand.is_at(1), hand.is_at(2)) == (True, False)
    hand.halve_next()
    assert [each.offsets for each in hand.take_all()] == [[1, 2], [3, 4], [5]]
    assert not hand


def test_a_piece_is_cut_to_size_once_and_not_after_it_was_tried(piece: Callable[..., Piece]) -> None:
    hand = Hand()
    hand.add(piece(1, 2, 3, 4))

    hand.cut_next(3)
    hand.next.is_tried = True
    hand.cut_next(1)

    assert [each.offsets for each in hand.take_all()] == [[1, 2, 3], [4]]


def test_what_is_put_back_comes_first_and_probing_ends_with_the_last_piece(piece: Callable[..., Piece]) -> None:
    hand = Hand()
    hand.add(piece(5))
    hand.put_first([piece(1), piece(3)])
    hand.is_probing = hand.has_passed = True

    order = []
    while hand:
        assert hand.is_probing
        order.append(hand.next.offsets[0])
        hand.pop_settled()

    assert order == [1, 3, 5]
    assert (hand.is_probing, hand.has_passed) == (False, False)


def test_a_hand_says_where_its_pieces_end(piece: Callable[..., Piece]) -> None:
    hand = Hand()
    hand.add(piece(1))
    hand.add(piece(4, end=9))

    assert repr(hand) == "<Hand of 2, next [2, 9]>"


def test_records_of_a_process_without_a_context_keep_none_beside_those_of_one_that_has(
    piece: Callable[..., Piece],
) -> None:
    some = piece(1)

    some.extend([2], [make_entry(SHAPE, 2, b"2")], b'{"host":"a"}')

    assert [entry[CONTEXT] for entry in some.entries] == [None, b'{"host":"a"}']
    assert some.static_context is None
