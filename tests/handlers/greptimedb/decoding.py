"""What a client sent to a GreptimeDB, decoded from its bytes: our own reading of the protocol, none of the handler's.

Numbers: greptime/v1/database.proto, common.proto and row.proto, and the layout of the crate `jsonb`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

TAG, FIELD, TIMESTAMP = range(3)
BINARY, STRING, DECIMAL, JSON, VECTOR = 11, 12, 30, 31, 32

FLOAT32, FLOAT64, BOOL, BYTES, TEXT = 9, 10, 11, 12, 13
MONTH_DAY_NANO, DECIMAL128 = 26, 31
UNSIGNED = (5, 6, 7, 8)


@dataclass(frozen=True)
class Column:
    """A column as it is declared; a JSON one as JSON, in whichever of the two forms it comes."""

    name: str
    datatype: int
    semantic: int
    extension: tuple[Any, ...] = ()

    @property
    def kind(self) -> tuple[Any, ...]:
        """What may not change."""
        return (self.datatype, self.semantic, self.extension)


@dataclass(frozen=True)
class Insert:
    """The rows for one table: each a value for each column, None for NULL."""

    table: str
    columns: tuple[Column, ...]
    rows: list[tuple[Any, ...]]

    def named(self) -> list[dict[str, Any]]:
        """Each row by the names of its columns."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Request:
    """One GreptimeRequest."""

    header: dict[str, Any]
    inserts: list[Insert]


class MalformedError(Exception):
    """The bytes are not what the protocol says."""


def fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Each field: its number, and an int, or the bytes."""
    at = 0
    while at < len(content):
        key, at = varint(content, at)
        match key & 7:
            case 0:
                value: Any
                value, at = varint(content, at)
            case 1:
                value, at = content[at : at + 8], at + 8
            case 5:
                value, at = content[at : at + 4], at + 4
            case 2:
                size, at = varint(content, at)
                value, at = content[at : at + size], at + size
            case other:
                raise MalformedError(f"wire type {other}")
        if at > len(content):
            raise MalformedError("a field is cut off")
        yield key >> 3, value


def varint(content: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends."""
    number = shift = 0
    while True:
        if at >= len(content) or shift > 63:
            raise MalformedError("a number is cut off")
        byte = content[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number & (1 << 64) - 1, at


def message(content: bytes) -> dict[int, Any]:
    """Fields by number, each at most once."""
    found: dict[int, Any] = {}
    for number, value in fields(content):
        if number in found:
            raise MalformedError(f"field {number} stands twice")
        found[number] = value
    return found


def decode_request(content: bytes) -> Request:
    """The request that `content` is."""
    request = message(content)
    header = message(request.get(1, b""))
    shown: dict[str, Any] = {
        name: header[number].decode()
        for number, name in ((1, "catalog"), (2, "schema"), (4, "dbname"))
        if number in header
    }
    if 3 in header:
        scheme = message(header[3])
        basic = message(scheme[1])
        shown["basic"] = (basic.get(1, b"").decode(), basic.get(2, b"").decode())
    if set(request) - {1, 6}:
        raise MalformedError(f"fields {sorted(request)} of a request")
    return Request(shown, [decode_insert(insert) for number, insert in fields(request.get(6, b"")) if number == 1])


def decode_insert(content: bytes) -> Insert:
    """One RowInsertRequest."""
    insert = message(content)
    parts = list(fields(insert[2]))
    columns = tuple(decode_column(part) for number, part in parts if number == 1)
    rows = []
    for number, part in parts:
        if number == 2:
            values = list(fields(part))
            if len(values) != len(columns) or any(number != 1 for number, _ in values):
                raise MalformedError(f"a row of {len(values)} values for {len(columns)} columns")
            rows.append(tuple(decode_value(value, column) for (_, value), column in zip(values, columns, strict=True)))
    return Insert(insert[1].decode(), columns, rows)


def decode_column(content: bytes) -> Column:
    """One ColumnSchema."""
    column = message(content)
    datatype = column.get(2, 0)
    extension: tuple[Any, ...] = ()
    if 4 in column:
        ((number, value),) = fields(column[4])
        if number == 2:
            if (datatype, value) != (BINARY, 0):
                raise MalformedError("JSON is a BINARY column, marked by a zero")
            datatype = JSON
        else:
            extension = (number, tuple(sorted(message(value).items())))
    return Column(column[1].decode(), datatype, column.get(3, 0), extension)


def decode_value(content: bytes, column: Column) -> Any:
    """One Value; None where it is empty."""
    if not content:
        return None
    ((number, value),) = fields(content)
    if column.datatype == JSON:
        return json.loads(value) if number == TEXT else decode_jsonb(value)
    if number != _FIELD_OF[column.datatype]:
        raise MalformedError(f"field {number} for a column of type {column.datatype}")
    if column.datatype == VECTOR:
        return list(struct.unpack(f"<{len(value) // 4}f", value))
    plain = value if number in UNSIGNED or isinstance(value, bytes) else signed(value)
    return _READ[number](value) if number in _READ else plain


def _month_day_nano(content: bytes) -> list[int]:
    parts = message(content)
    return [signed(parts.get(part, 0)) for part in (1, 2, 3)]


def _decimal(content: bytes) -> int:
    parts = message(content)
    high: int = signed(parts.get(1, 0))
    low: int = parts.get(2, 0)
    return high << 64 | low


_READ = {
    FLOAT32: lambda value: struct.unpack("<f", value)[0],
    FLOAT64: lambda value: struct.unpack("<d", value)[0],
    BOOL: bool,
    TEXT: bytes.decode,
    MONTH_DAY_NANO: _month_day_nano,
    DECIMAL128: _decimal,
}

_FIELD_OF = {
    0: 11,
    **{datatype: datatype for datatype in range(1, 9)},
    9: 9,
    10: 10,
    11: 12,
    12: 13,
    **{datatype: datatype + 1 for datatype in range(13, 26)},
    30: 31,
    32: 12,
}
"""ColumnDataType to the field of Value that holds it."""


def signed(number: int) -> int:
    """What a field of 64 bits means as a signed number."""
    return number - (1 << 64) if number >> 63 else number


def decode_jsonb(content: bytes) -> Any:
    """The JSON value that `content` is; all of it must be used."""
    value, end = _container(content, 0)
    if end != len(content):
        raise MalformedError(f"{len(content) - end} bytes behind the JSON")
    return value


def _container(content: bytes, at: int) -> tuple[Any, int]:
    (head,) = struct.unpack_from(">I", content, at)
    count = head & 0x1FFFFFFF
    at += 4
    match head & 0xE0000000:
        case 0x20000000:
            (entry,) = struct.unpack_from(">I", content, at)
            return _part(content, entry, at + 4)
        case 0x80000000:
            entries = struct.unpack_from(f">{count}I", content, at)
            return _parts(content, entries, at + 4 * count)
        case 0x40000000:
            entries = struct.unpack_from(f">{2 * count}I", content, at)
            keys, at = _parts(content, entries[:count], at + 8 * count)
            if [key.encode() for key in keys] != sorted({key.encode() for key in keys}):
                raise MalformedError("keys are not sorted by their bytes, each once")
            values, at = _parts(content, entries[count:], at)
            return dict(zip(keys, values, strict=True)), at
        case other:
            raise MalformedError(f"container {other:x}")


def _parts(content: bytes, entries: tuple[int, ...], at: int) -> tuple[list[Any], int]:
    values = []
    for entry in entries:
        value, at = _part(content, entry, at)
        values.append(value)
    return values, at


def _part(content: bytes, entry: int, at: int) -> tuple[Any, int]:
    end = at + (entry & 0x0FFFFFFF)
    data = content[at:end]
    value: Any
    match entry >> 28:
        case 0:
            value = None
        case 1:
            value = data.decode()
        case 2:
            value = _number(data)
        case 3:
            value = False
        case 4:
            value = True
        case 5:
            value, used = _container(content, at)
            if used != end:
                raise MalformedError("a container is longer or shorter than it says")
        case other:
            raise MalformedError(f"entry of type {other}")
    return value, end


def _number(data: bytes) -> int | float:
    form, rest = data[0], data[1:]
    if form in _WITHOUT_BYTES and not rest:
        return _WITHOUT_BYTES[form]
    match form:
        case 0x40:
            return int.from_bytes(rest, signed=True)
        case 0x50:
            return int.from_bytes(rest)
        case 0x60:
            number: float = struct.unpack(">d", rest)[0]
            return number
        case _:
            raise MalformedError(f"number {data.hex()}")


_WITHOUT_BYTES = {0x00: 0, 0x10: float("nan"), 0x20: float("inf"), 0x30: float("-inf")}
