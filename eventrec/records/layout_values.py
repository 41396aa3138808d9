"""Values of records as the columns of a layout keep them; what does not fit is said in words.

column holds      kept as
uuid              16 bytes
text, varchar     str
boolean           bool
smallint …        int
real, double      float
timestamptz       int, nanoseconds since the epoch, UTC
json, jsonb       bytes, JSON text in UTF-8
a ColumnType      as `eventrec.records.normalizers` says
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from uuid import UUID

import msgspec

from eventrec.errors import EncodeError
from eventrec.records.column_types import MOMENTS, TEXTUAL, WHOLE_NUMBERS, ColumnType
from eventrec.records.layout_columns import LARGEST, RANGES
from eventrec.records.times import nanoseconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.records.layout_columns import LayoutColumn
    from eventrec.records.schema import ColumnSchema

Fit: TypeAlias = "Callable[[Any], Any]"
"""A value, never None, to the kept one, or None where it is null; ValueError says why it does not fit."""

_JSON: Final = frozenset({"json", "jsonb"})
_JSON_TYPES: Final = frozenset({ColumnType.JSON, ColumnType.LIST, ColumnType.STRUCT})
_NULL: Final = b"null"

_MAX_EXACT: Final = 2**53
"""Below it a number that is written with a fraction, or an exponent, is a whole one exactly."""


def fit_json(column: LayoutColumn) -> Fit:
    """What turns the bytes of a JSON value into the kept value of `column`."""
    word = column.word
    if word in _JSON:
        return lambda raw: None if bytes(raw) == _NULL else bytes(raw)
    fit = _fit(column)

    def fit_decoded(raw: Any) -> Any:
        try:
            value = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise ValueError(f"it cannot be read: {exc}") from exc
        return None if value is None else fit(value)

    return fit_decoded


def fit_field(column: LayoutColumn, given: ColumnSchema) -> Fit | None:
    """What turns a value of the event's column `given` into the kept value of `column`; None: it is one already.

    Raises:
        ValueError: No value of that column fits.
    """
    if column.type == given.type:
        return None
    word = column.word
    nanosecond = MOMENTS.get(given.type)
    if nanosecond is not None and word == "timestamptz":
        return lambda value: value * nanosecond
    if word is not None and given.type in _JSON_TYPES:
        return fit_json(column)
    if word is not None and word not in _JSON and word != "timestamptz" and given.type in _PLAIN:
        return _fit(column)
    raise _unfit(f"the event declares it {given.type.name}")


def fit_text(column: LayoutColumn) -> Fit:
    """What checks a text that is kept as it is."""
    return _fit(column)


_decode: Final = msgspec.json.Decoder().decode

_PLAIN: Final = TEXTUAL | WHOLE_NUMBERS | {ColumnType.BOOLEAN, ColumnType.FLOAT32, ColumnType.FLOAT64}
"""Types whose kept values are those that JSON has."""


def _unfit(why: str) -> ValueError:
    """The error of a value that an application gave."""
    return ValueError(why)


def _fit(column: LayoutColumn) -> Fit:
    word = column.word
    match word:
        case "uuid":
            return _uuid
        case "text" | "varchar":
            return _text(column.length)
        case "boolean":
            return _boolean
        case "smallint" | "integer" | "bigint":
            return _integer(RANGES[word])
        case "real" | "double":
            return _float(LARGEST[word])
        case _:
            return _moment


def _uuid(value: object) -> bytes:
    if isinstance(value, str):
        try:
            return UUID(value).bytes
        except ValueError:
            pass
    raise _unfit("it is not a UUID")


def _text(length: int | None) -> Fit:
    def fit(value: object) -> str:
        if not isinstance(value, str):
            raise _unfit("it is not a text")
        if length is not None and len(value) > length:
            raise _unfit(f"it has {len(value)} characters, and the column holds {length}")
        return value

    return fit


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _unfit("it is neither true nor false")


def _integer(beyond: int) -> Fit:
    def fit(value: object) -> int:
        if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise _unfit("it is not a whole number")
        if not -beyond <= value < beyond:
            raise _unfit(f"it is not from {-beyond} to {beyond - 1}")
        return value

    return fit


def _float(largest: float) -> Fit:
    def fit(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _unfit("it is not a number")
        if not -largest <= value <= largest:
            raise _unfit("it is too large")
        kept = float(value)
        if kept != value:
            raise _unfit("no float equals it")
        return kept

    return fit


_FINER: Final = re.compile(r"[^T ]+[T ][\d:]+[.,]\d{6}(\d{1,3})", re.ASCII)
"""The nanoseconds of a moment."""


def _moment(value: object) -> int:
    if not isinstance(value, str):
        raise _unfit("it is not a moment as RFC 3339 writes it")
    try:
        finer = _FINER.match(value)  # which `fromisoformat` reads over
        return nanoseconds(datetime.fromisoformat(value)) + (0 if finer is None else int(f"{finer[1]:0<3}"))
    except (ValueError, OverflowError, EncodeError) as exc:
        raise ValueError("it is not a moment as RFC 3339 writes it, with a zone") from exc
