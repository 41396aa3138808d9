"""What operators ask of this process: each request applied once, however often its file is read."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from eventrec.runs.requests import KEPT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventrec.runs.requests import OperatorRequest


class NewRequests:
    """Those that were made since this process began to deliver. `clock` gives seconds since the epoch.

    A request is known by what it says: its file may be written, and found, later than it was asked for.
    """

    def __init__(self, clock: Callable[[], float] = time) -> None:
        self._clock = clock
        self._began = clock()
        self._seen: set[OperatorRequest] = set()

    def __repr__(self) -> str:
        return f"<NewRequests {len(self._seen)} seen>"

    def among(self, found: Iterable[OperatorRequest]) -> list[OperatorRequest]:
        """Those of `found` that are to be applied now, in the same order. None of them is returned again."""
        since = max(self._began, self._clock() - KEPT_SECONDS)
        self._seen = {each for each in self._seen if each.asked >= since}
        new = [each for each in dict.fromkeys(found) if each.asked >= since and each not in self._seen]
        self._seen.update(new)
        return new
