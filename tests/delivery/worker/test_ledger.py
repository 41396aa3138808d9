"""The account of one subscription: each way a record can go is in one term."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest

from eventrec.delivery.sources.memory import MemorySource
from eventrec.delivery.subscription import Subscription
from eventrec.delivery.worker.health import Outage, SubscriptionHealth
from eventrec.delivery.worker.ledger import Ledger
from eventrec.delivery.worker.piece import Piece
from eventrec.records.entry import Entry
from eventrec.runs.checkpoint import Attempt, Checkpoint, Progress


class Book:
    """A ledger, and what it told."""

    def __init__(self, subscription: Subscription, source: MemorySource, checkpoint: Checkpoint | None = None) -> None:
        self.dropped: list[tuple[str, int]] = []
        self.reread: list[int] = []
        self.ledger = Ledger(
            subscription,
            source,
            checkpoint=checkpoint,
            on_drop=lambda *dropping: self.dropped.append(dropping),
            on_reread=self.reread.append,
        )

        self.health = SubscriptionHealth("s", lambda: None, Outage())

    @property
    def is_balanced(self) -> bool:
        """With nothing in hand."""
        in_hand = self.ledger.cursor.next - self.ledger.progress.scanned
        return self.ledger.status(self.health, in_hand=in_hand).is_balanced


@pytest.fixture
def book(subscription: Subscription, source: MemorySource) -> Book:
    return Book(subscription, source)


def test_what_is_in_no_other_term_of_a_settled_range_was_filtered(book: Book, piece: Callable[..., Piece]) -> None:
    settled = piece(0, 2, 4, end=8)
    settled.settle(dead=[2])
    book.ledger.cursor.seek(8)

    book.ledger.settle(settled, delivered=2)

    progress = book.ledger.progress
    assert (progress.delivered, progress.dead, progress.filtered, progress.scanned) == (2, 1, 5, 8)
    assert book.is_balanced


def test_what_is_given_up_counts_with_what_was_set_aside_before_it(book: Book, piece: Callable[..., Piece]) -> None:
    book.ledger.cursor.seek(5)

    book.ledger.give_up(piece(2, 4), "exhausted", also=1)

    assert (book.ledger.progress.dropped, book.dropped) == ({"exhausted": 3}, [("exhausted", 3)])
    assert book.ledger.progress.filtered == 2
    assert book.is_balanced


def test_what_is_lost_unread_is_dropped_if_it_was_wanted_and_else_filtered(
    book: Book, entry: Callable[..., Entry]
) -> None:
    book.ledger.note_lost("overflow", 3, [entry(0, "a"), entry(1, "b"), entry(2, "a")])
    book.ledger.note_lost("corrupt", 4)

    assert book.ledger.progress.dropped == {"overflow": 2, "corrupt": 4}
    assert book.ledger.progress.filtered == 1


def test_what_the_disk_bound_takes_is_counted_once_where_the_source_had_lost_it(book: Book) -> None:
    book.ledger.cursor.seek(4)
    book.ledger.note_lost("corrupt", 4)

    book.ledger.give_up_below(7, "retention")

    assert book.ledger.progress.dropped == {"corrupt": 4, "retention": 3}
    assert book.is_balanced


async def test_a_destination_that_went_back_is_given_again_what_is_kept(
    book: Book, piece: Callable[..., Piece]
) -> None:
    book.ledger.cursor.seek(8)
    book.ledger.settle(piece(0, 2, 4, 6, end=8), delivered=4)
    book.ledger.note_arrival(8)

    await book.ledger.rewind_to(3)

    progress = book.ledger.progress
    assert (progress.acknowledged, progress.scanned, progress.rewound, book.reread) == (3, 3, 5, [3])
    assert book.ledger.cursor.next == 3
    assert book.is_balanced


async def test_what_is_not_kept_any_more_is_dropped_as_rewound(
    subscription: Subscription, entry: Callable[..., Entry]
) -> None:
    source = MemorySource(UUID(int=7), max_events=10, max_bytes=1 << 20)
    book = Book(subscription, source)
    source.append([entry(number) for number in range(6)])
    book.ledger.cursor.seek(6)
    book.ledger.settle(Piece(6), delivered=6)
    book.ledger.note_arrival(6)

    await book.ledger.rewind_to(2)

    assert (book.ledger.progress.dropped, book.reread) == ({"rewound": 4}, [])
    assert book.ledger.progress.scanned == 6
    assert book.is_balanced


@pytest.mark.parametrize(("at_oldest", "begins"), [(True, 0), (False, 8)])
async def test_another_destination_begins_where_it_was_decided(book: Book, *, at_oldest: bool, begins: int) -> None:
    book.ledger.cursor.seek(8)
    book.ledger.settle(Piece(8), delivered=0)
    book.ledger.note_arrival(4)

    assert await book.ledger.begin_again(at_oldest=at_oldest) == begins
    assert book.ledger.progress.acknowledged == begins
    assert book.is_balanced


def test_what_another_process_settled_is_delivered_but_for_its_letters(book: Book) -> None:
    book.ledger.settle_remotely(9, dead=2, gone=0)

    assert (book.ledger.progress.delivered, book.ledger.progress.dead) == (7, 2)
    assert book.ledger.cursor.next == 9
    assert book.is_balanced


def test_a_checkpoint_is_where_a_later_run_goes_on(subscription: Subscription, source: MemorySource) -> None:
    attempt = Attempt(start=2, end=6, generation=3, offsets=[2, 4])
    first = Book(subscription, source)
    first.ledger.settle(Piece(2), delivered=0)
    first.ledger.note_destination("the database")
    first.ledger.note_attempt(attempt)

    later = Book(subscription, source, first.ledger.checkpoint(first.health)).ledger

    assert (later.progress, later.attempt, later.generation) == (Progress(0, 0, 2, filtered=2), attempt, 4)
    assert (later.destination, later.cursor.next) == ("the database", 2)
    later.settle(Piece(6), delivered=0)
    assert later.attempt is None
