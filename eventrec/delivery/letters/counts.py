"""How many dead letters wait, by subscription: counted again only where their logs have changed."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import anyio

from eventrec.delivery.letters.kept import unreadable_logs, waiting_in
from eventrec.errors import LogError
from eventrec.runs.directory import DEAD
from eventrec.runtime.backend import in_thread
from eventrec.runtime.native import allocate_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from eventrec.delivery.letters.dead_letters import DeadLetter

LOOK_SECONDS: Final = 2.0
_SELDOM: Final = 8
"""Where no letter waits, few ever do: so many times longer until the next look."""

_LEFT_OUT: Final = 5
"""Counts beside which letters were written that are left out, one after the other: the next one is better than none."""

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


def count_letters(letters: Path) -> LetterCounts:
    """Those below `letters`. Blocking. What cannot be read is logged. Raises OSError and LogError."""
    waiting = waiting_in(letters)
    return LetterCounts(waiting, {str(id_): why for id_, why in unreadable_logs(letters).items()})


def _count_quietly(letters: Path) -> LetterCounts:
    """Those that wait; what cannot be read is said by who learns which records have letters."""
    return LetterCounts(waiting_in(letters, is_said=False), {})


class LetterCounter:
    """Counts the letters in one directory, which takes reading all of them. For any thread; one counts at a time."""

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        count: Callable[[Path], LetterCounts] = count_letters,
    ) -> None:
        self._now = now
        self._count = count
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
        return self.now_in(directory) or self._counts

    def now_in(self, directory: Path) -> LetterCounts | None:
        """The same; None where it is not looked, since counting takes long."""
        with self._counting:
            started = self._now()
            if self._seen is not None and started < self._due:
                return None
            seen = frozenset(_files(directory / DEAD, _DEPTH))
            if seen != self._seen:
                self._counts = self._count(directory / DEAD)
                self._seen = seen
                took = self._now() - started
                self._due = started + took * _SHARE if took > _LONG else 0.0
            return self._counts


class WaitingLetters:
    """Follows how many letters wait in the log directory `directory`, whichever runs set them aside."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._counter = LetterCounter(count=_count_quietly)
        # Replaced as a whole: other threads read it.
        self._known: tuple[Mapping[str, int], Counter[str]] = {}, Counter()
        """What was counted, and what this process has written since that count began."""
        self._writes = self._writing = 0
        """How often this process has begun to write letters, and is at it."""

    def __repr__(self) -> str:
        return f"<WaitingLetters {self.counts}>"

    @property
    def counts(self) -> dict[str, int]:
        """How many, by subscription: those of others as of a few seconds ago. From any thread."""
        counted, written = self._known
        return {name: count for name, count in sorted((written + Counter(counted)).items()) if count}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around what writes letters, and notes them: of a count beside it, it is not known which of them it has."""
        self._writes += 1
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1

    def note_written(self, letters: Iterable[DeadLetter]) -> None:
        """These are kept from now on. For the loop's thread, as `run`."""
        counted, written = self._known
        self._known = counted, written + Counter(letter.subscription for letter in letters)

    async def run(self) -> None:
        """Look until cancelled; may be called again. A directory that cannot be read is looked at again."""
        left_out = 0
        while True:
            before, writes, is_quiet = self._known[1], self._writes, not self._writing
            with suppress(OSError, LogError):
                found = await in_thread(self._counter.now_in, self._directory)
                is_sure = is_quiet and writes == self._writes
                left_out = 0 if is_sure else left_out + 1
                if found is not None and (is_sure or left_out > _LEFT_OUT):
                    self._known, left_out = (found.waiting, self._known[1] - before), 0
            await anyio.sleep(LOOK_SECONDS * (1 if self.counts else _SELDOM))


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
