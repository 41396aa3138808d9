"""What TimescaleDB knows of a continuous aggregate: how far it is filled, and where it is not right any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from eventrec.analytics import RollupPlan

_EARLIEST: Final = -62_000_000_000_000_000
_LATEST: Final = 253_300_000_000_000_000
"""Microseconds since the epoch: what lies outside is in no bucket."""


@dataclass(frozen=True, slots=True)
class AggregateState:
    """The state of one continuous aggregate. Moments are nanoseconds since the epoch.

    Attributes:
        watermark: It has counted nothing from there on.
        is_materialized_only: It does not show what it has not counted.
        invalid: Half-open ranges in which events have been stored since they were counted, if they were.
        differs: Why it is not the one that is meant, in words; None: nothing says so.
    """

    watermark: int
    is_materialized_only: bool
    invalid: tuple[tuple[int, int], ...]
    differs: str | None


async def read_state(connection: asyncpg.Connection, schema: str, plan: RollupPlan) -> AggregateState | None:
    """The state of the continuous aggregate of `plan`; None: there is none. To be asked for in a transaction."""
    if not await connection.fetchval("SELECT to_regclass('_timescaledb_catalog.continuous_agg') IS NOT NULL"):
        return None
    rows = await connection.fetch(
        "SELECT c.mat_hypertable_id AS own, c.raw_hypertable_id AS events, c.materialized_only,"
        " _timescaledb_functions.cagg_watermark(c.mat_hypertable_id) AS watermark, h.table_name::text AS counted,"
        " (SELECT array_agg(attname::text) FROM pg_attribute WHERE attrelid = v.oid AND attnum > 0) AS columns"
        " FROM _timescaledb_catalog.continuous_agg c JOIN _timescaledb_catalog.hypertable h ON h.id = raw_hypertable_id"
        " JOIN pg_namespace n ON n.nspname = c.user_view_schema"
        " JOIN pg_class v ON v.relnamespace = n.oid AND v.relname = c.user_view_name"
        " WHERE c.user_view_schema = $1 AND c.user_view_name = $2",
        schema,
        plan.name,
    )
    if not rows:
        return None
    ((own, events, is_materialized_only, watermark, counted, columns),) = rows
    invalid = await connection.fetch(
        "SELECT lowest_modified_value, greatest_modified_value"
        " FROM _timescaledb_catalog.continuous_aggs_hypertable_invalidation_log WHERE hypertable_id = $1"
        " UNION ALL SELECT lowest_modified_value, greatest_modified_value"
        " FROM _timescaledb_catalog.continuous_aggs_materialization_invalidation_log WHERE materialization_id = $2",
        events,
        own,
    )
    return AggregateState(
        _nanoseconds(watermark),
        is_materialized_only,
        tuple((_nanoseconds(low), _nanoseconds(high) + 1_000) for low, high in invalid),
        _difference(plan, counted, columns or ()),
    )


def _difference(plan: RollupPlan, counted: str, columns: Sequence[str]) -> str | None:
    if counted != plan.table:
        return f"it counts what is in {counted!r}, not in {plan.table!r}"
    lacking = [name for name in plan.column_names if name not in columns]
    return f"it has no column {lacking[0]!r}" if lacking else None


async def kept_from(connection: asyncpg.Connection, schema: str, table: str) -> int | None:
    """Before it the policy of retention may have removed events of `table`; None: there is none."""
    found: int | None = await connection.fetchval(
        "SELECT (extract(epoch FROM now() - (config ->> 'drop_after')::interval) * 1000000)::bigint"
        " FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'"
        " AND hypertable_schema = $1 AND hypertable_name = $2",
        schema,
        table,
    )
    return None if found is None else _nanoseconds(found)


async def is_hypertable(connection: asyncpg.Connection, schema: str, table: str) -> bool:
    """Whether `table` is divided into chunks."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM timescaledb_information.hypertables"
        " WHERE hypertable_schema::text = $1 AND hypertable_name::text = $2)",
        schema,
        table,
    )
    return found


def _nanoseconds(microseconds: int) -> int:
    return max(_EARLIEST, min(_LATEST, microseconds)) * 1_000
