"""One piece handed over as a batch, and the next one prepared meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from eventrec.runtime.starting import when_begun

if TYPE_CHECKING:
    from eventrec.delivery.worker.attempts import Freezer
    from eventrec.delivery.worker.batch_reader import BatchReader
    from eventrec.delivery.worker.destination import Destination
    from eventrec.delivery.worker.hand import Hand
    from eventrec.delivery.worker.ledger import Ledger
    from eventrec.delivery.worker.piece import Piece
    from eventrec.delivery.worker.quarantine import Quarantine
    from eventrec.records.batch import Batch


class Sending:
    """Hands the pieces of `hand` to `destination`, each made durable before where `freezer` says so."""

    def __init__(
        self,
        *,
        hand: Hand,
        reader: BatchReader,
        ledger: Ledger,
        destination: Destination,
        freezer: Freezer,
        quarantine: Quarantine,
    ) -> None:
        self._hand = hand
        self._reader = reader
        self._ledger = ledger
        self._destination = destination
        self._freezer = freezer
        self._quarantine = quarantine

    async def send(self, piece: Piece) -> None:
        """On return all of `piece` is safe at the destination. What the handler throws comes out."""
        piece.is_tried = True
        batch = self._batch(piece, self._ledger.progress.acknowledged)
        await self._freezer.freeze(piece, batch, self._quarantine.suspects())
        if not self._destination.prepares or len(self._hand) > 1:
            await self._destination.handle(batch)
            return
        failure: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(when_begun(self._prepare_next, piece.end))
            try:
                await self._destination.handle(batch)
            except BaseException as exc:  # noqa: BLE001 - raised below, out of the group's hands
                failure = exc
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _prepare_next(self, start: int) -> None:
        """Take the next piece in hand, and let the handler get ready for it as if this one had gone through."""
        try:
            piece = await self._reader.next_piece()
        except Exception:  # noqa: BLE001 - it is met again, and said, when that piece is due
            return
        self._hand.add(piece)
        piece.batch = self._batch(piece, start)
        if not await self._destination.prepare(piece.batch):
            piece.batch = None

    def _batch(self, piece: Piece, start: int) -> Batch:
        if (ready := piece.batch) is not None and (ready.start, ready.generation) == (start, piece.generation):
            return ready
        return self._ledger.batch_of(piece, start)
