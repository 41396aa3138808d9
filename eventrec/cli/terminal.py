"""What the operator sees: messages on stderr, results on stdout; nothing from an event reaches the terminal raw."""

from __future__ import annotations

import logging
import os
import re
import sys
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TextIO

from eventrec.cli.streams import OutputError
from eventrec.runtime.logging import ROOT
from eventrec.runtime.texts import encoded_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from eventrec.cli.console import Errors, Output

_NOT_PRINTABLE_ASCII: Final = re.compile(r"[^ -~]")
_UTF_8: Final = "utf-8"
_AS_TERMINAL: Final = frozenset({"FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"})


def safe(text: str) -> str:
    r"""`text` with everything that does not print (escapes, line ends, direction marks) written as \x1b, \n, \u202e."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def safe_json(encoded: bytes, *, encoding: str = _UTF_8) -> str:
    r"""JSON in UTF-8 as one line that prints in `encoding`: the same JSON to any reader.

    What does not print inside its texts is written as \u009b; tabs and line ends between its tokens become spaces.
    """

    def escape(match: re.Match[str]) -> str:
        char = match.group()
        if char in "\t\n\r":  # none can be inside a text
            return " "
        if char.isprintable() and _is_encodable(char, encoding):
            return char
        utf16 = char.encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{utf16[at : at + 2].hex()}" for at in range(0, len(utf16), 2))

    return _NOT_PRINTABLE_ASCII.sub(escape, encoded.decode(errors="replace"))


def _is_encodable(char: str, encoding: str) -> bool:
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 log", "2,000 logs"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


class Terminal:
    """stdout for results, stderr for the rest; both plain where they are not terminals."""

    @cached_property
    def out(self) -> Output:
        """stdout, for tables and colours."""
        from eventrec.cli.console import Output  # noqa: PLC0415 - what writes plain lines needs no rich

        return Output(highlight=False, markup=False, emoji=False)

    @cached_property
    def err(self) -> Errors:
        """stderr, for colours and a progress bar."""
        from eventrec.cli.console import Errors  # noqa: PLC0415 - likewise

        return Errors(stderr=True, highlight=False, markup=False, emoji=False)

    @property
    def is_live(self) -> bool:
        """Whether stderr is a terminal."""
        return not _is_plain(sys.stderr) and self.err.is_terminal

    def say(self, message: str, *, style: str = "") -> None:
        """One line on stderr, above a progress bar if there is one."""
        if _is_plain(sys.stderr):
            with suppress(OSError):
                _write(sys.stderr, safe(message))
        else:
            _print(self.err, safe(message), style)

    def show(self, line: str = "", *, style: str = "") -> None:
        """One line on stdout.

        Raises:
            OutputError: It cannot be written.
            BrokenPipeError: The reader of stdout is gone.
        """
        if _is_plain(sys.stdout):
            _show(safe(line))
        else:
            _print(self.out, safe(line), style)

    def show_json(self, document: Mapping[str, Any]) -> None:
        """One JSON object on one line of stdout, never wrapped, at once. Raises as `show`."""
        _show(safe_json(encoded_json(document), encoding=getattr(sys.stdout, "encoding", None) or _UTF_8))

    @contextmanager
    def showing_logging(self, *, without: frozenset[str] = frozenset(), shows_holds: bool = False) -> Iterator[None]:
        """Show the library's own log lines, one line each: changes of state, never a traceback.

        Lines with a phrase in `without` are left out: the command says the same itself. So are holds, which most
        commands end with, unless it `shows_holds`.
        """
        logger = logging.getLogger(ROOT)
        before = logger.handlers[:], logger.level, logger.propagate
        logger.handlers[:], logger.propagate = (
            [_OneLine(self, without if shows_holds else without | SAID_BY_COMMANDS)],
            False,
        )
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.handlers[:], level, logger.propagate = before
            logger.setLevel(level)


def _is_plain(stream: TextIO) -> bool:
    """Whether it is not a terminal, and none of the variables says so that make rich take it for one."""
    try:
        return _AS_TERMINAL.isdisjoint(os.environ) and not stream.isatty()
    except ValueError:  # it is closed
        return True


def _write(stream: TextIO, line: str) -> None:
    stream.write(line + "\n")
    stream.flush()


def _show(line: str) -> None:
    try:
        _write(sys.stdout, line)
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise OutputError(exc) from exc


def _print(console: Output | Errors, line: str, style: str) -> None:
    from rich.text import Text  # noqa: PLC0415 - likewise

    console.print(Text(line, style=style), soft_wrap=True)


SAID_BY_COMMANDS: Final = frozenset({"delivery on hold", "orphan adopted"})
"""What the library logs, and a command says in its own words with what follows from it."""


class _OneLine(logging.Handler):
    """A log line, as one line of the terminal."""

    def __init__(self, terminal: Terminal, left_out: frozenset[str]) -> None:
        super().__init__()
        self._terminal = terminal
        self._left_out = left_out

    def emit(self, record: logging.LogRecord) -> None:
        phrase = record.args[0] if isinstance(record.args, tuple) and record.args else None
        if phrase in self._left_out:
            return
        self._terminal.say(f"eventrec: {record.getMessage()}", style="yellow")
