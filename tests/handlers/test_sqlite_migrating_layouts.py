"""Migrating a SQLite file whose tables have layouts: a whole platform's, what changes, and what is there already."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eventrec import (
    EVENT,
    TIMESTAMP,
    TYPE,
    EventModel,
    Layout,
    LayoutColumn,
    LayoutIndex,
    from_payload,
    migration_target_from_url,
)
from eventrec.analytics import (
    Catalogue,
    Migration,
    MigrationError,
    MigrationRunner,
    RollbackNotSupported,
    Rollup,
    bucket,
    count,
    migrations_of,
)
from eventrec_handlers.sqlite import SqliteHandler

pytestmark = pytest.mark.anyio

USER = LayoutColumn("user", from_payload("user"), "text", nullable=False, default="nobody")
VISITS = Layout(
    "visits",
    [
        LayoutColumn("at", TIMESTAMP, "timestamptz"),
        LayoutColumn("kind", TYPE, "varchar", length=100),
        LayoutColumn("data", EVENT, "jsonb"),
        USER,
    ],
    retention="90d",
)


class OfOne(Rollup, name="of_one", table="visits", events=["seen"]):
    day = bucket("day")
    n = count()


class OfAny(Rollup, name="of_any", table="visits"):
    day = bucket("day")
    n = count()


@pytest.fixture
def anyio_backend() -> str:
    """One is enough here: calls under trio are tried with other tables."""
    return "asyncio"


def target_of(path: Path) -> Any:
    return migration_target_from_url(f"sqlite:///{path}")


async def migrate(
    path: Path, *layouts: Layout, rollups: tuple[type[Rollup], ...] = (), **options: Any
) -> list[Migration]:
    catalogue = Catalogue(name="shop", layouts=layouts, rollups=rollups)
    async with target_of(path) as target:
        return await MigrationRunner(target, catalogue=catalogue, **options).run()


def execute(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(sql) if ";" in sql else None
        return [] if ";" in sql else connection.execute(sql).fetchall()


def dump(path: Path) -> list[tuple[Any, ...]]:
    schema = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2"
    kept = "SELECT * FROM eventrec_layouts ORDER BY 1"
    records = "SELECT version, checksum, done, adopted, applied_at IS NULL FROM eventrec_migrations ORDER BY 1"
    return [row for sql in (schema, kept, records) for row in execute(path, sql)]


async def test_platform_is_migrated_once(path: Path, platform_analytics: Any) -> None:
    catalogue = platform_analytics.catalogue.catalogue
    async with target_of(path) as target:
        runner = MigrationRunner(target, catalogue=catalogue)
        assert [str(each) for each in await runner.run()] == ["0001 pre tables", "0002 post rollups"]
        made = dump(path)
        assert await runner.run() == []

    assert dump(path) == made
    found = {name for kind, name, *_ in made if kind in {"table", "index"}}
    assert {
        "analytics_events",
        "idx_analytics_events_event_type",
        "idx_analytics_events_service",
        "idx_analytics_events_user_id",
        "eventrec_analytics_events_timestamp",
        "eventrec_layouts",
        "eventrec_seen",
    } <= found
    assert "idx_analytics_events_data_gin" not in found  # SQLite has none of this kind


async def test_handler_and_migration_make_the_same_tables(
    path: Path, tmp_path: Path, reference: Layout, received: Any, batch: Any
) -> None:
    handler = SqliteHandler(tmp_path / "other.db")
    handler.use_layouts({reference.table: reference})
    await handler.open()
    first = batch(received("seen", at=1, id_=1))
    await handler.resume(first.log_id, first.subscription, 0)
    await handler.handle(first)
    await handler.close()

    await migrate(path, reference)

    def made(path: Path) -> list[tuple[Any, ...]]:
        return [row for row in dump_of(path) if row[1] != "eventrec_migrations"]

    def dump_of(path: Path) -> list[tuple[Any, ...]]:
        tables = "SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2"
        return [*execute(path, tables), *execute(path, "SELECT table_name, layout, 0 FROM eventrec_layouts")]

    assert made(path) == made(tmp_path / "other.db")
    assert {name for _, name, _ in made(path)} > {"eventrec_seen", "eventrec_seen_seen_at", "eventrec_layouts"}


async def test_tables_that_the_handler_made_are_adopted(
    path: Path, reference: Layout, received: Any, batch: Any
) -> None:
    handler = SqliteHandler(path)
    handler.use_layouts({reference.table: reference})
    await handler.open()
    first = batch(received("seen", at=1, id_=1))
    await handler.resume(first.log_id, first.subscription, 0)
    await handler.handle(first)
    await handler.close()
    before = execute(path, "SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2")
    told: list[str] = []

    await migrate(path, reference, tell=told.append)

    after = execute(path, "SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2")
    assert [row for row in after if row[1] != "eventrec_migrations"] == before
    assert told == [
        f"{key} is there already: it is adopted as it is"
        for key in (
            "own eventrec_checkpoints",
            "own eventrec_destination",
            "own eventrec_layouts",
            "own eventrec_seen",
            "table analytics_events",
        )
    ]
    assert execute(path, "SELECT count(*) FROM analytics_events") == [(1,)]
    async with target_of(path) as target:
        with pytest.raises(RollbackNotSupported):
            await MigrationRunner(target).rollback()


async def test_table_made_by_other_sql_is_adopted_and_its_differences_named(path: Path) -> None:
    execute(
        path,
        "CREATE TABLE Visits (at INTEGER, kind INTEGER, data TEXT, more BLOB);"
        " CREATE TABLE other (a); CREATE INDEX visits_kind ON other (a);",
    )
    told: list[str] = []

    await migrate(path, replace(VISITS, indexes=(LayoutIndex("visits_kind", ("kind",)),)), tell=told.append)

    assert told == [
        "table visits is there already: it is adopted as it is",
        "table visits differs from what is declared: its column 'kind' is INTEGER, not VARCHAR(100)",
        "table visits differs from what is declared: it has no column 'user'",
        "table visits differs from what is declared: it has a column 'more' that is not declared",
        "table visits differs from what is declared: its index 'visits_kind' is one of table 'other'",
    ]


async def test_layout_that_changes_changes_its_table(path: Path) -> None:
    await migrate(path, VISITS)
    execute(path, "INSERT INTO visits (at, kind, data) VALUES (1, 'seen', '{}');")
    columns = (
        VISITS.columns[0],
        replace(VISITS.columns[1], length=200),
        VISITS.columns[2],
        replace(USER, default="somebody"),
        LayoutColumn("page", from_payload("page"), "text", nullable=False, default="/"),
    )
    after = replace(VISITS, columns=columns, indexes=(LayoutIndex("by_page", ("page",)),))

    (migration,) = await migrate(path, after)

    assert [each.sql for each in migration.up[:2]] == [
        """ALTER TABLE "visits" ADD COLUMN "page" TEXT NOT NULL DEFAULT '/'""",
        'CREATE INDEX IF NOT EXISTS "by_page" ON "visits" ("page")',
    ]
    assert execute(path, "SELECT user, page FROM visits") == [("nobody", "/")]
    assert execute(path, "SELECT * FROM eventrec_layouts") == [("visits", after.to_json())]
    assert await migrate(path, after) == []


async def test_retention_alone_is_a_migration(path: Path) -> None:
    await migrate(path, VISITS)
    after = replace(VISITS, retention="30d")

    (migration,) = await migrate(path, after)

    assert str(migration) == "0002 pre table_visits"
    assert execute(path, "SELECT * FROM eventrec_layouts") == [("visits", after.to_json())]
    assert await migrate(path, after) == []


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ((*VISITS.columns[:3], replace(USER, nullable=True)), "'user' needs no value any more"),
        (VISITS.columns[1:], "'at' needs no value any more"),
    ],
)
async def test_change_that_sqlite_cannot_make_is_refused(
    path: Path, columns: tuple[LayoutColumn, ...], said: str
) -> None:
    await migrate(path, replace(VISITS, retention=None))
    before = dump(path)

    with pytest.raises(MigrationError, match=said):
        await migrate(path, replace(VISITS, columns=columns, retention=None))

    assert dump(path) == before


async def test_rollups_have_the_indexes_that_their_layout_lacks(path: Path) -> None:
    await migrate(path, VISITS, rollups=(OfOne,))
    (more,) = await migrate(path, VISITS, rollups=(OfOne, OfAny))

    indexes = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'visits' ORDER BY 1"
    assert execute(path, indexes) == [
        ("eventrec_visits_at", 'CREATE INDEX "eventrec_visits_at" ON "visits" ("at")'),
        ("eventrec_visits_kind_at", 'CREATE INDEX "eventrec_visits_kind_at" ON "visits" ("kind", "at")'),
    ]
    assert str(more) == "0003 post index_visits"
    async with target_of(path) as target:
        assert [each.version for each in await MigrationRunner(target).rollback()] == [3]
    assert [name for name, _ in execute(path, indexes)] == ["eventrec_visits_kind_at"]
    has_both = [LayoutIndex("a", ("kind", "at")), LayoutIndex("b", ("at", "kind"))]
    assert (
        len(await migrate(path.with_name("second.db"), replace(VISITS, indexes=has_both), rollups=(OfOne, OfAny))) == 1
    )


async def test_tables_that_differ_in_case_alone_are_refused(path: Path) -> None:
    class Visit(EventModel, table="Visits"):
        page: str

    async with target_of(path) as target:
        with pytest.raises(MigrationError, match="'Visits' and 'visits' are one for SQLite"):
            migrations_of(Catalogue(name="x", events=[Visit], layouts=[VISITS]), target)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("(version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL)", "1 'first' ran here"),
        ("(version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL, who TEXT)", "left alone"),
        ("(version, name, applied_at)", "left alone"),
    ],
)
async def test_records_of_other_programs_are_read_and_left_alone(path: Path, table: str, said: str) -> None:
    version = "1" if "INTEGER" in table else "x'01'"
    execute(
        path,
        f"CREATE TABLE _migrations {table};"
        f" INSERT INTO _migrations (version, name, applied_at) VALUES ({version}, 'first', 1);",
    )
    theirs = execute(path, "SELECT * FROM _migrations")
    told: list[str] = []

    await migrate(path, VISITS, tell=told.append)
    await migrate(path, replace(VISITS, retention="1d"), tell=told.append)

    assert len(told) == 1
    assert said in told[0]
    assert execute(path, "SELECT * FROM _migrations") == theirs


@pytest.mark.parametrize("every", [41, pytest.param(1, marks=[pytest.mark.faults, pytest.mark.timeout(600)])])
def test_killed_and_run_again_gives_the_same_schema(
    tmp_path: Path, killed_migrations: Callable[..., list[str]], every: int
) -> None:
    whole, *killed = [dump(tmp_path / f"{at}.db") for at in killed_migrations(f"sqlite:///{tmp_path}/{{}}.db", every)]

    assert len(whole) == 15
    assert [at for at, one in enumerate(killed) if one != whole] == []
