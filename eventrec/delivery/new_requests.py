"""What operators ask of this process: each request applied once, however often its file is read."""

from __future__ import annotations

from time import monotonic, time
from typing import TYPE_CHECKING

from eventrec.runs.requests import KEPT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventrec.runs.requests import OperatorRequest


class NewRequests:
    """Those that were made since this process began to deliver.

    `clock` gives seconds since the epoch, and counts at the first look alone: of what is there already, it tells what
    was asked since then. What comes later is new whenever it says that it was asked: the clock of the machine may have
    been set meanwhile, or the operator sits at another one. `monotonic` says how long a request was not found.

    A request is known by what it says: its file may be written, and found, later than it was asked for.
    """

    def __init__(self, clock: Callable[[], float] = time, *, monotonic: Callable[[], float] = monotonic) -> None:
        self._began = clock()
        self._monotonic = monotonic
        self._is_first_look = True
        self._seen: dict[OperatorRequest, float] = {}
        """When each of them was found last, applied or not."""

    def __repr__(self) -> str:
        return f"<NewRequests {len(self._seen)} seen>"

    def among(self, found: Iterable[OperatorRequest]) -> list[OperatorRequest]:
        """Those of `found` that are to be applied now, in the same order. None of them is returned again."""
        now, each_once = self._monotonic(), list(dict.fromkeys(found))
        new = [each for each in each_once if each not in self._seen]
        if self._is_first_look:
            new = [each for each in new if each.asked >= self._began]
        self._is_first_look = False
        self._seen |= dict.fromkeys(each_once, now)
        self._seen = {each: at for each, at in self._seen.items() if now - at < KEPT_SECONDS}
        return new
