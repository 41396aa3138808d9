"""One log per run: a directory that is born locked, adopted when its owner is gone, and retired when it is delivered.

    <log>/.new-<id>/    being made; a leftover once it is a minute old and nobody has locked it
    <log>/<id>/         a run: segments, indexes, `checkpoints/`, `lock`; an orphan when nobody has locked it
    <log>/gone-<id>/    delivered, being deleted; whoever finds it unlocked goes on deleting
    <log>/done/<id>/    delivered, and retained for a while; not adopted there

The id is a UUIDv7, so that names sort by age. Who owns a run says `flock` on its `lock` alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from typing import TYPE_CHECKING, Final
from uuid import UUID

from eventrec.errors import LogLockedError
from eventrec.log.storage import DiskStorage
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from eventrec.log.storage import Lock

LOCK: Final = "lock"
DONE: Final = "done"
CHECKPOINTS: Final = "checkpoints"

_NEW: Final = ".new-"
_GONE: Final = "gone-"
_LEFTOVER_SECONDS: Final = 60

_logger = get_logger(__name__)


def new_run_id() -> UUID:
    """A UUIDv7: 48 bits of milliseconds since the epoch, then chance."""
    milliseconds = time.time_ns() // 1_000_000 & (1 << 48) - 1
    chance = int.from_bytes(os.urandom(10))
    low = chance & (1 << 62) - 1
    return UUID(int=milliseconds << 80 | 0x7 << 76 | (chance >> 62 & 0xFFF) << 64 | 0x2 << 62 | low)


class Run:
    """A run whose lock we hold."""

    def __init__(self, id_: UUID, path: Path, storage: DiskStorage, lock: Lock) -> None:
        self.id = id_
        self.path = path
        self.storage = storage
        self.incarnation = 1
        """How often its directory was made."""
        self._lock: Lock | None = lock

    def __repr__(self) -> str:
        return f"<Run {self.id} in {self.path.parent}>"

    @classmethod
    def create(cls, directory: Path, id_: UUID) -> Run:
        """Make and lock `<directory>/<id>`. On return its name is on the disk.

        Raises:
            OSError: It cannot be made.
            LogLockedError: Locks do not work in that file system.
        """
        directory.mkdir(parents=True, exist_ok=True)
        made, path = directory / f"{_NEW}{id_}", directory / str(id_)
        made.mkdir()
        storage = DiskStorage(made)
        try:
            lock = storage.lock(LOCK)
            (made / CHECKPOINTS).mkdir()
            made.rename(path)
            storage.directory = path
            _sync_directory(directory)
        except BaseException:
            storage.close()
            shutil.rmtree(made, ignore_errors=True)
            raise
        return cls(id_, path, storage, lock)

    def make_again(self) -> None:
        """Its directory is gone from under us: make another one of the same name, locked, and empty.

        Raises:
            OSError: It cannot be made.
            LogLockedError: Locks do not work in that file system.
        """
        other = Run.create(self.path.parent, self.id)
        old_lock, old_storage = self._lock, self.storage
        self.storage, self._lock = other.storage, other.give_lock()
        self.incarnation += 1
        if old_lock is not None:
            with contextlib.suppress(OSError):
                old_lock.release()
        old_storage.close()

    @classmethod
    def adopt(cls, directory: Path, id_: UUID) -> Run | None:
        """Lock the run `<directory>/<id>`; None where somebody has, or it is gone."""
        path = directory / str(id_)
        locked = _lock(path)
        return None if locked is None else cls(id_, path, *locked)

    def give_lock(self) -> Lock | None:
        """The lock, for another one to hold."""
        lock, self._lock = self._lock, None
        return lock

    def release(self) -> None:
        """Let go of it, as an orphan. Idempotent."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()
            self.storage.close()

    def retire(self) -> None:
        """Delete it: all of it is delivered, and durably known to be. Each step can be repeated by somebody else.

        Raises:
            OSError: The disk refused; what is left will be found and deleted.
        """
        gone = self.path.with_name(f"{_GONE}{self.id}")
        try:
            self.path.rename(gone)
            _sync_directory(gone.parent)
            _delete(gone)
            _sync_directory(gone.parent)
        finally:
            self.release()

    def retain(self) -> None:
        """Move it to `done/`: all of it is delivered, and durably known to be, but a destination may lose it again.

        Raises:
            OSError: The disk refused; it is still an orphan.
        """
        done = self.path.parent / DONE
        try:
            done.mkdir(exist_ok=True)
            self.path.rename(done / str(self.id))
            _sync_directory(done)
            _sync_directory(done.parent)
        finally:
            self.release()

    def size(self) -> int:
        """Bytes of all its files."""
        return tree_size(self.path)

    def forget(self) -> None:
        """In the child of a fork: close what was inherited, and leave the lock to its owner."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.forget()
            self.storage.close()


def take_up_done(directory: Path, *, newest: bool = False) -> int:
    """Make orphans again of the runs in `done/`, or of the `newest` alone: a destination lost something, or may have.

    Returns how many.
    """
    count = 0
    for id_ in list_runs(directory / DONE)[-1 if newest else 0 :]:
        with contextlib.suppress(OSError):
            (directory / DONE / str(id_)).rename(directory / str(id_))
            count += 1
    if count:
        _sync_directory(directory / DONE)
        _sync_directory(directory)
    return count


def delete_done(directory: Path, id_: UUID) -> None:
    """Delete a run in `directory`, which is a `done/`, for good; nothing where another process was faster.

    Raises:
        OSError: The disk refused.
    """
    run = Run.adopt(directory, id_)
    if run is not None:
        run.retire()


def tree_size(directory: Path) -> int:
    """Bytes of all files below `directory`; of what goes meanwhile, nothing."""
    total = 0
    pending = [os.fspath(directory)]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
    return total


def list_runs(directory: Path) -> list[UUID]:
    """The ids of all runs in `directory`, oldest first, locked or not; none where there is no directory."""
    try:
        names = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(id_ for name in names if (id_ := _id_of(name)) is not None)


def is_locked(directory: Path, id_: UUID) -> bool:
    """Whether somebody owns the run. Changes nothing; a shared probe, so that two of them do not see each other."""
    path = directory / str(id_)
    try:
        storage = DiskStorage(path)
    except OSError:
        return False
    try:
        if LOCK not in storage.list():
            return False
        storage.lock(LOCK, shared=True).release()
    except LogLockedError:
        return True
    except OSError:
        return False
    finally:
        storage.close()
    return False


def adopt_orphans(directory: Path, *, limit: int, excluding: Collection[UUID] = ()) -> list[Run]:
    """Lock the oldest orphans, at most `limit`, without those in `excluding`; and delete leftovers of others."""
    adopted: list[Run] = []
    for id_ in list_runs(directory):
        if len(adopted) >= limit:
            break
        if id_ not in excluding and (run := Run.adopt(directory, id_)) is not None:
            adopted.append(run)
    return adopted


def sweep(directory: Path) -> int:
    """Delete what others left half made or half deleted. Returns how many directories."""
    swept = 0
    with contextlib.suppress(FileNotFoundError):
        for path in directory.iterdir():
            if path.name.startswith(_GONE) or (path.name.startswith(_NEW) and _age(path) > _LEFTOVER_SECONDS):
                locked = _lock(path)
                if locked is not None:
                    storage, lock = locked
                    with contextlib.suppress(OSError):
                        _delete(path)
                    lock.release()
                    storage.close()
                    swept += 1
    return swept


def _lock(path: Path) -> tuple[DiskStorage, Lock] | None:
    """The directory and its lock; None where somebody holds it, or it is not there, or is another one by now."""
    try:
        storage = DiskStorage(path)
    except OSError:
        return None
    try:
        before = path.stat()
        lock = storage.lock(LOCK)
    except (OSError, LogLockedError):
        storage.close()
        return None
    # Between our look and our lock its owner may have retired it, or somebody put another one in its place.
    with contextlib.suppress(OSError):
        if os.path.samestat(before, path.stat()):
            return storage, lock
    lock.release()
    storage.close()
    return None


def _delete(path: Path) -> None:
    """The lock goes last: until then nobody else deletes."""
    for each in list(path.iterdir()):
        if each.is_dir():
            shutil.rmtree(each)
        elif each.name != LOCK:
            each.unlink()
    (path / LOCK).unlink(missing_ok=True)
    path.rmdir()


def _id_of(name: str) -> UUID | None:
    try:
        id_ = UUID(name)
    except ValueError:
        return None
    return id_ if str(id_) == name else None


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _sync_directory(path: Path) -> None:
    storage = DiskStorage(path)
    try:
        storage.sync_directory()
    finally:
        storage.close()
