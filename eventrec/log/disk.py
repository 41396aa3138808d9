"""The disk, as the log sees it: a directory of flat files, held by descriptor.

What is made here is its owner's alone, whatever the umask: directories 0700, files 0600. What is opened is a regular
file, and not a link to one.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import os
import shutil
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, Literal, ParamSpec, TypeVar

from eventrec.errors import LogLockedError
from eventrec.log.storage import FileSize

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_fcntl = _optional("fcntl")
_msvcrt = _optional("msvcrt")


_CLOSED: Final = -1
"""What is no descriptor, and no shorthand for the working directory either."""

_BY_DESCRIPTOR: Final = {os.open, os.stat, os.unlink, os.rename} <= os.supports_dir_fd


def _says_where(method: Callable[Concatenate[DiskStorage, _P], _T]) -> Callable[Concatenate[DiskStorage, _P], _T]:
    """An OSError names the whole path: one that counts from a descriptor tells an operator little."""

    @functools.wraps(method)
    def call(storage: DiskStorage, /, *args: _P.args, **options: _P.kwargs) -> _T:
        try:
            return method(storage, *args, **options)
        except OSError as exc:
            if isinstance(exc.filename, str):
                exc.filename = str(storage.directory / exc.filename)
            raise

    return call


class DiskStorage:
    """A directory of the file system. Where the system allows, it is held by descriptor: renaming it does not matter.

    `within` is the directory that it is in, where that is held too: then no link in its place is followed.

    Raises:
        OSError: The directory is not there, or could not be made.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, create: bool = False, within: DiskStorage | None = None
    ) -> None:
        self.directory = Path(directory)
        self._within = within
        self._dir: int | None = None
        self._process = os.getpid()
        if create:
            _make_directories(self.directory)
        self._dir = _open_directory(self.directory, within) if _BY_DESCRIPTOR else None
        self._is_of = self._stat()

    def __del__(self) -> None:
        # In the child of a fork the number may mean something else: daemons close every descriptor.
        if getattr(self, "_process", 0) == os.getpid():
            with contextlib.suppress(OSError):
                self.close()

    def __repr__(self) -> str:
        return f"<DiskStorage {str(self.directory)!r}>"

    def _stat(self) -> os.stat_result:
        return self.directory.stat() if self._dir is None else os.fstat(self._dir)

    @_says_where
    def folder(
        self, name: str, *, create: bool = False, exclusive: bool = False, is_unfinished: bool = False
    ) -> DiskStorage:
        """The directory `name` in this one. With `create` it is made where it is not there, `exclusive`: or else.

        One that is made `is_unfinished` from its first moment on: see `note_unfinished`.

        Raises:
            OSError: It is not there, is a link or a file, or could not be made; FileExistsError where `exclusive`.
        """
        if create or exclusive:
            with contextlib.ExitStack() as stack:
                if not exclusive:
                    stack.enter_context(contextlib.suppress(FileExistsError))
                _make_directory(self._path(name), self._dir, mode=_UNFINISHED if is_unfinished else _PRIVATE_DIRECTORY)
        return DiskStorage(self.directory / name, within=self)

    @_says_where
    def open_folder(self, name: str, flags: int) -> int:
        """A descriptor of the directory `name` in this one; NotADirectoryError where it is a link."""
        try:
            return os.open(self._path(name), flags, dir_fd=self._dir)
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                raise NotADirectoryError(errno.ENOTDIR, "a link", name) from exc
            raise

    @_says_where
    def remove_folder(self, name: str) -> None:
        """Remove the directory `name` in this one, where it is empty.

        Raises:
            OSError: It is not empty, or not there.
        """
        os.rmdir(self._path(name), dir_fd=self._dir)

    def move_folder(self, name: str, to: DiskStorage, target: str) -> None:
        """Rename the directory `name` in this one to `target` in `to`. Durable once both are synced.

        Raises:
            OSError: It is not there, or a directory with content is in the way.
        """
        to.take_folder(self._path(name), self._dir, target)

    @_says_where
    def take_folder(self, source: str, within: int | None, name: str) -> None:
        """See `move_folder`, from the other side: `source` counts from the descriptor `within`."""
        os.rename(source, self._path(name), src_dir_fd=within, dst_dir_fd=self._dir)

    @_says_where
    def entries(self) -> list[os.DirEntry[str]]:
        """Whatever is in this directory, in no order. Their paths mean nothing: use their names."""
        if self._dir is None:
            with os.scandir(self.directory) as found:
                return list(found)
        # A descriptor has one place in the directory, which two threads that list at once would share.
        own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | getattr(os, "O_CLOEXEC", 0), dir_fd=self._dir)
        try:
            with os.scandir(own) as found:
                return list(found)
        finally:
            os.close(own)

    def space(self) -> tuple[int, int]:
        """Bytes that are free in its file system for this user, and all there are.

        Raises:
            OSError: The system does not say.
        """
        if self._dir is None or not hasattr(os, "statvfs"):
            usage = shutil.disk_usage(self.directory)
            return usage.free, usage.total
        found = os.statvfs(self._dir)
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    @property
    def info(self) -> os.stat_result:
        """What the system knew of the directory when it was opened: its owner, its mode."""
        return self._is_of

    @property
    def is_unfinished(self) -> bool:
        """Whether it was so when it was opened: see `note_unfinished`. False where no such bit is kept."""
        return self._is_of.st_mode & _CHECKED_MODE == _UNFINISHED

    def note_unfinished(self, *, is_unfinished: bool) -> None:
        """Mark this directory as one that is being made or deleted, and holds no mark of ours: by its sticky bit.

        Raises:
            OSError: It could not be marked.
        """
        if self._dir is not None:
            kept = stat.S_IMODE(self._is_of.st_mode) & ~_CHECKED_MODE
            os.fchmod(self._dir, kept | (_UNFINISHED if is_unfinished else _PRIVATE_DIRECTORY))

    def modified(self) -> float:
        """When a name in this directory was made or went, in seconds since the epoch.

        Raises:
            OSError: The system does not say.
        """
        return self._stat().st_mtime

    def is_there(self) -> bool:
        """Whether the descriptor is still that of this directory, and the directory has a name anywhere."""
        try:
            now = self._stat()
        except OSError:
            return False
        return os.path.samestat(now, self._is_of) and (now.st_nlink > 0 or self._dir is None)

    @_says_where
    def stat_of(self, name: str) -> os.stat_result:
        """What the system says of a name in this directory; of a link itself.

        Raises:
            OSError: There is no such name.
        """
        return os.stat(self._path(name), dir_fd=self._dir, follow_symlinks=False)

    def holds(self, name: str) -> bool:
        """Whether there is anything of that name in this directory.

        Raises:
            OSError: That cannot be told.
        """
        try:
            self.stat_of(name)
        except FileNotFoundError:
            return False
        return True

    def _path(self, name: str) -> str:
        return name if self._dir is not None else str(self.directory / name)

    @_says_where
    def list(self) -> list[str]:
        """See `Storage`."""
        if self._dir is None:
            return _files(self.directory)
        own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | getattr(os, "O_CLOEXEC", 0), dir_fd=self._dir)
        try:
            return _files(own)
        finally:
            os.close(own)

    @_says_where
    def open(self, name: str, mode: Literal["read", "write", "create"]) -> DiskFile:
        """See `Storage`. What is not a regular file is refused, and so is a link."""
        # Without waiting: a pipe of that name has no writer.
        flags = {"read": os.O_RDONLY | _AT_ONCE, "write": os.O_RDWR, "create": os.O_RDWR | os.O_CREAT | os.O_EXCL}[mode]
        return DiskFile(_open_file(self._path(name), flags, self._dir))

    @_says_where
    def delete(self, name: str) -> None:
        """See `Storage`."""
        os.unlink(self._path(name), dir_fd=self._dir)

    @_says_where
    def replace(self, source: str, target: str) -> None:
        """See `Storage`."""
        os.replace(self._path(source), self._path(target), src_dir_fd=self._dir, dst_dir_fd=self._dir)

    @_says_where
    def size(self, name: str) -> FileSize:
        """See `Storage`."""
        found = os.stat(self._path(name), dir_fd=self._dir, follow_symlinks=False)
        return FileSize(
            found.st_size,
            getattr(found, "st_blocks", -(-found.st_size // 512)) * 512,
            time.time() - found.st_mtime,
            (found.st_dev, found.st_ino),
        )

    def sync_directory(self) -> None:
        """See `Storage`. Where a directory cannot be opened (Windows) the file system is trusted."""
        if self._dir == _CLOSED:  # Python refuses that number in another way.
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(self.directory))
        if self._dir is not None:
            _sync(self._dir, directory=True)

    def is_in_place(self) -> bool:
        """Whether the directory is still found under its name, in the directory that it is in; True where unknown."""
        try:
            if self._within is None:
                return os.path.samestat(self._is_of, self.directory.stat())
            return os.path.samestat(self._is_of, self._within.stat_of(self.directory.name))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    @_says_where
    def lock(self, name: str, *, shared: bool = False, create: bool = True) -> DiskLock:
        """See `Storage`. The lock is `flock`'s: it goes with the process, and children share it.

        Raises:
            FileNotFoundError: There is no such file, and none is to be made.
            OSError: The system refused something else: whether it is locked is not known.
        """
        while True:
            fd = _open_file(self._path(name), os.O_RDWR | (os.O_CREAT if create else 0), self._dir)
            try:
                try:
                    _lock(fd, shared=shared)
                except OSError as exc:
                    raise LogLockedError(f"{self.directory / name} is locked") from exc
                # Who held it may have deleted the file between our open and our lock: then we hold a lock on nothing.
                with contextlib.suppress(FileNotFoundError):
                    now = os.stat(self._path(name), dir_fd=self._dir, follow_symlinks=False)
                    if os.path.samestat(os.fstat(fd), now):
                        _make_private(fd, now)
                        return DiskLock(self, name, fd)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    @_says_where
    def is_locked(self, name: str) -> bool:
        """Whether a process holds the lock of that name. Changes nothing, and needs no right to write.

        Raises:
            OSError: There is no such file, or it may not be read.
        """
        fd = _open_file(self._path(name), os.O_RDONLY | _AT_ONCE, self._dir)
        try:
            # Shared, so that two processes that look do not see each other.
            _lock(fd, shared=True)
            _unlock(fd)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def close(self) -> None:
        """See `Storage`. Idempotent. What is asked of it from here on is refused, and never sought by its path."""
        if self._dir not in (None, _CLOSED):
            directory, self._dir = self._dir, _CLOSED
            os.close(directory)


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
        if _SEEK_DATA is None or found.st_size - found.st_blocks * 512 < _LARGE_HOLE:
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
        _sync(self._fd)

    def close(self) -> None:
        """See `File`. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class DiskLock:
    """An `flock` that is held."""

    def __init__(self, storage: DiskStorage, name: str, fd: int) -> None:
        self._storage, self._name, self._fd = storage, name, fd

    def release(self, *, delete: bool = False) -> None:
        """See `Lock`. A file that cannot be deleted stays: a lock is never known by its file."""
        if delete:
            with contextlib.suppress(OSError):
                self._storage.delete(self._name)
        _unlock(self._fd)
        os.close(self._fd)

    def forget(self) -> None:
        """See `Lock`."""
        os.close(self._fd)


_SEEK_DATA: Final[int | None] = getattr(os, "SEEK_DATA", None)
_LARGE_HOLE: Final = 64 << 20
"""Bytes that a file counts without having got them from the disk."""

_PRIVATE_FILE: Final = 0o600
_PRIVATE_DIRECTORY: Final = 0o700
_UNFINISHED: Final = 0o1700
_CHECKED_MODE: Final = 0o1777

_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_AT_ONCE: Final = getattr(os, "O_NONBLOCK", 0)


def _open_directory(path: Path, within: DiskStorage | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | getattr(os, "O_CLOEXEC", 0)
    if within is None:
        return os.open(path, flags)
    return within.open_folder(path.name, flags | _NOFOLLOW)


def _make_directory(name: str | Path, within: int | None = None, *, mode: int = _PRIVATE_DIRECTORY) -> None:
    """Make one directory, 0700 whatever the umask."""
    os.mkdir(name, mode, dir_fd=within)
    made = stat.S_IMODE(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode)
    # A directory within one whose group is kept has that bit too.
    if made & _CHECKED_MODE != mode:
        os.chmod(name, mode, dir_fd=within)


def _make_directories(path: Path) -> None:
    """Make `path`, and what is missing above it."""
    if path.is_dir():
        return
    if not path.parent.exists():
        _make_directories(path.parent)
    with contextlib.suppress(FileExistsError):
        _make_directory(path)


def _open_file(path: str, flags: int, within: int | None) -> int:
    """Open a regular file; one that is made is 0600 whatever the umask.

    Raises:
        OSError: It is something else, or what root must not write: a file of others that has another name too.
    """
    fd = os.open(path, flags | _NOFOLLOW, _PRIVATE_FILE, dir_fd=within)
    try:
        _check_file(found := os.fstat(fd), path, flags)
        if flags & os.O_CREAT:
            _make_private(fd, found)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make_private(fd: int, found: os.stat_result) -> None:
    if hasattr(os, "fchmod") and stat.S_IMODE(found.st_mode) != _PRIVATE_FILE:
        with contextlib.suppress(PermissionError):  # It was there, and is another user's.
            os.fchmod(fd, _PRIVATE_FILE)


def _check_file(found: os.stat_result, path: str, flags: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    if _is_root() and found.st_uid != 0 and found.st_nlink > 1 and flags & os.O_RDWR:
        raise PermissionError(errno.EPERM, "a file of another user, under two names", path)


def _is_root() -> bool:
    return getattr(os, "geteuid", lambda: -1)() == 0


def _files(directory: Path | int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]


def _seek_read(fd: int, size: int, position: int) -> bytes:
    os.lseek(fd, position, os.SEEK_SET)
    return os.read(fd, size)


def _seek_write(fd: int, piece: bytes, position: int) -> int:
    os.lseek(fd, position, os.SEEK_SET)
    return os.write(fd, piece)


_pread = getattr(os, "pread", _seek_read)
_pwrite = getattr(os, "pwrite", _seek_write)


def _sync(fd: int, *, directory: bool = False) -> None:
    full_sync = getattr(_fcntl, "F_FULLFSYNC", None)
    if directory:
        os.fsync(fd)
    elif full_sync is not None:
        # On macOS fsync leaves the bytes in the drive's cache.
        _fcntl.fcntl(fd, full_sync)
    else:
        getattr(os, "fdatasync", os.fsync)(fd)


def _lock(fd: int, *, shared: bool) -> None:
    if _fcntl is not None:
        _fcntl.flock(fd, (_fcntl.LOCK_SH if shared else _fcntl.LOCK_EX) | _fcntl.LOCK_NB)
    else:
        _msvcrt.locking(fd, _msvcrt.LK_NBLCK, 1)


def _unlock(fd: int) -> None:
    if _fcntl is not None:
        _fcntl.flock(fd, _fcntl.LOCK_UN)
    else:
        _msvcrt.locking(fd, _msvcrt.LK_UNLCK, 1)
