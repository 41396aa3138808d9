"""The tables of rollups that are refreshed: what each is made of, and what we keep beside them.

    the rollup's own     its name, and exactly its columns; the bucket is its start, in nanoseconds since the epoch
    eventrec_dirty       marks of what was updated: see `marks.py`
    eventrec_pending     rollup, bucket, rows: what follows from what arrived, for each rollup; its stamp is another one
                         each time
    eventrec_rollups     what was declared, up to which bucket its table is filled, how many rows came too late, and
                         when and how often it is refreshed
    eventrec_floors      one row for each table of events: what is older than kept_from may have been removed, so it is
                         never computed again; and the last row that was noted

Names of tables of events are kept with A to Z in lower case. What any program stores is noticed by the numbers of its
rows, so that storing costs nothing more. Rows that another program updates are marked by a trigger; what it deletes
stays counted, until a row arrives for that bucket, which is then computed from what is left. A row that its `INSERT OR
REPLACE` removes was deleted in this sense. Only in a table that has no INTEGER PRIMARY KEY, a row that is inserted with
a `rowid` given below that of others is not noticed.

A sum of whole numbers that has more than 64 bits is a text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql import fold_ascii, quoted
from eventrec_handlers._sql.refreshing import QUARTER
from eventrec_handlers.sqlite.layouts import literal
from eventrec_handlers.sqlite.marks import EARLIEST, LATEST, NONE_NOTED, table_number
from eventrec_handlers.sqlite.own_tables import DIRTY, FLOORS, PENDING, ROLLUPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from eventrec.analytics import Kind, Measure, RollupPlan

_TYPES: Final[Mapping[Kind, str]] = {
    "text": "TEXT",
    "uuid": "TEXT",
    "integer": "INTEGER",
    "float": "REAL",
    "boolean": "BOOLEAN",
    "timestamp": "INTEGER",
}


def rollup_statements(plan: RollupPlan, time: str, *, number: str, chosen: str | None) -> Iterator[str]:
    """The statements that make the rollup, and have it noticed what arrives; `time` is the column of the timestamp.

    For `number` and `chosen` see `marking`. In one transaction, or in this order: every row is either there when the
    rollup begins to be filled, or noticed.
    """
    yield rollup_table(plan)
    by = ", ".join(quoted(name) for name in (plan.bucket_name, *(group.name for group in plan.groups)))
    yield f"CREATE INDEX IF NOT EXISTS {quoted(index_name(plan.name, plan.index))} ON {quoted(plan.name)} ({by})"
    yield from marking(plan.table, time, number=number, chosen=chosen)
    values = ", ".join(
        (
            literal(plan.name),
            literal(fold_ascii(plan.table)),
            literal(plan.fingerprint),
            str(plan.version),
            literal(plan.bucket.unit),
            str(plan.bucket.every),
            literal(plan.bucket.zone),
            repr(float(plan.refresh.lag)),
            repr(float(plan.refresh.every)),
            str(EARLIEST),
        )
    )
    yield (
        f"INSERT OR IGNORE INTO {ROLLUPS}"  # noqa: S608 - constants and literals
        " (name, table_name, fingerprint, version, unit, every, zone, lag, refresh_every, filled_to)"
        f" VALUES ({values})"
    )


def rollup_table(plan: RollupPlan) -> str:
    """The statement that makes the rollup's own table, where nothing has its name."""
    types = {plan.bucket_name: "INTEGER NOT NULL"}
    types |= {group.name: _TYPES[group.field.kind] for group in plan.groups}
    types |= {measure.name: _measure_type(measure) for measure in plan.measures}
    declared = ", ".join(f"{quoted(name)} {types[name]}".rstrip() for name in plan.column_names)
    return f"CREATE TABLE IF NOT EXISTS {quoted(plan.name)} ({declared})"


def marking(table: str, time: str, *, number: str, chosen: str | None) -> Iterator[str]:
    """The statements that have it noticed what arrives in `table`, where it is not yet.

    `number` is what the numbers of its rows are called, `chosen` the column in which a program may choose one, if any.
    """
    key, name, at = literal(fold_ascii(table)), quoted(table), quoted(time)
    inserted, updated, deleted = map(quoted, trigger_names(table))
    newest = f"SELECT {at} FROM {name} ORDER BY {number} DESC LIMIT 1"  # noqa: S608 - quoted
    yield (
        f"INSERT INTO {FLOORS} (table_name, kept_from, number, time, noted, noted_time)"  # noqa: S608 - quoted
        f" SELECT {key}, {EARLIEST}, '{number}', {literal(time)},"
        f" coalesce((SELECT max({number}) FROM {name}), {NONE_NOTED}), ({newest}) WHERE true"
        " ON CONFLICT (table_name) DO UPDATE SET number = excluded.number, time = excluded.time"
    )
    noted = f"(SELECT noted FROM {FLOORS} WHERE table_name = {key})"  # noqa: S608 - a literal
    new, old = _mark(table, "NEW", time), _mark(table, "OLD", time)
    if chosen is not None:
        when = f"NEW.{quoted(chosen)} <= {noted}"
        yield f"CREATE TRIGGER IF NOT EXISTS {inserted} AFTER INSERT ON {name} WHEN {when} BEGIN {new}; END"
    moved = f"UPDATE {FLOORS} SET noted_time = NEW.{at} WHERE table_name = {key} AND noted = OLD.{number}"  # noqa: S608 - quoted
    yield f"CREATE TRIGGER IF NOT EXISTS {updated} AFTER UPDATE ON {name} BEGIN {old}; {new}; {moved}; END"
    before = f"FROM {name} WHERE {number} < OLD.{number} ORDER BY {number} DESC LIMIT 1"
    lowered = (
        f"UPDATE {FLOORS} SET noted = coalesce((SELECT {number} {before}), {NONE_NOTED}),"  # noqa: S608 - quoted
        f" noted_time = (SELECT {at} {before}) WHERE table_name = {key}"
    )
    when = f"OLD.{number} = {noted}"
    yield f"CREATE TRIGGER IF NOT EXISTS {deleted} AFTER DELETE ON {name} WHEN {when} BEGIN {lowered}; END"


def trigger_names(table: str) -> tuple[str, str, str]:
    """What the triggers are called that tell what was inserted into `table`, where there is one, updated, deleted."""
    folded = fold_ascii(table)
    return f"eventrec_mark_inserted_{folded}", f"eventrec_mark_updated_{folded}", f"eventrec_mark_deleted_{folded}"


def index_name(rollup: str, given: str | None) -> str:
    """What the index of the rollup's own table is called; `given`: by its declaration."""
    return given if given is not None else f"eventrec_{rollup}_by_bucket"


def without_rollup(plan: RollupPlan) -> Iterator[str]:
    """The statements that remove the rollup; the triggers of its table are left."""
    yield f"DELETE FROM {ROLLUPS} WHERE name = {literal(plan.name)}"  # noqa: S608 - a literal
    yield f"DELETE FROM {PENDING} WHERE rollup = {literal(plan.name)}"  # noqa: S608 - likewise
    yield f"DROP TABLE IF EXISTS {quoted(plan.name)}"


def set_aside(name: str, version: int, index: str | None) -> Iterator[str]:
    """The statements that rename the table of the `version` before: the events that it has counted may be gone."""
    yield f"ALTER TABLE {quoted(name)} RENAME TO {quoted(f'{name}_v{version}')}"
    yield f"DROP INDEX IF EXISTS {quoted(index_name(name, index))}"
    yield f"DELETE FROM {ROLLUPS} WHERE name = {literal(name)}"  # noqa: S608 - a literal
    yield f"DELETE FROM {PENDING} WHERE rollup = {literal(name)}"  # noqa: S608 - likewise


def _measure_type(measure: Measure) -> str:
    # No type at all keeps what it is given: a number, or a text.
    return "" if measure.function == "sum" and measure.kind == "integer" else _TYPES[measure.kind]


def _mark(table: str, row: str, time: str) -> str:
    at = f"{row}.{quoted(time)}"
    # CAST: in a table of another program it may have a fraction, and what is not a whole number is not a key.
    mark = f"CAST({at} - ({at} % {QUARTER} + {QUARTER}) % {QUARTER} + {table_number(table)} AS INTEGER)"
    return (
        f"INSERT INTO {DIRTY} (mark, rows) SELECT {mark}, 1 WHERE {at} BETWEEN {EARLIEST} AND {LATEST}"
        " ON CONFLICT (mark) DO UPDATE SET rows = rows + 1"
    )
