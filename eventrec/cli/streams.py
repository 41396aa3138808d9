"""stdin, stdout and stderr as a command finds them: closed, full, or of an encoding that cannot say everything."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Final, NoReturn

from eventrec.cli.exit_codes import CommandError, ExitCode

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
