"""When a failed batch is tried again, by tenacity's rules; the wait for it; two memories of what failed before."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import anyio
import tenacity

from eventrec.runtime.signals import pass_on

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from eventrec.options import RetrySettings

MAX_ASKED: Final = 86_400.0
"""Seconds: a destination that asks for more is asked again after a day."""


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
        return max(backoff(state), seconds_asked(_cause(state)))

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


def seconds_asked(failure: BaseException | None) -> float:
    """How long the destination asks to be left alone: 0 where it does not, or not in seconds; a day at most."""
    try:
        seconds = float(getattr(failure, "retry_after", None) or 0.0)
    except BaseException as exc:  # noqa: BLE001 - a header's text, a number too large, anything
        pass_on(exc)
        return 0.0
    if math.isnan(seconds):
        return 0.0
    return min(max(seconds, 0.0), MAX_ASKED)


class Pauses:
    """Seconds that grow from half a one to `limit`, doubling, for what is tried again by other rules than a batch."""

    FIRST: Final = 0.5

    def __init__(self, *, limit: float) -> None:
        self._limit = max(limit, self.FIRST)
        self._next = self.FIRST

    def next(self) -> float:
        """How long to wait now."""
        seconds, self._next = self._next, min(self._next * 2, self._limit)
        return seconds

    def start_over(self) -> None:
        """It went through."""
        self._next = self.FIRST


class Standstill:
    """Where a worker waits between two attempts: until the time is over, or an operator acts."""

    def __init__(self) -> None:
        self._scope: anyio.CancelScope | None = None
        self._is_next_cut = False

    async def wait(self, seconds: float) -> None:
        """Return after `seconds`, or as soon as `cut_short` is called; at once where it was called already."""
        with anyio.CancelScope(deadline=anyio.current_time() + seconds) as self._scope:
            if self._is_next_cut:
                self._scope.cancel()
            self._is_next_cut = False
            await anyio.sleep_forever()
        self._scope = None

    def cut_short(self) -> None:
        """Wait no longer. Where an attempt is being made, and fails, what it was made of has changed: not after it."""
        if self._scope is not None:
            self._scope.cancel()
        else:
            self._is_next_cut = True

    def start_over(self) -> None:
        """What was cut short is settled: the next failure is another one."""
        self._is_next_cut = False


class UnknownErrors:
    """Counts how often, and for how long, unknown errors came in a row: their texts may differ, as an address does."""

    TIMES: Final = 10
    SECONDS: Final = 60.0
    MAX_KINDS: Final = 16

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._times = 0
        self._since = 0.0

    def saw(self, error: Exception, *, now: float) -> bool:
        """Note `error`; True where its class is new, and so worth a traceback."""
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        if not self._times:
            self._since = now
        self._times += 1
        is_new = kind not in self._seen and len(self._seen) < self.MAX_KINDS
        if is_new:
            self._seen.add(kind)
        return is_new

    def is_stuck(self, *, now: float) -> bool:
        """Ten over a minute or more, and nothing passed: not an accident any more."""
        return self._times >= self.TIMES and now - self._since >= self.SECONDS

    def forget(self) -> None:
        """Something succeeded."""
        self._seen.clear()
        self._times = 0


class Brake:
    """Tells when records of one type are refused for good so often that it must be a bad deploy.

    A type is watched from its first dead letter on; over half of its last 1,000 records pull the brake. At most 1,000
    types are watched: the one that was heard of longest ago is forgotten first.
    """

    WINDOW: Final = 1_000
    MAX: Final = WINDOW // 2
    MAX_TYPES: Final = 1_000

    def __init__(self) -> None:
        self._watched: OrderedDict[str, _Watched] = OrderedDict()

    def __len__(self) -> int:
        """How many types are watched."""
        return len(self._watched)

    def note(self, kind: str, *, dead: bool) -> bool:
        """One record of type `kind` was settled; True where the brake must be pulled."""
        watched = self._watched.get(kind)
        if watched is None:
            if not dead:
                return False
            watched = self._watched[kind] = _Watched()
            if len(self._watched) > self.MAX_TYPES:
                self._watched.popitem(last=False)
        self._watched.move_to_end(kind)
        watched.note(dead=dead)
        if not watched.dead:
            del self._watched[kind]
        return watched.dead > self.MAX

    def distrust(self, kinds: Iterable[str]) -> None:
        """An earlier process was paused for these types, and no operator ended that: one more that dies is enough."""
        for kind in kinds:
            watched = self._watched.get(kind)
            if watched is None or watched.dead < self.MAX:
                self._watched[kind] = _Watched(dead=self.MAX)
                self._watched.move_to_end(kind)

    @property
    def tight(self) -> list[str]:
        """The types of which one more that dies pulls the brake, as far as is known."""
        return sorted(kind for kind, watched in self._watched.items() if watched.dead >= self.MAX)

    def is_tight(self, kind: str) -> bool:
        """Whether `kind` is one of these."""
        watched = self._watched.get(kind)
        return watched is not None and watched.dead >= self.MAX

    def release(self) -> None:
        """An operator looked at it: begin to watch again."""
        self._watched.clear()


class _Watched:
    """What became of the last records of one type: the newest as the lowest bit, set where it died."""

    __slots__ = ("_outcomes", "dead")
    _ALL: Final = (1 << Brake.WINDOW) - 1
    _OLDEST: Final = 1 << (Brake.WINDOW - 1)

    def __init__(self, *, dead: int = 0) -> None:
        """`dead` have died, the last ones that there were."""
        self._outcomes = (1 << dead) - 1
        self.dead = dead

    def note(self, *, dead: bool) -> None:
        self.dead += dead - bool(self._outcomes & self._OLDEST)
        self._outcomes = (self._outcomes << 1 | dead) & self._ALL
