"""The columns of many rows as one value each: cheaper than arrays to make, to send and to read, for server and driver.

    buckets, integers, floats    8 bytes each, one behind the other
    texts, UUIDs                 parted by a character
    what else there is           an array

A NULL is sent as a mark. Whether marks, and the parting character, are only what they stand for is told by counting the
values that are not NULL: where that does not come out, a value looks like one of them, and the columns have to be asked
for as arrays.
"""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Any, Final

from eventrec_handlers._sql import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.analytics import AnswerColumn

ROWS: Final = "count(*)"
"""How many rows there are: what comes before all columns."""

_SECOND: Final = 1_000_000_000
_NO_INTEGER: Final = -(2**63)
_NO_FLOAT: Final = 0x7FF8_DEAD_0000_0001
"""The bits of a float that is not a number, and that no arithmetic gives."""

_PARTED_BY: Final = "\x01"
_NO_TEXT: Final = "\x02"


class LooksLikeMarkError(Exception):
    """A value looks like a mark: arrays tell the two apart."""


def packed(column: AnswerColumn, *, is_numeric: bool) -> tuple[str, str]:
    """The expressions that give `column` of all rows, for `unpacked`. `is_numeric`: it may be beyond 64 bits."""
    name = quoted(column.name)
    if column.role == "bucket":
        return f"string_agg(int8send(date_part('epoch', {name})::bigint), ''::bytea)", ROWS
    match column.kind:
        case "integer" if not is_numeric:
            return _bytes(f"int8send({name}::bigint)", _NO_INTEGER), f"count({name})"
        case "float":
            return _bytes(f"float8send({name}::float8)", _NO_FLOAT), f"count({name})"
        case "text" | "uuid":
            said = f"coalesce({name}::text, chr({ord(_NO_TEXT)}))"
            return f"string_agg({said}, chr({ord(_PARTED_BY)}))", f"count({name})"
        case _:
            return as_array(column, is_numeric=is_numeric)


def as_array(column: AnswerColumn, *, is_numeric: bool) -> tuple[str, str]:
    """As `packed`, each as an array."""
    del is_numeric
    name = quoted(column.name)
    if column.role == "bucket":
        return f"array_agg(date_part('epoch', {name})::bigint)", ROWS
    return f"array_agg({f'{name}::text' if column.kind == 'uuid' else name})", f"count({name})"


def unpacked(column: AnswerColumn, value: Any, rows: int, known: int) -> Sequence[Any]:
    """The values of `column` in `rows` rows, of which `known` are not NULL, out of what `packed` gave.

    Raises:
        LooksLikeMarkError: It cannot be told which are.
    """
    if value is None:
        return []
    found, looks, mark = _read(column, value)
    if column.role == "bucket":
        return [seconds * _SECOND for seconds in found]
    if len(found) != rows:
        raise LooksLikeMarkError
    if known == rows and _has_none(value, mark):
        return found
    if looks.count(mark) != rows - known:
        raise LooksLikeMarkError
    values, place = list(found), -1
    for _ in range(rows - known):
        place = looks.index(mark, place + 1)
        values[place] = None
    return values


def _read(column: AnswerColumn, value: Any) -> tuple[Sequence[Any], Sequence[Any], object]:
    """The values of a column, what tells whether one is a mark, and the mark."""
    if isinstance(value, str):
        texts = value.split(_PARTED_BY)
        return texts, texts, _NO_TEXT
    if not isinstance(value, bytes):
        return value, value, None
    numbers = _numbers("q", value)
    return (_numbers("d", value), numbers, _NO_FLOAT) if column.kind == "float" else (numbers, numbers, _NO_INTEGER)


def _has_none(value: Any, mark: object) -> bool:
    """Whether no part of `value` can be a mark: a quick look."""
    if isinstance(value, bytes) and isinstance(mark, int):
        return _bits(mark) not in value
    return not isinstance(value, str) or _NO_TEXT not in value


def _bits(mark: int) -> bytes:
    return (mark % 2**64).to_bytes(8)


def _bytes(sent: str, mark: int) -> str:
    return f"string_agg(coalesce({sent}, decode('{_bits(mark).hex()}', 'hex')), ''::bytea)"


def _numbers(kind: str, packed: bytes) -> array[Any]:
    numbers = array(kind, packed)
    if sys.byteorder == "little":
        numbers.byteswap()  # what the server sends begins with the highest
    return numbers
