"""Which orphans to adopt next: decided without a disk and without a loop.

orphan     no process holds its lock
adopted    we do, and our subscriptions deliver it
held       another process held it when we asked last; no change of the directory tells when it lets go
parked     given back, because what it lacks waits for a destination that is down, and other orphans wait for us
left       given back: what it lacks is not ours to deliver
paused     given back, to be tried again: its bytes, its checkpoints or its destination's row were refused
untrusted  it grew though we held its lock: another process writes it, and locks mean nothing there
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from uuid import UUID

FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 300.0

HELD_IN_A_ROUND: Final = 4
"""How many of those that others hold are asked for in a round: with many siblings, each looks at a few."""

_MANY_HELD: Final = 16
"""From more on each asks for one in turn in a round, and for more where that one is free."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Not before `until`; `seconds` is how long it lasts."""

    until: float
    seconds: float


class Failures:
    """How long to pause after a failure that follows others, in seconds: twice as long each time, from `first` on."""

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self.pause = 0.0
        """The pause that is due: none where nothing failed since the last success."""

    def note_failed(self) -> bool:
        """Something failed. Whether it is the first failure since something succeeded: that is to be said."""
        is_first = not self.pause
        self.pause = min(2 * self.pause, self._longest) or self._first
        return is_first

    def note_passed(self) -> None:
        """Something succeeded."""
        self.pause = 0.0


class Changes:
    """When a directory is to be listed again, by the time of its last change, which the file system tells.

    Two changes within an instant have one such time: after a look within that instant it is looked at again.
    """

    LONGEST: Final = 60.0
    """Seconds after which it is listed though nothing changed: what is half made there grows old without a change."""

    _INSTANT: Final = 0.1
    _COARSE_INSTANT: Final = 2.1
    """Where the file system keeps whole seconds, or every other one."""

    def __init__(self) -> None:
        self._seen: float | None = None
        self._until = 0.0

    def are_due(self, stamp: float, *, now: float, has_work: bool = False) -> bool:
        """Whether it is time to look, at `now`, at a directory that changed last at `stamp`.

        Where there is work left of what was seen last, a change can wait: it may be that work.
        """
        return now >= self._until or (stamp != self._seen and not has_work)

    def note_looked(self, stamp: float, *, at: float, now: float) -> None:
        """Everything was seen that was there `at` that time, which is on the clock of `stamp`; `now` is not."""
        instant = self._COARSE_INSTANT if stamp.is_integer() else self._INSTANT
        self._seen = stamp if at - stamp > instant else None
        self._until = now + self.LONGEST


class OrphanQueue:
    """Where each log of a directory stands, and which one is to be adopted next. Times are on any clock that rises."""

    def __init__(self) -> None:
        self.unreadable: set[UUID] = set()
        """Those whose format we do not know, or whose bytes the disk does not give."""
        self.untrusted: set[UUID] = set()
        self._found: set[UUID] = set()
        self._fresh: deque[UUID] = deque()
        """Those of which nothing is known yet, oldest first; those that are not among `_new` any more are passed."""
        self._new: set[UUID] = set()
        self._single: set[UUID] = set()
        """Those of `_new` that are not for a group."""
        self._adopted: set[UUID] = set()
        self._held: dict[UUID, None] = {}
        """The one that was asked for longest ago comes first."""
        self._to_ask: set[UUID] = set()
        """Those of `_held` to be asked for in this round."""
        self._parked: dict[UUID, frozenset[str]] = {}
        """The subscriptions it waits for, by log; the one parked first comes first."""
        self._left: set[UUID] = set()
        self._paused: dict[UUID, Pause] = {}

    def __repr__(self) -> str:
        return f"<OrphanQueue fresh={len(self._new)} adopted={len(self._adopted)} held={len(self._held)}>"

    @property
    def waiting(self) -> int:
        """How many logs were not tried here yet."""
        return len(self._new) - len(self._single)

    def look(self, ids: Sequence[UUID], found: set[UUID] | None = None) -> None:
        """Take note of what is in the directory now: `ids`. What went is forgotten.

        With many it takes its time: where they are sorted, and `found` is the same as a set, it does not.
        """
        ids, now = (sorted(ids), set(ids)) if found is None else (ids, found)
        self._left &= now
        self.unreadable &= now
        for gone in [*(self._parked.keys() - now), *(self._paused.keys() - now - self._adopted)]:
            self._parked.pop(gone, None)
            self._paused.pop(gone, None)
        self._held = {id_: None for id_ in self._held if id_ in now}
        self._to_ask &= now
        self._found = now
        known = self._adopted.union(self._held, self._parked, self._left, self._paused, self.untrusted)
        self._begin(ids, now - known)

    def _begin(self, ids: Iterable[UUID], new: set[UUID]) -> None:
        """`ids`, oldest first, hold all that is `new`."""
        self._fresh, self._new = deque(ids), new
        self._single &= new

    def begin_round(self, sample: Callable[[list[UUID], int], Iterable[UUID]] = lambda _ids, _count: ()) -> None:
        """Some of those that others held may be asked for again.

        Where there are many, one in turn, and a random `sample` of the others: siblings whose turns are in step would
        all ask for the same one.
        """
        count = HELD_IN_A_ROUND if len(self._held) <= _MANY_HELD else 1
        self._to_ask = set(islice(self._held, count))
        if count == 1:
            self._to_ask.update(sample(list(self._held), HELD_IN_A_ROUND - 1))

    @property
    def asked(self) -> tuple[UUID, ...]:
        """Those that others held, and that are to be asked for in this round."""
        return tuple(self._to_ask)

    def note_still_held(self, ids: Iterable[UUID]) -> None:
        """Other processes still hold `ids`. One that was answered otherwise meanwhile stays what it is."""
        for id_ in ids:
            if id_ in self._to_ask:
                self.note_held(id_)

    def next_group(self, limit: int, *, own: UUID) -> list[UUID]:
        """At most `limit` orphans to adopt together, the oldest first, of those of which nothing is known yet."""
        self._pass_known(own)
        return list(islice((id_ for id_ in self._fresh if id_ in self._new and id_ not in self._single), limit))

    def _pass_known(self, own: UUID) -> None:
        self._new.discard(own)
        while self._fresh and self._fresh[0] not in self._new:
            self._fresh.popleft()

    def next(
        self, limit: int, *, own: UUID, now: float, is_failing: Callable[[str], bool], only_single: bool = False
    ) -> list[UUID]:
        """At most `limit` orphans to adopt, the oldest first; then those parked for a destination that is back.

        `own` is the log that is written here; `only_single` leaves to groups what is for them. Each of them must be
        answered by one of the methods below.
        """
        self._pass_known(own)
        due = [id_ for id_, pause in self._paused.items() if pause.until <= now and id_ not in self._adopted]
        new: Iterable[UUID] = sorted(self._single) if only_single else (id_ for id_ in self._fresh if id_ in self._new)
        fresh = islice(new, limit)
        chosen = heapq.nsmallest(limit, {*due, *self._to_ask, *fresh})
        for id_ in self._parked:
            if len(chosen) >= limit:
                break
            if any(not is_failing(name) for name in self._parked[id_]):
                chosen.append(id_)
        return chosen

    def _take(self, id_: UUID) -> None:
        self._new.discard(id_)
        self._single.discard(id_)
        self._held.pop(id_, None)
        self._to_ask.discard(id_)
        self._parked.pop(id_, None)
        self._left.discard(id_)
        self._adopted.discard(id_)

    # -- what became of one

    def note_free(self, ids: Iterable[UUID]) -> None:
        """Other processes held them, and hold them no more."""
        for id_ in ids:
            if id_ in self._held:
                self._take(id_)
                self._new.add(id_)
                insort(self._fresh, id_)

    def note_adopted(self, id_: UUID) -> None:
        """It is ours. Where another process held it, that has ended: it may have held more of them."""
        was_held = id_ in self._held
        self._take(id_)
        if was_held and not self._to_ask:
            self._to_ask = set(islice(self._held, HELD_IN_A_ROUND))
        self.unreadable.discard(id_)
        self._adopted.add(id_)

    def note_held(self, id_: UUID) -> None:
        """Another process holds it."""
        self._take(id_)
        self._held[id_] = None

    def note_gone(self, id_: UUID) -> None:
        """It is not there any more, or never was a log of ours."""
        self._take(id_)
        self._paused.pop(id_, None)
        self._found.discard(id_)

    def note_single(self, ids: Iterable[UUID]) -> None:
        """They are given back, and not for a group: they need a closer look."""
        for id_ in ids:
            self._adopted.discard(id_)
            self._new.add(id_)
            self._single.add(id_)
            insort(self._fresh, id_)

    def note_left(self, id_: UUID) -> None:
        """What it lacks is not ours to deliver."""
        self._take(id_)
        self._paused.pop(id_, None)
        self._left.add(id_)

    def note_parked(self, id_: UUID, waiting: frozenset[str]) -> None:
        """It waits for destinations that are down: those of the subscriptions `waiting`."""
        self._take(id_)
        self._parked[id_] = waiting

    def note_paused(self, id_: UUID, now: float, *, is_unreadable: bool = False) -> bool:
        """Something was refused: it is tried again after a pause that grows. Whether this is the first time."""
        self._take(id_)
        if is_unreadable:
            self.unreadable.add(id_)
        before = self._paused.get(id_)
        seconds = FIRST_PAUSE if before is None else min(2 * before.seconds, LONGEST_PAUSE)
        self._paused[id_] = Pause(now + seconds, seconds)
        return before is None

    def distrust(self, id_: UUID) -> None:
        """It grew though its lock was ours: it is never touched again."""
        self._take(id_)
        self._paused.pop(id_, None)
        self.untrusted.add(id_)

    def retry_left(self) -> None:
        """Look at those that were left again: a destination lost what it had."""
        again = self._new | (self._left & self._found)
        self._begin(sorted(again), again)
        self._left.clear()

    def has_paused(self, id_: UUID) -> bool:
        """Whether something was refused when it was tried before."""
        return id_ in self._paused

    def to_park(self, stuck: Mapping[UUID, frozenset[str]], *, is_full: bool, has_others: bool) -> UUID | None:
        """Which of the `stuck` ones makes room where all slots are taken and another orphan need not wait."""
        return next(iter(stuck), None) if is_full and has_others else None

    def by_rank(self, own: UUID) -> list[UUID]:
        """All orphans, adopted or not, in the order they go for the disk bound: unreadable ones first, then by age."""
        known = (self._found | self._adopted) - self.untrusted - {own}
        return sorted(known, key=lambda id_: (id_ not in self.unreadable, id_))
