"""What a column of an event, or of a layout, is made as: `converting.py` has the table of types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec import ColumnType
from eventrec_handlers.clickhouse.types import parsed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec import ColumnSchema, LayoutColumn

_WORDS: Final[Mapping[str, str]] = {
    "uuid": "UUID",
    "text": "String",
    "varchar": "String",
    "boolean": "Bool",
    "smallint": "Int16",
    "integer": "Int32",
    "bigint": "Int64",
    "real": "Float32",
    "double": "Float64",
    "timestamptz": "DateTime64(9, 'UTC')",
    "json": "String",
    "jsonb": "String",
}

_TYPES: Final[Mapping[ColumnType, str]] = {
    ColumnType.INT8: "Int8",
    ColumnType.UINT8: "UInt8",
    ColumnType.UINT16: "UInt16",
    ColumnType.UINT32: "UInt32",
    ColumnType.UINT64: "UInt64",
    ColumnType.BINARY: "String",
    ColumnType.DATE: "Date32",
    ColumnType.DATETIME: "DateTime64(6, 'UTC')",
    ColumnType.TIMESTAMP_SECOND: "DateTime64(0, 'UTC')",
    ColumnType.TIMESTAMP_MILLISECOND: "DateTime64(3, 'UTC')",
    ColumnType.TIMESTAMP_MICROSECOND: "DateTime64(6, 'UTC')",
    ColumnType.TIME_SECOND: "Decimal(18, 0)",
    ColumnType.TIME_MILLISECOND: "Decimal(18, 3)",
    ColumnType.TIME_MICROSECOND: "Decimal(18, 6)",
    ColumnType.TIME_NANOSECOND: "Decimal(18, 9)",
    ColumnType.INTERVAL_YEAR_MONTH: "Int32",
    ColumnType.INTERVAL_DAY_TIME: "Decimal(18, 3)",
    ColumnType.INTERVAL_MONTH_DAY_NANO: "String",
    ColumnType.DECIMAL128: "Decimal(76, 38)",
    ColumnType.LIST: "String",
    ColumnType.STRUCT: "String",
    ColumnType.VECTOR: "Array(Float64)",
}

_NEVER_NULL: Final = frozenset({"Array", "Map", "Tuple", "JSON", "Variant", "Dynamic"})
"""Types that take no NULL."""


def declared_as(column: LayoutColumn, schema: ColumnSchema | None = None) -> str:
    """What `column` is made as; `schema` is what the event declares of it."""
    type_ = plain(column, schema)
    if column.type == ColumnType.DICTIONARY or column.source.kind == "type":
        return f"LowCardinality({f'Nullable({type_})' if column.nullable else type_})"
    return f"Nullable({type_})" if column.nullable and parsed(type_).name not in _NEVER_NULL else type_


def plain(column: LayoutColumn, schema: ColumnSchema | None) -> str:
    """The type of its values, without what stands around it."""
    if column.word is not None:
        return _WORDS[column.word]
    if column.type == ColumnType.DECIMAL128 and schema is not None and schema.precision is not None:
        return f"Decimal({schema.precision}, {schema.scale or 0})" if schema.scale is not None else "Decimal(76, 38)"
    assert isinstance(column.type, ColumnType)  # noqa: S101 - every other one is a word
    return _TYPES[column.type]
