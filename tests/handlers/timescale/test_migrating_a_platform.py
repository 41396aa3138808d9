"""The catalogue of a whole platform, brought to a TimescaleDB: an empty one, and one that the platform made itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventrec import migration_target_from_url
from eventrec.analytics import MigrationError, MigrationRunner, RollbackNotSupported

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.handlers,
    pytest.mark.xdist_group("timescale"),
    pytest.mark.timeout(300),  # it is fetched
]

THEIRS = """
CREATE TABLE _migrations (version BIGINT PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL);
INSERT INTO _migrations VALUES (1, 'create_analytics_events', 1767400000), (2, 'create_aggregates', 1767400001);
CREATE TABLE analytics_events (id BIGSERIAL, timestamp TIMESTAMPTZ NOT NULL DEFAULT NOW(), event_type VARCHAR(100)
 NOT NULL, service VARCHAR(100) NOT NULL DEFAULT 'unknown', user_id UUID, data JSONB NOT NULL,
 PRIMARY KEY (timestamp, id));
SELECT create_hypertable('analytics_events', 'timestamp', chunk_time_interval => INTERVAL '1 day');
CREATE INDEX idx_analytics_events_user_id ON analytics_events (user_id, timestamp DESC) WHERE user_id IS NOT NULL;
CREATE INDEX idx_analytics_events_event_type ON analytics_events (event_type, timestamp DESC);
CREATE INDEX idx_analytics_events_service ON analytics_events (service, timestamp DESC);
CREATE INDEX idx_analytics_events_data_gin ON analytics_events USING GIN (data);
ALTER TABLE analytics_events SET (timescaledb.compress, timescaledb.compress_segmentby = 'event_type, service',
 timescaledb.compress_orderby = 'timestamp DESC');
SELECT add_compression_policy('analytics_events', INTERVAL '7 days');
SELECT add_retention_policy('analytics_events', INTERVAL '180 days');
CREATE MATERIALIZED VIEW analytics_daily_active_users WITH (timescaledb.continuous) AS
 SELECT time_bucket('1 day', timestamp) AS day, COUNT(DISTINCT user_id) AS active_users, COUNT(*) AS total_events
 FROM analytics_events WHERE user_id IS NOT NULL GROUP BY 1 WITH NO DATA;
SELECT add_continuous_aggregate_policy('analytics_daily_active_users', start_offset => INTERVAL '3 days',
 end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '1 hour');
CREATE INDEX idx_dau_day ON analytics_daily_active_users (day DESC);
INSERT INTO analytics_events (timestamp, event_type, data, user_id)
 VALUES (NOW() - INTERVAL '10 days', 'a', '{}', gen_random_uuid()), (NOW(), 'b', '{}', gen_random_uuid());
"""
"""What the platform's own migrations make, as far as it is told apart here; an operator has changed the retention."""


def test_commands_on_an_empty_schema(
    schema: Any, commands_of_migrate: Callable[..., None], platform_analytics: Any
) -> None:
    commands_of_migrate(schema.url(), schema.dump)

    policies = [line.split("|")[1].split() for line in schema.dump() if line.startswith("policy|")]
    kinds = [kind for _, kind in policies]
    assert kinds.count("policy_refresh_continuous_aggregate") == len(platform_analytics.rollups.ROLLUPS)
    assert [name for name, kind in policies if kind != "policy_refresh_continuous_aggregate"] == [
        "analytics_events"
    ] * 2


async def test_each_policy_does_its_work(schema: Any, platform_analytics: Any) -> None:
    await migrated(schema.url(), platform_analytics)
    schema.execute(
        "INSERT INTO analytics_events (timestamp, event_type, service, user_id, data)"
        " SELECT now() - make_interval(days => age), 'api_request', 'web', gen_random_uuid(),"
        ' \'{"service": "web", "endpoint": "/", "method": "GET", "status_code": 500, "duration_ms": 7}\''
        " FROM unnest(ARRAY[1, 10, 100]) AS age"
    )

    assert schema.run_jobs("policy_retention") == 1
    assert schema.run_jobs("policy_compression") == 1
    assert schema.run_jobs("policy_refresh_continuous_aggregate") == len(platform_analytics.rollups.ROLLUPS)

    assert schema.rows("SELECT count(*) FROM analytics_events") == [(2,)]
    assert schema.rows(
        "SELECT is_compressed FROM timescaledb_information.chunks WHERE hypertable_name = 'analytics_events'"
        " AND hypertable_schema = $1 ORDER BY range_start",
        schema.name,
    ) == [(True,), (False,)]
    schema.execute("ALTER MATERIALIZED VIEW analytics_api_latency_hourly SET (timescaledb.materialized_only = true)")
    assert schema.rows(
        "SELECT service, endpoint, request_count, error_5xx_count FROM analytics_api_latency_hourly"
    ) == [("web", "/", 1, 1)]


@pytest.mark.parametrize("every", [167, pytest.param(1, marks=[pytest.mark.faults, pytest.mark.timeout(1_600)])])
def test_killed_and_run_again_gives_the_same_schema(
    schema: Any, killed_migrations: Callable[..., list[str]], every: int
) -> None:
    names = killed_migrations(schema.url(schema.name + "_{}"), every)
    try:
        whole, *killed = [schema.dump(f"{schema.name}_{at}") for at in names]
        assert len(whole) > 100
        assert [at for at, one in zip(names[1:], killed, strict=True) if one != whole] == []
    finally:
        schema.execute(*(f"DROP SCHEMA {schema.name}_{at} CASCADE" for at in names))


async def test_what_the_platform_made_itself_is_adopted(schema: Any, platform_analytics: Any) -> None:
    schema.execute(*(statement for statement in THEIRS.split(";\n") if statement.strip()))
    schema.run_jobs("policy_compression")
    before = schema.dump()
    told: list[str] = []
    async with migration_target_from_url(schema.url()) as target:
        runner = MigrationRunner(target, catalogue=platform_analytics.catalogue.catalogue, tell=told.append)
        remarks = (await runner.status()).remarks

        assert len(await runner.run()) == 2
        assert await runner.run() == []
        record, _ = await target.records()
        with pytest.raises(RollbackNotSupported):
            await runner.rollback()

    assert told == list(remarks)
    retention = "its policy_retention has drop_after = 1.5552e+07 seconds, not 7.776e+06"
    history = "1 'create_analytics_events', 2 'create_aggregates'"
    assert told == [
        f"_migrations says that {history} ran here: what these made is adopted as it is, and not run again",
        "table analytics_events is there already: it is adopted as it is",
        f"table analytics_events differs from what is declared: {retention}",
        "rollup analytics_daily_active_users is there already: it is adopted as it is",
    ]
    assert record.adopted == (
        "_migrations 1 create_analytics_events",
        "_migrations 2 create_aggregates",
        "table analytics_events",
    )
    # Nothing of theirs has changed, and no policy is there twice.
    assert set(before) - set(schema.dump()) == set()
    new = {line for line in set(schema.dump()) - set(before) if "analytics_events" in line.split("|")[1].split(" ")}
    assert new == set()
    assert schema.rows("SELECT count(*) FROM analytics_events") == [(2,)]


async def test_hypertable_is_refused_where_it_is_taken_for_a_postgresql(schema: Any, platform_analytics: Any) -> None:
    await migrated(schema.url(), platform_analytics)
    schema.execute("DROP TABLE eventrec_migrations")
    before = schema.dump()
    url = schema.url().replace("timescale:", "postgresql:")

    with pytest.raises(MigrationError, match=r"'analytics_events' is a hypertable of TimescaleDB: .* timescale://"):
        await migrated(url, platform_analytics)

    assert [line for line in schema.dump() if "eventrec_migrations" not in line] == before


async def test_functions_of_the_extension_are_found_beside_the_search_path(
    schema: Any, platform_analytics: Any
) -> None:
    schema.execute(f"SET search_path = {schema.name}")  # of the one session that all connections share

    await migrated(schema.url(), platform_analytics)

    assert len(schema.dump()) > 100


async def migrated(url: str, platform_analytics: Any) -> None:
    async with migration_target_from_url(url) as target:
        await MigrationRunner(target, catalogue=platform_analytics.catalogue.catalogue).run()
