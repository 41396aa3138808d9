"""Where ClickHouse finds the field of a rollup, as SQL: a value of its kind, or NULL; and the table it is found in.

    what stands there            the kinds it may be
    JSON, in a String            what its JSON type says: "5" is not 5
    a String                     text, uuid
    an integer                   integer, float
    a float                      float; integer, where it has no fraction
    a Bool                       boolean
    a UUID                       uuid, text
    anything                     json: only whether it is there can be asked

Moments are nanoseconds since the epoch, as integers. No value raises an error, whatever another program has stored:
what does not fit is NULL. So is all that a document holds in which a number is too large for a float (1e999), since
ClickHouse reads none of it. A text that is not UTF-8 is shown with U+FFFD. A row does not count whose time no event can
have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from eventrec import (
    GENERATED,
    ID,
    TIMESTAMP,
    TYPE,
    CatalogueError,
    ColumnType,
    from_context,
    from_field,
    from_payload,
)
from eventrec.analytics import MAX_FLOAT
from eventrec_handlers.clickhouse.moments import bounds_sql, may_overflow, moment_sql
from eventrec_handlers.clickhouse.sql import literal, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventrec import Layout, LayoutColumn, LayoutSource
    from eventrec.analytics import Field, Kind

Family: TypeAlias = Literal["json", "text", "integer", "float", "boolean", "uuid", "timestamp", "other"]
"""What a column holds, as far as it matters here."""

_WORDS: Final[Mapping[str, tuple[str, Family]]] = {
    "uuid": ("UUID", "uuid"),
    "text": ("String", "text"),
    "varchar": ("String", "text"),
    "boolean": ("Bool", "boolean"),
    "smallint": ("Int16", "integer"),
    "integer": ("Int32", "integer"),
    "bigint": ("Int64", "integer"),
    "real": ("Float32", "float"),
    "double": ("Float64", "float"),
    "timestamptz": ("DateTime64(9, 'UTC')", "timestamp"),
    "json": ("String", "json"),
    "jsonb": ("String", "json"),
}
"""What a word of a layout is declared as."""

TIME_TYPE: Final = _WORDS["timestamptz"][0]
"""How the time of a table of ours is declared."""

_OTHERS: Final[Mapping[ColumnType, tuple[str, Family]]] = {
    ColumnType.INT8: ("Int8", "integer"),
    ColumnType.UINT8: ("UInt8", "integer"),
    ColumnType.UINT16: ("UInt16", "integer"),
    ColumnType.UINT32: ("UInt32", "integer"),
    ColumnType.UINT64: ("UInt64", "integer"),
}

TYPES: Final[Mapping[Kind, str]] = {
    "text": "String",
    "integer": "Int64",
    "float": "Float64",
    "boolean": "Bool",
    "timestamp": "Int64",
    "uuid": "String",
    "json": "Bool",
}
"""What the values of each kind are here; of `json` whether there is one."""

SETTINGS: Final = "SETTINGS allow_simdjson = 0, prefer_column_name_to_alias = 1"
"""What every statement ends with: ClickHouse's other reader of JSON takes a number of more than 64 bits for a text, and
columns of events may be called as we call ours."""

_UUID: Final = "'^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'"
_EXACT: Final = 2**53


def declared(column: LayoutColumn) -> tuple[str, Family]:
    """The type that a column of a layout has, and what it holds."""
    if column.word is not None:
        return _WORDS[column.word]
    return _OTHERS.get(column.type, ("String", "other")) if isinstance(column.type, ColumnType) else ("String", "other")


def create_table(layout: Layout) -> str:
    """The statement that makes the table of events that `layout` describes. What the database would count is left out.

    Raises:
        CatalogueError: The table stores no timestamp.
    """
    columns = [column for column in layout.columns if column.source != GENERATED]
    lines = []
    for column in columns:
        type_, _ = declared(column)
        lines.append(f"{quoted(column.name)} {f'Nullable({type_})' if column.nullable else type_}")
    known = Columns(layout)
    keys = [known.type, known.time] if layout.column_of(TYPE) is not None else [known.time]
    partition = f" PARTITION BY {_PARTITIONS[layout.partition]}({quoted(known.time)})" if layout.partition else ""
    retention = layout.retention_seconds
    ttl = f" TTL {expiry(quoted(known.time), retention)}" if retention else ""
    return (
        f"CREATE TABLE IF NOT EXISTS {quoted(layout.table)} ({', '.join(lines)}) ENGINE = MergeTree{partition}"
        f" ORDER BY ({', '.join(map(quoted, keys))}){ttl}"
    )


_LAST_SECOND: Final = 2**32 - 1
"""Of a DateTime."""


def expiry(moment: str, seconds: float) -> str:
    """When a row of the DateTime or DateTime64 `moment` is dropped, as a DateTime: `seconds` later.

    Those begin again in 1970 after 2106. What would go beyond is never dropped, and what is older than they can tell is
    taken for a moment of 1970.
    """
    whole = max(1, min(round(seconds), _LAST_SECOND))
    return f"toDateTime(least(greatest(toInt64({moment}), 0) + {whole}, {_LAST_SECOND}))"


_PARTITIONS: Final = {"day": "toDate", "week": "toMonday", "month": "toStartOfMonth"}


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table of events: what `layout` says, with the time declared as `time_type`."""

    layout: Layout
    time_type: str = TIME_TYPE

    @property
    def stored(self) -> Sequence[LayoutColumn]:
        """Those that a table has: what a database would count is not there."""
        return [column for column in self.layout.columns if column.source != GENERATED]

    @property
    def time(self) -> str:
        """The name of the column of the timestamp.

        Raises:
            CatalogueError: There is none.
        """
        return self._own(TIMESTAMP, "a timestamp")

    @property
    def type(self) -> str:
        """The name of the column of the type.

        Raises:
            CatalogueError: There is none.
        """
        return self._own(TYPE, "the type of an event")

    @property
    def moment(self) -> str:
        """The timestamp, in nanoseconds, of a row that is `within` what events can be."""
        moment = self.moment_or_null
        return f"assumeNotNull({moment})" if may_overflow(self.time_type) else moment

    @property
    def moment_or_null(self) -> str:
        """The timestamp of any row, in nanoseconds; NULL where no event can be of it."""
        return moment_sql(self.time, self.time_type)

    def within(self, low: int, end: int) -> str:
        """The condition for rows whose moment is in [`low`, `end`)."""
        return bounds_sql(self.time, self.time_type, low, end)

    def value(self, field: Field) -> str:
        """The value of `field` in a row, or NULL.

        Raises:
            CatalogueError: The table does not store it.
        """
        match field.source:
            case "type":
                return quoted(self.type)
            case "timestamp":
                return self.moment
            case "id":
                return f"toString({quoted(self._own(ID, 'the id of an event'))})"
            case "column":
                column, path = self._column(field.path[0])
            case "payload":
                column, path = self._located(from_payload(*field.path), field)
            case _:
                column, path = self._located(from_context(*field.path), field)
        if column is None:
            return f"CAST(NULL AS Nullable({TYPES[field.kind]}))"
        name, (_, family) = quoted(column.name), declared(column)
        if family == "json":
            return _of_json(name, path, field.kind)
        if path:
            raise CatalogueError(f"{field}: column {column.name!r} is not JSON, so what is in it cannot be reached")
        return _of_column(name, family, field.kind)

    def _own(self, source: LayoutSource, what: str) -> str:
        column = self.layout.column_of(source)
        if column is None:
            raise CatalogueError(f"table {self.layout.table!r} does not store {what}")
        return column.name

    def _column(self, name: str) -> tuple[LayoutColumn | None, tuple[str, ...]]:
        """The extra column `name` of an event, or the column of the table that is called so."""
        own = self.layout.column_of(from_field(name))
        if own is None:
            own = next((column for column in self.layout.columns if column.name == name), None)
        if own is not None:
            return own, ()
        found = self.layout.locate(from_field(name))
        return (None, ()) if found is None else (found.column, found.path)

    def _located(self, source: LayoutSource, field: Field) -> tuple[LayoutColumn, tuple[str, ...]]:
        found = self.layout.locate(source)
        if found is None:
            raise CatalogueError(f"table {self.layout.table!r} does not store {field}")
        return found.column, found.path


# -- a column that is not looked into ---------------------------------------------------------------------------------


def _of_column(column: str, family: Family, kind: Kind) -> str:
    if kind == "json":
        return f"if(isNotNull({column}), true, NULL)"
    made = _CONVERTED.get((kind, family))
    return f"CAST(NULL AS Nullable({TYPES[kind]}))" if made is None else made(column)


def _uuid_text(text: str) -> str:
    return f"if(match({text}, {_UUID}), lower({text}), NULL)"


def _in_range(number: str) -> str:
    return f"if(abs({number}) <= {MAX_FLOAT!r}, {number}, NULL)"


def _whole(number: str) -> str:
    """A float as an integer, if it has no fraction."""
    return f"if(abs({number}) < {_EXACT} AND trunc({number}) = {number}, toInt64({number}), NULL)"


_CONVERTED: Final[Mapping[tuple[Kind, Family], Callable[[str], str]]] = {
    ("text", "text"): lambda column: column,
    ("text", "uuid"): lambda column: f"toString({column})",
    ("uuid", "uuid"): lambda column: f"toString({column})",
    ("uuid", "text"): _uuid_text,
    ("boolean", "boolean"): lambda column: column,
    ("integer", "integer"): lambda column: f"if({column} <= {2**63 - 1}, toInt64({column}), NULL)",
    ("integer", "float"): lambda column: _whole(f"toFloat64({column})"),
    ("float", "integer"): lambda column: f"toFloat64({column})",
    ("float", "float"): lambda column: _in_range(f"toFloat64({column})"),
}
"""Of each kind, from what a column holds; what is not here is NULL."""


# -- JSON -------------------------------------------------------------------------------------------------------------


def _of_json(column: str, path: tuple[str, ...], kind: Kind) -> str:
    if kind == "timestamp":
        return "CAST(NULL AS Nullable(Int64))"
    arguments = ", ".join((column, *map(literal, path)))
    type_ = f"toString(JSONType({arguments}))"
    return f"({_IN_JSON[kind](arguments, type_)})"


def _json_text(arguments: str, type_: str) -> str:
    return f"if({type_} = 'String', JSONExtractString({arguments}), NULL)"


def _json_uuid(arguments: str, type_: str) -> str:
    return _uuid_text(_json_text(arguments, type_))


def _json_integer(arguments: str, type_: str) -> str:
    number = f"JSONExtractFloat({arguments})"
    return (
        f"multiIf({type_} IN ('Int64', 'UInt64'), JSONExtract({arguments}, 'Nullable(Int64)'),"
        f" {type_} = 'Double', {_whole(number)}, NULL)"
    )


def _json_float(arguments: str, type_: str) -> str:
    number = f"JSONExtractFloat({arguments})"
    return f"if({type_} IN ('Int64', 'UInt64', 'Double'), {_in_range(number)}, NULL)"


def _json_boolean(arguments: str, type_: str) -> str:
    return f"if({type_} = 'Bool', JSONExtractBool({arguments}) = 1, NULL)"


def _json_presence(_: str, type_: str) -> str:
    return f"if({type_} != 'Null', true, NULL)"


_IN_JSON: Final[Mapping[Kind, Callable[[str, str], str]]] = {
    "text": _json_text,
    "uuid": _json_uuid,
    "integer": _json_integer,
    "float": _json_float,
    "boolean": _json_boolean,
    "json": _json_presence,
}
