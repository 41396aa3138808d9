"""Tables of events as they are found, and their rows as events: what other programs wrote is passed over."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from eventrec import EVENT, ID, PAYLOAD, TIMESTAMP, TYPE, LayoutError, StoredEvent
from eventrec_handlers._sql import fold_ascii, quoted
from eventrec_handlers.sqlite.columns import REQUIRED, base_name
from eventrec_handlers.sqlite.file import is_about_statement, is_about_table, is_reserved, table_columns

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Collection, Iterator, Sequence

    from eventrec import Layout, LayoutSource
    from eventrec_handlers._sql import KeptLayouts

T = TypeVar("T")

Found: TypeAlias = "tuple[int, StoredEvent | str]"
"""The number of a row, and its event, or why it is not one."""

_KINDS: Final = {type(None): "NULL", bytes: "a BLOB", float: "a REAL", int: "an INTEGER", str: "a TEXT"}
_EXPECTED: Final = (("id", str), ("type", str), ("timestamp", int), ("payload", str))


@dataclass(frozen=True, slots=True)
class EventTable:
    """A table that has our base columns, or those of its layout.

    Attributes:
        name: What it is called.
        number: A name for its row number that none of its columns has taken.
        columns: Every column; `stored` are those that are not computed.
        stored: Columns that can be read whatever their rows hold.
        layout: Where what stands; None: as in tables of ours.
    """

    name: str
    number: str
    columns: tuple[str, ...]
    stored: tuple[str, ...]
    layout: Layout | None = None

    @property
    def has_stored_events(self) -> bool:
        """Whether no column that an event is made of is computed."""
        needed = REQUIRED if self.layout is None else (column.name for column in self.layout.columns)
        return {*needed} <= {*self.stored}

    @property
    def id(self) -> str:
        """SQL for the id of a row."""
        if self.layout is None:
            return "id"
        column = self.layout.column_of(ID)
        return f"({_literal(self.name)} || ':' || {self.number})" if column is None else quoted(column.name)

    @property
    def type(self) -> str | None:
        """SQL for the type; None: no column holds it."""
        return "type" if self.layout is None else _column(self.layout, TYPE)

    @property
    def time(self) -> str:
        """SQL for the timestamp."""
        return "timestamp" if self.layout is None else _column(self.layout, TIMESTAMP) or "0"

    @property
    def payload(self) -> str:
        """SQL for what tells events apart."""
        if self.layout is None:
            return "payload"
        return _column(self.layout, PAYLOAD) or _column(self.layout, EVENT) or "''"

    def event(self, number: int, row: dict[str, Any]) -> StoredEvent | str:
        """The event of the row `number`; or why it is not one."""
        if self.layout is None:
            return _event(self.name, row)
        found = StoredEvent.of_row(self.layout, row, row=f"{self.name}:{number}")
        return f"table {self.name!r}: {found}" if isinstance(found, str) else found


def _column(layout: Layout, source: LayoutSource) -> str | None:
    found = layout.column_of(source)
    return None if found is None else quoted(found.name)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def event_tables(connection: sqlite3.Connection, layouts: KeptLayouts, faults: Counter[str]) -> Iterator[EventTable]:
    """The tables of events, by name: those of other programs are passed over.

    `faults` gets why a table that has our columns is not among them.
    """
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall():
        if is_reserved(name):
            continue
        try:
            layout = layouts.of(name)
            own_name = base_name if layout is None else str
            columns = [(own_name(column), kind, flag) for column, kind, flag in table_columns(connection, name)]
            names = tuple(column for column, _, _ in columns)
            free = [number for number in ("rowid", "oid", "_rowid_") if number not in map(fold_ascii, names)]
            if layout is None and not set(names) >= set(REQUIRED):
                continue
            if layout is not None and (why := _unreadable(layout, names)) is not None:
                faults[f"table {name!r}: {why}"] += 1
                continue
            if not free:
                faults[f"table {name!r}: its row numbers have no name left"] += 1
                continue
            stored = tuple(column for column, _, is_computed in columns if not is_computed)
            table = EventTable(name, free[0], names, stored, layout)
            connection.execute(f"SELECT {_selected(table, stored)} FROM {quoted(name)} LIMIT 0")  # noqa: S608 - quoted
        except LayoutError as exc:
            faults[f"table {name!r}: {exc}"] += 1
        except sqlite3.OperationalError as exc:
            if not is_about_statement(exc):
                raise
            # Made by another program WITHOUT ROWID, with as many columns as there may be (the number is one more), or a
            # virtual one whose module is not there.
            faults[f"table {name!r} cannot be read in order: {exc}"] += 1
        else:
            yield table


def unless_unreadable(table: EventTable, faults: Counter[str], read: Callable[[EventTable], T]) -> T | None:
    """What `read` gives of `table`; None: it cannot be read, and `faults` gets why.

    Raises:
        sqlite3.Error: It is not about this table.
    """
    try:
        return read(table)
    except sqlite3.Error as exc:
        if not is_about_table(exc):
            raise
        faults[f"table {table.name!r} cannot be read: {exc}"] += 1
        return None


def _unreadable(layout: Layout, columns: Collection[str]) -> str | None:
    """Why rows of a table with these columns are not events that `layout` describes; None: they are."""
    if layout.column_of(TIMESTAMP) is None:
        return "its layout has no column for the time, so its rows are in no order"
    lacking = [
        column.name
        for column in layout.columns
        if not column.source.path and column.source.kind in _NEEDED and column.name not in columns
    ]
    return f"it lacks {', '.join(map(repr, lacking))} of its layout" if lacking else None


_NEEDED: Final = frozenset({"id", "type", "timestamp", "payload", "event"})


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
    unasked = None
    if kinds is not None and table.type is None:
        unasked, kinds = frozenset(kinds), None
    if kinds is not None:
        where += f" AND {table.type} IN ({', '.join('?' * len(kinds))})"
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
                event = table.event(number, dict(zip(columns, found, strict=True)))
                if unasked is None or isinstance(event, str) or event.type in unasked:
                    yield number, event
        except sqlite3.Error as exc:
            # A computed column that fails for what a row holds: that row, and those that follow, are read without.
            if not is_about_table(exc) or columns == table.stored or not table.has_stored_events:
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
