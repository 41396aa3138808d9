"""What `record` reads: files of lines, each with what its lines are; and how a line is named."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from typing import TYPE_CHECKING

from eventrec.ingest.received import received_events

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from eventrec.events.event import ReceivedEvent, ReceivedJson
    from eventrec.ingest.received import LineError, Reading

    Found: TypeAlias = ReceivedEvent | ReceivedJson | LineError


class LeftAloneError(Exception):
    """A file is not read, and not touched: says why."""


class InputSource(ABC):
    """Lines to record. `name` is what an operator calls it, `max_event_bytes` what a line may have."""

    name: str
    max_event_bytes: int

    @abstractmethod
    def look(self) -> None:
        """Look whether it may be read; blocks.

        Raises:
            LeftAloneError: It may not.
            OSError: It cannot be opened.
        """

    @abstractmethod
    def open(self) -> int:
        """A descriptor, which the caller closes unless it is 0; may block for long.

        Raises:
            OSError: It cannot be opened.
        """

    @abstractmethod
    def events(self, lines: Sequence[bytes]) -> Iterable[tuple[int, Found]]:
        """What `lines` hold: the place of one among them, and its event or why it is not one; mostly once a line."""

    @abstractmethod
    def note_refused(self, exc: LineError) -> None:
        """A line of it was not an event."""

    @abstractmethod
    def note_end(self, size: int) -> None:
        """All of it was read, `size` bytes."""

    @abstractmethod
    def finish(self, *, is_delivered: bool) -> str | None:
        """All that was read of it is delivered, or never will be; blocks. A sentence where it should be gone."""


class JsonLines(InputSource):
    """Lines of JSON, of a file, or of stdin (`path` None)."""

    def __init__(self, path: Path | None, reading: Reading) -> None:
        self.name = "stdin" if path is None else str(path)
        self.max_event_bytes = reading.max_event_bytes
        self._path = path
        self._reading = reading

    def look(self) -> None:
        """Opening it may block for long, so that is left to `open`."""

    def open(self) -> int:
        return 0 if self._path is None else os.open(self._path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def events(self, lines: Sequence[bytes]) -> Iterable[tuple[int, Found]]:
        return enumerate(received_events(lines, self._reading))

    def note_refused(self, exc: LineError) -> None:
        """Nothing depends on it."""

    def note_end(self, size: int) -> None:
        """Nothing depends on it."""

    def finish(self, *, is_delivered: bool) -> str | None:
        """It stays where it is."""


class LineNames:
    """Names lines, which are counted through all files: by number alone, or with the file where there are several."""

    def __init__(self, count: int) -> None:
        self._names_files = count > 1
        self._starts: list[int] = []
        self._names: list[str] = []

    @property
    def start(self) -> int:
        """How many lines stand before the file that began last."""
        return self._starts[-1] if self._starts else 0

    def begin(self, name: str, start: int) -> None:
        """The file `name` begins after `start` lines."""
        self._starts.append(start)
        self._names.append(name)

    def of(self, line: int) -> str:
        """What an operator calls the line: "line 7", or "line 7 of a.jsonl"."""
        number = max(bisect_right(self._starts, line - 1) - 1, 0)
        if not self._names_files or not self._starts:
            return f"line {line}"
        return f"line {line - self._starts[number]} of {self._names[number]}"
