"""Tables with a layout: how they are made, and the rows of one, a column at a time.

    column of a layout     declared               holds
    uuid                   TEXT UUID              its text
    text, varchar          TEXT, VARCHAR(length)
    boolean                BOOLEAN                0 or 1
    smallint … bigint      INTEGER
    real, double           REAL
    timestamptz            INTEGER TIMESTAMP_NS   nanoseconds since the epoch, UTC
    json, jsonb            TEXT JSON              JSON text
    a ColumnType           as `columns.py` says
    GENERATED              INTEGER PRIMARY KEY AUTOINCREMENT

A table that another program has made may declare them otherwise, as long as SQLite keeps what is written as it is: see
https://www.sqlite.org/datatype3.html#determination_of_column_affinity.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from eventrec import GENERATED, TIMESTAMP, ColumnType
from eventrec_handlers._sql import converted, ids_to_keep, json_text, quoted, refuse_laid_out, text
from eventrec_handlers.sqlite.columns import STORED, Rows
from eventrec_handlers.sqlite.file import free_name

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

    from eventrec import Layout, LayoutColumn, LayoutRows, LayoutType
    from eventrec_handlers._sql import Convert, Refusals, TablePlan


def _in_64_bits(moment: int) -> int:
    if -(2**63) <= moment < 2**63:
        return moment
    raise ValueError("a moment is from the year 1677 to 2262, in nanoseconds of 64 bits")


_WORDS: Final[Mapping[LayoutType, tuple[str, Convert | None]]] = {
    "uuid": ("TEXT UUID", lambda value: str(UUID(bytes=value))),
    "text": ("TEXT", text),
    "varchar": ("VARCHAR", text),
    "boolean": ("BOOLEAN", None),
    "smallint": ("INTEGER", None),
    "integer": ("INTEGER", None),
    "bigint": ("INTEGER", None),
    "real": ("REAL", None),
    "double": ("REAL", None),
    "timestamptz": ("INTEGER TIMESTAMP_NS", _in_64_bits),
    "json": ("TEXT JSON", json_text),
    "jsonb": ("TEXT JSON", json_text),
}

_NOW: Final = "(CAST(strftime('%s', 'now') AS INTEGER) * 1000000000)"


def declared_as(column: LayoutColumn) -> str:
    """The type that `column` is declared as."""
    if isinstance(column.type, ColumnType):
        return STORED[column.type][0]
    declared = _WORDS[column.type][0]
    return declared if column.length is None else f"{declared}({column.length})"


def converter(column: LayoutColumn) -> Convert | None:
    """How a kept value becomes one that SQLite takes; None: it does as it is."""
    if isinstance(column.type, ColumnType):
        return STORED[column.type][1]
    return None if column.source == TIMESTAMP else _WORDS[column.type][1]  # the time of a record has 64 bits


# -- making the table -------------------------------------------------------------------------------------------------


def create_table(layout: Layout) -> str:
    """The statement that makes the table, where there is none."""
    parts = [_definition(column) for column in layout.columns]
    generated = layout.column_of(GENERATED)
    if layout.primary_key and (generated is None or generated.name not in layout.primary_key):
        key = ", ".join(map(quoted, layout.primary_key))
        parts.append(f"{'PRIMARY KEY' if generated is None else 'UNIQUE'} ({key})")
    return f"CREATE TABLE IF NOT EXISTS {quoted(layout.table)} ({', '.join(parts)})"


def create_index(layout: Layout, number: int, name: str) -> str | None:
    """The statement that makes an index of the layout as `name`, if it is missing; None: SQLite has no such kind."""
    index = layout.indexes[number]
    if index.kind != "ordered":
        return None
    columns = ", ".join(f"{quoted(column)}{' DESC' * (column in index.descending)}" for column in index.columns)
    where = " AND ".join(f"{quoted(column)} IS NOT NULL" for column in index.where_not_null)
    return (
        f"CREATE INDEX IF NOT EXISTS {quoted(name)} ON {quoted(layout.table)} ({columns}){where and f' WHERE {where}'}"
    )


def add_column(layout: Layout, name: str) -> str:
    """The statement that gives the table the column `name` of its layout."""
    column = layout.column(name)
    if column.default is None:
        # Rows that are there have no value.
        return f"ALTER TABLE {quoted(layout.table)} ADD COLUMN {quoted(name)} {declared_as(column)}"
    return f"ALTER TABLE {quoted(layout.table)} ADD COLUMN {_definition(column)}"


def layout_statements(layout: Layout) -> list[str]:
    """All statements that make the table and its indexes, where neither is there."""
    indexes = (create_index(layout, number, index.name) for number, index in enumerate(layout.indexes))
    return [create_table(layout), *(statement for statement in indexes if statement is not None)]


def layout_changes(connection: sqlite3.Connection, layout: Layout, plan: TablePlan) -> Iterator[str]:
    """The statements that do what `plan` asks for; in a transaction."""
    if plan.create is not None:
        yield create_table(layout)
        for number, index in enumerate(layout.indexes):
            statement = create_index(layout, number, free_name(connection, index.name))
            if statement is not None:
                yield statement
    for name, _ in plan.add:
        yield add_column(layout, name)


def _definition(column: LayoutColumn) -> str:
    name = quoted(column.name)
    if column.source == GENERATED:
        return f"{name} INTEGER PRIMARY KEY AUTOINCREMENT"
    default = "" if column.default is None else f" DEFAULT {_literal(column)}"
    return f"{name} {declared_as(column)}{' NOT NULL' * (not column.nullable)}{default}"


def _literal(column: LayoutColumn) -> str:
    value = column.default
    if column.source == TIMESTAMP:
        return _NOW
    if isinstance(value, bool):
        return str(int(value))
    return literal(value) if isinstance(value, str) else repr(value)


def literal(text: str) -> str:
    """`text` as a literal of SQLite."""
    return "'" + text.replace("'", "''") + "'"


# -- what a table that is there can hold ------------------------------------------------------------------------------

_TEXTS: Final = frozenset({"uuid", "text", "varchar", "json", "jsonb"})
_NUMBERS: Final = frozenset({"boolean", "smallint", "integer", "bigint", "timestamptz"})


def conflict(column: LayoutColumn, declared: str) -> str | None:
    """Why a column that is `declared` so does not keep what is written to `column` as it is; None: it does."""
    affinity = _affinity(declared)
    word = column.word
    if affinity == "BLOB" or word is None:
        return None
    if word in _TEXTS:
        # A number in a text would become one there; a UUID and an object never look like one.
        fits = affinity == "TEXT" or word == "uuid" or column.source.kind in {"event", "context"}
    elif word in _NUMBERS:
        fits = affinity in {"INTEGER", "NUMERIC"}
    else:
        fits = affinity in {"REAL", "NUMERIC", "INTEGER"}
    return None if fits else f"the table declares it {declared or 'without a type'}"


def _affinity(declared: str) -> str:
    upper = declared.upper()
    for parts, affinity in (
        (("INT",), "INTEGER"),
        (("CHAR", "CLOB", "TEXT"), "TEXT"),
        (("BLOB",), "BLOB"),
        (("REAL", "FLOA", "DOUB"), "REAL"),
    ):
        if any(part in upper for part in parts):
            return affinity
    return "NUMERIC" if upper and upper != "ANY" else "BLOB"


# -- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LaidOut(Rows):
    """The rows of a table with a layout."""

    rows: LayoutRows

    @property
    def layout(self) -> Layout:
        """How the table is made."""
        return self.rows.layout

    @classmethod
    def of_layout(cls, rows: LayoutRows, refusals: Refusals) -> LaidOut:
        """The `rows`; what does not fit is noted in `refusals`."""
        for offset, why in rows.refused.items():
            refusals.add(offset, why)
        wanted = tuple((column.name, declared_as(column)) for column in rows.columns)
        values: list[Sequence[Any]] = list(rows.values)
        made = cls(rows.layout.table, (), wanted, values, rows.offsets, ids_to_keep(rows), rows)
        for i, column in enumerate(rows.columns):
            convert = converter(column)
            if convert is not None:
                values[i], failed = converted(values[i], convert)
                for row, (value, why) in failed.items():
                    made.refuse_value(refusals, row, i, value, why)
        return made

    def refuse_value(self, refusals: Refusals, row: int, i: int, value: object, why: str) -> None:
        refuse_laid_out(
            self.rows, refusals, row, self.rows.columns[i], value=value, declared=self.wanted[i][1], why=why
        )

    def only(self, kept: Sequence[bool]) -> LaidOut:
        """Those rows for which `kept` is true; what does not fit is known already."""
        return LaidOut(
            self.table,
            (),
            self.wanted,
            [list(compress(values, kept)) for values in self.values],
            list(compress(self.offsets, kept)),
            list(compress(self.kept_ids, kept)),
            self.rows.only(kept),
        )
