"""What is needed of one log beside what we deliver of it ourselves, and so what of it may be deleted."""

from __future__ import annotations

import math
from time import monotonic
from typing import TYPE_CHECKING, Final

from eventrec.delivery.mirror_hold import MirrorHold
from eventrec.errors import LogError
from eventrec.log.segment import list_segments
from eventrec.runs.files import file_name
from eventrec.runs.others import OtherCheckpoints
from eventrec.runs.retention import Kept, Retain
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from eventrec.delivery.delivered_log import DeliveredLog
    from eventrec.runs.checkpoint import Saved
    from eventrec.runs.run import Run

_logger = get_logger("eventrec.delivery")

OTHERS_SECONDS: Final = 2.0
"""How often it looks how far others are with a log of our own, where something of that could go."""


class Needs:
    """What subscriptions of others, mirrors and `retain` still need of `log`, which is that of `run`.

    `ours` are the subscriptions that the caller delivers: how far these are it says at each question. `saved` is what
    was seen of all checkpoints, `first` the first record of the log. Methods that look at the disk are `Blocking`, and
    for one thread at a time; the others say what was seen last, to any thread.

    Attributes:
        kept_for_mirrors: The mirrors that lacked something when the log was to be deleted; None: it is not known which.
        is_given_up: Whether all of it was given up to the disk bound.
    """

    def __init__(
        self,
        run: Run,
        log: DeliveredLog,
        ours: Collection[str],
        saved: Saved,
        *,
        first: int,
        retain: Retain,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.kept_for_mirrors: list[str] | None = []
        self.is_given_up = False
        self._run = run
        self._log = log
        self._has_ours = bool(ours)
        self._others = OtherCheckpoints(run, ours, saved, first=first)
        self._mirrors = MirrorHold(run)
        self._retain = retain
        self._clock = clock
        self._oldest = first
        """Where the oldest segment begins, as of the last look."""
        self._looked_at = -math.inf
        self._is_hidden = False
        """Whether the last look at what others need was refused."""

    def __repr__(self) -> str:
        return f"<Needs of {self._run.id}: {self.of_others}>"

    # -- as of the last look

    @property
    def of_others(self) -> dict[str, int]:
        """From which offset on each subscription of others needs it."""
        return self._others.needed

    @property
    def is_retained(self) -> bool:
        """Whether it is kept for a while once it is settled."""
        return bool(self._retain) and not self.is_given_up

    @property
    def has_sealed(self) -> bool:
        """Whether there is a segment that is not written any more. Of a log of our own."""
        return self._log.extent.first > self._oldest

    def lowest(self, settled: int) -> int:
        """Below which offset no subscription needs anything, where ours are past `settled`."""
        return self._others.lowest(settled)

    # -- looks

    def look(self) -> None:
        """Blocking. Look how far the subscriptions of others are.

        Raises:
            OSError: It cannot be told: nothing may go.
        """
        self._others.look()

    def deletable_below(self, settled: int) -> int:
        """Blocking. The offset below which segments may go, where ours are past `settled`; 0: none may.

        It looks how far others are where that could change the answer, but not at every call.

        Raises:
            OSError, LogError: It cannot be told.
        """
        firsts = list_segments(self._run.storage)
        self._oldest = firsts[0] if firsts else self._oldest
        below = self._passed(firsts, settled)
        return below if firsts and below > firsts[0] else 0

    def has_deletable(self, settled: int) -> bool:
        """Blocking. Whether anything may go; also has others looked at, where we deliver nothing ourselves."""
        try:
            if not self._has_ours:
                self.look()
            return self.deletable_below(settled) > 0
        except (OSError, LogError):
            return False  # It is tried again.

    def _passed(self, firsts: list[int], settled: int) -> int:
        if len(firsts) < 2 or firsts[1] > settled:  # noqa: PLR2004 - the last one is written
            return 0
        is_held = self._others.lowest(settled) < firsts[1]
        if is_held and self._clock() - self._looked_at < OTHERS_SECONDS:
            return 0
        self._looked_at = self._clock()
        self._look_or_say()
        return self._outlived(self._mirrors.lowest(self._others.lowest(settled)))

    def _look_or_say(self) -> None:
        try:
            self.look()
        except OSError as exc:
            if not self._is_hidden:
                _logger.warning(
                    "what others need is not known, so nothing is deleted", log=str(self._run.id), error=described(exc)
                )
            self._is_hidden = True
        else:
            self._is_hidden = False

    def _outlived(self, lowest: int) -> int:
        """The offset below which segments go, of those that all are past."""
        done = [each for each in self._log.sealed() if each[1] <= lowest]
        count = self._retain.outlived([Kept(size, age) for _, _, size, age in done])
        return done[count - 1][1] if count else 0

    def sync(self) -> None:
        """Blocking. Before something goes: what was seen of others survives a power cut, once the folder is synced.

        Raises:
            OSError: It may not: nothing may go.
        """
        self._others.sync()

    def is_mirrored(self, scanned: Mapping[str, int]) -> bool:
        """Blocking. Whether no mirror lacks anything of it, checkpoints included; `scanned` are those of ours."""
        if self.is_given_up:
            return True
        saved = {file_name(name): each for name, each in {**self.of_others, **scanned}.items()}
        self.kept_for_mirrors = self._mirrors.lacking(self._log.written, saved)
        return self.kept_for_mirrors == []

    def of_mirrors(self) -> list[int]:
        """Blocking. From which offset on each mirror needs it."""
        return list((self._mirrors.positions() or {}).values())

    # -- what the disk bound takes

    def retain_nothing(self) -> None:
        """What is settled is kept no longer."""
        self._retain = Retain()

    def forfeit(self, end: int) -> dict[str, int]:
        """What others need below `end` is held no longer: how many records each, at most."""
        return self._others.forfeit(end)

    def forfeit_of_mirrors(self, end: int) -> dict[str, int]:
        """Blocking. What mirrors lack below `end` is held no longer: how many records each, at most."""
        return self._mirrors.forfeit(end)

    def give_up(self, end: int) -> dict[str, int]:
        """All of it, which ends at `end`, is held no longer: how many records others lose."""
        self.is_given_up = True
        lost = self._others.forfeit(end)
        self._others.give_up()
        self._mirrors.give_up(end)
        return lost
