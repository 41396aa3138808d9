"""What was lost after it was taken, told to the application's `on_drop`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = get_logger("eventrec.recorder")

_LONGEST: Final = 200


class Drops:
    """Calls `on_drop(reason, count)`, where there is one; what it raises is logged."""

    def __init__(self, on_drop: Callable[[str, int], object] | None) -> None:
        self._on_drop = on_drop

    def tell(self, reason: str, count: int) -> None:
        """`count` records were lost for `reason`. On the loop's thread."""
        if self._on_drop is None:
            return
        try:
            self._on_drop(reason, count)
        except Exception as exc:
            _logger.exception("on_drop failed", error=described(exc)[:_LONGEST])
