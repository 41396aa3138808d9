"""Timestamps as an application gives them, and clocks: nanoseconds since the epoch in 64 bit, or refused."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from eventrec.errors import InvalidEventError

if TYPE_CHECKING:
    from collections.abc import Callable

_I64_MIN: Final = -(2**63)
_I64_MAX: Final = 2**63 - 1


def checked_time(when: object) -> int:
    """`when`, held to what is asked of a timestamp; raises InvalidEventError."""
    if type(when) is not int or not _I64_MIN <= when <= _I64_MAX:
        raise InvalidEventError(f"a timestamp is nanoseconds since the epoch as int, within 64 bit, got {brief(when)}")
    return when


def checked_clock(clock: Callable[[], int]) -> Callable[[], int]:
    """`clock`, whose answers are held to what is asked of a timestamp; that of the system needs no checking.

    What it returns raises `InvalidEventError`, and whatever `clock` raises.
    """
    if clock is time.time_ns:
        return clock

    def now() -> int:
        when = clock()
        if type(when) is int and _I64_MIN <= when <= _I64_MAX:
            return when
        raise InvalidEventError(f"a clock gives nanoseconds since the epoch as int in 64 bit, got {brief(when)}")

    return now


def unfailing_clock(clock: Callable[[], int]) -> Callable[[], int]:
    """`clock`, or the system's where that gives no time: what is taken is written whatever it says."""
    checked = checked_clock(clock)
    if checked is time.time_ns:
        return checked

    def now() -> int:
        try:
            return checked()
        except Exception:  # noqa: BLE001 - foreign code; `record` says what is wrong with it
            return time.time_ns()

    return now


def brief(value: object) -> str:
    """`value` in at most 60 characters; its kind, where it cannot be shown."""
    try:
        return f"{value!r:.60}"
    except Exception:  # noqa: BLE001 - user code, or an integer of too many digits
        return f"a {type(value).__name__}"
