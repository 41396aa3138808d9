"""What `record()` refused, and what it left out, said in the logging once per type and minute.

Not by the caller, who must not wait.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventrec.events.reasons import Reason

_KINDS: Final = 1_000
"""Kinds remembered at once; types made from user input must not fill the memory."""

_MINUTE: Final = 60.0

_UNRECORDED: Final = "unrecorded"
_TO_FIX: Final = "derive from EventModel or EventStruct, or override payload"

UNSAID: Final[tuple[Reason, ...]] = ("forked", "no_writer")
"""Why there is neither a loop nor a writer to say it."""


class Refusals:
    """Notes from any thread; `say` writes them where `log` leads. `now` is monotonic, in seconds."""

    def __init__(self, log: Any, now: Callable[[], float]) -> None:
        self._log = log
        self._now = now
        self._notes: dict[tuple[str, str], tuple[int, str]] = {}
        self._said: dict[tuple[str, str], float] = {}
        self._said_once: set[Reason] = set()

    def note(self, kind: str, reason: str, detail: str) -> None:
        """One event of `kind` was refused. Never waits; beyond 1,000 kinds a note is dropped."""
        key = (kind, reason)
        count, _ = self._notes.get(key, (0, ""))
        if count or len(self._notes) < _KINDS:
            self._notes[key] = (count + 1, detail)

    def note_unrecorded(self, kind: str, fields: Sequence[str]) -> None:
        """Events of `kind` have `fields`, of which nothing is recorded. Never waits."""
        self.note(kind, _UNRECORDED, ", ".join(fields))

    def say(self) -> None:
        """One line for each kind and reason that was not named within the last minute. From any thread."""
        now = self._now()
        for key in list(self._notes):
            if now - self._said.get(key, -_MINUTE) >= _MINUTE:
                self._say_one(key, now)

    def say_rest(self) -> None:
        """The same at the end, when nothing is said later: also of those that were named within the last minute."""
        now = self._now()
        for key in list(self._notes):
            self._say_one(key, now)

    def _say_one(self, key: tuple[str, str], now: float) -> None:
        note = self._notes.pop(key, None)
        if note is None:  # Another thread has just said it.
            return
        count, detail = note
        if len(self._said) >= _KINDS:
            self._said.clear()
        self._said[key] = now
        kind, reason = key
        if reason == _UNRECORDED:
            self._log.warning("fields are not recorded", type=kind, fields=detail, to_fix=_TO_FIX)
        else:
            self._log.warning("events refused", type=kind, reason=reason, count=count, detail=detail)

    def say_once(self, reason: Reason, why: object) -> None:
        """In the caller, the first time: events are refused for `reason`, and no one else is there to say it."""
        if reason not in self._said_once:
            self._said_once.add(reason)
            with suppress(Exception):
                self._log.warning("events refused in this process", reason=reason, why=str(why))
