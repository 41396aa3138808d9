"""Our own tables in the file: made, and looked at where another program has made or changed them.

eventrec_checkpoints   log_id, subscription, next, retired_at: one row for each log and subscription
eventrec_destination   id: one row, made once
eventrec_layouts       table_name, layout: one row for each table with a layout; made with the first
eventrec_seen          table_name, id, seen_at: ids of records in tables that do not hold them; made with the first
eventrec_rollups       what was declared of each rollup that is refreshed, and how far it is: see `rollups/tables.py`
eventrec_dirty         mark, rows: marks of what arrived, see `marks.py`; made with the first such rollup, as are
eventrec_pending       rollup, bucket, rows, stamp: what follows from these marks, and
eventrec_floors        one row for each table of such rollups: what is older than kept_from may have been removed
eventrec_zones         rollup, fingerprint, rules, kept_to: by which rules of its zone a rollup was counted, and up to
                       where its rows stay
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import uuid4

from eventrec import PauseError
from eventrec_handlers._sql import LAYOUTS, SEEN, quoted
from eventrec_handlers.sqlite.file import read_table

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping
    from uuid import UUID

RETIRED_KEPT: Final = 30 * 86_400 * 1_000_000_000
"""How long the row of a finished log still answers `resume`, in nanoseconds."""

DIRTY: Final = "eventrec_dirty"
PENDING: Final = "eventrec_pending"
ROLLUPS: Final = "eventrec_rollups"
FLOORS: Final = "eventrec_floors"
ZONES: Final = "eventrec_zones"
OF_ROLLUPS: Final = (DIRTY, PENDING, ROLLUPS, FLOORS, ZONES)

_CHECKPOINTS: Final = "eventrec_checkpoints"
_DESTINATION: Final = "eventrec_destination"

_COLUMNS: Final = {
    _CHECKPOINTS: {"log_id", "subscription", "next", "retired_at"},
    _DESTINATION: {"id"},
    LAYOUTS: {"table_name", "layout"},
    SEEN: {"table_name", "id", "seen_at"},
    DIRTY: {"mark", "rows"},
    PENDING: {"rollup", "bucket", "rows", "stamp"},
    ROLLUPS: {
        *("name", "table_name", "fingerprint", "version", "unit", "every", "zone"),
        *("lag", "refresh_every", "filled_to", "late_rows", "refreshed_at"),
    },
    FLOORS: {"table_name", "kept_from", "number", "time", "noted", "noted_time"},
    ZONES: {"rollup", "fingerprint", "rules", "kept_to"},
}
_KEYS: Final = {
    _CHECKPOINTS: ("log_id", "subscription"),
    SEEN: ("table_name", "id"),
    PENDING: ("rollup", "bucket"),
    ROLLUPS: ("name",),
    FLOORS: ("table_name",),
    ZONES: ("rollup",),
}
"""Columns of which no two rows may have the same values: without that, they may say different things."""

OWN_TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    _CHECKPOINTS: (
        (
            "CREATE TABLE IF NOT EXISTS eventrec_checkpoints (log_id TEXT NOT NULL, subscription TEXT NOT NULL,"
            " next INTEGER NOT NULL, retired_at INTEGER, PRIMARY KEY (log_id, subscription)) WITHOUT ROWID"
        ),
    ),
    _DESTINATION: ("CREATE TABLE IF NOT EXISTS eventrec_destination (id TEXT NOT NULL)",),
    LAYOUTS: (
        (
            f"CREATE TABLE IF NOT EXISTS {LAYOUTS} (table_name TEXT NOT NULL PRIMARY KEY, layout TEXT NOT NULL)"
            " WITHOUT ROWID"
        ),
    ),
    SEEN: (
        (
            f"CREATE TABLE IF NOT EXISTS {SEEN} (table_name TEXT NOT NULL, id TEXT NOT NULL, seen_at INTEGER NOT NULL,"
            " PRIMARY KEY (table_name, id)) WITHOUT ROWID"
        ),
        f"CREATE INDEX IF NOT EXISTS {SEEN}_seen_at ON {SEEN} (seen_at)",
    ),
    DIRTY: (f"CREATE TABLE IF NOT EXISTS {DIRTY} (mark INTEGER PRIMARY KEY, rows INTEGER NOT NULL)",),
    PENDING: (
        (
            f"CREATE TABLE IF NOT EXISTS {PENDING} (rollup TEXT NOT NULL, bucket INTEGER NOT NULL,"
            " rows INTEGER NOT NULL, stamp INTEGER NOT NULL, PRIMARY KEY (rollup, bucket)) WITHOUT ROWID"
        ),
    ),
    ROLLUPS: (
        (
            f"CREATE TABLE IF NOT EXISTS {ROLLUPS} (name TEXT NOT NULL PRIMARY KEY, table_name TEXT NOT NULL,"
            " fingerprint TEXT NOT NULL, version INTEGER NOT NULL, unit TEXT NOT NULL, every INTEGER NOT NULL,"
            " zone TEXT NOT NULL, lag REAL NOT NULL, refresh_every REAL NOT NULL, filled_to INTEGER NOT NULL,"
            " late_rows INTEGER NOT NULL DEFAULT 0, refreshed_at INTEGER NOT NULL"
            " DEFAULT (CAST(strftime('%s', 'now') AS INTEGER) * 1000000000)) WITHOUT ROWID"
        ),
    ),
    FLOORS: (
        (
            f"CREATE TABLE IF NOT EXISTS {FLOORS} (table_name TEXT NOT NULL PRIMARY KEY, kept_from INTEGER NOT NULL,"
            " number TEXT NOT NULL, time TEXT NOT NULL, noted INTEGER NOT NULL, noted_time) WITHOUT ROWID"
        ),
    ),
    ZONES: (
        (
            f"CREATE TABLE IF NOT EXISTS {ZONES} (rollup TEXT NOT NULL PRIMARY KEY, fingerprint TEXT NOT NULL,"
            " rules TEXT NOT NULL, kept_to INTEGER) WITHOUT ROWID"
        ),
    ),
}
"""What makes each: by the handler, or by a migration."""

ALWAYS: Final = (_CHECKPOINTS, _DESTINATION)
"""Those that every destination has; the others are made when they are needed."""


def make_own_tables(connection: sqlite3.Connection, now: int) -> None:
    """Make what is missing of our own first two tables, look at all of them, and sweep what was retired long ago.

    In a transaction; `now` is in nanoseconds since the epoch.

    Raises:
        PauseError: Something else has the name of one of them.
    """
    check_own_tables(connection)
    for name in ALWAYS:
        make_own_table(connection, name)
    connection.execute(
        "INSERT INTO eventrec_destination (id) SELECT ?"
        " WHERE NOT EXISTS (SELECT 1 FROM eventrec_destination WHERE typeof(id) = 'text')",
        (str(uuid4()),),
    )
    connection.execute("DELETE FROM eventrec_checkpoints WHERE retired_at < ?", (now - RETIRED_KEPT,))


def check_own_tables(connection: sqlite3.Connection) -> None:
    """Look at those of our own tables that are there.

    Raises:
        PauseError: Something else has the name of one of them.
    """
    for name, columns in _COLUMNS.items():
        table = read_table(connection, name)
        if table.kind is not None and (table.kind != "table" or not columns <= set(table.columns or ())):
            raise PauseError(f"{name} is a {table.kind} of another program: rename it, or give another file")
        if name in _KEYS and table.kind is not None and not _has_key(connection, name, _KEYS[name]):
            raise PauseError(f"{name} has no unique key ({', '.join(_KEYS[name])}): rename it, or give another file")


def has_own_table(connection: sqlite3.Connection, name: str) -> bool:
    """Whether `name` of our own tables is there, and not something else of that name."""
    table = read_table(connection, name)
    return table.kind == "table" and _COLUMNS[name] <= set(table.columns or ())


def make_own_table(connection: sqlite3.Connection, name: str) -> None:
    """Make `name` of our own tables, if it is missing; in a transaction."""
    for sql in OWN_TABLES[name]:
        connection.execute(sql)


def _has_key(connection: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> bool:
    """Whether no two rows may have the same values in `columns`, each compared byte by byte."""
    key = {(column, "BINARY") for column in columns}
    for _, index, is_unique, _, is_partial in connection.execute(f"PRAGMA index_list({quoted(table)})").fetchall():
        found = connection.execute(f"PRAGMA index_xinfo({quoted(index)})").fetchall()
        if is_unique and not is_partial and {(row[2], row[4].upper()) for row in found if row[5]} == key:
            return True
    return False


def next_of(connection: sqlite3.Connection, log_id: UUID, subscription: str) -> int | None:
    """The stored checkpoint; None: there is none.

    Raises:
        PauseError: Another program has stored something else there.
    """
    found = connection.execute(
        "SELECT next FROM eventrec_checkpoints WHERE log_id = ? AND subscription = ?", (str(log_id), subscription)
    ).fetchone()
    if found is None:
        return None
    (stands,) = found
    if not isinstance(stands, int) or stands < 0:
        raise PauseError(f"eventrec_checkpoints holds {stands!r} as next of {subscription!r} in the log {log_id}")
    return stands
