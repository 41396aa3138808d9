"""A disk with little room, as the modules that speak to the disk see it: without a mount, or rights of root."""

from __future__ import annotations

import errno
import os
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from eventrec.log import descriptors, disk

if TYPE_CHECKING:
    import pytest

PAGE: Final = 4_096


class SmallDisk:
    """`os` for `eventrec.log`. What these modules make and write takes room, and what they delete gives it back.

    Attributes:
        files: How many more files and directories it takes; None: any number.
        pages: How many more pages of 4,096 bytes; None: any number.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.files: int | None = None
        self.pages: int | None = None
        self._counting = threading.RLock()
        self._pwrite = descriptors._pwrite  # noqa: SLF001
        for module in (descriptors, disk):
            patch.setattr(module, "os", self)
        patch.setattr(descriptors, "_pwrite", self.pwrite)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        with self._counting:
            is_new = bool(flags & os.O_CREAT) and not self._is_there(path, dir_fd)
            if is_new:
                self._check_file()
            fd = os.open(path, flags, mode, dir_fd=dir_fd)
            self._take_file(int(is_new))
            return fd

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        with self._counting:
            if not self._is_there(path, dir_fd):
                self._check_file()
            os.mkdir(path, mode, dir_fd=dir_fd)
            self._take_file(1)

    def pwrite(self, fd: int, piece: Any, position: int) -> int:
        with self._counting:
            has = self._pages(os.fstat(fd).st_size)
            if self.pages is not None:
                piece = piece[: max(0, (has + self.pages) * PAGE - position)] if piece else piece
                if not piece:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = int(self._pwrite(fd, piece, position))
            self._take_pages(self._pages(os.fstat(fd).st_size) - has)
            return written

    def ftruncate(self, fd: int, size: int) -> None:
        with self._counting:
            before = os.fstat(fd).st_size
            os.ftruncate(fd, size)
            self._take_pages(self._pages(size) - self._pages(before))

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        with self._counting:
            size = os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_size
            os.unlink(path, dir_fd=dir_fd)
            self._take_file(-1)
            self._take_pages(-self._pages(size))

    def rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        with self._counting:
            os.rmdir(path, dir_fd=dir_fd)
            self._take_file(-1)

    def replace(
        self, source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        with self._counting:
            size = os.stat(target, dir_fd=dst_dir_fd).st_size if self._is_there(target, dst_dir_fd) else None
            os.replace(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            if size is not None:
                self._take_file(-1)
                self._take_pages(-self._pages(size))

    def statvfs(self, path: Any) -> Any:
        found = os.statvfs(path)
        pages, files = self.pages, self.files
        return SimpleNamespace(
            f_frsize=PAGE,
            f_blocks=found.f_blocks,
            f_bavail=1 << 20 if pages is None else pages,
            f_files=1 << 20,
            f_favail=1 << 20 if files is None else files,
        )

    def _check_file(self) -> None:
        if self.files is not None and self.files <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _take_file(self, count: int) -> None:
        if self.files is not None:
            self.files -= count

    def _take_pages(self, count: int) -> None:
        if self.pages is not None:
            self.pages -= count

    @staticmethod
    def _is_there(path: Any, dir_fd: int | None) -> bool:
        try:
            os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    @staticmethod
    def _pages(size: int) -> int:
        return -(-size // PAGE)
