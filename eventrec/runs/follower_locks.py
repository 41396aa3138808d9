"""The locks of processes that follow live logs: one process at a time for a subscription, the next one waits.

    <log>/following/<subscription>.lock    `flock` on it says who delivers; it holds our mark, and the process's number

What stands in the file is for people. One that is not ours is locked all the same, since that changes nothing in it,
and never deleted. Who follows at all, alive or not, says `followers.py`.
"""

from __future__ import annotations

import os
from contextlib import closing, nullcontext, suppress
from typing import TYPE_CHECKING, NamedTuple

from eventrec.errors import LogLockedError
from eventrec.log.storage import write_all
from eventrec.runs.files import safe_name
from eventrec.runs.followers import FOLLOWING, LOCK_MARK, LOCK_SUFFIX, pid_in

if TYPE_CHECKING:
    from collections.abc import Collection
    from contextlib import AbstractContextManager

    from eventrec.log.disk import DiskStorage
    from eventrec.log.storage import Lock
    from eventrec.runs.directory import LogDirectory


class _Held(NamedTuple):
    folder: DiskStorage
    name: str
    lock: Lock
    identity: tuple[int, int] | None


class FollowerLocks:
    """Those of the subscriptions `names` in `directory`. Blocking.

    `guard` is held while locks are taken: a process that forks waits for it, so that the child knows them.
    """

    def __init__(
        self, directory: LogDirectory, names: Collection[str], *, guard: AbstractContextManager[object] | None = None
    ) -> None:
        self._directory = directory
        self._names = sorted(names)
        self._guard = guard or nullcontext()
        self._held: list[_Held] = []

    def __repr__(self) -> str:
        return f"<FollowerLocks of {', '.join(self._names)} {'held' if self._held else 'free'}>"

    def take(self) -> list[str]:
        """Take them all, or none; those that other processes have. Empty: all of them are ours now, or were already.

        Raises:
            OSError: The directory takes no lock.
        """
        if self.are_in_place():
            return []
        self.release()
        taken: list[str] = []
        try:
            with self._guard:
                for name in self._names:
                    try:
                        self._take(safe_name(name) + LOCK_SUFFIX)
                    except LogLockedError:
                        taken.append(name)
        except BaseException:
            self.release()
            raise
        if taken:
            self.release()
        return taken

    def _take(self, name: str) -> None:
        folder = self._directory.opened(create=True).folder(FOLLOWING, create=True)
        try:
            lock = folder.lock(name)
        except BaseException:
            folder.close()
            raise
        try:
            # On a full disk it is a lock all the same.
            with suppress(OSError), closing(folder.open(name, "write")) as file:
                if not file.size() or file.read(0, len(LOCK_MARK)) == LOCK_MARK:
                    size = write_all(file, b"%bpid %d\n" % (LOCK_MARK, os.getpid()), 0)
                    file.truncate(size)
            self._held.append(_Held(folder, name, lock, folder.size(name).identity))
        except BaseException:
            lock.release()
            folder.close()
            raise

    def holders(self, names: Collection[str]) -> dict[str, int | None]:
        """Which process has the lock of each of `names`, as far as it says."""
        found: dict[str, int | None] = dict.fromkeys(names)
        with suppress(OSError), closing(self._directory.opened().folder(FOLLOWING)) as folder:
            found = {name: pid_in(folder, safe_name(name) + LOCK_SUFFIX) for name in names}
        return found

    def are_in_place(self) -> bool:
        """Whether they are found under their names still: else another process may have others of these names."""
        return bool(self._held) and all(
            held.folder.is_in_place() and _identity(held.folder, held.name) == held.identity for held in self._held
        )

    def release(self) -> None:
        """Let go of them, and delete what is ours of them. Idempotent."""
        held, self._held = self._held, []
        for each in held:
            with suppress(OSError):
                each.lock.release(delete=_is_ours(each.folder, each.name, each.identity))
            each.folder.close()
        if held:
            with suppress(OSError):
                self._directory.opened().remove_folder(FOLLOWING)

    def abandon(self) -> None:
        """In the child of a fork: close what was inherited, and leave the locks to their owner."""
        held, self._held = self._held, []
        for each in held:
            with suppress(OSError):  # A daemon that closed every descriptor after the fork has closed these too.
                each.lock.forget()
            each.folder.close()


def _identity(folder: DiskStorage, name: str) -> tuple[int, int] | None:
    try:
        return folder.size(name).identity
    except OSError:
        return None


def _is_ours(folder: DiskStorage, name: str, identity: tuple[int, int] | None) -> bool:
    with suppress(OSError), closing(folder.open(name, "read")) as file:
        return _identity(folder, name) == identity and (not file.size() or file.read(0, len(LOCK_MARK)) == LOCK_MARK)
    return False
