"""Which checkpoints of one log are on its disk, and which are to be saved: decisions about values, without a disk."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from eventrec.runs.checkpoint import Checkpoint


class Saving:
    """What was saved of a log's checkpoints, and synced. Times are the loop's, in seconds.

    Attributes:
        unsynced: The subscriptions whose last checkpoint may not survive a power cut.
    """

    def __init__(self) -> None:
        self.unsynced: set[str] = set()
        self._saved: dict[str, Checkpoint] = {}
        self._synced_at = -math.inf

    def __repr__(self) -> str:
        return f"<Saving saved={sorted(self._saved)} unsynced={sorted(self.unsynced)}>"

    def lose_all(self) -> None:
        """The directory is gone, and what was saved in it."""
        self._saved.clear()

    def due(self, now: Mapping[str, Checkpoint], *, sync: bool) -> dict[str, Checkpoint]:
        """Those of `now` that are to be saved: what changed, and what is to be synced."""
        changed = {name: each for name, each in now.items() if each != self._saved.get(name)}
        self.unsynced.update(changed)
        return {name: now[name] for name in self.unsynced} if sync else changed

    def is_due(self, now: float, interval: float) -> bool:
        """Whether `interval` has passed since the last sync."""
        return now - self._synced_at >= interval

    def covers(self, names: Collection[str]) -> bool:
        """Whether all that is not synced is among `names`."""
        return set(names) >= self.unsynced

    def note(self, saved: Mapping[str, Checkpoint], *, synced_at: float | None) -> None:
        """`saved` are on the disk; all is synced where `synced_at` says when."""
        self._saved.update(saved)
        if synced_at is None:
            self.unsynced.update(saved)
        else:
            self.unsynced.clear()
            self._synced_at = synced_at
