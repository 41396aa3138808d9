"""Migrating a TimescaleDB: what a catalogue declares becomes hypertables, policies and continuous aggregates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from eventrec import (
    EVENT,
    GENERATED,
    TIMESTAMP,
    TYPE,
    Layout,
    LayoutColumn,
    LayoutCompression,
    LayoutIndex,
    migration_target_from_url,
)
from eventrec.analytics import (
    Catalogue,
    MigrationError,
    MigrationRunner,
    Refresh,
    Rollup,
    bucket,
    count,
    distinct,
    payload,
)

pytestmark = [pytest.mark.handlers, pytest.mark.xdist_group("timescale"), pytest.mark.timeout(300)]  # it is fetched

VISITS = Layout(
    "visits",
    (
        LayoutColumn("id", GENERATED, "bigint"),
        LayoutColumn("timestamp", TIMESTAMP, "timestamptz", default="now"),
        LayoutColumn("event_type", TYPE, "varchar", length=100),
        LayoutColumn("data", EVENT, "jsonb"),
    ),
    primary_key=("timestamp", "id"),
    indexes=(LayoutIndex("idx_visits_type", ("event_type", "timestamp"), ("timestamp",)),),
    partition="day",
    retention="90d",
    compression=LayoutCompression("7d", ("event_type",), ("timestamp",), ("timestamp",)),
)


class Daily(Rollup, name="visits_daily", table="visits"):
    day = bucket("day")
    visits = count()
    refresh = Refresh(window="3 days", lag="1 hour", every="1 hour")


class Weekly(Rollup, name="visits_weekly", table="visits"):
    week = bucket("week")
    visits = count()
    refresh = Refresh(window="3 days", lag="1 hour", every="1 hour")


class OftenDaily(Daily, name="visits_daily", table="visits"):
    refresh = Refresh(window="3 days", lag="1 hour", every="30m")


class OtherDaily(Rollup, name="visits_daily", table="visits", version=2):
    day = bucket("day")
    users = distinct(payload("user", kind="integer"))


def catalogue(layout: Layout = VISITS, rollup: type[Rollup] = Daily) -> Catalogue:
    return Catalogue(name="shop", layouts=[layout], rollups=[rollup])


async def migrate(schema: Any, given: Catalogue) -> int:
    async with migration_target_from_url(schema.url()) as target:
        return len(await MigrationRunner(target, catalogue=given).run())


def schedules(schema: Any) -> dict[str, str]:
    return dict(
        schema.rows(
            "SELECT proc_name::text, schedule_interval::text FROM timescaledb_information.jobs"
            " WHERE hypertable_schema = $1",
            schema.name,
        )
    )


async def test_a_database_is_migrated_once_and_its_rollups_answer(schema: Any) -> None:
    assert await migrate(schema, catalogue()) == 2
    assert await migrate(schema, catalogue()) == 0

    assert schedules(schema) == {
        "policy_compression": "12:00:00",
        "policy_retention": "1 day",
        "policy_refresh_continuous_aggregate": "01:00:00",
    }
    schema.execute("INSERT INTO visits (event_type, data) VALUES ('seen', '{}')")
    assert schema.rows("SELECT visits FROM visits_daily") == [(1,)]
    indexes = {
        name for (name,) in schema.rows("SELECT indexname::text FROM pg_indexes WHERE schemaname = $1", schema.name)
    }
    own = {"eventrec_checkpoints_pkey", "eventrec_layouts_pkey", "eventrec_seen_pkey", "eventrec_seen_seen_at_idx"}
    assert indexes == {"visits_pkey", "idx_visits_type", "eventrec_migrations_pkey", *own}


async def test_another_schedule_replaces_the_policy(schema: Any) -> None:
    await migrate(schema, catalogue())

    assert await migrate(schema, catalogue(rollup=OftenDaily)) == 1

    assert schedules(schema)["policy_refresh_continuous_aggregate"] == "00:30:00"


async def test_a_policy_looks_back_two_buckets_at_least(schema: Any) -> None:
    await migrate(schema, catalogue(rollup=Weekly))

    assert schema.rows(
        "SELECT config ->> 'start_offset' FROM timescaledb_information.jobs"
        " WHERE proc_name = 'policy_refresh_continuous_aggregate' AND hypertable_schema = $1",
        schema.name,
    ) == [("337:00:00",)]


async def test_what_would_lose_what_was_counted_is_refused(schema: Any) -> None:
    await migrate(schema, catalogue())

    with pytest.raises(MigrationError, match="'visits_daily' tells something else than before"):
        await migrate(schema, catalogue(rollup=OtherDaily))
    with pytest.raises(MigrationError, match="'visits': its partition has changed"):
        await migrate(schema, catalogue(replace(VISITS, partition="week")))


def policies(schema: Any) -> list[str]:
    lines: list[str] = schema.dump()
    return [line.partition("|")[2] for line in lines if line.startswith("policy|")]


async def test_other_policies_alone_are_a_migration_and_replace_the_old_ones(schema: Any) -> None:
    class Kept(Daily, name="visits_daily", table="visits"):
        refresh = Refresh(window="5 days", lag="2 hours", every="30m")
        retention = "2 years"

    refreshed = "visits_daily policy_refresh_continuous_aggregate"
    before = VISITS.compression
    assert before is not None
    other = replace(VISITS, retention="30d", compression=replace(before, after="3d", segment_by=()))
    await migrate(schema, catalogue())
    whole = schema.dump()

    assert await migrate(schema, catalogue(other, Kept)) == 2
    assert await migrate(schema, catalogue(other, Kept)) == 0

    assert policies(schema) == [
        'visits policy_compression|12:00:00 {"compress_after": "3 days"}',
        'visits policy_retention|1 day {"drop_after": "30 days"}',
        f'{refreshed}|00:30:00 {{"end_offset": "02:00:00", "start_offset": "5 days"}}',
        'visits_daily policy_retention|1 day {"drop_after": "730 days"}',
    ]
    assert 'compression|visits| by "timestamp" DESC' in schema.dump()
    async with migration_target_from_url(schema.url()) as target:
        assert [each.version for each in await MigrationRunner(target).rollback()] == [4]
    # What undoes it is noted with it, and what is declared again is made again.
    assert policies(schema)[2:] == [f'{refreshed}|01:00:00 {{"end_offset": "01:00:00", "start_offset": "3 days"}}']
    assert await migrate(schema, catalogue()) == 1
    assert [line for line in schema.dump() if "|visits|" not in line] == [
        line for line in whole if "|visits|" not in line
    ]
    assert await migrate(schema, catalogue(replace(VISITS, retention=None, compression=None))) == 1
    assert [line.partition("|")[0] for line in policies(schema)] == [refreshed]


async def test_shorter_retention_shortens_what_is_refreshed(schema: Any) -> None:
    await migrate(schema, catalogue())

    assert await migrate(schema, catalogue(replace(VISITS, retention="60h"))) == 2

    (policy,) = [line for line in policies(schema) if "refresh" in line]
    assert policy.endswith('|01:00:00 {"end_offset": "01:00:00", "start_offset": "60:00:00"}')
    with pytest.raises(MigrationError, match="keeps its events for 1 days"):
        await migrate(schema, catalogue(replace(VISITS, retention="1d")))
