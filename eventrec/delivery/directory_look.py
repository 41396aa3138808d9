"""One look around a log directory, in one hop to a thread: did it change, what is asked, what do others still hold."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from eventrec.delivery.orphans.queue import Changes
from eventrec.runs.requests import read_requests, requests_changed
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from eventrec.delivery.orphans.locks import OrphanLocks
    from eventrec.runs.directory import LogDirectory
    from eventrec.runs.requests import OperatorRequest

_logger = get_logger("eventrec.delivery")


class DirectoryNews(NamedTuple):
    """What a look around saw.

    Attributes:
        changed: When a name in the directory was made or went, in seconds since the epoch; 0.0: it is not there.
        requests: What operators ask, in the order it was asked; empty also where that did not change.
        held: Those of the logs that were asked for that other processes still hold.
    """

    changed: float
    requests: list[OperatorRequest]
    held: list[UUID]


class DirectoryLook:
    """Looks around `directory`. Requests are read where their folder changed, once a minute, and after a failure.

    What of them cannot be read is said once, and again where it could be read in between.
    """

    def __init__(self, directory: LogDirectory, locks: OrphanLocks) -> None:
        self._directory = directory
        self._locks = locks
        self._requests = Changes()
        self._unreadable: dict[str, str] = {}

    def look(self, asked: Iterable[UUID]) -> DirectoryNews:
        """Look, also whether the logs `asked` are still held. Blocking; for one thread at a time."""
        return DirectoryNews(self._directory.modified(), self._new_requests(), self._locks.still_held(asked))

    def _new_requests(self) -> list[OperatorRequest]:
        stamp, now = requests_changed(self._directory), time.monotonic()
        if not self._requests.are_due(stamp, now=now):
            return []
        at = time.time()
        requests, unreadable = read_requests(self._directory)
        for file, why in unreadable.items():
            if self._unreadable.get(file) != why:
                _logger.warning("requests unreadable", file=file, error=why)
        self._unreadable = unreadable
        if not unreadable:
            self._requests.note_looked(stamp, at=at, now=now)
        return requests
