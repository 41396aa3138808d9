"""The events that a GreptimeDB records about itself: `python examples/greptimedb_system_events.py greptimedb://host`.

Slow queries go to a table of their own, everything else to `events`. An event of several rows has one per region, and
a procedure wraps the event that it is about: its columns stand before and behind those of the inner one.
"""

from __future__ import annotations

import asyncio
import random
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from eventrec import ColumnSchema, ColumnType, Event, EventRecorder, EventRecorderOptions, Row, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TEXT: Final = ColumnType.STRING
U32: Final = ColumnType.UINT32
U64: Final = ColumnType.UINT64


def columns(**types: ColumnType) -> tuple[ColumnSchema, ...]:
    return tuple(ColumnSchema(name, kind) for name, kind in types.items())


# -- slow queries


@dataclass(frozen=True)
class SlowQuery(Event):
    """What PromQL alone has is 0 for other queries."""

    query: str
    cost_ms: int
    threshold_ms: int
    schema: str | None = None
    is_promql: bool = False
    promql_range: int = 0
    promql_step: int = 0
    promql_start_ms: int = 0
    promql_end_ms: int = 0

    @property
    def table(self) -> str:
        return "slow_queries"

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return columns(
            cost=U64,
            threshold=U64,
            query=TEXT,
            is_promql=ColumnType.BOOLEAN,
            promql_range=U64,
            promql_step=U64,
            promql_start=ColumnType.TIMESTAMP_MILLISECOND,
            promql_end=ColumnType.TIMESTAMP_MILLISECOND,
            schema_name=TEXT,
        )

    def extra_rows(self) -> Sequence[Row]:
        promql = (self.is_promql, self.promql_range, self.promql_step, self.promql_start_ms, self.promql_end_ms)
        return [(self.cost_ms, self.threshold_ms, self.query, *promql, self.schema)]


@dataclass(frozen=True)
class SlowQueryPolicy:
    """Which queries are recorded: slower ones than the threshold, a share of them; those that are forced, always."""

    threshold_ms: int = 10_000
    sample_ratio: float = 1.0
    draw: Callable[[], float] = random.random

    def takes(self, elapsed_ms: int, *, is_forced: bool = False) -> bool:
        is_drawn = self.sample_ratio >= 1 or self.draw() <= self.sample_ratio
        return is_forced or (elapsed_ms > self.threshold_ms and is_drawn)


@dataclass(frozen=True)
class QueryDone:
    """Not an event yet: the policy decides whether it becomes one."""

    query: str
    elapsed_ms: int
    policy: SlowQueryPolicy
    schema: str | None = None
    is_forced: bool = False

    def to_event(self) -> Event | None:
        if not self.policy.takes(self.elapsed_ms, is_forced=self.is_forced):
            return None
        return SlowQuery(self.query, self.elapsed_ms, self.policy.threshold_ms, self.schema)


# -- regions, tables, functions


@dataclass(frozen=True)
class Peer:
    node_id: int
    address: str


@dataclass(frozen=True)
class RegionMigration(Event):
    """A row for each region: `(table id, region number)`."""

    regions: Sequence[tuple[int, int]]
    reason: str
    source: Peer
    target: Peer
    timeout: str = "10m"

    @property
    def payload(self) -> object:
        return {"timeout": self.timeout}

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return columns(
            region_id=U64,
            table_id=U32,
            region_number=U32,
            region_migration_trigger_reason=TEXT,
            region_migration_src_node_id=U64,
            region_migration_src_peer_addr=TEXT,
            region_migration_dst_node_id=U64,
            region_migration_dst_peer_addr=TEXT,
        )

    def extra_rows(self) -> Sequence[Row]:
        peers = (self.source.node_id, self.source.address, self.target.node_id, self.target.address)
        return [(table_id << 32 | number, table_id, number, self.reason, *peers) for table_id, number in self.regions]


@dataclass(frozen=True)
class CreateTable(Event):
    """What a procedure of DDL is about; it has no columns of its own."""

    name: str

    @property
    def payload(self) -> object:
        return {"table_name": self.name}


@dataclass(frozen=True)
class AdminFunction(Event):
    name: str
    status: Literal["success", "failure"]
    output: object = None

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return columns(admin_function_name=TEXT, admin_function_status=TEXT, admin_function_output=ColumnType.JSON)

    def extra_rows(self) -> Sequence[Row]:
        return [(self.name, self.status, self.output)]


# -- procedures

State = Literal["Submitted", "Running", "Done", "Failed", "PrepareRollback", "RollingBack", "Retrying", "Poisoned"]
WITH_ERROR: Final = ("Failed", "PrepareRollback", "RollingBack", "Retrying", "Poisoned")
REASONS: Final = (
    "manual",
    "auto_create",
    "auto_alter",
    "auto_repartition",
    "auto_rebalance",
    "region_failover",
    "scheduled_gc",
)


@dataclass(frozen=True)
class Context:
    """Why something was done, and through what. A reason that is not known is "unknown"."""

    reason: str = "unknown"
    protocol: str = ""
    extensions: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        reason = self.reason if self.reason in REASONS else "unknown"
        given = {"reason": reason, "protocol": self.protocol, "extensions": dict(self.extensions)}
        return {name: value for name, value in given.items() if value}


@dataclass(frozen=True)
class ProcedureEvent(Event):
    """The event that a procedure is about, and what the procedure is. Type, table, payload and time are the inner's."""

    inner: Event
    procedure_id: str
    state: State
    error: str = ""
    trigger: object = None
    actor: str | None = None
    context: Context = Context()

    @property
    def type(self) -> str:
        return self.inner.type

    @property
    def table(self) -> str:
        return self.inner.table

    @property
    def payload(self) -> object:
        return self.inner.payload

    @property
    def timestamp(self) -> int | None:
        return self.inner.timestamp

    def extra_schema(self) -> Sequence[ColumnSchema]:
        before = columns(
            procedure_id=TEXT, procedure_state=TEXT, procedure_error=TEXT, procedure_trigger=ColumnType.JSON
        )
        return (*before, *self.inner.extra_schema(), *columns(actor=TEXT, event_context=ColumnType.JSON))

    def extra_rows(self) -> Sequence[Row]:
        error = self.error if self.state in WITH_ERROR else ""
        context = self.context.as_json() if self.state == "Submitted" else None
        before = (self.procedure_id, self.state, error, self.trigger)
        return [(*before, *row, self.actor, context) for row in self.inner.extra_rows()]


# -- all of them


async def main(url: str) -> Status:
    """Record one of each kind, and wait until they are stored."""
    policy = SlowQueryPolicy(threshold_ms=500)
    migration = RegionMigration([(1024, 0), (1024, 1)], "failover", Peer(1, "10.0.0.1:4001"), Peer(2, "10.0.0.2:4001"))
    context = Context("region_failover", extensions={"detector": "phi"})
    async with EventRecorder(url, options=EventRecorderOptions.reference()) as recorder:
        recorder.record(QueryDone("SELECT 1", 3, policy))  # too fast: not recorded
        recorder.record(QueryDone("SELECT * FROM logs", 1_200, policy, schema="public"))
        recorder.record(QueryDone("EXPLAIN ANALYZE SELECT 1", 3, policy, is_forced=True))
        recorder.record(migration)
        recorder.record(
            ProcedureEvent(migration, "b4f3", "Submitted", trigger={"id": 7}, actor="meta", context=context)
        )
        recorder.record(ProcedureEvent(CreateTable("logs"), "c0de", "Failed", error="no datanode", actor="ada"))
        recorder.record(AdminFunction("flush_table", "success", {"regions": 2}))
        print("all stored:", await recorder.flush(timeout="30s"))
    return recorder.status()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(
            "give a URL: python examples/greptimedb_system_events.py greptimedb://user:password@host:4001/"
        )
    print(asyncio.run(main(sys.argv[1])))
