"""The log directory: resolved once, reached through a descriptor, and what in it is ours.

    <log>/<id>/         a run: see run.py
    <log>/.new-<id>/    a run that is being made; a leftover once it is a minute old and no process holds it
    <log>/gone-<id>/    a run that is delivered, being deleted; any process that finds it unlocked goes on deleting
    <log>/done/<id>/    delivered, and retained for a while; not adopted there
    <log>/dead/<id>/    dead letters that the run of that id set aside
    <log>/requests/     what operators ask: see requests.py
    <log>/layouts/      how tables are made, as applications declare it: see layouts.py
    <log>/mirrors/      what each mirror on another machine has: see mirrors.py

A directory is a run of ours where its name has a strict id, and its `lock` begins with our mark and that id. Where the
mark is damaged, or of a version that made none, a segment whose first commit carries the id says so. Anything else in a
log directory is other people's: it is not locked, not followed, not counted, not changed. Before the mark is written,
and once it is deleted, the sticky bit of the directory itself says that it is ours: that is made with it.
"""

from __future__ import annotations

import heapq
import os
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from eventrec.errors import LogError
from eventrec.log.descriptors import WRITABLE_BY_OTHERS
from eventrec.log.disk import DiskStorage
from eventrec.log.segment import HEADER_SIZE, Segment, list_segments

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK: Final = "lock"
DONE: Final = "done"
DEAD: Final = "dead"
NEW: Final = ".new-"
GONE: Final = "gone-"

_MARK: Final = "eventrec run 1 "
_SORTED: Final = 2_000
_OPENING: Final = 64
"""Bytes of a commit's content, the log's id among them."""


def mark_of(id_: UUID) -> bytes:
    """What the `lock` of the run `id_` begins with."""
    return f"{_MARK}{id_}\n".encode()


class LogDirectory:
    """A log directory. A relative `path` counts from where this is made; after that no path is followed again.

    The directory is opened when it is needed first, and again where it was deleted meanwhile: then under its path. One
    that is renamed, or that a link led to, stays the same directory. For any thread.

    Raises:
        LogError: The path is empty, which says no directory, or holds NUL.
    """

    def __init__(self, path: str | os.PathLike[str], *, within: LogDirectory | None = None) -> None:
        self.path = Path(path).absolute()
        if not os.fspath(path) or "\0" in str(self.path):
            raise LogError(f"{os.fspath(path)!r} is not the path of a log directory")
        self._within = within
        self._storage: DiskStorage | None = None
        self._ours: dict[str, int] = {}
        """The inode of each directory in it that was found to be ours."""

    @classmethod
    def of(cls, directory: str | os.PathLike[str]) -> LogDirectory:
        """`directory`, where it is one, else a new one of that path."""
        return directory if isinstance(directory, cls) else cls(directory)

    def __repr__(self) -> str:
        return f"<LogDirectory {str(self.path)!r}>"

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> LogDirectory:
        return LogDirectory(self.path / name, within=self)

    def opened(self, *, create: bool = False) -> DiskStorage:
        """The directory itself. With `create` it is made where it is not there.

        Raises:
            OSError: It is not there, or could not be opened or made.
        """
        storage = self._storage
        if storage is None or not storage.is_there():
            if self._within is not None:
                storage = self._within.opened(create=create).folder(self.path.name, create=create)
            else:
                storage = DiskStorage(self.path, create=create)
            # The one before stays open: another thread may be using it.
            self._storage = storage
        return storage

    def modified(self) -> float:
        """When a name in it was made or went, in seconds since the epoch; 0.0 where it is not there."""
        try:
            return self.opened().modified()
        except OSError:
            return 0.0

    def ids(self) -> list[UUID]:
        """The ids among the names in it, oldest first: those of runs, and perhaps of what only looks like one."""
        # Their one spelling sorts as they do. A large sort is one call, which keeps other threads from running.
        names = [name for name, _ in self._folders()]
        sorted_names = heapq.merge(*(sorted(names[n : n + _SORTED]) for n in range(0, len(names), _SORTED)))
        return [id_ for name in sorted_names if (id_ := id_in(name)) is not None]

    def runs(self) -> list[UUID]:
        """The ids of all runs in it that are ours, oldest first, locked or not; none where there is no directory."""
        return sorted(id_ for name in self.members() if (id_ := id_in(name)) is not None)

    def has_several(self) -> bool:
        """Whether there is more than one run in it that is ours: stops looking at the second."""
        runs = (name for name, inode in self._folders() if id_in(name) is not None and self._is_member(name, inode))
        return len(list(islice(runs, 2))) > 1

    def members(self) -> list[str]:
        """The names of the directories in it that are ours: runs, and what is half made or half deleted of them."""
        return [name for name, inode in self._folders() if self._is_member(name, inode)]

    def _is_member(self, name: str, inode: int) -> bool:
        if self._ours.get(name) == inode:
            return True
        if (id_ := id_of(name)) is None or not self.is_ours(id_, name=name):
            return False
        self._ours[name] = inode
        return True

    def names(self) -> list[str]:
        """Every name in it."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return [entry.name for entry in self.opened().entries()]
        return []

    def _folders(self) -> Iterator[tuple[str, int]]:
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in self.opened().entries():
                if entry.is_dir(follow_symlinks=False):
                    yield entry.name, entry.inode()

    def is_ours(self, id_: UUID, *, name: str | None = None) -> bool:
        """Whether there is a run of that id, under that `name`, and it is ours. What may not be looked into is not."""
        try:
            with closing(self.opened().folder(name or str(id_))) as storage:
                return has_mark(storage, id_) and self.trusts(storage)
        except OSError:
            return False

    def trusts(self, storage: DiskStorage) -> bool:
        """Whether its owner may be believed: any user's files are read, but root changes no other user's by mistake."""
        if getattr(os, "geteuid", lambda: -1)() != 0 or storage.info.st_uid == 0:
            return True
        log = self.opened().info if self._within is None else self._within.opened().info
        return storage.info.st_uid == log.st_uid and not log.st_mode & WRITABLE_BY_OTHERS

    def may_be_ours(self, id_: UUID) -> bool:
        """Whether there is a directory of that id that this user may not look into."""
        try:
            with closing(self.opened().folder(str(id_))) as storage:
                storage.open(LOCK, "read").close()
        except PermissionError:
            return True
        except OSError:
            pass
        return False

    def is_there(self, id_: UUID) -> bool:
        """Whether there is a directory of that id, ours or not."""
        try:
            self.opened().folder(str(id_)).close()
        except PermissionError:
            return True
        except OSError:
            return False
        return True


def has_mark(storage: DiskStorage, id_: UUID) -> bool:
    """Whether the directory is marked as the run `id_`, by its lock or by what it holds.

    Raises:
        OSError: It cannot be read.
    """
    mark = mark_of(id_)
    try:
        file = storage.open(LOCK, "read")
    except FileNotFoundError:
        return False
    try:
        if file.read(0, len(mark)) == mark:
            return True
    finally:
        file.close()
    return _carries(storage, id_)


def _carries(storage: DiskStorage, id_: UUID) -> bool:
    refused: OSError | None = None
    for first in list_segments(storage):
        try:
            with suppress(LogError, ValueError), closing(Segment.open(storage, first)) as segment:
                if id_.bytes in segment.file.read(HEADER_SIZE, _OPENING):
                    return True
        except OSError as exc:
            refused = exc
    if refused is not None:
        raise refused
    return False


def id_in(name: str) -> UUID | None:
    """The id that `name` spells, in the one spelling that we write; None where it is not one."""
    try:
        id_ = UUID(name)
    except ValueError:
        return None
    return id_ if str(id_) == name else None


def id_of(name: str) -> UUID | None:
    """The id of the run that a directory called `name` is, half made and half deleted ones included."""
    return id_in(name.removeprefix(NEW).removeprefix(GONE))


def list_runs(directory: str | os.PathLike[str]) -> list[UUID]:
    """The ids of all runs in `directory` that are ours, oldest first; none where there is no directory."""
    return LogDirectory.of(directory).runs()
