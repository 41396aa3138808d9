"""Lines of a file or of stdin, by number: bounded memory, and the loop never waits for the input."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from queue import SimpleQueue
from stat import S_ISREG
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.runtime.backend import current_backend

if TYPE_CHECKING:
    from pathlib import Path

READ_BYTES: Final = 256 * 1024
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank. `number` counts all from 1; `text` is None where it was longer than allowed.

    `size` is in bytes, without the line's end; of a line that was too long, at least that many.
    """

    number: int
    text: bytes | None
    size: int


class LineSplitter:
    """Parts bytes into lines. Holds at most one line of `max_bytes`; the rest of a longer one is passed over."""

    def __init__(self, *, max_bytes: int) -> None:
        self.number = 0
        """Of the last line that ended."""
        self._max_bytes = max_bytes
        self._rest: list[bytes] = []
        self._rest_bytes = 0

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines that end in `chunk`."""
        *ended, rest = chunk.split(b"\n")
        lines = []
        for part in ended:
            self._add(part)
            lines.append(self._line())
        self._add(rest)
        return [line for line in lines if line is not None]

    def end(self) -> list[Line]:
        """The last line, if it has no line's end."""
        line = self._line() if self._rest_bytes else None
        return [] if line is None else [line]

    def _add(self, part: bytes) -> None:
        self._rest_bytes += len(part)
        if self._rest_bytes > self._max_bytes:
            self._rest.clear()
        elif part:
            self._rest.append(part)

    def _line(self) -> Line | None:
        self.number += 1
        text, size = b"".join(self._rest), self._rest_bytes
        self._rest.clear()
        self._rest_bytes = 0
        if size > self._max_bytes:
            return Line(self.number, None, size)
        if self.number == 1:
            text = text.removeprefix(_BOM)
        text = text.rstrip(b"\r")
        return Line(self.number, text, len(text)) if text and not text.isspace() else None


class Input:
    """The bytes of a file, or of stdin (`path` None), read in a thread of its own.

    The thread is a daemon and reads only what is asked for: one that waits for a silent pipe holds up nobody.
    """

    def __init__(self, path: Path | None) -> None:
        self.size: int | None = None
        """Of the whole file, known once something was read; None where it is no plain file."""
        self._path = path
        self._backend = current_backend()
        self._asked: SimpleQueue[anyio.Event] = SimpleQueue()
        self._answer: bytes | OSError = b""
        threading.Thread(target=self._run, name="eventrec input", daemon=True).start()

    async def read(self) -> bytes:
        """The next bytes, as many as there are, at most `READ_BYTES`; none at the end. Once cancelled, ask no more.

        Raises:
            OSError: It cannot be opened or read.
        """
        event = anyio.Event()
        self._asked.put(event)
        await event.wait()
        if isinstance(self._answer, OSError):
            raise self._answer
        return self._answer

    def _run(self) -> None:
        descriptor = 0
        asked = self._asked.get()
        try:
            if self._path is not None:
                descriptor = os.open(self._path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            status = os.fstat(descriptor)
            self.size = status.st_size if S_ISREG(status.st_mode) else None
            while True:
                self._answer = os.read(descriptor, READ_BYTES)
                self._backend.wake(asked.set)
                asked = self._asked.get()
        except OSError as exc:
            self._answer = exc
            self._backend.wake(asked.set)
