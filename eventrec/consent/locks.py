"""Locks between the processes of a user's application, for which no file is made.

A process that changes the user's choices has the directory they are in, and no other has it then. One in its first run
has the file they are in: until it ends, or the file is replaced, since then the user has chosen.
"""

from __future__ import annotations

import errno
import importlib
import os
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from eventrec.log.descriptors import open_descriptor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SECONDS: Final = 5.0
_PAUSE: Final = 0.02
_LOOKING: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
_BUSY: Final = frozenset({errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN})


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes out, where the system has such locks.

    Raises:
        TimeoutError: One does not let go.
    """
    fcntl = _fcntl()
    if fcntl is None:
        yield
        return
    descriptor = open_descriptor(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        latest = time.monotonic() + _SECONDS
        while not _is_taken(fcntl, descriptor):
            if time.monotonic() > latest:
                raise TimeoutError(errno.ETIMEDOUT, "another process is changing it")
            time.sleep(_PAUSE)
        yield
    finally:
        os.close(descriptor)


def hold(file: Path) -> int | None:
    """Have `file`, under the lock of its directory: the descriptor whose end ends that; None: there are no locks.

    Raises:
        OSError: It cannot be opened.
    """
    fcntl = _fcntl()
    if fcntl is None:
        return None
    descriptor = open_descriptor(file, _LOOKING)
    _is_taken(fcntl, descriptor)
    return descriptor


def is_held(file: Path) -> bool:
    """Whether a process has `file`, or one changes its directory just now: that one may be about to have it.

    Any number of processes may ask at once.

    Raises:
        OSError: They cannot be opened.
    """
    fcntl = _fcntl()
    if fcntl is None:
        return False
    with ExitStack() as opened:
        for path in (file.parent, file):
            descriptor = open_descriptor(path, _LOOKING)
            opened.callback(os.close, descriptor)
            if not _is_taken(fcntl, descriptor, fcntl.LOCK_SH):
                return True
    return False


def _fcntl() -> Any:
    """The module of that name; None on Windows, which has no such locks."""
    try:
        return importlib.import_module("fcntl")
    except ImportError:
        return None


def _is_taken(fcntl: Any, descriptor: int, kind: int | None = None) -> bool:
    """Take the lock, or learn that this file system has none; False: another process has it."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if kind is None else kind) | fcntl.LOCK_NB)
    except OSError as exc:
        return exc.errno not in _BUSY
    return True
