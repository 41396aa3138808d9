"""Transactions on a connection of one's own: one that reads a snapshot, and one that has the write lock."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from eventrec_handlers.sqlite.file import retry_while_locked

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def reading(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that sees the file as it is when it first reads, and holds up no writer."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


@contextmanager
def writing(connection: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """A transaction with the write lock from its start on, waited for so long; rolled back by any exception."""
    retry_while_locked(lambda: connection.execute("BEGIN IMMEDIATE"), seconds)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
