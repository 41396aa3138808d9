"""The file system as this handler uses it, and what its errors mean. A test gives the handler one that fails."""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from eventrec import PauseError, TransientError
from eventrec_handlers._thread import check_cancelled
from eventrec_handlers.jsonl.folder import Folder

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PAUSE: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG}
)
"""What only an operator can mend; any other error of the file system may pass: a full disk, a failing one."""


_MAX_SMALL: Final = 1 << 20


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
    """Each method is done, and on the disk where `sync` says so, when it returns; it raises OSError else.

    Below the directory of `keep_below` no link is followed: what stands in its place is refused.
    """

    def __init__(self, *, sync: bool = True) -> None:
        self.sync = sync
        self._root: Path | None = None

    def keep_below(self, root: Path) -> None:
        """Follow no link below `root`, which the application chose."""
        self._root = root

    def read(self, path: Path) -> bytes | None:
        """The whole file, or its first MiB: small ones are read here; None where there is none."""
        try:
            with self._folder(path.parent) as folder, folder.file(path.name) as descriptor:
                return os.read(descriptor, _MAX_SMALL)
        except FileNotFoundError:
            return None

    def make_directory(self, path: Path) -> None:
        """Make `path` and what is missing above it."""
        root = self._root if self._root is not None and path.is_relative_to(self._root) else path
        missing = [folder for folder in (root, *root.parents) if not folder.is_dir()]
        root.mkdir(parents=True, exist_ok=True)
        made = [folder.parent for folder in reversed(missing)]
        above = root
        for name in path.relative_to(root).parts:
            with self._folder(above) as folder:
                if folder.make(name):
                    made.append(above)
            above /= name
        for parent in made:
            self.sync_directory(parent)

    def write(self, path: Path, at: int, content: bytes) -> None:
        """Cut the file to `at` bytes, then write `content` there; made if there is none and `at` is 0.

        After an error the file holds its first `at` bytes, and perhaps more.

        Raises:
            ShortFileError: It has fewer than `at` bytes, or is not there.
            SyncError: It may not be on the disk, now or ever: never sync the same file again.
        """
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(self._folder(path.parent))
                descriptor = stack.enter_context(folder.file(path.name, os.O_RDWR | (0 if at else os.O_CREAT)))
            except FileNotFoundError:
                raise ShortFileError(f"{path} is gone") from None
            size = os.fstat(descriptor).st_size
            if size < at:
                raise ShortFileError(f"{path} has {size} bytes, but {at} were written into it")
            if size > at:
                os.ftruncate(descriptor, at)
            os.lseek(descriptor, at, os.SEEK_SET)
            try:
                self._write_all(descriptor, content)
                self._sync(descriptor, path)
            except OSError:
                with suppress(OSError):  # else `cut` will
                    os.ftruncate(descriptor, at)
                raise
        if not at:
            self.sync_directory(path.parent)

    def cut(self, path: Path, at: int) -> None:
        """Cut the file to `at` bytes, where it is there and longer."""
        with (
            suppress(FileNotFoundError),
            self._folder(path.parent) as folder,
            folder.file(path.name, os.O_RDWR) as descriptor,
        ):
            if os.fstat(descriptor).st_size > at:
                os.ftruncate(descriptor, at)
                self._sync(descriptor, path)

    def replace(self, path: Path, content: bytes) -> None:
        """Put a file with `content` at `path`, at once: who reads it sees the old one or the new one."""
        fresh = path.with_name(f"{path.name}.new")
        with self._folder(path.parent) as folder:
            folder.unlink(fresh.name)  # of a crash, or put there by another program: it is never written through
            with folder.file(fresh.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
                self._write_all(descriptor, content)
                self._sync(descriptor, fresh)
            folder.replace(fresh.name, path.name)
        self.sync_directory(path.parent)

    def sync_directory(self, path: Path) -> None:
        """Make durable which files are in the directory."""
        if self.sync:
            with self._folder(path) as folder:
                folder.sync()

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
        # Closing the descriptor lets the lock go.
        with self._folder(path.parent) as folder, folder.file(path.name, os.O_RDWR | os.O_CREAT) as descriptor:
            deadline = time.monotonic() + seconds
            while not _taken(descriptor):
                if time.monotonic() >= deadline:
                    raise TransientError(f"{path}: another process has held this lock for {seconds:g} s")
                check_cancelled()
                time.sleep(0.002)
            yield

    @contextmanager
    def _folder(self, path: Path) -> Iterator[Folder]:
        root = self._root if self._root is not None and path.is_relative_to(self._root) else path
        with ExitStack() as stack:
            folder = stack.enter_context(Folder.opened(root))
            for name in path.relative_to(root).parts:
                folder = stack.enter_context(folder.folder(name))
            yield folder

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
