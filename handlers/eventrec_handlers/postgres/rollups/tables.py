"""The tables of rollups: what each is made of, and what we keep beside them.

    the rollup's own     its name, and exactly its columns
    eventrec_dirty       table, since, rows: marks of what arrived, or was updated; one for each quarter of an hour of
                         each statement
    eventrec_pending     rollup, bucket, rows: what follows from these marks, for each rollup
    eventrec_rollups     what was declared, how far it is filled, how many rows came too late, when and how often it
                         is refreshed, by which rules of its zone, and up to where its rows stay: see `zones.py`
    eventrec_floors      table, kept_from: what is older may have been removed, so it is never computed again

A mark is made in the transaction that stores the rows, by a trigger for each statement, so that any writer makes it.
Marks are only ever added, and nothing is unique: no writer waits for another, nor for a refresh. Where a trigger cannot
find out what has changed, because the column of the time has another name or type by now, its mark is about everything.
A table in another schema is no longer ours, and nothing is marked. What another program deletes stays counted, until a
row arrives for that bucket, which is then computed from what is left. What is written to a partition under its own
name, or comes with one that is attached, is not noticed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql import fitting, quoted
from eventrec_handlers.postgres.checkpoints import literal
from eventrec_handlers.postgres.rollups.fields import TYPES
from eventrec_handlers.postgres.rollups.measures import measure_type

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventrec.analytics import RollupPlan
    from eventrec_handlers.postgres.checkpoints import Namespace
    from eventrec_handlers.postgres.rollups.fields import Columns

DIRTY: Final = "eventrec_dirty"
PENDING: Final = "eventrec_pending"
ROLLUPS: Final = "eventrec_rollups"
FLOORS: Final = "eventrec_floors"
MARK: Final = "eventrec_mark"
"""The function of the triggers, and the trigger of what is inserted."""

MARK_UPDATED: Final = "eventrec_mark_updated"
TRIGGERS: Final = (MARK, MARK_UPDATED)

OWN: Final = (DIRTY, PENDING, ROLLUPS, FLOORS)

FIRST: Final = "0003-01-01 00:00:00+00"
LAST: Final = "9997-01-01 00:00:00+00"
"""Moments outside of these two are in no bucket."""

ADDED: Final[Mapping[str, str]] = {
    "refreshed_at": "timestamptz NOT NULL DEFAULT now()",
    "refresh_every": "double precision NOT NULL DEFAULT 3600",
    "rules": "text",
    "kept_to": "timestamptz",
}
"""Columns of `eventrec_rollups` that its first version did not have."""

EVERYTHING: Final = LAST
"""What a mark is about where it is not known what has changed: no other mark begins then."""

MARKING: Final = (
    "DECLARE marks regclass; starts timestamptz[]; counts bigint[]; BEGIN"  # noqa: S608 - ours
    # The table may be in another schema by now, where we keep nothing, or may not write: then it is no longer ours.
    " IF has_schema_privilege(TG_TABLE_SCHEMA, 'USAGE')"
    " THEN marks := to_regclass(format('%I.eventrec_dirty', TG_TABLE_SCHEMA)); END IF;"
    " IF has_table_privilege(marks, 'INSERT') IS NOT TRUE THEN RETURN NULL; END IF;"
    # Its column may be gone, or another one. What is caught has written nothing, so it costs no transaction's number.
    " BEGIN EXECUTE format('SELECT array_agg(since), array_agg(rows)"
    " FROM (SELECT date_bin(''15 minutes'', %1$I, ''2000-01-01 00:00:00+00''), count(*) FROM '"
    " || CASE TG_OP WHEN 'UPDATE' THEN '(SELECT %1$I FROM added UNION ALL SELECT %1$I FROM gone) AS changed'"
    " ELSE 'added' END || ' WHERE %1$I >= ''0003-01-01 00:00:00+00'' AND %1$I < ''9997-01-01 00:00:00+00'' GROUP BY 1)"
    " AS found (since, rows)', TG_ARGV[0]) INTO starts, counts;"
    f" EXCEPTION WHEN OTHERS THEN starts := ARRAY['{EVERYTHING}'::timestamptz]; counts := ARRAY[0]; END;"
    " IF starts IS NOT NULL THEN EXECUTE format('INSERT INTO %s (table_name, since, rows)"
    " SELECT $1, * FROM unnest($2, $3)', marks) USING TG_TABLE_NAME, starts, counts; END IF; RETURN NULL; END"
)
"""What the triggers do. A writer never fails because of it, whatever became of its table."""


def own_tables(namespace: Namespace) -> Iterator[str]:
    """The statements that make what we keep, where it is not there yet."""
    named = namespace.named
    yield (
        f"CREATE TABLE IF NOT EXISTS {named(DIRTY)}"
        " (table_name text NOT NULL, since timestamptz NOT NULL, rows bigint NOT NULL)"
    )
    yield (
        f"CREATE TABLE IF NOT EXISTS {named(PENDING)}"
        " (rollup text NOT NULL, bucket timestamptz NOT NULL, rows bigint NOT NULL)"
    )
    yield f"CREATE INDEX IF NOT EXISTS eventrec_pending_bucket ON {named(PENDING)} (rollup, bucket)"
    yield (
        f"CREATE TABLE IF NOT EXISTS {named(ROLLUPS)} (name text PRIMARY KEY, table_name text NOT NULL,"
        " fingerprint text NOT NULL, unit text NOT NULL, every integer NOT NULL, zone text NOT NULL,"
        " todo_from timestamptz, todo_to timestamptz, late_rows bigint NOT NULL DEFAULT 0,"
        f" {', '.join(f'{name} {type_}' for name, type_ in ADDED.items())})"
    )
    yield with_added_columns(namespace)
    yield (
        f"CREATE TABLE IF NOT EXISTS {named(FLOORS)}"
        f" (table_name text PRIMARY KEY, kept_from timestamptz NOT NULL DEFAULT '{FIRST}')"
    )
    yield from marking_function(namespace)


def marking_function(namespace: Namespace) -> Iterator[str]:
    """The statements that make the function of the triggers, also in place of that of an earlier version.

    It runs with the rights of its owner: who may write events need not know of our tables.
    """
    named = namespace.named
    yield (
        f"CREATE OR REPLACE FUNCTION {named(MARK)}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        f" SET search_path = pg_catalog, pg_temp AS $mark${MARKING}$mark$"
    )
    yield f"REVOKE EXECUTE ON FUNCTION {named(MARK)}() FROM PUBLIC"


def with_added_columns(namespace: Namespace) -> str:
    """The statement that adds the columns that an earlier version did not have; it locks nothing where they are."""
    table = namespace.named(ROLLUPS)
    added = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {type_}" for name, type_ in ADDED.items())
    names = ", ".join(map(literal, ADDED))
    return (
        f"DO $do$BEGIN IF (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass({literal(table)})"  # noqa: S608 - quoted
        f" AND attname IN ({names}) AND NOT attisdropped) < {len(ADDED)}"
        f" THEN ALTER TABLE {table} {added}; END IF; END$do$"
    )


def rollup_tables(plan: RollupPlan, columns: Columns, namespace: Namespace) -> Iterator[str]:
    """The statements that make the rollup: its table, its index, and the triggers that mark what arrives.

    The triggers are made before the rollup is known: so every row is either there when the rollup begins to be filled,
    or marked. Making them waits for those that write to the table.
    """
    named = namespace.named
    types = {plan.bucket_name: "timestamptz NOT NULL"}
    types |= {group.name: TYPES[group.field.kind] for group in plan.groups}
    types |= {measure.name: measure_type(measure) for measure in plan.measures}
    declared = ", ".join(f"{quoted(name)} {types[name]}" for name in plan.column_names)
    yield f"CREATE TABLE IF NOT EXISTS {named(plan.name)} ({declared})"
    yield index_of(plan, namespace)
    refresh = plan.refresh
    yield schedule(plan.name, (refresh.window, refresh.lag, refresh.every), plan.retention, namespace)
    if plan.types is None and not _is_found_by_time(columns):
        yield index_by_time(plan, columns, namespace)
    yield (
        f"CREATE OR REPLACE TRIGGER {MARK} AFTER INSERT ON {named(plan.table)} REFERENCING NEW TABLE AS added"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {named(MARK)}({literal(columns.time)})"
    )
    yield (
        f"CREATE OR REPLACE TRIGGER {MARK_UPDATED} AFTER UPDATE ON {named(plan.table)}"
        " REFERENCING OLD TABLE AS gone NEW TABLE AS added"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {named(MARK)}({literal(columns.time)})"
    )
    yield f"INSERT INTO {named(FLOORS)} (table_name) VALUES ({literal(plan.table)}) ON CONFLICT DO NOTHING"  # noqa: S608 - quoted
    values = ", ".join(
        (
            literal(plan.name),
            literal(plan.table),
            literal(plan.fingerprint),
            literal(plan.bucket.unit),
            str(plan.bucket.every),
            literal(plan.bucket.zone),
        )
    )
    yield (
        f"INSERT INTO {named(ROLLUPS)} (name, table_name, fingerprint, unit, every, zone, todo_from, todo_to)"  # noqa: S608 - quoted
        f" VALUES ({values}, '{FIRST}', '{LAST}') ON CONFLICT DO NOTHING"
    )


def _indexed(plan: RollupPlan) -> Iterator[str]:
    """What the index of the rollup's own table is on: one that has no name of its own has the order of answers.

    Of texts it has the beginning: a tree takes no entry of more than 2,704 bytes, and texts may be of any length.
    """
    bucket = quoted(plan.bucket_name)
    if plan.index is not None:
        yield f"{bucket} DESC"
        yield from cut_groups(plan)
        return
    yield bucket
    for group, cut in zip(plan.groups, cut_groups(plan), strict=True):
        compared = ' COLLATE "C"' if group.field.kind == "text" else ""
        yield f"{cut}{compared} NULLS FIRST"


def cut_groups(plan: RollupPlan) -> Iterator[str]:
    """The groups as an index has them: of texts the beginning."""
    for group in plan.groups:
        name = quoted(group.name)
        yield f"left({name}, {prefix_of(plan)})" if group.field.kind == "text" else name


PREFIX: Final = 400
"""Characters that the texts of one entry of an index have, of four bytes at most: with 31 other groups they fit."""


def prefix_of(plan: RollupPlan) -> int | None:
    """How many characters the index of the rollup's own table has of a text; None: it has no texts."""
    texts = sum(group.field.kind == "text" for group in plan.groups)
    return PREFIX // texts if texts else None


def index_of(plan: RollupPlan, namespace: Namespace) -> str:
    """The statement that makes the index of the rollup's own table, where nothing has its name."""
    by = ", ".join(_indexed(plan))
    name = quoted(index_name(plan, namespace))
    return f"CREATE INDEX IF NOT EXISTS {name} ON {namespace.named(plan.name)} ({by})"


def other_index(plan: RollupPlan, namespace: Namespace) -> Iterator[str]:
    """The statements that replace the index that an earlier version made, of whole texts."""
    yield f"DROP INDEX IF EXISTS {namespace.named(index_name(plan, namespace))}"
    yield index_of(plan, namespace)


SAYS: Final = "eventrec rollup: "
"""How what is said at the table of a rollup begins: where it stands, the table is ours."""


def schedule(name: str, refresh: Sequence[float], retention: float | None, namespace: Namespace) -> str:
    """The statement that says at the table of a rollup what is declared of it beside its rows. Times are in seconds.

    An operator reads it: a process that refreshes has the declaration. `refresh` is window, lag and every.
    """
    window, lag, every = (_plain(seconds) for seconds in refresh)
    kept = "for ever" if retention is None else f"{_plain(retention)} s"
    said = f"{SAYS}refresh window {window} s, lag {lag} s, every {every} s; kept {kept}"
    return f"COMMENT ON TABLE {namespace.named(name)} IS {literal(said)}"


def _plain(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def index_by_time(plan: RollupPlan, columns: Columns, namespace: Namespace) -> str:
    """The statement that makes the index by which one bucket is found among all events, where there is none yet."""
    name = fitting(plan.table, "_by_time", namespace.longest_name)
    return f"CREATE INDEX IF NOT EXISTS {quoted(name)} ON {namespace.named(plan.table)} ({quoted(columns.time)})"


def without_rollup(plan: RollupPlan, namespace: Namespace) -> Iterator[str]:
    """The statements that remove the rollup, and the triggers with the last one of its table."""
    yield f"DELETE FROM {namespace.named(ROLLUPS)} WHERE name = {literal(plan.name)}"  # noqa: S608 - quoted
    yield f"DELETE FROM {namespace.named(PENDING)} WHERE rollup = {literal(plan.name)}"  # noqa: S608 - quoted
    yield f"DROP TABLE IF EXISTS {namespace.named(plan.name)}"
    table = literal(plan.table)
    dropped = "".join(f" DROP TRIGGER IF EXISTS {name} ON {namespace.named(plan.table)};" for name in TRIGGERS)
    yield (
        f"DO $do$BEGIN IF NOT EXISTS (SELECT FROM {namespace.named(ROLLUPS)} WHERE table_name = {table})"  # noqa: S608 - quoted
        f" THEN{dropped}"
        f" DELETE FROM {namespace.named(DIRTY)} WHERE table_name = {table}; END IF; END$do$"
    )


def _is_found_by_time(columns: Columns) -> bool:
    """Whether an index that the layout declares begins with the timestamp."""
    layout = columns.layout
    first = [layout.primary_key[:1], *(index.columns[:1] for index in layout.indexes if not index.where_not_null)]
    return (columns.time,) in {tuple(names) for names in first}


def index_name(plan: RollupPlan, namespace: Namespace) -> str:
    """What the index of the rollup's own table is called."""
    if plan.index is not None:
        return plan.index
    return fitting(plan.name, "_by_bucket", namespace.longest_name)
