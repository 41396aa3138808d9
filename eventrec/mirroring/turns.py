"""Whose turn it is, of the logs that have something to send: a few at once, and every one of them some time."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventrec.mirroring.schedule import Key

SLICE_BYTES: Final = 16 << 20
"""After so many a log makes room for one that waits."""

PATIENCE: Final = 64
"""Turns of others after which one that waits begins, though there is no room: these have little to send each time."""


class LogTurns:
    """At most about `limit` logs have turns, one after the other; the others wait.

    The newest that waits begins first. One that has had its slice waits until all that waited have begun.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[Key, None] = {}
        self._in_turns: deque[Key] = deque()
        self._bytes: dict[Key, int] = {}
        self._had: set[Key] = set()
        self._since_begun = 0

    def __repr__(self) -> str:
        return f"<LogTurns of {len(self._in_turns)} logs, {len(self._waiting)} wait>"

    def offer(self, keys: Iterable[Key]) -> None:
        """Those have something, or may have."""
        self._waiting = dict.fromkeys(sorted({*self._waiting, *keys}.difference(self._in_turns)))

    def take(self, *, has_begun: Callable[[Key], bool]) -> Key | None:
        """The log whose turn it is; None: there is none. One that `has_begun` before need not wait for room."""
        key = self._beginner(has_begun)
        if key is not None:
            del self._waiting[key]
            self._bytes[key] = self._since_begun = 0
            return key
        self._since_begun += 1
        return self._in_turns.popleft() if self._in_turns else None

    def _beginner(self, has_begun: Callable[[Key], bool]) -> Key | None:
        """The one of those that wait which begins now."""
        if not self._waiting:
            return None
        fresh = [key for key in self._waiting if key not in self._had]
        if not fresh:
            self._had.clear()
            fresh = list(self._waiting)
        if len(self._in_turns) < self._limit or has_begun(fresh[-1]) or fresh[-1] > max(self._in_turns):
            return fresh[-1]
        return fresh[0] if self._since_begun >= PATIENCE else None

    def give_back(self, key: Key, size: int) -> bool:
        """It had a turn of `size` bytes, and may have more. False: it waits now, since others do."""
        self._bytes[key] = self._bytes.get(key, 0) + size
        if self._bytes[key] >= SLICE_BYTES and self._waiting:
            self._had.add(key)
            self.offer([key])
            return False
        self._in_turns.append(key)
        return True
