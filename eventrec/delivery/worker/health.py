"""How a subscription is doing, in words: its state, and one log line when an outage starts and one when it ends."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from time import monotonic, time
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.delivery.worker.outcome import error_text
from eventrec.delivery.worker.retry import Brake
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from eventrec.delivery.worker.outcome import Hold
    from eventrec.runs.checkpoint import Checkpoint

_logger = get_logger("eventrec.delivery")


_SILENCE: Final = 10.0
_MAX_SILENCE: Final = 300.0
"""Seconds."""


class HoldError(Exception):
    """Nothing goes on before an operator acts."""

    def __init__(self, hold: Hold) -> None:
        super().__init__(hold.reason)
        self.hold = hold


class Outage:
    """What the workers of one subscription know together, however many logs wait.

    So an outage is said once, the brake hears of every log, and what died counts though its log is done.
    """

    def __init__(self) -> None:
        self.brake = Brake()
        self._said_addresses: set[str] = set()
        self.died = 0
        """Records that became dead letters."""
        self.since: float | None = None
        self.held_as: str | None = None
        self.has_said_dropped = False
        self.turn_since: float | None = None
        """When the handler was last given to one of several workers that take turns: monotonic, in seconds."""

    def note_address(self, name: str, address: str, log_id: UUID, checkpoint: Checkpoint) -> None:
        """`checkpoint` is delivered from, of the log `log_id`, to `address`: say it once where that was another one."""
        noted = checkpoint.address
        if checkpoint.is_unmet and noted and address and noted != address and noted not in self._said_addresses:
            self._said_addresses.add(noted)
            _logger.warning(
                "records go to another destination than they were recorded for", subscription=name, log=str(log_id)
            )

    def note_dead(self, count: int) -> None:
        """`count` records more."""
        self.died += count


class SubscriptionHealth:
    """The state of one subscription: waiting, opening, delivering, `retrying in 2.0 s`, `paused: …`, `holding: …`.

    `on_change` is called after each change, `outage` shared with the subscription's other workers. `clock` is
    monotonic, and may be asked from any thread.
    """

    def __init__(
        self,
        subscription: str,
        on_change: Callable[[], None],
        outage: Outage,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._state = "waiting"
        self._clock = clock
        self._asked: list[float] = []
        """When each call began that has not come back."""
        self._usual = 0.0
        """Seconds that the last batches took."""
        self.is_held = False
        """Paused or holding: red until something is delivered, or an operator calls `resume`."""
        self._subscription = subscription
        self._on_change = on_change
        self._outage = outage
        self._is_failing = False
        self.last_error: str | None = None
        """What the last attempt that failed said."""
        self.last_success: float | None = None
        """When something last went through, in seconds since the epoch."""

    @property
    def state(self) -> str:
        """In words."""
        seconds = self.unanswered
        return f"no answer for {seconds:.0f} s" if seconds is not None and self._is_silence(seconds) else self._state

    @property
    def trouble(self) -> str:
        """The state without what changes by itself, where something is wrong; else empty."""
        if self.is_silent:
            return "no answer"
        return self._state if self.is_held else "retrying" if self._is_failing else ""

    @property
    def unanswered(self) -> float | None:
        """Seconds since the handler was called; None: it is not called now. From any thread."""
        asked = self._asked.copy()
        return max(0.0, self._since(min(asked))) if asked else None

    @property
    def is_silent(self) -> bool:
        """Whether a call of the handler lasts much longer than is usual."""
        seconds = self.unanswered
        return seconds is not None and self._is_silence(seconds)

    def _is_silence(self, seconds: float) -> bool:
        return seconds >= min(max(_SILENCE, 3 * self._usual), _MAX_SILENCE)

    def _since(self, asked_at: float) -> float:
        """Seconds since then; but while other workers are served in between, the handler answers."""
        return self._clock() - max(asked_at, self._outage.turn_since or asked_at)

    def asking(self, *, is_batch: bool = False) -> AbstractContextManager[object]:
        """Around each call of the handler, from here on; how long it takes for a batch is what is usual."""
        asked_at = self._clock()
        self._asked.append(asked_at)
        # What leaves a generator's context manager is changed there, which an error that is frozen refuses.
        around = ExitStack()
        around.callback(self._answered, asked_at, is_batch=is_batch)
        return around

    def _answered(self, asked_at: float, *, is_batch: bool) -> None:
        if is_batch:
            self._usual = max(self._since(asked_at), self._usual / 2)
        self._asked.remove(asked_at)

    def note_silence(self) -> None:
        """Say once an outage that the handler does not answer, where it is so."""
        if self.is_silent and self._begins_outage():
            _logger.warning("delivery interrupted", subscription=self._subscription, error=self.state)

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt failed, and nothing went through since."""
        return self._is_failing

    def note_opening(self) -> None:
        self._set("opening")

    def note_ready(self) -> None:
        """Open, and where the destination is is known; an outage ends only with a delivery."""
        if not self._is_failing:
            self._set("delivering")

    def note_retry(self, seconds: float) -> None:
        self._set(f"retrying in {seconds:.1f} s")

    def note_delivery(self, lag: int) -> None:
        """Something went through."""
        outage = self._outage
        if outage.since is not None:
            seconds = round(anyio.current_time() - outage.since, 1)
            _logger.info("delivery restored", subscription=self._subscription, after_seconds=seconds, lag=lag)
        outage.since = outage.held_as = None
        self.last_success = time()
        self.is_held = self._is_failing = outage.has_said_dropped = False
        if self._state != "delivering":
            self._set("delivering")

    def note_failure(self, exc: Exception) -> None:
        """An attempt failed in a way that a later one may mend."""
        self.last_error = error_text(exc)
        if self._begins():
            _logger.warning("delivery interrupted", subscription=self._subscription, error=self.last_error)

    def note_unknown_failure(self, exc: Exception, *, is_new: bool) -> None:
        """An attempt failed with an error that is not a word of ours; a new one of these is worth a traceback."""
        self.last_error = error_text(exc)
        self._begins()
        if is_new:
            _logger.error("handler failed", subscription=self._subscription, error=self.last_error, exc_info=exc)

    def note_refusal(self, reason: str | None) -> None:
        """Records are set aside for `reason`, if any are: not an outage."""
        self.last_error = reason or self.last_error

    def note_hold(self, hold: Hold) -> None:
        """Nothing goes on; said once for as long as the reason is the same."""
        self.last_error = hold.reason
        self._begins()
        if self._outage.held_as != hold.state:
            self._outage.held_as = hold.state
            _logger.error("delivery on hold", subscription=self._subscription, state=hold.state)
        self.is_held = True
        self._set(hold.state)

    def release(self) -> None:
        """An operator acted."""
        self.is_held = False

    def note_drop(self, records: int) -> None:
        """The last attempt failed; said once an outage."""
        if not self._outage.has_said_dropped:
            self._outage.has_said_dropped = True
            _logger.warning("records dropped", subscription=self._subscription, reason="exhausted", records=records)

    def note_closed(self) -> None:
        self._set("closed")

    def _begins(self) -> bool:
        """Whether this begins an outage, and does not only prolong one."""
        self._is_failing = True
        return self._begins_outage()

    def _begins_outage(self) -> bool:
        if self._outage.since is not None:
            return False
        self._outage.since = anyio.current_time()
        return True

    def _set(self, state: str) -> None:
        self._state = state
        self._on_change()
