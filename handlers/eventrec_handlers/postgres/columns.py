r"""What each column type is stored as in PostgreSQL, and its value as a field of a binary COPY.

    column type                     stored as              holds
    BOOLEAN                         boolean
    INT8, INT16, UINT8              smallint
    INT32, UINT16                   integer
    INT64, UINT32                   bigint
    UINT64                          numeric(20,0)
    FLOAT32                         real
    FLOAT64                         double precision
    BINARY                          bytea
    STRING, DICTIONARY              text                   without NUL; a `character varying` column takes it too
    DECIMAL128                      numeric                numeric(p,s) where precision and scale are declared
    JSON, LIST, STRUCT              jsonb                  without \u0000 and lone surrogates
    VECTOR                          real[]
    DATE                            date                   4713 BC to 5874897
    DATETIME, TIMESTAMP_SECOND …    timestamptz            4713 BC to 294276, microseconds: finer is cut off
    TIME_SECOND …                   time                   microseconds: finer is cut off
    INTERVAL_YEAR_MONTH             interval               months
    INTERVAL_DAY_TIME               interval               an exact time: 24 hours are not 1 day
    INTERVAL_MONTH_DAY_NANO         interval               months, days, microseconds: finer is cut off

The base columns: `id uuid`, `type text`, `timestamp timestamptz`, `payload jsonb`, and `context jsonb` where a record
has one. PostgreSQL has no type for nanoseconds, so an event's timestamp is kept to the microsecond, as everything that
reads a timestamptz expects; events of one microsecond are still in their order by `id`, within one log.

The formats are those of PostgreSQL's `…_recv` functions (src/backend/utils/adt), behind the length of each field.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from eventrec import ColumnType
from eventrec_handlers._sql import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from eventrec import ColumnSchema

Encode: TypeAlias = "Callable[[Any], bytes]"
"""A kept value, never None, to a field; ValueError says in words why PostgreSQL cannot hold it."""

NULL: Final = b"\xff\xff\xff\xff"

EPOCH_US: Final = 946_684_800_000_000
"""2000-01-01, from where PostgreSQL counts, in microseconds since 1970."""

EPOCH_DAYS: Final = 10_957
"""The same in days."""

BASE_DECLARED: Final = {
    "id": "uuid",
    "type": "text",
    "timestamp": "timestamp with time zone",
    "payload": "jsonb",
    "context": "jsonb",
}
REQUIRED: Final = ("id", "type", "timestamp", "payload")

pack_length: Final = Struct(">i").pack
pack_jsonb: Final = Struct(">iB").pack
"""The head of a jsonb field: its length, which counts the version, and the version, 1."""
pack_8: Final = Struct(">q").pack


def declared(column: ColumnSchema) -> str:
    """The type of `column`, spelled as `format_type` spells it."""
    base = BASE_DECLARED.get(column.name)
    if base is not None:
        return base
    if column.type is ColumnType.DECIMAL128 and column.precision is not None and column.scale is not None:
        return f"numeric({column.precision},{column.scale})"
    return STORED[column.type][0]


# -- fields -----------------------------------------------------------------------------------------------------------


def _fixed(format_: str, size: int) -> Encode:
    pack = Struct(">i" + format_).pack
    return lambda value: pack(size, value)


_small: Final = _fixed("h", 2)
_integer: Final = _fixed("i", 4)
_big: Final = _fixed("q", 8)


def _boolean(value: bool) -> bytes:  # noqa: FBT001 - the value of a column
    return b"\0\0\0\1\1" if value else b"\0\0\0\1\0"


def _bytes(value: bytes) -> bytes:
    return pack_length(len(value)) + value


def text_field(value: str) -> bytes:
    """A text."""
    encoded = text(value).encode()
    return pack_length(len(encoded)) + encoded


def text_pieces(values: Sequence[str | None]) -> Sequence[Iterable[bytes]]:
    """`text_field` of each, in one piece or in two that stand side by side; ValueError where one is not such a text."""
    distinct = set(values)
    if None in distinct or 2 * len(distinct) <= len(values):
        fields = {value: NULL if value is None else text_field(value) for value in distinct}
        return [[fields[value] for value in values]]
    texts = cast("Sequence[str]", values)
    text("".join(texts))
    encoded = [value.encode() for value in texts]
    return [map(pack_length, map(len, encoded)), encoded]


def jsonb_field(value: bytes) -> bytes:
    """JSON text, as it is; what of it jsonb cannot hold is `json_refusal`'s to say."""
    return pack_jsonb(len(value) + 1, 1) + value


_MIN_TIMESTAMP: Final = -211_813_488_000_000_000
_END_TIMESTAMP: Final = 9_223_371_331_200_000_000
_MIN_DATE: Final = -2_451_545
_END_DATE: Final = 2_145_031_949


def _timestamp(to_microseconds: Callable[[int], int]) -> Encode:
    def field(value: int) -> bytes:
        since = to_microseconds(value) - EPOCH_US
        if not _MIN_TIMESTAMP <= since < _END_TIMESTAMP:
            raise ValueError(f"{value} lies outside of 4713 BC to 294276")
        return _big(since)

    return field


def _date(value: int) -> bytes:
    since = value - EPOCH_DAYS
    if not _MIN_DATE <= since < _END_DATE:
        raise ValueError(f"day {value} lies outside of 4713 BC to 5874897")
    return _integer(since)


def _time(to_microseconds: Callable[[int], int]) -> Encode:
    return lambda value: _big(to_microseconds(value))


_pack_interval: Final = Struct(">iqii").pack


def _interval(months: int, days: int, microseconds: int) -> bytes:
    if not -(2**63) <= microseconds < 2**63:
        raise ValueError(f"{microseconds} microseconds have more than 64 bits")
    return _pack_interval(16, microseconds, days, months)


def _interval_of_parts(value: Sequence[int]) -> bytes:
    months, days, nanoseconds = value
    return _interval(months, days, nanoseconds // 1_000)


_pack_numeric_head: Final = Struct(">ihhHH").pack


def numeric_field(value: str) -> bytes:
    """Decimal digits, exactly: groups of four, the weight of the first one, sign, and digits behind the point."""
    whole, _, behind = value.lstrip("-").partition(".")
    whole = whole.zfill(-(-len(whole) // 4) * 4)
    digits = whole + behind.ljust(-(-len(behind) // 4) * 4, "0")
    groups = [int(digits[i : i + 4]) for i in range(0, len(digits), 4)]
    weight = len(whole) // 4 - 1
    first, last = 0, len(groups)
    while first < last and not groups[first]:
        first += 1
    while last > first and not groups[last - 1]:
        last -= 1
    kept = groups[first:last]
    sign = 0x4000 if kept and value.startswith("-") else 0
    head = _pack_numeric_head(8 + 2 * len(kept), len(kept), weight - first if kept else 0, sign, len(behind))
    return head + b"".join(group.to_bytes(2) for group in kept)


_REAL_OID: Final = 700


def _real_array(value: Sequence[float]) -> bytes:
    if not value:
        return Struct(">iiii").pack(12, 0, 0, _REAL_OID)
    fields = Struct(">iiiiii" + "if" * len(value))
    parts = [part for number in value for part in (4, number)]
    return fields.pack(fields.size - 4, 1, 0, _REAL_OID, len(value), 1, *parts)


# -- what jsonb cannot hold although it is JSON -----------------------------------------------------------------------

_HIGH: Final = range(0xD800, 0xDC00)
_LOW: Final = range(0xDC00, 0xE000)
_ESCAPE: Final = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_LONE: Final = "it holds a lone surrogate, which no text of PostgreSQL can"


def json_refusal(value: bytes) -> str | None:
    """Why jsonb cannot hold the JSON text `value`; None where no escape of a character is a reason."""
    high_until = -1
    for escape in _ESCAPE.finditer(value):
        code = -1 if escape[1] is None else int(escape[1], 16)
        is_low = code in _LOW
        if is_low != (high_until == escape.start()) or (high_until >= 0 and not is_low):
            return _LONE
        high_until = escape.end() if code in _HIGH else -1
        if code == 0:
            return "it holds a NUL character (\\u0000), which no text of PostgreSQL can"
    return _LONE if high_until >= 0 else None


# -- the table --------------------------------------------------------------------------------------------------------

_TIMESTAMP: Final = "timestamp with time zone"
_TIME: Final = "time without time zone"

STORED: Final[Mapping[ColumnType, tuple[str, Encode]]] = {
    ColumnType.BOOLEAN: ("boolean", _boolean),
    ColumnType.INT8: ("smallint", _small),
    ColumnType.INT16: ("smallint", _small),
    ColumnType.INT32: ("integer", _integer),
    ColumnType.INT64: ("bigint", _big),
    ColumnType.UINT8: ("smallint", _small),
    ColumnType.UINT16: ("integer", _integer),
    ColumnType.UINT32: ("bigint", _big),
    ColumnType.UINT64: ("numeric(20,0)", lambda value: numeric_field(str(value))),
    ColumnType.FLOAT32: ("real", _fixed("f", 4)),
    ColumnType.FLOAT64: ("double precision", _fixed("d", 8)),
    ColumnType.BINARY: ("bytea", _bytes),
    ColumnType.STRING: ("text", text_field),
    ColumnType.DICTIONARY: ("text", text_field),
    ColumnType.DECIMAL128: ("numeric", numeric_field),
    ColumnType.JSON: ("jsonb", jsonb_field),
    ColumnType.LIST: ("jsonb", jsonb_field),
    ColumnType.STRUCT: ("jsonb", jsonb_field),
    ColumnType.VECTOR: ("real[]", _real_array),
    ColumnType.DATE: ("date", _date),
    ColumnType.DATETIME: (_TIMESTAMP, _timestamp(lambda value: value)),
    ColumnType.TIMESTAMP_SECOND: (_TIMESTAMP, _timestamp(lambda value: value * 1_000_000)),
    ColumnType.TIMESTAMP_MILLISECOND: (_TIMESTAMP, _timestamp(lambda value: value * 1_000)),
    ColumnType.TIMESTAMP_MICROSECOND: (_TIMESTAMP, _timestamp(lambda value: value)),
    ColumnType.TIMESTAMP_NANOSECOND: (_TIMESTAMP, _timestamp(lambda value: value // 1_000)),
    ColumnType.TIME_SECOND: (_TIME, _time(lambda value: value * 1_000_000)),
    ColumnType.TIME_MILLISECOND: (_TIME, _time(lambda value: value * 1_000)),
    ColumnType.TIME_MICROSECOND: (_TIME, _time(lambda value: value)),
    ColumnType.TIME_NANOSECOND: (_TIME, _time(lambda value: value // 1_000)),
    ColumnType.INTERVAL_YEAR_MONTH: ("interval", lambda value: _interval(value, 0, 0)),
    ColumnType.INTERVAL_DAY_TIME: ("interval", lambda value: _interval(0, 0, value * 1_000)),
    ColumnType.INTERVAL_MONTH_DAY_NANO: ("interval", _interval_of_parts),
}
"""Declared type, and how a kept value becomes a field."""

JSON_TYPES: Final = frozenset({ColumnType.JSON, ColumnType.LIST, ColumnType.STRUCT})
