"""A run that another process holds: its log is read without the lock, and its folder given our checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NoReturn

from eventrec.runs.directory import LOCK, LogDirectory, has_mark
from eventrec.runs.run import Run

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from uuid import UUID

    from eventrec.log.disk import DiskStorage


class FollowedRun(Run):
    """Found by `find_held`. It may be released by its holder, retired or replaced at any moment."""

    def __init__(self, id_: UUID, directory: LogDirectory, storage: DiskStorage) -> None:
        super().__init__(id_, directory, storage, _NoLock())

    def __repr__(self) -> str:
        return f"<FollowedRun {self.id} in {self.directory}>"

    def retire(self) -> NoReturn:
        """Never: it is its holder's."""
        raise RuntimeError(f"{self.path} is held by another process")

    def retain(self) -> NoReturn:
        """Never: it is its holder's."""
        raise RuntimeError(f"{self.path} is held by another process")


class _NoLock:
    """Stands for the lock, which another process has."""

    def release(self, *, delete: bool = False) -> None:
        del delete

    def forget(self) -> None:
        pass


def find_held(
    directory: LogDirectory, id_: UUID, *, guard: AbstractContextManager[object]
) -> FollowedRun | Literal["free", "gone"]:
    """The run of that id, where a process holds it. "free": no process does; "gone": it is not there, or not ours.

    `guard` is held while it is looked at whether it is locked: this process takes locks under it. Blocking.

    Raises:
        OSError: The system does not show it, for now.
    """
    try:
        storage = directory.opened().folder(str(id_))
    except (FileNotFoundError, NotADirectoryError):
        return "gone"
    try:
        if not (has_mark(storage, id_) and directory.trusts(storage)):
            storage.close()
            return "gone"
        with guard:
            is_held = storage.is_locked(LOCK)
    except FileNotFoundError:
        storage.close()
        return "gone"
    except BaseException:
        storage.close()
        raise
    if not is_held:
        storage.close()
        return "free"
    return FollowedRun(id_, directory, storage)
