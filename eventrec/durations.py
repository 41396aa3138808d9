"""Durations as applications and operators give them: seconds, timedeltas, or text with units."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Annotated, Final, TypeAlias, cast

from pydantic import AfterValidator, BeforeValidator

from eventrec.errors import OptionsError

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zµ]+)\s*")


def seconds(value: object) -> object:
    """A duration in seconds: of a number, a timedelta, or text such as "5s", "250ms", "1h 30m", "90d".

    Anything else is returned as it is.

    Raises:
        ValueError: The text is not a duration.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a duration: write seconds")  # noqa: TRY004 - pydantic expects it
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        pass
    parts = _DURATION.findall(value)
    if not parts or _DURATION.sub("", value) or any(unit not in _UNITS for _, unit in parts):
        raise ValueError(f"{value!r} is not a duration: write seconds, or text with units {', '.join(_UNITS)}")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _check_span(value: float | str | timedelta) -> float | str | timedelta:
    if not (isinstance(value, float) and 0 <= value < math.inf):
        raise ValueError(f"a duration is finite and not negative, got {value!r}")
    return value


Duration: TypeAlias = Annotated[float | str | timedelta, BeforeValidator(seconds), AfterValidator(_check_span)]
"""Seconds, or text: "5s", "90d". Kept as seconds."""


def duration_seconds(duration: float | str | timedelta) -> float:
    """`duration` in seconds; infinity is one, for waits without an end.

    Raises:
        OptionsError: It is not a duration, or negative.
    """
    try:
        value = float(cast("float", seconds(duration)))
    except (TypeError, ValueError, OverflowError) as exc:
        raise OptionsError(str(exc)) from exc
    if not value >= 0:
        raise OptionsError(f"a duration is not negative, got {duration!r}")
    return value
