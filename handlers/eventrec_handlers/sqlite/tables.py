"""Tables of events as they are found, and their rows as events: what other programs wrote is passed over."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from eventrec import StoredEvent
from eventrec_handlers._sql import fold_ascii, quoted
from eventrec_handlers.sqlite.columns import REQUIRED
from eventrec_handlers.sqlite.file import is_about_statement, is_reserved, table_columns

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Collection, Iterator, Sequence

Found: TypeAlias = "tuple[int, StoredEvent | str]"
"""The number of a row, and its event, or why it is not one."""

_KINDS: Final = {type(None): "NULL", bytes: "a BLOB", float: "a REAL", int: "an INTEGER", str: "a TEXT"}
_EXPECTED: Final = (("id", str), ("type", str), ("timestamp", int), ("payload", str))


@dataclass(frozen=True, slots=True)
class EventTable:
    """A table that has our base columns.

    Attributes:
        name: What it is called.
        number: A name for its row number that none of its columns has taken.
        columns: Every column; `stored` are those that are not computed.
        stored: Columns that can be read whatever their rows hold.
    """

    name: str
    number: str
    columns: tuple[str, ...]
    stored: tuple[str, ...]


def event_tables(connection: sqlite3.Connection, faults: Counter[str]) -> Iterator[EventTable]:
    """The tables of events, by name: those of other programs are passed over.

    `faults` gets why a table that has our columns is not among them.
    """
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall():
        if is_reserved(name):
            continue
        try:
            columns = list(table_columns(connection, name))
            names = tuple(column for column, _, _ in columns)
            free = [number for number in ("rowid", "oid", "_rowid_") if number not in map(fold_ascii, names)]
            if not set(names) >= set(REQUIRED):
                continue
            if not free:
                faults[f"table {name!r}: its row numbers have no name left"] += 1
                continue
            stored = tuple(column for column, _, is_computed in columns if not is_computed)
            table = EventTable(name, free[0], names, stored)
            connection.execute(f"SELECT {_selected(table, stored)} FROM {quoted(name)} LIMIT 0")  # noqa: S608 - quoted
        except sqlite3.OperationalError as exc:
            if not is_about_statement(exc):
                raise
            # Made by another program WITHOUT ROWID, with as many columns as there may be (the number is one more), or a
            # virtual one whose module is not there.
            faults[f"table {name!r} cannot be read in order: {exc}"] += 1
        else:
            yield table


def _selected(table: EventTable, columns: Sequence[str]) -> str:
    return ", ".join([table.number, *map(quoted, columns)])


def rows(
    connection: sqlite3.Connection,
    table: EventTable,
    *,
    types: Collection[str] | None,
    where: str = "1",
    values: Sequence[int] = (),
    order: str,
) -> Iterator[Found]:
    """The rows of `table`, one after the other as they are asked for; only of `types`, if given."""
    kinds = None if types is None else sorted(types)
    if kinds is not None:
        where += f" AND type IN ({', '.join('?' * len(kinds))})"
    wanted = [*values, *(kinds or ())]
    last: int | None = None
    for columns in (table.columns, table.stored):
        selected = _selected(table, columns)
        select = f"SELECT {selected} FROM {quoted(table.name)} WHERE {where} ORDER BY {order}"  # noqa: S608 - quoted
        skips = last is not None
        try:
            for number, *found in connection.execute(select, wanted):
                if skips:
                    skips = number != last
                    continue
                last = number
                yield number, _event(table.name, dict(zip(columns, found, strict=True)))
        except sqlite3.OperationalError as exc:
            # A computed column that fails for what a row holds: that row, and those that follow, are read without.
            if not is_about_statement(exc) or columns == table.stored:
                raise
        else:
            return


def _event(table: str, row: dict[str, Any]) -> StoredEvent | str:
    base: dict[str, Any] = {}
    for name, kind in _EXPECTED:
        base[name] = row.pop(name)
        if not isinstance(base[name], kind):
            return f"table {table!r}: its {name} is {_KINDS[type(base[name])]}"
    context = row.pop("context", None)
    if not isinstance(context, str | None):
        return f"table {table!r}: its context is {_KINDS[type(context)]}"
    return StoredEvent(table=table, **base, context=context, columns=row)
