"""The pieces that a worker has in hand, and what is known about them together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.delivery.worker.piece import Piece


class Hand:
    """Pieces to settle, in the order of their offsets. Once it is empty, nothing is probed any more."""

    def __init__(self) -> None:
        self.is_probing = False
        """Whether single records are tried, to find the one at fault."""
        self.has_passed = False
        """Whether something went through since: the destination works."""
        self.last_end: int | None = None
        """Up to where the attempts were used up before single records were tried; None: they were not."""
        self._pieces: list[Piece] = []
        """The next one last."""

    def __len__(self) -> int:
        return len(self._pieces)

    def __repr__(self) -> str:
        return f"<Hand of {len(self)}, next {[piece.end for piece in reversed(self._pieces)]}>"

    @property
    def next(self) -> Piece:
        """What is to be settled first; there must be one."""
        return self._pieces[-1]

    @property
    def pieces(self) -> list[Piece]:
        """In the order of their offsets."""
        return self._pieces[::-1]

    def is_next(self, piece: Piece) -> bool:
        """Whether `piece` is still first: an answer of the destination may have settled it, or sent us back."""
        return bool(self._pieces) and self._pieces[-1] is piece

    def is_at(self, offset: int) -> bool:
        """Whether `offset` is the first open record."""
        return bool(self._pieces) and offset in self._pieces[-1].offsets[:1]

    def add(self, piece: Piece) -> None:
        """Take `piece` in hand, behind all others."""
        self._pieces.insert(0, piece)

    def put_first(self, pieces: Sequence[Piece]) -> None:
        """Take `pieces`, in the order of their offsets, before all others."""
        self._pieces.extend(reversed(pieces))

    def split_next(self, offset: int) -> Piece:
        """Part the next piece at `offset`: what lies below is next, and returned."""
        left, right = self._pieces.pop().split_at(offset)
        self._pieces += [right, left]
        return left

    def halve_next(self) -> None:
        """Part the next piece, which has two records at least, in the middle."""
        left, right = self._pieces.pop().halves()
        self._pieces += [right, left]

    def cut_next(self, rows: int) -> None:
        """Part the next piece so that it has at most `rows` records, unless it was tried as it is."""
        if not self.next.is_tried and len(self.next) > rows:
            self.split_next(self.next.offsets[rows])

    def probe(self) -> None:
        """Try single records, to find the one at fault."""
        self.is_probing = True

    def note_passed(self) -> None:
        """Something went through."""
        self.has_passed = self.is_probing

    def probe_up_to(self, end: int) -> None:
        """Try single records of what ends at `end` at the latest: before its attempts have been in vain for all."""
        self.is_probing, self.last_end = True, end

    def set_aside(self) -> Piece:
        """Take the next piece out, though it is not settled."""
        return self._pieces.pop()

    def pop_settled(self) -> None:
        """All of the next piece is settled."""
        self._pieces.pop()
        if not self._pieces or (self.last_end is not None and self.next.end > self.last_end):
            self.is_probing = self.has_passed = False
            self.last_end = None

    def take_all(self) -> list[Piece]:
        """Let go of everything: the pieces in the order of their offsets."""
        pieces = self._pieces[::-1]
        self._pieces.clear()
        self.last_end = None
        return pieces
