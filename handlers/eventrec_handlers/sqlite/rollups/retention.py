"""The floor of a table: the moment before which its events may be removed, because every rollup has counted them.

It is raised in the transaction that removes events, and only as far as no bucket waits: what a rollup lacks is never
removed. From then on buckets that begin before it are never computed again, whatever arrives for them.

SQLite compares any value with any other, so a row goes only if its time is stored as we write it: an INTEGER, and one
that is too large to be seconds, milliseconds or microseconds since the epoch, as other programs write them.
"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING, Final

from eventrec import TIMESTAMP, TYPE
from eventrec_handlers._sql import fold_ascii, quoted
from eventrec_handlers._sql.refreshing import QUARTER
from eventrec_handlers._thread import check_cancelled
from eventrec_handlers.sqlite.file import is_about_statement, table_columns
from eventrec_handlers.sqlite.layouts import conflict, declared_as
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

_LARGEST: Final = 2**63 - 1
_OTHER_UNITS: Final = _LARGEST // 1_000
"""Up to here a number may be any moment to the year 2262 in microseconds, or in a coarser unit."""

_OURS: Final = (f"{{at}} > {_OTHER_UNITS}", f"{{at}} < -{_OTHER_UNITS}")
_NOT_OURS: Final = (f"{{at}} BETWEEN -{_OTHER_UNITS} AND {_OTHER_UNITS}", f"{{at}} > {_LARGEST}")
"""Texts and BLOBs are larger than any number."""


class Retention:
    """Removes the old events of one table; the connection is in no transaction. `seconds` are waited for a lock."""

    def __init__(self, connection: sqlite3.Connection, columns: Columns, *, seconds: float) -> None:
        self._connection = connection
        self._columns = columns
        self._table = columns.layout.table
        self._time = quoted(columns.time)
        self._kind = _leading(connection, columns)
        self._seconds = seconds

    def delete_old(self, before: int, *, now: int) -> list[str]:
        """Delete what is older than `before`, once every rollup has counted it; what an operator should know.

        Between two slices the file is left to others.
        """
        number = self._row_number()
        if number is None:
            return [f"table {self._table!r}: its rows have no numbers, so what is too old is not deleted"]
        with reading(self._connection):
            kept = self._why_kept()
        reasons = [kept]
        if kept is None:
            reasons = [self._delete_all(before, now=now, number=number)]
            with reading(self._connection):
                reasons.append(self._why_others_stay(number))
        return [f"table {self._table!r}: {why}" for why in reasons if why is not None]

    def _why_kept(self) -> str | None:
        """Why no row may be deleted; None: they may be."""
        column = self._columns.layout.column_of(TIMESTAMP)
        declared = self._columns.declared[fold_ascii(self._columns.time)]
        if column is not None and conflict(column, declared) is not None:
            return f"old rows are not removed: its column {column.name!r} is {declared}, not {declared_as(column)}"
        referring = _referring(self._connection, self._table)
        return None if referring is None else f"old rows are not removed: rows of {referring!r} refer to them"

    def _why_others_stay(self, number: str) -> str | None:
        """Why there are rows of which it is not known how old they are; None: there are none."""
        if not any(self._found(number, where, 1) for where in _NOT_OURS):
            return None
        return (
            f"rows are not removed whose {self._columns.time!r} is not an INTEGER, or is too small for nanoseconds"
            " since the epoch (1969-09-16 to 1970-04-17)"
        )

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
            f"DELETE FROM {quoted(self._table)} WHERE {number} = ?"  # noqa: S608 - quoted
            f" AND {self._time} < ? AND {_is_ours(self._time)}",
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
        found: list[int] = []
        for ours in _OURS:
            if len(found) == limit:  # Without an index, the other kind would be looked for in all rows.
                break
            where = f"{ours} AND {{at}} < {end} AND typeof({{at}}) = 'integer'"
            found += self._found(number, where, limit - len(found))
        return found

    def _found(self, number: str, where: str, limit: int) -> list[int]:
        """The numbers of at most so many rows of which `where` is true, with their time as `{at}`."""
        table, at = quoted(self._table), self._time
        found = f"SELECT {number} FROM {table} WHERE {where.format(at=at)}"  # noqa: S608 - quoted
        if self._kind is not None:
            # Each type by itself: the index begins with it.
            found = (
                f"WITH RECURSIVE kinds (kind) AS (SELECT (SELECT min({self._kind}) FROM {table})"  # noqa: S608 - quoted
                f" UNION ALL SELECT (SELECT min({self._kind}) FROM {table} WHERE {self._kind} > kinds.kind)"
                " FROM kinds WHERE kinds.kind IS NOT NULL)"
                f" SELECT known.{number} FROM kinds CROSS JOIN {table} AS known"
                f" WHERE known.{self._kind} = kinds.kind AND {where.format(at=f'known.{at}')}"
            )
        return [row for (row,) in self._connection.execute(f"{found} LIMIT {limit}")]

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


def _is_ours(at: str) -> str:
    """SQL for whether a time is stored as we write it."""
    return f"typeof({at}) = 'integer' AND ({' OR '.join(where.format(at=at) for where in _OURS)})"


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
