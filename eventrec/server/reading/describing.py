"""What rollups there are, and what each of them counts, for those who ask for them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import msgspec

from eventrec.analytics import (
    And,
    Comparison,
    Function,
    IsNull,
    Kind,
    Membership,
    Not,
    Or,
    Question,
    Rollup,
    plan_of,
)
from eventrec.runtime.decoding import decodable
from eventrec.server.reading.answering import Column, bucket_name, columns_of

if TYPE_CHECKING:
    from eventrec.analytics import Condition, Measure, RollupPlan


@decodable
class MeasureInfo(msgspec.Struct, frozen=True):
    """What a column measures.

    Attributes:
        name: Its name.
        kind: What its values are.
        function: How it is computed.
        of: The field of the events that it is computed of; null: events are counted.
        where: Which events count; null: all of the rollup.
        fraction: Of a percentile: 0.95, say.
    """

    name: str
    kind: Kind
    function: Function
    of: str | None
    where: str | None
    fraction: float | None


@decodable
class RollupInfo(msgspec.Struct, frozen=True):
    """What a rollup tells.

    Attributes:
        name: It is asked for by it.
        description: What its author says of it.
        table: The table of the events.
        types: The types of the events; null: any.
        where: Which of them count; null: all.
        bucket: How it parts time: "1 hour".
        unit: Of what a bucket is.
        every: Of how many of them.
        zone: The zone in whose time buckets begin.
        columns: All columns, in the order of an answer.
        groups: The names of the columns that it may be grouped by.
        measures: What is computed.
        version: Of its declaration.
    """

    name: str
    description: str | None
    table: str
    types: list[str] | None
    where: str | None
    bucket: str
    unit: str
    every: int
    zone: str
    columns: list[Column]
    groups: list[str]
    measures: list[MeasureInfo]
    version: int


@decodable
class RollupList(msgspec.Struct, frozen=True):
    """The rollups that can be asked for."""

    rollups: list[RollupInfo]


def described(rollup: RollupPlan | type[Rollup]) -> RollupInfo:
    """What `rollup` tells."""
    plan = plan_of(rollup)
    said = rollup.__doc__ if isinstance(rollup, type) else None
    return RollupInfo(
        name=plan.name,
        description=None if said is None else inspect.cleandoc(said),
        table=plan.table,
        types=None if plan.types is None else list(plan.types),
        where=None if plan.where is None else condition_text(plan.where),
        bucket=bucket_name(plan.bucket),
        unit=plan.bucket.unit,
        every=plan.bucket.every,
        zone=plan.bucket.zone,
        columns=columns_of(Question(plan).columns),
        groups=[group.name for group in plan.groups],
        measures=[_measure(each) for each in plan.measures],
        version=plan.version,
    )


def condition_text(condition: Condition) -> str:
    """`condition` as a reader understands it: "payload.status_code >= 500"."""
    match condition:
        case Comparison(field, operator, value):
            return f"{field} {operator} {value!r}"
        case Membership(field, values):
            return f"{field} is one of {', '.join(map(repr, values))}"
        case IsNull(field):
            return f"{field} is null"
        case Not(IsNull(field)):
            return f"{field} is not null"
        case Not(part):
            return f"not ({condition_text(part)})"
        case And(parts) | Or(parts):
            word = " and " if isinstance(condition, And) else " or "
            return word.join(f"({condition_text(part)})" for part in parts)


def _measure(measure: Measure) -> MeasureInfo:
    return MeasureInfo(
        name=measure.name,
        kind=measure.kind,
        function=measure.function,
        of=None if measure.field is None else str(measure.field),
        where=None if measure.where is None else condition_text(measure.where),
        fraction=measure.fraction,
    )
