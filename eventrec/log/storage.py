"""The seam to the file system: everything the log asks of it.

`disk.py` answers; `eventrec.testing.storage` has the others: memory, and memory that fails, tears and loses power.
Failures are OSErrors as the system raised them; the log translates them.
"""

from __future__ import annotations

import errno
from typing import Literal, NamedTuple, Protocol


class FileSize(NamedTuple):
    """Bytes in a file, bytes the disk gave it, and the seconds since it was written, where that is known.

    `identity` tells it from another file that has its name later; None where that cannot be told.
    """

    length: int
    allocated: int
    age: float = 0.0
    identity: tuple[int, int] | None = None


class File(Protocol):
    """An open file. It has no cursor: the writer says where."""

    def read(self, position: int, size: int) -> bytes:
        """The bytes at `position`: `size` of them, fewer only at the end of the file."""

    def write(self, piece: bytes, position: int) -> int:
        """Write to the page cache. Returns how many bytes were taken, which may be fewer than given."""

    def size(self) -> int:
        """Length in bytes, now."""

    def data_from(self, position: int) -> int:
        """The first byte from `position` on that the disk may hold: those before read as zeros. No more is promised.

        The end of the file where there is none.
        """

    def truncate(self, size: int) -> None:
        """Cut to `size` bytes. The page cache knows, the disk not yet."""

    def sync(self) -> None:
        """On return the file's bytes and length survive a power cut; its name may not: see `sync_directory`.

        After an OSError, what was written since the last success is in an unknown state for ever, and a later
        success says nothing about it.
        """

    def close(self) -> None:
        """Give the descriptor back."""


class ReadableFile(Protocol):
    """What reading a segment takes: a `File`, compressed or not."""

    def read(self, position: int, size: int) -> bytes:
        """See `File`."""

    def size(self) -> int:
        """See `File`."""

    def data_from(self, position: int) -> int:
        """See `File`."""

    def close(self) -> None:
        """See `File`."""


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
            LogLockedError: A process holds it.
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
    """Write as much of `piece` as the file takes at once. Returns how many bytes that were: at least one.

    Raises:
        OSError: The disk refused, or took nothing.
    """
    taken = file.write(piece, position)
    if not taken:
        raise OSError(errno.EIO, "the disk took nothing and named no error")
    return taken
