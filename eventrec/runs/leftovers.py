"""What processes that died, or tries that were refused, left half made or half deleted in a log directory."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

from eventrec.errors import LogLockedError
from eventrec.runs.directory import GONE, LOCK, NEW, LogDirectory, id_of, mark_of
from eventrec.runs.run_folder import delete_folder, holds_nothing, lock_folder

if TYPE_CHECKING:
    import os
    from uuid import UUID

    from eventrec.log.disk import DiskStorage

LEFTOVER_SECONDS: Final = 60
"""How old a directory that is being made has to be before it counts as left."""


def sweep(directory: str | os.PathLike[str]) -> int:
    """Delete what other processes left half made or half deleted. Blocking. Returns how many directories."""
    log, swept = LogDirectory.of(directory), 0
    for name in log.names():
        is_half = name.startswith(GONE) or (name.startswith(NEW) and _age(log, name) > LEFTOVER_SECONDS)
        if is_half and (id_ := id_of(name)) is not None:
            swept += _sweep(log, name, id_)
    return swept


def sweep_tries(log: LogDirectory, id_: UUID) -> None:
    """Delete what refused tries to make the run `id_` left, under each name that one has. Blocking.

    A run that holds anything or that a process holds stays, and so does what is not ours.

    Raises:
        OSError: What is there cannot be told.
    """
    base, gone = log.opened(), f"{GONE}{id_}"
    for name in (f"{NEW}{id_}", gone):
        if base.holds(name):
            _sweep(log, name, id_)
    if not base.holds(str(id_)):
        return
    locked = lock_folder(log, str(id_), id_)
    if isinstance(locked, str):
        if locked == "gone":
            _sweep_unmarked(log, str(id_), id_)
        return
    storage, lock = locked
    try:
        if holds_nothing(storage):
            base.move_folder(str(id_), base, gone)
            storage.directory = log.path / gone
            delete_folder(base, gone, storage)
    finally:
        lock.release()
        storage.close()


def _sweep(log: LogDirectory, name: str, id_: UUID) -> bool:
    locked = lock_folder(log, name, id_)
    if isinstance(locked, str):
        return locked == "gone" and _sweep_unmarked(log, name, id_)
    storage, lock = locked
    with suppress(OSError):
        delete_folder(log.opened(), name, storage)
    lock.release()
    storage.close()
    return True


def _sweep_unmarked(log: LogDirectory, name: str, id_: UUID) -> bool:
    """Delete one whose process died before our mark was written, or after it was deleted: then the sticky bit is it.

    It holds nothing, or a lock with less than the mark; else it stays.
    """
    with suppress(OSError, LogLockedError), closing(log.opened().folder(name)) as storage:
        if storage.is_unfinished and log.trusts(storage) and _is_bare(storage, id_):
            log.opened().remove_folder(name)
            return True
    return False


def _is_bare(storage: DiskStorage, id_: UUID) -> bool:
    """Whether there is nothing in `storage`, or no more than a lock that was not marked yet: that is deleted.

    Raises:
        LogLockedError: A process holds it.
        OSError: It cannot be looked at, or not deleted.
    """
    match [entry.name for entry in storage.entries()]:
        case []:
            return True
        case [name] if name == LOCK:
            lock, is_ours = storage.lock(LOCK, create=False), False
            try:
                with closing(storage.open(LOCK, "read")) as file:
                    mark = mark_of(id_)
                    is_ours = mark.startswith(file.read(0, len(mark) + 1)) and storage.is_in_place()
            finally:
                lock.release(delete=is_ours)
            return is_ours
        case _:
            return False


def _age(log: LogDirectory, name: str) -> float:
    try:
        with closing(log.opened().folder(name)) as storage:
            return time.time() - storage.info.st_mtime
    except OSError:
        return 0.0
