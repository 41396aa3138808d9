"""The logs of a directory that other processes hold: which there are, which grew, which were let go.

each pass     a system call or two for each log: did a file come or go, is its newest segment larger
the pause     20 ms while something moves, 40 ms else, longer where a pass takes long: a twentieth of a CPU at most
now and then  is its lock still held
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from eventrec.delivery.orphans.queue import Changes
from eventrec.errors import LogError
from eventrec.log.segment import list_segments, segment_name
from eventrec.runs.directory import LOCK
from eventrec.runtime.native import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager
    from uuid import UUID

    from eventrec.log.disk import DiskStorage
    from eventrec.runs.directory import LogDirectory

MOVING_PAUSE: Final = 0.02
QUIET_PAUSE: Final = 0.04
_MOVING_SECONDS: Final = 1.0
"""So long after the last move the shorter pause holds."""

_SHARE: Final = 20
LOCKS_SECONDS: Final = 1.0
"""How often it is asked whether the locks are still held."""


@dataclass(slots=True)
class LiveMoves:
    """What moved since the last call.

    Attributes:
        appeared: Logs that other processes hold, and that were not known.
        moved: Those that grew, or of which that was not known.
        freed: Those that are not held any more, or are gone: they are not looked at from here on.
        replaced: Those that are followed, and whose directory is not the one that was opened.
        barred: All that this user may not open; None: the directory was not listed.
    """

    appeared: list[UUID] = field(default_factory=list)
    moved: list[UUID] = field(default_factory=list)
    freed: list[UUID] = field(default_factory=list)
    replaced: list[UUID] = field(default_factory=list)
    barred: list[UUID] | None = None

    def __bool__(self) -> bool:
        return bool(self.appeared or self.moved or self.freed) or self.barred is not None


class LiveLogs:
    """Looks at those in `directory`. `guard` is held while it is asked for locks; see `find_held`.

    `ours()` are the logs that this process holds. All but `follow`, `unfollow` and `stop` is for one thread at a time.
    """

    def __init__(
        self,
        directory: LogDirectory,
        *,
        guard: AbstractContextManager[object],
        ours: Callable[[], Collection[UUID]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._guard = guard
        self._ours = ours
        self._clock = clock
        self._signal = Signal()
        self._listed = Changes()
        self._watched: dict[UUID, _WatchedLog] = {}
        self._free: set[UUID] = set()
        """Those that no other process held when they were seen first: they are adopted, and asked for once a minute."""
        self._free_until = 0.0
        self._looks: dict[UUID, Callable[[], bool]] = {}
        self._behind: set[UUID] = set()
        self._moved_at = -_MOVING_SECONDS
        self._not_before = 0.0
        self._locks_at = 0.0

    def __repr__(self) -> str:
        return f"<LiveLogs {len(self._watched)} in {self._directory}>"

    def follow(self, id_: UUID, look: Callable[[], bool]) -> None:
        """From now on `look` is called where `id_` moved, and again at each pass while it returns True."""
        self._looks[id_] = look
        self._behind.add(id_)

    def unfollow(self, id_: UUID) -> None:
        """Call it no more."""
        self._looks.pop(id_, None)
        self._behind.discard(id_)

    def forget(self, id_: UUID) -> None:
        """It is not another process's: look no more, until it is listed again."""
        self.unfollow(id_)
        self._watched.pop(id_, None)

    def stop(self) -> None:
        """Have `wait` return."""
        self._signal.set()

    def wait(self, longest: float = 1.0) -> LiveMoves:
        """Return once something moved, after `longest` seconds, or when it is to stop. Blocking.

        Raises:
            OSError: The directory cannot be looked at, for now.
        """
        until = self._clock() + longest
        while True:
            if self._signal.wait(max(0.0, self._not_before - self._clock())):
                return LiveMoves()
            seen, used = LiveMoves(), time.thread_time()
            try:
                self._pass(seen, self._clock())
            finally:
                ended, used = self._clock(), time.thread_time() - used
                if seen.moved or seen.appeared:
                    self._moved_at = ended
                pause = MOVING_PAUSE if ended - self._moved_at < _MOVING_SECONDS else QUIET_PAUSE
                self._not_before = ended + max(pause, _SHARE * used)
            self._look_into(seen)
            if seen or ended >= until:
                return seen

    def _pass(self, seen: LiveMoves, now: float) -> None:
        storage = self._directory.opened()
        stamp = self._directory.modified()
        if self._listed.are_due(stamp, now=now):
            at = time.time()
            self._list(storage, seen)
            self._listed.note_looked(stamp, at=at, now=now)
        elif now >= self._locks_at:
            self._ask_for_locks(storage, seen)
        for id_, log in list(self._watched.items()):
            if log.look(storage, id_, now) or id_ in self._behind:
                seen.moved.append(id_)

    def _look_into(self, seen: LiveMoves) -> None:
        """Those that moved and are followed: what that takes is not the price of looking around."""
        for id_ in seen.moved:
            self._look(id_, seen)

    def _look(self, id_: UUID, seen: LiveMoves) -> None:
        look = self._looks.get(id_)
        try:
            is_behind = look is not None and look()
        except FileNotFoundError:
            is_behind = True
            seen.replaced.append(id_)
        except (OSError, LogError):
            is_behind = True  # It is met again at the next pass, and said where it is read.
        if is_behind and id_ in self._looks:
            self._behind.add(id_)
        else:
            self._behind.discard(id_)

    def _list(self, storage: DiskStorage, seen: LiveMoves) -> None:
        """Find those that are new, and ask all others again."""
        runs = set(self._directory.runs())
        seen.barred = [id_ for id_ in self._directory.ids() if id_ not in runs and self._directory.may_be_ours(id_)]
        self._free &= runs
        if self._clock() >= self._free_until:
            self._free.clear()
            self._free_until = self._clock() + Changes.LONGEST
        ours = set(self._ours())
        for id_ in runs - self._watched.keys() - self._free - ours:
            if self._is_held(storage, id_):
                self._watched[id_] = _WatchedLog()
                seen.appeared.append(id_)
            else:
                self._free.add(id_)
        self._ask_for_locks(storage, seen)

    def _ask_for_locks(self, storage: DiskStorage, seen: LiveMoves) -> None:
        self._locks_at = self._clock() + LOCKS_SECONDS
        ours = set(self._ours())
        for id_ in [id_ for id_ in self._watched if id_ in ours or not self._is_held(storage, id_)]:
            del self._watched[id_]
            seen.freed.append(id_)

    def _is_held(self, storage: DiskStorage, id_: UUID) -> bool:
        """Whether a process holds it; where the system does not say, it does."""
        try:
            with self._guard:
                return storage.is_locked(f"{id_}/{LOCK}")
        except FileNotFoundError:
            return False
        except OSError:
            return True


class _WatchedLog:
    """What was seen of one log: its newest segment, and how large that was."""

    def __init__(self) -> None:
        self._newest: str | None = None
        self._size = -1
        self._changes = Changes()

    def look(self, storage: DiskStorage, id_: UUID, now: float) -> bool:
        """Look at it; whether something was written since the last look, as far as can be told."""
        before = self._newest, self._size
        try:
            stamp = storage.stat_of(str(id_)).st_mtime
            if self._changes.are_due(stamp, now=now):
                at = time.time()
                with closing(storage.folder(str(id_))) as folder:
                    firsts = list_segments(folder)
                self._newest = segment_name(firsts[-1]) if firsts else None
                self._changes.note_looked(stamp, at=at, now=now)
            self._size = storage.stat_of(f"{id_}/{self._newest}").st_size if self._newest is not None else 0
        except OSError:
            return False  # Gone, which its lock tells; or hidden for now, and then the next look shows what moved.
        return before != (self._newest, self._size)
