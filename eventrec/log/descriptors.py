"""Files and directories by descriptor, as each system does it: opened, made private, read, synced and locked.

What is made here is its owner's alone, whatever the umask: directories 0700, files 0600. What root makes in a directory
of another user, to which only its owner may write, is that user's: by root's hand alone it could be read and delivered.
What is opened is a regular file, and not a link to one.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import stat
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_fcntl = _optional("fcntl")
_msvcrt = _optional("msvcrt")

PRIVATE_FILE: Final = 0o600
PRIVATE_DIRECTORY: Final = 0o700
UNFINISHED: Final = 0o1700
"""A directory that is being made or deleted, and holds no mark of ours: by its sticky bit."""
CHECKED_MODE: Final = 0o1777

NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
FIRST_OWN: Final = 3
"""The least number of a descriptor that is kept: those below are of the standard streams, open or not."""

WRITABLE_BY_OTHERS: Final = 0o022

_WRITES: Final = os.O_WRONLY | os.O_RDWR
WITHOUT_WAITING: Final = getattr(os, "O_NONBLOCK", 0)
"""For a pipe in the place of a file: it has no writer."""

_SEEK_DATA: Final[int | None] = getattr(os, "SEEK_DATA", None)
LARGE_HOLE: Final = 64 << 20
"""Bytes that a file counts without having got them from the disk: from so many on it has a hole, and is not fresh."""


class DiskFile:
    """A descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, position: int, size: int) -> bytes:
        """See `File`."""
        piece = _pread(self._fd, size, position)
        # The system returns at most 2 GiB less a page, however much is asked.
        while 0 < len(piece) < size and (more := _pread(self._fd, size - len(piece), position + len(piece))):
            piece += more
        return piece

    def write(self, piece: bytes, position: int) -> int:
        """See `File`."""
        return _pwrite(self._fd, piece, position)

    def size(self) -> int:
        """See `File`."""
        return os.fstat(self._fd).st_size

    def data_from(self, position: int) -> int:
        """See `File`. Asked of files with large holes alone: others are read faster than a file system is asked."""
        found = os.fstat(self._fd)
        if _SEEK_DATA is None or found.st_size - found.st_blocks * 512 < LARGE_HOLE:
            return position
        try:
            return os.lseek(self._fd, position, _SEEK_DATA)
        except OSError as exc:  # ENXIO: no data comes any more. Else it is a file system that does not tell.
            return max(position, found.st_size) if exc.errno == errno.ENXIO else position

    def truncate(self, size: int) -> None:
        """See `File`."""
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        """See `File`."""
        sync(self._fd)

    def close(self) -> None:
        """See `File`. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def make_directory(
    name: str | Path, within: int | None = None, *, mode: int = PRIVATE_DIRECTORY, place: os.stat_result | None = None
) -> None:
    """Make one directory, of that mode whatever the umask. `place` is the one it is made in: see `has_heir`.

    Raises:
        OSError: It is there, or could not be made: then it is not there.
    """
    os.mkdir(name, mode, dir_fd=within)
    try:
        made = stat.S_IMODE(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode)
        # A directory within one whose group is kept has that bit too.
        if made & CHECKED_MODE != mode:
            os.chmod(name, mode, dir_fd=within)
        if place is not None and has_heir(place):
            _hand_over_directory(name, within, place)
    except OSError:
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=within)
        raise


def has_heir(place: os.stat_result) -> bool:
    """Whether what this process makes in the directory `place` is to belong to its owner, and not to root.

    Where that is refused it stays root's: over NFS, in a file system without owners, of a user that is not mapped here.
    """
    return _is_root() and place.st_uid != 0 and not place.st_mode & WRITABLE_BY_OTHERS


def _hand_over_directory(name: str | Path, within: int | None, place: os.stat_result) -> None:
    # Its owner may have put another one in its place: one that is empty, and root's, is given away without harm.
    with contextlib.suppress(OSError):
        fd = os.open(name, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | NO_LINK, dir_fd=within)
        try:
            if not os.listdir(fd):  # noqa: PTH208 - of a descriptor
                os.fchown(fd, place.st_uid, place.st_gid)
        finally:
            os.close(fd)


def make_directories(path: Path) -> None:
    """Make `path`, and what is missing above it.

    Raises:
        OSError: It could not be made.
    """
    if path.is_dir():
        return
    if not path.parent.exists():
        make_directories(path.parent)
    with contextlib.suppress(FileExistsError):
        make_directory(path)


def open_descriptor(
    path: str | os.PathLike[str], flags: int, within: int | None = None, *, mode: int = PRIVATE_FILE
) -> int:
    """As `os.open`, and never the number of a standard stream, which gets what a program prints by habit.

    In a process that closed its standard streams, as daemons do, the system gives out their numbers first. Before a
    file is opened there to be written, those that are free lead to /dev/null, for reading alone, and stay so: to print
    is an error as before. SQLite does likewise. On Windows the system does not give them out.

    Raises:
        OSError: It cannot be opened.
    """
    if _fcntl is not None and flags & _WRITES and not _has_streams():
        _lead_streams_to_null()
    fd = os.open(path, flags, mode, dir_fd=within)
    return fd if fd >= FIRST_OWN or _fcntl is None else _moved(fd)


def _has_streams() -> bool:
    try:
        for number in range(FIRST_OWN):
            os.get_inheritable(number)
    except OSError:
        return False
    return True


def _lead_streams_to_null() -> None:
    # To move a file later is too late: before this thread has the interpreter again, another one may print into it.
    with contextlib.suppress(OSError):
        while (fd := os.open(os.devnull, os.O_RDONLY)) < FIRST_OWN:
            pass
        os.close(fd)


def _moved(fd: int) -> int:
    try:
        return int(_fcntl.fcntl(fd, _fcntl.F_DUPFD_CLOEXEC, FIRST_OWN))
    finally:
        os.close(fd)


def open_file(path: str, flags: int, within: int | None, *, place: os.stat_result | None = None) -> int:
    """Open a regular file; one that is made is 0600 whatever the umask. `place` is the directory: see `has_heir`.

    Raises:
        OSError: It is something else, or what root must not write: a file of others that has another name too.
    """
    heir = place if place is not None and flags & os.O_CREAT and has_heir(place) else None
    if heir is not None and not flags & os.O_EXCL:
        # What was there already is not given away.
        with contextlib.suppress(FileExistsError):
            return open_file(path, flags | os.O_EXCL, within, place=place)
        heir = None
    fd = open_descriptor(path, flags | NO_LINK, within)
    try:
        _check_file(found := os.fstat(fd), path, flags)
        if flags & os.O_CREAT:
            make_private(fd, found)
        if heir is not None:
            with contextlib.suppress(OSError):
                os.fchown(fd, heir.st_uid, heir.st_gid)
    except BaseException:
        os.close(fd)
        raise
    return fd


def make_private(fd: int, found: os.stat_result) -> None:
    """Make a file 0600 that was `found` otherwise, unless it was there and is another user's."""
    if hasattr(os, "fchmod") and stat.S_IMODE(found.st_mode) != PRIVATE_FILE:
        with contextlib.suppress(PermissionError):
            os.fchmod(fd, PRIVATE_FILE)


def _check_file(found: os.stat_result, path: str, flags: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    if _is_root() and found.st_uid != 0 and found.st_nlink > 1 and flags & os.O_RDWR:
        raise PermissionError(errno.EPERM, "a file of another user, under two names", path)


def _is_root() -> bool:
    return getattr(os, "geteuid", lambda: -1)() == 0


def _seek_read(fd: int, size: int, position: int) -> bytes:
    os.lseek(fd, position, os.SEEK_SET)
    return os.read(fd, size)


def _seek_write(fd: int, piece: bytes, position: int) -> int:
    os.lseek(fd, position, os.SEEK_SET)
    return os.write(fd, piece)


_pread = getattr(os, "pread", _seek_read)
_pwrite = getattr(os, "pwrite", _seek_write)


def sync(fd: int, *, directory: bool = False) -> None:
    """Have on the disk what was written; see `File.sync`."""
    full_sync = getattr(_fcntl, "F_FULLFSYNC", None)
    if directory:
        os.fsync(fd)
    elif full_sync is not None:
        # On macOS fsync leaves the bytes in the drive's cache.
        _fcntl.fcntl(fd, full_sync)
    else:
        getattr(os, "fdatasync", os.fsync)(fd)


def lock(fd: int, *, shared: bool) -> None:
    """Lock without waiting; OSError where another process holds it."""
    if _fcntl is not None:
        _fcntl.flock(fd, (_fcntl.LOCK_SH if shared else _fcntl.LOCK_EX) | _fcntl.LOCK_NB)
    else:
        _msvcrt.locking(fd, _msvcrt.LK_NBLCK, 1)


def unlock(fd: int) -> None:
    """Let go of the lock."""
    if _fcntl is not None:
        _fcntl.flock(fd, _fcntl.LOCK_UN)
    else:
        _msvcrt.locking(fd, _msvcrt.LK_UNLCK, 1)
