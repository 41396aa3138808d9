"""Reads the newest events of a file, and those that follow, beside the writers."""

from __future__ import annotations

import heapq
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from eventrec_handlers._sql import fold_ascii, quoted
from eventrec_handlers.sqlite.columns import REQUIRED
from eventrec_handlers.sqlite.file import columns_of, is_reserved

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

TailCursor: TypeAlias = "Mapping[str, int]"
"""How far a reader has come: table to the last row number it has seen. To be handed back as it is."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One row as it is stored: `timestamp` in ns, `payload` and `context` as JSON text, `columns` the extra ones."""

    table: str
    id: str
    type: str
    timestamp: int
    payload: str
    context: str | None
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tail:
    """Events, the older ones first, and the cursor to ask with for those that follow."""

    events: tuple[StoredEvent, ...]
    cursor: TailCursor


def read_tail(path: Path, *, busy_timeout: float, after: TailCursor | None, limit: int) -> Tail:
    """See `SqliteHandler.tail`.

    Raises:
        sqlite3.Error: The file cannot be read.
    """
    if limit < 0:
        raise ValueError(f"limit must not be negative, got {limit}")
    uri = f"file:{quote(os.fsencode(path))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=busy_timeout, isolation_level=None)) as connection:
        connection.text_factory = lambda raw: raw.decode(errors="replace")
        connection.execute("BEGIN")  # one snapshot for all tables
        parts = [
            _part(connection, table, number, None if after is None else after.get(table, 0), limit)
            for table, number in _event_tables(connection)
        ]
    cursor = {part.table: part.last for part in parts}
    merged = list(heapq.merge(*(part.rows for part in parts), key=lambda row: row[1].timestamp))
    if after is None:
        return Tail(tuple(event for _, event in merged[-limit:]), cursor)
    for number, event in merged[:limit]:
        cursor[event.table] = number
    return Tail(tuple(event for _, event in merged[:limit]), cursor)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one table has to offer: rows in the order of their numbers, and the number to go on from without them."""

    table: str
    last: int
    rows: list[tuple[int, StoredEvent]]


def _part(connection: sqlite3.Connection, table: str, number: str, after: int | None, limit: int) -> _Part:
    name = quoted(table)
    if after is None:
        (newest,) = connection.execute(f"SELECT max({number}) FROM {name}").fetchone()  # noqa: S608 - quoted
        found = connection.execute(
            f"SELECT {number}, * FROM {name} ORDER BY {number} DESC LIMIT ?",  # noqa: S608 - quoted
            (limit,),
        )
        return _Part(table, newest or 0, _rows(table, found)[::-1])
    found = connection.execute(
        f"SELECT {number}, * FROM {name} WHERE {number} > ? ORDER BY {number} LIMIT ?",  # noqa: S608 - quoted
        (after, limit),
    )
    return _Part(table, after, _rows(table, found))


def _rows(table: str, found: sqlite3.Cursor) -> list[tuple[int, StoredEvent]]:
    names = [description[0] for description in found.description][1:]
    rows = []
    for number, *values in found:
        row: dict[str, Any] = dict(zip(names, values, strict=True))
        base = {name: row.pop(name) for name in REQUIRED}
        rows.append((number, StoredEvent(table=table, **base, context=row.pop("context", None), columns=row)))
    return rows


def _event_tables(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """Tables that have our base columns, each with a name for its row number that none of its columns has taken."""
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall():
        if is_reserved(table):
            continue
        columns = columns_of(connection, table)
        free = [name for name in ("rowid", "oid", "_rowid_") if name not in map(fold_ascii, columns)]
        if columns.keys() >= set(REQUIRED) and free and _has_row_numbers(connection, table, free[0]):
            yield table, free[0]


def _has_row_numbers(connection: sqlite3.Connection, table: str, number: str) -> bool:
    try:
        connection.execute(f"SELECT {number} FROM {quoted(table)} LIMIT 0")  # noqa: S608 - quoted
    except sqlite3.OperationalError:
        return False  # made by somebody else, WITHOUT ROWID
    return True
