"""The loop that serves one subscription: read → batch → handle → settle.

What becomes of a batch follows from what `handle` raises: the table stands in `eventrec.handler`, `outcome.py` decides,
and `settling.py` performs it. A batch is a `Piece` in hand: a cancelled worker may run again and goes on with it.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

import anyio

from eventrec.delivery.worker.attempts import Freezer
from eventrec.delivery.worker.batch_reader import BatchReader
from eventrec.delivery.worker.containment import EndedFromWithinError, in_own_task
from eventrec.delivery.worker.destination import Destination, close_in_own_task
from eventrec.delivery.worker.hand import Hand
from eventrec.delivery.worker.health import Outage, SubscriptionHealth
from eventrec.delivery.worker.ledger import Ledger
from eventrec.delivery.worker.open_records import OpenRecords
from eventrec.delivery.worker.quarantine import Quarantine
from eventrec.delivery.worker.retry import Pauses
from eventrec.delivery.worker.settling import Settling
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventrec.delivery.letters.dead_letters import DeadLetters
    from eventrec.delivery.sources.source import Source
    from eventrec.delivery.subscription import NewDestination, Subscription
    from eventrec.delivery.worker.piece import Piece
    from eventrec.handler import EventHandler
    from eventrec.runs.checkpoint import Checkpoint, Progress
    from eventrec.runs.requests import OperatorRequest
    from eventrec.status import SubscriptionStatus

_logger = get_logger("eventrec.delivery")


class Worker:
    """Delivers one subscription from one source. All its methods are for the loop's thread."""

    def __init__(
        self,
        subscription: Subscription,
        source: Source,
        letters: DeadLetters,
        *,
        on_drop: Callable[[str, int], None] = lambda _reason, _count: None,
        checkpoint: Checkpoint | None = None,
        handler: EventHandler | None = None,
        freeze: Callable[[], Awaitable[None]] | None = None,
        outage: Outage | None = None,
        on_rewind: Callable[[], None] = lambda: None,
        on_health: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Go on where `checkpoint` says. `handler` stands in for the subscription's own, and speaks to it.

        `freeze` makes the checkpoint durable, before a batch is sent that must be sent again as it was, if at all. The
        workers of one subscription share an `outage`. `on_rewind` is called when the destination lost what it had.
        `on_health` is called when its state may have changed, also that of the handler. `clock` is monotonic, and tells
        how long the handler does not answer.
        """
        self.subscription = subscription
        self.name = subscription.name
        self._source = source
        outage = outage or Outage()
        self._ledger = Ledger(
            subscription,
            source,
            checkpoint=checkpoint,
            on_drop=on_drop,
            on_reread=self._reread,
            on_dead=outage.note_dead,
        )
        if checkpoint is not None:
            outage.brake.distrust(checkpoint.refused_types)
            outage.note_address(self.name, subscription.address, source.id, checkpoint)
        self._on_health = on_health
        self._health = SubscriptionHealth(self.name, self._note_health, outage, clock=clock)
        self._destination = Destination(
            subscription, source.id, handler or subscription.handler, self._ledger, self._health
        )
        freezer = Freezer(self._ledger, freeze, always=self._destination.knows_tokens)
        self._quarantine = Quarantine(subscription, source.id, letters, outage.brake)
        self._hand = Hand()
        self._reader = BatchReader(
            subscription,
            source,
            self._ledger.cursor,
            generation=self._ledger.generation,
            is_alone=lambda: not self._hand,
            known_dead=self._quarantine.known_dead,
            on_empty=self._ledger.settle_empty,
            on_forfeited=self._ledger.skip_to,
        )
        self._open = OpenRecords(
            self.name,
            source,
            hand=self._hand,
            reader=self._reader,
            ledger=self._ledger,
            freezer=freezer,
            quarantine=self._quarantine,
        )
        self._settling = Settling(
            subscription.settings,
            hand=self._hand,
            reader=self._reader,
            ledger=self._ledger,
            destination=self._destination,
            freezer=freezer,
            quarantine=self._quarantine,
            health=self._health,
            on_rewind=on_rewind,
        )
        self._at_work: anyio.CancelScope | None = None
        self._forfeit_to = 0
        self._may_restore = False

    def __repr__(self) -> str:
        return f"<Worker {self.name!r} next={self.progress.scanned} lag={self.lag} {self._health.state}>"

    def _reread(self, first: int) -> None:
        self._open.read_again(first)

    def _note_health(self) -> None:
        self._ledger.tell()
        self._on_health()

    # -- what others ask of it

    @property
    def progress(self) -> Progress:
        """Its part of the account, as it is kept; not to be changed."""
        return self._ledger.progress

    @property
    def lag(self) -> int:
        """How many offsets it has to settle."""
        return self._ledger.lag

    @property
    def is_held(self) -> bool:
        """Paused or holding: an operator has to act."""
        return self._health.is_held

    @property
    def is_failing(self) -> bool:
        """In an outage, or held: nothing went through since the last attempt failed."""
        return self._health.is_failing

    def note_silence(self) -> bool:
        """Have it said where the handler was called and does not answer. Whether it is called now."""
        self._health.note_silence()
        if self._health.is_silent:
            self._on_health()
        return self._health.unanswered is not None

    def status(self) -> SubscriptionStatus:
        """Its part of the account."""
        in_hand = self._reader.end - self.progress.scanned
        return self._ledger.status(self._health, in_hand=in_hand, oldest=self._open.oldest)

    def abandon(self) -> None:
        """In the child of a fork: never use the handler again, whose connections are the parent's."""
        self._destination.abandon()

    def tell(self) -> None:
        """Wake what waits for it."""
        self._ledger.tell()

    def hurry(self, to: int) -> None:
        """Send what is there below `to` without waiting for more."""
        self._reader.flush(to)

    async def flush(self, to: int) -> bool:
        """Send what is there without waiting for more. True once everything below `to` is settled; False: held."""
        self._reader.flush(to)
        while self.progress.scanned < to:
            if self._health.is_held:
                return False
            await self._ledger.next_change()
        return True

    def take_losses(self) -> tuple[int, int]:
        """How many records became dead letters, and how many were lost, since this was last asked."""
        return self._ledger.take_losses()

    async def wait_settled(self, to: int) -> None:
        """Send what is there without waiting for more, and return once everything below `to` is settled."""
        self._reader.flush(to)
        while self.progress.scanned < to:
            await self._ledger.next_change()

    def mark_closed(self) -> None:
        """What is not settled stays in the log."""
        self._health.note_closed()

    def resume(self, start: NewDestination | None = None) -> None:
        """An operator acted: go on at once, with the brake released.

        `start` is where to begin at another destination: "earliest" sends again all that is kept, "latest" only what
        was not delivered to the one before.
        """
        self._quarantine.brake.release()
        if start is not None:
            self._destination.decide(start)
        self._settling.go_on()

    def apply(self, request: OperatorRequest) -> bool:
        """An operator requests something of this subscription; False: it concerns nothing here.

        A skip that names no log is of the record at which delivery is stuck: held, or failing.
        """
        is_stuck = self.is_held or self.is_failing
        if request.skip is None:
            if not is_stuck and not self._destination.is_uncertain:
                return False
        elif request.log == self._source.id or (request.log is None and is_stuck and self._hand.is_at(request.skip)):
            if request.skip < self.progress.scanned:
                return False
            self._quarantine.skip(request.skip)
        else:
            return False
        self.resume(request.start)
        return True

    def checkpoint(self) -> Checkpoint:
        """What a later run needs to know, and an operator who looks at the directory."""
        return self._ledger.checkpoint(self._health, refused_types=self._quarantine.brake.tight)

    async def retire(self) -> None:
        """All is settled: have the destination remember that, where it knows this log. Its errors come out.

        A destination that answers that it lost some of it is not told so: there is something to deliver again.
        """
        if self._ledger.destination is not None and self._destination.keeps_checkpoints:
            end = self.progress.scanned
            await self._settling.get_ready()
            if self.progress.scanned >= end:
                await self._destination.retire(self.progress.scanned)

    def forfeit(self, end: int) -> None:
        """Everything below `end` is lost for this subscription: the disk bound takes it."""
        self._forfeit_to = max(self._forfeit_to, end)
        if self._at_work is not None:
            self._at_work.cancel()

    async def drop_rest(self, reason: str) -> None:
        """The end of a source that does not outlive the process: what is in hand and what is left is lost.

        No loop needs to run.
        """
        await self._open.give_up_all(reason)
        self._health.note_closed()

    async def close(self, *, is_last: bool = False) -> None:
        """Close the handler, also where opening it failed half-way; its errors end in a log line.

        `is_last`: no other worker uses the handler any more, so it is closed also where another one has opened it.
        """
        await close_in_own_task(partial(self._destination.close, is_last=is_last), self.name)

    # -- the loop

    async def run(self) -> NoReturn:
        """Deliver until cancelled; may be called again afterwards.

        A handler that cancels the task it is called in is an error of this subscription: it goes on in another task.
        """
        limit = self.subscription.settings.retry.max
        pauses = Pauses(limit=limit)
        while True:
            started = anyio.current_time()
            try:
                await in_own_task(self._work, f"eventrec {self.name} at work")
            except EndedFromWithinError as exc:
                if anyio.current_time() - started > limit:
                    pauses.start_over()
                await self._settling.survive(exc, pauses.next())

    async def _work(self) -> NoReturn:
        self._reader.start_clock()
        self._may_restore = self._ledger.attempt is not None
        pauses = Pauses(limit=self.subscription.settings.retry.max)
        while True:
            try:
                # What is forfeited is taken from its hands, whatever it does with it.
                with anyio.CancelScope() as self._at_work:
                    await self._deliver_one()
                self._at_work = None
                if self._forfeit_to > self.progress.scanned:
                    self._destination.distrust()
                    self._open.give_up_below(self._forfeit_to, "retention")
                pauses.start_over()
            except Exception as exc:  # noqa: BLE001 - a defect of ours, or the system's: of this subscription alone
                await self._settling.survive(exc, pauses.next())

    async def _deliver_one(self) -> None:
        """Fill a batch, and settle all that becomes of it."""
        if self._may_restore and not self._hand and self.progress.scanned == self._reader.end:
            await self._open.restore_attempt()
        self._may_restore = False
        if not self._hand:
            self._hand.add(await self._next_piece())
        while self._hand:
            self._hand.cut_next(self._reader.batching.max_rows)
            await self._settling.settle(self._hand.next)

    async def _next_piece(self) -> Piece:
        """What is to be sent next; while there is nothing, it is asked now and then whether what was sent is there."""
        while True:
            with anyio.move_on_after(self._destination.idle_check_seconds):
                return await self._reader.next_piece()
            self._destination.distrust()
            try:
                await self._settling.get_ready()
            except Exception as exc:  # noqa: BLE001 - the next batch meets it too, and says so
                _logger.debug("destination not asked", subscription=self.name, error=described(exc))
