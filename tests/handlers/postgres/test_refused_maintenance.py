"""What the server refuses of one partition, or of one table, is said: the others, and the rollups, go on."""

from __future__ import annotations

from typing import Any

import pytest

from eventrec import EVENT, GENERATED, TIMESTAMP, TYPE, Layout, LayoutColumn
from eventrec.analytics import Refreshed, Rollup, bucket, count, plan_of
from eventrec_handlers.postgres import PostgresRollups
from eventrec_handlers.postgres.options import Options
from eventrec_handlers.postgres.target import Target

pytestmark = [pytest.mark.anyio, pytest.mark.handlers]


def layout(table: str, **options: Any) -> Layout:
    columns = (
        LayoutColumn("id", GENERATED, "bigint"),
        LayoutColumn("timestamp", TIMESTAMP, "timestamptz"),
        LayoutColumn("event_type", TYPE, "text"),
        LayoutColumn("data", EVENT, "jsonb"),
    )
    return Layout(table, columns, retention="10d", **options)


class Daily(Rollup, name="daily", table="visits", events=["ordered"]):
    day = bucket("1 day")
    n = count()


COLUMNS = "(id bigserial, timestamp timestamptz NOT NULL, event_type text NOT NULL, data jsonb NOT NULL)"
TABLES = (
    f"CREATE TABLE plain {COLUMNS}",
    "INSERT INTO plain VALUES (1, '2025-01-05', 'ordered', '{}')",
    f"CREATE TABLE visits {COLUMNS} PARTITION BY RANGE (timestamp)",
    "CREATE TABLE visits_default PARTITION OF visits DEFAULT",
    "CREATE TABLE old2 PARTITION OF visits FOR VALUES FROM ('2025-02-01') TO ('2025-03-01')",
    "INSERT INTO visits VALUES (1, now() - interval '3 days', 'ordered', '{}'), (2, '2024-05-05', 'ordered', '{}')",
)
OLD = "CREATE TABLE old1 PARTITION OF visits FOR VALUES FROM ('2025-01-01') TO ('2025-02-01')"
AWAY = OLD.replace("CREATE TABLE", "CREATE FOREIGN TABLE") + " SERVER files OPTIONS (filename '/dev/null')"
RAISING = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM {}; RETURN OLD; END'",
    "CREATE TRIGGER refuse BEFORE DELETE ON {} FOR EACH ROW EXECUTE FUNCTION refuse()",
)


async def refresh(database: Any) -> Refreshed:
    layouts = {each.table: each for each in (layout("plain"), layout("visits", partition="day"))}
    async with PostgresRollups(Target(database.url()), Options(), layouts=layouts) as store:
        return await store.refresh([plan_of(Daily)])


def counted(database: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = database.rows("SELECT n FROM daily WHERE day > '2026-01-01'")
    return found


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ([OLD, "CREATE VIEW report AS SELECT * FROM old1"], "cannot drop table old1 because other objects depend on"),
        (["CREATE EXTENSION file_fdw", "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw", AWAY], "is not a table"),
        (
            [
                OLD,
                "ALTER TABLE visits ADD PRIMARY KEY (timestamp, id)",
                "CREATE TABLE refs (t timestamptz, i bigint, FOREIGN KEY (t, i) REFERENCES visits (timestamp, id))",
            ],
            "cannot drop table old1 because other objects depend on",
        ),
    ],
)
async def test_partition_that_cannot_be_dropped_is_said_and_keeps_no_other(
    database: Any, theirs: list[str], said: str
) -> None:
    database.execute(*TABLES, *theirs)

    done = await refresh(database)

    found = [remark for remark in done.remarks if remark.startswith("partition 'old1' was not dropped: ")]
    assert len(found) == 1
    assert said in found[0]
    assert "\n" not in found[0]
    assert counted(database) == [(1,)]
    assert database.rows("SELECT count(*) FROM plain") == [(0,)]
    assert database.rows("SELECT count(*) FROM visits_default WHERE timestamp < '2025-01-01'") == [(0,)]


async def test_days_to_come_of_a_published_table_are_made(database: Any) -> None:
    database.execute(*TABLES, "CREATE PUBLICATION theirs FOR TABLE visits")

    done = await refresh(database)

    refused = 'cannot delete from table "visits_default" because it does not have a replica identity'
    assert all(refused in remark for remark in done.remarks)
    assert sum(remark.startswith("old rows of partition 'visits_default' were not") for remark in done.remarks) == 1
    assert len(database.rows("SELECT FROM pg_inherits WHERE inhparent = 'visits'::regclass")) == 9
    assert counted(database) == [(1,)]


async def test_old_rows_that_a_trigger_keeps_are_said_whatever_it_says(database: Any) -> None:
    database.execute(*TABLES, RAISING[0].format("1 / 0"), *(RAISING[1].format(each) for each in ("plain", "visits")))

    done = await refresh(database)

    assert "table 'plain': old rows are not removed: division by zero (22012)" in done.remarks
    assert "old rows of partition 'visits_default' were not deleted: division by zero (22012)" in done.remarks
    assert counted(database) == [(1,)]
