"""What was read and is not settled, wherever it is: in hand, set aside, or in the piece that is being read.

All of it is let go of together: read again, given up, or made again as a run before us had it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec.delivery.worker.piece import Piece
from eventrec.records.entry import TIMESTAMP
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from eventrec.delivery.sources.source import Source
    from eventrec.delivery.worker.attempts import Freezer
    from eventrec.delivery.worker.batch_reader import BatchReader
    from eventrec.delivery.worker.hand import Hand
    from eventrec.delivery.worker.ledger import Ledger
    from eventrec.delivery.worker.quarantine import Quarantine

_logger = get_logger("eventrec.delivery")


class OpenRecords:
    """The open records of the subscription `name`, from `source`."""

    def __init__(
        self,
        name: str,
        source: Source,
        *,
        hand: Hand,
        reader: BatchReader,
        ledger: Ledger,
        freezer: Freezer,
        quarantine: Quarantine,
    ) -> None:
        self._name = name
        self._source = source
        self._hand = hand
        self._reader = reader
        self._ledger = ledger
        self._freezer = freezer
        self._quarantine = quarantine

    @property
    def oldest(self) -> int | None:
        """When the first of them that is to be sent was recorded, in nanoseconds; None: there is none."""
        # Slices, since another thread may ask while the loop's settles something.
        firsts = [piece.entries[:1] for piece in (*self._hand.pieces, self._reader.piece)]
        return next((first[0][TIMESTAMP] for first in firsts if first), None)

    def read_again(self, first: int) -> None:
        """They were read too far ahead: begin again at `first`."""
        self._take_all()
        self._reader.start_over(first)

    def give_up_below(self, end: int, reason: str) -> None:
        """Count what is open below `end` as lost, read or not, and go on behind it."""
        reading = self._reader.piece
        for piece in [*self._take_all(), reading]:
            gone, rest = (piece, None) if piece.end <= end else piece.split_at(end)
            if gone.end > self._ledger.progress.scanned:
                self._ledger.give_up(gone, reason)
            if piece is reading:
                self._reader.take_up(rest or Piece(end))
            elif rest is not None and rest.entries:
                self._hand.add(rest)
            elif rest is not None:
                self._ledger.settle(rest, delivered=0)
        self._ledger.give_up_below(end, reason)

    async def give_up_all(self, reason: str) -> None:
        """Count them, and all that the source has beyond, as lost. No loop needs to run."""
        ledger, cursor = self._ledger, self._ledger.cursor
        for piece in [*self._take_all(), self._reader.piece]:
            ledger.give_up(piece, reason)
        ledger.skip_to(cursor.next)
        while cursor.next < self._source.end:
            self._reader.start_over(cursor.next)
            self._reader.add(await cursor.read(max_records=self._source.end, max_bytes=1 << 62))
            ledger.give_up(self._reader.piece, reason)
        self._reader.start_over(cursor.next)

    async def restore_attempt(self) -> None:
        """Make the batch again that a run before us may have sent: the same records, under the same token."""
        pieces, read = await self._freezer.restore(self._ledger.cursor, self._quarantine.known_dead())
        attempt = self._ledger.attempt
        if attempt is None:
            _logger.warning("frozen batch lost records", subscription=self._name, log=str(self._source.id))
            for records in read:
                self._reader.take(records)
            return
        self._reader.start_over(attempt.end)
        self._hand.add(pieces[0])
        for suspect in pieces[1:]:
            self._quarantine.suspect(suspect, attempt.suspects[suspect.offsets[0]])

    def _take_all(self) -> list[Piece]:
        """Those set aside, and those in hand, in the order of their offsets."""
        return [*self._quarantine.take_back(), *self._hand.take_all()]
