"""Batches that a destination knows by their token: made the same again after a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec.delivery.worker.piece import Piece
from eventrec.runs.checkpoint import Attempt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

    from eventrec.delivery.sources.source import Cursor, Records
    from eventrec.delivery.worker.ledger import Ledger
    from eventrec.records.batch import Batch
    from eventrec.records.entry import Entry


def attempt_of(piece: Piece, batch: Batch, suspects: Mapping[int, str]) -> Attempt:
    """What must be known to make `batch` of `piece` again."""
    return Attempt(
        start=batch.start,
        end=piece.end,
        generation=piece.generation,
        offsets=list(piece.offsets),
        dead=list(piece.dead),
        delivered=list(piece.delivered),
        suspects=dict(suspects),
    )


def pieces_of(attempt: Attempt, read: Iterable[Records], dead: Collection[int]) -> list[Piece]:
    """The piece that `attempt` was made of, and then its suspects; empty where a record of them is not in `read`.

    What is among the `dead` was refused by a batch of which nothing arrived: it is left out.
    """
    piece = Piece(attempt.end, dead=list(attempt.dead), delivered=list(attempt.delivered))
    suspects: list[Piece] = []
    wanted = set(attempt.offsets)
    for records in read:
        here: dict[int, Entry] = {}
        for offset, entry in zip(records.offsets, records.entries, strict=True):
            if offset in attempt.suspects:
                suspect = Piece(offset + 1, [offset], [entry], generation=attempt.generation)
                suspect.static_context = records.static_context
                suspects.append(suspect)
            elif offset in wanted:
                here[offset] = entry
        piece.extend(here, list(here.values()), records.static_context)
    if (len(piece), len(suspects)) != (len(wanted), len(attempt.suspects)):
        return []
    piece.generation, piece.is_tried, piece.is_doubtful = attempt.generation, True, True
    if refused := [offset for offset in piece.offsets if offset in dead]:
        piece.settle(dead=refused)
    return [piece, *suspects]


async def restore_pieces(
    attempt: Attempt, cursor: Cursor, scanned: int, dead: Collection[int]
) -> tuple[list[Piece], list[Records]]:
    """Those of `attempt`, as `pieces_of` makes them, read from `scanned` on; `cursor` goes on behind it.

    Where a record cannot be read any more there are none; what was read is returned too, and `cursor` goes on behind
    that.
    """
    read: list[Records] = []
    cursor.seek(at := scanned)
    while at < attempt.end:
        records = await cursor.read(max_records=attempt.end - at, max_bytes=1 << 62)
        if records.start != at or records.end == at:
            return [], read
        read.append(records)
        at = records.end
    pieces = pieces_of(attempt, read, dead)
    if pieces:
        cursor.seek(attempt.end)
    return pieces, read


class Freezer:
    """Makes an attempt durable before it is sent, where it must be sent again as it was, if at all.

    `save` makes the checkpoint durable; without it nothing outlives the process. `always`: the destination knows
    batches by their token.
    """

    def __init__(self, ledger: Ledger, save: Callable[[], Awaitable[None]] | None, *, always: bool) -> None:
        self._ledger = ledger
        self._save = save
        self._always = always
        self._frozen: Attempt | None = None
        """What was made durable last."""

    async def freeze(self, piece: Piece, batch: Batch, suspects: Mapping[int, str]) -> None:
        """On return a restart makes the same `batch` of `piece`, where that matters; `suspects` are dead if it arrives.

        Raises:
            TransientError: The disk refused.
        """
        ledger = self._ledger
        # Where the disk says that some are dead if this arrives, that is not true any more once they are sent again.
        has_frozen_suspects = ledger.attempt is not None and bool(ledger.attempt.suspects)
        if self._save is None or not (self._always or suspects or has_frozen_suspects):
            return
        attempt = attempt_of(piece, batch, suspects)
        if not ledger.attempt == self._frozen == attempt:
            ledger.note_attempt(attempt)
            await self._save()
            self._frozen = attempt

    async def restore(self, cursor: Cursor, dead: Collection[int]) -> tuple[list[Piece], list[Records]]:
        """What an earlier run may have sent, as `restore_pieces` gives it; nothing where there is no attempt."""
        attempt = self._ledger.attempt
        if attempt is None:
            return [], []
        pieces, read = await restore_pieces(attempt, cursor, self._ledger.progress.scanned, dead)
        if pieces:
            self._frozen = attempt
        else:
            self._ledger.forget_attempt()
        return pieces, read
