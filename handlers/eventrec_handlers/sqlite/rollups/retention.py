"""The floor of a table: the moment before which its events may be removed, because every rollup has counted them.

It is raised in the transaction that removes events, and only as far as no bucket waits: what a rollup lacks is never
removed. From then on buckets that begin before it are never computed again, whatever arrives for them.
"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING, Final

from eventrec import TYPE
from eventrec_handlers._sql import fold_ascii, quoted
from eventrec_handlers._sql.refreshing import QUARTER
from eventrec_handlers._thread import check_cancelled
from eventrec_handlers.sqlite.file import is_about_statement, table_columns
from eventrec_handlers.sqlite.marks import EARLIEST, LATEST, Arrivals
from eventrec_handlers.sqlite.own_tables import FLOORS, PENDING, has_own_table
from eventrec_handlers.sqlite.rollups.computing import has_index
from eventrec_handlers.sqlite.rollups.registry import floor_of, is_marked, registered_of
from eventrec_handlers.sqlite.rollups.zones import note_floor
from eventrec_handlers.sqlite.transactions import reading, writing

if TYPE_CHECKING:
    from eventrec_handlers.sqlite.rollups.fields import Columns

SLICE: Final = 1_000
"""Rows deleted in one transaction."""


class Retention:
    """Removes the old events of one table; the connection is in no transaction. `seconds` are waited for a lock."""

    def __init__(self, connection: sqlite3.Connection, columns: Columns, *, seconds: float) -> None:
        self._connection = connection
        self._table = columns.layout.table
        self._time = quoted(columns.time)
        self._kind = _leading(connection, columns)
        self._seconds = seconds

    def delete_old(self, before: int, *, now: int) -> list[str]:
        """Delete what is older than `before`, once every rollup has counted it; what an operator should know.

        Between two slices the file is left to others.
        """
        number = self._row_number()
        why: str | None = "its rows have no numbers, so what is too old is not deleted"
        if number is not None:
            with reading(self._connection):
                referring = _referring(self._connection, self._table)
            why = f"old rows are not removed: rows of {referring!r} refer to them"
            if referring is None:
                why = self._delete_all(before, now=now, number=number)
        return [] if why is None else [f"table {self._table!r}: {why}"]

    def _delete_all(self, before: int, *, now: int, number: str) -> str | None:
        deleted = 1
        while deleted:
            check_cancelled()
            begun = time.monotonic()
            try:
                deleted = self.delete_slice(before, now=now, number=number)
            except (sqlite3.IntegrityError, sqlite3.OperationalError, _RefusedError) as exc:
                if isinstance(exc, sqlite3.OperationalError) and not is_about_statement(exc):
                    raise
                return f"old rows are not removed: {exc}"
            time.sleep(time.monotonic() - begun if deleted else 0)
        with reading(self._connection):
            needed = first_needed(self._connection, self._table, now=now)
            is_kept = needed is not None and needed[0] < before and bool(self._old(before, number, 1))
        return needed[1] if needed is not None and is_kept else None

    def delete_slice(self, before: int, *, now: int, number: str) -> int:
        """Delete some of them; how many."""
        with reading(self._connection):
            end = self._end(before, now)
            old = self._old(end, number, SLICE)
        if not old or end <= EARLIEST:
            return 0
        with writing(self._connection, self._seconds):
            # Marked meanwhile, a bucket is needed again.
            end = self._end(before, now)
            set_floor(self._connection, self._table, end)
            deleted = self._delete(old, end, number)
            if not deleted:  # another process has done it, or none can
                old = self._old(end, number, SLICE)
                deleted = self._delete(old, end, number)
                if old and not deleted:
                    raise _RefusedError("the file lets none of them be deleted: see its triggers")
        return deleted

    def _delete(self, rows: list[int], end: int, number: str) -> int:
        return self._connection.executemany(
            f"DELETE FROM {quoted(self._table)} WHERE {number} = ? AND {self._time} < ?",  # noqa: S608 - quoted
            [(row, end) for row in rows],
        ).rowcount

    def _end(self, before: int, now: int) -> int:
        """Where the floor may be: at a whole quarter of an hour. What one mark is about is below it, or above."""
        needed = first_needed(self._connection, self._table, now=now)
        if needed is None:
            return before
        end = min(before, needed[0])
        return end - end % QUARTER

    def _old(self, end: int, number: str, limit: int) -> list[int]:
        """The numbers of at most so many rows that are older than `end`."""
        table, at = quoted(self._table), self._time
        found = f"SELECT {number} FROM {table} WHERE {at} < ?"  # noqa: S608 - quoted
        if self._kind is not None:
            # Each type by itself: the index begins with it.
            found = (
                f"WITH RECURSIVE kinds (kind) AS (SELECT (SELECT min({self._kind}) FROM {table})"  # noqa: S608 - quoted
                f" UNION ALL SELECT (SELECT min({self._kind}) FROM {table} WHERE {self._kind} > kinds.kind)"
                " FROM kinds WHERE kinds.kind IS NOT NULL)"
                f" SELECT known.{number} FROM kinds CROSS JOIN {table} AS known"
                f" WHERE known.{self._kind} = kinds.kind AND known.{at} < ?"
            )
        return [row for (row,) in self._connection.execute(f"{found} LIMIT {limit}", (end,))]

    def _row_number(self) -> str | None:
        """What the numbers of rows are called in SQL; None: they have none."""
        names = {fold_ascii(name) for name, _, _ in table_columns(self._connection, self._table)}
        free = next((number for number in ("rowid", "oid", "_rowid_") if number not in names), None)
        try:
            self._connection.execute(f"SELECT {free} FROM {quoted(self._table)} LIMIT 0")  # noqa: S608 - quoted
        except sqlite3.OperationalError as exc:
            if not is_about_statement(exc):
                raise
            return None
        return free


def _leading(connection: sqlite3.Connection, columns: Columns) -> str | None:
    """The column of the type in SQL, where rows are found by it first; None: not so."""
    table, kind = columns.layout.table, columns.layout.column_of(TYPE)
    if kind is None or has_index(connection, table, (columns.time,)):
        return None
    return quoted(kind.name) if has_index(connection, table, (kind.name, columns.time)) else None


class _RefusedError(Exception):
    """Old rows stay, whatever is done."""


def _referring(connection: sqlite3.Connection, table: str) -> str | None:
    """A table whose rows refer to those of `table`, by a foreign key: they would be left behind, or deleted too."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    for (name,) in tables:
        keys = connection.execute(f"PRAGMA foreign_key_list({quoted(name)})").fetchall()
        if any(fold_ascii(key[2]) == fold_ascii(table) for key in keys):
            return str(name)
    return None


def first_needed(connection: sqlite3.Connection, table: str, *, now: int) -> tuple[int, str] | None:
    """The first moment whose events a rollup of `table` still needs, and why; None: there is no rollup.

    It needs what it has not counted, and what is in a bucket that has not ended.
    """
    floor = floor_of(connection, table)
    rollups = registered_of(connection, table)
    marked = _first_arrived(connection, table, floor) if rollups else None
    needed: list[tuple[int, str]] = []
    for rollup in rollups:
        why = f"rollup {rollup.name!r} has not counted its events yet: refresh it"
        if not rollup.is_ours:
            needed.append((floor, why))
            continue
        ended = rollup.bucket.floor(now - round(rollup.lag * 1_000_000_000))
        if rollup.filled_to >= ended:
            needed.append((min(rollup.filled_to, rollup.bucket.floor(now)), _unended(rollup.name)))
        else:
            needed.append((rollup.filled_to, why))
        (waiting,) = connection.execute(
            f"SELECT min(bucket) FROM {PENDING} WHERE rollup = ? AND bucket >= ?",  # noqa: S608 - a constant
            (rollup.name, floor),
        ).fetchone()
        needed += [(waiting, why)] * (waiting is not None)
        # What arrived needs all of its bucket: not only what comes after it.
        needed += [(max(floor, rollup.bucket.floor(marked)), why)] if marked is not None else []
    return min(needed, default=None)


def _first_arrived(connection: sqlite3.Connection, table: str, floor: int) -> int | None:
    """The first quarter of an hour behind `floor` for which something has arrived; None: nothing has."""
    arrivals = Arrivals.of(connection, table)
    if arrivals is None or not is_marked(connection, table) or not arrivals.is_intact(connection):
        return floor
    return min((since for since in arrivals.quarters(connection, LATEST) if since > floor - QUARTER), default=None)


def _unended(name: str) -> str:
    return f"a bucket of rollup {name!r} has not ended"


def set_floor(connection: sqlite3.Connection, table: str, end: int) -> None:
    """Raise the floor, if the table has one: it has, once it has a rollup."""
    if has_own_table(connection, FLOORS):
        connection.execute(
            f"UPDATE {FLOORS} SET kept_from = max(kept_from, ?) WHERE table_name = ?",  # noqa: S608 - a constant
            (end, fold_ascii(table)),
        )
        note_floor(connection, table, floor_of(connection, table))
