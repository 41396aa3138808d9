"""What TimescaleDB knows of a continuous aggregate: how far it is filled, and where it is not right any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncpg

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
    """

    watermark: int
    is_materialized_only: bool
    invalid: tuple[tuple[int, int], ...]


async def read_state(connection: asyncpg.Connection, schema: str, view: str) -> AggregateState | None:
    """The state of `view`; None: there is no such continuous aggregate. To be asked for in a transaction."""
    rows = await connection.fetch(
        "SELECT mat_hypertable_id AS own, raw_hypertable_id AS events, materialized_only,"
        " _timescaledb_functions.cagg_watermark(mat_hypertable_id) AS watermark"
        " FROM _timescaledb_catalog.continuous_agg WHERE user_view_schema = $1 AND user_view_name = $2",
        schema,
        view,
    )
    if not rows:
        return None
    ((own, events, is_materialized_only, watermark),) = rows
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
    )


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


def _nanoseconds(microseconds: int) -> int:
    return max(_EARLIEST, min(_LATEST, microseconds)) * 1_000
