"""The rows that an event adds to its base columns, as msgpack: each value in the form its column keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from eventrec.errors import EncodeError, InvalidEventError, RowWidthError
from eventrec.records.column_types import ColumnType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventrec.records.schema import ColumnSchema, Row, Shape

MAX_ROWS: Final = 1 << 14
"""Rows of one event: what the row number in an id can tell apart."""

_encode_msgpack: Final = msgspec.msgpack.Encoder().encode


def encode_rows(shape: Shape, rows: Sequence[Row]) -> bytes:
    """The extra rows as msgpack, each value in the form its column keeps.

    Raises:
        RowWidthError: A row is wider or narrower than the extra schema.
        EncodeError: A value does not fit its column.
        InvalidEventError: More than 16,384 rows, or a row that is not a sequence.
    """
    if len(rows) > MAX_ROWS:
        raise InvalidEventError(f"an event has at most {MAX_ROWS} rows, got {len(rows)}")
    normalizers = shape.normalizers
    width = len(normalizers)
    kept = []
    for row in rows:
        if row.__class__ is not tuple:
            check_sequence("a row", row)
        if len(row) != width:
            raise RowWidthError(f"a row of type {shape.type!r}", [str(column) for column in shape.columns], len(row))
        kept.append([None if value is None else fit(value) for fit, value in zip(normalizers, row, strict=False)])
    try:
        return _encode_msgpack(kept)
    except UnicodeEncodeError as exc:
        named = next((column for column, value in _cells(shape, kept) if _is_broken_text(value)), shape)
        raise EncodeError(f"column {named}: a value of kind str is not valid Unicode: {exc.reason}") from exc


def check_sequence(what: str, value: object) -> None:
    """Raise InvalidEventError where `value`, called `what` in it, is not a sequence of cells or rows."""
    if value.__class__ in (tuple, list):
        return
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)):
        raise InvalidEventError(f"{what} must be a sequence, got {type(value).__name__}")


def _cells(shape: Shape, kept: Sequence[Row]) -> Iterator[tuple[ColumnSchema, object]]:
    return (cell for row in kept for cell in zip(shape.columns, row, strict=True))


def _is_broken_text(value: object) -> bool:
    return isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value)


def encode_kept_rows(rows: Sequence[Row]) -> bytes:
    """The extra rows as msgpack, where each value already is in the form its column keeps."""
    return _encode_msgpack(rows)


decode_rows: Final[Callable[[bytes], list[list[Any]]]] = msgspec.msgpack.Decoder(list[list[Any]]).decode
"""The rows that `encode_rows` encoded."""

EachRows: TypeAlias = "list[tuple[tuple[Any, ...], ...]]"

_decode_each: Final[Callable[[bytes], EachRows]] = msgspec.msgpack.Decoder(list[tuple[tuple[Any, ...], ...]]).decode


def decode_each_rows(encoded: Sequence[bytes]) -> EachRows:
    """The rows of each of `encoded`: in one step, which takes half of the time of one by one."""
    return _decode_each(b"".join((_ARRAY_32, len(encoded).to_bytes(4), *encoded)))


_decode_flat: Final[Callable[[bytes], list[Any]]] = msgspec.msgpack.Decoder(list[Any]).decode


def decode_columns(encoded: Sequence[bytes], width: int) -> list[list[Any]] | None:
    """The values of each of `width` columns, where each of `encoded` is one row of so many; None: perhaps not.

    Takes two thirds of `decode_each_rows`, and makes nothing that the garbage collector looks through.
    """
    if not 0 < width <= _MAX_FIXARRAY:
        return None
    opening = bytes((_FIXARRAY | 1, _FIXARRAY | width))
    values = [each[2:] for each in encoded if each[:2] == opening]
    if len(values) != len(encoded):
        return None
    flat = _decode_flat(b"".join((_ARRAY_32, (len(encoded) * width).to_bytes(4), *values)))
    return [flat[i::width] for i in range(width)]


_FIXARRAY: Final = 0x90
"""msgpack: an array of at most 15 elements, whose number is in the lower half of this byte."""

_MAX_FIXARRAY: Final = 15

_ARRAY_32: Final = b"\xdd"
"""msgpack: the number of elements follows in 4 bytes, then these."""


def rows_document(shape: Shape, extra_rows: bytes) -> dict[str, Any]:
    """The extra rows as JSON can say them: the columns as `str(ColumnSchema)`, and the rows.

    Values are in the form their column keeps; JSON columns are `msgspec.Raw`, and bytes become base64 when encoded.
    """
    return {
        "columns": [str(column) for column in shape.columns],
        "rows": [
            [
                msgspec.Raw(value) if value is not None and column.type in _JSON_TYPES else value
                for column, value in zip(shape.columns, row, strict=True)
            ]
            for row in decode_rows(extra_rows)
        ],
    }


_JSON_TYPES: Final = frozenset({ColumnType.JSON, ColumnType.LIST, ColumnType.STRUCT})
