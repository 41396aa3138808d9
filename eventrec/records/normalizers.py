"""One value of a column, from what the application gives to the one plain form that a record keeps.

A value is kept in one plain form per type, so that a record reads the same from memory and from a log:

    type                         the application may give           kept as
    BOOLEAN                      bool                               bool
    INT8 … UINT64                int, within the type's range       int
    FLOAT32, FLOAT64             float, or int that one is equal to  float
    BINARY                       bytes-like                         bytes
    STRING, DICTIONARY           str, UUID, an Enum of str          str
    DATE                         date, int                          int, days since 1970-01-01
    DATETIME                     datetime, int                      int, microseconds since the epoch, UTC
    TIMESTAMP_SECOND … NANOSECOND  datetime, int                    int, in the type's unit, since the epoch, UTC
    TIME_SECOND … NANOSECOND     time, int                          int, in the type's unit, since midnight
    INTERVAL_YEAR_MONTH          int                                int, months
    INTERVAL_DAY_TIME            timedelta, int                     int, milliseconds
    INTERVAL_MONTH_DAY_NANO      timedelta, (months, days, ns)      [int, int, int]
    DECIMAL128                   Decimal, int; exact, see `_decimal`  str
    JSON                         a JSON value                       bytes, JSON text in UTF-8
    LIST, STRUCT                 a JSON array, a JSON object        bytes, JSON text in UTF-8
    VECTOR                       a list or tuple of numbers         list of float

An int subclass is taken as int, a bool never. Subclasses count by what they hold: a pandas Timestamp or Timedelta to
the nanosecond. What is finer than the unit that a column declares is cut off towards the past; nothing else is changed.
"""

from __future__ import annotations

import enum
import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias
from uuid import UUID

from eventrec.errors import EncodeError
from eventrec.records.column_types import MAX_PRECISION, MOMENTS, ColumnType
from eventrec.records.json import encode_json
from eventrec.records.marked_values import MarkedValueError
from eventrec.records.times import days_and_nanoseconds, nanoseconds

if TYPE_CHECKING:
    from collections.abc import Callable


class _Column(Protocol):
    """What is asked of a `ColumnSchema`, which stands above: its class checks itself by what is here."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> ColumnType: ...
    @property
    def precision(self) -> int | None: ...
    @property
    def scale(self) -> int | None: ...
    @property
    def dimensions(self) -> int | None: ...


Normalizer: TypeAlias = "Callable[[object], object]"
"""Turns a given value, never None, into the kept one; raises EncodeError naming column, value kind and column type."""


def _refuse(column: _Column, value: object, why: str = "") -> EncodeError:
    kind = type(value).__name__
    return EncodeError(f"column {column.name!r}: a value of kind {kind} does not fit {column.type.name}{why}")


def _boolean(column: _Column) -> Normalizer:
    def normalize(value: object) -> object:
        if value is True or value is False:
            return value
        raise _refuse(column, value)

    return normalize


def _integer(low: int, high: int) -> Callable[[_Column], Normalizer]:
    def make(column: _Column) -> Normalizer:
        def normalize(value: object) -> object:
            if not isinstance(value, int) or isinstance(value, bool):
                raise _refuse(column, value)
            kept = value if value.__class__ is int else int.__int__(value)
            if not low <= kept <= high:
                raise _refuse(column, value, f": allowed are {low} to {high}")
            return kept

        return normalize

    return make


_FLOAT32_LIMIT: Final = (2 - 2**-24) * 2.0**127
"""From here on, a float rounds to infinity in 32 bit."""


def _float(limit: float) -> Callable[[_Column], Normalizer]:
    def make(column: _Column) -> Normalizer:
        def normalize(value: object) -> object:
            if value.__class__ is float:
                kept: float = value
            elif isinstance(value, float):
                kept = float.__float__(value)
            elif isinstance(value, int) and not isinstance(value, bool):
                kept = _as_float(column, int.__int__(value))
            else:
                raise _refuse(column, value)
            if -limit < kept < limit:
                return kept
            raise _refuse(column, value, ": it must be finite and in range")

        return normalize

    return make


def _as_float(column: _Column, value: int) -> float:
    try:
        kept = float(value)
    except OverflowError:
        return math.inf
    if kept != value:
        raise _refuse(column, value, ": no float is equal to it")
    return kept


def _binary(column: _Column) -> Normalizer:
    def normalize(value: object) -> object:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise _refuse(column, value)
        return bytes(value)

    return normalize


def _string(column: _Column) -> Normalizer:
    def normalize(value: object) -> object:
        if type(value) is str:
            return value
        if isinstance(value, UUID):
            return str(value if type(value) is UUID else UUID(int=value.int))
        said = value.value if isinstance(value, enum.Enum) else value
        if isinstance(said, str):
            return str.__str__(said)  # What it is, whatever a subclass says it looks like.
        raise _refuse(column, value)

    return normalize


_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_I32: Final = (-(2**31), 2**31 - 1)
_I64: Final = (-(2**63), 2**63 - 1)


def _in_unit(
    kind: type, low: int, high: int, convert: Callable[[Any], int], *, excluding: type | None = None
) -> Callable[[_Column], Normalizer]:
    """Values of `kind`, turned into an int by `convert`, or that int itself; of `low` to `high`."""

    def make(column: _Column) -> Normalizer:
        def normalize(value: object) -> object:
            if isinstance(value, kind) and not (excluding is not None and isinstance(value, excluding)):
                try:
                    kept = convert(value)
                except EncodeError as exc:
                    raise _refuse(column, value, f": {exc}") from exc
            elif isinstance(value, int) and not isinstance(value, bool):
                kept = int.__int__(value)
            else:
                raise _refuse(column, value)
            if not low <= kept <= high:
                raise _refuse(column, value, f": allowed are {low} to {high}")
            return kept

        return normalize

    return make


def _moment(per_unit: int) -> Callable[[_Column], Normalizer]:
    return _in_unit(datetime, *_I64, lambda moment: nanoseconds(moment) // per_unit)


def _time(per_unit: int) -> Callable[[_Column], Normalizer]:
    def convert(of_day: time) -> int:
        if of_day.tzinfo is not None:
            raise EncodeError("a time of day carries no time zone")
        seconds = (of_day.hour * 60 + of_day.minute) * 60 + of_day.second
        return (seconds * 1_000_000_000 + of_day.microsecond * 1_000) // per_unit

    return _in_unit(time, 0, 86_400 * 1_000_000_000 // per_unit - 1, convert)


def _milliseconds(span: timedelta) -> int:
    days, rest = days_and_nanoseconds(span)
    return days * 86_400_000 + rest // 1_000_000


def _months_days_nanoseconds(column: _Column) -> Normalizer:
    parts = (_signed(32)(column), _signed(32)(column), _signed(64)(column))

    def normalize(value: object) -> object:
        if isinstance(value, timedelta):
            try:
                return [0, *days_and_nanoseconds(value)]
            except EncodeError as exc:
                raise _refuse(column, value, f": {exc}") from exc
        if isinstance(value, (tuple, list)) and len(value) == len(parts):
            return [whole(part) for whole, part in zip(parts, value, strict=True)]
        raise _refuse(column, value, ": allowed are a timedelta or (months, days, nanoseconds)")

    return normalize


def _decimal(column: _Column) -> Normalizer:
    """Exact or refused: nothing is rounded; zeros at the end do not count as digits.

    At most `precision` digits (38 where none is given), of which at most `scale` follow the point.
    """
    precision = MAX_PRECISION if column.precision is None else column.precision
    scale = precision if column.scale is None else column.scale
    before = precision if column.scale is None else precision - column.scale

    def normalize(value: object) -> object:
        if not isinstance(value, (Decimal, int)) or isinstance(value, bool):
            raise _refuse(column, value)
        exact = Decimal(value)
        if not exact.is_finite():
            raise _refuse(column, value, ": it must be finite")
        _, digits, exponent = exact.as_tuple()
        significant = len(digits)
        while significant > 1 and digits[significant - 1] == 0:
            significant -= 1
        last = int(exponent) + len(digits) - significant  # the power of ten of the last digit that counts
        whole, behind = max(0, exact.adjusted() + 1), max(0, -last)
        if exact and (whole > before or behind > scale or whole + behind > precision):
            raise _refuse(
                column, value, f": allowed are {before} digits before the point, {scale} after, {precision} in all"
            )
        return format(exact, "f") if exact else "0"

    return normalize


def _json(opening: bytes, what: str) -> Callable[[_Column], Normalizer]:
    def make(column: _Column) -> Normalizer:
        def normalize(value: object) -> object:
            try:
                encoded = encode_json(value)
            except MarkedValueError:
                raise
            except EncodeError as exc:
                raise _refuse(column, value, f": {exc}") from exc
            if not encoded.startswith(opening):
                raise _refuse(column, value, f": it must be {what}")
            return encoded

        return normalize

    return make


def _vector(column: _Column) -> Normalizer:
    number = _float(_FLOAT32_LIMIT)(column)

    def normalize(value: object) -> object:
        if not isinstance(value, (tuple, list)):
            raise _refuse(column, value)
        if column.dimensions is not None and len(value) != column.dimensions:
            raise _refuse(column, value, f" of {column.dimensions} dimensions: it has {len(value)}")
        return [number(part) for part in value]

    return normalize


def _signed(bits: int) -> Callable[[_Column], Normalizer]:
    return _integer(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _unsigned(bits: int) -> Callable[[_Column], Normalizer]:
    return _integer(0, 2**bits - 1)


NORMALIZERS: Final[dict[ColumnType, Callable[[_Column], Normalizer]]] = {
    ColumnType.BOOLEAN: _boolean,
    ColumnType.INT8: _signed(8),
    ColumnType.INT16: _signed(16),
    ColumnType.INT32: _signed(32),
    ColumnType.INT64: _signed(64),
    ColumnType.UINT8: _unsigned(8),
    ColumnType.UINT16: _unsigned(16),
    ColumnType.UINT32: _unsigned(32),
    ColumnType.UINT64: _unsigned(64),
    ColumnType.FLOAT32: _float(_FLOAT32_LIMIT),
    ColumnType.FLOAT64: _float(math.inf),
    ColumnType.BINARY: _binary,
    ColumnType.STRING: _string,
    ColumnType.DATE: _in_unit(date, *_I32, lambda day: date.toordinal(day) - _EPOCH_DAY, excluding=datetime),
    **{kind: _moment(unit) for kind, unit in MOMENTS.items()},
    ColumnType.TIME_SECOND: _time(1_000_000_000),
    ColumnType.TIME_MILLISECOND: _time(1_000_000),
    ColumnType.TIME_MICROSECOND: _time(1_000),
    ColumnType.TIME_NANOSECOND: _time(1),
    ColumnType.INTERVAL_YEAR_MONTH: _signed(32),
    ColumnType.INTERVAL_DAY_TIME: _in_unit(timedelta, *_I64, _milliseconds),
    ColumnType.INTERVAL_MONTH_DAY_NANO: _months_days_nanoseconds,
    ColumnType.DECIMAL128: _decimal,
    ColumnType.JSON: _json(b"", "any JSON value"),
    ColumnType.VECTOR: _vector,
    ColumnType.LIST: _json(b"[", "a JSON array"),
    ColumnType.STRUCT: _json(b"{", "a JSON object"),
    ColumnType.DICTIONARY: _string,
}
