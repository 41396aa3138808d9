"""A rollup that ClickHouse keeps up to date by itself: a view with the rollup's name and columns, over merged states.

    eventrec_states_NAME    a materialized view: of each block of events that is inserted, the states of the aggregates
    NAME                    a view: buckets as moments, and the values of the measures

Late events need nothing: their states join those that are there. What is removed from the events stays in the states.
An event that is delivered twice is counted twice, unless its block is told apart by its token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql.rollups import field_aliases
from eventrec_handlers.clickhouse.rollups.buckets import calendar_sql
from eventrec_handlers.clickhouse.rollups.fields import SETTINGS, expiry
from eventrec_handlers.clickhouse.rollups.measures import measure_sql
from eventrec_handlers.clickhouse.rollups.select import BUCKET, TIME, conditions, rows
from eventrec_handlers.clickhouse.sql import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.analytics import RollupPlan
    from eventrec_handlers.clickhouse.rollups.fields import Columns
    from eventrec_handlers.clickhouse.rollups.measures import Compiled

PREFIX: Final = "eventrec_states_"


def views(plan: RollupPlan, columns: Columns) -> tuple[str, str]:
    """The two statements that make the views of a rollup. From then on events are counted in as they are inserted.

    Raises:
        CatalogueError: The table does not store a field, or ClickHouse's calendar has no such buckets.
    """
    states = quoted(PREFIX + plan.name)
    keys = [quoted(plan.bucket_name), *(quoted(group.name) for group in plan.groups)]
    retention = "" if plan.retention is None else f" TTL {expiry(keys[0], plan.retention)}"
    made = (
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS {states} ENGINE = AggregatingMergeTree ORDER BY ({', '.join(keys)})"
        f"{retention} SETTINGS allow_nullable_key = 1 AS {_states(plan, columns)}"
    )
    compiled = _compiled(plan)
    shown = {plan.bucket_name: keys[0], **{group.name: quoted(group.name) for group in plan.groups}}
    shown |= {
        name: each.value(
            [part.merged(column) for part, column in zip(each.aggregates, _names(name, each), strict=True)]
        )
        for name, each in compiled.items()
    }
    # Under other names inside: of two things with one name ClickHouse takes the nearer one, which is the value.
    listed = ", ".join(f"{shown[name]} AS {quoted(name)}" for name in plan.column_names)
    view = f"CREATE VIEW IF NOT EXISTS {quoted(plan.name)} AS SELECT {listed} FROM {states} GROUP BY {', '.join(keys)}"  # noqa: S608 - quoted
    return made, view


def fill(plan: RollupPlan, columns: Columns) -> str:
    """The statement that counts in the events that were stored before the views were made: once."""
    return f"INSERT INTO {quoted(PREFIX + plan.name)} {_states(plan, columns)}"


def _states(plan: RollupPlan, columns: Columns) -> str:
    aliases = field_aliases(plan)
    parts = [f"fromUnixTimestamp64Nano({BUCKET}, 'UTC') AS {quoted(plan.bucket_name)}"]
    parts += [f"{aliases[group.field]} AS {quoted(group.name)}" for group in plan.groups]
    for name, compiled in _compiled(plan).items():
        parts += [
            f"{each.state()} AS {column}"
            for each, column in zip(compiled.aggregates, _names(name, compiled), strict=True)
        ]
    where = " AND ".join(conditions(plan, columns)) or "true"
    events = rows(plan, columns, aliases, calendar_sql(plan.bucket, columns.moment), where)
    keys = ", ".join((BUCKET, *dict.fromkeys(aliases[group.field] for group in plan.groups)))
    return f"SELECT {', '.join(parts)} FROM ({events}) GROUP BY {keys} {SETTINGS}"  # noqa: S608 - quoted


def _compiled(plan: RollupPlan) -> dict[str, Compiled]:

    aliases = field_aliases(plan)
    return {measure.name: measure_sql(measure, aliases.__getitem__, time=TIME) for measure in plan.measures}


def _names(measure: str, compiled: Compiled) -> Sequence[str]:
    """The columns of its states."""
    return [quoted(f"er_{number}_{measure}") for number in range(len(compiled.aggregates))]
