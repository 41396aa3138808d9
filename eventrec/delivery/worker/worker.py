"""The loop that serves one subscription: read → batch → handle → settle.

What becomes of a batch follows from what `handle` raises: the table stands in `eventrec.handler`. A batch is a `Piece`
in hand, kept on the worker itself: a cancelled worker may run again and goes on with what it had.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NoReturn

import anyio

from eventrec.delivery.worker.attempts import attempt_of, restore_pieces
from eventrec.delivery.worker.batch_reader import BatchReader
from eventrec.delivery.worker.health import Health, HoldError, Outage, error_text
from eventrec.delivery.worker.ledger import Ledger
from eventrec.delivery.worker.piece import Piece
from eventrec.delivery.worker.quarantine import Quarantine
from eventrec.delivery.worker.retry import SameError, TryAgainError, retrying
from eventrec.errors import (
    BatchTooLargeError,
    DeliveryError,
    FencedError,
    PartialError,
    PauseError,
    PermanentError,
    TransientError,
)
from eventrec.handler import EventHandler
from eventrec.records.batch import Batch
from eventrec.records.entry import SHAPE
from eventrec.runtime.backend import is_cancelled
from eventrec.runtime.logging import get_logger
from eventrec.status import SubscriptionStatus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from eventrec.delivery.letters.dead_letters import DeadLetters
    from eventrec.delivery.sources.source import Records, Source
    from eventrec.delivery.subscription import NewDestination, Subscription
    from eventrec.handler import DestinationCheckpoints
    from eventrec.records.entry import Entry
    from eventrec.runs.checkpoint import Attempt, Checkpoint, Progress
    from eventrec.runs.requests import OperatorRequest

_logger = get_logger("eventrec.delivery")

_CLOSE_SECONDS: Final = 10.0
"""How long a handler may take to close: a hanging one must not hang its subscription."""


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
    ) -> None:
        """Go on where `checkpoint` says. `handler` stands in for the subscription's own, and speaks to it.

        `freeze` makes the checkpoint durable, before a batch is sent that must be sent again as it was, if at all. The
        workers of one subscription share an `outage`. `on_rewind` is called when the destination lost what it had.
        """
        self.subscription = subscription
        self.name = subscription.name
        self._handler = handler or subscription.handler
        self._prepares = type(subscription.handler).prepare is not EventHandler.prepare
        self._freeze = freeze
        self._freezes_all = subscription.handler.dedupes_by_token
        self._frozen: Attempt | None = None
        """What `freeze` made durable last."""
        self._settings = subscription.settings
        self._source = source
        self._ledger = Ledger(subscription, source, checkpoint=checkpoint, on_drop=on_drop)
        outage = outage or Outage()
        self._quarantine = Quarantine(subscription, source, letters, outage.brake)
        self._on_rewind = on_rewind
        self._health = Health(self.name, self._ledger.tell, outage)
        self._retrying = retrying(self._settings.retry, sleep=anyio.sleep, before_sleep=self._health.retries)
        self._hand: list[Piece] = []
        """Pieces to settle, the next one last."""
        self._reader = BatchReader(
            subscription,
            source,
            self.progress.scanned,
            generation=self._ledger.generation,
            is_alone=lambda: not self._hand,
            known_dead=self._quarantine.known_dead,
            on_empty=self._empty,
            on_forfeited=self._ledger.skip_to,
        )
        self._holding: anyio.CancelScope | None = None
        self._at_work: anyio.CancelScope | None = None
        self._forfeit_to = 0
        self._is_open = False
        self._must_close = False
        self._must_resume = True
        self._same_error = SameError()
        self._is_probing = False
        self._probe_passed = False
        self._skips: set[int] = set()
        """Records that an operator wants to be set aside."""
        self._on_new_destination: NewDestination = subscription.on_new_destination

    def __repr__(self) -> str:
        return f"<Worker {self.name!r} next={self.progress.scanned} lag={self.lag} {self._health.state}>"

    # -- what others ask of it

    @property
    def progress(self) -> Progress:
        """Its part of the account, as it is kept."""
        return self._ledger.progress

    @property
    def lag(self) -> int:
        return self._source.end - self.progress.scanned

    @property
    def is_held(self) -> bool:
        """Paused or holding: somebody has to act."""
        return self._health.is_held

    @property
    def is_failing(self) -> bool:
        """In an outage, or held: nothing went through since the last attempt failed."""
        return self._health.is_failing

    def status(self) -> SubscriptionStatus:
        """Its part of the account."""
        progress = self.progress
        return SubscriptionStatus(
            name=self.name,
            state=self._health.state,
            healthy=not self._health.is_held,
            start=progress.start,
            end=self._source.end,
            acknowledged=progress.acknowledged,
            scanned=progress.scanned,
            delivered=progress.delivered,
            filtered=progress.filtered,
            dead=progress.dead,
            dropped=dict(progress.dropped),
            replayed=progress.replayed,
            rewound=progress.rewound,
            pending=self._reader.end - progress.scanned + self._source.end - self._source.position(self.name),
        )

    def abandon(self) -> None:
        """In the child of a fork: never use the handler again, whose connections are the parent's."""
        self._handler, self._prepares = _ElsewhereHandler(), False

    async def flush(self, to: int) -> bool:
        """Send what is there without waiting for more. True once everything below `to` is settled; False: held."""
        self._reader.flush(to)
        while self.progress.scanned < to:
            if self._health.is_held:
                return False
            await self._ledger.next_change()
        return True

    async def settled(self, to: int) -> None:
        """Send what is there without waiting for more, and return once everything below `to` is settled."""
        self._reader.flush(to)
        while self.progress.scanned < to:
            await self._ledger.next_change()

    def mark_closed(self) -> None:
        """What is not settled stays in the log."""
        self._health.closes()

    def resume(self, start: NewDestination | None = None) -> None:
        """Somebody acted: go on at once, with the brake released.

        `start` is where to begin at another destination: "earliest" sends again all that is kept, "latest" only what
        was not delivered to the one before.
        """
        self._quarantine.brake.release()
        if start is not None:
            self._on_new_destination = start
        self._health.is_held = False
        if self._holding is not None:
            self._holding.cancel()

    def apply(self, request: OperatorRequest) -> None:
        """An operator requests something of this subscription."""
        if request.skip is None:
            if self.is_held or self._must_resume:
                self.resume(request.start)
        elif request.log == self._source.id or (request.log is None and self._holds_at(request.skip)):
            if request.skip >= self.progress.scanned:
                self._skips.add(request.skip)
            self.resume()

    def _holds_at(self, offset: int) -> bool:
        return self.is_held and any(offset in piece.offsets[:1] for piece in self._hand[-1:])

    def checkpoint(self) -> Checkpoint:
        """What a later run needs to know."""
        return self._ledger.checkpoint()

    async def retire(self) -> None:
        """All is settled: have the destination remember that, where it knows this log. Its errors come out.

        A destination that answers that it lost some of it is not told so: there is something to deliver again.
        """
        if self._handler.checkpoints is not None and self._ledger.destination is not None:
            end = self.progress.scanned
            await self._get_ready()
            if self.progress.scanned >= end:
                await self._handler.checkpoints.retire(self._source.id, self.name, self.progress.scanned)

    def lost(self, count: int) -> None:
        """`count` records that it reached cannot be read any more."""
        self._ledger.drop("corrupt", count)

    def forfeit(self, end: int) -> None:
        """Everything below `end` is lost for this subscription: the disk bound takes it."""
        self._forfeit_to = max(self._forfeit_to, end)
        if self._at_work is not None:
            self._at_work.cancel()

    def drop_rest(self, reason: str, rest: Records) -> None:
        """The end of a source that does not outlive the process: what is in hand and in `rest` is lost for `reason`."""
        pieces = [*self._hand, *self._quarantine.take_back(), self._reader.piece]
        in_hand = Piece(
            self._reader.end,
            dead=[offset for piece in pieces for offset in piece.dead],
            delivered=[offset for piece in pieces for offset in piece.delivered],
        )
        for piece, lost in (
            (in_hand, sum(map(len, pieces))),
            (Piece(rest.end), sum(self.subscription.wants(entry[SHAPE].type) for entry in rest.entries)),
        ):
            self._ledger.settle(piece, delivered=0, dropped=lost)
            self._ledger.drop(reason, lost)
            self._ledger.skip_to(max(piece.end, rest.start))
        self._hand.clear()
        self._reader.start_over(rest.end)
        self._health.closes()

    async def close(self, *, is_last: bool = False) -> None:
        """Close the handler, also where opening it failed half-way; its errors end in a log line.

        `is_last`: nobody uses the handler any more, so it is closed also where another worker has opened it.
        """
        if self._must_close or is_last:
            self._must_close = self._is_open = False
            self._must_resume = True
            try:
                with anyio.move_on_after(_CLOSE_SECONDS):
                    await self._handler.close()
            except Exception as exc:  # noqa: BLE001 - foreign code, at the end of its life
                _logger.warning("handler failed to close", subscription=self.name, error=error_text(exc))

    # -- the loop

    async def run(self) -> NoReturn:
        """Deliver until cancelled; may be called again afterwards."""
        self._reader.start_clock()
        if self._ledger.attempt is not None and not self._hand and self.progress.scanned == self._reader.end:
            await self._restore_attempt(self._ledger.attempt)
        while True:
            # What is forfeited is taken from its hands, whatever it does with it.
            with anyio.CancelScope() as self._at_work:
                await self._deliver_one()
            self._at_work = None
            if self._forfeit_to > self.progress.scanned:
                self._give_up_below(self._forfeit_to)

    async def _deliver_one(self) -> None:
        """Fill a batch, and settle all that becomes of it."""
        if not self._hand:
            self._hand.append(await self._reader.next_piece())
        while self._hand:
            self._cut_to_size()
            await self._settle(self._hand[-1])

    def _give_up_below(self, end: int) -> None:
        """Count what is open below `end` as lost to the disk bound, in hand or not, and go on behind it."""
        self._must_resume = True
        reading = self._reader.piece
        pieces = [reading, *self._hand, *self._quarantine.take_back()]
        self._hand.clear()
        for piece in reversed(pieces):
            gone, rest = (piece, None) if piece.end <= end else piece.split_at(end)
            if gone.end > self.progress.scanned:
                self._lose(gone, len(gone))
            if piece is reading:
                self._reader.take_up(rest or Piece(end))
            elif rest is not None and rest.entries:
                self._hand.insert(0, rest)
            elif rest is not None:
                self._ledger.settle(rest, delivered=0)
        if end > self.progress.scanned:
            self._lose(Piece(end), end - self.progress.scanned)
            self._source.fetched(self.name, end)

    def _lose(self, piece: Piece, count: int) -> None:
        self._ledger.drop("retention", count)
        self._ledger.settle(piece, delivered=0, dropped=count)

    def _empty(self, piece: Piece) -> None:
        if piece.end > self.progress.scanned:
            self._ledger.settle(piece, delivered=0)

    async def _restore_attempt(self, attempt: Attempt) -> None:
        """The batch that a run before us may have sent: the same records, under the same token."""
        pieces = await restore_pieces(attempt, self._source, self.progress.scanned, self._quarantine.known_dead())
        if not pieces:
            _logger.warning("frozen batch lost records", subscription=self.name, log=str(self._source.id))
            self._ledger.attempt = None
            return
        self._source.fetched(self.name, attempt.end)
        self._reader.start_over(attempt.end)
        self._frozen = attempt
        self._hand.append(pieces[0])
        for suspect in pieces[1:]:
            self._quarantine.suspect(suspect, attempt.suspects[suspect.offsets[0]])

    # -- one piece

    async def _settle(self, piece: Piece) -> None:
        """Try `piece` until it is settled, parted, or given up."""
        try:
            async for attempt in self._retrying:
                with attempt:
                    await self._attempt(piece)
        except TryAgainError:
            if self._has_in_hand(piece):
                self._give_up(piece)
        except HoldError as hold:
            await self._hold(hold)
            return
        if (pulled := self._quarantine.verdict(self.progress.scanned)) is not None:
            await self._hold(pulled)

    def _has_in_hand(self, piece: Piece) -> bool:
        """Whether it is still next: an answer of the destination may have settled it, or sent us back."""
        return bool(self._hand) and self._hand[-1] is piece

    async def _attempt(self, piece: Piece) -> None:
        if not self._has_in_hand(piece):
            return
        if not piece.entries:
            await self._close_off(piece)
            return
        try:
            await self._get_ready()
            if not self._has_in_hand(piece):
                return
        except BaseException as exc:  # noqa: BLE001 - sorted out below
            await self._failed_to_open(exc)
        # Not before it is asked: the record may have arrived.
        if self._skips and (skipped := piece.open_among(dict.fromkeys(self._skips, "skipped by an operator"))):
            self._skips -= set(skipped)
            await self._bury(piece, skipped)
            return
        try:
            await self._handle(piece)
        except BaseException as exc:  # noqa: BLE001 - sorted out below
            self._must_resume = True
            await self._failed(piece, exc)
        else:
            await self._delivered(piece)

    async def _handle(self, piece: Piece) -> None:
        piece.is_tried = True
        batch = self._batch(piece, self.progress.acknowledged)
        if self._freeze is not None and (self._freezes_all or self._quarantine or self._has_frozen_suspects()):
            await self._freeze_first(piece, batch, self._freeze)
        if not self._prepares or len(self._hand) > 1:
            await self._handler.handle(batch)
            return
        failure: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._prepare_next, piece.end)
            try:
                await self._handler.handle(batch)
            except BaseException as exc:  # noqa: BLE001 - raised below, out of the group's hands
                failure = exc
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _prepare_next(self, start: int) -> None:
        """Take the next piece in hand, and let the handler get ready for it as if this one had gone through."""
        piece = await self._reader.next_piece()
        self._hand.insert(0, piece)
        piece.batch = self._batch(piece, start)
        try:
            await self._handler.prepare(piece.batch)
        except Exception:  # noqa: BLE001 - `handle` will meet it again, where it is sorted out
            piece.batch = None

    def _cut_to_size(self) -> None:
        """A piece that was taken in hand before an outage is cut to what is sent after one."""
        piece, rows = self._hand[-1], self._reader.batching.rows
        if not piece.is_tried and len(piece) > rows:
            self._hand[-1:] = reversed(piece.split_at(piece.offsets[rows]))

    def _batch(self, piece: Piece, start: int) -> Batch:
        if (ready := piece.batch) is not None and (ready.start, ready.generation) == (start, piece.generation):
            return ready
        return Batch(
            log_id=self._source.id,
            subscription=self.name,
            start=start,
            end=piece.end,
            offsets=tuple(piece.offsets),
            entries=tuple(piece.entries),
            generation=piece.generation,
            static_context=self._source.static_context,
        )

    def _has_frozen_suspects(self) -> bool:
        """Whether the disk says that some are dead if this arrives: not any more, once they are sent again."""
        return self._ledger.attempt is not None and bool(self._ledger.attempt.suspects)

    async def _freeze_first(self, piece: Piece, batch: Batch, freeze: Callable[[], Awaitable[None]]) -> None:
        """On return this attempt is on the disk, so that a restart makes the same batch of it."""
        attempt = attempt_of(piece, batch, self._quarantine.suspects())
        if not self._ledger.attempt == self._frozen == attempt:
            self._ledger.attempt = attempt
            self._ledger.generation = max(self._ledger.generation, piece.generation + 1)
            await freeze()
            self._frozen = attempt

    async def _get_ready(self) -> None:
        """Open, if need be, and ask the destination where it is, after anything that leaves it uncertain."""
        if not self._is_open:
            self._health.opens()
            self._must_close = True
            await self._handler.open()
            self._is_open = True
            self._must_resume = True
        if self._must_resume and (checkpoints := self._handler.checkpoints) is not None:
            await self._ask(checkpoints)
        self._must_resume = False
        self._health.note_ready()

    async def _ask(self, checkpoints: DestinationCheckpoints) -> None:
        ledger, destination = self._ledger, await checkpoints.destination_id()
        # A destination that has no row of ours, though we have been there, lost it together with our rows.
        start = ledger.progress.acknowledged if ledger.destination is None else ledger.progress.start
        if ledger.destination not in (None, destination):
            if self._on_new_destination == "pause":
                raise HoldError("destination changed", slowly=False)
            _logger.warning("destination changed", subscription=self.name, start=self._on_new_destination)
            if self._on_new_destination == "earliest" and (first := await ledger.reread_from(0)) is not None:
                self._read_again(first)
            start = ledger.progress.acknowledged = ledger.progress.scanned
        answer = await checkpoints.resume(self._source.id, self.name, start)
        # Not before it has our row: else the decision would be forgotten with an answer that is lost.
        ledger.destination = destination
        self._on_new_destination = self.subscription.on_new_destination
        await self._resume_at(answer)

    def _read_again(self, first: int) -> None:
        """What is in hand was read too far ahead: begin anew at `first`."""
        self._hand.clear()
        self._quarantine.take_back()
        self._reader.start_over(first)

    async def _resume_at(self, answer: int) -> None:
        """The destination says its next offset: it is the authority."""
        ledger, progress = self._ledger, self.progress
        if answer < progress.acknowledged:
            first = await ledger.rewind_to(answer)
            if first is not None:
                self._read_again(first)
            self._on_rewind()
        while self._hand and answer > progress.scanned:
            piece = self._hand[-1]
            await self._quarantine.pass_below(answer, piece)
            if piece.end > answer:
                piece, rest = piece.split_at(answer)
                self._hand[-1:] = [rest, piece]
            self._quarantine.passed(piece.open())
            self._done(piece, delivered=len(piece))
        if answer > progress.scanned:
            gone = range(self._reader.end, min(answer, self._source.position(self.name)))
            dead = [
                each for each in self._quarantine.known_dead() if progress.scanned <= each < answer and each not in gone
            ]
            ledger.settle_remotely(answer, dead=len(dead), gone=len(gone))
            self._reader.skip_to(answer)
        progress.acknowledged = max(progress.acknowledged, answer)

    # -- what may come of it

    async def _delivered(self, piece: Piece) -> None:
        self._probe_passed = self._is_probing
        self._same_error.forget()
        self._reader.batching.succeeded()
        self._quarantine.passed(piece.open())
        piece.has_arrived = True
        if self._quarantine:
            # Whatever becomes of the letters.
            piece.settle(delivered=piece.offsets)
        await self._close_off(piece)
        self._health.delivers(self.lag)

    async def _close_off(self, piece: Piece) -> None:
        """What is still open of `piece` was delivered; suspects before it were not."""
        await self._quarantine.bury_suspects(piece)
        if piece.has_arrived:
            self.progress.acknowledged = piece.end
            self._ledger.generation = 0
        self._done(piece, delivered=len(piece))

    async def _failed_to_open(self, exc: BaseException) -> NoReturn:
        self._must_resume = True
        match exc:
            case HoldError():
                raise exc
            case TransientError():
                self._interrupted(exc)
                raise TryAgainError from exc
            case DeliveryError():
                raise HoldError(error_text(exc)) from exc
            case Exception():
                await self._unknown(exc)
                raise TryAgainError from exc
            case _:
                await self._stray(exc)

    async def _failed(self, piece: Piece, exc: BaseException) -> None:
        """Settle what can be settled after `exc`, or raise for another attempt."""
        match exc:
            case FencedError():
                # Not an outage: ask at once. Only a destination that sends us back to the same place needs patience.
                await self._after_fence(piece, exc)
            case TransientError():
                piece.fails(None)
                self._interrupted(exc)
                raise TryAgainError from exc
            case PermanentError() if named := piece.open_among(exc.records):
                await self._bury(piece, named)
            case PermanentError() if len(piece) == 1:
                await self._bury(piece, piece.open_among({piece.offsets[0]: error_text(exc)}))
            case BatchTooLargeError() if len(piece) == 1:
                await self._bury(piece, piece.open_among({piece.offsets[0]: f"too large alone: {error_text(exc)}"}))
            case PermanentError() | BatchTooLargeError():
                self._part(piece)
            case PartialError() if set(exc.errors) <= set(piece.offsets) and exc.errors:
                await self._partial(piece, exc)
            case PauseError():
                raise HoldError(error_text(exc)) from exc
            case Exception():
                piece.fails(error_text(exc))
                await self._unknown(exc)
                await self._probe(piece, exc)
            case _:
                piece.fails(None)
                await self._stray(exc)

    def _interrupted(self, exc: Exception) -> None:
        self._health.fails(exc)
        self._reader.batching.failed()

    async def _after_fence(self, piece: Piece, exc: FencedError) -> None:
        before = self.progress.acknowledged
        try:
            await self._get_ready()
        except BaseException as again:  # noqa: BLE001 - sorted out there
            await self._failed_to_open(again)
        if self._has_in_hand(piece) and self.progress.acknowledged == before:
            self._interrupted(exc)
            raise TryAgainError from exc

    async def _partial(self, piece: Piece, exc: PartialError) -> None:
        final = {
            offset: error_text(error)
            for offset, error in exc.errors.items()
            if isinstance(error, (PermanentError, BatchTooLargeError))
        }
        arrived = [(offset, entry) for offset, entry in piece.open() if offset not in exc.errors]
        piece.settle(delivered=[offset for offset, _ in arrived])
        await self._bury(piece, piece.open_among(final))
        self._quarantine.passed(arrived)
        for error in exc.errors.values():
            if isinstance(error, PauseError):
                raise HoldError(error_text(error)) from error
        open_ = [error for offset, error in exc.errors.items() if offset not in final]
        if open_:
            self._interrupted(open_[0])
            raise TryAgainError from open_[0]

    async def _stray(self, exc: BaseException) -> NoReturn:
        """A cancellation nobody asked for comes from inside the handler, and must not end the worker."""
        if is_cancelled() or not isinstance(exc, anyio.get_cancelled_exc_class()):
            raise exc
        error = RuntimeError("the handler was cancelled from within")
        error.__cause__ = exc
        await self._unknown(error)
        raise TryAgainError from error

    async def _unknown(self, exc: Exception) -> None:
        """An error nobody named: a traceback once, and a fresh start for the handler."""
        self._health.fails_unknown(exc, is_new=self._same_error.saw(exc, now=anyio.current_time()))
        self._reader.batching.failed()
        await self.close()

    async def _probe(self, piece: Piece, exc: Exception) -> None:
        """Is it a record, or an outage? What fails alone while a neighbour passes is dead, if it has not arrived."""
        self._is_probing = self._is_probing or self._same_error.is_stuck(now=anyio.current_time())
        if not self._is_probing:
            raise TryAgainError from exc
        if len(piece) > 1:
            if self._freezes_all and piece.is_doubtful:
                # Its halves would come under other tokens, and nobody says whether it has arrived.
                raise HoldError(f"a batch that may have arrived fails: {error_text(exc)}", is_paused=False)
            self._part(piece)
            return
        try:
            await self._get_ready()
        except BaseException as again:  # noqa: BLE001 - sorted out there
            await self._failed_to_open(again)
        if not self._has_in_hand(piece):
            return
        reason = f"unmapped: {error_text(exc)}"
        if self._settings.hold_unmapped:
            raise HoldError(reason, is_paused=False) from exc
        if self._probe_passed:
            await self._bury(piece, piece.open_among({piece.offsets[0]: reason}))
            return
        is_outage = self._quarantine.suspect(piece, reason)
        self._hand.pop()
        if is_outage or not self._hand:
            self._hand += self._quarantine.take_back()
            raise HoldError(f"every record fails: {error_text(exc)}", is_paused=False) from exc

    async def _bury(self, piece: Piece, dead: Mapping[int, tuple[Entry, str]]) -> None:
        """Set records aside as dead letters: written first, settled after."""
        if (cut := self._quarantine.too_many(dead)) is not None:
            dead = {offset: each for offset, each in dead.items() if offset < cut}
            piece, rest = piece.split_at(cut)
            self._hand[-1:] = [rest, piece]
        await self._quarantine.bury_suspects(piece)
        await self._quarantine.bury(piece, dead)
        if not piece.entries:
            self._done(piece, delivered=0)

    def _part(self, piece: Piece) -> None:
        left, right = piece.halves()
        self._hand[-1:] = [right, left]

    def _give_up(self, piece: Piece) -> None:
        """The last attempt failed: count, and on to the next. One line an outage says so."""
        suspects = self._quarantine.take_back()
        for suspect in suspects:
            piece.dead += suspect.dead
            piece.delivered += suspect.delivered
        lost = len(piece) + len(suspects)
        self._health.drops(lost)
        self._ledger.drop("exhausted", lost)
        self._done(piece, delivered=0, dropped=lost)

    def _done(self, piece: Piece, *, delivered: int, dropped: int = 0) -> None:
        """All of `piece` is settled: on to what is next in hand."""
        self._hand.pop()
        if not self._hand:
            self._is_probing = self._probe_passed = False
        self._ledger.settle(piece, delivered=delivered, dropped=dropped)

    async def _hold(self, hold: HoldError) -> None:
        """Stand still, health red, until it is time to look again or somebody says so."""
        self._health.holds(hold)
        seconds = self._settings.retry.max if hold.slowly else math.inf
        with anyio.CancelScope(deadline=anyio.current_time() + seconds) as self._holding:
            await anyio.sleep_forever()
        self._holding = None


class _ElsewhereHandler(EventHandler):
    """Stands in for a handler that lives in another process: who wants to use it waits until it is cancelled."""

    async def open(self) -> None:
        await anyio.sleep_forever()

    async def handle(self, batch: Batch) -> None:
        del batch
        await anyio.sleep_forever()
