"""Functions that SQLite lacks: a member of JSON by any name, buckets in the time of a zone, and three aggregates."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final, NoReturn

from eventrec.analytics import interpolated
from eventrec_handlers.sqlite.rollups.fields import MEMBER

if TYPE_CHECKING:
    import sqlite3

    from eventrec.analytics import Bucket

BUCKET: Final = "eventrec_bucket"
PERCENTILE: Final = "eventrec_percentile"
FIRST: Final = "eventrec_first"
LAST: Final = "eventrec_last"


def add_functions(connection: sqlite3.Connection, bucket: Bucket) -> None:
    """Make them known to `connection`: buckets are those of `bucket`."""
    connection.create_function(MEMBER, 2, _member, deterministic=True)
    connection.create_function(BUCKET, 1, bucket.floors(), deterministic=True)
    for name, aggregate in ((PERCENTILE, _Percentile), (FIRST, _First), (LAST, _Last)):
        connection.create_aggregate(name, 2, aggregate)  # type: ignore[arg-type] # the checker knows one argument


def _member(document: bytes | None, path: str) -> str | None:
    """What stands at `path`, as JSON; None: nothing, or `document` is not JSON.

    Of a list or an object it is an empty one: only that it is there is ever asked. A number that no float can hold
    stays one.
    """
    try:
        found = json.loads((document or b"null").decode(errors="replace"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    for name in json.loads(path):
        found = found.get(name) if isinstance(found, dict) else None
    match found:
        case None:
            return None
        case dict() | list():
            return "[]"
        case float() if math.isinf(found):
            return "1e999" if found > 0 else "-1e999"
        case _:
            return json.dumps(found)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


class _Percentile:
    def __init__(self) -> None:
        self._values: list[float] = []
        self._fraction = 0.0

    def step(self, value: float | None, fraction: float) -> None:
        if value is not None:
            self._values.append(value)
            self._fraction = fraction

    def finalize(self) -> float | None:
        return interpolated(sorted(self._values), self._fraction) if self._values else None


class _First:
    def __init__(self) -> None:
        self._found: tuple[int, Any] | None = None

    def step(self, time: int, value: Any) -> None:
        if value is not None and (self._found is None or (time, value) < self._found):
            self._found = (time, value)

    def finalize(self) -> Any:
        return None if self._found is None else self._found[1]


class _Last:
    def __init__(self) -> None:
        self._found: tuple[int, Any] | None = None

    def step(self, time: int, value: Any) -> None:
        if value is not None and (self._found is None or (time, value) > self._found):
            self._found = (time, value)

    def finalize(self) -> Any:
        return None if self._found is None else self._found[1]
