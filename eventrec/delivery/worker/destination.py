"""Where one subscription's batches go: opened, asked where it is, sent to, retired and closed here alone."""

from __future__ import annotations

import math
from inspect import isawaitable
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.worker.containment import EndedFromWithinError, contained, in_own_task
from eventrec.delivery.worker.health import HoldError
from eventrec.delivery.worker.outcome import Hold, NotAwaitableError, error_text
from eventrec.errors import EventrecError
from eventrec.handler import EventHandler
from eventrec.runs.holds import DESTINATION_CHANGED
from eventrec.runtime.logging import described, get_logger, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from uuid import UUID

    from eventrec.delivery.subscription import NewDestination, Subscription
    from eventrec.delivery.worker.health import SubscriptionHealth
    from eventrec.delivery.worker.ledger import Ledger
    from eventrec.handler import DestinationCheckpoints
    from eventrec.records.batch import Batch

_logger = get_logger("eventrec.delivery")

_CLOSE_SECONDS: Final = 10.0
"""How long a handler may take to close: a hanging one must not hang its subscription."""


_LEAST_IDLE: Final = 1.0
"""Seconds: a destination is not asked more often while there is nothing to send, whatever its handler says."""

MAX_OFFSET: Final = (1 << 48) - 1
"""Ids of rows have 48 bits for it."""


class InvalidAnswerError(EventrecError):
    """A handler's `DestinationCheckpoints` answered what is not an answer: a defect of the handler."""


class Destination:
    """The handler of `subscription`, as a worker of the log `log_id` uses it.

    Whatever the handler throws comes out as an `Exception`, except a cancellation that was asked for.
    """

    def __init__(
        self,
        subscription: Subscription,
        log_id: UUID,
        handler: EventHandler,
        ledger: Ledger,
        health: SubscriptionHealth,
    ) -> None:
        own = subscription.handler
        self.prepares = getattr(type(own), "prepare", EventHandler.prepare) is not EventHandler.prepare
        """Whether it may be told what comes next."""
        self.knows_tokens = is_true(own, "dedupes_by_token")
        """Whether it drops a batch whose token it has seen."""
        self.is_uncertain = True
        """Whether it must be asked where it is before anything is sent."""
        self._name = subscription.name
        self._log_id = log_id
        self._handler = handler
        self._ledger = ledger
        self._health = health
        self._is_open = False
        self._must_close = False
        self._default_on_new: NewDestination = subscription.on_new_destination
        self._on_new: NewDestination = subscription.on_new_destination

    def __repr__(self) -> str:
        state = "closed" if not self._is_open else "uncertain" if self.is_uncertain else "ready"
        return f"<Destination of {self._name!r} {state}>"

    def decide(self, start: NewDestination) -> None:
        """Where to begin if it turns out to be another one: until it has answered."""
        self._on_new = start

    async def get_ready(self) -> int | None:
        """Open it, if need be, and ask where it is, after anything that leaves that uncertain.

        Returns its next offset; None: it was not asked. It stays uncertain until `note_ready`.

        Raises:
            HoldError: It is another one than before, and an operator has to decide.
        """
        with contained(), self._health.asking():
            if not self._is_open:
                self._health.note_opening()
                self._must_close = self.is_uncertain = True
                await self._handler.open()
                self._is_open = True
            if self.is_uncertain and (checkpoints := self._handler.checkpoints) is not None:
                return await self._ask(checkpoints)
        return None

    def note_ready(self) -> None:
        """Its answer was taken in: send."""
        self.is_uncertain = False
        self._health.note_ready()

    async def _ask(self, checkpoints: DestinationCheckpoints) -> int:
        ledger, found = self._ledger, destination_id_of(await checkpoints.destination_id())
        # A destination that has no row of ours, though we have been there, lost it together with our rows.
        start = ledger.progress.acknowledged if ledger.destination is None else ledger.progress.start
        if ledger.destination not in (None, found):
            if self._on_new == "pause":
                # The next look opens it again: a connection that stands would lead to this one for good.
                await self.close()
                raise HoldError(Hold(DESTINATION_CHANGED))
            _logger.warning("destination changed", subscription=self._name, start=self._on_new)
            start = await ledger.begin_again(at_oldest=self._on_new == "earliest")
        answer = next_offset_of(await checkpoints.resume(self._log_id, self._name, start))
        if answer > ledger.furthest:
            raise HoldError(Hold(f"the destination is at {answer}, and the log ends at {ledger.furthest}"))
        # Not before it has our row: else the decision would be forgotten with an answer that is lost.
        ledger.note_destination(found)
        self._on_new = self._default_on_new
        return answer

    def distrust(self) -> None:
        """Ask where it is before anything more is sent."""
        self.is_uncertain = True

    async def handle(self, batch: Batch) -> None:
        """On return all of `batch` is safe there; else it is uncertain where it is."""
        try:
            with contained(), self._health.asking(is_batch=True):
                await hand_over(self._handler, batch)
        except BaseException:
            self.is_uncertain = True
            raise

    async def prepare(self, batch: Batch) -> bool:
        """Let it get ready for `batch`; False where it failed: `handle` will meet the reason again."""
        try:
            with contained(), self._health.asking():
                await self._handler.prepare(batch)
        except Exception:  # noqa: BLE001 - foreign code
            return False
        return True

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether it can be asked where it is."""
        with contained():
            return self._handler.checkpoints is not None

    @property
    def idle_check_seconds(self) -> float:
        """After how long without a batch it is asked where it is; infinity: never."""
        if not self._is_open:
            return math.inf
        try:
            with contained():
                checkpoints = self._handler.checkpoints
                said = None if checkpoints is None else checkpoints.idle_check_seconds
                seconds = math.inf if said is None else float(said)
                return math.inf if math.isnan(seconds) else max(seconds, _LEAST_IDLE)
        except Exception:  # noqa: BLE001 - foreign code: the next batch meets it
            return math.inf

    async def retire(self, end: int) -> None:
        """Have it remember that everything below `end`, which is the end, is settled. What it throws comes out."""
        with contained():
            if (checkpoints := self._handler.checkpoints) is not None:
                await checkpoints.retire(self._log_id, self._name, end)

    async def close(self, *, is_last: bool = False) -> None:
        """Close it, also where opening it failed half-way; its errors end in a log line.

        `is_last`: no worker uses the handler any more, so it is closed also where another one has opened it.
        """
        if not (self._must_close or is_last):
            return
        self._must_close = self._is_open = False
        self.is_uncertain = True
        with self._health.asking():
            await close_handler(self._handler, self._name)

    def abandon(self) -> None:
        """In the child of a fork: never use the handler again, whose connections are the parent's."""
        self._handler, self.prepares = _ElsewhereHandler(), False


async def close_handler(handler: EventHandler, name: str) -> None:
    """Close the handler of subscription `name`; its errors end in a log line."""
    try:
        with anyio.move_on_after(_CLOSE_SECONDS), contained():
            await handler.close()
    except Exception as exc:  # noqa: BLE001 - foreign code, at the end of its life
        _logger.warning("handler failed to close", subscription=name, error=error_text(exc))


async def close_in_own_task(close: Callable[[], Coroutine[object, object, None]], name: str) -> None:
    """Have `close` close the handler of subscription `name`, whatever that does to the task it is called in."""
    try:
        await in_own_task(close, f"eventrec {name} closes")
    except EndedFromWithinError as exc:
        _logger.warning("handler failed to close", subscription=name, error=described(exc))


async def hand_over(handler: EventHandler, batch: Batch) -> None:
    """Have `handler` handle `batch`.

    Raises:
        NotAwaitableError: Its `handle` is a plain function.
        Exception: Whatever the handler raises.
    """
    answer: object = handler.handle(batch)  # Not every application has a type checker.
    if not isawaitable(answer):
        kind = type(handler).__name__
        raise NotAwaitableError(f"{kind}.handle gave back {type(answer).__name__}: write `async def handle`")
    await answer


def is_true(handler: EventHandler, name: str) -> bool:
    """Whether `handler` says so of itself; one that cannot say does not."""
    try:
        with contained():
            return bool(getattr(handler, name, False))
    except Exception as exc:  # noqa: BLE001 - foreign code
        _logger.warning("handler failed", attribute=name, error=error_text(exc))
        return False


def destination_id_of(answer: object) -> str:
    """A destination's id as it was answered.

    Raises:
        InvalidAnswerError: It is not a text that can be kept.
    """
    if not isinstance(answer, str) or not answer or text_of(answer) != answer:
        raise InvalidAnswerError(f"destination_id() answered {_shown(answer)}, which is not an id")
    return answer


def next_offset_of(answer: object) -> int:
    """A next offset as it was answered.

    Raises:
        InvalidAnswerError: It is not an offset that any log has.
    """
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer <= MAX_OFFSET:
        raise InvalidAnswerError(f"resume() answered {_shown(answer)}, which is not an offset")
    return int(answer)


def _shown(answer: object) -> str:
    """`answer` and what it is, in short."""
    return f"{type(answer).__name__} {text_of(answer)[:100]!r}"


class _ElsewhereHandler(EventHandler):
    """Stands in for a handler that lives in another process: a task that uses it waits until it is cancelled."""

    async def open(self) -> None:
        await anyio.sleep_forever()

    async def handle(self, batch: Batch) -> None:
        del batch
        await anyio.sleep_forever()
