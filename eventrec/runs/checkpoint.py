"""How far a subscription is, in two numbers, what became of what lies behind it, and the file that remembers it."""

from __future__ import annotations

import errno
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple, TypeAlias

import msgspec

from eventrec.errors import LogError, UnreadableFileError
from eventrec.log.disk import DiskStorage
from eventrec.runs.files import SUFFIX, decode, file_name, is_forbidden, read, replace
from eventrec.runtime.decoding import decodable
from eventrec.runtime.logging import get_logger, text_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

_logger = get_logger("eventrec.delivery")

CHECKPOINTS: Final = "checkpoints"
"""The folder in a run's directory."""

_VERSION: Final = 1

_Offset: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(slots=True)
class Progress:
    """`acknowledged` is the destination's next offset; below `scanned`, which is never less, everything is settled.

    They differ after a filtered range, a dead letter or a forfeit, of which the destination learns with the next batch.
    The counters obey `scanned - start + rewound == delivered + filtered + dead + dropped` between two moves.
    """

    start: _Offset
    acknowledged: _Offset
    scanned: _Offset
    delivered: _Count = 0
    filtered: _Count = 0
    dead: _Count = 0
    dropped: dict[str, _Count] = field(default_factory=dict)
    replayed: _Count = 0
    rewound: _Count = 0

    @property
    def is_balanced(self) -> bool:
        """Whether the numbers agree with each other, as they do between two moves."""
        settled = self.delivered + self.filtered + self.dead + sum(self.dropped.values())
        return self.acknowledged <= self.scanned and self.scanned - self.start + self.rewound == settled

    def settle_to(self, end: int, *, delivered: int = 0, dead: int = 0, dropped: int = 0) -> None:
        """Everything below `end` is settled: what is in none of these terms was filtered; see `drop`."""
        self.delivered += delivered
        self.dead += dead
        self.filtered += end - self.scanned - delivered - dead - dropped
        self.scanned = end

    def drop(self, reason: str, count: int) -> None:
        """`count` records are lost for `reason`."""
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count


@decodable
class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that may have reached the destination: it is sent again as it was, under the same token, or not at all.

    `offsets` are those of its records, `dead` and `delivered` those of its range that were settled before. `suspects`
    failed alone before it, each with its reason: where this batch arrives they are dead.
    """

    start: _Offset
    end: _Offset
    generation: _Count
    offsets: list[_Offset]
    dead: list[_Offset] = []
    delivered: list[_Offset] = []
    suspects: dict[_Offset, str] = {}


@decodable
class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a run remembers of one subscription. `destination` is the id of the database it goes to, if that has one.

    `generation` is the first that no batch from `acknowledged` on has had: a piece that is read again after a restart
    may end where a refused one did, and must not share its token. `saved` is when, in seconds since the epoch.

    `by_holder`: the process that holds the log delivers the subscription, so that none that follows the log does.
    `state` is what was wrong when it was saved, in words; empty: nothing. `last_error` is what the last attempt that
    failed said. `refused_types`: so many records of these were refused for good that one more pauses the subscription,
    until an operator resumes it. `address` tells by which URL its destination was named, as long as nothing is known to
    have arrived anywhere; empty: by none.
    """

    subscription: str
    progress: Progress
    destination: str | None = None
    attempt: Attempt | None = None
    generation: _Count = 0
    saved: float = 0.0
    by_holder: bool = False
    state: str = ""
    last_error: str | None = None
    refused_types: list[str] = []
    address: str = ""
    version: int = _VERSION

    @property
    def is_unmet(self) -> bool:
        """Whether nothing is known to have arrived anywhere, so that only `address` may say where it was to go."""
        return self.destination is None and not self.progress.delivered


class Saved(NamedTuple):
    """The checkpoints of one run, by subscription, and the names of the files that say nothing to us.

    Attributes:
        checkpoints: Those that can be read.
        unreadable: Files that are damaged, or that the disk does not give: how far these are is not known.
        newer: Files of a version that comes after this one.
        forbidden: Those of `unreadable` that this user may not read: what they say is there, and counts.
    """

    checkpoints: dict[str, Checkpoint]
    unreadable: frozenset[str]
    newer: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()

    def is_lost(self, subscription: str) -> bool:
        """Whether it had a checkpoint that cannot be read: then it may be anywhere, and nothing of it is skipped."""
        return file_name(subscription) in self.unreadable

    def is_new(self, subscription: str) -> bool:
        """Whether the run delivered to other subscriptions, and not to this one.

        A run that has no checkpoint at all may have ended before its first one was saved.
        """
        return bool(self.checkpoints) and subscription not in self.checkpoints and not self.is_lost(subscription)


class NewerFileError(LogError):
    """A checkpoint was written by a version that comes after this one."""


class CheckpointFiles:
    """The checkpoints of one run, a small file for each subscription. Blocking; from one thread.

    `where` is the folder, or the storage of the run that has it: that is reached whatever its path means by now.
    `is_named` says that the run's directory was synced since the folder was made in it.
    """

    def __init__(self, where: Path | DiskStorage, *, is_named: bool = False) -> None:
        self._where = where
        self._is_named = is_named

    def load(self, *, is_said: bool = True) -> dict[str, Checkpoint]:
        """Every checkpoint, by subscription. One that cannot be read is missing, and logged where `is_said`."""
        return self.look(is_said=is_said).checkpoints

    def look(self, *, said: Collection[str] = (), says_forbidden: bool = True, is_said: bool = True) -> Saved:
        """Every checkpoint, and what cannot be read, which is logged but for the files `said` before.

        `says_forbidden=False`: nor are those that this user may not read, of which the caller tells. `is_said=False`:
        none is.
        """
        found: dict[str, Checkpoint] = {}
        unreadable, newer, forbidden = set[str](), set[str](), set[str]()
        for file, checkpoint in self._all():
            name = text_of(file)
            if isinstance(checkpoint, Checkpoint):
                found[checkpoint.subscription] = checkpoint
            elif isinstance(checkpoint, NewerFileError):
                newer.add(name)
            else:
                unreadable.add(name)
                if is_forbidden(checkpoint):
                    forbidden.add(name)
                if is_said and name not in said and (says_forbidden or name not in forbidden):
                    _logger.error("checkpoint unreadable", file=str(self._folder / file), error=text_of(checkpoint))
        return Saved(found, frozenset(unreadable), frozenset(newer), frozenset(forbidden))

    def load_all(self) -> dict[str, Checkpoint] | None:
        """Every checkpoint, by subscription; None where there is one that cannot be read, which is not logged."""
        found = [checkpoint for _, checkpoint in self._all()]
        if not all(isinstance(each, Checkpoint) for each in found):
            return None
        return {each.subscription: each for each in found if isinstance(each, Checkpoint)}

    def names(self) -> list[str]:
        """The files that are there, readable or not.

        Raises:
            OSError: The folder cannot be read.
        """
        with closing(self._opened()) as storage:
            return [name for name in storage.list() if name.endswith(SUFFIX)]

    @property
    def _folder(self) -> Path:
        return self._where.directory / CHECKPOINTS if isinstance(self._where, DiskStorage) else self._where

    def _all(self) -> Iterator[tuple[str, Checkpoint | LogError]]:
        try:
            storage = self._opened()
        except (FileNotFoundError, NotADirectoryError):
            return
        with closing(storage):
            for name in sorted(storage.list()):
                if name.endswith(SUFFIX):
                    with suppress(FileNotFoundError):
                        try:
                            yield name, _loaded(storage, name)
                        except (UnreadableFileError, NewerFileError) as exc:
                            yield name, exc

    def is_of_holder(self, subscription: str) -> bool:
        """Whether the file says that the holder of the log delivers it; or says what this version cannot read.

        Raises:
            OSError: The disk does not give it.
        """
        try:
            with closing(self._opened()) as storage:
                return _loaded(storage, file_name(subscription)).by_holder
        except NewerFileError:
            return True
        except FileNotFoundError:
            return False
        except UnreadableFileError as exc:
            if is_forbidden(exc):
                raise PermissionError(
                    errno.EACCES, "may not be read", str(self._folder / file_name(subscription))
                ) from exc
            return False

    def save(self, checkpoint: Checkpoint, *, sync: bool) -> None:
        """Replace the file. With `sync` it survives a power cut, on return, once `sync_names` was called too.

        A folder that went away is made again.

        Raises:
            OSError: It was not; the last one stands.
        """
        with closing(self._opened(create=True)) as storage:
            stamped = msgspec.structs.replace(checkpoint, saved=time.time())
            replace(storage, file_name(checkpoint.subscription), stamped, sync="content" if sync else "nothing")

    def begin(self, addresses: Mapping[str, str], *, sync: bool) -> dict[str, Checkpoint]:
        """The first checkpoints of a run that was just made, saved: all subscriptions begin at its first record.

        `addresses`: of each subscription, by its name. With `sync` the checkpoints survive a power cut once
        `sync_names` was called too.

        Raises:
            OSError: They were not all saved.
        """
        first = [
            Checkpoint(subscription=name, progress=Progress(0, 0, 0), by_holder=True, address=address)
            for name, address in addresses.items()
        ]
        for checkpoint in first:
            self.save(checkpoint, sync=sync)
        return {each.subscription: each for each in first}

    def remove(self, subscription: str) -> None:
        """Delete the file, if there is one. On return that survives a power cut.

        Raises:
            OSError: It may not, or the file is there still.
        """
        with suppress(FileNotFoundError), closing(self._opened()) as storage:
            storage.delete(file_name(subscription))
        self.sync_names()

    def sync_names(self) -> None:
        """On return the replacements so far survive a power cut.

        Raises:
            OSError: They may not.
        """
        with closing(self._opened()) as storage:
            storage.sync_directory()
        if isinstance(self._where, DiskStorage) and not self._is_named:
            self._where.sync_directory()
            self._is_named = True

    def _opened(self, *, create: bool = False) -> DiskStorage:
        if isinstance(self._where, DiskStorage):
            try:
                return self._where.folder(CHECKPOINTS)
            except FileNotFoundError:
                if not create:
                    raise
                self._is_named = False
                return self._where.folder(CHECKPOINTS, create=True)
        with closing(DiskStorage(self._where.parent)) as parent:
            return parent.folder(self._where.name, create=create)


@decodable
class _Versioned(msgspec.Struct):
    version: int = _VERSION


def _loaded(storage: DiskStorage, name: str) -> Checkpoint:
    content = read(storage, name)
    versioned, _ = decode(content, _Versioned)
    if versioned.version > _VERSION:
        raise NewerFileError(f"its version is {versioned.version}: this eventrec reads {_VERSION}")
    checkpoint, is_checked = decode(content, Checkpoint)
    if file_name(checkpoint.subscription) != name:
        raise UnreadableFileError(f"it is of the subscription {checkpoint.subscription!r}")
    # Without a checksum, that its numbers agree is all that speaks for them.
    if not is_checked and not checkpoint.progress.is_balanced:
        raise UnreadableFileError("its numbers do not agree")
    return checkpoint
