"""How a kept value becomes one that a column's type takes, and what each column is made as.

    a layout's word        made as                    also written to
    uuid                   UUID                       String, FixedString(36)
    text, varchar          String                     FixedString, UUID, enums
    boolean                Bool                       UInt8, Int8
    smallint … bigint      Int16, Int32, Int64        every integer type, Float64 up to 2^53, Decimal
    real, double           Float32, Float64           Float64
    timestamptz            DateTime64(9, 'UTC')       DateTime64 of fewer digits (cut off towards the past), DateTime
    json, jsonb            String                     Array, Map, Tuple of what JSON holds

    a ColumnType                made as
    INT8 … UINT64               Int8 … UInt64
    BINARY                      String
    DICTIONARY                  LowCardinality(String)
    DATE                        Date32, of the years 1900 to 2299
    DATETIME, TIMESTAMP_…       DateTime64(6, 'UTC'), of 0, 3, 6 or 9 digits
    DECIMAL128                  Decimal(precision, scale); Decimal(76, 38) where none is given
    TIME_…, INTERVAL_DAY_TIME   Decimal(18, digits): seconds
    INTERVAL_YEAR_MONTH         Int32: months
    INTERVAL_MONTH_DAY_NANO     String: a JSON array of months, days, nanoseconds
    LIST, STRUCT                String: JSON
    VECTOR                      Array(Float64)

Nullable and LowCardinality around a type, and the zone of a moment, make no difference to what it holds. In a column
that takes no NULL, what is missing is the type's own nothing: '', 0, [], as ClickHouse's inserts have it. What a type
cannot hold exactly is refused, in words. But for a moment: what is finer than its column is cut off towards the past,
as in PostgreSQL's timestamptz, since a column that is declared in milliseconds wants milliseconds of every event.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from eventrec import ColumnType
from eventrec_handlers.clickhouse.declared import plain
from eventrec_handlers.clickhouse.extra_columns import OF_TYPES
from eventrec_handlers.clickhouse.nested import to_nested
from eventrec_handlers.clickhouse.scalars import (
    as_fixed_uuid,
    enum_names,
    json_bytes,
    to_decimal,
    to_enum,
    to_fixed,
    to_integer,
    to_moment,
    to_second,
    to_text,
    to_uuid,
    to_whole_float,
)
from eventrec_handlers.clickhouse.types import INTEGERS, UnfitError, element, parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventrec import ColumnSchema, LayoutColumn
    from eventrec_handlers._sql import Convert
    from eventrec_handlers.clickhouse.types import Type

_OWN_RANGES: Final[Mapping[str, str]] = {"smallint": "Int16", "integer": "Int32", "bigint": "Int64"}


def conversion(column: LayoutColumn, declared: str, schema: ColumnSchema | None = None) -> Convert | None:
    """How a kept value of `column` becomes one that the client takes for a column `declared` so; None: it is one.

    Raises:
        UnfitError: Such a column cannot hold it.
    """
    type_ = parsed(declared)
    word = column.word
    if word is None:
        own = parsed(plain(column, schema))
        if (own.name, own.arguments) != (type_.name, type_.arguments):
            raise UnfitError(f"the table declares it {declared}")
        return OF_TYPES.get(column.type) if isinstance(column.type, ColumnType) else None
    make = _TO.get((_FAMILIES[word], "integer" if type_.name in INTEGERS else type_.name))
    if make is None or (word == "double" and type_.name == "Float32"):
        raise UnfitError(f"the table declares it {declared}")
    if column.source.kind == "type" and type_.name == "String":
        return None  # it was checked when the event was recorded
    if word in _OWN_RANGES and type_.name == _OWN_RANGES[word]:
        return None
    return make(type_)


def nothing(declared: str) -> Any:
    """What stands for a value that is missing in a column that takes no NULL; None: it takes one."""
    type_ = parsed(declared)
    if type_.is_nullable:
        return None
    make = _NOTHING.get(type_.name)
    return 0 if make is None else make(type_)


_FAMILIES: Final[Mapping[str, str]] = {
    "uuid": "uuid",
    "text": "text",
    "varchar": "text",
    "boolean": "boolean",
    "smallint": "integer",
    "integer": "integer",
    "bigint": "integer",
    "real": "float",
    "double": "float",
    "timestamptz": "moment",
    "json": "json",
    "jsonb": "json",
}


_NOTHING: Final[Mapping[str, Callable[[Type], Any]]] = {
    "String": lambda _: "",
    "FixedString": lambda type_: bytes(int(type_.arguments[0])),
    "UUID": lambda _: bytes(16),
    "Array": lambda _: [],
    "Map": lambda _: {},
    "Tuple": lambda type_: tuple(nothing(element(each)) for each in type_.arguments),
    "Enum8": lambda type_: next(iter(enum_names(type_))),
    "Enum16": lambda type_: next(iter(enum_names(type_))),
    "Decimal": lambda _: Decimal(0),
    "Bool": lambda _: False,
}
"""Of all others it is 0."""

_TO: Final[Mapping[tuple[str, str], Callable[[Type], Convert | None]]] = {
    ("uuid", "UUID"): lambda _: None,
    ("uuid", "String"): lambda _: lambda value: str(UUID(bytes=value)),
    ("uuid", "FixedString"): as_fixed_uuid,
    ("text", "String"): to_text,
    ("text", "FixedString"): to_fixed,
    ("text", "UUID"): to_uuid,
    ("text", "Enum8"): to_enum,
    ("text", "Enum16"): to_enum,
    ("boolean", "Bool"): lambda _: None,
    ("boolean", "integer"): lambda _: int,
    ("integer", "integer"): to_integer,
    ("integer", "Float64"): to_whole_float,
    ("integer", "Decimal"): to_decimal,
    ("float", "Float32"): lambda _: None,
    ("float", "Float64"): lambda _: None,
    ("moment", "DateTime64"): to_moment,
    ("moment", "DateTime"): to_second,
    ("json", "String"): lambda _: json_bytes,
    ("json", "Array"): to_nested,
    ("json", "Map"): to_nested,
    ("json", "Tuple"): to_nested,
}
"""From what a word of a layout keeps to each type that holds it."""
