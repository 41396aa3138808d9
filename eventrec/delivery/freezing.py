"""Batches that a destination knows by their token: made the same again after a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec.delivery.checkpoint import Attempt
from eventrec.delivery.piece import Piece

if TYPE_CHECKING:
    from eventrec.batch import Batch
    from eventrec.delivery.source import Source


def frozen(piece: Piece, batch: Batch) -> Attempt:
    """What must be known to make `batch` of `piece` again."""
    return Attempt(
        start=batch.start,
        end=piece.end,
        generation=piece.generation,
        offsets=list(piece.offsets),
        dead=list(piece.dead),
        delivered=list(piece.delivered),
    )


async def thawed(attempt: Attempt, source: Source, scanned: int) -> Piece | None:
    """The piece that `attempt` was made of, read from `scanned` on; None where not all of it can be read."""
    wanted = set(attempt.offsets)
    piece = Piece(attempt.end, dead=list(attempt.dead), delivered=list(attempt.delivered))
    at = scanned
    while at < attempt.end:
        records = await source.read(at, max_records=attempt.end - at, max_bytes=1 << 62)
        if records.start != at or not records.entries:
            return None
        for offset, entry in enumerate(records.entries, at):
            if offset in wanted:
                piece.add(offset, entry)
        at = records.end
    piece.generation, piece.is_tried = attempt.generation, True
    return piece if len(piece) == len(wanted) else None
