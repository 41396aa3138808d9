"""Migrations of rollups that are kept in tables of a SQLite file: chosen in the URL, repeatable, and replaced whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
import msgspec
import pytest

from eventrec import Batch, EventModel, ReceivedEvent, migration_target_from_url
from eventrec.analytics import (
    Catalogue,
    Migration,
    MigrationError,
    MigrationRunner,
    MigrationTarget,
    Question,
    Refresh,
    Rollup,
    bucket,
    count,
    group,
    max_of,
    migrations_of,
    payload,
    plan_of,
    read_migrations,
    write_migrations,
)
from eventrec_handlers.sqlite import SqliteHandler
from eventrec_handlers.sqlite.rollups import SqliteRollups

pytestmark = [pytest.mark.handlers, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

HOUR: Final = 3_600_000_000_000
NOW: Final = 1_000 * HOUR

Batches = Callable[..., Batch]


class Requested(EventModel, type="request"):
    path: str
    ms: int


class Hourly(Rollup, name="hourly", events=[Requested]):
    hour = bucket("hour")
    path = group("path")
    n = count()
    refresh = Refresh(window="3 days", lag=0)


class Renewed(Rollup, name="hourly", events=[Requested], version=2):
    hour = bucket("hour")
    slowest = max_of("ms")
    refresh = Refresh(window="3 days", lag=0)


class SameVersion(Rollup, name="hourly", events=[Requested]):
    hour = bucket("hour")
    slowest = max_of("ms")


class Every(Rollup, name="every"):
    hour = bucket("hour")
    n = count(payload("path", kind="text"))
    refresh = Refresh(window="3 days", lag=0)


def catalogue(*rollups: type[Rollup]) -> Catalogue:
    return Catalogue(name="shop", events=[Requested], rollups=rollups)


def target_of(path: Path, *, refresh: bool = True) -> MigrationTarget:
    return migration_target_from_url(f"sqlite:///{path}{'?refresh=true' * refresh}")


async def migrate(path: Path, *rollups: type[Rollup], refresh: bool = True, **options: Any) -> list[Migration]:
    async with target_of(path, refresh=refresh) as target:
        return await MigrationRunner(target, catalogue=catalogue(*rollups), **options).run()


def request(at: int, path: str = "/", ms: int = 1) -> ReceivedEvent:
    return ReceivedEvent("request", msgspec.json.encode({"path": path, "ms": ms}), timestamp=at)


async def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    def read() -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
            return connection.execute(sql).fetchall()

    return await anyio.to_thread.run_sync(read)


async def names(path: Path) -> list[str]:
    return [name for (name,) in await rows(path, "SELECT name FROM sqlite_master WHERE type <> 'index' ORDER BY 1")]


async def schema(path: Path) -> list[tuple[Any, ...]]:
    return await rows(path, "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2")


async def test_tables_of_rollups_are_made_where_the_url_says_so_and_nowhere_else(
    anyio_backend: str, path: Path, tmp_path: Path
) -> None:
    await migrate(path, Hourly, refresh=False)
    without = await names(path)
    chosen = [str(each) for each in await migrate(path, Hourly, Every)]
    again = await migrate(path, Hourly, Every)
    async with target_of(tmp_path / "nowhere.db") as target:
        status = await MigrationRunner(target, catalogue=catalogue(Hourly)).status()

    assert without == ["eventrec_checkpoints", "eventrec_destination", "eventrec_migrations", "events"]
    assert set(await names(path)) - set(without) == {
        *(
            "hourly",
            "every",
            "eventrec_dirty",
            "eventrec_floors",
            "eventrec_pending",
            "eventrec_rollups",
            "eventrec_zones",
        ),
        *("eventrec_mark_deleted_events", "eventrec_mark_updated_events"),
    }
    assert (len(chosen), again) == (1, [])
    sql = [statement.sql for pending in status.pending for statement in pending.migration.up]
    assert 'CREATE TABLE IF NOT EXISTS "hourly" ("hour" INTEGER NOT NULL, "path" TEXT, "n" INTEGER)' in sql
    assert not (tmp_path / "nowhere.db").exists()


async def test_what_was_migrated_is_refreshed_also_by_a_strict_handler(
    anyio_backend: str, path: Path, handler: SqliteHandler, batch: Batches
) -> None:
    await handler.handle(batch(request(NOW - 5 * HOUR)))
    await migrate(path, Hourly)
    await handler.handle(batch(request(NOW - 9 * HOUR), start=1))
    async with SqliteHandler(path, schema="strict").rollups() as store:
        await store.refresh([plan_of(Hourly)], now=NOW)

    assert await rows(path, "SELECT hour, path, n FROM hourly ORDER BY hour") == [
        (NOW - 9 * HOUR, "/", 1),
        (NOW - 5 * HOUR, "/", 1),
    ]


@pytest.mark.slow
async def test_a_migration_that_is_killed_between_two_statements_goes_on_and_loses_no_mark(
    anyio_backend: str, path: Path, tmp_path: Path, batch: Batches
) -> None:
    whole = tmp_path / "whole.db"
    await migrate(whole, Hourly, Every)
    expected, at, is_over = await schema(whole), 0, False
    while not is_over:
        killed = tmp_path / f"killed{at}.db"
        async with target_of(killed) as target:
            left, apply = at, target.apply

            async def ending(migration: Migration, number: int, apply: Any = apply) -> None:
                nonlocal left
                if not left:
                    raise MigrationError("killed")
                left -= 1
                await apply(migration, number)

            target.apply = ending  # type: ignore[method-assign]
            try:
                await MigrationRunner(target, catalogue=catalogue(Hourly, Every)).run()
                is_over = True
            except MigrationError:
                at += 1
        if await rows(killed, "SELECT name FROM sqlite_master WHERE name = 'events'"):
            await rows(killed, f"INSERT INTO events VALUES ('1', 'request', {NOW - HOUR}, '{{}}', NULL)")
            await migrate(killed, Hourly, Every)
            async with SqliteRollups(killed, busy_timeout=5) as store:
                await store.refresh([plan_of(Hourly), plan_of(Every)], now=NOW)
            assert await schema(killed) == expected
            assert await rows(killed, "SELECT n FROM hourly") == [(1,)]

    assert at > 10


async def test_another_version_gets_a_new_table_and_the_rows_of_the_one_before_are_kept_beside_it(
    anyio_backend: str, path: Path, handler: SqliteHandler, batch: Batches
) -> None:
    await handler.handle(batch(request(NOW - 5 * HOUR, ms=7)))
    await migrate(path, Hourly)
    async with handler.rollups() as store:
        await store.refresh([plan_of(Hourly)], now=NOW)
        with pytest.raises(MigrationError, match="its version is 1 still: declare version=2"):
            await migrate(path, SameVersion)
        await migrate(path, Renewed)
        await store.refresh([plan_of(Renewed)], now=NOW)
        answer = await store.answer(Question(Renewed))

    assert answer.rows == ((NOW - 5 * HOUR, 7),)
    assert await rows(path, "SELECT hour, slowest FROM hourly") == [(NOW - 5 * HOUR, 7)]
    assert await rows(path, "SELECT hour, path, n FROM hourly_v1") == [(NOW - 5 * HOUR, "/", 1)]


async def test_a_table_that_a_refresh_has_made_is_adopted_or_replaced_as_is_declared(
    anyio_backend: str, path: Path, handler: SqliteHandler, batch: Batches
) -> None:
    await handler.handle(batch(request(NOW - 5 * HOUR, ms=7)))
    told: list[str] = []
    async with handler.rollups() as store:
        await store.refresh([plan_of(Hourly), plan_of(Every)], now=NOW)
        await migrate(path, Renewed, Every, tell=told.append)
        await store.refresh([plan_of(Renewed)], now=NOW)

    assert (
        'rollup hourly differs from what is declared: it is of another declaration: it becomes "hourly_v1"' in told[-2]
    )
    assert told[-1] == "rollup every is there already: it is adopted as it is"
    assert await rows(path, "SELECT slowest FROM hourly") == [(7,)]
    assert await rows(path, "SELECT n FROM hourly_v1") == [(1,)]
    assert await rows(path, "SELECT n FROM every") == [(1,)]


async def test_a_table_of_another_program_with_the_name_of_a_rollup_is_not_touched(
    anyio_backend: str, path: Path
) -> None:
    await migrate(path, refresh=False)
    await rows(path, "CREATE TABLE hourly (hour, path, n)")

    with pytest.raises(MigrationError, match="rollup hourly: what has its name is not ours, and it is not touched"):
        await migrate(path, Hourly)

    assert await rows(path, "SELECT count(*) FROM hourly") == [(0,)]
    assert await rows(path, "SELECT count(*) FROM sqlite_master WHERE type = 'index' AND tbl_name = 'hourly'") == [(0,)]


async def test_a_rollback_takes_the_tables_and_what_marked_for_them(anyio_backend: str, path: Path) -> None:
    await migrate(path, refresh=False)
    before = await names(path)
    await migrate(path, Hourly, Every)
    async with target_of(path) as target:
        await MigrationRunner(target).rollback()

    left = {"eventrec_dirty", "eventrec_floors", "eventrec_pending", "eventrec_rollups", "eventrec_zones"}
    assert set(await names(path)) == {*before, *left}


async def test_reviewed_files_make_the_same(anyio_backend: str, path: Path, tmp_path: Path) -> None:
    whole, directory = tmp_path / "whole.db", tmp_path / "files"
    await migrate(whole, Hourly)
    async with target_of(path) as target:
        made = migrations_of(catalogue(Hourly), target)
        await anyio.to_thread.run_sync(write_migrations, directory, made)
        files = await anyio.to_thread.run_sync(lambda: read_migrations(directory, dialect=target.dialect))
        await MigrationRunner(target, files=files).run()

    assert await schema(path) == await schema(whole)
