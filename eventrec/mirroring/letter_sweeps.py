"""Looks through the dead letters that are kept for a mirror alone, and deletes those that it has as settled."""

from __future__ import annotations

import math
from time import monotonic
from typing import TYPE_CHECKING, Final

from eventrec.delivery.letters.kept import sweep_letters
from eventrec.errors import LogError
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SWEEP_PAUSE: Final = 1.0
SWEEP_SHARE: Final = 20
"""Looking which dead letters are settled reads all of them: so much longer than it takes it is not done again."""

_logger = get_logger("eventrec.mirroring")


class SweepTimes:
    """When to look: once letters may be settled that were not at the last look, and after a pause. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._are_new = True
        self._not_before = -math.inf
        self._began = 0.0

    def note_new(self) -> None:
        """Letters may be settled by now that were not."""
        self._are_new = True

    def begin(self) -> bool:
        """Whether a look is due; it begins then, and is followed by `end`."""
        now = self._clock()
        if not self._are_new or now < self._not_before:
            return False
        self._are_new, self._began = False, now
        return True

    def end(self) -> None:
        """The look has ended: the longer it took, the longer is the pause."""
        now = self._clock()
        self._not_before = now + max(SWEEP_PAUSE, SWEEP_SHARE * (now - self._began))


async def sweep_settled(directory: Path, times: SweepTimes, *, mirror: str) -> None:
    """Delete the letters in `directory` that are settled, if a look is due. What the disk refuses is said, and left."""
    if times.begin():
        try:
            await in_thread(sweep_letters, directory)
        except (LogError, OSError) as exc:
            _logger.warning("settled dead letters not deleted", mirror=mirror, error=described(exc))
        times.end()
