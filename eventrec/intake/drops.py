"""What was lost after it was taken, told to the application's `on_drop`, and to the logging where nothing else does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from eventrec.runtime.logging import described, get_logger
from eventrec.runtime.signals import pass_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.intake.queue import Intake

_logger = get_logger("eventrec.recorder")

_LONGEST: Final = 200
_MINUTE: Final = 60.0


class Drops:
    """Collects losses where they happen, and tells of them later, when no account is being changed."""

    def __init__(self, on_drop: Callable[[str, int], object] | None, now: Callable[[], float] = time.monotonic) -> None:
        self.schedule: Callable[[Callable[[], None]], object] = lambda _: None
        """Has a call made on the loop soon."""
        self._on_drop = on_drop
        self._now = now
        self._untold: dict[str, int] = {}
        self._unsaid = 0
        self._said_at = -_MINUTE

    def note(self, reason: str, count: int) -> None:
        """`count` records were lost for `reason`. On the loop's thread."""
        if self._on_drop is None or not count:
            return
        is_first = not self._untold
        self._untold[reason] = self._untold.get(reason, 0) + count
        if is_first:
            self.schedule(self.tell)

    def note_pushed_out(self, intake: Intake) -> None:
        """What newer events pushed out of `intake` since the last call, which nothing else says. Likewise."""
        count = intake.take_pushed_out()
        if not count:
            return
        self.note("overflow", count)
        self._unsaid += count
        if self._now() - self._said_at >= _MINUTE:
            self._said_at = self._now()
            _logger.warning("oldest events dropped: the intake is full", events=self._unsaid)
            self._unsaid = 0

    def tell(self) -> None:
        """Call `on_drop(reason, count)` for each reason; what it raises is logged."""
        untold, self._untold = self._untold, {}
        for reason, count in untold.items():
            try:
                if self._on_drop is not None:
                    self._on_drop(reason, count)
            except BaseException as exc:
                # On trio, what comes out of here would end the application.
                pass_on(exc)
                _logger.exception("on_drop failed", error=described(exc)[:_LONGEST])
