"""What `record` remembers of records in flight: their lines, their bytes; and which of them became dead letters."""

from __future__ import annotations

import errno
import shutil
import sys
from bisect import bisect_right
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from stat import S_ISREG
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec

from eventrec.runs.retention import Bound

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from contextlib import AsyncExitStack


class _DeadLetterLine(msgspec.Struct):
    """What is needed of a line of the file; see `eventrec.delivery.letters.dead_letters`."""

    log_id: UUID
    offset: int
    reason: str


_BOUND: Final = Bound(max_bytes=sys.maxsize, keep_free=0.05)

_decode: Final = msgspec.json.Decoder(_DeadLetterLine).decode


class RefusedRecords:
    """Reads from `path` the letters of the logs `log_ids` that were added since this was made.

    The file is made by the first letter, and so are the directories above it.

    Raises:
        OSError: The file could not be written.
    """

    def __init__(self, path: Path, log_ids: Collection[UUID]) -> None:
        self._path = path
        self._log_ids = log_ids
        self._position = _end_of(path)

    def fresh(self) -> Iterator[tuple[UUID, int, str]]:
        """Log, offset and reason of each letter added since the last call. Other processes' are passed over."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                try:
                    letter = _decode(line)
                except msgspec.DecodeError:
                    continue
                if letter.log_id in self._log_ids:
                    yield letter.log_id, letter.offset, letter.reason


def _end_of(path: Path) -> int:
    """The size of a file that this user may append to; 0 where there is none, and one may be made."""
    try:
        found = path.stat()
    except FileNotFoundError:
        _try_to_make(path)
        return 0
    if not S_ISREG(found.st_mode):
        # A device or a pipe takes what is written, and does not give it back: what is refused would not be counted.
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    with path.open("ab") as file:
        return file.tell()


def _try_to_make(path: Path) -> None:
    """Make the file and what is missing above it, and remove that again. Raises OSError where it cannot be made."""
    with ExitStack() as made:
        for parent in reversed(path.absolute().parents):
            if not parent.exists():
                parent.mkdir()
                made.callback(parent.rmdir)
        path.open("xb").close()
        path.unlink()


class LineNumbers:
    """The line of each record whose fate is not known yet, by offset. Small where most lines became records.

    `len` is what it takes: one for each place where lines are not records.
    """

    def __init__(self) -> None:
        self.end = 0
        """Offset of the next record."""
        self._start = 0
        self._runs: deque[tuple[int, int]] = deque()
        """Offset and line of the first of each run of records that stand in lines one after the other."""

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def first(self) -> int | None:
        """The line of the first record whose fate is not known."""
        return self.line_of(self._start)

    def add_all(self, lines: Sequence[int]) -> None:
        """The next records stand in `lines`, in their order."""
        if lines and len(set(lines)) == len(lines) == lines[-1] - lines[0] + 1:
            self.add(lines[0], len(lines))
            return
        for line in lines:
            self.add(line)

    def add(self, line: int, count: int = 1) -> None:
        """The next `count` records stand in lines one after the other, of which `line` is the first."""
        if not self._runs or line - self._runs[-1][1] != self.end - self._runs[-1][0]:
            self._runs.append((self.end, line))
        self.end += count

    def line_of(self, offset: int) -> int | None:
        """None where its fate was known, or it is not there yet."""
        if not self._start <= offset < self.end:
            return None
        first, line = self._runs[bisect_right(self._runs, offset, key=lambda run: run[0]) - 1]
        return line + offset - first

    def forget_below(self, offset: int) -> None:
        """What became of the records before `offset` is known."""
        self._start = max(self._start, min(offset, self.end))
        while len(self._runs) > 1 and self._runs[1][0] <= self._start:
            self._runs.popleft()


class Backlog:
    """The bytes of what is recorded and not delivered, part by part."""

    def __init__(self) -> None:
        self.bytes = 0
        self._parts: deque[tuple[int, int]] = deque()

    def add(self, end: int, size: int) -> None:
        """`size` bytes more, in the records before offset `end`."""
        self._parts.append((end, size))
        self.bytes += size

    def settle(self, scanned: int) -> None:
        """The records before `scanned` are delivered."""
        while self._parts and self._parts[0][0] <= scanned:
            self.bytes -= self._parts.popleft()[1]


def lacks_room(log: Path | None) -> bool:
    """Whether the log's file system has no more room than a recorder leaves to others: what is delivered makes some."""
    usage = shutil.disk_usage(log or ".")
    return _BOUND.excess(used=0, free=usage.free, capacity=usage.total) > 0


def dead_letter_file(given: Path | None, stack: ExitStack | AsyncExitStack) -> Path:
    """Where dead letters go: `given`, or a file that is deleted with `stack`. Each is reported anyway."""
    return given or Path(stack.enter_context(TemporaryDirectory(prefix="eventrec-"))) / "dead.jsonl"
