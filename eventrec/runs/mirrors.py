"""The mirrors that a log directory knows, and how far each has its logs: small files, which owners of logs read.

    <log>/mirrors/<mirror>/mirror.json      the mirror is known: what it has not acknowledged is held for it
    <log>/mirrors/<mirror>/<log id>.json    what it has of that log, synced
    <log>/mirrors/<mirror>/<log id>.dead.json   what it has of that log of dead letters

The process that serves the directory writes them; owners read them before they delete; an operator has a mirror
forgotten. A folder without a `mirror.json`, readable or not, is not ours. A log without a file, or with one that cannot
be read: nothing of it is acknowledged.
"""

from __future__ import annotations

import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias
from uuid import UUID

import msgspec

from eventrec.errors import UnreadableFileError
from eventrec.runs.directory import LogDirectory, id_in
from eventrec.runs.files import SUFFIX, load, replace, safe_name
from eventrec.runtime.decoding import decodable
from eventrec.runtime.logging import text_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from eventrec.log.disk import DiskStorage

MIRRORS: Final = "mirrors"

_OF_DEAD: Final = ".dead"

_ABOUT: Final = "mirror.json"

_NOT_OURS: Final = (FileNotFoundError, NotADirectoryError)

_Offset: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


@decodable
class About(msgspec.Struct, frozen=True, kw_only=True):
    """A known mirror: its name, and since when it is known, in seconds since the epoch."""

    name: str
    since: float


@decodable
class Acknowledged(msgspec.Struct, frozen=True, kw_only=True):
    """What a mirror has of one log, synced: the records below `next_offset`.

    `checkpoints` are those it has, by the name of their files, each with its `scanned`.
    """

    log: UUID
    next_offset: _Offset = 0
    checkpoints: dict[str, _Offset] = {}

    def lacks(self, end: int, checkpoints: Mapping[str, int]) -> bool:
        """Whether something below `end` is missing, or one of `checkpoints`, which are given in the same way."""
        return self.next_offset < end or any(self.checkpoints.get(name, -1) < at for name, at in checkpoints.items())


class Mirrors:
    """The mirrors of `directory`. Blocking; every call looks at the disk."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = LogDirectory.of(directory)

    def __repr__(self) -> str:
        return f"<Mirrors of {self._directory}>"

    def names(self) -> list[str]:
        """The mirrors that are known, by name.

        Raises:
            OSError: That cannot be told now.
        """
        return sorted(self._known().values())

    def of_log(self, id_: UUID, *, is_dead: bool = False) -> dict[str, Acknowledged]:
        """What each known mirror has acknowledged of the log `id_`, or of that log of dead letters.

        Raises:
            OSError: That cannot be told now.
        """
        found: dict[str, Acknowledged] = {}
        with suppress(*_NOT_OURS), closing(self._opened()) as mirrors:
            for folder, name in self._known().items():
                with suppress(*_NOT_OURS), closing(mirrors.folder(folder)) as files:
                    found[name] = _acknowledged(files, id_, is_dead=is_dead)
        return found

    def logs_of(self, name: str, *, is_dead: bool = False) -> set[UUID]:
        """The logs, or logs of dead letters, of which the mirror `name` acknowledged something. Raises as `names`."""
        with suppress(*_NOT_OURS), self._files_of(name) as files:
            end = _OF_DEAD + SUFFIX if is_dead else SUFFIX
            ids = (id_in(each.removesuffix(end)) for each in files.list() if each.endswith(end))
            return {id_ for id_ in ids if id_ is not None}
        return set()

    def register(self, name: str) -> bool:
        """From here on the mirror is known; whether it was not before. Durable on return.

        Raises:
            OSError: It could not be made known.
        """
        base = self._directory.opened()
        with closing(base.folder(MIRRORS, create=True)) as mirrors:
            with closing(mirrors.folder(safe_name(name), create=True)) as files:
                if _is_known(files):
                    return False
                replace(files, _ABOUT, About(name=name, since=time.time()))
            mirrors.sync_directory()
        base.sync_directory()
        return True

    def acknowledge(self, name: str, acknowledged: Acknowledged, *, is_dead: bool = False) -> None:
        """Note what the mirror has of a log, or of one of dead letters.

        It survives the end of this process; what a power cut takes is held longer.

        Raises:
            FileNotFoundError: The mirror is not known, or not any more.
            OSError: It was not noted; what was noted before stands.
        """
        with self._files_of(name) as files:
            if not _is_known(files):
                raise FileNotFoundError(f"the mirror {name!r} is not known any more")
            replace(files, _file_of(acknowledged.log, is_dead=is_dead), acknowledged, sync="nothing")

    def forget_log(self, name: str, id_: UUID, *, is_dead: bool = False) -> None:
        """The log is gone: so is what the mirror acknowledged of it. Raises OSError where it is not deleted."""
        with suppress(*_NOT_OURS), self._files_of(name) as files:
            files.delete(_file_of(id_, is_dead=is_dead))

    def forget(self, name: str) -> bool:
        """Hold nothing for the mirror any more; whether it was known. Durable on return.

        Raises:
            OSError: The disk refused; called again, it does the rest.
        """
        with suppress(*_NOT_OURS), closing(self._opened()) as mirrors:
            folder = safe_name(name)
            with closing(mirrors.folder(folder)) as files:
                if not _is_known(files):
                    return False
                # While it says that the mirror is known, another try finds it.
                ids = [(id_, is_dead) for is_dead in (False, True) for id_ in self.logs_of(name, is_dead=is_dead)]
                for each in [*(_file_of(id_, is_dead=is_dead) for id_, is_dead in ids), _ABOUT]:
                    with suppress(FileNotFoundError):
                        files.delete(each)
                files.sync_directory()
            with suppress(OSError):  # Something in it is not ours, or a file was half replaced.
                mirrors.remove_folder(folder)
            mirrors.sync_directory()
            return True
        return False

    @contextmanager
    def _files_of(self, name: str) -> Iterator[DiskStorage]:
        with closing(self._opened()) as mirrors, closing(mirrors.folder(safe_name(name))) as files:
            yield files

    def _opened(self) -> DiskStorage:
        return self._directory.opened().folder(MIRRORS)

    def _known(self) -> dict[str, str]:
        """The folders of the mirrors that are known, and the name of each; the folder's, where it cannot be read."""
        found: dict[str, str] = {}
        with suppress(*_NOT_OURS), closing(self._opened()) as mirrors:
            for entry in mirrors.entries():
                with suppress(*_NOT_OURS), closing(mirrors.folder(entry.name)) as files:
                    if _is_known(files):
                        found[entry.name] = _name_in(files, entry.name)
        return found


def _is_known(files: DiskStorage) -> bool:
    return files.holds(_ABOUT)


def _name_in(files: DiskStorage, folder: str) -> str:
    with suppress(FileNotFoundError, UnreadableFileError):
        about, _ = load(files, _ABOUT, About)
        if safe_name(about.name) == folder:
            return about.name
    return text_of(folder)


def _file_of(id_: UUID, *, is_dead: bool) -> str:
    return f"{id_}{_OF_DEAD if is_dead else ''}{SUFFIX}"


def _acknowledged(files: DiskStorage, id_: UUID, *, is_dead: bool) -> Acknowledged:
    with suppress(FileNotFoundError, UnreadableFileError):
        found, is_checked = load(files, _file_of(id_, is_dead=is_dead), Acknowledged)
        if is_checked and found.log == id_:
            return found
    return Acknowledged(log=id_)
