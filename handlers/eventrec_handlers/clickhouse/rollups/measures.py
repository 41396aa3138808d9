"""The measures of a rollup as SQL: one small function for each.

Each says which aggregates it needs, and what its value is of theirs: the same for an answer, which aggregates rows,
and for a view, which keeps the states of the aggregates and merges them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from eventrec_handlers.clickhouse.rollups.conditions import condition_sql

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec.analytics import Function, Measure
    from eventrec_handlers._sql.rollups import FieldSql

Of: TypeAlias = Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregate function of ClickHouse, over rows."""

    function: str
    arguments: str
    parameters: str = ""

    def over_rows(self) -> str:
        """Its value."""
        return f"{self.function}{self.parameters}({self.arguments})"

    def state(self) -> str:
        """Its state, which can be kept, and merged with others."""
        return f"{self.function}State{self.parameters}({self.arguments})"

    def merged(self, states: str) -> str:
        """Its value, of the column of its states."""
        return f"{self.function}Merge{self.parameters}({states})"


@dataclass(frozen=True, slots=True)
class Compiled:
    """A measure: its aggregates, and its value of theirs."""

    aggregates: tuple[Aggregate, ...]
    value: Of


def measure_sql(measure: Measure, value: FieldSql, *, time: str) -> Compiled:
    """`measure` over rows; `time` is their moment. What does not count is NULL, which every aggregate passes over."""
    found = "1" if measure.field is None else value(measure.field)
    if measure.where is not None:
        found = f"if({condition_sql(measure.where, value)}, {found}, NULL)"
    return _COMPILED[measure.function](measure, found, time)


def _alone(function: str, arguments: str, parameters: str = "") -> Compiled:
    return Compiled((Aggregate(function, arguments, parameters),), lambda values: values[0])


def _count(_: Measure, found: str, _time: str) -> Compiled:
    return _alone("count", found)


def _distinct(_: Measure, found: str, _time: str) -> Compiled:
    return _alone("uniqExact", found)


def _sum(measure: Measure, found: str, _time: str) -> Compiled:
    # 128 bits: no number of whole numbers of 64 bits is too large for it.
    return _alone("sum", f"toInt128({found})") if measure.kind == "integer" else _alone("sumKahan", found)


def _min(_: Measure, found: str, _time: str) -> Compiled:
    return _alone("min", found)


def _max(_: Measure, found: str, _time: str) -> Compiled:
    return _alone("max", found)


def _avg(measure: Measure, found: str, _time: str) -> Compiled:
    is_whole = measure.field is not None and measure.field.kind == "integer"
    total = Aggregate("sum", f"toInt128({found})") if is_whole else Aggregate("sumKahan", found)
    return Compiled(
        (total, Aggregate("count", found)), lambda values: f"toFloat64({values[0]}) / nullIf({values[1]}, 0)"
    )


def _percentile(measure: Measure, found: str, _time: str) -> Compiled:
    return _alone("quantileExactInclusive", f"toFloat64({found})", f"({measure.fraction!r})")


def _first(_: Measure, found: str, time: str) -> Compiled:
    return _alone("argMin", f"{found}, ({time}, {found})")


def _last(_: Measure, found: str, time: str) -> Compiled:
    return _alone("argMax", f"{found}, ({time}, {found})")


_COMPILED: Final[Mapping[Function, Callable[[Measure, str, str], Compiled]]] = {
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
