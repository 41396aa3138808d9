"""Reading until there is a batch, and making a frozen one the same again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import anyio
import pytest

from eventrec.delivery.sources.memory import MemorySource
from eventrec.delivery.sources.source import Records
from eventrec.delivery.subscription import Subscription
from eventrec.delivery.worker.attempts import Freezer, attempt_of, pieces_of, restore_pieces
from eventrec.delivery.worker.batch_reader import BatchReader
from eventrec.delivery.worker.ledger import Ledger
from eventrec.delivery.worker.piece import Piece
from eventrec.errors import TransientError
from eventrec.records.entry import Entry, total_size
from eventrec.runs.checkpoint import Attempt

ID = UUID(int=7)


def ledger_of(subscription: Subscription, source: MemorySource) -> Ledger:
    return Ledger(subscription, source, checkpoint=None, on_drop=lambda *_: None, on_reread=lambda _: None)


def reader_of(
    subscription: Subscription,
    source: MemorySource,
    ledger: Ledger,
    *,
    dead: set[int],
    now: Callable[[], float] = anyio.current_time,
) -> BatchReader:
    return BatchReader(
        subscription,
        source,
        ledger.cursor,
        generation=0,
        is_alone=lambda: True,
        known_dead=lambda: dead,
        on_empty=ledger.settle_empty,
        on_forfeited=ledger.skip_to,
        now=now,
    )


async def test_a_piece_holds_what_is_wanted_and_remembers_what_is_dead(
    subscription: Subscription, source: MemorySource
) -> None:
    reader = reader_of(subscription, source, ledger_of(subscription, source), dead={2, 3})
    reader.flush(10)

    first, second = await reader.next_piece(), await reader.next_piece()

    assert (first.offsets, first.dead) == ([0, 4, 6], [2])
    assert second.offsets == [8]


async def test_what_is_not_wanted_is_settled_without_a_batch(
    subscription: Subscription, entry: Callable[..., Entry]
) -> None:
    source = MemorySource(ID, max_events=100, max_bytes=1 << 20)
    ledger = ledger_of(subscription, source)
    reader = reader_of(subscription, source, ledger, dead=set())
    source.append([entry(number, "b") for number in range(5)] + [entry(5)])
    reader.flush(6)

    piece = await reader.next_piece()

    assert piece.offsets == [5]
    assert ledger.progress.filtered == 3


def test_what_is_skipped_is_not_sent_and_what_was_read_beyond_it_is_not_read_again(
    subscription: Subscription, source: MemorySource, entry: Callable[..., Entry]
) -> None:
    reader = reader_of(subscription, source, ledger_of(subscription, source), dead={4}, now=lambda: 0.0)
    reader.take(Records(0, 7, (0, 2, 3, 4, 6), [entry(n) for n in (0, 2, 3, 4, 6)], None))

    reader.skip_to(3)
    kept = reader.piece.offsets, reader.piece.dead, reader.piece.size, reader.end
    reader.skip_to(9)

    assert kept == ([3, 6], [4], total_size([entry(3), entry(6)]), 7)
    assert (reader.piece.offsets, reader.end) == ([], 9)


def test_what_is_taken_up_again_is_as_it_was(
    subscription: Subscription, source: MemorySource, piece: Callable[..., Piece]
) -> None:
    reader = reader_of(subscription, source, ledger_of(subscription, source), dead=set(), now=lambda: 0.0)
    whole = piece(2, 4, end=8)

    reader.take_up(whole)

    assert reader.piece is whole
    assert reader.end == 8


async def test_records_with_holes_are_taken_as_they_come(
    subscription: Subscription, source: MemorySource, entry: Callable[..., Entry]
) -> None:
    reader = reader_of(subscription, source, ledger_of(subscription, source), dead=set())

    reader.take(Records(0, 5, (1, 4), (entry(1), entry(4)), b'{"host":"a"}'))
    reader.take(Records(5, 90, (7, 8), (entry(7, "b"), entry(8)), b'{"host":"a"}'))

    assert (reader.piece.offsets, reader.end, reader.piece.static_context) == ([1, 4, 8], 90, b'{"host":"a"}')


def test_pieces_of_an_attempt_are_made_of_what_was_read(entry: Callable[..., Entry]) -> None:
    attempt = Attempt(start=0, end=9, generation=3, offsets=[2, 4, 7], dead=[5], suspects={1: "alone"})
    read = [
        Records(1, 3, (1, 2), [entry(1), entry(2)], None),
        Records(3, 9, (4, 5, 7), [entry(4), entry(5), entry(7)], None),
    ]

    whole, suspect = pieces_of(attempt, read, {7})

    assert (whole.offsets, whole.dead, whole.end, whole.generation) == ([2, 4], [5, 7], 9, 4)
    assert (whole.is_tried, whole.is_doubtful) == (True, True)
    assert (suspect.offsets, suspect.end, suspect.generation) == ([1], 2, 3)


@pytest.mark.parametrize("lacking", [1, 2])
def test_there_are_no_pieces_of_an_attempt_of_which_a_record_is_missing(
    entry: Callable[..., Entry], lacking: int
) -> None:
    attempt = Attempt(start=0, end=3, generation=1, offsets=[0, 2], suspects={1: "alone"})
    kept = [offset for offset in range(3) if offset != lacking]

    assert pieces_of(attempt, [Records(0, 3, kept, [entry(n) for n in kept], None)], ()) == []


async def test_a_frozen_piece_is_made_the_same_again(source: MemorySource, piece: Callable[..., Piece]) -> None:
    whole = piece(2, 4, 6, end=8)
    whole.settle(dead=[4])
    attempt = attempt_of(whole, whole.as_batch(ID, "s", 2), {1: "alone"})
    cursor = source.subscribe("s", "earliest", lambda *_: None)

    (again, suspect), _ = await restore_pieces(attempt, cursor, 1, ())

    assert (again.offsets, again.dead, again.end, again.generation) == ([2, 6], [4], 8, whole.generation)
    assert (suspect.offsets, again.is_tried, again.is_doubtful) == ([1], True, True)
    assert cursor.next == 8


async def test_what_became_a_letter_meanwhile_is_left_out(source: MemorySource) -> None:
    attempt = Attempt(start=0, end=3, generation=1, offsets=[0, 1, 2])
    cursor = source.subscribe("s", "earliest", lambda *_: None)

    (again,), _ = await restore_pieces(attempt, cursor, 0, {1})

    assert (again.offsets, again.dead, again.generation) == ([0, 2], [1], 2)


async def test_where_a_record_is_gone_there_is_no_piece_and_what_was_read_is_returned(source: MemorySource) -> None:
    cursor = source.subscribe("s", "earliest", lambda *_: None)

    pieces, read = await restore_pieces(Attempt(start=0, end=3, generation=1, offsets=[0, 1, 2, 99]), cursor, 0, ())

    assert pieces == []
    assert [(each.start, each.end) for each in read] == [(0, 3)]


async def saved_as(happened: list[Attempt | None], ledger: Ledger) -> None:
    happened.append(ledger.attempt)


@pytest.mark.parametrize(
    ("always", "suspects", "is_frozen"), [(True, {}, True), (False, {}, False), (False, {0: "alone"}, True)]
)
async def test_a_batch_is_frozen_where_its_token_or_a_suspect_depends_on_it(
    subscription: Subscription,
    source: MemorySource,
    piece: Callable[..., Piece],
    *,
    always: bool,
    suspects: dict[int, str],
    is_frozen: bool,
) -> None:
    ledger = ledger_of(subscription, source)
    happened: list[Attempt | None] = []
    freezer = Freezer(ledger, lambda: saved_as(happened, ledger), always=always)
    sent = piece(2, 4)

    for _ in range(2):
        await freezer.freeze(sent, sent.as_batch(ID, "s", 0), suspects)

    assert len(happened) == (1 if is_frozen else 0)
    assert ledger.generation == (1 if is_frozen else 0)


async def test_a_batch_that_could_not_be_frozen_is_frozen_the_next_time(
    subscription: Subscription, source: MemorySource, piece: Callable[..., Piece]
) -> None:
    refusals = [TransientError("the disk is full")]
    happened: list[Attempt | None] = []

    async def save() -> None:
        if refusals:
            raise refusals.pop()
        await saved_as(happened, ledger)

    ledger = ledger_of(subscription, source)
    freezer = Freezer(ledger, save, always=True)
    sent = piece(2, 4)

    def freeze() -> Awaitable[None]:
        return freezer.freeze(sent, sent.as_batch(ID, "s", 0), {})

    with pytest.raises(TransientError):
        await freeze()
    await freeze()

    assert [each.offsets for each in happened if each] == [[2, 4]]


async def test_where_the_log_ends_before_the_attempt_there_is_no_piece(source: MemorySource) -> None:
    cursor = source.subscribe("s", "earliest", lambda *_: None)

    pieces, read = await restore_pieces(Attempt(start=8, end=12, generation=1, offsets=[8, 11]), cursor, 8, ())

    assert pieces == []
    assert [(each.start, each.end) for each in read] == [(8, 10)]


async def test_a_run_that_sent_nothing_leaves_nothing_to_restore(
    subscription: Subscription, source: MemorySource
) -> None:
    ledger = ledger_of(subscription, source)

    assert await Freezer(ledger, None, always=True).restore(ledger.cursor, ()) == ([], [])
