"""Reading the file beside its writers: each job on a read-only connection of its own, in one snapshot of all tables."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from eventrec_handlers._thread import check_cancelled
from eventrec_handlers.sqlite.file import check_kind, connect_by_uri, errors_translated, is_at_rest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

STEPS: Final = 10_000
"""Instructions of SQLite's machine between two looks at whether the caller is still there: a millisecond, about."""


class Snapshots:
    """Snapshots of the file `path`. `busy_timeout` is how many seconds to wait for a lock.

    No writer in WAL mode holds one against readers, and they hold none against it.
    """

    def __init__(self, path: Path, *, busy_timeout: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout

    def read(self, job: Callable[[sqlite3.Connection], T], *, is_awaited: bool = False) -> T:
        """What `job` gives, in a thread that may block. It may be called twice: its first result may not count.

        With `is_awaited` a file that is not there, in a directory that is, is read as an empty one.

        Raises:
            DeliveryError: The file cannot be read.
        """
        check_kind(self._path)
        with errors_translated(self._path):
            if is_awaited and self._is_missing():
                return self._read_by("mode=memory", job)
            found = self._read_at_rest(job)
            return found[0] if found is not None else self._read_by("mode=ro", job)

    def _read_at_rest(self, job: Callable[[sqlite3.Connection], T]) -> tuple[T] | None:
        """What `job` reads while no process has the file open for WAL; None where one has, or comes meanwhile.

        Joining the WAL would make files beside this one, which stay, and which not every user may make. Where there is
        none, nothing changes the file before it makes one.
        """
        before = self._state_at_rest()
        if before is None:
            return None
        try:
            found = self._read_by("mode=ro&immutable=1", job)
        except sqlite3.Error:
            if self._state_at_rest() == before:
                raise
            return None
        return (found,) if self._state_at_rest() == before else None

    def _state_at_rest(self) -> tuple[int, int, int] | None:
        """By what the file is known to be unchanged; None where it is not a WAL file, or one that is in use."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_ino, found.st_size, found.st_mtime_ns) if is_at_rest(self._path) else None

    def _read_by(self, parameters: str, job: Callable[[sqlite3.Connection], T]) -> T:
        with closing(connect_by_uri(self._path, parameters, self._busy_timeout)) as connection:
            connection.execute("BEGIN")
            with watched(connection):
                return job(connection)

    def _is_missing(self) -> bool:
        folder = os.path.isdir(self._path.parent)  # noqa: PTH112 - that of Path raises where it may not look
        return folder and not os.path.lexists(self._path)


@contextmanager
def watched(connection: sqlite3.Connection) -> Iterator[None]:
    """While it lasts, statements end when their caller has been cancelled."""
    connection.set_progress_handler(_look_up, STEPS)
    try:
        yield
    except sqlite3.OperationalError:
        check_cancelled()  # which has interrupted it
        raise
    finally:
        connection.set_progress_handler(None, 0)


def _look_up() -> int:
    """Whether SQLite should stop: told by a number that is not 0, or by an error."""
    check_cancelled()
    return 0
