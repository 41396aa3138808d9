"""What commands see of a log directory: its logs, who holds them, and how far each subscription is in them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.errors import LogError
from eventrec.log.segment import list_segments, segment_name
from eventrec.log.storage import DiskStorage
from eventrec.log.verify import describe
from eventrec.runs.checkpoint import CheckpointFiles, file_name
from eventrec.runs.run import CHECKPOINTS, is_locked, list_runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from uuid import UUID

    from eventrec.runs.checkpoint import Checkpoint


def existing(directory: Path) -> Path:
    """`directory`.

    Raises:
        CommandError: It is none.
    """
    if not directory.is_dir():
        raise CommandError(f"{directory} is not a directory", ExitCode.FILE)
    return directory


def logs_in(directory: Path) -> list[Path]:
    """The directories of segments: those of its runs; `directory` itself where it has none.

    Raises:
        CommandError: It is no directory.
    """
    return [directory / str(id_) for id_ in list_runs(existing(directory))] or [directory]


def disk_storage(directory: Path) -> DiskStorage:
    """The files of one log.

    Raises:
        CommandError: It cannot be opened.
    """
    try:
        return DiskStorage(directory)
    except OSError as exc:
        raise CommandError(f"{directory}: {exc.strerror}", ExitCode.FILE) from exc


def described(path: Path) -> dict[str, Any]:
    """The segments of one log: file, first record, bytes; and its first record, its end, its bytes.

    Raises:
        CommandError: It cannot be read.
    """
    with closing(disk_storage(path)) as storage:
        try:
            found, firsts = describe(storage), list_segments(storage)
        except (OSError, LogError) as exc:
            raise CommandError(f"{path}: {exc}", ExitCode.FILE) from exc
        names = [segment_name(first) for first in firsts]
        sizes = dict(_sizes(path))
        return {
            "log": path.name,
            "segments": [
                {"file": name, "first": first, "bytes": sizes[name]}
                for first, name in zip(firsts, names, strict=True)
                if name in sizes
            ],
            "first": firsts[0] if firsts else 0,
            "end": found.end if found is not None else firsts[-1] if firsts else 0,
            "bytes": sum(sizes.values()),
        }


def _sizes(path: Path) -> Iterator[tuple[str, int]]:
    """Of the files that are there: its owner may delete one at any time."""
    for file in path.iterdir():
        try:
            if file.is_file():
                yield file.name, file.stat().st_size
        except FileNotFoundError:
            continue


@dataclass(frozen=True, slots=True)
class SeenLog:
    """One log of a directory, as it was when it was looked at: records `first` to `end`, in `size` bytes."""

    id: UUID
    path: Path
    is_held: bool
    first: int
    end: int
    size: int
    checkpoints: dict[str, Checkpoint]
    unreadable: frozenset[str]
    """Files of checkpoints that cannot be read: nobody knows for whom this log is kept, and how much of it."""

    def knows(self, name: str) -> bool:
        """Whether the subscription has a checkpoint in it, be it one that cannot be read."""
        return name in self.checkpoints or file_name(name) in self.unreadable

    def pending(self, name: str) -> int:
        """Records that the subscription is still to get: from its `scanned` to the end; all, where it has none."""
        known = self.checkpoints.get(name)
        return max(0, self.end - (self.first if known is None else known.progress.scanned))

    def holders(self, *, excluding: str | None = None) -> list[str]:
        """The subscriptions that need something of it, without `excluding`."""
        return sorted(name for name in self.checkpoints if name != excluding and self.pending(name))


def see(directory: Path, id_: UUID) -> SeenLog | None:
    """Look at one log; None where it is gone.

    Raises:
        CommandError: It cannot be read.
    """
    path = directory / str(id_)
    try:
        seen = described(path)
        checkpoints = CheckpointFiles(path / CHECKPOINTS).load()
        files = {file.name for file in (path / CHECKPOINTS).glob("*.json")}
    except (CommandError, OSError) as exc:
        if not path.exists():
            return None
        raise exc if isinstance(exc, CommandError) else CommandError(f"{path}: {exc}", ExitCode.FILE) from exc
    return SeenLog(
        id=id_,
        path=path,
        is_held=is_locked(directory, id_),
        first=seen["first"],
        end=seen["end"],
        size=seen["bytes"],
        checkpoints=checkpoints,
        unreadable=frozenset(files - {file_name(name) for name in checkpoints}),
    )


def see_all(directory: Path) -> list[SeenLog]:
    """Look at every log of `directory`, oldest first.

    Raises:
        CommandError: It is no directory, or a log cannot be read.
    """
    seen = [see(directory, id_) for id_ in list_runs(existing(directory))]
    return [log for log in seen if log is not None]


def names_in(logs: Iterable[SeenLog]) -> list[str]:
    """The subscriptions that have a checkpoint in one of `logs`."""
    return sorted({name for log in logs for name in log.checkpoints})


def listed(names: Iterable[str]) -> str:
    """`names` in quotes, or "none"."""
    return ", ".join(map(repr, names)) or "none"
