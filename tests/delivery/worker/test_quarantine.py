"""What is set aside: letters first, counted after."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from eventrec.delivery.letters.dead_letters import DeadLetter
from eventrec.delivery.subscription import Subscription
from eventrec.delivery.worker.health import HoldError
from eventrec.delivery.worker.piece import Piece
from eventrec.delivery.worker.quarantine import Quarantine
from eventrec.delivery.worker.retry import Brake

ID = UUID(int=7)


@dataclass
class Letters:
    written: list[DeadLetter] = field(default_factory=list)
    is_full: bool = False

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        if self.is_full:
            raise OSError("full")
        self.written += letters

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        assert (log_id, subscription) == (ID, "s")
        return [letter.offset for letter in self.written]


@pytest.fixture
def letters() -> Letters:
    return Letters()


@pytest.fixture
def quarantine(subscription: Subscription, letters: Letters) -> Quarantine:
    return Quarantine(subscription, ID, letters, Brake())


async def test_a_letter_says_which_record_why_and_of_which_process(
    quarantine: Quarantine, letters: Letters, piece: Callable[..., Piece]
) -> None:
    some = piece(2, 4, 6)
    some.static_context = b'{"host":"a"}'

    await quarantine.bury(some, some.open_among({6: "late", 2: "bad"}))

    assert [(each.offset, each.reason) for each in letters.written] == [(2, "bad"), (6, "late")]
    assert {(each.log_id, each.subscription, each.static_context) for each in letters.written} == {
        (ID, "s", b'{"host":"a"}')
    }
    assert (some.offsets, sorted(some.dead)) == ([4], [2, 6])
    assert set(quarantine.known_dead()) == {2, 6}


async def test_nothing_is_settled_where_the_letter_cannot_be_written(
    quarantine: Quarantine, letters: Letters, piece: Callable[..., Piece]
) -> None:
    letters.is_full = True
    some = piece(2, 4)

    with pytest.raises(HoldError, match="dead letters cannot be written: full"):
        await quarantine.bury(some, some.open_among({2: "bad"}))

    assert (some.offsets, some.dead) == ([2, 4], [])


async def test_suspects_are_buried_with_the_piece_that_passed(
    quarantine: Quarantine, letters: Letters, piece: Callable[..., Piece]
) -> None:
    assert not quarantine.suspect(piece(1), "alone")
    passed = piece(2)

    await quarantine.bury_suspects(passed)

    assert [each.offset for each in letters.written] == [1]
    assert (passed.dead, len(quarantine)) == ([1], 0)


def test_too_many_suspects_are_an_outage_and_come_back_in_order(
    quarantine: Quarantine, piece: Callable[..., Piece]
) -> None:
    verdicts = [quarantine.suspect(piece(offset), "alone") for offset in range(16)]

    assert verdicts == [False] * 15 + [True]
    assert [each.offsets[0] for each in quarantine.take_back()] == list(range(16))
    assert not quarantine


async def test_the_brake_hears_of_what_is_settled_in_the_order_of_the_log(
    quarantine: Quarantine, piece: Callable[..., Piece]
) -> None:
    many = piece(*range(Brake.MAX + 1))
    await quarantine.bury(many, many.open_among(dict.fromkeys(range(Brake.MAX + 1), "bad")))

    assert quarantine.verdict(Brake.MAX) is None
    pulled = quarantine.verdict(Brake.MAX + 1)

    assert pulled is not None
    assert (pulled.slowly, pulled.state) == (
        False,
        "paused: over half of the last 1,000 records of type 'a' were refused for good",
    )


def test_more_dead_of_one_type_than_the_brake_allows_are_parted(
    quarantine: Quarantine, piece: Callable[..., Piece]
) -> None:
    many = piece(*range(Brake.MAX + 2))

    assert quarantine.too_many(many.open_among(dict.fromkeys(range(Brake.MAX), "bad"))) is None
    assert quarantine.too_many(many.open_among(dict.fromkeys(range(Brake.MAX + 2), "bad"))) == Brake.MAX


def test_of_a_type_that_an_earlier_process_was_paused_for_one_dead_record_is_parted(
    quarantine: Quarantine, piece: Callable[..., Piece]
) -> None:
    quarantine.brake.distrust(["a"])
    many = piece(2, 4, 6)

    assert quarantine.too_many(many.open_among({4: "bad"})) is None
    assert quarantine.too_many(many.open_among(dict.fromkeys((2, 4, 6), "bad"))) == 4


async def test_what_an_operator_skips_is_skipped_at_its_turn_until_it_is_buried(
    quarantine: Quarantine, letters: Letters, piece: Callable[..., Piece]
) -> None:
    quarantine.skip(9)
    some = piece(8, 9)

    assert quarantine.skipped(piece(2, 4)) == {}
    letters.is_full = True
    with pytest.raises(HoldError):
        await quarantine.bury(some, quarantine.skipped(some))
    # Also where its worker is cancelled meanwhile, and goes on: the letter may be there.
    assert set(quarantine.skipped(some)) == {9}
    letters.is_full = False
    await quarantine.bury(some, quarantine.skipped(some))

    assert quarantine.skipped(piece(8, 9)) == {}
    assert [each.reason for each in letters.written] == ["skipped by an operator"]


async def test_a_suspect_that_the_destination_has_got_is_delivered_and_no_letter(
    quarantine: Quarantine, letters: Letters, piece: Callable[..., Piece]
) -> None:
    quarantine.suspect(piece(1), "alone")
    quarantine.suspect(piece(2), "alone")
    behind = piece(5)

    await quarantine.pass_below(3, behind)

    assert [each.offset for each in letters.written] == [1]
    assert (behind.dead, behind.delivered, len(quarantine)) == ([1], [2], 0)
