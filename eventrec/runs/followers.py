"""For which subscriptions the live logs of a directory are followed: remembered, so that what they lack is held.

    <log>/following/<subscription>.subscription    it is followed, be it that no process does so now

The process that follows writes it, before it looks at the first log. Owners of logs read it before they delete: a log
in which such a subscription has no checkpoint yet is held for it from its first record on. An operator has one
forgotten. A file that cannot be read holds as one that can: by its name.
"""

from __future__ import annotations

from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote
from uuid import UUID

import msgspec

from eventrec.errors import UnreadableFileError
from eventrec.runs.directory import LogDirectory
from eventrec.runs.files import SUFFIX, load, replace, safe_name
from eventrec.runtime.decoding import decodable
from eventrec.runtime.logging import text_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from eventrec.log.disk import DiskStorage

FOLLOWING: Final = "following"

LOCK_SUFFIX: Final = ".lock"
_REMEMBERED: Final = ".subscription"

_NOT_OURS: Final = (FileNotFoundError, NotADirectoryError)


@decodable
class RememberedFollower(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription that is followed. `since` is the log of the process that followed first, as old as that is."""

    subscription: str
    since: UUID


class Follower(NamedTuple):
    """A subscription for which live logs are followed.

    Attributes:
        name: Of the subscription; as far as the file tells, where that cannot be read.
        is_remembered: Else a process of an earlier version follows for it.
        is_alive: Whether a process follows for it now.
        since: See `RememberedFollower`; None: not known.
        pid: The number of the process, as far as it says.
    """

    name: str
    is_remembered: bool
    is_alive: bool
    since: UUID | None
    pid: int | None


class Followers:
    """Those of `directory`. Blocking; every call looks at the disk."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = LogDirectory.of(directory)

    def __repr__(self) -> str:
        return f"<Followers of {self._directory}>"

    def remember(self, name: str, since: UUID) -> None:
        """From here on what `name` lacks of a log is held for it. Durable on return; nothing where that is so already.

        Raises:
            OSError: It could not be written.
        """
        file = safe_name(name) + _REMEMBERED
        base = self._directory.opened(create=True)
        with closing(base.folder(FOLLOWING, create=True)) as folder:
            if folder.holds(file):
                return
            replace(folder, file, RememberedFollower(subscription=name, since=since))
        base.sync_directory()

    def since(self, name: str) -> UUID | None:
        """See `RememberedFollower`; None: it is not remembered, or that cannot be read."""
        with suppress(OSError), self._folder() as folder:
            return _since_in(folder, safe_name(name), name)
        return None

    def is_remembered(self, name: str) -> bool:
        """Whether it is.

        Raises:
            OSError: That cannot be told now.
        """
        with suppress(*_NOT_OURS), self._folder() as folder:
            return folder.holds(safe_name(name) + _REMEMBERED)
        return False

    def forget(self, name: str) -> bool:
        """Hold nothing more for what `name` has not begun; whether it was remembered. Durable on return.

        Raises:
            OSError: The disk refused.
        """
        with suppress(*_NOT_OURS), self._folder() as folder:
            folder.delete(safe_name(name) + _REMEMBERED)
            folder.sync_directory()
            with suppress(OSError):  # There are others.
                self._directory.opened().remove_folder(FOLLOWING)
            return True
        return False

    def by_file(self) -> dict[str, Follower]:
        """All of them, by the file that a checkpoint of theirs has.

        Raises:
            OSError: That cannot be told now.
        """
        found: dict[str, Follower] = {}
        with suppress(*_NOT_OURS), self._folder() as folder:
            names = folder.list()
            remembered = {stem for name in names if (stem := _stem(name, _REMEMBERED))}
            alive = {stem for name in names if (stem := _stem(name, LOCK_SUFFIX)) and _is_held(folder, name)}
            for stem in sorted(remembered | alive):
                about = _about(folder, stem) if stem in remembered else None
                found[stem + SUFFIX] = Follower(
                    name=text_of(unquote(stem)) if about is None else about.subscription,
                    is_remembered=stem in remembered,
                    is_alive=stem in alive,
                    since=None if about is None else about.since,
                    pid=pid_in(folder, stem + LOCK_SUFFIX) if stem in alive else None,
                )
        return found

    def names(self) -> dict[str, str]:
        """Their names, by the same. Raises as `by_file`."""
        return {file: each.name for file, each in self.by_file().items()}

    @contextmanager
    def _folder(self) -> Iterator[DiskStorage]:
        with closing(self._directory.opened().folder(FOLLOWING)) as folder:
            yield folder


LOCK_MARK: Final = b"eventrec following 1 "
"""A lock of ours begins with it, and goes on with the number of the process, for people."""


def pid_in(folder: DiskStorage, name: str) -> int | None:
    """The number of the process, where the lock `name` says one."""
    with suppress(OSError, ValueError), closing(folder.open(name, "read")) as file:
        content = file.read(0, 64)
        if content.startswith(LOCK_MARK + b"pid "):
            return int(content.split()[-1])
    return None


def _stem(name: str, suffix: str) -> str | None:
    return name.removesuffix(suffix) if name.endswith(suffix) else None


def _is_held(folder: DiskStorage, name: str) -> bool:
    # What is not a file that can be opened is not a lock of ours.
    with suppress(OSError):
        return folder.is_locked(name)
    return False


def _about(folder: DiskStorage, stem: str) -> RememberedFollower | None:
    with suppress(FileNotFoundError, UnreadableFileError):
        about, is_checked = load(folder, stem + _REMEMBERED, RememberedFollower)
        if is_checked and safe_name(about.subscription) == stem:
            return about
    return None


def _since_in(folder: DiskStorage, stem: str, name: str) -> UUID | None:
    about = _about(folder, stem)
    return about.since if about is not None and about.subscription == name else None
