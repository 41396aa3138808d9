"""Values of the extra columns of events, by their ColumnType, to what their types take."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

import msgspec

from eventrec import ColumnType
from eventrec_handlers.clickhouse.scalars import is_shown, json_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec_handlers._sql import Convert

_DAYS: Final = (-25_567, 120_529)
"""Of a Date32: the years 1900 to 2299."""


def _date(value: int) -> int:
    if not _DAYS[0] <= value <= _DAYS[1]:
        raise ValueError("a Date32 is of the years 1900 to 2299")
    return value


def _shown(per_second: int) -> Convert:
    def convert(value: int) -> int:
        if not is_shown(value // per_second):
            raise ValueError("a DateTime64 is of the years 1900 to 2299")
        return value

    return convert


def _seconds(digits: int) -> Convert:
    beyond = 10**18

    def convert(value: int) -> Decimal:
        if not -beyond < value < beyond:
            raise ValueError("it has more than 18 digits")
        return Decimal(value).scaleb(-digits)

    return convert


OF_TYPES: Final[Mapping[ColumnType, Convert]] = {
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
