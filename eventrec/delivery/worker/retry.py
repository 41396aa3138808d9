"""When a failed batch is tried again, by tenacity's rules; and two memories of what failed before."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import tenacity

from eventrec.errors import TransientError
from eventrec.runtime.logging import described

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventrec.options import RetrySettings


class TryAgainError(Exception):
    """An attempt failed in a way that another one may mend; the cause is attached."""


def retrying(
    settings: RetrySettings,
    *,
    sleep: Callable[[float], Awaitable[None]],
    before_sleep: Callable[[float], None],
) -> tenacity.AsyncRetrying:
    """Attempts of one batch: back-off as `settings` say, never shorter than the destination's own `retry_after`.

    After the last attempt the `TryAgainError` comes out. `before_sleep` is told the seconds.
    """
    backoff: tenacity.wait.wait_base
    if settings.full_jitter:
        backoff = tenacity.wait_random_exponential(
            multiplier=settings.first, max=settings.max, exp_base=settings.factor
        )
    else:
        backoff = tenacity.wait_exponential(multiplier=settings.first, max=settings.max, exp_base=settings.factor)

    def wait(state: tenacity.RetryCallState) -> float:
        cause = _cause(state)
        asked = cause.retry_after if isinstance(cause, TransientError) else None
        return max(backoff(state), asked or 0.0)

    def told(state: tenacity.RetryCallState) -> None:
        before_sleep(state.next_action.sleep if state.next_action else 0.0)

    return tenacity.AsyncRetrying(
        wait=wait,
        stop=tenacity.stop_never if settings.attempts is None else tenacity.stop_after_attempt(settings.attempts),
        retry=tenacity.retry_if_exception_type(TryAgainError),
        sleep=sleep,
        before_sleep=told,
        reraise=True,
    )


def _cause(state: tenacity.RetryCallState) -> BaseException | None:
    failure = state.outcome.exception() if state.outcome is not None else None
    return failure.__cause__ if failure is not None else None


class SameError:
    """Counts how often, and for how long, the same unknown error came in a row."""

    TIMES: Final = 10
    SECONDS: Final = 60.0

    def __init__(self) -> None:
        self._seen: str | None = None
        self._times = 0
        self._since = 0.0

    def saw(self, error: Exception, *, now: float) -> bool:
        """Note `error`; True where it is new, worth a traceback."""
        seen = described(error)
        if seen == self._seen:
            self._times += 1
            return False
        self._seen, self._times, self._since = seen, 1, now
        return True

    def is_stuck(self, *, now: float) -> bool:
        """Ten equal ones over a minute or more: not an accident any more."""
        return self._times >= self.TIMES and now - self._since >= self.SECONDS

    def forget(self) -> None:
        """Something succeeded."""
        self._seen = None
        self._times = 0


class Brake:
    """Tells when records of one type are refused for good so often that it must be a bad deploy.

    A type is watched from its first dead letter on; over half of its last 1,000 records pull the brake.
    """

    WINDOW: Final = 1_000
    MAX: Final = WINDOW // 2

    def __init__(self) -> None:
        self._outcomes: dict[str, deque[bool]] = {}
        self._dead: dict[str, int] = {}

    def __bool__(self) -> bool:
        """Whether any type is watched."""
        return bool(self._outcomes)

    def note(self, kind: str, *, dead: bool) -> bool:
        """One record of type `kind` was settled; True where the brake must be pulled."""
        outcomes = self._outcomes.get(kind)
        if outcomes is None:
            if not dead:
                return False
            outcomes = self._outcomes[kind] = deque(maxlen=self.WINDOW)
            self._dead[kind] = 0
        if len(outcomes) == self.WINDOW and outcomes[0]:
            self._dead[kind] -= 1
        outcomes.append(dead)
        self._dead[kind] += dead
        if not self._dead[kind]:
            del self._outcomes[kind], self._dead[kind]
            return False
        return self._dead[kind] > self.MAX

    def release(self) -> None:
        """An operator looked at it: begin to watch again."""
        self._outcomes.clear()
        self._dead.clear()
