"""One piece tried until it is settled, split, given up or held: what `outcome.py` decides is performed here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio

from eventrec.delivery.worker.health import HoldError
from eventrec.delivery.worker.outcome import (
    UNMAPPED,
    Bury,
    Deliver,
    Hold,
    Outcome,
    Remembered,
    Retry,
    Split,
    error_text,
    is_named,
    outcome_of,
    outcome_of_opening,
)
from eventrec.delivery.worker.retry import Pauses, Standstill, TryAgainError, UnknownErrors, retrying
from eventrec.delivery.worker.sending import Sending
from eventrec.errors import FencedError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventrec.delivery.worker.attempts import Freezer
    from eventrec.delivery.worker.batch_reader import BatchReader
    from eventrec.delivery.worker.destination import Destination
    from eventrec.delivery.worker.hand import Hand
    from eventrec.delivery.worker.health import SubscriptionHealth
    from eventrec.delivery.worker.ledger import Ledger
    from eventrec.delivery.worker.piece import Piece
    from eventrec.delivery.worker.quarantine import Quarantine
    from eventrec.options import DeliverySettings
    from eventrec.records.entry import Entry


class Settling:
    """What a worker does with the next piece of its `hand`. `on_rewind` is called when the destination lost records."""

    def __init__(
        self,
        settings: DeliverySettings,
        *,
        hand: Hand,
        reader: BatchReader,
        ledger: Ledger,
        destination: Destination,
        freezer: Freezer,
        quarantine: Quarantine,
        health: SubscriptionHealth,
        on_rewind: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._hand = hand
        self._reader = reader
        self._ledger = ledger
        self._destination = destination
        self._sending = Sending(
            hand=hand, reader=reader, ledger=ledger, destination=destination, freezer=freezer, quarantine=quarantine
        )
        self._quarantine = quarantine
        self._health = health
        self._on_rewind = on_rewind
        self._standstill = Standstill()
        self._retrying = retrying(settings.retry, sleep=self._standstill.wait, before_sleep=health.note_retry)
        self._unknown_errors = UnknownErrors()
        self._other_errors = UnknownErrors()
        """What failed without a batch, and so says nothing about its records."""
        self._pauses = Pauses(limit=settings.retry.max)
        self._has_moved = False
        self._fails_unknown = False
        """The attempt that was made last failed with an error of the handler that is not one of its words."""
        self._has_probed_in_vain = False
        """Since something arrived, every record of a batch was tried alone, and failed."""

    def go_on(self) -> None:
        """An operator acted: hold no more, and try again at once."""
        self._health.release()
        self._standstill.cut_short()

    async def settle(self, piece: Piece) -> None:
        """Try `piece`, which is next in hand, until it is settled, split, given up or held."""
        self._standstill.start_over()
        try:
            async for attempt in self._retrying:
                with attempt:
                    await self._attempt(piece)
        except TryAgainError:
            if self._may_be_about_one_record(piece):
                self._hand.probe_up_to(piece.end)
            elif self._hand.is_next(piece):
                self._give_up(piece)
        except HoldError as exc:
            await self._hold(exc.hold)
            return
        if (pulled := self._quarantine.verdict(self._ledger.progress.scanned)) is not None:
            await self._hold(pulled)

    def _may_be_about_one_record(self, piece: Piece) -> bool:
        """Whether the last attempt failed with an error that does not say what it means, and halves can be tried."""
        has_halves = self._hand.is_next(piece) and len(piece) > 1
        is_fixed = self._destination.knows_tokens and piece.is_doubtful
        return (
            self._fails_unknown and has_halves and not (is_fixed or self._hand.is_probing or self._has_probed_in_vain)
        )

    async def _attempt(self, piece: Piece) -> None:
        self._fails_unknown = False
        if not self._hand.is_next(piece):
            return
        if not piece.entries:
            await self._close_off(piece)
            return
        await self._get_ready_or_try_again()
        if not self._hand.is_next(piece):
            return
        # Not before it is asked: the record may have arrived.
        if skipped := self._quarantine.skipped(piece):
            await self._bury(piece, skipped)
            return
        failure: Exception | None = None
        try:
            await self._sending.send(piece)
        except Exception as exc:  # noqa: BLE001 - foreign code: what it means is decided below
            failure = exc
            await self._failed(piece, exc)
        if self._hand.is_next(piece):  # Else it was given up: the handler did not let go of it in time.
            await self._perform(piece, outcome_of(piece, failure, self._remembered()))

    def _remembered(self) -> Remembered:
        if self._unknown_errors.is_stuck(now=anyio.current_time()):
            self._hand.probe()
        return Remembered(
            is_probing=self._hand.is_probing,
            has_passed=self._hand.has_passed,
            knows_tokens=self._destination.knows_tokens,
            holds_unmapped=self._settings.hold_unmapped,
        )

    async def survive(self, exc: Exception, seconds: float) -> None:
        """What is not the handler's fault failed: the disk, the system, or we ourselves. Go on after `seconds`."""
        self._health.note_unknown_failure(exc, is_new=self._other_errors.saw(exc, now=anyio.current_time()))
        self._health.note_retry(seconds)
        await self._standstill.wait(seconds)

    async def get_ready(self) -> None:
        """Open, if need be, and ask the destination where it is, after anything that leaves it uncertain."""
        answer = await self._destination.get_ready()
        if answer is not None:
            await self._resume_at(answer)
        self._destination.note_ready()

    async def _get_ready_or_try_again(self) -> None:
        try:
            await self.get_ready()
        except HoldError:
            raise
        except Exception as exc:
            outcome = outcome_of_opening(exc)
            if isinstance(outcome, Hold):
                raise HoldError(outcome) from exc
            if not isinstance(exc, TransientError):
                await self._restart(exc, self._other_errors)
            self._interrupted(exc)
            raise TryAgainError from exc

    async def _resume_at(self, answer: int) -> None:
        """The destination says its next offset: it is the authority."""
        ledger, progress = self._ledger, self._ledger.progress
        if answer < progress.acknowledged:
            await ledger.rewind_to(answer)
            self._on_rewind()
        while self._hand and answer > progress.scanned:
            piece = self._hand.next
            await self._quarantine.pass_below(answer, piece)
            if piece.end > answer:
                piece = self._hand.split_next(answer)
            self._quarantine.note_passed(piece.open())
            self._done(piece, delivered=len(piece))
        if answer > progress.scanned:
            gone = range(self._reader.end, min(answer, ledger.cursor.next))
            dead = [
                each for each in self._quarantine.known_dead() if progress.scanned <= each < answer and each not in gone
            ]
            ledger.settle_remotely(answer, dead=len(dead), gone=len(gone))
            self._reader.skip_to(answer)
        ledger.note_answer(answer)

    # -- what comes of it

    async def _failed(self, piece: Piece, exc: Exception) -> None:
        """Remember how a batch of `piece` failed; where it does not say what it means, begin with a fresh handler."""
        if not is_named(piece, exc):
            self._fails_unknown = True
            piece.note_failure(error_text(exc))
            await self._restart(exc, self._unknown_errors)
        elif isinstance(exc, TransientError) and not isinstance(exc, FencedError):
            piece.note_failure(None)

    async def _restart(self, exc: Exception, errors: UnknownErrors) -> None:
        """An error that is not a handler's word: a traceback once, and a fresh start for the handler."""
        self._health.note_unknown_failure(exc, is_new=errors.saw(exc, now=anyio.current_time()))
        self._reader.batching.note_failure()
        await self._destination.close()

    def _interrupted(self, exc: Exception) -> None:
        self._health.note_failure(exc)
        self._reader.batching.note_failure()

    async def _perform(self, piece: Piece, outcome: Outcome) -> None:
        """Do what follows for `piece`, which is next in hand; where it is to be tried again, raise for that."""
        if isinstance(outcome, (Retry, Bury, Hold)) and outcome.asks_first:
            before = self._ledger.progress.acknowledged
            await self._get_ready_or_try_again()
            has_moved = isinstance(outcome, Retry) and self._ledger.progress.acknowledged != before
            if has_moved or not self._hand.is_next(piece):
                await self._moved()
                return
        match outcome:
            case Deliver():
                await self._delivered(piece)
            case Retry(cause):
                self._interrupted(cause)
                raise TryAgainError from cause
            case Split():
                self._hand.halve_next()
            case Hold():
                raise HoldError(outcome)
            case Bury(is_suspect=True):
                self._suspect(piece, outcome)
            case _:
                await self._set_aside(piece, outcome)

    async def _moved(self) -> None:
        """The destination is not where it was: go on there. At once the first time; one that moves on and on waits."""
        if self._has_moved:
            seconds = self._pauses.next()
            self._health.note_retry(seconds)
            await self._standstill.wait(seconds)
        self._has_moved = True

    async def _delivered(self, piece: Piece) -> None:
        self._has_moved = self._has_probed_in_vain = False
        self._pauses.start_over()
        self._hand.note_passed()
        self._unknown_errors.forget()
        self._other_errors.forget()
        self._reader.batching.note_success()
        self._quarantine.note_passed(piece.open())
        piece.has_arrived = True
        if self._quarantine:
            # Whatever becomes of the letters.
            piece.settle(delivered=piece.offsets)
        await self._close_off(piece)
        self._health.note_delivery(self._ledger.lag)

    async def _close_off(self, piece: Piece) -> None:
        """What is still open of `piece` was delivered; suspects before it were not."""
        await self._quarantine.bury_suspects(piece)
        if piece.has_arrived:
            self._ledger.note_arrival(piece.end)
        self._done(piece, delivered=len(piece))

    async def _set_aside(self, piece: Piece, bury: Bury) -> None:
        """Part of `piece` may have arrived; part of it is dead; and the rest waits."""
        self._health.note_refusal(next(iter(bury.dead.values()), None))
        delivered = set(bury.delivered)
        arrived = [(offset, entry) for offset, entry in piece.open() if offset in delivered]
        if delivered:
            piece.settle(delivered=bury.delivered)
        await self._bury(piece, piece.open_among(bury.dead))
        self._quarantine.note_passed(arrived)
        if bury.then is not None:
            await self._perform(piece, bury.then)

    async def _bury(self, piece: Piece, dead: Mapping[int, tuple[Entry, str]]) -> None:
        """Set records aside as dead letters: written first, settled after."""
        if (cut := self._quarantine.too_many(dead)) is not None:
            dead = {offset: each for offset, each in dead.items() if offset < cut}
            piece = self._hand.split_next(cut)
        await self._quarantine.bury_suspects(piece)
        await self._quarantine.bury(piece, dead)
        if not piece.entries:
            self._done(piece, delivered=0)

    def _suspect(self, piece: Piece, bury: Bury) -> None:
        """The one record of `piece` failed alone, and nothing passed yet: its own fault, or the destination's."""
        ((_, reason),) = bury.dead.items()
        is_outage = self._quarantine.suspect(piece, reason)
        self._hand.set_aside()
        if is_outage or not self._hand:
            self._hand.put_first(self._quarantine.take_back())
            if self._hand.last_end is not None:  # an outage, and the attempts are used up
                self._has_probed_in_vain = True
                while self._hand and self._hand.next.end <= self._hand.last_end:
                    self._give_up(self._hand.next)
                return
            raise HoldError(Hold(f"every record fails: {reason.removeprefix(UNMAPPED)}", is_paused=False))

    def _give_up(self, piece: Piece) -> None:
        """The last attempt failed: count, and on to the next. One line an outage says so."""
        suspects = self._quarantine.take_back()
        for suspect in suspects:
            piece.dead += suspect.dead
            piece.delivered += suspect.delivered
        self._health.note_drop(len(piece) + len(suspects))
        self._hand.pop_settled()
        self._ledger.give_up(piece, "exhausted", also=len(suspects))

    def _done(self, piece: Piece, *, delivered: int) -> None:
        """All of `piece` is settled: on to what is next in hand."""
        self._hand.pop_settled()
        self._ledger.settle(piece, delivered=delivered)

    async def _hold(self, hold: Hold) -> None:
        """Stand still, health red, until it is time to look again or an operator says so."""
        self._health.note_hold(hold)
        await self._standstill.wait(self._settings.retry.max if hold.slowly else math.inf)
