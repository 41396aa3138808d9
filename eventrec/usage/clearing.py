"""Deletes what was recorded of a user and not sent: logs of ours, and nothing else that lies there."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eventrec.errors import LogLockedError
from eventrec.log.disk import DiskStorage
from eventrec.runs.directory import DEAD, DONE, LogDirectory
from eventrec.runs.leftovers import sweep
from eventrec.runs.run import Run
from eventrec.runs.run_folder import size_of_run
from eventrec.runs.survey import QUOTA

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID


@dataclass(slots=True)
class Cleared:
    """What became of the sessions of a data directory.

    Attributes:
        deleted: How many were deleted.
        held: Those of processes that run: they stay.
        left: Those that could not be deleted, and why.
    """

    deleted: int = 0
    held: list[UUID] = field(default_factory=list)
    left: dict[UUID, str] = field(default_factory=dict)


def sessions_in(directory: Path) -> tuple[int, int]:
    """How many sessions a data directory holds, and their bytes; where there is none, none."""
    log = LogDirectory(directory)
    parts = (log, log / DONE, log / DEAD)
    return sum(len(part.runs()) for part in parts), sum(_size(part) for part in parts)


def clear_sessions(directory: Path) -> Cleared:
    """Delete the sessions of a data directory, with their dead letters, and what is empty then. Blocking.

    What is not ours stays, and so do the directories it is in.

    Raises:
        OSError: The directory may not be looked into.
    """
    cleared = Cleared()
    if not directory.is_dir():
        return cleared
    log = LogDirectory(directory)
    for part in (log, log / DONE, log / DEAD):
        for id_ in part.runs():
            _clear(part, id_, cleared)
        sweep(part)
    with closing(DiskStorage(directory)) as storage:
        if not cleared.held:
            with suppress(OSError, LogLockedError):
                storage.lock(QUOTA, create=False).release(delete=True)
        for name in (DONE, DEAD):
            with suppress(OSError):
                storage.remove_folder(name)
    with suppress(OSError):
        directory.rmdir()
    return cleared


def _clear(log: LogDirectory, id_: UUID, cleared: Cleared) -> None:
    run = Run.try_adopt(log, id_)
    if run == "held":
        cleared.held.append(id_)
    elif isinstance(run, Run):
        try:
            run.retire()
            cleared.deleted += 1
        except OSError as exc:
            cleared.left[id_] = exc.strerror or str(exc)


def _size(log: LogDirectory) -> int:
    total = 0
    for id_ in log.runs():
        with suppress(OSError), closing(log.opened().folder(str(id_))) as storage:
            total += size_of_run(storage)
    return total
