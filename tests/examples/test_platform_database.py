"""The script of the platform's example, as a reader runs it, and what it leaves in the database: names and types."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from eventrec.testing.servers import PostgresServer

SCRIPT = Path(__file__).parents[2] / "examples" / "platform_analytics" / "main.py"

# What SQL that was written for the platform's own tables counts on: name, type, whether it may be NULL, its default.
EVENTS_TABLE = """\
id bigint NO nextval
timestamp timestamp with time zone NO now()
event_type character varying(100) NO
service character varying(100) NO 'unknown'
user_id uuid YES
data jsonb NO"""

EVENTS_INDEXES = {
    "idx_analytics_events_user_id": 'btree (user_id, "timestamp" DESC) WHERE (user_id IS NOT NULL)',
    "idx_analytics_events_event_type": 'btree (event_type, "timestamp" DESC)',
    "idx_analytics_events_service": 'btree (service, "timestamp" DESC)',
    "idx_analytics_events_data_gin": "gin (data)",
}

ROLLUP_INDEXES = {
    "idx_dau_day": "analytics_daily_active_users",
    "idx_task_stats_day": "analytics_task_stats_daily",
    "idx_api_latency_hour": "analytics_api_latency_hourly",
    "idx_integration_health_day": "analytics_integration_health_daily",
    "idx_auth_events_day": "analytics_auth_events_daily",
    "idx_cocoon_activity_day": "analytics_cocoon_activity_daily",
    "idx_errors_hour": "analytics_errors_hourly",
}

ROLLUPS = {
    "analytics_daily_active_users": "day active_users total_events",
    "analytics_task_stats_daily": "day created started completed failed cancelled avg_duration_ms p95_duration_ms",
    "analytics_api_latency_hourly": (
        "hour service endpoint method request_count avg_duration_ms p50_duration_ms p95_duration_ms p99_duration_ms"
        " error_5xx_count error_4xx_count"
    ),
    "analytics_integration_health_daily": "day provider connections disconnections uses errors unique_users",
    "analytics_auth_events_daily": (
        "day login_attempts successful_logins failed_logins code_verifications token_refreshes"
        " unique_users_authenticated"
    ),
    "analytics_cocoon_activity_daily": (
        "day registrations connections disconnections claims avg_session_duration_seconds unique_cocoons"
    ),
    "analytics_errors_hourly": "hour service error_type error_count affected_users sample_error_message",
}

# A query of the platform's API, as it was written for its continuous aggregates.
DAILY_USERS = """
SELECT day, active_users, total_events FROM analytics_daily_active_users
WHERE day >= now() - interval '60 days' AND day < now() ORDER BY day DESC
"""


def run_script(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, *arguments],
        cwd=directory,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_script_goes_from_an_empty_file_to_answers(tmp_path: Path) -> None:
    said = run_script(tmp_path, "--events", "600")

    (offered,) = re.findall(r"closed: offered (\d+), appended \1; analytics closed: delivered \1, pending 0", said)
    with closing(sqlite3.connect(tmp_path / "platform.db")) as database:
        stored, users = database.execute("SELECT count(*), count(DISTINCT user_id) FROM analytics_events").fetchone()
        columns = [name for _, name, *_ in database.execute("PRAGMA table_info(analytics_events)")]
        indexes = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    assert 500 < stored <= int(offered)
    assert columns == [line.split()[0] for line in EVENTS_TABLE.splitlines()]
    assert indexes > EVENTS_INDEXES.keys() - {"idx_analytics_events_data_gin"}
    months = re.findall(r"^\d{4}-\d\d-01 +(\d+) +█", said[said.index("monthly_active_users --to") :], re.MULTILINE)
    assert 1 < len(months) <= 3
    assert max(map(int, months)) <= users <= sum(map(int, months))
    for name in ("daily_active_users", "weekly_active_users", "task_stats_daily", "api_latency_hourly"):
        assert re.search(rf"^analytics_{name} *$", said, re.MULTILINE)
    assert len(re.findall(r"^\d+ rows; complete to \d{4}-", said, re.MULTILINE)) == 5


@pytest.mark.slow
@pytest.mark.handlers
def test_postgres_has_the_tables_that_the_platform_always_had(
    tmp_path: Path, postgres_server: PostgresServer, postgres_database: str
) -> None:
    said = run_script(tmp_path, "--events", "600", "--to", postgres_server.url(postgres_database))

    def asked(sql: str) -> list[str]:
        return postgres_server.execute(sql, database=postgres_database).splitlines()

    columns = asked(
        "SELECT concat_ws(' ', attname, format_type(atttypid, atttypmod),"
        " CASE WHEN attnotnull THEN 'NO' ELSE 'YES' END,"
        " regexp_replace(pg_get_expr(adbin, adrelid), '(\\(''.*)?(::.*)?$', '')) FROM pg_attribute"
        " LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        " WHERE attrelid = 'analytics_events'::regclass AND attnum > 0 ORDER BY attnum"
    )
    assert columns == EVENTS_TABLE.splitlines()
    for name, definition in EVENTS_INDEXES.items():
        (found,) = asked(f"SELECT pg_get_indexdef('{name}'::regclass)")
        assert found.endswith(f"analytics_events USING {definition}")
    (key,) = asked(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'analytics_events'::regclass"
        " AND contype = 'p'"
    )
    assert key == 'PRIMARY KEY ("timestamp", id)'
    for name, expected in ROLLUPS.items():
        (found,) = asked(f"SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute"
                         f" WHERE attrelid = '{name}'::regclass AND attnum > 0")  # fmt: skip
        assert found == expected
    for name, table in ROLLUP_INDEXES.items():
        (found,) = asked(f"SELECT pg_get_indexdef('{name}'::regclass)")
        assert f" ON public.{table} USING btree (" in found
    users = asked(f"SELECT sum(active_users), sum(total_events) FROM ({DAILY_USERS}) AS days")
    raw = asked(
        "SELECT sum(users), sum(events) FROM (SELECT count(DISTINCT user_id) AS users, count(*) AS events"
        " FROM analytics_events WHERE user_id IS NOT NULL GROUP BY date_trunc('day', timestamp, 'UTC')) AS days"
    )
    assert users == raw
    assert len(re.findall(r"^\d+ rows; complete to \d{4}-", said, re.MULTILINE)) == 5
