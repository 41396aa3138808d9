"""What a rollup means: the plainest computation there is, which every database must equal.

The last digits of sums and means of floats may differ, since each adds in an order of its own.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from operator import eq, ge, gt, le, lt, ne
from typing import TYPE_CHECKING, Any, Final, NoReturn
from uuid import UUID

from eventrec.analytics.answer import Answer, Question
from eventrec.analytics.conditions import And, Comparison, IsNull, Membership, Not, Or
from eventrec.analytics.fields import MAX_FLOAT, MAX_INTEGER, MIN_INTEGER, UUID_FORM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from eventrec.analytics.conditions import Condition
    from eventrec.analytics.fields import Field, Value
    from eventrec.analytics.measures import Function, Measure
    from eventrec.reading import StoredEvent

MAX_EXACT: Final = 2**53
"""Below it a number that is written with a fraction, or an exponent, is a whole one exactly."""


def brute_force(question: Question, events: Iterable[StoredEvent]) -> Answer:
    """The answer to `question`, out of all events of a destination."""
    plan = question.plan
    floor = plan.bucket.floors()
    fields = {group.name: group.field for group in plan.groups}
    measured: defaultdict[tuple[Value, ...], list[list[tuple[int, Any]]]]
    measured = defaultdict(lambda: [[] for _ in plan.measures])
    newest: int | None = None
    for stored in events:
        if stored.table != plan.table or (plan.types is not None and stored.type not in plan.types):
            continue
        newest = stored.timestamp if newest is None else max(newest, stored.timestamp)
        event = Values(stored)
        bucket = floor(stored.timestamp)
        if (question.start is not None and bucket < question.start) or (
            question.end is not None and bucket >= question.end
        ):
            continue
        if plan.where is not None and event.holds(plan.where) is not True:
            continue
        key = (bucket, *(event.value(fields[name]) for name in question.group_names))
        for measure, values in zip(plan.measures, measured[key], strict=True):
            if measure.where is not None and event.holds(measure.where) is not True:
                continue
            value = True if measure.field is None else event.value(measure.field)
            if value is not None:
                values.append((stored.timestamp, value))

    rows = []
    for key, collected in measured.items():
        named = dict(zip((plan.bucket_name, *question.group_names), key, strict=True))
        for measure, values in zip(plan.measures, collected, strict=True):
            named[measure.name] = measured_value(measure, values)
        rows.append([named[column.name] for column in question.columns])
    return Answer.of(question, rows, complete_to=newest, pending=0)


def measured_value(measure: Measure, found: Sequence[tuple[int, Any]]) -> Value:
    """What `measure` tells of the values that were found, each with the time of its event."""
    if not found:
        return 0 if measure.is_count else None
    values = [value for _, value in found]
    if measure.function == "percentile":
        return interpolated(sorted(values), measure.fraction or 0.0)
    if measure.function in {"first", "last"}:
        pick = min if measure.function == "first" else max
        return pick(found)[1]  # type: ignore[no-any-return]
    return _FUNCTIONS[measure.function](values)  # type: ignore[no-any-return]


def _total(values: Sequence[Any]) -> int | float:
    """The sum: of whole numbers exactly."""
    return sum(values) if isinstance(values[0], int) else math.fsum(values)


_FUNCTIONS: Final[Mapping[Function, Callable[[Sequence[Any]], Any]]] = {
    "count": len,
    "distinct": lambda values: len(set(values)),
    "sum": _total,
    "min": min,
    "max": max,
    "avg": lambda values: _total(values) / len(values),
}


def interpolated(ordered: Sequence[float], fraction: float) -> float:
    """`percentile_cont` of SQL: between the two values around that fraction of the way from the first to the last."""
    place = fraction * (len(ordered) - 1)
    low = math.floor(place)
    lower, upper = float(ordered[low]), float(ordered[math.ceil(place)])
    return lower + (upper - lower) * (place - low)


class Values:
    """The values of one event, and what is true of them."""

    def __init__(self, stored: StoredEvent) -> None:
        self._stored = stored
        self._read: dict[str, Any] = {}

    def value(self, field: Field) -> Value:
        """What the event holds there; None: nothing, or something of another kind."""
        match field.source:
            case "type":
                return self._stored.type
            case "timestamp":
                return self._stored.timestamp
            case "id":
                return self._stored.id
            case "column":
                found = self._stored.columns.get(field.path[0])
                return of_kind(str(found) if isinstance(found, UUID) else found, field.kind)
            case source:
                found = self._json(source)
                for name in field.path:
                    found = found.get(name) if isinstance(found, dict) else None
                return of_kind(found, field.kind)

    def holds(self, condition: Condition) -> bool | None:
        """Whether `condition` is true; None: that cannot be said, for a value is absent."""
        match condition:
            case IsNull(field):
                return self.value(field) is None
            case Not(part):
                found = self.holds(part)
                return None if found is None else not found
            case And(parts):
                each = [self.holds(part) for part in parts]
                return False if False in each else None if None in each else True
            case Or(parts):
                each = [self.holds(part) for part in parts]
                return True if True in each else None if None in each else False
            case Membership(field, values):
                value = self.value(field)
                return None if value is None else value in values
            case Comparison(field, operator, constant):
                value = self.value(field)
                return None if value is None else compared(value, operator, constant)

    def _json(self, source: str) -> Any:
        if source not in self._read:
            text = self._stored.payload if source == "payload" else self._stored.context
            try:
                self._read[source] = json.loads(text or "null", parse_constant=_refuse)
            except (ValueError, RecursionError):  # written by another program
                self._read[source] = None
        return self._read[source]


def of_kind(value: object, kind: str) -> Value:
    """`value`, if it is of that kind; else None. `fields.py` has the table."""
    fits: Any = None
    match kind, value:
        case "json", _:
            fits = None if value is None else True  # only whether it is there can be asked
        case "boolean", bool():
            fits = value
        case _, bool():
            pass
        case "text", str():
            fits = value
        case "uuid", str() if UUID_FORM.fullmatch(value):
            fits = value.lower()
        case "integer", int() if MIN_INTEGER <= value <= MAX_INTEGER:
            fits = value
        case "integer", float() if value.is_integer() and abs(value) < MAX_EXACT:
            fits = int(value)
        case "float", int() | float() if abs(value) <= MAX_FLOAT:
            fits = float(value)
    return fits  # type: ignore[no-any-return]


def compared(value: Any, operator: str, constant: Any) -> bool:
    """Whether `value` stands so to `constant`; texts by their code points, which is the order of their bytes."""
    return bool(_OPERATORS[operator](value, constant))


_OPERATORS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "==": eq,
    "!=": ne,
    "<": lt,
    "<=": le,
    ">": gt,
    ">=": ge,
}


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
