"""The connection to the file: made when it is needed, left where another program touched the files beneath it."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from eventrec import PauseError, TransientError
from eventrec_handlers.sqlite.file import connect, retry_while_locked
from eventrec_handlers.sqlite.own_tables import make_own_tables, next_of
from eventrec_handlers.sqlite.standing import Standing, close_as_it_is

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from uuid import UUID

    from eventrec import Batch
    from eventrec_handlers.sqlite.standing import Doubt


class Connected:
    """The file at `path`, for writing; used by one thread at a time. `now` gives nanoseconds since the epoch.

    `on_change` is called where what was read of the schema may be wrong: it was rolled back, or it is another file.
    """

    def __init__(
        self, path: Path, *, busy_timeout: float, now: Callable[[], int], on_change: Callable[[], object]
    ) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._now = now
        self._on_change = on_change
        self.connection: sqlite3.Connection | None = None
        self._files: Standing | None = None
        """As they stood after our last commit."""
        self._doubt: Doubt = None
        self._stored: tuple[UUID, str, int] | None = None
        """What was acknowledged last: log, subscription, next offset."""

    def note_stored(self, batch: Batch) -> None:
        """`batch` is committed."""
        self._stored = (batch.log_id, batch.subscription, batch.end)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction with the write lock from its start on: committed at the end, rolled back on any exception."""
        connection = self.connected()
        retry_while_locked(lambda: connection.execute("BEGIN IMMEDIATE"), self._busy_timeout)
        try:
            yield connection
            connection.execute("COMMIT")
            if self._files is not None:
                now = Standing.at(self._path)
                if now.is_same(self._files):
                    self._files = now
                else:
                    self._leave(connection)
        except BaseException:
            # What was read of the schema may be rolled back too, and its version be given again to another one.
            self._on_change()
            # SQLite may have rolled back by itself (a full disk); what happened first is what is raised.
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def connected(self) -> sqlite3.Connection:
        """The connection; a new one where there is none, or where the files are not as our last commit left them.

        Raises:
            sqlite3.Error: See `meaning`.
            PauseError: The file cannot be used, or was damaged.
            TransientError: What was acknowledged is not in it any more.
        """
        self._doubt = self._look_at_files() or self._doubt
        if self.connection is None:
            is_new = not Standing.at(self._path).size
            self.connection = connect(self._path, self._busy_timeout)
            self._files, found = None, Standing.at(self._path)
            try:
                if self._doubt == "shrunk":
                    self._check_pages(self.connection)
                with self.transaction() as connection:
                    make_own_tables(connection, self._now())
                if is_new:
                    # Who the destination is does not depend on the WAL alone.
                    self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                # Those beside it are there only now; what took its own place meanwhile is another one.
                self._files = Standing.at(self._path)._replace(database=found.database)
            except BaseException:
                self.disconnect(as_it_is=self._doubt is not None)
                raise
        if self._doubt is not None and self._files is not None:
            self._doubt = None
            self._check_stored(self.connection)
        return self.connection

    def _look_at_files(self) -> Doubt:
        """Disconnect where they are not as we left them; what another program may have done to them."""
        connection, before = self.connection, self._files
        if connection is None or before is None:
            return None
        now = Standing.at(self._path)
        if not now.is_same(before):
            self._leave(connection)
            return None
        if (doubt := now.doubt(before)) is not None:
            self.disconnect(as_it_is=True)
        return doubt

    def _check_pages(self, connection: sqlite3.Connection) -> None:
        """Raise PauseError where pages lack. It takes as long as reading the file."""
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            why = " ".join(found.split())
            raise PauseError(f"{self._path}: another program has cut it, and it is malformed: {why}")

    def _check_stored(self, connection: sqlite3.Connection) -> None:
        """Whatever was done to the files: what was acknowledged last is there, and so is all before it.

        Raises:
            TransientError: It is not: to be asked where to go on.
        """
        stored, self._stored = self._stored, None
        if stored is None:
            return
        log_id, subscription, end = stored
        stands = next_of(connection, log_id, subscription)
        if stands is None or stands < end:
            raise TransientError(
                f"{self._path}: another program has cut or overwritten it, or its WAL: {subscription!r} was at {end},"
                f" and is at {stands or 0}"
            )
        self._stored = stored

    def _leave(self, connection: sqlite3.Connection) -> None:
        """Disconnect from a file that was moved, or whose WAL was left behind or deleted.

        What is in the WAL belongs into the file, and a new file at the same place would take it away. To go on would
        mean to write where no reader looks.
        """
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.disconnect()

    def disconnect(self, *, as_it_is: bool = False) -> None:
        """Close the connection; `as_it_is`: what it would write of the WAL into the file may be wrong."""
        connection, self.connection = self.connection, None
        self._on_change()
        if connection is None:
            return
        now, before = Standing.at(self._path), self._files
        if as_it_is or (before is not None and now.is_same(before) and now.doubt(before) is not None):
            close_as_it_is(connection, self._path)
        else:
            connection.close()
