"""The loop that serves one subscription: read → batch → handle → settle.

What becomes of a batch follows from what `handle` raises: the table stands in `eventrec.handler`. A batch is a `Piece`
in hand, kept on the worker itself: a cancelled worker may run again and goes on with what it had.
"""

from __future__ import annotations

import math
from dataclasses import replace
from time import time
from typing import TYPE_CHECKING, Final, NoReturn

import anyio

from eventrec._logging import get_logger
from eventrec.backend import is_cancelled
from eventrec.batch import Batch
from eventrec.delivery.checkpoint import Checkpoint, Progress
from eventrec.delivery.dead_letters import DeadLetter
from eventrec.delivery.filling import Filling
from eventrec.delivery.health import Health, HoldError, said
from eventrec.delivery.piece import Piece
from eventrec.delivery.retry import Brake, SameError, TryAgainError, retrying
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
from eventrec.status import SubscriptionStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventrec.delivery.dead_letters import DeadLetters
    from eventrec.delivery.source import Records, Source
    from eventrec.delivery.subscription import Subscription
    from eventrec.record import Entry

_logging = get_logger("eventrec.delivery")

_CLOSE_SECONDS: Final = 10.0
"""How long a handler may take to close: a hanging one must not hang its subscription."""

_SUSPECTS: Final = 16
"""Records in a row that fail alone, with none passing: enough to call it an outage."""


class Worker:
    """Delivers one subscription from one source. All its methods are for the loop's thread."""

    def __init__(
        self,
        subscription: Subscription,
        source: Source,
        dead_letters: DeadLetters,
        *,
        on_drop: Callable[[str, int], None] = lambda _reason, _count: None,
        checkpoint: Checkpoint | None = None,
        handler: EventHandler | None = None,
    ) -> None:
        """Go on where `checkpoint` says. `handler` stands in for the subscription's own, and speaks to it."""
        self.subscription = subscription
        self.name = subscription.name
        self._handler = handler or subscription.handler
        self._prepares = type(subscription.handler).prepare is not EventHandler.prepare
        self._settings = subscription.settings
        self._source = source
        self._dead_letters = dead_letters
        self._on_drop = on_drop
        start = source.subscribe(self.name, subscription.start, self._forfeited)
        self.progress = Progress(start, start, start)
        if checkpoint is not None:
            self.progress = checkpoint.progress
            start = checkpoint.progress.scanned
            source.fetched(self.name, start)
        self._health = Health(self.name, self._notify)
        self._retrying = retrying(self._settings.retry, sleep=anyio.sleep, before_sleep=self._health.retries)
        self._hand: list[Piece] = []
        """Pieces to settle, the next one last."""
        self._filling = Filling(
            subscription,
            source,
            start,
            is_alone=lambda: not self._hand,
            on_filtered=self._filtered,
            on_forfeited=self._skipped,
        )
        self._holding: anyio.CancelScope | None = None
        self._changed = anyio.Event()
        self._is_open = False
        self._must_close = False
        self._must_resume = True
        self._destination = checkpoint.destination if checkpoint is not None else None
        self._same_error = SameError()
        self._is_probing = False
        self._probe_passed = False
        self._suspects: list[tuple[int, Entry, str]] = []
        self._brake = Brake()

    def __repr__(self) -> str:
        return f"<Worker {self.name!r} next={self.progress.scanned} lag={self.lag} {self._health.state}>"

    # -- what others ask of it

    @property
    def lag(self) -> int:
        return self._source.end - self.progress.scanned

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
            pending=self._filling.end - progress.scanned + self._source.end - self._source.position(self.name),
        )

    async def flush(self, to: int) -> bool:
        """Send what is there without waiting for more. True once everything below `to` is settled; False: held."""
        self._filling.flush(to)
        while self.progress.scanned < to:
            if self._health.is_held:
                return False
            await self._changed.wait()
        return True

    async def settled(self, to: int) -> None:
        """Send what is there without waiting for more, and return once everything below `to` is settled."""
        self._filling.flush(to)
        while self.progress.scanned < to:
            await self._changed.wait()

    def is_closed(self) -> None:
        """What is not settled stays in the log."""
        self._health.closes()

    def resume(self) -> None:
        """Somebody acted: go on at once, with the brake released."""
        self._brake.release()
        self._destination = None
        self._health.is_held = False
        if self._holding is not None:
            self._holding.cancel()

    def checkpoint(self) -> Checkpoint:
        """What a later run needs to know."""
        progress = replace(self.progress, dropped=dict(self.progress.dropped))
        return Checkpoint(subscription=self.name, progress=progress, destination=self._destination)

    def lost(self, count: int) -> None:
        """`count` records that it reached cannot be read any more."""
        self._drop("corrupt", count)

    def drop_rest(self, reason: str, rest: Records) -> None:
        """The end of a source that does not outlive the process: what is in hand and in `rest` is lost for `reason`."""
        for _, entry, _ in self._suspects:
            self._hand.append(Piece(self.progress.scanned, entries=[entry]))
        self._suspects.clear()
        pieces = [*self._hand, self._filling.piece]
        lost = sum(len(piece) for piece in pieces)
        lost += sum(self.subscription.wants(entry[0].type) for entry in rest.entries)
        dead = sum(len(piece.dead) for piece in pieces)
        delivered = sum(len(piece.delivered) for piece in pieces)
        progress = self.progress
        span = self._filling.end - progress.scanned + rest.end - rest.start
        progress.dead += dead
        progress.delivered += delivered
        progress.filtered += span - lost - dead - delivered
        progress.scanned = rest.end
        self._drop(reason, lost)
        self._hand.clear()
        self._filling.start_over(rest.end)
        self._health.closes()

    async def close(self) -> None:
        """Close the handler, also where opening it failed half-way; its errors end in a log line."""
        if self._must_close:
            self._must_close = self._is_open = False
            self._must_resume = True
            try:
                with anyio.move_on_after(_CLOSE_SECONDS):
                    await self._handler.close()
            except Exception as exc:  # noqa: BLE001 - foreign code, at the end of its life
                _logging.warning("handler failed to close", subscription=self.name, error=said(exc))

    # -- the loop

    async def run(self) -> NoReturn:
        """Deliver until cancelled; may be called again afterwards."""
        self._filling.start_clock()
        while True:
            if not self._hand:
                self._hand.append(await self._filling.next_piece())
            while self._hand:
                self._cut_to_size()
                await self._settle(self._hand[-1])

    def _filtered(self, end: int) -> None:
        if end > self.progress.scanned:
            self._move(Piece(end), delivered=0)

    def _skipped(self, end: int) -> None:
        """Forfeited, and counted then; the destination learns of it with the next batch."""
        self.progress.scanned = end
        self._source.acknowledge(self.name, end)
        self._notify()

    # -- one piece

    async def _settle(self, piece: Piece) -> None:
        """Try `piece` until it is settled, parted, or given up."""
        try:
            async for attempt in self._retrying:
                with attempt:
                    await self._attempt(piece)
        except TryAgainError:
            self._give_up(piece)
        except HoldError as hold:
            await self._hold(hold)

    async def _attempt(self, piece: Piece) -> None:
        if not piece.entries:
            self._done(piece, delivered=0)
            return
        try:
            await self._get_ready()
            if not self._hand or self._hand[-1] is not piece:
                return
        except BaseException as exc:  # noqa: BLE001 - sorted out below
            await self._failed_to_open(exc)
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
        piece = await self._filling.next_piece()
        self._hand.insert(0, piece)
        piece.batch = self._batch(piece, start)
        try:
            await self._handler.prepare(piece.batch)
        except Exception:  # noqa: BLE001 - `handle` will meet it again, where it is sorted out
            piece.batch = None

    def _cut_to_size(self) -> None:
        """A piece that was taken in hand before an outage is cut to what is sent after one."""
        piece, rows = self._hand[-1], self._filling.batching.rows
        if not piece.is_tried and len(piece) > rows:
            self._hand[-1:] = reversed(piece.parted_at(piece.offsets[rows]))

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

    async def _get_ready(self) -> None:
        """Open, if need be, and ask the destination where it is, after anything that leaves it uncertain."""
        if not self._is_open:
            self._health.opens()
            self._must_close = True
            await self._handler.open()
            self._is_open = True
            self._must_resume = True
        if self._must_resume and (checkpoints := self._handler.checkpoints) is not None:
            destination = await checkpoints.destination_id()
            if self._destination not in (None, destination):
                raise HoldError("destination changed", slowly=False)
            self._destination = destination
            self._resume_at(await checkpoints.resume(self._source.id, self.name, self.progress.acknowledged))
        self._must_resume = False
        self._health.is_ready()

    def _resume_at(self, answer: int) -> None:
        """The destination says its next offset: it is the authority."""
        progress = self.progress
        if answer < progress.acknowledged:
            lost = progress.acknowledged - answer
            _logging.error("destination went back", subscription=self.name, to=answer, lost=lost)
            progress.acknowledged = answer
            progress.rewound += lost
            self._drop("rewound", lost)
        while self._hand and answer > progress.scanned:
            piece = self._hand[-1]
            if piece.end > answer:
                passed, rest = piece.parted_at(answer)
                self._hand[-1:] = [rest, passed]
                piece = passed
            progress.acknowledged = answer
            piece.delivered.extend(offset for offset, _, _ in self._suspects)
            self._suspects.clear()
            self._done(piece, delivered=len(piece))
        if answer > progress.scanned:
            # Somebody else delivered for this log and name, further than we have read.
            self._source.fetched(self.name, answer)
            progress.delivered += answer - progress.scanned
            progress.acknowledged = progress.scanned = answer
            self._filling.start_over(answer)
            self._notify()

    # -- what may come of it

    async def _delivered(self, piece: Piece) -> None:
        await self._bury_suspects(piece)
        self._probe_passed = self._is_probing
        self._same_error.forget()
        self._filling.batching.succeeded()
        if self._brake:
            for entry in piece.entries:
                self._brake.note(entry[0].type, dead=False)
        self.progress.acknowledged = piece.end
        self._done(piece, delivered=len(piece))
        self._health.delivers(self.lag)

    async def _failed_to_open(self, exc: BaseException) -> NoReturn:
        self._must_resume = True
        match exc:
            case HoldError():
                raise exc
            case TransientError():
                self._interrupted(exc)
                raise TryAgainError from exc
            case DeliveryError():
                raise HoldError(said(exc)) from exc
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
                self._interrupted(exc)
                raise TryAgainError from exc
            case PermanentError() if named := piece.open_among(exc.records):
                await self._bury(piece, named)
            case PermanentError() if len(piece) == 1:
                await self._bury(piece, piece.open_among({piece.offsets[0]: said(exc)}))
            case BatchTooLargeError() if len(piece) == 1:
                await self._bury(piece, piece.open_among({piece.offsets[0]: f"too large alone: {said(exc)}"}))
            case PermanentError() | BatchTooLargeError():
                self._part(piece)
            case PartialError() if set(exc.errors) <= set(piece.offsets) and exc.errors:
                await self._partial(piece, exc)
            case PauseError():
                raise HoldError(said(exc)) from exc
            case Exception():
                await self._unknown(exc)
                await self._probe(piece, exc)
            case _:
                await self._stray(exc)

    def _interrupted(self, exc: Exception) -> None:
        self._health.fails(exc)
        self._filling.batching.failed()

    async def _after_fence(self, piece: Piece, exc: FencedError) -> None:
        before = self.progress.acknowledged
        try:
            await self._get_ready()
        except BaseException as again:  # noqa: BLE001 - sorted out there
            await self._failed_to_open(again)
        if self._hand and self._hand[-1] is piece and self.progress.acknowledged == before:
            self._interrupted(exc)
            raise TryAgainError from exc

    async def _partial(self, piece: Piece, exc: PartialError) -> None:
        final = {
            offset: said(error)
            for offset, error in exc.errors.items()
            if isinstance(error, (PermanentError, BatchTooLargeError))
        }
        piece.settle(delivered=[offset for offset in piece.offsets if offset not in exc.errors])
        await self._bury(piece, piece.open_among(final))
        for error in exc.errors.values():
            if isinstance(error, PauseError):
                raise HoldError(said(error)) from error
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
        self._filling.batching.failed()
        await self.close()

    async def _probe(self, piece: Piece, exc: Exception) -> None:
        """Is it a record, or an outage? What fails alone while a neighbour passes is dead."""
        self._is_probing = self._is_probing or self._same_error.is_stuck(now=anyio.current_time())
        if not self._is_probing:
            raise TryAgainError from exc
        if len(piece) > 1:
            self._part(piece)
            return
        reason = f"unmapped: {said(exc)}"
        if self._settings.hold_unmapped:
            raise HoldError(reason, is_paused=False) from exc
        if self._probe_passed:
            await self._bury(piece, piece.open_among({piece.offsets[0]: reason}))
            return
        self._suspects.append((piece.offsets[0], piece.entries[0], reason))
        self._hand.pop()
        if not self._hand or len(self._suspects) >= _SUSPECTS:
            self._take_back_suspects()
            raise HoldError(f"every record fails: {said(exc)}", is_paused=False) from exc

    def _take_back_suspects(self) -> None:
        for offset, entry, _ in reversed(self._suspects):
            self._hand.append(Piece(offset + 1, [offset], [entry]))
        self._suspects.clear()

    async def _bury(self, piece: Piece, dead: Mapping[int, tuple[Entry, str]]) -> None:
        """Set records aside as dead letters: written first, settled after."""
        await self._bury_suspects(piece)
        await self._write_letters(dead)
        kinds = [entry[0].type for entry, _ in dead.values()]
        piece.settle(dead=list(dead))
        if not piece.entries:
            self._done(piece, delivered=0)
        pulled = [kind for kind in kinds if self._brake.note(kind, dead=True)]
        if pulled:
            raise HoldError(
                f"over half of the last {Brake.WINDOW:,} records of type {pulled[0]!r} were refused for good",
                slowly=False,
            )

    async def _bury_suspects(self, piece: Piece) -> None:
        """The destination judges single records, so it works, and what failed alone is at fault itself."""
        if self._suspects:
            await self._write_letters({offset: (entry, reason) for offset, entry, reason in self._suspects})
            piece.dead.extend(offset for offset, _, _ in self._suspects)
            self._suspects.clear()

    async def _write_letters(self, dead: Mapping[int, tuple[Entry, str]]) -> None:
        letters = [
            DeadLetter(
                self._source.id, offset, self.name, type(self.subscription.handler).__name__, reason, time(), entry
            )
            for offset, (entry, reason) in sorted(dead.items())
        ]
        if not letters:
            return
        try:
            await self._dead_letters.write(letters)
        except OSError as exc:
            raise HoldError(f"dead letters cannot be written: {exc}", is_paused=False) from exc

    def _part(self, piece: Piece) -> None:
        left, right = piece.halves()
        self._hand[-1:] = [right, left]

    def _give_up(self, piece: Piece) -> None:
        """The last attempt failed: count, and on to the next. One line an outage says so."""
        lost = len(piece) + len(self._suspects)
        self._suspects.clear()
        self._health.drops(lost)
        self._drop("exhausted", lost)
        self._done(piece, delivered=0, dropped=lost)

    # -- moving on

    def _done(self, piece: Piece, *, delivered: int, dropped: int = 0) -> None:
        self._hand.pop()
        if not self._hand:
            self._is_probing = self._probe_passed = False
        self._move(piece, delivered=delivered, dropped=dropped)

    def _move(self, piece: Piece, *, delivered: int, dropped: int = 0) -> None:
        """Everything up to the end of `piece` is settled: count it, and let the source and waiters know."""
        progress = self.progress
        settled = delivered + len(piece.delivered) + len(piece.dead) + dropped
        progress.delivered += delivered + len(piece.delivered)
        progress.dead += len(piece.dead)
        progress.filtered += piece.end - progress.scanned - settled
        progress.scanned = piece.end
        self._source.acknowledge(self.name, piece.end)
        self._notify()

    def _forfeited(self, entry: Entry) -> None:
        if self.subscription.wants(entry[0].type):
            self._drop("overflow", 1)
        else:
            self.progress.filtered += 1

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self.progress.drop(reason, count)
            self._on_drop(reason, count)

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _hold(self, hold: HoldError) -> None:
        """Stand still, health red, until it is time to look again or somebody says so."""
        self._health.holds(hold)
        seconds = self._settings.retry.max if hold.slowly else math.inf
        with anyio.CancelScope(deadline=anyio.current_time() + seconds) as self._holding:
            await anyio.sleep_forever()
        self._holding = None
