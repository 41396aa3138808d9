"""Moments of a column as SQL, in nanoseconds, whatever the column is declared as.

A DateTime64 of fewer than nine digits, and only that, may be of a year that no event has: before 1677, or after 2262.
"""

from __future__ import annotations

from typing import Final

from eventrec_handlers.clickhouse.sql import quoted
from eventrec_handlers.clickhouse.types import parsed

LOWEST: Final = -(2**63)
HIGHEST: Final = 2**63 - 1
"""The first and the last nanosecond that an event may have."""

_NANO: Final = 9
_MILLI: Final = 3


def is_moment(declared: str) -> bool:
    """Whether columns declared so hold moments."""
    return bool(declared) and parsed(declared).name in {"DateTime64", "DateTime"}


def may_overflow(declared: str) -> bool:
    """Whether such a column may hold what no event can be of."""
    return parsed(declared).name == "DateTime64" and _digits(declared) < _NANO


def may_lack_moment(declared: str) -> bool:
    """Whether such a column may hold NULL, or what no event can be of."""
    return parsed(declared).is_nullable or may_overflow(declared)


def moment_sql(name: str, declared: str) -> str:
    """The moment that a column holds; NULL where no event can be of it."""
    column = quoted(name)
    if parsed(declared).name == "DateTime":
        return f"(toInt64({column}) * 1000000000)"
    if _digits(declared) == _NANO:
        return f"toUnixTimestamp64Nano({column})"
    # ClickHouse's own functions fail for what is beyond.
    raw, unit = f"reinterpretAsInt64({column})", _unit(declared)
    within = f"{raw} >= toInt64('{-(-LOWEST // unit)}') AND {raw} <= toInt64('{HIGHEST // unit}')"
    return f"if({within}, {raw} * {unit}, NULL)"


def bounds_sql(name: str, declared: str, low: int, end: int) -> str:
    """The condition for rows whose moment is in [`low`, `end`), which ClickHouse finds by its index.

    The two are from `LOWEST` to `HIGHEST` + 1.
    """
    if low >= end:
        return "false"
    is_nano = _digits(declared) == _NANO
    column = f"toInt64({quoted(name)})" if parsed(declared).name == "DateTime" else quoted(name)
    parts = [f"{column} >= {_constant(declared, low)}"]
    if not is_nano or end <= HIGHEST:
        parts.append(f"{column} < {_constant(declared, end)}")
    return " AND ".join(parts)


def _constant(declared: str, moment: int) -> str:
    """What the first value of such a column that is not before `moment` equals, or is the first after."""
    number = f"toInt64('{-(-moment // _unit(declared))}')"
    if parsed(declared).name == "DateTime":
        return number
    digits = _digits(declared)
    return (
        f"fromUnixTimestamp64Nano({number}, 'UTC')"
        if digits == _NANO
        else f"reinterpret({number}, 'DateTime64({digits})')"
    )


def _unit(declared: str) -> int:
    return int(10 ** (_NANO - _digits(declared)))


def _digits(declared: str) -> int:
    type_ = parsed(declared)
    if type_.name == "DateTime":
        return 0
    return int(type_.arguments[0]) if type_.arguments else _MILLI
