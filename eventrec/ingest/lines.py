"""Bytes to lines, by number, in bounded memory."""

from __future__ import annotations

from typing import Final

import msgspec

_BOM: Final = b"\xef\xbb\xbf"


class Line(msgspec.Struct, frozen=True, gc=False):
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
        first, *others = chunk.split(b"\n")
        self._add(first)
        if not others:
            return []
        line = self._line()
        lines = [] if line is None else [line]
        number, longest, rest = self.number, self._max_bytes, others.pop()
        for text in others:
            number += 1
            if (size := len(text)) > longest:
                lines.append(Line(number, None, size))
                continue
            if text[-1:] == b"\r":
                text = text.rstrip(b"\r")  # noqa: PLW2901 - the same line without its end
                size = len(text)
            if size and not text.isspace():
                lines.append(Line(number, text, size))
        self.number = number
        self._add(rest)
        return lines

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
