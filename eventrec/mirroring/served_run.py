"""One log of a served directory, as one mirror gets it: its stream, its checkpoints, and where it begins by now."""

from __future__ import annotations

import math
import re
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from eventrec.errors import UnreadableFileError
from eventrec.log.mirror import StreamReader
from eventrec.log.segment import list_segments, segment_name
from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles
from eventrec.runs.directory import LOCK
from eventrec.runs.files import decode, file_name, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from eventrec.log.disk import DiskStorage
    from eventrec.log.mirror import LastCommit
    from eventrec.runs.directory import LogDirectory

_MADE_BY_US: Final = re.compile(r"[\w~%-]{1,200}\.json", re.ASCII)
"""The names that files of checkpoints have: others are not spoken of."""

_INSTANT: Final = 100_000_000
"""Nanoseconds: two changes within it may have one time, by the clock of a file system."""

_BETWEEN_LOOKS: Final = 0.2
"""Seconds between two looks at the checkpoints: what is sent of them is that old at most."""

MAX_CHECKPOINT_BYTES: Final = 8 << 20
"""A larger one is not carried: there the mirror's subscription asks the destination, or delivers again."""


@dataclass(frozen=True, slots=True)
class LogTurn:
    """What a mirror gets next of one log.

    Attributes:
        parts: The next of its stream, in whole headers and commits: parts that come one behind the other.
        end: The record after the last one given out so far.
        checkpoints: Files of checkpoints that the mirror may have now, by name; None: the file is gone.
        first: Where the log begins, if that is new.
        is_gone: The log is retired, or was taken away; then there is nothing else.
    """

    parts: Sequence[bytes | memoryview] = ()
    end: int = 0
    checkpoints: dict[str, bytes | None] = field(default_factory=dict)
    first: int | None = None
    is_gone: bool = False


class _Saved(NamedTuple):
    """A checkpoint's file: its bytes, and the `scanned` that they say."""

    content: bytes
    scanned: int


class ServedRun:
    """The log `id_` in `directory`, read without its lock. Blocking; for one thread at a time.

    Attributes:
        stream: The number of its stream in this connection.
        is_dead: Whether it is a log of dead letters.
    """

    def __init__(self, directory: LogDirectory, id_: UUID, *, is_dead: bool) -> None:
        self.id = id_
        self.is_dead = is_dead
        self.stream = 0
        self._directory = directory
        self._storage: DiskStorage | None = None
        self._reader: StreamReader | None = None
        self._newest: int | None = None
        self._first: int | None = None
        self._seen: object = None
        self._looked_at = -math.inf
        self._is_overdue = False
        """Whether the checkpoints were not looked at in the last turn."""
        self._saved: dict[str, _Saved] = {}
        self._sent: dict[str, bytes] = {}
        """What the mirror was sent of each file of a checkpoint."""

    def __repr__(self) -> str:
        return f"<ServedRun {self.id} stream={self.stream} {self._reader!r}>"

    def begin(self, stream: int, last: LastCommit | None) -> list[str]:
        """Begin to read behind `last`, the last commit that the mirror has; None: where the log begins.

        Returns the names of the files of checkpoints that are there.

        Raises:
            DivergedError: The mirror has something else, or more.
            TrimmedError: What it lacks is deleted here: begin again with None.
            LogError: It cannot be read.
            OSError: Likewise; FileNotFoundError where the log is gone.
        """
        self.rest()
        self.stream = stream
        self._sent.clear()
        self._first, self._seen, self._looked_at = None, None, -math.inf
        storage = self._opened()
        if last is None:
            self._reader = StreamReader(storage, sync=True, passes_damage=True)
        else:
            self._reader = StreamReader.resume(storage, last, sync=True, passes_damage=True)
        with suppress(FileNotFoundError, NotADirectoryError):
            return [name for name in CheckpointFiles(storage).names() if _MADE_BY_US.fullmatch(name)]
        return []

    def turn(self, max_bytes: int, *, has_checkpoints: bool = True) -> LogTurn:
        """What comes next: at most `max_bytes` of the stream, or one commit more. Raises as `begin`.

        A checkpoint is looked at before the stream is read, and given out once the stream is past what it names: so a
        mirror's checkpoint never names records that the mirror lacks. Unless it `has_checkpoints`, they come later.
        """
        assert self._reader is not None  # noqa: S101  it was begun
        storage = self._opened()
        if not storage.is_in_place():
            return LogTurn(is_gone=True)
        self._is_overdue = not has_checkpoints or time.monotonic() - self._looked_at < _BETWEEN_LOOKS
        if not self._is_overdue:
            self._look_at_checkpoints(storage)
            self._looked_at = time.monotonic()
        parts = self._reader.read_parts(max_bytes)
        firsts = list_segments(storage)
        self._newest = firsts[-1] if firsts else None
        first = firsts[0] if firsts and firsts[0] != self._first else None
        self._first = firsts[0] if firsts else self._first
        end = self._reader.next_offset
        due = self._due(storage, end, is_at_end=not parts) if has_checkpoints else {}
        return LogTurn(parts, end, due, first)

    def take_back(self, names: Iterable[str]) -> None:
        """Those checkpoints were not sent: they are due again."""
        for name in names:
            self._sent.pop(name, None)
        self._is_overdue = True

    def has_sent(self, name: str) -> bool:
        """Whether the mirror was given that file of a checkpoint, in this stream. From any thread."""
        return name in self._sent

    def _look_at_checkpoints(self, storage: DiskStorage) -> None:
        found: dict[str, _Saved] = {}
        with suppress(FileNotFoundError, NotADirectoryError), closing(storage.folder(CHECKPOINTS)) as folder:
            for name in CheckpointFiles(storage).names():
                try:
                    content = read(folder, name)
                    checkpoint, _ = decode(content, Checkpoint)
                    if file_name(checkpoint.subscription) != name:
                        continue  # A copy that an operator made, or other people's.
                except FileNotFoundError:
                    continue
                except UnreadableFileError:
                    # The one that was sent last is worth more than none.
                    if name in self._saved:
                        found[name] = self._saved[name]
                    continue
                if len(content) <= MAX_CHECKPOINT_BYTES:
                    found[name] = _Saved(content, checkpoint.progress.scanned)
        self._saved = found

    def _due(self, storage: DiskStorage, end: int, *, is_at_end: bool) -> dict[str, bytes | None]:
        due: dict[str, bytes | None] = {}
        for name, saved in self._saved.items():
            # Past the end of a log that no process writes it names what was lost in a power cut.
            if saved.content != self._sent.get(name) and (
                saved.scanned <= end or (is_at_end and not self._is_held(storage))
            ):
                due[name] = self._sent[name] = saved.content
        for name in self._sent.keys() - self._saved.keys():
            due[name] = None
            del self._sent[name]
        return due

    @staticmethod
    def _is_held(storage: DiskStorage) -> bool:
        try:
            return storage.is_locked(LOCK)
        except OSError:
            return True

    def is_held(self) -> bool:
        """Whether a process writes it, so that more may come at any time."""
        try:
            return self._is_held(self._opened())
        except OSError:
            return True

    def look(self) -> bool:
        """Look at it; whether there may be something new since the last look. Three system calls, no descriptor."""
        base, name = self._directory, str(self.id)
        try:
            log = base.opened()
            looked_at = [log.stat_of(name)]
            if self._newest is not None:
                looked_at.append(log.stat_of(f"{name}/{segment_name(self._newest)}"))
            with suppress(FileNotFoundError):
                looked_at.append(log.stat_of(f"{name}/{CHECKPOINTS}"))
        except OSError:
            return True
        seen = [(each.st_ino, each.st_mtime_ns, each.st_size) for each in looked_at]
        is_new, self._seen = seen != self._seen, seen
        is_new |= self._is_overdue and time.monotonic() - self._looked_at >= _BETWEEN_LOOKS
        return is_new or time.time_ns() - max(each.st_mtime_ns for each in looked_at) < _INSTANT

    def rest(self) -> None:
        """Give the descriptors back. A later turn opens what it needs."""
        if self._reader is not None:
            self._reader.close()

    def close(self) -> None:
        """Give everything back."""
        self.rest()
        if self._storage is not None:
            self._storage.close()
            self._storage = None

    def _opened(self) -> DiskStorage:
        if self._storage is None:
            self._storage = self._directory.opened().folder(str(self.id))
        return self._storage
