"""What a command ends with: the table stands in `eventrec.cli`."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every command."""

    OK = 0
    INCOMPLETE = 1
    USAGE = 2
    DESTINATION = 3
    FILE = 4
    HELD = 5
    MISSING = 6
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


class CommandError(Exception):
    """A command cannot go on: one line for stderr, and the exit code."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code
