"""Descriptors of files that are kept, or written: never those of the standard streams."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from pathlib import Path

_FIRST_OWN: Final = 3
_WRITES: Final = os.O_WRONLY | os.O_RDWR


def open_descriptor(path: str | Path, flags: int, mode: int = 0o666, *, within: int | None = None) -> int:
    """As `os.open`, and never the number of a standard stream, which gets what a program prints by habit.

    In a process that closed its standard streams, as daemons do, the system gives out their numbers first. Before a
    file is opened there to be written, those that are free lead to /dev/null, for reading alone, and stay so: to print
    is an error as before. SQLite does likewise. On Windows the system does not give them out.

    Raises:
        OSError: It cannot be opened.
    """
    if sys.platform == "win32":
        return os.open(path, flags, mode)
    if flags & _WRITES and not _has_streams():
        _lead_streams_to_null()
    descriptor = os.open(path, flags, mode, dir_fd=within)
    if descriptor >= _FIRST_OWN:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_OWN)
    finally:
        os.close(descriptor)


def _has_streams() -> bool:
    try:
        for number in range(_FIRST_OWN):
            os.get_inheritable(number)
    except OSError:
        return False
    return True


def _lead_streams_to_null() -> None:
    # To move a file later is too late: before this thread has the interpreter again, another one may print into it.
    with suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDONLY)) < _FIRST_OWN:
            pass
        os.close(descriptor)
