"""Times as other programs write them, to nanoseconds since the epoch: exact, or refused.

    unit           what it takes
    s ms us ns     a number, or a text that is a number; decimals are kept to the nanosecond, what is finer is rounded
    iso            ISO 8601 text: "2026-01-31", "2026-01-31T10:00:00.123456789+01:00", also with a space for the T and
                   before the zone; a time without a zone is UTC; a leap second is the second after it
    auto           text that is not a number: iso; a number by its magnitude: below 10^11 s, 10^14 ms, 10^17 us, else ns

So `auto` reads every number right between March 1973 and the year 5138; others need their unit.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Unit: TypeAlias = Literal["auto", "s", "ms", "us", "ns", "iso"]

_NS_DIGITS: Final[Mapping[str, int]] = {"s": 9, "ms": 6, "us": 3, "ns": 0}
_MAGNITUDES: Final = ((11, "s"), (14, "ms"), (17, "us"))
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_ISO: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)"
    r"(?:[Tt ](\d\d:\d\d)(?::(\d\d)(?:[.,](\d+))?)?"
    r"(?: ?(?:([Zz])|([+-])(\d\d)(?::?(\d\d))?))?)?",
    re.ASCII,
)
_EXACT: Final = Context(prec=120)
_MAX_DIGITS: Final = 64
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_I64_MIN: Final = -(2**63)
_I64_MAX: Final = 2**63 - 1


def nanoseconds(value: str, unit: Unit = "auto") -> int:
    """The time that `value` writes: a number's own digits, or text. Nanoseconds since the epoch, UTC.

    Raises:
        ValueError: It is not a time in this unit, or is outside what 64 bits hold (1677 to 2262).
    """
    if value[-1:] == "Z" and unit in {"auto", "iso"} and (when := _of_utc(value)) is not None:
        return when
    text = value.strip()
    is_number = len(text) <= _MAX_DIGITS and _NUMBER.fullmatch(text) is not None
    match unit:
        case "iso":
            when = _of_iso(text)
        case "auto" if not is_number:
            when = _of_iso(text)
        case "auto":
            when = _of_number(text, None)
        case _ if is_number:
            when = _of_number(text, unit)
        case _:
            raise ValueError(f"{_shown(text)} is not a number of {unit}")
    if not _I64_MIN <= when <= _I64_MAX:
        raise ValueError(f"{_shown(text)} is outside the years 1677 to 2262")
    return when


def _of_utc(text: str) -> int | None:
    """The time that `text` writes as most programs do, ending in Z: the same as the long way; None: take that one."""
    fraction = text[20:-1]
    if not (text[19:20] == "." and fraction.isdigit() and fraction.isascii() and len(fraction) <= _NS_DIGITS["s"]):
        return None
    second = _second(text[:19])
    if second is None:
        return None
    return second + int(fraction.ljust(_NS_DIGITS["s"], "0"))


@lru_cache(maxsize=1_024)
def _second(text: str) -> int | None:
    """The nanoseconds of a whole second, "2026-01-31T10:00:00"; None where it is not one, or near the ends of time."""
    try:
        when = _of_iso(f"{text}Z")
    except ValueError:
        return None
    return when if _I64_MIN + 10**9 < when < _I64_MAX - 2 * 10**9 else None


def _of_number(text: str, unit: str | None) -> int:
    number = Decimal(text)
    # Before any arithmetic: 1e999999999 is a short text and a long number.
    magnitude = number.adjusted() if number else 0
    if magnitude > _MAX_DIGITS:
        raise ValueError(f"{_shown(text)} is outside the years 1677 to 2262")
    if magnitude < -_MAX_DIGITS:
        return 0
    if unit is None:
        unit = next((name for digits, name in _MAGNITUDES if magnitude < digits), "ns")
    return int(number.scaleb(_NS_DIGITS[unit], context=_EXACT).to_integral_value())


def _of_iso(text: str) -> int:
    match = _ISO.fullmatch(text)
    if match is None:
        raise ValueError(f"{_shown(text)} is not a time in ISO 8601")
    date, clock, seconds, fraction, zulu, sign, hours, minutes = match.groups()
    leap = seconds == "60"
    try:
        local = datetime.fromisoformat(f"{date}T{clock or '00:00'}:{'59' if leap else seconds or '00'}+00:00")
        offset = timedelta(hours=int(hours), minutes=int(minutes or 0)) if not zulu and sign else timedelta()
    except ValueError as exc:
        raise ValueError(f"{_shown(text)} is not a time in ISO 8601: {exc}") from exc
    if int(minutes or 0) >= 60 or offset >= timedelta(days=1):  # noqa: PLR2004 - minutes of an hour
        raise ValueError(f"{_shown(text)} is not a time in ISO 8601: there is no such zone")
    since = local - _EPOCH + (offset if sign == "-" else -offset)
    whole = since.days * 86_400 + since.seconds + leap
    return whole * 1_000_000_000 + _of_number(f"0.{fraction}"[:_MAX_DIGITS], "s") if fraction else whole * 1_000_000_000


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MAX_DIGITS else text[:_MAX_DIGITS] + "…")
