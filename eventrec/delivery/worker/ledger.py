"""The account of one subscription in one log: every record in exactly one term, and how it gets there."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from time import monotonic, time
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.records.entry import SHAPE
from eventrec.runs.checkpoint import Attempt, Checkpoint, Progress
from eventrec.runtime.logging import get_logger, text_of
from eventrec.status import SubscriptionStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from eventrec.delivery.sources.source import Source
    from eventrec.delivery.subscription import Subscription
    from eventrec.delivery.worker.health import SubscriptionHealth
    from eventrec.delivery.worker.piece import Piece
    from eventrec.records.batch import Batch
    from eventrec.records.entry import Entry

_logger = get_logger("eventrec.delivery")

_MAX_REMARKS: Final = 100
"""Of what a handler remarks, so much is shown."""

_MAX_ERROR: Final = 500
"""Characters of an error that a checkpoint holds."""


class Ledger:
    """Counts what becomes of the records that `subscription` reads from `source`, and tells who waits for it.

    It alone changes `progress`. Without `checkpoint` it begins where the subscription does. `on_drop(reason, count)` is
    called for what is lost, `on_dead(count)` for what is settled as dead letters, `on_reread(first)` when everything
    from `first` on is to be read again.
    """

    def __init__(
        self,
        subscription: Subscription,
        source: Source,
        *,
        checkpoint: Checkpoint | None,
        on_drop: Callable[[str, int], None],
        on_reread: Callable[[int], None],
        on_dead: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.attempt: Attempt | None = None
        """The batch that was frozen last, as long as it is not settled."""
        self.generation = 0
        """See `Checkpoint`."""
        self.destination: str | None = None
        """The id of the destination that `acknowledged` is true of."""
        self.address = subscription.address
        """See `Checkpoint`."""
        self._subscription = subscription
        self._source = source
        self._on_drop = on_drop
        self._on_reread = on_reread
        self._on_dead = on_dead
        self._changed = anyio.Event()
        self._dropped_at: float | None = None
        self.cursor = source.subscribe(subscription.name, subscription.start, self.note_lost)
        start = self.cursor.next
        self.progress = Progress(start, start, start)
        if checkpoint is not None:
            self.progress = replace(checkpoint.progress, dropped=dict(checkpoint.progress.dropped))
            self.attempt, self.destination = checkpoint.attempt, checkpoint.destination
            self.generation = checkpoint.generation
            if checkpoint.is_unmet:
                self.address = checkpoint.address
            self.cursor.seek(self.progress.scanned)
        self._told = self.progress.dead, sum(self.progress.dropped.values())
        """The losses that `take_losses` has told."""

    def checkpoint(self, health: SubscriptionHealth, *, refused_types: Iterable[str] = ()) -> Checkpoint:
        """What a later run needs to know, with the trouble that an operator looks for in the directory."""
        error = health.last_error
        return Checkpoint(
            subscription=self._subscription.name,
            progress=replace(self.progress, dropped=dict(self.progress.dropped)),
            destination=self.destination,
            attempt=self.attempt,
            generation=self.generation,
            address=self.address,
            state=_storable(health.trouble),
            last_error=None if error is None else _storable(error),
            refused_types=[_storable(kind) for kind in refused_types],
        )

    def status(self, health: SubscriptionHealth, *, in_hand: int, oldest: int | None = None) -> SubscriptionStatus:
        """The account, with what is `in_hand`: read, in offsets, and not settled; `oldest` is its first timestamp."""
        progress, end = self.progress, self._source.end
        # Before its state: time goes on, and one that does not answer is to be told so.
        is_silent = health.is_silent
        return SubscriptionStatus(
            name=self._subscription.name,
            state=health.state,
            healthy=not health.is_failing and not is_silent,
            held=health.is_held,
            last_error=health.last_error,
            last_success=health.last_success,
            oldest_pending=None if oldest is None else max(0.0, time() - oldest / 1e9),
            unanswered=health.unanswered,
            since_drop=None if self._dropped_at is None else max(0.0, monotonic() - self._dropped_at),
            start=progress.start,
            end=end,
            acknowledged=progress.acknowledged,
            scanned=progress.scanned,
            delivered=progress.delivered,
            filtered=progress.filtered,
            dead=progress.dead,
            dropped=dict(progress.dropped),
            replayed=progress.replayed,
            rewound=progress.rewound,
            pending=in_hand + end - self.cursor.next,
            remarks=self._remarks(),
        )

    def _remarks(self) -> list[str]:
        try:
            return [text_of(remark) for remark in islice(self._subscription.handler.remarks, _MAX_REMARKS)]
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - foreign code, asked in the caller of status()
            return []

    @property
    def furthest(self) -> int:
        """Where the destination can be at most."""
        return self._source.furthest

    @property
    def lag(self) -> int:
        """How many offsets are not settled."""
        return self._source.end - self.progress.scanned

    def batch_of(self, piece: Piece, start: int) -> Batch:
        """What is open of `piece`, to be sent to a destination that is at `start`."""
        return piece.as_batch(self._source.id, self._subscription.name, start)

    # -- moving on

    def settle_empty(self, piece: Piece) -> None:
        """`piece` has nothing to send: move past it, if that is further."""
        if piece.end > self.progress.scanned:
            self.settle(piece, delivered=0)

    def settle(self, piece: Piece, *, delivered: int, dropped: int = 0) -> None:
        """Everything up to the end of `piece` is settled: what is in none of its terms was filtered."""
        dead = len(piece.dead)
        self.progress.settle_to(piece.end, delivered=delivered + len(piece.delivered), dead=dead, dropped=dropped)
        self._on_dead(dead)
        self._scan_to(piece.end)

    def skip_to(self, end: int) -> None:
        """What lies below `end` is counted already; the destination learns of it with the next batch."""
        if end > self.progress.scanned:
            self._scan_to(end)

    def settle_remotely(self, answer: int, *, dead: int, gone: int) -> None:
        """Another process settled everything below `answer`, further than we have taken in hand, with `dead` letters.

        `gone` of it were found missing, and are counted already.
        """
        self.progress.dead += dead
        self._on_dead(dead)
        self.progress.delivered += answer - self.progress.scanned - dead - gone
        self._skip_unread(answer)
        self._scan_to(answer)

    def give_up(self, piece: Piece, reason: str, *, also: int = 0) -> None:
        """Everything up to the end of `piece` is settled: what is open of it, and `also` as many, is lost."""
        lost = len(piece) + also
        self.drop(reason, lost)
        self.settle(piece, delivered=0, dropped=lost)

    def give_up_below(self, end: int, reason: str) -> None:
        """What was neither read nor settled below `end` is lost, unread."""
        if end > self.progress.scanned:
            # What the source has lost behind what was read is counted already.
            self.drop(reason, max(0, end - max(self.progress.scanned, self.cursor.next)))
            self._scan_to(end)
            self._skip_unread(end)

    def note_arrival(self, end: int) -> None:
        """A batch that ends before `end` went through: the destination is there."""
        self.progress.acknowledged = end
        self.generation = 0
        self.address = self._subscription.address

    def note_answer(self, answer: int) -> None:
        """The destination is at `answer`."""
        self.progress.acknowledged = max(self.progress.acknowledged, answer)

    def note_destination(self, destination: str) -> None:
        """What is acknowledged from now on is true of `destination`, which has a row of ours."""
        self.destination = destination
        self.address = self._subscription.address

    def note_attempt(self, attempt: Attempt) -> None:
        """`attempt` may be sent once the checkpoint is durable."""
        self.attempt = attempt
        self.generation = max(self.generation, attempt.generation + 1)

    def forget_attempt(self) -> None:
        """It cannot be made again."""
        self.attempt = None

    def note_lost(self, reason: str, count: int, entries: Sequence[Entry] = ()) -> None:
        """`count` offsets that were not read yet are lost, and `entries` are what is known to have stood there."""
        unwanted = sum(not self._subscription.wants(entry[SHAPE].type) for entry in entries)
        self.progress.filtered += unwanted
        self.drop(reason, count - unwanted)

    def drop(self, reason: str, count: int) -> None:
        """`count` records are lost for `reason`; where they lie, the caller moves past."""
        if count:
            self.progress.drop(reason, count)
            self._dropped_at = monotonic()
            self._on_drop(reason, count)

    async def rewind_to(self, to: int) -> None:
        """The destination lost what lies between `to` and `acknowledged`: read it again; what is not kept is `rewound`.

        Where none of it is kept, go on with what is in hand.
        """
        progress = self.progress
        first = max(to, await self._source.oldest())
        is_kept = first < progress.acknowledged
        lost = (first if is_kept else progress.acknowledged) - to
        _logger.error("destination went back", subscription=self._subscription.name, to=to, lost=lost)
        progress.acknowledged = to
        progress.rewound += lost
        self.drop("rewound", lost)
        if is_kept:
            await self._reread_from(first)

    async def begin_again(self, *, at_oldest: bool) -> int:
        """Another destination: go on there with what is not settled, or with the oldest record that is kept.

        Returns the offset at which it begins.
        """
        if at_oldest:
            await self._reread_from(0)
        self.progress.acknowledged = self.progress.scanned
        return self.progress.scanned

    async def _reread_from(self, first: int) -> None:
        """Read again from `first` on, or from the oldest record that is kept.

        Where nothing that was settled is kept, nothing changes: what is in hand may be nowhere else.
        """
        progress = self.progress
        first = max(first, await self._source.oldest())
        if first >= progress.scanned:
            return
        progress.rewound += progress.scanned - max(first, progress.start)
        progress.start = min(progress.start, first)
        self.cursor.seek(first)
        self.attempt = None
        self._scan_to(first)
        self._on_reread(first)

    def _skip_unread(self, to: int) -> None:
        if to > self.cursor.next:
            self.cursor.seek(to)

    def _scan_to(self, end: int) -> None:
        self.progress.scanned = end
        if self.attempt is not None and self.attempt.end <= end:
            self.attempt = None
        self.cursor.acknowledge(end)
        self.tell()

    def take_losses(self) -> tuple[int, int]:
        """How many records became dead letters, and how many were dropped, since this was last asked."""
        dead, dropped = self.progress.dead, sum(self.progress.dropped.values())
        told, self._told = self._told, (dead, dropped)
        return dead - told[0], dropped - told[1]

    # -- who waits

    def tell(self) -> None:
        """Something changed that a flush may wait for."""
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def next_change(self) -> None:
        """Return once `tell` was called."""
        await self._changed.wait()


def _storable(text: str) -> str:
    """Its beginning, as a file takes it: what a handler raises may hold half a character."""
    return text[:_MAX_ERROR].encode(errors="replace").decode()
