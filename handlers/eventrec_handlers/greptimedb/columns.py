"""What each column type is on the wire: a number, perhaps an extension, and how its values are written.

    type                              column                          field of Value
    BOOLEAN … STRING                  the same                        11 bool, 1–8 integers, 9 and 10 floats, 12, 13
    DATE, DATETIME                    the same; days, microseconds    14, 15
    TIMESTAMP_…, TIME_…               the same, in their units        16–19, 20–23
    INTERVAL_YEAR_MONTH               the same, months                24
    INTERVAL_DAY_TIME                 the same                        25: days in the low half, milliseconds in the high
    INTERVAL_MONTH_DAY_NANO           the same                        26 {1 months, 2 days, 3 nanoseconds}
    DECIMAL128                        the same; where no scale is     31 {1 high half, 2 low half} of the digits
                                      declared: (38, 18)
    JSON, LIST, STRUCT                BINARY that is JSON             12, JSONB
      the same as text                JSON                            13, which the database encodes
    VECTOR                            the same, with its dimensions   12, little-endian floats of 32 bit
    DICTIONARY                        STRING                          13

NULL is a Value without a field, which is there all the same. Numbers: greptime/v1/common.proto and row.proto.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache, lru_cache
from struct import Struct, pack
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from eventrec import ColumnType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventrec import ColumnSchema
    from eventrec_handlers.greptimedb.jsonb import JsonbEncoder

JsonForm: TypeAlias = Literal["binary", "text"]
"""How JSON is sent."""

NULL: Final = b"\x0a\x00"
"""An empty Value, as a field of its Row."""

JSON_TYPES: Final = frozenset({ColumnType.JSON, ColumnType.LIST, ColumnType.STRUCT})
"""Kept as JSON text, and stored as JSONB."""

DECIMAL_PRECISION: Final = 38
DECIMAL_SCALE: Final = 18
"""Digits after the point, where a column does not say how many."""

JSON_BINARY: Final = 0
"""The one kind of JSON that a column of type BINARY is marked with."""

_VALUES: Final = b"\x0a"
"""The tag of field 1 of Row, a Value."""

_BINARY: Final = 12
_STRING: Final = 13
_VARINT: Final = 0
_DELIMITED: Final = 2
_MILLISECONDS_A_DAY: Final = 86_400_000
_I32: Final = 1 << 31
_SHORT: Final = 1 << 12
"""Below, the bytes of a number are remembered."""

_GROUP: Final = 0x7F
_MORE: Final = 0x80
_U32: Final = (1 << 32) - 1
_U64: Final = (1 << 64) - 1


def varint(value: int) -> bytes:
    """`value`, not negative, in groups of seven bits, the lowest first."""
    return _short(value) if value < _SHORT else _long(value)


@cache
def _short(value: int) -> bytes:
    return _long(value)


def _long(value: int) -> bytes:
    groups = bytearray()
    while value > _GROUP:
        groups.append(value & _GROUP | _MORE)
        value >>= 7
    groups.append(value)
    return bytes(groups)


@lru_cache(maxsize=4_096)
def text_head(size: int) -> bytes:
    """What stands before `size` bytes of a text, as a value of a Row."""
    return _head(_STRING, size)


@lru_cache(maxsize=4_096)
def binary_head(size: int) -> bytes:
    """What stands before `size` bytes of any kind, as a value of a Row."""
    return _head(_BINARY, size)


def text_value(text: str) -> bytes:
    """A text, as a value of a Row."""
    encoded = text.encode()
    return text_head(len(encoded)) + encoded


def _head(field: int, size: int) -> bytes:
    head = varint(field << 3 | _DELIMITED) + varint(size)
    return _VALUES + varint(len(head) + size) + head


def _tag(field: int, wire_type: int = _VARINT) -> bytes:
    return varint(field << 3 | wire_type)


def _value(content: bytes) -> bytes:
    return _VALUES + varint(len(content)) + content


def _whole(field: int) -> Callable[[int], bytes]:
    """Negative numbers of any width take ten bytes, those of 64 bit."""
    tag = _tag(field)
    return lambda value: _value(tag + varint(value & _U64))


def _bool(value: object) -> bytes:
    return _value(_tag(11) + (b"\x01" if value else b"\x00"))


def _fixed(field: int, wire_type: int, form: str) -> Callable[[float], bytes]:
    head = _value(_tag(field, wire_type) + bytes(pack_size := Struct(form).size))[:-pack_size]
    packed = Struct(form).pack
    return lambda value: head + packed(value)


def _json_text(value: bytes) -> bytes:
    return text_head(len(value)) + value


def _binary(value: bytes) -> bytes:
    return binary_head(len(value)) + value


def _day_time(milliseconds: int) -> bytes:
    days, rest = divmod(abs(milliseconds), _MILLISECONDS_A_DAY)
    if days >= _I32:
        raise ValueError("an interval has at most 2,147,483,647 days")
    if milliseconds < 0:
        days, rest = -days, -rest
    return _DAY_TIME(days & _U32 | rest << 32)


def _month_day_nano(parts: tuple[int, int, int]) -> bytes:
    return _message(26, parts)


def _message(field: int, parts: Sequence[int]) -> bytes:
    """A message whose fields are these numbers, from 1 on; a zero is left out."""
    content = b"".join(_tag(number) + varint(part & _U64) for number, part in enumerate(parts, 1) if part)
    return _value(_tag(field, _DELIMITED) + varint(len(content)) + content)


def _decimal(scale: int) -> Callable[[str], bytes]:
    def encode(digits: str) -> bytes:
        exact = Decimal(digits)
        sign, figures, exponent = exact.as_tuple()
        shift = int(exponent) + scale
        unscaled = int("".join(map(str, figures)))
        if shift >= 0:
            unscaled *= 10**shift
        elif unscaled % 10**-shift:
            raise ValueError(f"it has more than {scale} digits after the point; declare the column's scale")
        else:
            unscaled //= 10**-shift
        if unscaled >= 10**DECIMAL_PRECISION:
            raise ValueError(f"with {scale} digits after the point it has more than {DECIMAL_PRECISION} in all")
        both = -unscaled if sign else unscaled
        return _message(31, (both >> 64, both & _U64))

    return encode


def _vector(dimensions: int) -> Callable[[list[float]], bytes]:
    def encode(parts: list[float]) -> bytes:
        if len(parts) != dimensions:
            raise ValueError(f"it has {len(parts)} dimensions, and the column {dimensions}; declare them")
        return _binary(pack(f"<{dimensions}f", *parts))

    return encode


_DAY_TIME: Final = _whole(25)

_ENCODE: Final[dict[ColumnType, Callable[[Any], bytes]]] = {
    ColumnType.BOOLEAN: _bool,
    ColumnType.INT8: _whole(1),
    ColumnType.INT16: _whole(2),
    ColumnType.INT32: _whole(3),
    ColumnType.INT64: _whole(4),
    ColumnType.UINT8: _whole(5),
    ColumnType.UINT16: _whole(6),
    ColumnType.UINT32: _whole(7),
    ColumnType.UINT64: _whole(8),
    ColumnType.FLOAT32: _fixed(9, 5, "<f"),
    ColumnType.FLOAT64: _fixed(10, 1, "<d"),
    ColumnType.BINARY: _binary,
    ColumnType.STRING: text_value,
    ColumnType.DATE: _whole(14),
    ColumnType.DATETIME: _whole(15),
    ColumnType.TIMESTAMP_SECOND: _whole(16),
    ColumnType.TIMESTAMP_MILLISECOND: _whole(17),
    ColumnType.TIMESTAMP_MICROSECOND: _whole(18),
    ColumnType.TIMESTAMP_NANOSECOND: _whole(19),
    ColumnType.TIME_SECOND: _whole(20),
    ColumnType.TIME_MILLISECOND: _whole(21),
    ColumnType.TIME_MICROSECOND: _whole(22),
    ColumnType.TIME_NANOSECOND: _whole(23),
    ColumnType.INTERVAL_YEAR_MONTH: _whole(24),
    ColumnType.INTERVAL_DAY_TIME: _day_time,
    ColumnType.INTERVAL_MONTH_DAY_NANO: _month_day_nano,
    ColumnType.DICTIONARY: text_value,
}


def encoder_of(column: ColumnSchema, jsonb: JsonbEncoder | None) -> Callable[[Any], bytes]:
    """What writes a value of `column` that is not NULL as a value of a Row; ValueError says why one cannot be.

    JSON goes through `jsonb`, or as text where there is none.
    """
    if column.type in JSON_TYPES:
        return _json_text if jsonb is None else lambda text: _binary(jsonb.encode_text(text))
    if column.type is ColumnType.DECIMAL128:
        return _decimal(_scale(column))
    if column.type is ColumnType.VECTOR:
        return _vector(column.dimensions or 0)
    return _ENCODE[column.type]


def declared(column: ColumnSchema) -> str:
    """How errors call what the column is in the database."""
    if column.type is ColumnType.DECIMAL128:
        return f"DECIMAL({_precision(column)}, {_scale(column)})"
    return "JSON" if column.type in JSON_TYPES else column.type.name


def datatype(column: ColumnSchema, json: JsonForm) -> int:
    """The number of the column's type."""
    if column.type in JSON_TYPES:
        return int(ColumnType.BINARY if json == "binary" else ColumnType.JSON)
    return int(ColumnType.STRING if column.type is ColumnType.DICTIONARY else column.type)


def extension(column: ColumnSchema, json: JsonForm) -> dict[str, Any] | None:
    """What a column's type is beyond its number: the fields of a ColumnDataTypeExtension."""
    if column.type in JSON_TYPES:
        return {"json_type": JSON_BINARY} if json == "binary" else None
    if column.type is ColumnType.DECIMAL128:
        return {"decimal_type": {"precision": _precision(column), "scale": _scale(column)}}
    if column.type is ColumnType.VECTOR:
        return {"vector_type": {"dim": column.dimensions or 0}}
    return None


def _precision(column: ColumnSchema) -> int:
    return DECIMAL_PRECISION if column.precision is None or column.scale is None else column.precision


def _scale(column: ColumnSchema) -> int:
    return DECIMAL_SCALE if column.scale is None else column.scale
