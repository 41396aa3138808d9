"""The dead letters in the recorder's log directory, as routes look at them: in a thread, a few requests at once."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from eventrec.delivery.letters.kept import kept_letters
from eventrec.errors import LogError
from eventrec.runs.directory import DEAD
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import get_logger
from eventrec.server.refusals import RefusedError
from eventrec.server.serving import shared_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from eventrec.delivery.letters.kept import KeptLetter
    from eventrec.server.serving import Server

T = TypeVar("T")

_logger = get_logger("eventrec.server")


def log_of(server: Server) -> Path:
    """The recorder's log directory.

    Raises:
        RefusedError: 404: it has none.
    """
    if server.log is None:
        raise RefusedError(HTTPStatus.NOT_FOUND, "the recorder has no log directory, and so keeps no dead letters")
    return server.log


async def look(server: Server, work: Callable[[Path], T]) -> T:
    """What `work`, which blocks, gives for the log directory.

    Raises:
        RefusedError: 404: there is none; 503: it cannot be read. Or what `work` raises.
    """
    directory = log_of(server)
    try:
        return await in_thread(work, directory, limiter=shared_state(server).lookers)
    except (OSError, LogError) as exc:
        _logger.warning("log directory unreadable", error=type(exc).__name__)
        raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "the log directory cannot be read now") from exc


def waiting(directory: Path) -> Iterator[KeptLetter]:
    """The letters that wait, oldest first, each when it is asked for. Blocking. Raises OSError and LogError."""
    return (each for each in kept_letters(directory / DEAD) if each.is_waiting)
