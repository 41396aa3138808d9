"""What a log directory holds: its logs, which are held, how far each subscription is, and how many bytes there are.

For `status`, `doctor`, `drain` and the disk bound. Nothing is changed; nothing but ours is looked into or counted.
"""

from __future__ import annotations

import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from eventrec.errors import LogError
from eventrec.log.segment import list_odd_segments, list_segments, segment_name
from eventrec.log.verify import describe
from eventrec.runs.checkpoint import CheckpointFiles
from eventrec.runs.directory import DEAD, DONE, LOCK, LogDirectory, id_in, id_of
from eventrec.runs.files import file_name
from eventrec.runs.followers import FOLLOWING, Followers
from eventrec.runs.layouts import LAYOUTS
from eventrec.runs.mirrors import MIRRORS, Mirrors
from eventrec.runs.others import UNKNOWN
from eventrec.runs.requests import REQUESTS
from eventrec.runs.run_folder import size_of_run
from eventrec.runtime.logging import text_of

if TYPE_CHECKING:
    import os
    from pathlib import Path
    from uuid import UUID

    from eventrec.log.disk import DiskStorage
    from eventrec.runs.checkpoint import Checkpoint, Saved

State: TypeAlias = Literal["held", "orphan", "unknown"]
"""A process holds it; no process does; this user may not open it, so that it is not known."""

QUOTA: Final = ".eventrec-quota"
"""The lock of the process that judges how large a log directory is, a file in it."""

_OLD_QUOTA: Final = "quota"
_SETTLED_SECONDS: Final = 1.0
"""How old a change of a directory must be for a later one to have another time."""


@dataclass(frozen=True, slots=True)
class SeenLog:
    """One log of a directory, as it was when it was looked at: records `first` to `end`, in `size` bytes."""

    id: UUID
    path: Path
    state: State
    first: int
    end: int
    size: int
    checkpoints: dict[str, Checkpoint]
    unreadable: frozenset[str]
    """Files of checkpoints that cannot be read: for whom this log is kept, and how much of it, is not known."""
    newer: frozenset[str] = frozenset()
    """Those of them that a later eventrec wrote."""
    error: str = ""
    """Why its records cannot be read: a later version, where `end` is where its newest segment begins; or a segment
    that is not a file, as a link, where `end` is that of the others."""
    lost: int = 0
    """Records behind `end` that its torn or damaged tail was to hold, as far as it says: they cannot be delivered."""
    mirrored: dict[str, int] = field(default_factory=dict)
    """Up to where each mirror of the directory has it."""
    awaited: frozenset[str] = frozenset()
    """The subscriptions for which live logs are followed, and that have no checkpoint in it: it is held for them."""

    @property
    def is_held(self) -> bool:
        """Whether a process holds it."""
        return self.state == "held"

    def knows(self, name: str) -> bool:
        """Whether it is held for the subscription: by a checkpoint, be it one that cannot be read, or as `awaited`."""
        return name in self.awaited or self.knows_by_checkpoint(name)

    def knows_by_checkpoint(self, name: str) -> bool:
        """Whether the subscription has a checkpoint in it, be it one that cannot be read."""
        return name in self.checkpoints or file_name(name) in self.unreadable

    @property
    def names(self) -> frozenset[str]:
        """The subscriptions that it may be held for, as far as they can be read."""
        return self.awaited.union(self.checkpoints)

    def scanned(self, name: str) -> int:
        """Up to where the subscription is past it; where it has no checkpoint, its first record."""
        known = self.checkpoints.get(name)
        return self.first if known is None else known.progress.scanned

    def pending(self, name: str) -> int:
        """Records that the subscription is still to get: from its `scanned` to the end; all, where it has none."""
        return max(0, self.end - self.scanned(name))

    def pending_or_lost(self, name: str) -> int:
        """As `pending`, with what is `lost`, unless the subscription has that behind it already."""
        return max(0, self.end + self.lost - self.scanned(name))

    def mirror_lags(self) -> dict[str, int]:
        """How many records each mirror lacks."""
        return {name: max(0, self.end - max(at, self.first)) for name, at in sorted(self.mirrored.items())}

    def holders(self, *, excluding: str | None = None) -> list[str]:
        """The subscriptions that need something of it, without `excluding`."""
        return sorted(name for name in self.names if name != excluding and self.pending(name))

    def open_records(self) -> dict[str, int]:
        """Records that are lost if it goes, by subscription; under "?" those whose subscription is not known."""
        lost = {name: self.pending(name) for name in self.holders()}
        if self.unreadable or self.error or not self.names:
            lost[UNKNOWN] = max(self.end - self.first, 1 if self.error else 0)
        return {name: count for name, count in lost.items() if count}


def see(directory: str | os.PathLike[str], id_: UUID) -> SeenLog | None:
    """Look at one log; None where it is gone.

    Raises:
        OSError: The disk does not give it.
        LogError: It is compressed, and zstd is not installed.
    """
    log = LogDirectory.of(directory)
    path = log.path / str(id_)
    try:
        storage = log.opened().folder(str(id_))
    except PermissionError:
        return SeenLog(id_, path, "unknown", 0, 0, 0, {}, frozenset())
    except (FileNotFoundError, NotADirectoryError):
        return None
    with closing(storage):
        return see_opened(storage, id_, path)


def see_opened(storage: DiskStorage, id_: UUID, path: Path) -> SeenLog | None:
    """Look at the log whose directory is `storage`; None where it is gone meanwhile. Raises as `see`."""
    try:
        state: State = "held" if storage.is_locked(LOCK) else "orphan"
    except PermissionError:
        return SeenLog(id_, path, "unknown", 0, 0, 0, {}, frozenset())
    except FileNotFoundError:
        return None
    found, error = None, ""
    try:
        firsts = list_segments(storage)
        try:
            found = describe(storage)
        except LogError as exc:
            if isinstance(exc.__cause__, ImportError):
                raise  # What is missing may be installed, and then all of them can be looked at.
            error = text_of(exc)
        if odd := list_odd_segments(storage):
            error = f"{segment_name(odd[0])} is not a file"
        saved = CheckpointFiles(storage).look()
    except FileNotFoundError:
        if storage.is_in_place():
            raise
        return None
    return SeenLog(
        id=id_,
        path=path,
        state=state,
        first=firsts[0] if firsts else 0,
        end=found.end if found is not None else firsts[-1] if firsts else 0,
        size=size_of_run(storage),
        checkpoints=saved.checkpoints,
        unreadable=saved.unreadable | saved.newer,
        newer=saved.newer,
        error=error,
        lost=found.claimed if found is not None and state == "orphan" else 0,
        mirrored=_mirrored(path, id_),
        awaited=_awaited(path, saved),
    )


def _awaited(path: Path, saved: Saved) -> frozenset[str]:
    known = {file_name(name) for name in saved.checkpoints} | saved.unreadable | saved.newer
    try:
        followers = Followers(path.parent).names()
    except OSError:
        return frozenset()
    return frozenset(name for file, name in followers.items() if file not in known)


def _mirrored(path: Path, id_: UUID) -> dict[str, int]:
    try:
        found = Mirrors(path.parent).of_log(id_)
    except OSError:
        return {}
    return {name: each.next_offset for name, each in found.items()}


def see_all(directory: str | os.PathLike[str]) -> list[SeenLog]:
    """Look at every log of `directory`, oldest first: those that are ours, and those that may be. Raises as `see`."""
    log = LogDirectory.of(directory)
    ours = set(log.runs())
    looked_at = [see(log, id_) for id_ in log.ids() if id_ in ours or log.may_be_ours(id_)]
    return [seen for seen in looked_at if seen is not None]


def knows(directory: str | os.PathLike[str], subscription: str, *, before: UUID) -> bool:
    """Whether a log that is older than `before` has a checkpoint of `subscription`, readable or not.

    Those in `directory` are looked at, and those that are retained there.
    """
    log, name = LogDirectory.of(directory), file_name(subscription)
    for part in (log, log / DONE):
        for id_ in part.runs():
            if id_ >= before:
                break
            with suppress(OSError), closing(part.opened().folder(str(id_))) as storage:
                if name in CheckpointFiles(storage).names():
                    return True
    return False


def list_foreign(directory: str | os.PathLike[str]) -> list[str]:
    """The names in a log directory that are not ours, as far as this user may tell."""
    log = LogDirectory.of(directory)
    ours = {*log.members(), DONE, DEAD, REQUESTS, FOLLOWING, LAYOUTS, MIRRORS, QUOTA, _OLD_QUOTA}
    return sorted(name for name in log.names() if name not in ours and not _may_be_ours(log, name))


def _may_be_ours(log: LogDirectory, name: str) -> bool:
    """Whether that directory is one of which its owner may be making or deleting a run, or has by now."""
    if (id_ := id_of(name)) is None:
        return False
    try:
        with closing(log.opened().folder(name)) as storage:
            if storage.is_unfinished and log.trusts(storage):
                return True
    except FileNotFoundError:
        return True
    except OSError:
        pass
    return log.is_ours(id_, name=name) or (id_in(name) is not None and log.may_be_ours(id_))


class KnownSize(NamedTuple):
    """The directory of a run, as it was when no file had been made or deleted there for a while.

    Attributes:
        inode: Which directory that was.
        changed: When, in nanoseconds since the epoch, a file was made or deleted there last.
        newest: Its newest segment, which may grow; empty: it has none.
        rest: Bytes of all other files.
    """

    inode: int
    changed: int
    newest: str
    rest: int


def tree_size(directory: str | os.PathLike[str], known: dict[str, KnownSize] | None = None) -> int:
    """Bytes of all files that are ours in `directory`: a log directory, its `done/`, or its `dead/`.

    `known` holds what an earlier call found of the runs in it, and then what this one did: a run in which no file was
    made or deleted since costs two calls of the system, and its small files count as they did then.
    """
    log, total = LogDirectory.of(directory), 0
    before = {} if known is None else dict(known)
    now: dict[str, KnownSize] = {}
    for name in log.members():
        with suppress(OSError):
            total += _size_of(log.opened(), name, before.get(name), now)
    if known is not None:
        known.clear()
        known.update(now)
    for name in (DONE, DEAD):
        with suppress(OSError):
            (log / name).opened()
            total += tree_size(log / name)
    return total


def _size_of(log: DiskStorage, name: str, before: KnownSize | None, now: dict[str, KnownSize]) -> int:
    found = log.stat_of(name)
    if before is not None and (found.st_ino, found.st_mtime_ns) == (before.inode, before.changed):
        now[name] = before
        return before.rest + (log.size(f"{name}/{before.newest}").length if before.newest else 0)
    with closing(log.folder(name)) as storage:
        total = size_of_run(storage)
        if time.time() - found.st_mtime > _SETTLED_SECONDS:
            firsts = list_segments(storage)
            newest = segment_name(firsts[-1]) if firsts else ""
            rest = total - (storage.size(newest).length if newest else 0)
            now[name] = KnownSize(found.st_ino, found.st_mtime_ns, newest, rest)
    return total
