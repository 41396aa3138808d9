"""The fields of a binary COPY as texts: what a server that takes no COPY is given, as arrays of an INSERT.

A text is what PostgreSQL reads as the very value of the field, whatever the session is set to. The formats are those
that `columns.py` and `layouts.py` write.
"""

from __future__ import annotations

import re
from datetime import date
from struct import Struct
from typing import TYPE_CHECKING, Final

from eventrec_handlers.postgres.columns import EPOCH_DAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = -1
_NULL: Final = -1

_short: Final = Struct(">h").unpack_from
_int: Final = Struct(">i").unpack_from
_real: Final = Struct(">f").unpack
_double: Final = Struct(">d").unpack
_interval_parts: Final = Struct(">qii").unpack
_numeric_head: Final = Struct(">hhHH")
_array_head: Final = Struct(">iii")


def field_texts(data: bytes, declared: Sequence[str]) -> list[list[str | None]]:
    """For each column the texts of its fields. `data` is a part of the stream of a COPY, of whole rows.

    `declared` are the types of the columns, as `format_type` spells them.
    """
    readers = [_reader(each) for each in declared]
    columns: list[list[str | None]] = [[] for _ in declared]
    at = len(_SIGNATURE) if data.startswith(_SIGNATURE) else 0
    while at < len(data) and _short(data, at)[0] != _END:
        at += 2
        for column, read in zip(columns, readers, strict=True):
            (length,) = _int(data, at)
            at += 4
            if length == _NULL:
                column.append(None)
                continue
            column.append(read(data[at : at + length]))
            at += length
    return columns


def _reader(declared: str) -> Callable[[bytes], str]:
    word = re.sub(r"\([\d,-]+\)", "", declared)
    return _READERS.get(word, bytes.decode)


# -- one function per type --------------------------------------------------------------------------------------------

_400_YEARS: Final = 146_097
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal() + EPOCH_DAYS
_DAY: Final = 86_400_000_000


def _integer(field: bytes) -> str:
    return str(int.from_bytes(field, signed=True))


def _date(days: int) -> str:
    """A day, counted from 2000: of any year, which Python's dates are not."""
    cycles, within = divmod(days + _EPOCH_ORDINAL - 1, _400_YEARS)
    day = date.fromordinal(within + 1)
    year = day.year + 400 * cycles
    return f"{year if year > 0 else 1 - year:04d}-{day.month:02d}-{day.day:02d}"


def _is_before_christ(days: int) -> bool:
    return days + _EPOCH_ORDINAL < 1


def _clock(microseconds: int) -> str:
    """A time of a day, or of more than one."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    return f"{seconds // 3_600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{fraction:06d}"


def _day(field: bytes) -> str:
    (days,) = _int(field)
    return _date(days) + " BC" * _is_before_christ(days)


def _moment(field: bytes) -> str:
    days, rest = divmod(int.from_bytes(field, signed=True), _DAY)
    return f"{_date(days)} {_clock(rest)}+00{' BC' * _is_before_christ(days)}"


def _interval(field: bytes) -> str:
    microseconds, days, months = _interval_parts(field)
    sign = "-" * (microseconds < 0)
    return f"{months} months {days} days {sign}{_clock(abs(microseconds))}"


def _numeric(field: bytes) -> str:
    count, weight, sign, scale = _numeric_head.unpack_from(field)
    groups = [_short(field, _numeric_head.size + 2 * i)[0] for i in range(count)]
    # The first group counts 10,000 to the power of the weight.
    whole = "".join(f"{groups[i] if 0 <= i < count else 0:04d}" for i in range(weight + 1)) or "0"
    behind = "".join(
        f"{groups[i] if 0 <= i < count else 0:04d}" for i in range(weight + 1, weight + 1 + -(-scale // 4))
    )
    return f"{'-' * bool(sign)}{whole}{'.' * bool(scale)}{behind[:scale]}"


def _real_array(field: bytes) -> str:
    dimensions, _, _ = _array_head.unpack_from(field)
    if not dimensions:
        return "{}"
    (size,) = _int(field, _array_head.size)
    start = _array_head.size + 12  # its length and where it begins, then the length of the first one
    return f"{{{','.join(repr(_real(field[at : at + 4])[0]) for at in range(start, start + 8 * size, 8))}}}"


_READERS: Final[Mapping[str, Callable[[bytes], str]]] = {
    "boolean": lambda field: str(field != b"\0").lower(),
    "smallint": _integer,
    "integer": _integer,
    "bigint": _integer,
    "numeric": _numeric,
    "real": lambda field: repr(_real(field)[0]),
    "double precision": lambda field: repr(_double(field)[0]),
    "real[]": _real_array,
    "bytea": lambda field: rf"\x{field.hex()}",
    "uuid": bytes.hex,
    "jsonb": lambda field: field[1:].decode(),
    "date": _day,
    "timestamp with time zone": _moment,
    "time without time zone": lambda field: _clock(int.from_bytes(field)),
    "interval": _interval,
}
"""How a field of a type becomes text; of any other type it is text already."""
