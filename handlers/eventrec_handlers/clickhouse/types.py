"""ClickHouse's types: what each column is made as, and how a kept value becomes one that a column's type takes.

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
cannot hold exactly is refused, in words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from eventrec import ColumnType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventrec import ColumnSchema, LayoutColumn
    from eventrec_handlers._sql import Convert


class UnfitError(Exception):
    """A column of this type cannot hold what is written to it; the message says what the table declares."""


@dataclass(frozen=True, slots=True)
class Type:
    """A type, taken apart.

    Attributes:
        name: Its name, without what stands around it: `String` of `LowCardinality(Nullable(String))`.
        arguments: What stands in its parentheses.
        is_nullable: Whether it takes NULL.
    """

    name: str
    arguments: tuple[str, ...] = ()
    is_nullable: bool = False

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.arguments)})" if self.arguments else self.name


@lru_cache(maxsize=4096)
def parsed(text: str) -> Type:
    """The type that `text` declares."""
    name, _, rest = text.strip().partition("(")
    arguments = _split(rest.rstrip()[:-1]) if rest else ()
    if name in {"Nullable", "LowCardinality"} and len(arguments) == 1:
        inner = parsed(arguments[0])
        return Type(inner.name, inner.arguments, inner.is_nullable or name == "Nullable")
    if name == "SimpleAggregateFunction" and len(arguments) > 1:
        return parsed(arguments[1])
    if name == "DateTime64":
        arguments = arguments[:1]
    if name == "DateTime":
        arguments = ()
    return Type(name, arguments)


def _split(text: str) -> tuple[str, ...]:
    """The arguments in `text`: parted at commas that stand in no parentheses or quotes."""
    parts, depth, start, in_quotes, skips = [], 0, 0, False, False
    for at, char in enumerate(text):
        if skips:
            skips = False
        elif in_quotes:
            skips = char == "\\"
            in_quotes = char != "'"
        elif char == "'":
            in_quotes = True
        elif char == "," and not depth:
            parts.append(text[start:at].strip())
            start = at + 1
        else:
            depth += (char == "(") - (char == ")")
    return (*parts, text[start:].strip())


# -- what is made -----------------------------------------------------------------------------------------------------

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
    plain = _plain(column, schema)
    if column.type == ColumnType.DICTIONARY or column.source.kind == "type":
        return f"LowCardinality({f'Nullable({plain})' if column.nullable else plain})"
    return f"Nullable({plain})" if column.nullable and parsed(plain).name not in _NEVER_NULL else plain


def _plain(column: LayoutColumn, schema: ColumnSchema | None) -> str:
    if column.word is not None:
        return _WORDS[column.word]
    if column.type == ColumnType.DECIMAL128 and schema is not None and schema.precision is not None:
        return f"Decimal({schema.precision}, {schema.scale or 0})" if schema.scale is not None else "Decimal(76, 38)"
    assert isinstance(column.type, ColumnType)  # noqa: S101 - every other one is a word
    return _TYPES[column.type]


# -- what is written --------------------------------------------------------------------------------------------------

INTEGERS: Final[Mapping[str, tuple[int, int]]] = {
    **{f"Int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64, 128, 256)},
    **{f"UInt{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64, 128, 256)},
}
_OWN_RANGES: Final[Mapping[str, str]] = {"smallint": "Int16", "integer": "Int32", "bigint": "Int64"}
_EXACT: Final = 2**53
_SECOND: Final = 1_000_000_000
_DAYS: Final = (-25_567, 120_529)
"""Of a Date32: the years 1900 to 2299."""

_MOMENT: Final = (-2_208_988_800, 10_413_791_999)
"""Of a DateTime64 that is not in nanoseconds: the same years, in seconds."""


def conversion(column: LayoutColumn, declared: str, schema: ColumnSchema | None = None) -> Convert | None:
    """How a kept value of `column` becomes one that the client takes for a column `declared` so; None: it is one.

    Raises:
        UnfitError: Such a column cannot hold it.
    """
    type_ = parsed(declared)
    word = column.word
    if word is None:
        own = parsed(_plain(column, schema))
        if (own.name, own.arguments) != (type_.name, type_.arguments):
            raise UnfitError(f"the table declares it {declared}")
        return _OF_TYPES.get(column.type) if isinstance(column.type, ColumnType) else None
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


def text(value: str) -> str:
    """`value`, where UTF-8 can say it."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("it holds a lone surrogate, which no UTF-8 text can") from None
    return value


def json_bytes(value: bytes | str) -> bytes:
    """`value`, where it is UTF-8."""
    if isinstance(value, str):
        return text(value).encode()
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError as exc:
            raise ValueError(f"it is not UTF-8 at byte {exc.start}: {exc.reason}") from exc
    return value


def _to_text(_: Type) -> Convert:
    return text


def _to_fixed(type_: Type) -> Convert:
    size = int(type_.arguments[0])

    def convert(value: str) -> bytes:
        said = text(value).encode()
        if len(said) > size:
            raise ValueError(f"it has {len(said)} bytes, and the column holds {size}")
        if said.endswith(b"\0"):
            raise ValueError("it ends with NUL, with which the column fills up")
        return said.ljust(size, b"\0")

    return convert


def _to_uuid(_: Type) -> Convert:
    def convert(value: str) -> bytes:
        try:
            return UUID(value).bytes
        except ValueError:
            raise ValueError("it is not a UUID") from None

    return convert


def _to_enum(type_: Type) -> Convert:
    names = _enum_names(type_)

    def convert(value: str) -> str:
        if value not in names:
            raise ValueError(f"it is not one of {', '.join(sorted(names))[:200]}")
        return value

    return convert


def _enum_names(type_: Type) -> dict[str, None]:
    found = (re.match(r"'((?:[^'\\]|\\.)*)'", each) for each in type_.arguments)
    return {re.sub(r"\\(.)", r"\1", each[1]): None for each in found if each is not None}


def _to_integer(type_: Type) -> Convert:
    low, high = INTEGERS[type_.name]

    def convert(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"{value} is not from {low} to {high}")
        return value

    return convert


def _to_whole_float(_: Type) -> Convert:
    def convert(value: int) -> float:
        if abs(value) > _EXACT:
            raise ValueError(f"no float of 64 bits equals {value} for certain")
        return float(value)

    return convert


def _to_decimal(type_: Type) -> Convert:
    precision, scale = map(int, type_.arguments)
    beyond = int(10 ** (precision - scale))

    def convert(value: int) -> Decimal:
        if not -beyond < value < beyond:
            raise ValueError(f"{value} has more than {precision - scale} digits before the point")
        return Decimal(value)

    return convert


def _to_moment(type_: Type) -> Convert:
    digits = int(type_.arguments[0]) if type_.arguments else 3
    unit = int(10 ** (9 - digits))

    def convert(value: int) -> int:
        if not (-(2**63) <= value < 2**63 if unit == 1 else _is_shown(value // _SECOND)):
            raise ValueError("a DateTime64 is from the year 1900 to 2299, in nanoseconds from 1677 to 2262")
        return value // unit

    return convert


def _is_shown(second: int) -> bool:
    return _MOMENT[0] <= second <= _MOMENT[1]


def _to_second(_: Type) -> Convert:
    def convert(value: int) -> int:
        second = int(value) // _SECOND
        if not 0 <= second < 2**32:
            raise ValueError("a DateTime is from the year 1970 to 2106")
        return second

    return convert


def _to_nested(type_: Type) -> Convert:
    convert = _of_json(type_)

    def decoded(value: bytes | str) -> Any:
        try:
            read = msgspec.json.decode(value, type=msgspec.Raw)
            return convert(read)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
            raise ValueError(f"it cannot be read: {exc}") from exc

    return decoded


def _as_fixed_uuid(type_: Type) -> Convert:
    if type_.arguments != ("36",):
        raise UnfitError(f"the table declares it {type_}")
    return lambda value: str(UUID(bytes=value)).encode()


_NOTHING: Final[Mapping[str, Callable[[Type], Any]]] = {
    "String": lambda _: "",
    "FixedString": lambda type_: bytes(int(type_.arguments[0])),
    "UUID": lambda _: bytes(16),
    "Array": lambda _: [],
    "Map": lambda _: {},
    "Tuple": lambda type_: tuple(nothing(_element(each)) for each in type_.arguments),
    "Enum8": lambda type_: next(iter(_enum_names(type_))),
    "Enum16": lambda type_: next(iter(_enum_names(type_))),
    "Decimal": lambda _: Decimal(0),
    "Bool": lambda _: False,
}
"""Of all others it is 0."""

_TO: Final[Mapping[tuple[str, str], Callable[[Type], Convert | None]]] = {
    ("uuid", "UUID"): lambda _: None,
    ("uuid", "String"): lambda _: lambda value: str(UUID(bytes=value)),
    ("uuid", "FixedString"): _as_fixed_uuid,
    ("text", "String"): _to_text,
    ("text", "FixedString"): _to_fixed,
    ("text", "UUID"): _to_uuid,
    ("text", "Enum8"): _to_enum,
    ("text", "Enum16"): _to_enum,
    ("boolean", "Bool"): lambda _: None,
    ("boolean", "integer"): lambda _: int,
    ("integer", "integer"): _to_integer,
    ("integer", "Float64"): _to_whole_float,
    ("integer", "Decimal"): _to_decimal,
    ("float", "Float32"): lambda _: None,
    ("float", "Float64"): lambda _: None,
    ("moment", "DateTime64"): _to_moment,
    ("moment", "DateTime"): _to_second,
    ("json", "String"): lambda _: json_bytes,
    ("json", "Array"): _to_nested,
    ("json", "Map"): _to_nested,
    ("json", "Tuple"): _to_nested,
}
"""From what a word of a layout keeps to each type that holds it."""


# -- JSON inside of a column ------------------------------------------------------------------------------------------


def _element(text: str) -> str:
    """The type of an element of a tuple, which may have a name."""
    name, space, rest = text.partition(" ")
    return rest if space and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*|`.*`", name) else text


def _of_json(type_: Type) -> Convert:
    """From the bytes of a JSON value to a value of `type_`."""
    inner = _of_present_json(type_)

    def convert(raw: Any) -> Any:
        if bytes(raw) != b"null":
            return inner(raw)
        if type_.is_nullable:
            return None
        raise ValueError(f"null is not a {type_}")

    return convert


def _of_present_json(type_: Type) -> Convert:
    if type_.name in INTEGERS:
        within = _to_integer(type_)
        return lambda raw: within(msgspec.json.decode(raw, type=int))
    make = _NESTED.get(type_.name)
    if make is None:
        raise UnfitError(f"the table declares {type_} inside of it")
    return make(type_)


def _of_array(type_: Type) -> Convert:
    element = _of_json(parsed(type_.arguments[0]))
    return lambda raw: [element(each) for each in msgspec.json.decode(raw, type=list[msgspec.Raw])]


def _of_map(type_: Type) -> Convert:
    key, value = parsed(type_.arguments[0]), _of_json(parsed(type_.arguments[1]))
    if key.name != "String":
        raise UnfitError(f"keys of JSON are texts, and the table declares {key}")
    return lambda raw: {
        text(name): value(each) for name, each in msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).items()
    }


def _of_tuple(type_: Type) -> Convert:
    elements = [_of_json(parsed(_element(each))) for each in type_.arguments]
    return lambda raw: _tuple(msgspec.json.decode(raw, type=list[msgspec.Raw]), elements)


_NESTED: Final[Mapping[str, Callable[[Type], Convert]]] = {
    "Array": _of_array,
    "Map": _of_map,
    "Tuple": _of_tuple,
    "String": lambda _: _json_text,
    "Bool": lambda _: lambda raw: msgspec.json.decode(raw, type=bool),
    "Float64": lambda _: lambda raw: msgspec.json.decode(raw, type=float),
    "UUID": lambda _: lambda raw: msgspec.json.decode(raw, type=UUID).bytes,
}
"""Of JSON that is not null."""


def _tuple(given: list[msgspec.Raw], elements: list[Convert]) -> tuple[Any, ...]:
    if len(given) != len(elements):
        raise ValueError(f"it has {len(given)} elements, and the column {len(elements)}")
    return tuple(element(each) for element, each in zip(elements, given, strict=True))


def _json_text(raw: Any) -> str:
    """A text; a number or a truth value as it is written."""
    said = bytes(raw)
    if said[:1] in {b"{", b"["}:
        raise ValueError("an object or array stands where a text belongs")
    return text(msgspec.json.decode(said, type=str)) if said[:1] == b'"' else said.decode()


# -- columns of events ------------------------------------------------------------------------------------------------


def _date(value: int) -> int:
    if not _DAYS[0] <= value <= _DAYS[1]:
        raise ValueError("a Date32 is of the years 1900 to 2299")
    return value


def _shown(per_second: int) -> Convert:
    def convert(value: int) -> int:
        if not _is_shown(value // per_second):
            raise ValueError("a DateTime64 is of the years 1900 to 2299")
        return value

    return convert


def _seconds(digits: int) -> Convert:
    beyond = 10**18

    def convert(value: int) -> Decimal:
        if not -beyond < value < beyond:
            raise ValueError(f"{value} has more than 18 digits")
        return Decimal(value).scaleb(-digits)

    return convert


_OF_TYPES: Final[Mapping[ColumnType, Convert]] = {
    ColumnType.DATE: _date,
    ColumnType.DATETIME: _shown(1_000_000),
    ColumnType.TIMESTAMP_SECOND: _shown(1),
    ColumnType.TIMESTAMP_MILLISECOND: _shown(1_000),
    ColumnType.TIMESTAMP_MICROSECOND: _shown(1_000_000),
    ColumnType.TIME_SECOND: _seconds(0),
    ColumnType.TIME_MILLISECOND: _seconds(3),
    ColumnType.TIME_MICROSECOND: _seconds(6),
    ColumnType.TIME_NANOSECOND: _seconds(9),
    ColumnType.INTERVAL_DAY_TIME: _seconds(3),
    ColumnType.INTERVAL_MONTH_DAY_NANO: lambda value: msgspec.json.encode(value).decode(),
    ColumnType.DECIMAL128: Decimal,
    ColumnType.LIST: json_bytes,
    ColumnType.STRUCT: json_bytes,
}
"""Those that are not what the client takes already."""
