"""What the mirrors of a log directory still lack of one log: its owner keeps that, within the disk bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec.runs.mirrors import Mirrors
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec.runs.run import Run

_logger = get_logger("eventrec.delivery")


class MirrorHold:
    """What is held of the log of `run` for mirrors. Blocking; for one thread at a time."""

    def __init__(self, run: Run) -> None:
        self._mirrors = Mirrors(run.directory)
        self._id = run.id
        self._forfeited = 0
        """Below this, mirrors lost to the disk bound what they lacked."""
        self._is_unreadable = False

    def __repr__(self) -> str:
        return f"<MirrorHold of {self._id}>"

    def lowest(self, offset: int) -> int:
        """`offset`, or less, where a mirror lacks what lies below it."""
        positions = self.positions()
        return 0 if positions is None else min([offset, *positions.values()])

    def positions(self) -> dict[str, int] | None:
        """Up to where each mirror needs nothing of it any more; None where that is not known: then all is held."""
        try:
            found = self._mirrors.of_log(self._id)
        except OSError as exc:
            if not self._is_unreadable:
                _logger.warning("mirrors unreadable, so nothing is deleted", log=str(self._id), error=described(exc))
            self._is_unreadable = True
            return None
        self._is_unreadable = False
        return {name: max(each.next_offset, self._forfeited) for name, each in found.items()}

    def lacking(self, end: int, checkpoints: Mapping[str, int]) -> list[str] | None:
        """The mirrors that lack records below `end`, or one of `checkpoints`; None where that is not known.

        `checkpoints` give the `scanned` of each by the name of its file.
        """
        if self._forfeited >= end:
            return []
        try:
            found = self._mirrors.of_log(self._id)
        except OSError:
            return None
        return sorted(name for name, each in found.items() if each.lacks(end, checkpoints))

    def give_up(self, end: int) -> None:
        """What mirrors lack below `end` is held no longer. Does not block."""
        self._forfeited = max(self._forfeited, end)

    def forfeit(self, end: int) -> dict[str, int]:
        """What mirrors lack below `end` is held no longer: how many records each, at most."""
        positions = self.positions() or {}
        self.give_up(end)
        return {name: end - at for name, at in positions.items() if at < end}
