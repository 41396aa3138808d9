"""What TimescaleDB is told of tables and rollups: hypertables, compression, retention, continuous aggregates, policies.

Each statement is given with whether it may be in a transaction. All of them may be repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

from eventrec import TIMESTAMP, CatalogueError
from eventrec_handlers._sql import fitting, quoted
from eventrec_handlers.postgres.hook import cut_groups, in_block, literal, matching, measure_sql, prefix_of
from eventrec_handlers.timescale.buckets import time_bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from eventrec import Layout, LayoutCompression, PartitionUnit
    from eventrec.analytics import RollupPlan
    from eventrec_handlers.postgres.hook import Columns

PolicyKind: TypeAlias = Literal["compression", "retention", "continuous_aggregate"]
"""What `remove_…_policy` is about."""

EXTENSION: Final = "CREATE EXTENSION IF NOT EXISTS timescaledb"

CHUNKS: Final[Mapping[PartitionUnit, str]] = {"day": "1 day", "week": "7 days", "month": "1 month"}
"""How long a chunk is."""


_LONGEST_NAME: Final = 63
"""Bytes that PostgreSQL keeps of a name."""


def hypertable(layout: Layout, *, named: Callable[[str], str] = quoted) -> Iterator[str]:
    """What makes a hypertable of the table of `layout`, and its policies.

    Rows that are there already are moved into chunks, which takes its time. A layout without partitions is left as it
    is.
    """
    time = layout.column_of(TIMESTAMP)
    if layout.partition is None or time is None:
        return
    table = literal(named(layout.table))
    yield (
        f"SELECT create_hypertable({table}::regclass, {literal(time.name)}::name,"
        f" chunk_time_interval => INTERVAL '{CHUNKS[layout.partition]}', if_not_exists => true, migrate_data => true,"
        " create_default_indexes => false)"
    )
    if layout.compression is not None:
        yield compressed(layout, layout.compression, named=named)
        yield compression_policy(layout, layout.compression, named=named)
    if layout.retention_seconds is not None:
        yield retention_policy(layout.table, layout.retention_seconds, named=named)


def compressed(layout: Layout, compression: LayoutCompression, *, named: Callable[[str], str] = quoted) -> str:
    """What tells the table of `layout` how its rows are compressed; chunks that are compressed stay as they are.

    Both options are always said: what is left out would stay as it was, or be chosen by the database.
    """
    time = layout.column_of(TIMESTAMP)
    ordered = [f"{quoted(name)}{' DESC' * (name in compression.descending)}" for name in compression.order_by]
    if not ordered and time is not None:
        ordered = [f"{quoted(time.name)} DESC"]
    segmented, ordering = literal(", ".join(map(quoted, compression.segment_by))), literal(", ".join(ordered))
    return (
        f"ALTER TABLE {named(layout.table)} SET (timescaledb.compress, timescaledb.compress_segmentby = {segmented},"
        f" timescaledb.compress_orderby = {ordering})"
    )


def compression_policy(layout: Layout, compression: LayoutCompression, *, named: Callable[[str], str] = quoted) -> str:
    """What has old rows compressed, if nothing has yet."""
    after = _interval(cast("float", compression.after))  # kept in seconds
    return f"SELECT add_compression_policy({_class(layout.table, named)}, {after}, if_not_exists => true)"


def retention_policy(table: str, seconds: float, *, named: Callable[[str], str] = quoted) -> str:
    """What has the rows of a table or view that are older than `seconds` removed, if nothing has yet."""
    return f"SELECT add_retention_policy({_class(table, named)}, {_interval(seconds)}, if_not_exists => true)"


def without_policy(kind: PolicyKind, table: str, *, named: Callable[[str], str] = quoted) -> str:
    """What removes a policy of a table or view, if it has one."""
    return f"SELECT remove_{kind}_policy({_class(table, named)}, if_exists => true)"


def _class(table: str, named: Callable[[str], str]) -> str:
    return f"{literal(named(table))}::regclass"


def continuous_aggregate(
    plan: RollupPlan, columns: Columns, *, is_real_time: bool = True, named: Callable[[str], str] = quoted
) -> Iterator[str]:
    """What makes the continuous aggregate of `plan`, empty, its index and its policies; nothing where it has none.

    `is_real_time`: what has not been refreshed yet is computed when it is asked for.

    Raises:
        CatalogueError: The table does not store a field, or keeps its events for too short a time.
    """
    select = aggregate(plan, columns, named=named)
    if select is None:
        return
    refreshed = refresh_policy(plan, columns, named=named)
    view = named(plan.name)
    yield (
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS {view}"
        f" WITH (timescaledb.continuous, timescaledb.materialized_only = {str(not is_real_time).lower()})"
        f" AS {select} WITH NO DATA"
    )
    yield from indexes(plan, named=named)
    yield refreshed
    if plan.retention is not None:
        yield retention_policy(plan.name, plan.retention, named=named)


def indexes(plan: RollupPlan, *, named: Callable[[str], str] = quoted) -> Iterator[str]:
    """What makes the index of a continuous aggregate. It has the beginning of texts: a tree takes no long ones.

    Indexes of whole texts that TimescaleDB makes by itself, or an earlier version of ours made, are dropped first.
    """
    by = ", ".join((f"{quoted(plan.bucket_name)} DESC", *cut_groups(plan)))
    if prefix_of(plan) is not None:
        yield in_block(
            f"DECLARE found regclass; BEGIN FOR found IN {of_whole_texts(plan, named=named)}"
            " LOOP EXECUTE format('DROP INDEX IF EXISTS %s', found); END LOOP; END;"
        )
    yield f"CREATE INDEX IF NOT EXISTS {quoted(index_name(plan))} ON {named(plan.name)} ({by})"


def of_whole_texts(plan: RollupPlan, *, named: Callable[[str], str] = quoted) -> str:
    """The query for the indexes of the continuous aggregate of `plan` that take no long texts; not an operator's."""
    texts = ", ".join(literal(group.name) for group in plan.groups if group.field.kind == "text")
    return (
        "SELECT i.indexrelid::regclass FROM pg_class v JOIN pg_namespace n ON n.oid = v.relnamespace"  # noqa: S608 - quoted
        " JOIN _timescaledb_catalog.continuous_agg c ON c.user_view_schema = n.nspname"
        " AND c.user_view_name = v.relname"
        " JOIN _timescaledb_catalog.hypertable h ON h.id = c.mat_hypertable_id"
        " JOIN pg_index i ON i.indrelid = to_regclass(format('%I.%I', h.schema_name, h.table_name))"
        " JOIN pg_class x ON x.oid = i.indexrelid"
        f" WHERE v.oid = to_regclass({literal(named(plan.name))})"
        f" AND (x.relname::text = {literal(index_name(plan))} OR starts_with(x.relname::text, h.table_name::text))"
        " AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)"
        f" AND a.attname::text IN ({texts}))"
    )


def refresh_policy(plan: RollupPlan, columns: Columns, *, named: Callable[[str], str] = quoted) -> str:
    """What has the continuous aggregate of `plan` refreshed, if nothing has yet.

    Raises:
        CatalogueError: The table keeps its events for too short a time.
    """
    return (
        f"SELECT add_continuous_aggregate_policy({_class(plan.name, named)},"
        f" start_offset => {_interval(_window(plan, columns))}, end_offset => {_interval(plan.refresh.lag)},"
        f" schedule_interval => {_interval(plan.refresh.every)}, if_not_exists => true)"
    )


def _window(plan: RollupPlan, columns: Columns) -> float:
    """How far back the policy looks, in seconds.

    At least two buckets, or TimescaleDB refuses it; and never to where events may have been removed: what is refreshed
    without its events vanishes.

    Raises:
        CatalogueError: That cannot be had both.
    """
    least, kept = plan.refresh.lag + 2 * plan.bucket.step / 1_000_000_000, columns.layout.retention_seconds
    if kept is None:
        return max(plan.refresh.window, least)
    if least > kept:
        raise CatalogueError(
            f"rollup {plan.name!r}: table {plan.table!r} keeps its events for {kept / _DAY:g} days, and to count all of"
            f" a bucket TimescaleDB needs them for {least / _DAY:.3g}: two buckets and the lag"
        )
    return min(max(plan.refresh.window, least), kept)


_DAY: Final = 86_400


def aggregate(plan: RollupPlan, columns: Columns, *, named: Callable[[str], str] = quoted) -> str | None:
    """The query of a continuous aggregate; None: its buckets are not those of `time_bucket`.

    Raises:
        CatalogueError: The table does not store a field.
    """
    time = quoted(columns.time)
    start = time_bucket(plan.bucket, time)
    if start is None:
        return None
    made = {plan.bucket_name: start}
    made |= {group.name: columns.value(group.field) for group in plan.groups}
    made |= {measure.name: measure_sql(measure, columns.value, time=time) for measure in plan.measures}
    listed = ", ".join(f"{made[name]} AS {quoted(name)}" for name in plan.column_names)
    where = " AND ".join(matching(plan, columns))
    keys = {plan.bucket_name, *(group.name for group in plan.groups)}
    by = ", ".join(str(number) for number, name in enumerate(plan.column_names, 1) if name in keys)
    return f"SELECT {listed} FROM {named(plan.table)}{where and ' WHERE ' + where} GROUP BY {by}"  # noqa: S608 - quoted


def without_aggregate(plan: RollupPlan, *, named: Callable[[str], str] = quoted) -> str:
    """What removes the continuous aggregate, and its policies with it."""
    return f"DROP MATERIALIZED VIEW IF EXISTS {named(plan.name)}"


def index_name(plan: RollupPlan) -> str:
    """What the index of the rollup is called: cut where it would be too long, and told apart by a checksum."""
    if plan.index is not None:
        return plan.index
    return fitting(plan.name, "_by_bucket", _LONGEST_NAME)


def _interval(seconds: float) -> str:
    """A time in the largest unit that it is whole in: what is in days is not in hours, where summer time begins."""
    for unit, length in _UNITS.items():
        number, rest = divmod(seconds, length)
        if not rest and number:
            return f"INTERVAL '{number:.0f} {unit}{'s' * (number != 1)}'"
    return f"INTERVAL '{seconds:.6f} seconds'"


_UNITS: Final[Mapping[str, int]] = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}
