"""The disk, as the log sees it: a directory of flat files, held by descriptor."""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import shutil
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Final, Literal, ParamSpec, TypeVar

from eventrec.errors import LogLockedError
from eventrec.log import descriptors
from eventrec.log.descriptors import DiskFile
from eventrec.log.storage import FileSize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_P = ParamSpec("_P")
_T = TypeVar("_T")


_CLOSED: Final = -1
"""What is neither a descriptor nor a shorthand for the working directory."""

_DIRECTORY: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)

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
        self.directory = directory if isinstance(directory, Path) else Path(directory)
        self._within = within
        self._dir: int | None = None
        self._process = os.getpid()
        if create:
            descriptors.make_directories(self.directory)
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
            mode = descriptors.UNFINISHED if is_unfinished else descriptors.PRIVATE_DIRECTORY
            try:
                descriptors.make_directory(self._path(name), self._dir, mode=mode, place=self._is_of)
            except FileExistsError:
                if exclusive:
                    raise
        try:
            return DiskStorage(self.directory / name, within=self)
        except OSError:
            if exclusive:  # It is ours, and empty.
                with contextlib.suppress(OSError):
                    self.remove_folder(name)
            raise

    @_says_where
    def open_folder(self, name: str, flags: int) -> int:
        """A descriptor of the directory `name` in this one; NotADirectoryError where it is a link."""
        try:
            return descriptors.open_descriptor(self._path(name), flags, self._dir)
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
        with self._scanned() as found:
            return list(found)

    @contextlib.contextmanager
    def _scanned(self) -> Iterator[Iterator[os.DirEntry[str]]]:
        if self._dir is None:
            with os.scandir(self.directory) as found:
                yield found
            return
        # A descriptor has one place in the directory, which two threads that list at once would share.
        own = descriptors.open_descriptor(".", _DIRECTORY, self._dir)
        try:
            with os.scandir(own) as found:
                yield found
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

    def has_room(self, *, size: int, files: int) -> bool:
        """Whether so many bytes and files are free in its file system for this user; True where that is not told."""
        free, free_files = self.room()
        return free >= size and free_files >= files

    def room(self) -> tuple[int, float]:
        """Bytes and files that are free in its file system for this user; files without end where that is not told.

        Raises:
            OSError: The system does not say.
        """
        if self._dir is None or not hasattr(os, "statvfs"):
            return self.space()[0], math.inf
        found = os.statvfs(self._dir)
        # Where files are made as they are needed, there is no number of them.
        return found.f_bavail * found.f_frsize, found.f_favail if found.f_files else math.inf

    @property
    def info(self) -> os.stat_result:
        """What the system knew of the directory when it was opened: its owner, its mode."""
        return self._is_of

    @property
    def is_unfinished(self) -> bool:
        """Whether it was so when it was opened: see `note_unfinished`. False where no such bit is kept."""
        return self._is_of.st_mode & descriptors.CHECKED_MODE == descriptors.UNFINISHED

    def note_unfinished(self, *, is_unfinished: bool) -> None:
        """Mark this directory as one that is being made or deleted, and holds no mark of ours: by its sticky bit.

        Raises:
            OSError: It could not be marked.
        """
        if self._dir is not None:
            kept = stat.S_IMODE(self._is_of.st_mode) & ~descriptors.CHECKED_MODE
            os.fchmod(self._dir, kept | (descriptors.UNFINISHED if is_unfinished else descriptors.PRIVATE_DIRECTORY))

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
        with self._scanned() as found:
            return [entry.name for entry in found if entry.is_file(follow_symlinks=False)]

    @_says_where
    def open(self, name: str, mode: Literal["read", "write", "create"]) -> DiskFile:
        """See `Storage`. What is not a regular file is refused, and so is a link."""
        flags = {
            "read": os.O_RDONLY | descriptors.WITHOUT_WAITING,
            "write": os.O_RDWR,
            "create": os.O_RDWR | os.O_CREAT | os.O_EXCL,
        }[mode]
        return DiskFile(descriptors.open_file(self._path(name), flags, self._dir, place=self._is_of))

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
            descriptors.sync(self._dir, directory=True)

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
            flags = os.O_RDWR | (os.O_CREAT if create else 0)
            fd = descriptors.open_file(self._path(name), flags, self._dir, place=self._is_of)
            try:
                try:
                    descriptors.lock(fd, shared=shared)
                except OSError as exc:
                    raise LogLockedError(f"{self.directory / name} is locked") from exc
                # Who held it may have deleted the file between our open and our lock: then we hold a lock on nothing.
                with contextlib.suppress(FileNotFoundError):
                    now = os.stat(self._path(name), dir_fd=self._dir, follow_symlinks=False)
                    if os.path.samestat(os.fstat(fd), now):
                        descriptors.make_private(fd, now)
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
        fd = descriptors.open_file(self._path(name), os.O_RDONLY | descriptors.WITHOUT_WAITING, self._dir)
        try:
            # Shared, so that two processes that look do not see each other.
            descriptors.lock(fd, shared=True)
            descriptors.unlock(fd)
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


class DiskLock:
    """An `flock` that is held."""

    def __init__(self, storage: DiskStorage, name: str, fd: int) -> None:
        self._storage, self._name, self._fd = storage, name, fd

    def release(self, *, delete: bool = False) -> None:
        """See `Lock`. A file that cannot be deleted stays: a lock is never known by its file."""
        if delete:
            with contextlib.suppress(OSError):
                self._storage.delete(self._name)
        try:
            descriptors.unlock(self._fd)
        finally:
            os.close(self._fd)

    def forget(self) -> None:
        """See `Lock`."""
        os.close(self._fd)


def _open_directory(path: Path, within: DiskStorage | None) -> int:
    if within is None:
        return descriptors.open_descriptor(path, _DIRECTORY)
    return within.open_folder(path.name, _DIRECTORY | descriptors.NO_LINK)
