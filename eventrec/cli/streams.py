"""stdin, stdout and stderr as a command finds them: closed, full, or of an encoding that cannot say everything."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Final, NoReturn, TextIO

from eventrec.cli.exit_codes import CommandError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

_STDIN: Final = 0
_STDOUT: Final = 1
_STDERR: Final = 2


class OutputError(CommandError):
    """The result of a command cannot be written to stdout."""

    def __init__(self, exc: OSError) -> None:
        super().__init__(f"cannot write the result to stdout: {exc.strerror or exc}", ExitCode.FILE)


def prepare_streams() -> None:
    """Make each of the three usable. Those that are closed lead to /dev/null; writing to stdout then raises OSError.

    Without this, a file that a command opens gets the number of a closed stream, and takes what is meant for it.
    """
    for number in (_STDIN, _STDOUT, _STDERR):
        try:
            os.fstat(number)
        except OSError:
            _lead_to_null(number)
    if sys.stdout is None:
        sys.stdout = _ClosedOutput()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for as long as the process lives
    if isinstance(sys.stdout, io.TextIOWrapper):  # stderr does so by itself
        sys.stdout.reconfigure(errors="backslashreplace")


def abandon_output() -> None:
    """What is still buffered for stdout and stderr cannot be written: the interpreter must not try at its exit."""
    for number in (_STDOUT, _STDERR):
        stream = sys.stdout if number == _STDOUT else sys.stderr
        try:
            stream.flush()
        except (OSError, ValueError):
            _lead_to_null(number)


@contextmanager
def printing_to_stderr() -> Iterator[None]:
    """What is printed meanwhile goes to stderr, by this process or those that it starts: stdout is for results."""
    stdout = sys.stdout
    _flush(stdout)
    kept: int | None = None
    with suppress(OSError):
        kept = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _flush(stdout)  # which a module may have found elsewhere than in sys
        if kept is not None:
            os.dup2(kept, _STDOUT)
            os.close(kept)


def _flush(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        stream.flush()


def _lead_to_null(number: int) -> None:
    with suppress(OSError):
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor != number:
            os.dup2(descriptor, number)
            os.close(descriptor)


class _ClosedOutput(io.TextIOBase):
    """In place of a stdout that was closed before the command began."""

    encoding = "utf-8"

    def write(self, _text: str, /) -> NoReturn:
        raise OSError(errno.EBADF, "it is closed")
