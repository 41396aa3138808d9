"""A layout as JSON, as it is kept at a destination: versioned, and the same text for equal layouts.

    {"version":1,"table":"t","columns":[{"name":"kind","source":"type","type":"varchar","length":100,"nullable":false}]}

What has its default value is left out. A type of a layout is in lower case, a ColumnType in upper case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args

import msgspec

from eventrec.errors import LayoutError
from eventrec.records.column_types import ColumnType
from eventrec.records.layout_columns import LayoutColumn, LayoutSource, LayoutSourceKind, LayoutType
from eventrec.records.layout_parts import LayoutCompression, LayoutIndex, PartitionUnit

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION: Final = 1


class _Column(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    source: LayoutSourceKind
    type: str
    path: tuple[str, ...] = ()
    length: int | None = None
    nullable: bool = True
    default: str | int | float | bool | None = None


class _Index(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    columns: tuple[str, ...]
    descending: tuple[str, ...] = ()
    where_not_null: tuple[str, ...] = ()
    kind: str = "ordered"


class _Compression(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    after: float
    segment_by: tuple[str, ...] = ()
    order_by: tuple[str, ...] = ()
    descending: tuple[str, ...] = ()


class _Document(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    version: int
    table: str
    columns: tuple[_Column, ...]
    primary_key: tuple[str, ...] = ()
    indexes: tuple[_Index, ...] = ()
    partition: PartitionUnit | None = None
    retention: float | None = None
    compression: _Compression | None = None


class _Versioned(msgspec.Struct):
    version: int


_decode: Final = msgspec.json.Decoder(_Document).decode
_decode_version: Final = msgspec.json.Decoder(_Versioned).decode


def text_of(
    *,
    table: str,
    columns: Sequence[LayoutColumn],
    primary_key: Sequence[str],
    indexes: Sequence[LayoutIndex],
    partition: PartitionUnit | None,
    retention: float | None,
    compression: LayoutCompression | None,
) -> str:
    """A layout of these parts, as JSON text."""
    document = _Document(
        version=VERSION,
        table=table,
        columns=tuple(_column(column) for column in columns),
        primary_key=tuple(primary_key),
        indexes=tuple(msgspec.convert(index, _Index, from_attributes=True) for index in indexes),
        partition=partition,
        retention=retention,
        compression=None if compression is None else msgspec.convert(compression, _Compression, from_attributes=True),
    )
    return msgspec.json.encode(document).decode()


def _column(column: LayoutColumn) -> _Column:
    return _Column(
        column.name,
        column.source.kind,
        column.type.name if isinstance(column.type, ColumnType) else column.type,
        path=column.source.path,
        length=column.length,
        nullable=column.nullable,
        default=column.default,
    )


def arguments_of(text: str | bytes) -> dict[str, Any]:
    """The arguments of the `Layout` that `text` says.

    Raises:
        LayoutError: It is not such a text, or one of a later version.
    """
    try:
        # First, since a later version may have members that this one has not.
        version = _decode_version(text).version
        if version != VERSION:
            raise LayoutError(f"the JSON of a layout has version {version}; this eventrec reads {VERSION}")
        document = _decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise LayoutError(f"not the JSON of a layout: {exc}") from exc
    compression = document.compression
    return {
        "table": document.table,
        "columns": [
            LayoutColumn(
                column.name,
                LayoutSource(column.source, column.path),
                _type(column.type),
                length=column.length,
                nullable=column.nullable,
                default=column.default,
            )
            for column in document.columns
        ],
        "primary_key": document.primary_key,
        "indexes": [LayoutIndex(**msgspec.structs.asdict(index)) for index in document.indexes],
        "partition": document.partition,
        "retention": document.retention,
        "compression": None if compression is None else LayoutCompression(**msgspec.structs.asdict(compression)),
    }


def _type(name: str) -> LayoutType | ColumnType:
    for word in get_args(LayoutType):
        if name == word:
            known: LayoutType = word
            return known
    try:
        return ColumnType[name]
    except KeyError:
        raise LayoutError(f"the JSON of a layout names the type {name!r:.60}, which does not exist") from None
