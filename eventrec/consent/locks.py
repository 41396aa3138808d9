"""The lock that a process holds while it changes a user's choices: on their directory, so no file is made for it."""

from __future__ import annotations

import errno
import importlib
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SECONDS: Final = 5.0
_PAUSE: Final = 0.02
_BUSY: Final = frozenset({errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN})


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes out, where the system has such locks. Raises TimeoutError where one does not let go."""
    try:
        fcntl = importlib.import_module("fcntl")
    except ImportError:
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        latest = time.monotonic() + _SECONDS
        while not _is_taken(fcntl, descriptor):
            if time.monotonic() > latest:
                raise TimeoutError(errno.ETIMEDOUT, "another process is changing it")
            time.sleep(_PAUSE)
        yield
    finally:
        os.close(descriptor)


def _is_taken(fcntl: Any, descriptor: int) -> bool:
    """Take the lock, or learn that this file system has none; False: another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        return exc.errno not in _BUSY
    return True
