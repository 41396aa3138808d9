"""The seam to the file system: everything the log asks of it, and the disk that answers.

`eventrec.testing.storage` has the others: memory, and memory that fails, tears and loses power.
Failures are OSErrors as the system raised them; the log translates them.
"""

import contextlib
import errno
import importlib
import os
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from eventrec.errors import LogLockedError


class FileSize(NamedTuple):
    """Bytes in a file, bytes the disk gave it, and the seconds since it was written, where that is known."""

    length: int
    allocated: int
    age: float = 0.0


class File(Protocol):
    """An open file. It has no cursor: who writes says where."""

    def read(self, position: int, size: int) -> bytes:
        """The bytes at `position`: `size` of them, fewer only at the end of the file."""

    def write(self, piece: bytes, position: int) -> int:
        """Write to the page cache. Returns how many bytes were taken, which may be fewer than given."""

    def size(self) -> int:
        """Length in bytes, now."""

    def truncate(self, size: int) -> None:
        """Cut to `size` bytes. The page cache knows, the disk not yet."""

    def sync(self) -> None:
        """On return the file's bytes and length survive a power cut; its name may not: see `sync_directory`.

        After an OSError, what was written since the last success is in an unknown state for ever, and a later
        success says nothing about it.
        """

    def close(self) -> None:
        """Give the descriptor back."""


class Lock(Protocol):
    """A lock that is held."""

    def release(self, *, delete: bool = False) -> None:
        """Let go, and delete the lock's file first where `delete`."""

    def forget(self) -> None:
        """Close the descriptor without unlocking: for the child of a fork, whose parent still holds the lock."""


class Storage(Protocol):
    """A directory of flat files."""

    def list(self) -> list[str]:
        """The names of the regular files, in no order."""

    def open(self, name: str, mode: Literal["read", "write", "create"]) -> File:
        """Open a file that exists (`read`, `write`) or does not (`create`, for reading and writing).

        Raises:
            FileNotFoundError, FileExistsError: It does not, or does.
        """

    def delete(self, name: str) -> None:
        """Unlink a file. FileNotFoundError if there is none."""

    def replace(self, source: str, target: str) -> None:
        """Rename at once, over `target` if that exists. Durable after `sync_directory`."""

    def size(self, name: str) -> FileSize:
        """The sizes of a file. FileNotFoundError if there is none."""

    def sync_directory(self) -> None:
        """On return all creations, renames and deletions so far survive a power cut."""

    def lock(self, name: str, *, shared: bool = False) -> Lock:
        """Take the lock of that name, without waiting.

        Raises:
            LogLockedError: Somebody holds it.
        """

    def close(self) -> None:
        """Give descriptors back. Open files stay open."""


def write_all(file: File, piece: bytes, position: int) -> int:
    """Write all of `piece` to the page cache. Returns the position after it; OSError if the disk stops taking."""
    done = 0
    while done < len(piece):
        done += write_some(file, piece[done:] if done else piece, position + done)
    return position + done


def write_some(file: File, piece: bytes, position: int) -> int:
    """Write as much of `piece` as the file takes at once. Returns how many bytes that were: at least one."""
    taken = file.write(piece, position)
    if not taken:
        raise OSError(errno.EIO, "the disk took nothing and named no error")
    return taken


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_fcntl = _optional("fcntl")
_msvcrt = _optional("msvcrt")


_BY_DESCRIPTOR = {os.open, os.stat, os.unlink, os.rename} <= os.supports_dir_fd


class DiskStorage:
    """A directory of the file system. Where the system allows, it is held by descriptor: renaming it does not matter.

    Raises:
        OSError: The directory is not there, or could not be made.
    """

    def __init__(self, directory: str | os.PathLike[str], *, create: bool = False) -> None:
        self.directory = Path(directory)
        if create:
            self.directory.mkdir(parents=True, exist_ok=True)
        self._dir = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY) if _BY_DESCRIPTOR else None
        self._is_of = self.directory.stat() if self._dir is None else os.fstat(self._dir)

    def __repr__(self) -> str:
        return f"<DiskStorage {str(self.directory)!r}>"

    def _path(self, name: str) -> str:
        return name if self._dir is not None else str(self.directory / name)

    def list(self) -> list[str]:
        """See `Storage`."""
        if self._dir is None:
            return _files(self.directory)
        # A descriptor has one place in the directory, which two threads that list at once would share.
        own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | getattr(os, "O_CLOEXEC", 0), dir_fd=self._dir)
        try:
            return _files(own)
        finally:
            os.close(own)

    def open(self, name: str, mode: Literal["read", "write", "create"]) -> "DiskFile":
        """See `Storage`."""
        flags = {"read": os.O_RDONLY, "write": os.O_RDWR, "create": os.O_RDWR | os.O_CREAT | os.O_EXCL}[mode]
        flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        return DiskFile(os.open(self._path(name), flags, 0o644, dir_fd=self._dir))

    def delete(self, name: str) -> None:
        """See `Storage`."""
        os.unlink(self._path(name), dir_fd=self._dir)

    def replace(self, source: str, target: str) -> None:
        """See `Storage`."""
        os.replace(self._path(source), self._path(target), src_dir_fd=self._dir, dst_dir_fd=self._dir)

    def size(self, name: str) -> FileSize:
        """See `Storage`."""
        stat = os.stat(self._path(name), dir_fd=self._dir)
        return FileSize(
            stat.st_size, getattr(stat, "st_blocks", -(-stat.st_size // 512)) * 512, time.time() - stat.st_mtime
        )

    def sync_directory(self) -> None:
        """See `Storage`. Where a directory cannot be opened (Windows) the file system is trusted."""
        if self._dir is not None:
            _sync(self._dir, directory=True)

    def is_in_place(self) -> bool:
        """Whether the directory is still found under its name; True where nobody can tell."""
        try:
            return os.path.samestat(self._is_of, self.directory.stat())
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def lock(self, name: str, *, shared: bool = False) -> "DiskLock":
        """See `Storage`. The lock is `flock`'s: it goes with the process, and children share it."""
        while True:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
            fd = os.open(self._path(name), flags, 0o644, dir_fd=self._dir)
            try:
                _lock(fd, shared=shared)
                # Who held it may have deleted the file between our open and our lock: then we hold a lock on nothing.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), os.stat(self._path(name), dir_fd=self._dir)):
                        return DiskLock(self, name, fd)
            except OSError as error:
                os.close(fd)
                raise LogLockedError(f"{self.directory / name} is locked") from error
            os.close(fd)

    def close(self) -> None:
        """See `Storage`. Idempotent."""
        if self._dir is not None:
            directory, self._dir = self._dir, None
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
