"""The measures of a rollup: one small function for each, and how Python reads what SQLite gives.

Sums of whole numbers may have more than 64 bits, at which SQLite gives up: it adds their halves, Python the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from eventrec_handlers.sqlite.rollups.conditions import condition_sql
from eventrec_handlers.sqlite.rollups.functions import FIRST, LAST, PERCENTILE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec.analytics import Function, Kind, Measure
    from eventrec_handlers._sql.rollups import FieldSql

Read: TypeAlias = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A measure in SQL.

    Attributes:
        expressions: Over rows.
        read: The measure's value, of the value of each expression.
    """

    expressions: tuple[str, ...]
    read: Read


def measure_sql(measure: Measure, value: FieldSql, *, time: str) -> Compiled:
    """`measure` over rows; `time` is their timestamp."""
    found = "" if measure.field is None else value(measure.field)
    where = "" if measure.where is None else f" FILTER (WHERE {condition_sql(measure.where, value)})"
    return _COMPILED[measure.function](measure, found, where, time)


def read_as(kind: Kind) -> Read:
    """How a single value of that kind is read."""
    match kind:
        case "boolean":
            return lambda given: None if given[0] is None else bool(given[0])
        case "text" | "uuid":
            return lambda given: given[0].decode(errors="replace") if isinstance(given[0], bytes) else given[0]
        case _:
            return lambda given: given[0]


def _count(_: Measure, found: str, where: str, _time: str) -> Compiled:
    return Compiled((f"count({found or '*'}){where}",), read_as("integer"))


def _distinct(_: Measure, found: str, where: str, _time: str) -> Compiled:
    return Compiled((f"count(DISTINCT {found}){where}",), read_as("integer"))


def _sum(measure: Measure, found: str, where: str, _time: str) -> Compiled:
    if measure.kind == "float":
        return Compiled((f"sum({found}){where}",), read_as("float"))
    return Compiled(_halves(found, where), _whole)


def _min(measure: Measure, found: str, where: str, _time: str) -> Compiled:
    return Compiled((f"min({found}){where}",), read_as(measure.kind))


def _max(measure: Measure, found: str, where: str, _time: str) -> Compiled:
    return Compiled((f"max({found}){where}",), read_as(measure.kind))


def _avg(measure: Measure, found: str, where: str, _time: str) -> Compiled:
    if measure.field is not None and measure.field.kind == "float":
        return Compiled((f"avg({found}){where}",), read_as("float"))
    return Compiled((*_halves(found, where), f"count({found}){where}"), _mean)


def _percentile(measure: Measure, found: str, where: str, _time: str) -> Compiled:
    return Compiled((f"{PERCENTILE}({found}, {measure.fraction!r}){where}",), read_as("float"))


def _first(measure: Measure, found: str, where: str, time: str) -> Compiled:
    return Compiled((f"{FIRST}({time}, {_bytes(measure, found)}){where}",), read_as(measure.kind))


def _last(measure: Measure, found: str, where: str, time: str) -> Compiled:
    return Compiled((f"{LAST}({time}, {_bytes(measure, found)}){where}",), read_as(measure.kind))


def _bytes(measure: Measure, found: str) -> str:
    """A text as its bytes: what another program has stored may not be UTF-8, which a function of Python refuses."""
    return f"CAST({found} AS BLOB)" if measure.kind in {"text", "uuid"} else found


def _halves(found: str, where: str) -> tuple[str, str]:
    return f"sum({found} >> 32){where}", f"sum({found} & 4294967295){where}"


def _whole(given: Sequence[Any]) -> int | None:
    high, low = given
    return None if high is None else (high << 32) + low


def _mean(given: Sequence[Any]) -> float | None:
    *halves, count = given
    total = _whole(halves)
    return None if total is None else total / count


_COMPILED: Final[Mapping[Function, Callable[[Measure, str, str, str], Compiled]]] = {
    "count": _count,
    "distinct": _distinct,
    "sum": _sum,
    "min": _min,
    "max": _max,
    "avg": _avg,
    "percentile": _percentile,
    "first": _first,
    "last": _last,
}
