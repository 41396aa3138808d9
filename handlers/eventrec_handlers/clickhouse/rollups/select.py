"""A question as one statement over the events, which ClickHouse answers from the rows of its time alone.

A bucket in the time of a zone has to be known before: `extent` is the statement that asks for the first and the last
moment, and `select` takes its answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from eventrec_handlers._sql.rollups import field_aliases
from eventrec_handlers.clickhouse.moments import HIGHEST, LOWEST
from eventrec_handlers.clickhouse.rollups.buckets import bucket_sql
from eventrec_handlers.clickhouse.rollups.conditions import condition_sql, constant_sql
from eventrec_handlers.clickhouse.rollups.fields import SETTINGS
from eventrec_handlers.clickhouse.rollups.measures import measure_sql
from eventrec_handlers.clickhouse.sql import quoted, readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventrec.analytics import Bucket, Field, Kind, Question, RollupPlan, Value
    from eventrec_handlers.clickhouse.rollups.fields import Columns

Extent: TypeAlias = tuple[int, int]
"""The first and the last moment of which there is an event, in nanoseconds."""

BUCKET: Final = "er_bucket"
TIME: Final = "er_time"


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement, and how its rows are read.

    Attributes:
        sql: The statement; its rows are the columns of the question.
        kinds: Of each column.
    """

    sql: str
    kinds: tuple[Kind, ...]

    def row(self, given: Sequence[Any]) -> tuple[Value, ...]:
        """A row of the answer, out of one that was read as JSON: whole numbers may have come as texts."""
        return tuple(map(_read, given, self.kinds))


def extent(question: Question, columns: Columns) -> str:
    """The statement for the first and the last moment of the question's time; both are NULL where there is none."""
    moment = columns.moment_or_null
    where = " AND ".join(_matching(question, columns))
    return (
        f"SELECT minOrNull({moment}), maxOrNull({moment}) FROM {quoted(question.plan.table)} WHERE {where} {SETTINGS}"  # noqa: S608 - quoted
    )


def select(question: Question, columns: Columns, extent: Extent) -> Statement:
    """The statement that answers `question`; `extent` is what the statement of that name gives.

    Raises:
        CatalogueError: The table does not store a field.
    """
    plan = question.plan
    first, last = extent
    aliases = field_aliases(plan, question.group_names)
    bucket = bucket_sql(plan.bucket, columns.moment, first=first, last=last)
    groups = {group.name: aliases[group.field] for group in plan.groups if group.name in question.group_names}
    measures = {measure.name: measure for measure in plan.measures}
    expressions = []
    for column in question.columns:
        match column.role:
            case "measure":
                compiled = measure_sql(measures[column.name], aliases.__getitem__, time=TIME)
                expressions.append(compiled.value([each.over_rows() for each in compiled.aggregates]))
            case "bucket":
                expressions.append(BUCKET)
            case _:
                expressions.append(groups[column.name])
    where = " AND ".join(_matching(question, columns))
    sql = (
        f"SELECT {', '.join(expressions)} FROM ({rows(plan, columns, aliases, bucket, where)})"  # noqa: S608 - quoted
        f" GROUP BY {', '.join((BUCKET, *groups.values()))} {SETTINGS}"
    )
    return Statement(sql, tuple(column.kind for column in question.columns))


def newest(plan: RollupPlan, columns: Columns) -> str:
    """The statement for the moment of the newest event of the rollup's types, or NULL."""
    where = " WHERE " + _of_types(plan, columns) if plan.types is not None else ""
    return f"SELECT maxOrNull({columns.moment_or_null}) FROM {quoted(plan.table)}{where}"  # noqa: S608 - quoted


def oldest_and_newest(plan: RollupPlan, columns: Columns) -> str:
    """The statement for the moments of the oldest and the newest event of the rollup's types, or NULL."""
    where = " WHERE " + _of_types(plan, columns) if plan.types is not None else ""
    moment = columns.moment_or_null
    return f"SELECT minOrNull({moment}), maxOrNull({moment}) FROM {quoted(plan.table)}{where}"  # noqa: S608 - quoted


def rows(
    plan: RollupPlan, columns: Columns, aliases: dict[Field, str], bucket: str, where: str, *, more: Sequence[str] = ()
) -> str:
    """The events that count, with their buckets, moments and fields, and `more`."""
    values = (
        f"{bucket} AS {BUCKET}",
        f"{columns.moment} AS {TIME}",
        *(f"{columns.value(field)} AS {alias}" for field, alias in aliases.items()),
        *more,
    )
    return f"SELECT {', '.join(values)} FROM {quoted(plan.table)} WHERE {where}"  # noqa: S608 - quoted


def conditions(plan: RollupPlan, columns: Columns) -> Iterator[str]:
    """What is true of the events that count."""
    if plan.types is not None:
        yield _of_types(plan, columns)
    if plan.where is not None:
        yield condition_sql(plan.where, columns.value)


def _matching(question: Question, columns: Columns) -> Iterator[str]:
    bucket = question.plan.bucket
    low = LOWEST if question.start is None else _next_start(bucket, question.start)
    end = HIGHEST + 1 if question.end is None else _next_start(bucket, question.end)
    yield columns.within(low, end)
    yield from conditions(question.plan, columns)


def _next_start(bucket: Bucket, moment: int) -> int:
    """The first start of a bucket that is not before `moment`, as far as events can be there."""
    if not LOWEST - bucket.step <= moment <= HIGHEST:
        return LOWEST if moment < LOWEST else HIGHEST + 1
    start = bucket.floor(moment)
    return min(max(start if start == moment else bucket.after(start), LOWEST), HIGHEST + 1)


def _of_types(plan: RollupPlan, columns: Columns) -> str:
    return f"{quoted(columns.type)} IN ({', '.join(constant_sql(kind, 'text') for kind in plan.types or ())})"


def _read(given: Any, kind: Kind) -> Value:
    if given is None:
        return None
    match kind:
        case "integer" | "timestamp":
            return int(given)
        case "float":
            return float(given)
        case "boolean":
            return bool(given)
        case _:
            return readable(str(given))
