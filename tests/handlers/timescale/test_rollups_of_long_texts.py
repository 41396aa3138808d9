"""Rollups on TimescaleDB by texts of any length: longer than an entry of an index may be."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventrec import EVENT, TIMESTAMP, TYPE, Layout, LayoutColumn, StoredEvent, migration_target_from_url
from eventrec.analytics import (
    Catalogue,
    MigrationRunner,
    Question,
    Refresh,
    Rollup,
    brute_force,
    bucket,
    count,
    group,
    payload,
)
from eventrec_handlers.postgres import ddl
from eventrec_handlers.postgres.options import Options
from eventrec_handlers.postgres.target import Target
from eventrec_handlers.timescale import TimescaleRollups

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.handlers,
    pytest.mark.xdist_group("timescale"),
    pytest.mark.timeout(300),  # it is fetched
]

DAY = 86_400_000_000_000
SINCE = 1_767_225_600_000_000_000
LAYOUT = Layout(
    "visits",
    (
        LayoutColumn("timestamp", TIMESTAMP, "timestamptz"),
        LayoutColumn("type", TYPE, "text"),
        LayoutColumn("payload", EVENT, "jsonb"),
    ),
    partition="day",
)
LONG = "".join(chr(0x4E00 + n * n * 7_919 % 20_000) for n in range(3_010))
"""Of three bytes each, and incompressible."""


class Paths(Rollup, name="paths", table="visits"):
    day = bucket("day")
    path = group(payload("path", kind="text"))
    status = group(payload("status", kind="integer"))
    n = count()
    refresh = Refresh(window="3 days", lag=0)


class Statuses(Rollup, name="statuses", table="visits"):
    day = bucket("day")
    status = group(payload("status", kind="integer"))
    n = count()
    refresh = Refresh(window="3 days", lag=0)


CATALOGUE = Catalogue(name="c", layouts=[LAYOUT], rollups=[Paths, Statuses])
PLANS = (Paths.rollup_plan, Statuses.rollup_plan)
AS_EARLIER_VERSIONS_MADE_THEM = """
DO $$ DECLARE own text; BEGIN
 SELECT format('%I.%I', schema_name, table_name) INTO own FROM _timescaledb_catalog.hypertable h
  JOIN _timescaledb_catalog.continuous_agg c ON c.mat_hypertable_id = h.id
  WHERE user_view_schema = '{0}' AND user_view_name = 'paths';
 EXECUTE format('CREATE INDEX %I ON %s (path, day DESC)', split_part(own, '.', 2) || '_path_day_idx', own);
END $$;
DROP INDEX _timescaledb_internal.paths_by_bucket;
CREATE INDEX paths_by_bucket ON {0}.paths (day DESC, path, status);
"""


def events(*paths: str) -> list[StoredEvent]:
    return [
        StoredEvent(
            table="visits",
            id=str(n),
            type="visited",
            timestamp=SINCE + n % 2 * DAY,
            payload=json.dumps({"path": path, "status": n % 2}),
        )
        for n, path in enumerate(paths)
    ]


def insert(schema: Any, given: list[StoredEvent]) -> None:
    for each in given:
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=each.timestamp // 1_000)
        schema.rows(
            f"INSERT INTO {schema.name}.visits (timestamp, type, payload) VALUES ($1, $2, $3::text::jsonb)",
            at,
            each.type,
            each.payload,
        )


async def migrate(schema: Any) -> list[str]:
    async with migration_target_from_url(schema.url()) as target:
        return [str(each) for each in await MigrationRunner(target, catalogue=CATALOGUE).run()]


@pytest.fixture
async def rollups(schema: Any) -> AsyncIterator[TimescaleRollups]:
    target = Target(schema.server.url(scheme="postgresql"))
    async with TimescaleRollups(target, Options(namespace=schema.name), layouts={"visits": LAYOUT}) as store:
        yield store


def as_earlier_versions_made_them(schema: Any) -> None:
    schema.execute(AS_EARLIER_VERSIONS_MADE_THEM.format(schema.name))


def indexes(schema: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = schema.rows(
        "SELECT regexp_replace(indexdef, '_hypertable_[0-9]+', '', 'g') FROM pg_indexes"
        " JOIN _timescaledb_catalog.hypertable h ON h.table_name = tablename"
        " JOIN _timescaledb_catalog.continuous_agg c ON c.mat_hypertable_id = h.id WHERE c.user_view_schema = $1"
        " ORDER BY 1",
        schema.name,
    )
    return found


@pytest.mark.parametrize("is_earlier", [False, True], ids=["new", "made by an earlier version"])
async def test_an_event_with_a_long_text_is_counted_as_any_other(
    schema: Any, rollups: TimescaleRollups, *, is_earlier: bool
) -> None:
    await migrate(schema)
    made = indexes(schema)
    insert(schema, events("/a", "/b"))
    await rollups.refresh(PLANS)
    if is_earlier:
        as_earlier_versions_made_them(schema)
        assert len(indexes(schema)) > len(made)
    insert(schema, events("/a", LONG, LONG + "b", LONG))
    stored = events("/a", "/b") + events("/a", LONG, LONG + "b", LONG)

    await rollups.refresh(PLANS)

    assert indexes(schema) == made
    assert schema.rows(f"SELECT sum(n)::int FROM {schema.name}.paths") == [(6,)]
    for rollup in (Paths, Statuses):
        assert (await rollups.answer(Question(rollup))).rows == brute_force(Question(rollup), stored).rows


async def test_a_migration_replaces_the_indexes_that_take_no_long_texts_and_no_others(
    schema: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(ddl, "prefix_of", lambda _plan: None)
        assert len(await migrate(schema)) == 2
    made = indexes(schema)
    as_earlier_versions_made_them(schema)
    schema.execute(f"CREATE INDEX of_an_operator ON {schema.name}.paths (path)")
    operators = [each for each in indexes(schema) if "of_an_operator" in each[0]]

    applied, again = await migrate(schema), await migrate(schema)

    assert applied == ["0003 post rollup_paths"]
    assert again == []
    assert indexes(schema) == sorted(made + operators)
