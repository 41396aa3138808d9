"""What a recorder refuses while it is switched off, counted at the cost of one step of an iterator."""

from __future__ import annotations

import sys
from itertools import repeat
from operator import length_hint
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from eventrec.events.reasons import Reason

_MAX_EVENTS: Final = sys.maxsize


class SwitchedOff:
    """From its making on `refuse` counts each event for `reason`, and answers False. From any thread, without a lock.

    One step of an iterator is one step of the interpreter: no thread and no signal handler comes in between.
    """

    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason
        self._left = repeat(False, _MAX_EVENTS)  # noqa: FBT003 - what is repeated
        self.refuse = self._left.__next__
        """Counts one event."""

    def __repr__(self) -> str:
        return f"<SwitchedOff {self.reason} refused={self.count}>"

    @property
    def count(self) -> int:
        """How many events were refused so far."""
        return _MAX_EVENTS - length_hint(self._left)
