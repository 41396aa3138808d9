"""Computing buckets of a rollup from the events: one statement for a run of buckets, whatever their zone.

Where buckets begin is ours to say (`Bucket`), not the server's: its parameter $1 is the list of their starts, and $2
the end of the last. So days of 23 hours are the same on every database, and only rows of these buckets are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql import quoted
from eventrec_handlers._sql.rollups import field_aliases
from eventrec_handlers.postgres.rollups.conditions import condition_sql
from eventrec_handlers.postgres.rollups.measures import measure_sql

if TYPE_CHECKING:
    from collections.abc import Collection

    from eventrec.analytics import RollupPlan
    from eventrec_handlers.postgres.rollups.fields import Columns

BUCKET: Final = "er_bucket"
TIME: Final = "er_time"


def compute(plan: RollupPlan, columns: Columns, table: str, *, groups: Collection[str] | None = None) -> str:
    """The statement whose rows are those of the rollup, its columns in the order of the declaration.

    `table` is the table of the events in SQL. `groups`: by which of its groups; the others are left out, their columns
    too. None: by all.

    Raises:
        CatalogueError: The table does not store a field.
    """
    asked = [group for group in plan.groups if groups is None or group.name in groups]
    fields = field_aliases(plan, groups)
    time = quoted(columns.time)
    inner = ", ".join(
        (
            f"width_bucket({time}, $1::timestamptz[]) AS {BUCKET}",
            f"{time} AS {TIME}",
            *(f"{columns.value(field)} AS {alias}" for field, alias in fields.items()),
        )
    )
    where = " AND ".join((f"{time} >= ($1::timestamptz[])[1]", f"{time} < $2::timestamptz", *matching(plan, columns)))
    named = {group.name: fields[group.field] for group in asked}
    named[plan.bucket_name] = f"($1::timestamptz[])[{BUCKET}]"
    for measure in plan.measures:
        named[measure.name] = measure_sql(measure, fields.__getitem__, time=TIME)
    outer = ", ".join(f"{named[name]} AS {quoted(name)}" for name in plan.column_names if name in named)
    by = ", ".join((BUCKET, *dict.fromkeys(fields[group.field] for group in asked)))
    # OFFSET 0: each value is made once, however many measures want it.
    return f"SELECT {outer} FROM (SELECT {inner} FROM {table} WHERE {where} OFFSET 0) AS event GROUP BY {by}"  # noqa: S608 - quoted


def matching(plan: RollupPlan, columns: Columns) -> list[str]:
    """The conditions under which an event counts."""
    return [] if plan.condition is None else [condition_sql(plan.condition, columns.value)]


def written_columns(plan: RollupPlan) -> str:
    """The columns of its table, in the order of `compute`."""
    return ", ".join(map(quoted, plan.column_names))


def reaggregated(plan: RollupPlan, table: str, groups: Collection[str], where: str) -> str:
    """Rows of the rollup's own `table`, added up over the groups that are not in `groups`."""
    kept = {plan.bucket_name, *(group.name for group in plan.groups if group.name in groups)}
    counts = {measure.name for measure in plan.measures if measure.is_count}
    folded = {measure.name: _FOLDED[measure.function] for measure in plan.measures}
    parts = []
    for name in plan.column_names:
        if name in folded:
            collation = ' COLLATE "C"' if plan.kind_of(name) == "text" else ""
            whole = "::bigint" if folded[name] == "sum" and name in counts else ""
            parts.append(f"{folded[name]}({quoted(name)}{collation}){whole} AS {quoted(name)}")
        elif name in kept:
            parts.append(quoted(name))
    by = ", ".join(quoted(name) for name in plan.column_names if name in kept)
    return f"SELECT {', '.join(parts)} FROM {table} WHERE {where} GROUP BY {by}"  # noqa: S608 - quoted


_FOLDED: Final = {"count": "sum", "sum": "sum", "min": "min", "max": "max"}
