"""A question as one statement over the events.

The inner SELECT finds the rows, by an index, and the values of their fields; the outer one groups them. LIMIT -1 keeps
SQLite from merging the two, which would look for each value as often as it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from eventrec_handlers._sql import quoted
from eventrec_handlers._sql.rollups import field_aliases
from eventrec_handlers.sqlite.rollups.conditions import condition_sql, constant_sql
from eventrec_handlers.sqlite.rollups.functions import BUCKET
from eventrec_handlers.sqlite.rollups.measures import measure_sql, read_as

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventrec.analytics import Bucket, Question, RollupPlan, Value
    from eventrec_handlers.sqlite.rollups.fields import Columns
    from eventrec_handlers.sqlite.rollups.measures import Read

_START: Final = "er_bucket"
_TIME: Final = "er_time"
LOWEST: Final = -(2**63)
HIGHEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement, and how its rows are read.

    Attributes:
        sql: The statement.
        parameters: Its two: the first moment, and the one behind the last.
        reads: For each column of the answer: where in a row its values begin and end, and what they mean.
    """

    sql: str
    parameters: tuple[int, int]
    reads: tuple[tuple[int, int, Read], ...]

    def row(self, given: Sequence[Any]) -> tuple[Value, ...]:
        """A row of the answer."""
        return tuple(read(given[start:end]) for start, end, read in self.reads)


def select(question: Question, columns: Columns) -> Statement:
    """The statement that answers `question`.

    Raises:
        ValueError: The table does not store a field.
    """
    plan = question.plan
    aliases = field_aliases(plan, question.group_names)
    time = quoted(columns.time)
    inner = ", ".join(
        (
            f"{_bucket(plan.bucket, time)} AS {_START}",
            f"{time} AS {_TIME}",
            *(f"{columns.value(field)} AS {alias}" for field, alias in aliases.items()),
        )
    )
    where = " AND ".join((f"{time} >= ?", f"{time} <= ?", *_matching(plan, columns)))
    groups = {group.name: aliases[group.field] for group in plan.groups if group.name in question.group_names}
    expressions: list[str] = []
    reads: list[tuple[int, int, Read]] = []
    measures = {measure.name: measure for measure in plan.measures}
    for column in question.columns:
        start = len(expressions)
        if column.role == "measure":
            compiled = measure_sql(measures[column.name], aliases.__getitem__, time=_TIME)
            expressions += compiled.expressions
            read = compiled.read
        else:
            expressions.append(_START if column.role == "bucket" else groups[column.name])
            read = read_as(column.kind)
        reads.append((start, len(expressions), read))
    outer, keys = ", ".join(expressions), ", ".join((_START, *groups.values()))
    events = f"SELECT {inner} FROM {quoted(plan.table)} WHERE {where} LIMIT -1"  # noqa: S608 - quoted
    sql = f"SELECT {outer} FROM ({events}) GROUP BY {keys}"  # noqa: S608 - likewise
    return Statement(sql, _moments(question), tuple(reads))


def newest(plan: RollupPlan, columns: Columns) -> str:
    """The statement for the time of the newest event of the rollup's types."""
    return _extreme(plan, columns, "max", "1")


def oldest(plan: RollupPlan, columns: Columns) -> str:
    """The statement for the time of the oldest event of the rollup's types from `:start` on, and before `:end`."""
    time = quoted(columns.time)
    return _extreme(plan, columns, "min", f"{time} >= :start AND {time} < :end")


def _extreme(plan: RollupPlan, columns: Columns, function: str, where: str) -> str:
    time, kind = quoted(columns.time), columns.type
    table = quoted(plan.table)
    order = "DESC" if function == "max" else "ASC"

    def one(of: str) -> str:
        return f"SELECT {time} AS found FROM {table} WHERE {of} AND {where} ORDER BY {time} {order} LIMIT 1"  # noqa: S608 - quoted

    is_ours = " AND ".join(columns.is_event())
    if plan.types is None:
        return f"SELECT {function}(found) FROM ({one(is_ours)})"  # noqa: S608 - likewise
    # Each type by itself: the index begins with it.
    each = (f"SELECT * FROM ({one(f'{kind} = {constant_sql(type_)} AND {is_ours}')})" for type_ in plan.types)  # noqa: S608 - likewise
    return f"SELECT {function}(found) FROM ({' UNION ALL '.join(each)})"  # noqa: S608 - likewise


def _moments(question: Question) -> tuple[int, int]:
    """The first and the last moment of the buckets that begin in the question's time.

    A bucket whose start SQLite cannot hold does not count: what is in it happened in 1677.
    """
    bucket = question.plan.bucket
    low = _next_start(bucket, LOWEST if question.start is None else question.start)
    is_bounded = question.end is not None and question.end <= HIGHEST
    high = _next_start(bucket, question.end or 0) - 1 if is_bounded else HIGHEST
    return low, high


def _next_start(bucket: Bucket, moment: int) -> int:
    return min(bucket.ceiling(min(max(moment, LOWEST), HIGHEST)), HIGHEST)


def _bucket(bucket: Bucket, time: str) -> str:
    if bucket.is_fixed:
        return f"{time} - (({time} % {bucket.step}) + {bucket.step}) % {bucket.step}"
    return f"{BUCKET}({time})"


def _matching(plan: RollupPlan, columns: Columns) -> Iterator[str]:
    """The conditions for the rows that count."""
    if plan.types is not None:
        yield f"{columns.type} IN ({', '.join(map(constant_sql, plan.types))})"
    yield from columns.is_event()
    if plan.where is not None:
        yield condition_sql(plan.where, columns.value)
