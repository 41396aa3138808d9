"""What of a part fails at the moment: its gravest trouble is its state, and each error is logged once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec.delivery.worker.outcome import error_text
from eventrec.errors import PauseError

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_SAID: Final = 16
"""How many different errors of one interruption are logged."""


class Troubles:
    """Of one part; several things that it does may fail at the same time, each with its own error."""

    def __init__(self) -> None:
        self._now: dict[str, tuple[str, bool]] = {}
        """By what failed: the error, and whether an operator has to act."""
        self._said: set[str] = set()

    def __repr__(self) -> str:
        return f"<Troubles {self._now}>"

    def __bool__(self) -> bool:
        return bool(self._now)

    @property
    def were_said(self) -> bool:
        """Whether any was logged since all was well."""
        return bool(self._said)

    @property
    def is_held(self) -> bool:
        """Whether an operator has to act."""
        return any(is_held for _, is_held in self._now.values())

    @property
    def state(self) -> str:
        """The gravest in words, of several the first; empty: there is none."""
        if not self._now:
            return ""
        error, is_held = max(self._now.values(), key=lambda trouble: trouble[1])
        return f"{'holding' if is_held else 'retrying'}: {error}"

    def note(self, of: str, exc: Exception) -> bool:
        """What `of` names failed; whether that is to be logged."""
        error = error_text(exc)
        self._now[of] = error, isinstance(exc, PauseError)
        is_new = error not in self._said and len(self._said) < _MAX_SAID
        if is_new:
            self._said.add(error)
        return is_new

    def end(self, of: Iterable[str]) -> bool:
        """What these names stand for works, or is over; whether any of it had failed."""
        ended = self._now.keys() & set(of)
        for name in ended:
            del self._now[name]
        return bool(ended)

    def clear(self) -> None:
        """All is well; what fails next is logged again."""
        self._now.clear()
        self._said.clear()
