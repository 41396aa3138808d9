"""The example of GreptimeDB's own events, against the documented columns."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "greptimedb_system_events.py"
FAKE = Path(__file__).parents[1] / "handlers" / "greptimedb" / "fake_server.py"

BOOLEAN, UINT32, UINT64, STRING, TIMESTAMP_MILLISECOND, JSON = 0, 7, 8, 12, 16, 31

BASE = ("id", "type", "timestamp", "payload")
SLOW_QUERY = {
    "cost": UINT64,
    "threshold": UINT64,
    "query": STRING,
    "is_promql": BOOLEAN,
    "promql_range": UINT64,
    "promql_step": UINT64,
    "promql_start": TIMESTAMP_MILLISECOND,
    "promql_end": TIMESTAMP_MILLISECOND,
    "schema_name": STRING,
}
REGION_MIGRATION = {
    "region_id": UINT64,
    "table_id": UINT32,
    "region_number": UINT32,
    "region_migration_trigger_reason": STRING,
    "region_migration_src_node_id": UINT64,
    "region_migration_src_peer_addr": STRING,
    "region_migration_dst_node_id": UINT64,
    "region_migration_dst_peer_addr": STRING,
}
BEFORE = {"procedure_id": STRING, "procedure_state": STRING, "procedure_error": STRING, "procedure_trigger": JSON}
BEHIND = {"actor": STRING, "event_context": JSON}
ADMIN_FUNCTION = {"admin_function_name": STRING, "admin_function_status": STRING, "admin_function_output": JSON}


@pytest.fixture(scope="module")
def example(load_module: Callable[[Path], Any]) -> Any:
    return load_module(EXAMPLE)


@pytest.fixture(scope="module")
def server(load_module: Callable[[Path], Any]) -> Iterator[Any]:
    """What the example, run as a reader would, sent to it."""
    server = load_module(FAKE).FakeGreptimeDB()
    url = f"greptimedb://127.0.0.1:{server.port}/"
    done = subprocess.run([sys.executable, "-W", "error", EXAMPLE, url], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "all stored: True" in done.stdout
    yield server
    server.close()


def test_each_event_has_the_documented_columns_in_their_order(server: Any) -> None:
    sent = defaultdict(list)
    for received in server.received:
        assert received.request.header["dbname"] == "greptime_private"
        for insert in received.request.inserts:
            columns = {column.name: column.datatype for column in insert.columns[len(BASE) :]}
            for kind in {row[1] for row in insert.rows}:
                sent[insert.table, kind].append(list(columns.items()))

    assert dict(sent) == {
        ("slow_queries", "slow_query"): [list(SLOW_QUERY.items())],
        ("events", "region_migration"): [
            list(REGION_MIGRATION.items()),
            list({**BEFORE, **REGION_MIGRATION, **BEHIND}.items()),
        ],
        ("events", "create_table"): [list({**BEFORE, **BEHIND}.items())],
        ("events", "admin_function"): [list(ADMIN_FUNCTION.items())],
    }


def test_slow_queries_are_those_above_the_threshold_and_the_forced_one(server: Any) -> None:
    rows = [{name: row[name] for name in SLOW_QUERY} for table, row in server.rows if table == "slow_queries"]

    promql = {"is_promql": False, "promql_range": 0, "promql_step": 0, "promql_start": 0, "promql_end": 0}
    assert rows == [
        {"cost": 1_200, "threshold": 500, "query": "SELECT * FROM logs", **promql, "schema_name": "public"},
        {"cost": 3, "threshold": 500, "query": "EXPLAIN ANALYZE SELECT 1", **promql, "schema_name": None},
    ]


def test_migration_has_a_row_for_each_region(server: Any) -> None:
    rows = [row for _, row in server.rows if row["type"] == "region_migration" and "procedure_id" not in row]

    assert [(row["region_id"], row["table_id"], row["region_number"]) for row in rows] == [
        (1024 << 32, 1024, 0),
        (1024 << 32 | 1, 1024, 1),
    ]
    assert {str(row["payload"]) for row in rows} == {"{'timeout': '10m'}"}
    assert rows[0]["timestamp"] == rows[1]["timestamp"]


def test_procedure_stands_around_each_row_of_its_event(server: Any) -> None:
    wrapped = [row for _, row in server.rows if row.get("procedure_id") == "b4f3"]
    (failed,) = [row for _, row in server.rows if row.get("procedure_id") == "c0de"]

    assert [row["region_number"] for row in wrapped] == [0, 1]
    for row in wrapped:
        assert (row["procedure_state"], row["procedure_error"], row["procedure_trigger"]) == (
            "Submitted",
            "",
            {"id": 7},
        )
        assert row["event_context"] == {"reason": "region_failover", "extensions": {"detector": "phi"}}
    assert (failed["procedure_error"], failed["actor"], failed["event_context"]) == ("no datanode", "ada", None)


def test_admin_function_has_its_output_as_json(server: Any) -> None:
    (row,) = [row for _, row in server.rows if row["type"] == "admin_function"]

    assert row["admin_function_output"] == {"regions": 2}
    assert row["payload"] is None


# -- the policy of slow queries


@pytest.mark.parametrize(
    ("elapsed", "ratio", "drawn", "is_forced", "expected"),
    [
        (500, 1.0, 0.0, False, False),  # not above the threshold
        (501, 1.0, 1.0, False, True),
        (501, 0.5, 0.5, False, True),
        (501, 0.5, 0.51, False, False),
        (501, 0.0, 0.1, False, False),
        (1, 0.0, 1.0, True, True),
    ],
)
def test_query_is_recorded_when(
    example: Any, *, elapsed: int, ratio: float, drawn: float, is_forced: bool, expected: bool
) -> None:
    policy = example.SlowQueryPolicy(threshold_ms=500, sample_ratio=ratio, draw=lambda: drawn)

    event = example.QueryDone("SELECT 1", elapsed, policy, is_forced=is_forced).to_event()

    assert (event is not None) is expected


@pytest.mark.parametrize("state", ["Failed", "PrepareRollback", "RollingBack", "Retrying", "Poisoned"])
def test_error_is_shown_only_where_there_is_one(example: Any, state: str) -> None:
    inner = example.CreateTable("t")

    def error(state: str) -> object:
        return example.ProcedureEvent(inner, "1", state, error="no").extra_rows()[0][2]

    assert (error(state), error("Done"), error("Running"), error("Submitted")) == ("no", "", "", "")


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({}, {"reason": "unknown"}),
        ({"reason": "because"}, {"reason": "unknown"}),
        ({"reason": "manual", "protocol": "mysql"}, {"reason": "manual", "protocol": "mysql"}),
        ({"reason": "scheduled_gc", "extensions": {"a": "b"}}, {"reason": "scheduled_gc", "extensions": {"a": "b"}}),
    ],
)
def test_context_leaves_out_what_is_empty(example: Any, context: dict[str, Any], expected: dict[str, Any]) -> None:
    assert example.Context(**context).as_json() == expected


def test_without_a_url_it_says_what_to_give() -> None:
    done = subprocess.run([sys.executable, EXAMPLE], check=False, capture_output=True, text=True)

    assert done.returncode == 1
    assert "give a URL" in done.stderr
