"""Random rollups, and events for them: what a database answers must equal what brute force computes.

A test draws a `RollupCase` from a `random.Random`, stores its events, asks its questions, and hands each answer to
`assert_same_answer` beside `case.expected(question)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from eventrec.analytics import (
    And,
    Bucket,
    Comparison,
    Field,
    Group,
    IsNull,
    Measure,
    Membership,
    Not,
    Or,
    Question,
    RollupPlan,
    brute_force,
)
from eventrec.reading import StoredEvent
from eventrec.records.layout_columns import EVENT
from eventrec.testing.rollup_events import COLUMNS, DEEP, NAMES, TEXTS, TYPES, UUIDS, is_so, random_event, random_layout

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from eventrec.analytics import Answer, Condition, Kind, Source
    from eventrec.events.event import ReceivedEvent
    from eventrec.records.layout import Layout

ZONES: Final = (
    *("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Asia/Kathmandu"),
    *("Pacific/Apia", "America/St_Johns", "America/Toronto", "Africa/Casablanca", "America/Havana"),
)
"""Whole, half and quarter hours; changes of half an hour, over midnight, of a whole day; on either side of UTC."""

MOMENTS: Final = tuple(
    datetime.fromisoformat(said)
    for said in (
        "1970-01-01T00:00:00Z",
        "2024-03-31T01:00:00Z",  # Berlin: summer time begins
        "2024-10-27T01:00:00Z",  # and ends
        "2024-11-03T05:00:00Z",  # Havana: midnight comes twice
        "2021-04-03T15:00:00Z",  # Lord Howe: half an hour back
        "2011-12-30T10:00:00Z",  # Apia leaves out a day
        "1990-10-28T02:31:00Z",  # St. John's: a minute past midnight, back to the day before
        "1919-03-31T04:30:00Z",  # Toronto: half an hour before midnight, forward
        "2024-02-29T23:59:59Z",
    )
)

_COLUMN_NAMES: Final = (
    *("Größe", "select", "user", "MixedCase", "er_bucket", "er_time", "er_0", "timestamp", "payload", "id", "count"),
    *('q"q', "it's", "%", "{0}", "a.b", "`", "back\\slash"),
)
_COMPARISONS: Final = ("==", "!=", "<", "<=", ">", ">=")


@dataclass(frozen=True, slots=True)
class RollupCase:
    """A rollup, events of its table and others, and questions.

    Attributes:
        plan: The rollup.
        events: What is to be stored, with ids; their timestamps are whole microseconds.
        questions: What is to be asked.
        layout: How the table is to be made; None: as ours are.
    """

    plan: RollupPlan
    events: tuple[ReceivedEvent, ...]
    questions: tuple[Question, ...]
    layout: Layout | None = None

    def expected(self, question: Question) -> Answer:
        """What brute force computes."""
        return brute_force(question, map(stored_event, self.events))


def random_case(random: Random, *, table: str = "events", max_events: int = 40, laid_out: bool = False) -> RollupCase:
    """A rollup of the events in `table`, events, and questions. `laid_out`: the table may be made by a layout."""
    moment = random.choice(MOMENTS)
    plan = _random_plan(random, table)
    layout = random_layout(random, table) if laid_out and is_so(random, 0.5) else None
    is_whole = layout is not None and layout.column_of(EVENT) is not None
    days = 0.1 if plan.bucket.unit == "minute" else 2.0 if plan.bucket.unit == "hour" else 40.0
    events = tuple(
        random_event(random, table, moment, days, has_members=is_whole) for _ in range(random.randint(0, max_events))
    )
    return RollupCase(plan, events, tuple(_random_questions(random, plan, moment, days)), layout)


def stored_event(event: ReceivedEvent) -> StoredEvent:
    """`event` as it is stored."""
    (row,) = event.rows
    return StoredEvent(
        table=event.table,
        id=str(UUID(bytes=event.id)),
        type=event.type,
        timestamp=event.timestamp or 0,
        payload=event.payload.decode(),
        context=None if event.context is None else event.context.decode(),
        columns={column.name: value for column, value in zip(event.columns, row, strict=True)},
    )


def assert_same_answer(answer: Answer, expected: Answer) -> None:
    """They say the same, but for the last digits of floats.

    Raises:
        AssertionError: It shows the first row that differs.
    """
    assert answer.rollup == expected.rollup
    assert answer.columns == expected.columns
    for number, (row, wanted) in enumerate(zip(answer.rows, expected.rows, strict=False)):
        assert len(row) == len(wanted)
        same = [_is_same(value, other) for value, other in zip(row, wanted, strict=True)]
        assert all(same), f"row {number} is {row}, expected {wanted}"
    assert len(answer.rows) == len(expected.rows), f"{len(answer.rows)} rows, expected {len(expected.rows)}"
    assert answer.complete_to == expected.complete_to
    assert answer.cursor == expected.cursor


def _is_same(value: object, other: object) -> bool:
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=1e-9, abs_tol=1e-9)
    return type(value) is type(other) and value == other


# -- rollups ----------------------------------------------------------------------------------------------------------


def _random_plan(random: Random, table: str) -> RollupPlan:
    groups = tuple(
        Group(f"group_{number}", _random_field(random, ("text", "integer", "boolean", "uuid")))
        for number in range(random.randint(0, 2))
    )
    measures = tuple(_random_measure(random, f"measure_{number}") for number in range(random.randint(1, 5)))
    own = random.sample(_COLUMN_NAMES, 8) if is_so(random, 0.5) else [f"column_{number}" for number in range(8)]
    groups = tuple(replace(each, name=own.pop()) for each in groups)
    measures = tuple(replace(each, name=own.pop()) for each in measures)
    bucket_name = own.pop()
    names = [bucket_name, *(group.name for group in groups), *(measure.name for measure in measures)]
    random.shuffle(names)
    unit, every = random.choice(
        (("minute", 1), ("minute", 15), ("hour", 1), ("hour", 2), ("hour", 6), ("day", 1), ("week", 1), ("month", 1))
    )
    return RollupPlan(
        name=f"{table} 'roll\"up",
        table=table,
        types=random.choice((None, TYPES[:1], TYPES[:3], ("it's",), ("never",))),
        where=_random_condition(random) if is_so(random, 0.3) else None,
        bucket_name=bucket_name,
        bucket=Bucket(unit, every, random.choice(ZONES)),  # type: ignore[arg-type] # mypy joins the literals
        groups=groups,
        measures=measures,
        column_names=tuple(names),
    )


def _random_measure(random: Random, name: str) -> Measure:
    where = _random_condition(random) if is_so(random, 0.4) else None
    match random.choice(("count", "count", "distinct", "sum", "min", "max", "avg", "percentile", "first", "last")):
        case "count":
            field = None if is_so(random, 0.5) else _random_field(random, ("text", "integer", "json", "uuid"))
            return Measure(name, "count", field, where)
        case "distinct":
            return Measure(name, "distinct", _random_field(random, ("text", "integer", "boolean", "uuid")), where)
        case "sum" | "avg" as function:
            return Measure(name, function, _random_field(random, ("integer", "float")), where)
        case "percentile":
            fraction = random.choice((0.0, 0.5, 0.95, 0.99, 1.0))
            return Measure(name, "percentile", _random_field(random, ("integer", "float")), where, fraction)
        case "min" | "max" as function:
            return Measure(name, function, _random_field(random, ("text", "integer", "float", "timestamp")), where)
        case function:
            kinds: tuple[Kind, ...] = ("text", "integer", "float", "boolean", "uuid", "timestamp")
            return Measure(name, function, _random_field(random, kinds), where)


def _random_field(random: Random, kinds: Sequence[Kind]) -> Field:
    kind = random.choice(kinds)
    if kind == "timestamp":
        return Field("timestamp", (), kind)
    places: list[tuple[Source, tuple[str, ...]]] = [
        *(("payload", (name,)) for name in NAMES),
        *(("payload", path) for path in (("deep", "n"), ("deep", "ä", "n"), ("n", "n"), DEEP, ("n", "0"))),
        *(("context", (name,)) for name in ("service", "ä", 'q"q')),
        *(("column", (column.name,)) for column in COLUMNS),
        ("column", ("not_there",)),
    ]
    if kind == "text":
        places.append(("type", ()))
    source, path = random.choice(places)
    return Field(source, path, kind)


def _random_condition(random: Random, depth: int = 2) -> Condition:
    choice = random.choice(("compare", "compare", "in", "null", "type", "both", "either", "not"))
    if depth > 0 and choice in {"both", "either", "not"}:
        part, other = (_random_condition(random, depth - 1) for _ in range(2))
        return And((part, other)) if choice == "both" else Or((part, other)) if choice == "either" else Not(part)
    match choice:
        case "null":
            return IsNull(_random_field(random, ("text", "integer", "float", "boolean", "uuid", "json")))
        case "type":
            return Membership(Field("type", (), "text"), random.choice((TYPES[:1], TYPES[1:4])))
        case "in":
            field = _random_field(random, ("text", "integer", "uuid"))
            return Membership(field, tuple(_constant(random, field.kind) for _ in range(random.randrange(3))))
    field = _random_field(random, ("text", "integer", "float", "boolean", "uuid", "timestamp"))
    operators = _COMPARISONS if field.kind in {"text", "integer", "float", "timestamp"} else ("==", "!=")
    return Comparison(field, random.choice(operators), _constant(random, field.kind))  # type: ignore[arg-type]


def _constant(random: Random, kind: Kind) -> Any:
    match kind:
        case "text":
            return random.choice(TEXTS)
        case "integer":
            return random.choice((0, 1, 250, -(2**63), 2**63 - 1))
        case "float":
            return random.choice((0.0, -0.0, 2.5, -1e300, 5e-324))
        case "boolean":
            return random.choice((True, False))
        case "uuid":
            return UUIDS[1]
        case _:
            return int(random.choice(MOMENTS).timestamp()) * 1_000_000_000 + random.choice((0, 1_000, 1_500))


# -- questions --------------------------------------------------------------------------------------------------------


def _random_questions(random: Random, plan: RollupPlan, around: datetime, days: float) -> list[Question]:
    middle = int(around.timestamp()) * 1_000_000_000
    spread = int(days * 86_400) * 1_000_000_000
    start, end = sorted((middle + random.randint(-spread, spread), middle + random.randint(-spread, spread)))
    groups = tuple(group.name for group in plan.groups if is_so(random, 0.5))
    return [
        Question(plan),
        Question(plan, start=start, end=end, empty_buckets=is_so(random, 0.5)),
        Question(plan, start=random.choice((None, start)), newest_first=True, limit=random.randint(0, 5)),
        Question(plan, groups=groups, empty_buckets=plan.bucket.unit != "minute"),
    ]
