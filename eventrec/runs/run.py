"""One log per run: a directory that is born locked, adopted when its owner is gone, and retired when it is delivered.

    lock            `flock` on it alone says which process owns the run; it holds our mark, and goes last
    *.stdb.*        segments and their indexes: see `eventrec.log`
    *.gap           bytes that were passed over, for a person to look at
    checkpoints/    how far each subscription is: see checkpoint.py
    replay          in a log of dead letters, while they are replayed

The id is a UUIDv7, so that names sort by age. Every step goes through descriptors, and deletes only files with names
that we write; what else is found in a run stays, without our mark, and is other people's from then on.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Final, Literal
from uuid import UUID

from eventrec.log.segment import list_odd_segments, segment_name
from eventrec.log.storage import write_all
from eventrec.runs.checkpoint import CHECKPOINTS
from eventrec.runs.directory import DONE, GONE, LOCK, NEW, LogDirectory, mark_of
from eventrec.runs.leftovers import sweep_tries
from eventrec.runs.run_folder import delete_folder, delete_made, lock_folder, size_of_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from eventrec.log.disk import DiskStorage
    from eventrec.log.storage import Lock

_NEW_LOCK: Final = "lock.new"


def new_run_id() -> UUID:
    """A UUIDv7 whose order is that of age, to a quarter of a microsecond, also among processes of one clock.

    48 bits of milliseconds since the epoch, 12 of the part of the millisecond that is gone (RFC 9562, section 6.2,
    method 3: "increased clock precision"), and 62 of chance.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * (1 << 12) // 1_000_000
    chance = int.from_bytes(os.urandom(8)) & (1 << 62) - 1
    return UUID(int=(milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | fraction << 64 | 0x2 << 62 | chance)


class Run:
    """A run whose lock we hold."""

    def __init__(self, id_: UUID, directory: LogDirectory, storage: DiskStorage, lock: Lock) -> None:
        self.id = id_
        self.storage = storage
        self.incarnation = 1
        """How often its directory was made, or what another program deleted of it."""
        self.directory = directory
        self._lock: Lock | None = lock

    def __repr__(self) -> str:
        return f"<Run {self.id} in {self.directory}>"

    @property
    def path(self) -> Path:
        """Where it was found, or made; for messages, since directories may be renamed."""
        return self.directory.path / str(self.id)

    @classmethod
    def create(cls, directory: str | os.PathLike[str], id_: UUID, *, sync: bool = True) -> Run:
        """Make and lock `<directory>/<id>`. On return its name is on the disk; without `sync` after `sync_name`.

        Where it was refused before, what that left of the same id is deleted first.

        Raises:
            OSError: It cannot be made; FileExistsError where something has that name.
            LogLockedError: Locks do not work in that file system.
        """
        log = LogDirectory.of(directory)
        base, made = log.opened(create=True), f"{NEW}{id_}"
        sweep_tries(log, id_)
        _check_free(base, str(id_))
        storage = base.folder(made, exclusive=True, is_unfinished=True)
        name, lock = made, None
        try:
            lock = storage.lock(LOCK)
            with closing(storage.open(LOCK, "write")) as file:
                write_all(file, mark_of(id_), 0)
            storage.note_unfinished(is_unfinished=False)
            storage.folder(CHECKPOINTS, create=True).close()
            _check_free(base, str(id_))  # Again, as late as can be.
            base.move_folder(made, base, str(id_))
            name = str(id_)
            storage.directory = log.path / name
            if sync:
                base.sync_directory()
        except BaseException:
            # What cannot be deleted is for the next try, or for others, to sweep.
            with suppress(OSError):
                if name != made:
                    base.move_folder(name, base, f"{GONE}{id_}")
                    name = f"{GONE}{id_}"
                    storage.directory = log.path / name
            with suppress(OSError):
                delete_made(base, name, storage)
            if lock is not None:
                with suppress(OSError):
                    lock.release()
            storage.close()
            raise
        return cls(id_, log, storage, lock)

    def sync_name(self) -> None:
        """On return its name is on the disk.

        Raises:
            OSError: It may not be.
        """
        self.directory.opened().sync_directory()

    def is_in_place(self) -> bool:
        """Whether its directory is still found under its id, in the log directory as that was opened."""
        return self.storage.is_in_place()

    def check_in_place(self) -> None:
        """Raise FileNotFoundError where its name is gone, or is another directory's: that is never moved or deleted."""
        if not self.is_in_place():
            raise FileNotFoundError(errno.ENOENT, "it is not in its place any more", str(self.path))

    def make_again(self) -> None:
        """Its directory is gone from under us: make another one of the same name, locked, and empty.

        Raises:
            OSError: It cannot be made; FileExistsError where something else has the name by now.
            LogLockedError: Locks do not work in that file system.
        """
        other = Run.create(self.directory, self.id)
        # The storage before is closed when nothing reads there any more, nor writes.
        old_lock = self._lock
        self.storage, self._lock = other.storage, other.give_lock()
        self.incarnation += 1
        if old_lock is not None:
            with suppress(OSError):
                old_lock.release()

    def restore_lock(self) -> bool:
        """Where another program deleted the lock of a directory that is in its place, make another; whether it did.

        Without one the run would be lost: no process would adopt it once this one is gone. The new lock is held, and
        has our mark, before it has its name.

        Raises:
            OSError: It cannot be made.
            LogLockedError: Locks do not work in that file system.
        """
        if self._lock is None or self.storage.holds(LOCK):
            return False
        lock = self.storage.lock(_NEW_LOCK)
        try:
            with closing(self.storage.open(_NEW_LOCK, "write")) as file:
                write_all(file, mark_of(self.id), 0)
            self.storage.folder(CHECKPOINTS, create=True).close()
            self.storage.replace(_NEW_LOCK, LOCK)
            self.storage.sync_directory()
        except BaseException:
            lock.release(delete=True)
            raise
        old_lock, self._lock = self._lock, lock
        with suppress(OSError):
            old_lock.release()
        self.incarnation += 1
        return True

    @classmethod
    def adopt(cls, directory: str | os.PathLike[str], id_: UUID) -> Run | None:
        """Lock the run `<directory>/<id>`; None where another process has, or it is gone, or is not ours."""
        run = cls.try_adopt(directory, id_)
        return run if isinstance(run, cls) else None

    @classmethod
    def try_adopt(cls, directory: str | os.PathLike[str], id_: UUID) -> Run | Literal["held", "gone"]:
        """Lock the run `<directory>/<id>`. "held": another process has, or we may not look; "gone": or is not ours."""
        log = LogDirectory.of(directory)
        locked = lock_folder(log, str(id_), id_)
        return locked if isinstance(locked, str) else cls(id_, log, *locked)

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
        """Delete it: all of it is delivered, and durably known to be. Each step can be repeated by another process.

        Raises:
            OSError: The disk refused; what is left will be found and deleted. Or a segment is not a file: then what is
                in it is not known to be delivered, and all of it stays.
        """
        gone = f"{GONE}{self.id}"
        try:
            if odd := list_odd_segments(self.storage):
                raise OSError(errno.EINVAL, "a segment is not a file", segment_name(odd[0]))
            self.check_in_place()
            base = self.directory.opened()
            base.move_folder(str(self.id), base, gone)
            base.sync_directory()
            delete_folder(base, gone, self.storage)
            base.sync_directory()
        finally:
            self.release()

    def retain(self) -> None:
        """Move it to `done/`: all of it is delivered, and durably known to be, but a destination may lose it again.

        Raises:
            OSError: The disk refused; it is still an orphan.
        """
        try:
            self.check_in_place()
            base = self.directory.opened()
            with closing(base.folder(DONE, create=True)) as done:
                base.move_folder(str(self.id), done, str(self.id))
                done.sync_directory()
            base.sync_directory()
        finally:
            self.release()

    def size(self) -> int:
        """Bytes of all its files."""
        return size_of_run(self.storage)

    def forget(self) -> None:
        """In the child of a fork: close what was inherited, and leave the lock to its owner."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.forget()
            self.storage.close()


def _check_free(base: DiskStorage, name: str) -> None:
    """Raise FileExistsError where something has the `name`: renamed onto an empty directory, ours would replace it."""
    if base.holds(name):
        raise FileExistsError(errno.EEXIST, "its name is taken by what is not ours", str(base.directory / name))


def retire_all(runs: Sequence[Run]) -> dict[UUID, OSError]:
    """Retire `runs` of one directory, each as `Run.retire` does, with two syncs for all of them.

    Returns those that were not, and why; all of them are let go.
    """
    failed: dict[UUID, OSError] = {}
    try:
        base = runs[0].directory.opened()
        for run in runs:
            with _noted(failed, run):
                run.check_in_place()
                base.move_folder(str(run.id), base, f"{GONE}{run.id}")
        base.sync_directory()
        for run in runs:
            if run.id not in failed:
                with _noted(failed, run):
                    delete_folder(base, f"{GONE}{run.id}", run.storage)
        base.sync_directory()
    except OSError as exc:
        failed |= {run.id: exc for run in runs if run.id not in failed}
    finally:
        for run in runs:
            run.release()
    return failed


@contextmanager
def _noted(failed: dict[UUID, OSError], run: Run) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        failed[run.id] = exc
