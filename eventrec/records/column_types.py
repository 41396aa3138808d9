"""The types of columns: their names and numbers, which are those of GreptimeDB's wire protocol.

The protocol is the package greptime.v1, where they are called ColumnDataType and SemanticType.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class ColumnType(enum.IntEnum):
    """What a column holds; the numbers are GreptimeDB's."""

    BOOLEAN = 0
    INT8 = 1
    INT16 = 2
    INT32 = 3
    INT64 = 4
    UINT8 = 5
    UINT16 = 6
    UINT32 = 7
    UINT64 = 8
    FLOAT32 = 9
    FLOAT64 = 10
    BINARY = 11
    STRING = 12
    DATE = 13
    DATETIME = 14
    TIMESTAMP_SECOND = 15
    TIMESTAMP_MILLISECOND = 16
    TIMESTAMP_MICROSECOND = 17
    TIMESTAMP_NANOSECOND = 18
    TIME_SECOND = 19
    TIME_MILLISECOND = 20
    TIME_MICROSECOND = 21
    TIME_NANOSECOND = 22
    INTERVAL_YEAR_MONTH = 23
    INTERVAL_DAY_TIME = 24
    INTERVAL_MONTH_DAY_NANO = 25
    DECIMAL128 = 30
    JSON = 31
    VECTOR = 32
    LIST = 40
    STRUCT = 41
    DICTIONARY = 42


class SemanticType(enum.IntEnum):
    """What a column is for, in databases that ask: TAG identifies a series, TIMESTAMP is the time index."""

    TAG = 0
    FIELD = 1
    TIMESTAMP = 2


MAX_PRECISION: Final = 38
"""Digits that a decimal of 128 bit holds."""

TEXTUAL: Final = frozenset({ColumnType.STRING, ColumnType.DICTIONARY})
"""Types whose columns hold any text."""

WHOLE_NUMBERS: Final = frozenset(
    {
        ColumnType.INT8,
        ColumnType.INT16,
        ColumnType.INT32,
        ColumnType.INT64,
        ColumnType.UINT8,
        ColumnType.UINT16,
        ColumnType.UINT32,
        ColumnType.UINT64,
    }
)
"""Types whose columns hold whole numbers."""

MOMENTS: Final[Mapping[ColumnType, int]] = {
    ColumnType.DATETIME: 1_000,
    ColumnType.TIMESTAMP_SECOND: 1_000_000_000,
    ColumnType.TIMESTAMP_MILLISECOND: 1_000_000,
    ColumnType.TIMESTAMP_MICROSECOND: 1_000,
    ColumnType.TIMESTAMP_NANOSECOND: 1,
}
"""Types whose columns hold moments, and how many nanoseconds the unit of each has."""
