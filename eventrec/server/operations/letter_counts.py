"""How many dead letters wait, by subscription: counted again only where their logs have changed."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from eventrec.delivery.letters.kept import kept_letters, unreadable_logs
from eventrec.runs.directory import DEAD
from eventrec.runtime.native import allocate_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_DEPTH: Final = 2
"""Of folders below that of the dead letters: a log, and its checkpoints."""

_LONG: Final = 0.1
_SHARE: Final = 10
"""Counting that took long is not done more often than for this part of the time."""

_Seen: TypeAlias = "tuple[str, int, int, int] | tuple[str, str]"


class LetterCounts(NamedTuple):
    """The dead letters in a log directory.

    Attributes:
        waiting: How many wait, by subscription.
        unreadable: The logs of letters that cannot be read whole, by their id: why.
    """

    waiting: Mapping[str, int]
    unreadable: Mapping[str, str]


class LetterCounter:
    """Counts the letters in one directory, which takes reading all of them. For any thread; one counts at a time."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._counting = allocate_lock()
        self._seen: frozenset[_Seen] | None = None
        self._counts = LetterCounts({}, {})
        self._due = 0.0

    def of(self, directory: Path) -> LetterCounts:
        """What waits in the log directory `directory`. Blocking.

        As it was counted last, where no file of a letter's log has changed since, or where counting takes over 0.1 s
        and was done less than ten times as long ago.

        Raises:
            OSError, LogError: It cannot be read.
        """
        with self._counting:
            started = self._now()
            if self._seen is not None and started < self._due:
                return self._counts
            seen = frozenset(_files(directory / DEAD, _DEPTH))
            if seen != self._seen:
                letters = directory / DEAD
                waiting = Counter(kept.letter.subscription for kept in kept_letters(letters) if kept.is_waiting)
                unreadable = {str(id_): why for id_, why in unreadable_logs(letters).items()}
                self._counts = LetterCounts(dict(sorted(waiting.items())), unreadable)
                self._seen = seen
                took = self._now() - started
                self._due = started + took * _SHARE if took > _LONG else 0.0
            return self._counts


def _files(folder: Path, depth: int) -> Iterator[_Seen]:
    """What tells a change: each file with its inode, size and time; of what cannot be looked at, why."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if depth and entry.is_dir(follow_symlinks=False):
                    yield from _files(folder / entry.name, depth - 1)
                found = entry.stat(follow_symlinks=False)
                yield entry.path, found.st_ino, found.st_size, found.st_mtime_ns
    except OSError as exc:
        yield str(folder), type(exc).__name__
