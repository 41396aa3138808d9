"""At the end, where the place of our log's directory is taken: what waits goes into a run of its own, for the next one.

Only what was never numbered, and where all else is written: a record has one id.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from eventrec.errors import LogError
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from eventrec.intake.takes import Takes
    from eventrec.log.log import Log
    from eventrec.runs.own_log import OwnLog

_logger = get_logger("eventrec.log")


def begin_elsewhere(takes: Takes, log: Log, other: OwnLog) -> bool:
    """Have all that is numbered synced in `log`, and make `other`, which goes on there; False: nothing more waits.

    Raises:
        OSError, LogError: The disk refuses either; what was made of `other` is let go.
    """
    try:
        takes.append_to(log)
        log.write()
        log.sync()
        if not takes.waiting:
            return False
        other.make(first=log.appended)
    except (OSError, LogError):
        with suppress(LogError):
            other.let_go()
        raise
    return True


def fill_elsewhere(takes: Takes, other: OwnLog) -> None:
    """Move what waits into `other`, which `begin_elsewhere` made, and leave it to the next run.

    Raises:
        LogError: The disk refuses.
    """
    run, log = other.make()
    first = log.appended
    while takes.take(run.id):
        takes.append_to(log)
        log.write()
    log.close()
    _logger.warning("written into another log", log=str(run.path), records=log.written - first)
    run.release()
