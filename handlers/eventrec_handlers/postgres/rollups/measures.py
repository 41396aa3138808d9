"""The measures of a rollup as SQL: one small function for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec_handlers.postgres.rollups.conditions import condition_sql
from eventrec_handlers.postgres.rollups.fields import TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventrec.analytics import Function, Kind, Measure
    from eventrec_handlers._sql.rollups import FieldSql


def measure_sql(measure: Measure, value: FieldSql, *, time: str) -> str:
    """`measure` as an expression over rows, of the type `measure_type`. `time` is the column of the timestamp."""
    found = "" if measure.field is None else value(measure.field)
    kind = "integer" if measure.field is None else measure.field.kind
    where = "" if measure.where is None else condition_sql(measure.where, value)
    return _COMPILED[measure.function](measure, found, kind, where, time)


def measure_type(measure: Measure) -> str:
    """The type of its column."""
    return "numeric" if measure.function == "sum" and measure.kind == "integer" else TYPES[measure.kind]


def _filter(*conditions: str) -> str:
    said = " AND ".join(condition for condition in conditions if condition)
    return f" FILTER (WHERE {said})" if said else ""


def _ordered(found: str, kind: Kind) -> str:
    return f'{found} COLLATE "C"' if kind == "text" else found


def _count(_: Measure, found: str, _kind: Kind, where: str, _time: str) -> str:
    return f"count({found or '*'}){_filter(where)}"


def _distinct(_: Measure, found: str, kind: Kind, where: str, _time: str) -> str:
    return f"count(DISTINCT {_ordered(found, kind)}){_filter(where)}"


def _sum(_: Measure, found: str, _kind: Kind, where: str, _time: str) -> str:
    return f"sum({found}){_filter(where)}"


def _min(_: Measure, found: str, kind: Kind, where: str, _time: str) -> str:
    return f"min({_ordered(found, kind)}){_filter(where)}"


def _max(_: Measure, found: str, kind: Kind, where: str, _time: str) -> str:
    return f"max({_ordered(found, kind)}){_filter(where)}"


def _avg(_: Measure, found: str, _kind: Kind, where: str, _time: str) -> str:
    return f"(avg({found}){_filter(where)})::float8"


def _percentile(measure: Measure, found: str, _kind: Kind, where: str, _time: str) -> str:
    place = f"'{measure.fraction!r}'::float8"
    return f"percentile_cont({place}) WITHIN GROUP (ORDER BY ({found})::float8){_filter(where)}"


def _first(_: Measure, found: str, kind: Kind, where: str, time: str) -> str:
    order = f"{time}, {_ordered(found, kind)}"
    return f"(array_agg({found} ORDER BY {order}){_filter(f'{found} IS NOT NULL', where)})[1]"


def _last(_: Measure, found: str, kind: Kind, where: str, time: str) -> str:
    order = f"{time} DESC, {_ordered(found, kind)} DESC"
    return f"(array_agg({found} ORDER BY {order}){_filter(f'{found} IS NOT NULL', where)})[1]"


_COMPILED: Final[Mapping[Function, Callable[[Measure, str, Kind, str, str], str]]] = {
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
