"""What stands in a database already, made by others, and how it differs from what is declared: said by migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from eventrec import TIMESTAMP
from eventrec_handlers.timescale.ddl import CHUNKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from eventrec import Layout


async def table_differences(connection: asyncpg.Connection, schema: str, layout: Layout) -> list[str]:
    """How the hypertable of `layout` differs, if it is one: of a plain table, one is made."""
    time = layout.column_of(TIMESTAMP)
    found = await connection.fetchrow(
        "SELECT column_name::text, time_interval FROM timescaledb_information.dimensions"
        " WHERE hypertable_schema::text = $1 AND hypertable_name::text = $2 AND dimension_number = 1",
        schema,
        layout.table,
    )
    if found is None:
        return []
    if layout.partition is None or time is None:
        return ["it is a hypertable, and its layout has no partitions"]
    divided_by, interval = found
    differs = []
    if divided_by != time.name:
        differs.append(f"it is divided by its column {divided_by!r}, not by {time.name!r}")
    elif not await _is_as_long(connection, interval, CHUNKS[layout.partition]):
        differs.append(f"a new chunk of it has {interval}, not {CHUNKS[layout.partition]}")
    wanted = {"policy_retention": ("drop_after", layout.retention_seconds)}
    if layout.compression is not None:
        wanted["policy_compression"] = ("compress_after", cast("float", layout.compression.after))  # kept in seconds
    for policy, (setting, seconds) in wanted.items():
        said = await _policy(connection, schema, layout.table, policy, setting)
        if said is not None and seconds is not None and said != seconds:
            differs.append(f"its {policy} has {setting} = {said:g} seconds, not {seconds:g}")
    return differs


async def view_differences(
    connection: asyncpg.Connection, schema: str, view: str, table: str, columns: Sequence[str]
) -> list[str]:
    """How the view differs from the continuous aggregate over `table` that is declared with `columns`."""
    counted = await connection.fetchval(
        "SELECT hypertable_name::text FROM timescaledb_information.continuous_aggregates"
        " WHERE view_schema::text = $1 AND view_name::text = $2",
        schema,
        view,
    )
    if counted is None:
        return ["it is a view, not a continuous aggregate"]
    if counted != table:
        return [f"it counts what is in {counted!r}, not in {table!r}"]
    there = await connection.fetch(
        "SELECT a.attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname::text = $1 AND c.relname::text = $2"
        " AND a.attnum > 0",
        schema,
        view,
    )
    names = {row[0] for row in there}
    return [f"it has no column {name!r}" for name in columns if name not in names]


async def _policy(connection: asyncpg.Connection, schema: str, table: str, policy: str, setting: str) -> float | None:
    found: float | None = await connection.fetchval(
        "SELECT extract(epoch FROM (config ->> $4)::interval)::float8 FROM timescaledb_information.jobs"
        " WHERE proc_name::text = $3 AND hypertable_schema::text = $1 AND hypertable_name::text = $2",
        schema,
        table,
        policy,
        setting,
    )
    return found


async def _is_as_long(connection: asyncpg.Connection, interval: object, wanted: str) -> bool:
    found: bool = await connection.fetchval(f"SELECT $1::interval = INTERVAL '{wanted}'", interval)
    return found
