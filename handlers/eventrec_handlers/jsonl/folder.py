"""Folders held open: what is renamed, replaced or linked meanwhile leads nowhere else.

Where the system knows no descriptors of folders (Windows), it goes by path.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from eventrec_handlers._descriptors import open_descriptor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HAS_DESCRIPTORS: Final = os.open in os.supports_dir_fd and os.listdir in os.supports_fd

_COMMON: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK: Final = _COMMON | getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)
_DIRECTORY: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)


class Folder:
    """An open folder. Names in it are names, never paths."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[Folder]:
        """The folder at `path`, which the application chose: a link there is followed.

        Raises:
            OSError: It is not there, or not a folder.
        """
        if not HAS_DESCRIPTORS:
            path.stat()
            yield cls(path, None)
            return
        descriptor = open_descriptor(path, _DIRECTORY | _COMMON)
        try:
            yield cls(path, descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def folder(self, name: str) -> Iterator[Folder]:
        """The folder `name` in this one.

        Raises:
            OSError: It is not there, or is a link or another thing: ELOOP or ENOTDIR.
        """
        if self._descriptor is None:
            if (self.path / name).is_symlink():
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(self.path / name))
            with Folder.opened(self.path / name) as found:
                yield found
            return
        descriptor = self.open(name, _DIRECTORY)
        try:
            yield Folder(self.path / name, descriptor)
        finally:
            os.close(descriptor)

    def open(self, name: str, flags: int, mode: int = 0o666) -> int:
        """The descriptor of `name`, which is not a link. It never waits for the other end of a pipe.

        Raises:
            OSError: The system refused; it names the whole path.
        """
        flags |= _NO_LINK | _NO_WAIT  # the last one only matters for pipes, which no file here is
        try:
            if self._descriptor is None:
                return open_descriptor(self.path / name, flags, mode)
            return open_descriptor(name, flags, mode, within=self._descriptor)
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, str(self.path / name)) from exc

    @contextmanager
    def file(self, name: str, flags: int = os.O_RDONLY, mode: int = 0o666) -> Iterator[int]:
        """The descriptor of the regular file `name`.

        Raises:
            OSError: The system refused; or it is something else than a regular file: ELOOP for a link, else EISDIR.
        """
        descriptor = self.open(name, flags, mode)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EISDIR, "Not a regular file", str(self.path / name))
            yield descriptor
        finally:
            os.close(descriptor)

    def make(self, name: str) -> bool:
        """Make a folder `name` in this one; False: something of this name is there already."""
        try:
            if self._descriptor is None:
                (self.path / name).mkdir()
            else:
                os.mkdir(name, dir_fd=self._descriptor)
        except FileExistsError:
            return False
        return True

    def replace(self, fresh: str, name: str) -> None:
        """Rename `fresh` to `name`, in the place of what is there."""
        if self._descriptor is None:
            (self.path / fresh).replace(self.path / name)
        else:
            os.replace(fresh, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def unlink(self, name: str) -> None:
        """Take `name` away, where it is there."""
        with suppress(FileNotFoundError):
            if self._descriptor is None:
                (self.path / name).unlink()
            else:
                os.unlink(name, dir_fd=self._descriptor)

    def sync(self) -> None:
        """Make durable which names are in it."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def names(self) -> list[str]:
        """The names in it, sorted."""
        try:
            with os.scandir(self.path if self._descriptor is None else self._descriptor) as entries:
                return sorted(entry.name for entry in entries)
        except OSError as exc:  # It names the descriptor, which tells the reader nothing.
            raise OSError(exc.errno, exc.strerror, str(self.path)) from exc

    def stat(self) -> os.stat_result:
        """Which folder it is, and when its names last changed."""
        return self.path.stat() if self._descriptor is None else os.fstat(self._descriptor)


def read_at(descriptor: int, size: int, position: int) -> bytes:
    """At most `size` bytes of a file from the byte `position` on."""
    os.lseek(descriptor, position, os.SEEK_SET)
    return os.read(descriptor, size)
