"""Bytes to lines, by number, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank. `number` counts all from 1; `text` is None where it was longer than allowed.

    `size` is in bytes, without the line end; of a line that was too long, at least that many.
    """

    number: int
    text: bytes | None
    size: int


class LineSplitter:
    """Splits bytes into lines. Holds at most one line of `max_bytes`; the rest of a longer one is skipped."""

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
        """The last line, if no line end follows it."""
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
