"""Old events of a hypertable go in whole chunks: rows of a compressed chunk have no places of their own.

So no row is deleted from a table that an operator has made a hypertable of, whatever the URL calls the database. The
oldest chunk goes once all of it is too old; one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.checkpoints import literal

if TYPE_CHECKING:
    import asyncpg

    from eventrec_handlers.postgres.checkpoints import Namespace

_TIME: Final = "timestamp"
"""The column of the events' time, in a table without a layout."""

_FOUND: Final = """
SELECT
    (SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
        WHERE e.extname = 'timescaledb') AS functions,
    (SELECT d.column_name::text FROM timescaledb_information.dimensions d
        WHERE d.hypertable_schema::text = $1 AND d.hypertable_name::text = $2 AND d.dimension_number = 1) AS divided_by,
    (SELECT count(*) FROM timescaledb_information.continuous_aggregates c
        WHERE c.hypertable_schema::text = $1 AND c.hypertable_name::text = $2) AS aggregates,
    (SELECT count(*) FROM timescaledb_information.jobs j WHERE j.proc_name::text = 'policy_retention'
        AND j.hypertable_schema::text = $1 AND j.hypertable_name::text = $2) AS policies,
    (SELECT min(c.range_end) FROM timescaledb_information.chunks c
        WHERE c.hypertable_schema::text = $1 AND c.hypertable_name::text = $2
        AND c.range_end <= now() - $3 * interval '1 second') AS first_end
"""


@dataclass(frozen=True, slots=True)
class Chunks:
    """The chunks of one hypertable.

    Attributes:
        functions: The schema of TimescaleDB's functions.
        why_kept: Why none of them may be dropped, in words; None: the oldest may.
        first_end: Where the oldest one ends, if all of it is too old; else None.
        has_policy: Whether TimescaleDB removes them itself.
    """

    functions: str
    why_kept: str | None
    first_end: object | None
    has_policy: bool

    async def drop_first(self, connection: asyncpg.Connection, namespace: Namespace, table: str) -> int:
        """Drop the oldest chunk, if it may be and is too old; how many were dropped."""
        if self.why_kept is not None or self.first_end is None:
            return 0
        drop = f"{quoted(self.functions)}.drop_chunks({literal(namespace.named(table))}::regclass, older_than => "
        dropped: int = await connection.fetchval(
            f"SELECT count(*) FROM (SELECT {drop}$1::timestamptz)) AS dropped",  # noqa: S608 - quoted
            self.first_end,
        )
        return dropped


async def chunks_of(
    connection: asyncpg.Connection, namespace: Namespace, table: str, ttl: float, *, time: str = _TIME
) -> Chunks | None:
    """The chunks of `table`, inside a transaction; None: it is not a hypertable.

    Events get old in `ttl` seconds, by the column `time`.
    """
    known = await connection.fetchval("SELECT to_regclass('timescaledb_information.dimensions') IS NOT NULL")
    if not known:
        return None
    functions, divided_by, aggregates, policies, first_end = await connection.fetchrow(
        _FOUND, namespace.namespace, table, ttl
    )
    if divided_by is None or functions is None:
        return None
    why: str | None = None
    if divided_by != time:
        why = f"it is a hypertable divided by {divided_by!r}, not by {time!r}: give it a policy of retention"
    elif policies:
        first_end = None  # TimescaleDB removes them
    elif aggregates:
        why = "it is a hypertable with continuous aggregates: give it a policy of retention"
    return Chunks(functions, why, first_end, bool(policies))
