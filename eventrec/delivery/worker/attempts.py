"""Batches that a destination knows by their token: made the same again after a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec.delivery.worker.piece import Piece
from eventrec.runs.checkpoint import Attempt

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from eventrec.delivery.sources.source import Source
    from eventrec.records.batch import Batch


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


async def restore_pieces(attempt: Attempt, source: Source, scanned: int, dead: Collection[int]) -> list[Piece]:
    """The piece that `attempt` was made of, read from `scanned` on, and then its suspects; none if one cannot be read.

    What is among the `dead` was refused by a batch of which nothing arrived: it is left out.
    """
    piece = Piece(attempt.end, dead=list(attempt.dead), delivered=list(attempt.delivered))
    suspects: list[Piece] = []
    wanted = set(attempt.offsets)
    at = scanned
    while at < attempt.end:
        records = await source.read(at, max_records=attempt.end - at, max_bytes=1 << 62)
        if records.start != at or not records.entries:
            return []
        for offset, entry in enumerate(records.entries, at):
            if offset in attempt.suspects:
                suspects.append(Piece(offset + 1, [offset], [entry], generation=attempt.generation))
            elif offset in wanted:
                piece.add(offset, entry)
        at = records.end
    if (len(piece), len(suspects)) != (len(wanted), len(attempt.suspects)):
        return []
    piece.generation, piece.is_tried, piece.is_doubtful = attempt.generation, True, True
    if refused := [offset for offset in piece.offsets if offset in dead]:
        piece.settle(dead=refused)
    return [piece, *suspects]
