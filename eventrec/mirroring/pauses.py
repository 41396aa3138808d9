"""Logs that a mirror leaves alone after they failed: for how long, and when they are well again.

paused    for a second after the first failure, twice as long after each that follows, a minute at most
offered   once a pause is over, the source is told of the log again
passed    it went on: for good where records came, or once that has lasted as long as the pause did
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventrec.mirroring.schedule import Key

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0


@dataclass(slots=True)
class _Pause:
    """A log is left alone until then; it went on at `passed_at`, which may not last."""

    until: float
    seconds: float
    passed_at: float | None = None


class CopyPauses:
    """Which logs are left alone. `clock` gives seconds, and never goes back."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._pauses: dict[Key, _Pause] = {}
        self._offered: set[Key] = set()
        """Of those that pause, the ones that the source was told of again."""

    def __repr__(self) -> str:
        return f"<CopyPauses of {len(self._pauses)} logs>"

    def note_failed(self, key: Key) -> bool:
        """It failed. Whether it was well before, so that the failure is to be said."""
        before, now = self._pauses.get(key), self._clock()
        is_new = before is None or (before.passed_at is not None and now - before.passed_at >= before.seconds)
        seconds = FIRST_PAUSE if before is None or is_new else min(2 * before.seconds, LONGEST_PAUSE)
        self._offered.discard(key)
        self._pauses[key] = _Pause(now + seconds, seconds)
        return is_new

    def note_passed(self, key: Key, *, records: int) -> bool:
        """It went on, by so many records. Whether its pause has ended by that."""
        pause = self._pauses.get(key)
        if pause is None:
            return False
        if pause.passed_at is None:
            pause.passed_at = self._clock()
        if records:
            del self._pauses[key]
        return bool(records)

    def take_lasting(self) -> list[Key]:
        """Those that went on, and have for as long as they paused: their pauses have ended."""
        now = self._clock()
        ended = [
            key
            for key, pause in self._pauses.items()
            if pause.passed_at is not None and now - pause.passed_at >= pause.seconds
        ]
        for key in ended:
            del self._pauses[key]
        return ended

    def due(self, limit: int) -> list[Key]:
        """At most `limit` whose pause is over, and that the source was not told of since it began."""
        now = self._clock()
        found = [key for key, pause in self._pauses.items() if key not in self._offered and pause.until <= now]
        return found[:limit]

    def note_offered(self, keys: Iterable[Key]) -> None:
        """The source was told of `keys`."""
        self._offered.update(keys)

    def note_all_offered(self) -> None:
        """The source was told of all copies."""
        self._offered = set(self._pauses)

    def forget(self, key: Key) -> None:
        """The log is gone."""
        self._pauses.pop(key, None)
