"""What `record()` refused, to be said in the log: by the loop, not by the caller, and once per type and minute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_KINDS: Final = 1_000
"""Kinds remembered at once; types made from user input must not fill the memory."""

_MINUTE: Final = 60.0


class Refusals:
    """Notes from any thread; `say` writes them where `log` leads. `now` is monotonic, in seconds."""

    def __init__(self, log: Any, now: Callable[[], float]) -> None:
        self._log = log
        self._now = now
        self._notes: dict[tuple[str, str], tuple[int, str]] = {}
        self._said: dict[tuple[str, str], float] = {}

    def note(self, kind: str, reason: str, detail: str) -> None:
        """One event of `kind` was refused. Never waits; beyond 1,000 kinds a note is dropped."""
        key = (kind, reason)
        count, _ = self._notes.get(key, (0, ""))
        if count or len(self._notes) < _KINDS:
            self._notes[key] = (count + 1, detail)

    def say(self) -> None:
        """One line for each kind and reason that was not named within the last minute."""
        now = self._now()
        for key in list(self._notes):
            if now - self._said.get(key, -_MINUTE) < _MINUTE:
                continue
            kind, reason = key
            count, detail = self._notes.pop(key)
            if len(self._said) >= _KINDS:
                self._said.clear()
            self._said[key] = now
            self._log.warning("events refused", type=kind, reason=reason, count=count, detail=detail)
