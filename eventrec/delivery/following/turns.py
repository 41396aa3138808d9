"""Which live logs are followed now, where there are more than may be: decided without a disk and without a loop.

wanted     it may have something for us: followed as soon as there is room, the one that waits longest first
waiting    wanted, and not before a time: it could not be followed, or is delivered by its owner
quiet      it has not moved for long, and all of it is delivered: closed, and only looked at
limit      where descriptors run out half as many are followed, and more again later
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

from eventrec.delivery.orphans.queue import FIRST_PAUSE, LONGEST_PAUSE, Failures

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from uuid import UUID

MAX_FOLLOWED: Final = 32
"""Logs followed at once; each costs a few descriptors, and memory. Where more have something, they take turns."""

QUIET_SECONDS: Final = 60.0
"""After so long without a record a log is closed, and only looked at."""

TURN_SECONDS: Final = 5.0
"""Where others wait, a log that has something to deliver is followed for so long before another one is."""


class Followed(Protocol):
    """A log that is followed."""

    @property
    def is_settled(self) -> bool:
        """Whether all that is written of it is delivered."""


class FollowTurns:
    """Who is followed, who waits. `clock` gives seconds, and never goes back.

    Attributes:
        limit: How many logs may be followed at once.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.limit = MAX_FOLLOWED
        self._clock = clock
        self._wanted: dict[UUID, None] = {}
        self._opened_at: dict[UUID, float] = {}
        self._moved_at: dict[UUID, float] = {}
        self._failures: dict[UUID, Failures] = {}
        self._not_before: dict[UUID, float] = {}
        self._shrunk_at = 0.0

    def __repr__(self) -> str:
        return f"<FollowTurns {len(self._wanted)} wanted, at most {self.limit}>"

    # -- what befalls a log

    def note_moved(self, id_: UUID) -> None:
        """Something was written to it."""
        self._moved_at[id_] = self._clock()

    def note_wanted(self, id_: UUID) -> None:
        """It may have something for us, and is not followed, or ends."""
        self._wanted[id_] = None

    def note_opened(self, id_: UUID) -> None:
        """It is followed from now on."""
        self._opened_at[id_] = self._clock()
        self._failures.pop(id_, None)

    def note_failed(self, id_: UUID) -> bool:
        """It could not be followed; it is wanted again after a pause that grows. Whether it is the first failure."""
        failures = self._failures.setdefault(id_, Failures(FIRST_PAUSE, LONGEST_PAUSE))
        is_first = failures.note_failed()
        self._wanted[id_] = None
        self.wait(id_, failures.pause)
        return is_first

    def wait(self, id_: UUID, seconds: float) -> None:
        """Do not open it for so long, wanted or not."""
        self._not_before[id_] = self._clock() + seconds

    def forget(self, id_: UUID) -> None:
        """It is not another process's any more."""
        for known in (self._wanted, self._moved_at, self._opened_at, self._failures, self._not_before):
            known.pop(id_, None)

    # -- what follows

    def is_any_ready(self) -> bool:
        """Whether one that is wanted could be opened now, if there were room."""
        now = self._clock()
        return any(self._not_before.get(id_, now) <= now for id_ in self._wanted)

    def ready(self, followed: Collection[UUID]) -> Iterator[UUID]:
        """Those to be opened, the one that waits longest first; none that is `followed` when it is its turn."""
        now = self._clock()
        for id_ in list(self._wanted):
            if id_ in self._wanted and self._not_before.get(id_, now) <= now and id_ not in followed:
                yield id_

    def take(self, id_: UUID) -> None:
        """It is being opened: not wanted any more."""
        self._wanted.pop(id_, None)

    def to_make_room(self, followed: Mapping[UUID, Followed]) -> UUID | None:
        """Which of `followed` is to end so that another one can begin: one without work, or that had its turn."""
        before = self._clock() - TURN_SECONDS
        ready = [
            (not each.is_settled, self._opened_at[id_], id_)
            for id_, each in followed.items()
            if each.is_settled or self._opened_at[id_] < before
        ]
        return min(ready)[2] if ready else None

    def quiet(self, followed: Mapping[UUID, Followed]) -> list[UUID]:
        """Those of `followed` that are quiet."""
        before = self._clock() - QUIET_SECONDS
        return [id_ for id_, each in followed.items() if self._moved_at.get(id_, 0.0) < before and each.is_settled]

    def shrink(self, followed: Mapping[UUID, Followed]) -> list[UUID]:
        """Descriptors ran out: follow half as many from now on. Which of `followed` are to end for that."""
        self.limit, self._shrunk_at = max(1, len(followed) // 2), self._clock()
        rest = sorted(followed, key=lambda id_: (not followed[id_].is_settled, self._opened_at[id_]))
        return rest[: len(rest) - self.limit]

    def grow(self) -> None:
        """Where descriptors ran out long ago, follow twice as many."""
        if self.limit < MAX_FOLLOWED and self._clock() - self._shrunk_at > QUIET_SECONDS:
            self.limit, self._shrunk_at = min(2 * self.limit, MAX_FOLLOWED), self._clock()
