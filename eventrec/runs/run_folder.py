"""The directory of one run by itself: locked, measured, deleted as far as it is ours."""

from __future__ import annotations

import errno
import re
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final, Literal

from eventrec.errors import LogLockedError
from eventrec.log.descriptors import LARGE_HOLE
from eventrec.log.segment import HEADER_SIZE
from eventrec.runs.checkpoint import CHECKPOINTS
from eventrec.runs.directory import LOCK, LogDirectory, has_mark
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    import os
    from uuid import UUID

    from eventrec.log.disk import DiskStorage
    from eventrec.log.storage import Lock

_NOT_OURS: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)
"""There is nothing of that name, or something that we never make."""

_TEMPORARY: Final = r"(\.\d+-\d+\.tmp)?"
_OF_A_LOG: Final = re.compile(rf"\d{{20}}\.stdb\.(log|ofs|lock){_TEMPORARY}", re.ASCII)
_OF_A_RUN: Final = re.compile(rf"{_OF_A_LOG.pattern}|\d{{20}}\.\d+\.gap{_TEMPORARY}|replay|lock\.new", re.ASCII)
_OF_CHECKPOINTS: Final = re.compile(rf"[^/]+\.json{_TEMPORARY}|[^/]+\.new")

_logger = get_logger("eventrec.runs.run")


def lock_folder(log: LogDirectory, name: str, id_: UUID) -> tuple[DiskStorage, Lock] | Literal["held", "gone"]:
    """The directory `name` and its lock; or why not.

    "held": another process holds it, or we may not look, or the system refuses to show it now. "gone": it is not there,
    not ours, or another one.
    """
    try:
        storage = log.opened().folder(name)
    except OSError as exc:
        return "gone" if exc.errno in _NOT_OURS else "held"
    why: Literal["held", "gone"] = "gone"
    try:
        if has_mark(storage, id_) and log.trusts(storage):
            lock = storage.lock(LOCK, create=False)
            # Between our look and our lock its owner may have retired it, or another one took its place.
            if storage.is_in_place():
                return storage, lock
            lock.release()
    except LogLockedError:
        why = "held"
    except OSError as exc:
        why = "gone" if exc.errno in _NOT_OURS else "held"
    storage.close()
    return why


def is_locked(directory: str | os.PathLike[str], id_: UUID) -> bool:
    """Whether a process owns the run. Changes nothing, and needs no right to write.

    Raises:
        PermissionError: It may not be looked into, so that this is not known.
    """
    try:
        with closing(LogDirectory.of(directory).opened().folder(str(id_))) as storage:
            return storage.is_locked(LOCK)
    except PermissionError:
        raise
    except OSError:
        return False


def size_of_run(storage: DiskStorage) -> int:
    """Bytes of the files in a run's directory; of what goes meanwhile, nothing."""
    total = _size_of_files(storage)
    with suppress(OSError), closing(storage.folder(CHECKPOINTS)) as checkpoints:
        total += _size_of_files(checkpoints)
    return total


def _size_of_files(storage: DiskStorage) -> int:
    total = 0
    with suppress(OSError):
        for name in storage.list():
            with suppress(OSError):
                size = storage.size(name)
                # What was written just now may have no room yet. A larger hole is one, and takes none.
                total += min(size.length, size.allocated + LARGE_HOLE)
    return total


def delete_folder(base: DiskStorage, name: str, storage: DiskStorage) -> None:
    """Delete what is ours of the directory `name` in `base`. The lock goes last: till then no other process does.

    Raises:
        OSError: The disk refused; what is left is found by the next sweep.
    """
    _delete_checkpoints(storage)
    _delete_files(storage, _OF_A_RUN)
    _delete_checkpoints(storage)  # A process that follows it may have been writing one when it was renamed.
    with suppress(OSError):  # Where a file system has no such bit, one that is killed here leaves an empty directory.
        storage.note_unfinished(is_unfinished=True)
    with suppress(FileNotFoundError):
        storage.delete(LOCK)
    try:
        base.remove_folder(name)
    except FileNotFoundError:
        return
    except OSError:
        if not storage.entries():
            raise
        with suppress(OSError):
            storage.note_unfinished(is_unfinished=False)
        _logger.warning("delivered log holds what is not ours: left", directory=str(base.directory / name))


def delete_made(base: DiskStorage, name: str, storage: DiskStorage) -> None:
    """Delete the directory `name` in `base`, which we made just now. It takes no descriptor: there may be none left.

    Raises:
        OSError: The disk refused, or another program put something there. What is left is found by the next sweep.
    """
    with suppress(FileNotFoundError):
        storage.remove_folder(CHECKPOINTS)
    storage.note_unfinished(is_unfinished=True)
    with suppress(FileNotFoundError):
        storage.delete(LOCK)
    base.remove_folder(name)


def holds_nothing(storage: DiskStorage) -> bool:
    """Whether there is nothing in a run's directory but what is made with it: no record, no checkpoint, nothing else.

    Raises:
        OSError: That cannot be told.
    """
    for name in [entry.name for entry in storage.entries()]:
        if name == CHECKPOINTS:
            with closing(storage.folder(CHECKPOINTS)) as checkpoints:
                if checkpoints.entries():
                    return False
        elif name != LOCK and not (_OF_A_LOG.fullmatch(name) and storage.size(name).length <= HEADER_SIZE):
            return False
    return True


def _delete_checkpoints(storage: DiskStorage) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        with closing(storage.folder(CHECKPOINTS)) as checkpoints:
            _delete_files(checkpoints, _OF_CHECKPOINTS)
        with suppress(OSError):
            storage.remove_folder(CHECKPOINTS)


def _delete_files(storage: DiskStorage, names: re.Pattern[str]) -> None:
    for name in storage.list():
        if names.fullmatch(name):
            storage.delete(name)
