"""Values of each column type, drawn by a seed: usual ones, extremes, any script, and NULL."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from decimal import Context, Decimal
from random import Random
from typing import Any

from eventrec import ColumnType

_EXACT = Context(prec=60)

_BITS = {
    ColumnType.INT8: (-(2**7), 2**7 - 1),
    ColumnType.INT16: (-(2**15), 2**15 - 1),
    ColumnType.INT32: (-(2**31), 2**31 - 1),
    ColumnType.INT64: (-(2**63), 2**63 - 1),
    ColumnType.UINT8: (0, 2**8 - 1),
    ColumnType.UINT16: (0, 2**16 - 1),
    ColumnType.UINT32: (0, 2**32 - 1),
    ColumnType.UINT64: (0, 2**64 - 1),
    ColumnType.DATE: (-(2**31), 2**31 - 1),
    ColumnType.DATETIME: (-(2**63), 2**63 - 1),
    ColumnType.TIMESTAMP_SECOND: (-(2**63), 2**63 - 1),
    ColumnType.TIMESTAMP_MILLISECOND: (-(2**63), 2**63 - 1),
    ColumnType.TIMESTAMP_MICROSECOND: (-(2**63), 2**63 - 1),
    ColumnType.TIMESTAMP_NANOSECOND: (-(2**63), 2**63 - 1),
    ColumnType.TIME_SECOND: (0, 86_399),
    ColumnType.TIME_MILLISECOND: (0, 86_399_999),
    ColumnType.TIME_MICROSECOND: (0, 86_399_999_999),
    ColumnType.TIME_NANOSECOND: (0, 86_399_999_999_999),
    ColumnType.INTERVAL_YEAR_MONTH: (-(2**31), 2**31 - 1),
    ColumnType.INTERVAL_DAY_TIME: (-(2**31) * 86_400_000 + 1, 2**31 * 86_400_000 - 1),
}

_TEXTS = (
    "",
    "a",
    "é",
    "日本語",
    "🎉👩‍👩‍👧",
    "עברית",
    "'; DROP TABLE events; --",
    'a"b\\c',
    "\t\n\r",
    "x" * 300,
    "\ud7ff\ue000",
)
_DOUBLES = (0.0, -0.0, 1.0, 0.1, -2.5e-10, 5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 1e22, 2.0**63)


def whole(random: Random, low: int, high: int) -> int:
    """A whole number: an end, one beside a power of two, or any."""
    near = 2 ** random.randrange(65) * random.choice((1, -1)) + random.choice((-1, 0, 1))
    return min(max(random.choice((low, high, 0, near, random.randint(low, high))), low), high)


def text(random: Random) -> str:
    """A text of any script."""
    if random.random() < 0.5:
        return random.choice(_TEXTS)
    points = (random.choice((random.randrange(1, 0x80), random.randrange(0xA0, 0xD800), 0x1F600)) for _ in range(9))
    return "".join(map(chr, points))


def double(random: Random) -> float:
    """A finite number of 64 bits."""
    if random.random() < 0.5:
        return random.choice(_DOUBLES)
    (any_bits,) = struct.unpack("<d", random.randbytes(8))
    return any_bits if math.isfinite(any_bits) else 0.5


def single(random: Random) -> float:
    """A finite number of 32 bits."""
    (any_bits,) = struct.unpack("<f", random.randbytes(4))
    return any_bits if math.isfinite(any_bits) else -1.5


def json(random: Random, depth: int = 3) -> Any:
    """A JSON value."""
    leaves = (
        lambda: None,
        lambda: random.random() < 0.5,
        lambda: whole(random, -(2**63), 2**64 - 1),
        lambda: double(random),
        lambda: text(random),
    )
    nested = (lambda: json_array(random, depth - 1), lambda: json_object(random, depth - 1))
    return random.choice((*leaves, *(nested * 2 if depth else ())))()


def json_array(random: Random, depth: int = 1) -> list[Any]:
    """A JSON array of up to four values."""
    return [json(random, depth) for _ in range(random.randrange(5))]


def json_object(random: Random, depth: int = 1) -> dict[str, Any]:
    """A JSON object of up to five members."""
    return {text(random): json(random, depth) for _ in range(random.randrange(6))}


def value(random: Random, kind: ColumnType, *, scale: int = 18) -> Any:
    """What an application may give for a column of this type; None one time in five."""
    if random.random() < 0.2:
        return None
    if kind in _BITS:
        return whole(random, *_BITS[kind])
    if kind is ColumnType.DECIMAL128:
        return Decimal(whole(random, -(10**38) + 1, 10**38 - 1)).scaleb(-scale, _EXACT)
    return _OTHERS.get(kind, text)(random)


_OTHERS: dict[ColumnType, Callable[[Random], Any]] = {
    ColumnType.BOOLEAN: lambda random: random.random() < 0.5,
    ColumnType.FLOAT32: single,
    ColumnType.FLOAT64: double,
    ColumnType.BINARY: lambda random: random.randbytes(random.choice((0, 1, 16, 200))),
    ColumnType.INTERVAL_MONTH_DAY_NANO: lambda random: (
        *(whole(random, -(2**31), 2**31 - 1) for _ in range(2)),
        whole(random, -(2**63), 2**63 - 1),
    ),
    ColumnType.JSON: json,
    ColumnType.LIST: json_array,
    ColumnType.STRUCT: json_object,
    ColumnType.VECTOR: lambda random: [single(random), single(random)],
}
