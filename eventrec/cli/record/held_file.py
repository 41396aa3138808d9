"""A file that is read under a lock, and removed only while no process can have begun to write it.

Whether a process has it open for writing is known on Linux alone, and of this user's files: the kernel then grants no
read lease on it. Elsewhere a file that changed meanwhile is not removed, and no more is known.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from eventrec.cli.record.sources import LeftAloneError

if TYPE_CHECKING:
    from pathlib import Path

_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_NO_LOCKS: Final = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""A file system that has no locks, or none for a file that is only read."""

_NOT_A_FILE: Final = (errno.ELOOP, errno.EMLINK, errno.ENXIO)


class HeldFile:
    """The regular file at `path`, open for reading and locked against others that lock it. Every method blocks.

    Raises:
        LeftAloneError: It is something else, or another process holds a lock on it or has it open for writing.
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.descriptor = os.open(path, _FLAGS)
        except OSError as exc:
            if exc.errno in _NOT_A_FILE:
                raise LeftAloneError("it is not a regular file") from exc
            raise
        try:
            self._check()
        except BaseException:
            os.close(self.descriptor)
            raise

    def remove(self, size: int) -> None:
        """Delete it, if it still is what was read: a file of `size` bytes. One that is gone already will do.

        Raises:
            LeftAloneError: It is not, or a process has it open for writing.
            OSError: It cannot be deleted.
        """
        # Until it is gone, what opens it for writing waits.
        if not _take_lease(self.descriptor):
            raise LeftAloneError("a process has it open for writing")
        try:
            now = self._path.stat(follow_symlinks=False)
            if not os.path.samestat(os.fstat(self.descriptor), now) or now.st_size != size:
                raise LeftAloneError("it changed while it was read")
            self._path.unlink()
        except FileNotFoundError:
            return
        finally:
            _end_lease(self.descriptor)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)

    def _check(self) -> None:
        if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):
            raise LeftAloneError("it is not a regular file")
        if sys.platform != "win32":
            import fcntl  # noqa: PLC0415 - there is none on Windows

            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise LeftAloneError("a process holds a lock on it") from exc
            except OSError as exc:
                if exc.errno not in _NO_LOCKS:
                    raise
        if not _take_lease(self.descriptor):
            raise LeftAloneError("a process has it open for writing")
        _end_lease(self.descriptor)


def _take_lease(descriptor: int) -> bool:
    """Take a read lease where there are such; False: none is granted, since a process has the file open for writing."""
    if sys.platform == "linux":
        import fcntl  # noqa: PLC0415 - it has leases on Linux alone
        import signal  # noqa: PLC0415 - likewise

        try:
            # Who opens it for writing now is told to us by a signal; by this one, which does nothing.
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            return False
        except OSError:
            return True  # another user's file, or a file system without leases: it is not known
    return True


def _end_lease(descriptor: int) -> None:
    if sys.platform == "linux":
        import fcntl  # noqa: PLC0415 - it has leases on Linux alone

        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
