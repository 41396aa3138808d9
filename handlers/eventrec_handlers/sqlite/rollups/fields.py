"""Where SQLite finds the field of a rollup, as SQL: a value of its kind, or NULL.

    what stands there    the kinds it may be
    JSON                 what its JSON type says: "5" is not 5
    a TEXT               text, uuid
    an INTEGER           integer, float; 0 and 1: boolean
    a REAL               float; integer, where it has no fraction
    anything             json: only whether it is there can be asked

What stands there is asked of each value, not of the column. No value raises an error, whatever another program has
stored: what does not fit is NULL.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from eventrec import CONTEXT, EVENT, ID, PAYLOAD, TIMESTAMP, TYPE, from_context, from_field, from_payload
from eventrec.analytics import MAX_FLOAT
from eventrec_handlers._sql import fold_ascii, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from eventrec import Layout, LayoutSource
    from eventrec.analytics import Field, Kind
    from eventrec_handlers.sqlite.file import Table

MEMBER: Final = "eventrec_member"
"""Our function that finds in JSON what SQLite's paths cannot name."""

_PLAIN: Final = re.compile(r"[ !#-\[\]-~]+")
"""Names that SQLite finds in any JSON: in others there may be escapes."""


_FORMS: Final = {ID: "text", TYPE: "text", TIMESTAMP: "integer", PAYLOAD: "text", EVENT: "text"}
"""What SQLite stores of what every event has."""

_JSON: Final = ("json", "jsonb")
_BOOLEAN: Final = "BOOLEAN"
_NUMBERS: Final = ("boolean", "integer", "float")


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table of events.

    Attributes:
        layout: What each is for.
        declared: What each is declared as, by its name with A to Z in lower case.
    """

    layout: Layout
    declared: Mapping[str, str]

    @classmethod
    def of(cls, layout: Layout, table: Table) -> Columns:
        """Those of `layout` in `table`."""
        columns = table.columns or {}
        declared = {fold_ascii(name): "" if table.is_strict else _plain(said) for name, said in columns.items()}
        for column in layout.columns:
            if column.word == _BOOLEAN.lower() and fold_ascii(column.name) in declared:
                declared[fold_ascii(column.name)] = _BOOLEAN
        return cls(layout, declared)

    @property
    def are_of_events(self) -> bool:
        """Whether the table has all that an event always has."""
        return all(self.has(column.name) for column in self.layout.columns if column.source in _FORMS)

    def is_event(self) -> Iterator[str]:
        """The conditions for rows that are events: another program may have stored anything."""
        for column in self.layout.columns:
            if column.source in _FORMS:
                yield f"typeof({quoted(column.name)}) = '{_FORMS[column.source]}'"
            elif column.source == CONTEXT and self.has(column.name):
                yield f"typeof({quoted(column.name)}) IN ('text', 'null')"

    @property
    def time(self) -> str:
        """The name of the column of the timestamp.

        Raises:
            ValueError: There is none.
        """
        return self._own(TIMESTAMP, "a timestamp")

    @property
    def type(self) -> str:
        """SQL for the type.

        Raises:
            ValueError: It is not stored.
        """
        found = self.layout.locate(TYPE)
        if found is None:
            raise ValueError(f"table {self.layout.table!r} does not store the type of an event")
        column = quoted(found.column.name)
        return _of_json(column, found.path, "text") if found.path else column

    def value(self, field: Field) -> str:
        """The value of `field` in a row, or NULL.

        Raises:
            ValueError: The table does not store it.
        """
        if field.source == "type":
            return self.type
        column, path = self._place(field)
        if not self.has(column):
            return "NULL"  # no event has brought it yet
        if field.source in {"timestamp", "id"}:
            return quoted(column)
        if path or any(each.name == column and each.word in _JSON for each in self.layout.columns):
            return _of_json(quoted(column), path, field.kind)
        declared = self.declared[fold_ascii(column)]
        # SQLite has no booleans: what a column is declared as tells them from numbers. A STRICT one cannot say it.
        if declared and field.kind in _NUMBERS and (declared == _BOOLEAN) != (field.kind == "boolean"):
            return "NULL"
        return _of_column(quoted(column), field.kind)

    def _place(self, field: Field) -> tuple[str, tuple[str, ...]]:
        """The column in which `field` stands, and the path inside its JSON."""
        match field.source:
            case "timestamp":
                return self.time, ()
            case "id":
                return self._own(ID, "the id of an event"), ()
            case "column":
                return self._column(field.path[0])
            case "payload":
                return self._located(from_payload(*field.path), field)
            case _:
                return self._located(from_context(*field.path), field)

    def has(self, column: str) -> bool:
        """Whether the table has a column of this name."""
        return fold_ascii(column) in self.declared

    def _own(self, source: LayoutSource, what: str) -> str:
        column = self.layout.column_of(source)
        if column is None:
            raise ValueError(f"table {self.layout.table!r} does not store {what}")
        return column.name

    def _column(self, name: str) -> tuple[str, tuple[str, ...]]:
        """The extra column `name` of an event, or the column of the table that is called so."""
        own = self.layout.column_of(from_field(name))
        if own is not None:
            return own.name, ()
        if self.has(name):
            return name, ()
        found = self.layout.locate(from_field(name))
        return (name, ()) if found is None else (found.column.name, found.path)

    def _located(self, source: LayoutSource, field: Field) -> tuple[str, tuple[str, ...]]:
        found = self.layout.locate(source)
        if found is None:
            raise ValueError(f"table {self.layout.table!r} does not store {field}")
        return found.column.name, found.path


def _plain(declared: str) -> str:
    return _BOOLEAN if declared.upper().startswith("BOOL") else declared


def _of_column(column: str, kind: Kind) -> str:
    return _OF_COLUMNS[kind].format(column, whole=_WHOLE.format(column))


def _of_json(column: str, path: tuple[str, ...], kind: Kind) -> str:
    document = f"CASE WHEN json_valid({column}) THEN {column} END"
    if all(_PLAIN.fullmatch(name) for name in path):
        where = _literal("$" + "".join(f'."{name}"' for name in path))
    else:
        document, where = f"{MEMBER}(CAST({column} AS BLOB), {_literal(json.dumps(path))})", "'$'"
    form, value = f"json_type({document}, {where})", f"json_extract({document}, {where})"
    return _OF_JSON[kind].format(value, form=form, whole=_WHOLE.format(value))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_EXACT: Final = 2**53
_UUID: Final = "-".join("[0-9a-fA-F]" * digits for digits in (8, 4, 4, 4, 12))
_IN_RANGE: Final = f"{{0}} BETWEEN -{MAX_FLOAT!r} AND {MAX_FLOAT!r}"

_WHOLE: Final = (
    f"CASE WHEN {{0}} > -{_EXACT} AND {{0}} < {_EXACT} AND {{0}} = CAST({{0}} AS INTEGER)"
    " THEN CAST({0} AS INTEGER) END"
)
"""A REAL as an INTEGER, if it has no fraction."""

_OF_COLUMNS: Final[Mapping[Kind, str]] = {
    "text": "CASE typeof({0}) WHEN 'text' THEN {0} END",
    "uuid": f"CASE WHEN typeof({{0}}) = 'text' AND {{0}} GLOB '{_UUID}' THEN lower({{0}}) END",
    "integer": "CASE typeof({0}) WHEN 'integer' THEN {0} WHEN 'real' THEN {whole} END",
    "float": f"CASE WHEN typeof({{0}}) IN ('integer', 'real') AND {_IN_RANGE} THEN CAST({{0}} AS REAL) END",
    "boolean": "CASE WHEN typeof({0}) = 'integer' AND {0} IN (0, 1) THEN {0} END",
    "json": "CASE WHEN {0} IS NOT NULL THEN 1 END",
    "timestamp": "NULL",
}

_OF_JSON: Final[Mapping[Kind, str]] = {
    "text": "CASE {form} WHEN 'text' THEN {0} END",
    "uuid": f"CASE WHEN {{form}} = 'text' AND {{0}} GLOB '{_UUID}' THEN lower({{0}}) END",
    # A whole number of more than 64 bits is given as a REAL.
    "integer": (
        "CASE {form} WHEN 'integer' THEN CASE typeof({0}) WHEN 'integer' THEN {0} END WHEN 'real' THEN {whole} END"
    ),
    "float": f"CASE WHEN {{form}} IN ('integer', 'real') AND {_IN_RANGE} THEN CAST({{0}} AS REAL) END",
    "boolean": "CASE {form} WHEN 'true' THEN 1 WHEN 'false' THEN 0 END",
    "json": "CASE WHEN {form} <> 'null' THEN 1 END",
    "timestamp": "NULL",
}
