"""Single values to what each type takes; what it cannot hold exactly is refused, in words, but moments are cut off."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Final
from uuid import UUID

from eventrec_handlers.clickhouse.types import INTEGERS, UnfitError

if TYPE_CHECKING:
    from eventrec_handlers._sql import Convert
    from eventrec_handlers.clickhouse.types import Type

_EXACT: Final = 2**53
_SECOND: Final = 1_000_000_000
_MOMENT: Final = (-2_208_988_800, 10_413_791_999)
"""Of a DateTime64 that is not in nanoseconds: the same years, in seconds."""


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


def to_text(_: Type) -> Convert:
    """A text."""
    return text


def to_fixed(type_: Type) -> Convert:
    """A text, filled up with NUL."""
    size = int(type_.arguments[0])

    def convert(value: str) -> bytes:
        said = text(value).encode()
        if len(said) > size:
            raise ValueError(f"it has {len(said)} bytes, and the column holds {size}")
        if said.endswith(b"\0"):
            raise ValueError("it ends with NUL, with which the column fills up")
        return said.ljust(size, b"\0")

    return convert


def to_uuid(_: Type) -> Convert:
    """The bytes of the UUID that a text is."""

    def convert(value: str) -> bytes:
        try:
            return UUID(value).bytes
        except ValueError:
            raise ValueError("it is not a UUID") from None

    return convert


def to_enum(type_: Type) -> Convert:
    """One of its names."""
    names = enum_names(type_)

    def convert(value: str) -> str:
        if value not in names:
            raise ValueError(f"it is not one of {', '.join(sorted(names))[:200]}")
        return value

    return convert


def enum_names(type_: Type) -> dict[str, None]:
    """The names of an enum, in its order."""
    found = (re.match(r"'((?:[^'\\]|\\.)*)'", each) for each in type_.arguments)
    return {re.sub(r"\\(.)", r"\1", each[1]): None for each in found if each is not None}


def to_integer(type_: Type) -> Convert:
    """A whole number in its range."""
    low, high = INTEGERS[type_.name]

    def convert(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"it is not from {low} to {high}")
        return value

    return convert


def to_whole_float(_: Type) -> Convert:
    """A whole number, where a float equals it."""

    def convert(value: int) -> float:
        if abs(value) > _EXACT:
            raise ValueError("no float of 64 bits equals it for certain")
        return float(value)

    return convert


def to_decimal(type_: Type) -> Convert:
    """A whole number, where it has no more digits."""
    precision, scale = map(int, type_.arguments)
    beyond = int(10 ** (precision - scale))

    def convert(value: int) -> Decimal:
        if not -beyond < value < beyond:
            raise ValueError(f"it has more than {precision - scale} digits before the point")
        return Decimal(value)

    return convert


def to_moment(type_: Type) -> Convert:
    """Nanoseconds in units of its own, cut off towards the past."""
    digits = int(type_.arguments[0]) if type_.arguments else 3
    unit = int(10 ** (9 - digits))

    def convert(value: int) -> int:
        if not (-(2**63) <= value < 2**63 if unit == 1 else is_shown(value // _SECOND)):
            raise ValueError("a DateTime64 is from the year 1900 to 2299, in nanoseconds from 1677 to 2262")
        return value // unit

    return convert


def is_shown(second: int) -> bool:
    """Whether a DateTime64 that is not in nanoseconds can be of that second."""
    return _MOMENT[0] <= second <= _MOMENT[1]


def to_second(_: Type) -> Convert:
    """Nanoseconds as seconds, cut off towards the past."""

    def convert(value: int) -> int:
        second = int(value) // _SECOND
        if not 0 <= second < 2**32:
            raise ValueError("a DateTime is from the year 1970 to 2106")
        return second

    return convert


def as_fixed_uuid(type_: Type) -> Convert:
    """The text of a UUID."""
    if type_.arguments != ("36",):
        raise UnfitError(f"the table declares it {type_}")
    return lambda value: str(UUID(bytes=value)).encode()
