"""Runs that are delivered and retained, in `done/`: made orphans again, or deleted for good."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING

from eventrec.runs.directory import DONE, LogDirectory
from eventrec.runs.run import Run

if TYPE_CHECKING:
    import os
    from uuid import UUID


def take_up_done(directory: str | os.PathLike[str], *, newest: bool = False) -> int:
    """Make orphans again of the runs in `done/`, or of the `newest` alone: a destination lost something, or may have.

    Returns how many.
    """
    log, count = LogDirectory.of(directory), 0
    with suppress(OSError), closing(log.opened().folder(DONE)) as done:
        for id_ in (log / DONE).runs()[-1 if newest else 0 :]:
            with suppress(OSError):
                done.move_folder(str(id_), log.opened(), str(id_))
                count += 1
        if count:
            done.sync_directory()
            log.opened().sync_directory()
    return count


def delete_done(directory: str | os.PathLike[str], id_: UUID) -> bool:
    """Delete a run in `directory`, which is a `done/`, for good; False: another process holds it, or was faster.

    Raises:
        OSError: The disk refused.
    """
    run = Run.adopt(directory, id_)
    if run is None:
        return False
    run.retire()
    return True
