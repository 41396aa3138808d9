"""The file system as this handler uses it, and what its errors mean. A test gives the handler one that fails."""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from eventrec import PauseError, TransientError
from eventrec_handlers._thread import check_cancelled

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PAUSE: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
)
"""What only an operator can mend; any other error of the file system may pass: a full disk, a failing one."""


class ShortFileError(Exception):
    """A file is shorter than what was written into it."""


class SyncError(OSError):
    """A sync failed: what of the file is on the disk is not known any more."""


@contextmanager
def errors_translated() -> Iterator[None]:
    """Raise what the errors of the file system mean for delivery."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _PAUSE:
            raise PauseError(str(exc)) from exc
        raise TransientError(str(exc)) from exc


class Disk:
    """Each method is done, and on the disk where `sync` says so, when it returns; it raises OSError else."""

    def __init__(self, *, sync: bool = True) -> None:
        self.sync = sync

    def read(self, path: Path) -> bytes | None:
        """The whole file; None where there is none."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def make_directory(self, path: Path) -> None:
        """Make `path` and what is missing above it."""
        missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in reversed(missing):
            self.sync_directory(folder.parent)

    def write(self, path: Path, at: int, content: bytes) -> None:
        """Cut the file to `at` bytes, then write `content` there; made if there is none and `at` is 0.

        After an error the file holds its first `at` bytes, and perhaps more.

        Raises:
            ShortFileError: It has fewer than `at` bytes, or is not there.
            SyncError: It may not be on the disk, now or ever: never sync the same file again.
        """
        try:
            file = path.open("r+b" if at else "ab", buffering=0)
        except FileNotFoundError:
            raise ShortFileError(f"{path} is gone") from None
        with file:
            size = os.fstat(file.fileno()).st_size
            if size < at:
                raise ShortFileError(f"{path} has {size} bytes, but {at} were written into it")
            if size > at:
                file.truncate(at)
            if at:
                file.seek(at)
            try:
                self._write_all(file.fileno(), content)
                self._sync(file.fileno(), path)
            except OSError:
                with suppress(OSError):  # else `cut` will
                    file.truncate(at)
                raise
        if not at:
            self.sync_directory(path.parent)

    def cut(self, path: Path, at: int) -> None:
        """Cut the file to `at` bytes, where it is there and longer."""
        try:
            if path.stat().st_size <= at:
                return
        except FileNotFoundError:
            return
        with path.open("r+b", buffering=0) as file:
            file.truncate(at)
            self._sync(file.fileno(), path)

    def replace(self, path: Path, content: bytes) -> None:
        """Put a file with `content` at `path`, at once: who reads it sees the old one or the new one."""
        fresh = path.with_name(f"{path.name}.new")
        with fresh.open("wb", buffering=0) as file:
            self._write_all(file.fileno(), content)
            self._sync(file.fileno(), fresh)
        fresh.replace(path)
        self.sync_directory(path.parent)

    def sync_directory(self, path: Path) -> None:
        """Make durable which files are in the directory."""
        if not self.sync or sys.platform == "win32":
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def locked(self, path: Path, *, seconds: float) -> Iterator[None]:
        """Keep other processes and threads out; Windows has no such lock.

        Raises:
            TransientError: Another one holds it for longer than `seconds`.
            FileNotFoundError: The directory of `path` is gone.
        """
        if sys.platform == "win32":
            yield
            return
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            deadline = time.monotonic() + seconds
            while not _taken(descriptor):
                if time.monotonic() >= deadline:
                    raise TransientError(f"{path}: another process has held this lock for {seconds:g} s")
                check_cancelled()
                time.sleep(0.002)
            yield
        finally:
            os.close(descriptor)  # and with it the lock

    def _write_all(self, descriptor: int, content: bytes) -> None:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]

    def _sync(self, descriptor: int, path: Path) -> None:
        if not self.sync:
            return
        try:
            if sys.platform == "darwin":
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            else:
                os.fsync(descriptor)
        except OSError as exc:
            raise SyncError(exc.errno, f"sync failed: {exc.strerror}", str(path)) from exc


def _taken(descriptor: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
