"""What the operator sees: messages on stderr, results on stdout; nothing from an event reaches the terminal raw."""

from __future__ import annotations

import logging
import re
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.console import Console
from rich.text import Text

from eventrec.cli.streams import OutputError
from eventrec.runtime.logging import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NOT_PRINTABLE_ASCII: Final = re.compile(r"[^ -~]")
_UTF_8: Final = "utf-8"
_check_json: Final = msgspec.json.Decoder(msgspec.Raw).decode


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


def json_or_text(encoded: bytes) -> msgspec.Raw | str:
    """`encoded` as the JSON that it is; as a text where it is none: a received payload is stored as it came."""
    try:
        encoded.decode()
        _check_json(encoded)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return encoded.decode(errors="backslashreplace")
    return msgspec.Raw(encoded)


def _encoded(document: Mapping[str, Any]) -> bytes:
    r"""`document` as JSON; a byte of a path that is not UTF-8 is written out, as \\udcff."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        return msgspec.json.encode(_spelled(document))


def _spelled(value: Any) -> Any:
    """`value` with what no UTF-8 text can hold written out, in its keys too."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_spelled(key): _spelled(each) for key, each in value.items()}
    return [_spelled(each) for each in value] if isinstance(value, list | tuple) else value


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

    def __init__(self) -> None:
        self.out = _Output(highlight=False, markup=False, emoji=False)
        self.err = _Errors(stderr=True, highlight=False, markup=False, emoji=False)

    @property
    def is_live(self) -> bool:
        """Whether stderr is a terminal."""
        return self.err.is_terminal

    def say(self, message: str, *, style: str = "") -> None:
        """One line on stderr, above a progress bar if there is one."""
        self.err.print(Text(safe(message), style=style), soft_wrap=True)

    def show(self, line: str = "", *, style: str = "") -> None:
        """One line on stdout.

        Raises:
            OutputError: It cannot be written.
            BrokenPipeError: The reader of stdout is gone.
        """
        self.out.print(Text(safe(line), style=style), soft_wrap=True)

    def show_json(self, document: Mapping[str, Any]) -> None:
        """One JSON object on one line of stdout, never wrapped, at once. Raises as `show`."""
        line = safe_json(_encoded(document), encoding=getattr(sys.stdout, "encoding", None) or _UTF_8)
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise OutputError(exc) from exc

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


class _Output(Console):
    """stdout: what cannot be written ends the command."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise OutputError(exc) from exc


class _Errors(Console):
    """stderr: what cannot be written is lost, and the command goes on."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    def print(self, *objects: Any, **options: Any) -> None:
        with suppress(OSError):
            super().print(*objects, **options)


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
