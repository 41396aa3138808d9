"""The account of one subscription in one log: every record in exactly one term, and how it gets there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from eventrec.records.entry import SHAPE
from eventrec.runs.checkpoint import Attempt, Checkpoint, Progress
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.delivery.sources.source import Source
    from eventrec.delivery.subscription import Subscription
    from eventrec.delivery.worker.piece import Piece
    from eventrec.records.entry import Entry

_logger = get_logger("eventrec.delivery")


class Ledger:
    """Counts what becomes of the records that `subscription` reads from `source`, and tells who waits for it.

    Without `checkpoint` it begins where the subscription does. `on_drop(reason, count)` is called for what is lost.
    """

    def __init__(
        self,
        subscription: Subscription,
        source: Source,
        *,
        checkpoint: Checkpoint | None,
        on_drop: Callable[[str, int], None],
    ) -> None:
        self.attempt: Attempt | None = None
        """The batch that was frozen last, as long as it is not settled."""
        self.generation = 0
        """See `Checkpoint`."""
        self.destination: str | None = None
        """The id of the destination that `acknowledged` is true of."""
        self._subscription = subscription
        self._source = source
        self._on_drop = on_drop
        self._changed = anyio.Event()
        start = source.subscribe(subscription.name, subscription.start, self._forfeited)
        self.progress = Progress(start, start, start)
        if checkpoint is not None:
            self.progress = replace(checkpoint.progress, dropped=dict(checkpoint.progress.dropped))
            self.attempt, self.destination = checkpoint.attempt, checkpoint.destination
            self.generation = checkpoint.generation
            source.fetched(subscription.name, self.progress.scanned)

    def checkpoint(self) -> Checkpoint:
        """What a later run needs to know."""
        return Checkpoint(
            subscription=self._subscription.name,
            progress=replace(self.progress, dropped=dict(self.progress.dropped)),
            destination=self.destination,
            attempt=self.attempt,
            generation=self.generation,
        )

    # -- moving on

    def settle(self, piece: Piece, *, delivered: int, dropped: int = 0) -> None:
        """Everything up to the end of `piece` is settled: what is in none of its terms was filtered."""
        progress = self.progress
        settled = delivered + len(piece.delivered) + len(piece.dead) + dropped
        progress.delivered += delivered + len(piece.delivered)
        progress.dead += len(piece.dead)
        progress.filtered += piece.end - progress.scanned - settled
        self._scan_to(piece.end)

    def skip_to(self, end: int) -> None:
        """What lies below `end` is counted already; the destination learns of it with the next batch."""
        self._scan_to(end)

    def settle_remotely(self, answer: int, *, dead: int, gone: int) -> None:
        """Somebody else settled everything below `answer`, further than we have taken in hand, with `dead` letters.

        `gone` of it were found missing, and are counted already.
        """
        self.progress.dead += dead
        self.progress.delivered += answer - self.progress.scanned - dead - gone
        self._source.fetched(self._subscription.name, answer)
        self._scan_to(answer)

    def drop(self, reason: str, count: int) -> None:
        """`count` records are lost for `reason`; where they lie, the caller moves past."""
        if count:
            self.progress.drop(reason, count)
            self._on_drop(reason, count)

    async def rewind_to(self, to: int) -> int | None:
        """The destination had what lies between `to` and `acknowledged`, and has not: what is not kept is `rewound`.

        Returns from where on it is to be read again; None: none of it is kept, go on with what is in hand.
        """
        progress = self.progress
        first = max(to, await self._source.oldest())
        is_kept = first < progress.acknowledged
        lost = (first if is_kept else progress.acknowledged) - to
        _logger.error("destination went back", subscription=self._subscription.name, to=to, lost=lost)
        progress.acknowledged = to
        progress.rewound += lost
        self.drop("rewound", lost)
        return await self.reread_from(first) if is_kept else None

    async def reread_from(self, first: int) -> int | None:
        """Read again from `first` on, or from the oldest record that is kept: returns which.

        None: nothing that was settled is kept. Then what is in hand may be nowhere else.
        """
        progress = self.progress
        first = max(first, await self._source.oldest())
        if first >= progress.scanned:
            return None
        progress.rewound += progress.scanned - max(first, progress.start)
        progress.start = min(progress.start, first)
        self._source.rewind(self._subscription.name, first)
        self.attempt = None
        self._scan_to(first)
        return first

    def _scan_to(self, end: int) -> None:
        self.progress.scanned = end
        if self.attempt is not None and self.attempt.end <= end:
            self.attempt = None
        self._source.acknowledge(self._subscription.name, end)
        self.tell()

    def _forfeited(self, entry: Entry) -> None:
        if self._subscription.wants(entry[SHAPE].type):
            self.drop("overflow", 1)
        else:
            self.progress.filtered += 1

    # -- who waits

    def tell(self) -> None:
        """Something changed that somebody may wait for."""
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def next_change(self) -> None:
        """Return once `tell` was called."""
        await self._changed.wait()
