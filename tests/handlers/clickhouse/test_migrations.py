"""Migrating a ClickHouse: tables, layouts, columns, rollups; killed anywhere, the next run goes on there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
from anyio import to_thread

from eventrec import (
    EVENT,
    TIMESTAMP,
    TYPE,
    Batch,
    Column,
    EventModel,
    Layout,
    LayoutColumn,
    PauseError,
    ReceivedEvent,
    from_payload,
    migration_target_from_url,
)
from eventrec.analytics import (
    Catalogue,
    Migration,
    MigrationError,
    MigrationRunner,
    Phase,
    Question,
    RollbackNotSupported,
    Rollup,
    Statement,
    bucket,
    count,
    max_of,
    plan_of,
)
from eventrec.analytics.migration_text import with_text
from eventrec.testing.clickhouse_http import ClickHouseDatabase, ClickHouseServer
from eventrec_handlers.clickhouse import ClickHouseHandler, lease
from eventrec_handlers.clickhouse.migrations import ClickHouseMigrations
from eventrec_handlers.clickhouse.node import Node

pytestmark = pytest.mark.handlers

WRITER = Path(__file__).parents[1] / "migration_writer.py"

Ask = Callable[[str], Awaitable[list[list[Any]]]]
Open = Callable[..., Awaitable[ClickHouseHandler]]


class Placed(EventModel, table="orders", type="placed"):
    number: int


class PlacedByCustomer(EventModel, table="orders", type="placed"):
    number: int
    customer: Annotated[str, Column()]


class OrdersHourly(Rollup, events=[Placed]):
    hour = bucket("1 hour")
    orders = count()
    largest = max_of("number")


VISITS = Layout(
    "visits",
    [
        LayoutColumn("at", TIMESTAMP, "timestamptz", default="now"),
        LayoutColumn("kind", TYPE, "varchar", length=100),
        LayoutColumn("data", EVENT, "jsonb"),
        LayoutColumn("page", from_payload("page"), "text"),
    ],
    primary_key=("at", "kind"),
    partition="month",
)
FIRST = Catalogue(name="shop", events=[Placed], layouts=[VISITS], rollups=[OrdersHourly])
TABLES = "SELECT name FROM system.tables WHERE database = currentDatabase() ORDER BY name"


async def migrate(url: str, catalogue: Catalogue | None = None, **options: Any) -> list[Migration]:
    async with migration_target_from_url(url) as target:
        return await MigrationRunner(target, catalogue=catalogue, **options).run()


async def pending(url: str, catalogue: Catalogue) -> list[str]:
    async with migration_target_from_url(url) as target:
        status = await MigrationRunner(target, catalogue=catalogue).status()
    return [each.migration.name for each in status.pending]


def by_hand(*up: str, version: int = 1) -> Migration:
    statements = tuple(Statement(text, in_transaction=False) for text in up)
    return with_text(Migration(version=version, name="hand", phase=Phase.PRE, up=statements, dialect="clickhouse"))


async def test_what_a_catalogue_declares_is_made_and_written_to(
    clickhouse: ClickHouseDatabase, opened: Open, asked: Ask, batch: Callable[..., Batch]
) -> None:
    url = clickhouse.url()

    made = [each.name for each in await migrate(url, FIRST)]
    again = await migrate(url, FIRST)
    handler = await opened(layouts=[VISITS], schema="strict")
    await handler.handle(
        batch(ReceivedEvent("placed", b'{"number":7}', 5, table="orders"), ReceivedEvent("v", b"{}", 5, table="visits"))
    )
    async with ClickHouseHandler(url, schema="strict").rollups() as store:
        await store.refresh([plan_of(OrdersHourly)])
        answer = await store.answer(Question(OrdersHourly))

    assert (made, again) == (["tables", "rollups"], [])
    assert answer.rows == ((0, 1, 7),)
    assert await asked("SELECT toUInt32(orders), toUInt32(largest) FROM orders_hourly") == [[1, 7]]
    assert await asked("SELECT toUInt32(count()) FROM visits") == [[1]]
    assert await asked("SELECT count() FROM eventrec_layouts WHERE table_name = 'visits'") != [[0]]


async def test_status_and_looking_change_nothing(clickhouse: ClickHouseDatabase, asked: Ask) -> None:
    assert await pending(clickhouse.url(), FIRST) == ["tables", "rollups"]
    assert await asked(TABLES) == []


async def test_columns_and_layouts_that_changed_are_migrated(clickhouse: ClickHouseDatabase, asked: Ask) -> None:
    url = clickhouse.url()
    await migrate(url, FIRST)
    wider = replace(
        VISITS,
        columns=(
            *VISITS.columns[:3],
            replace(VISITS.columns[3], nullable=True),
            LayoutColumn("shop", from_payload("shop"), "text", nullable=False, default="none"),
        ),
        retention="90d",
    )
    second = Catalogue(name="shop", events=[PlacedByCustomer], layouts=[wider], rollups=[OrdersHourly])

    made = await migrate(url, second)

    assert [each.phase for each in made] == [Phase.PRE]
    types = dict(
        await asked(
            "SELECT concat(table, '.', name), type FROM system.columns WHERE database = currentDatabase()"
            " AND (table, name) IN (('orders', 'customer'), ('visits', 'page'), ('visits', 'shop'))"
        )
    )
    assert types == {"orders.customer": "Nullable(String)", "visits.page": "Nullable(String)", "visits.shop": "String"}
    ((made_as,),) = await asked(
        "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = 'visits'"
    )
    assert " TTL " in made_as
    assert await pending(url, second) == []


async def test_rollup_can_be_undone_and_events_cannot(clickhouse: ClickHouseDatabase, asked: Ask) -> None:
    url = clickhouse.url()
    await migrate(url, FIRST)

    async with migration_target_from_url(url) as target:
        runner = MigrationRunner(target, catalogue=FIRST)
        undone = await runner.rollback()
        with pytest.raises(RollbackNotSupported):
            await runner.rollback()
        again = await runner.run()

    assert [each.name for each in undone] == ["rollups"]
    assert [each.name for each in again] == ["rollups"]
    assert len([name for (name,) in await asked(TABLES) if "orders_hourly" in name]) == 6


async def test_table_that_is_there_is_adopted_and_how_it_differs_is_said(
    clickhouse: ClickHouseDatabase, asked: Ask
) -> None:
    await asked("CREATE TABLE orders (id String, type String) ENGINE = MergeTree ORDER BY type")
    said: list[str] = []

    await migrate(clickhouse.url(), Catalogue(name="shop", events=[Placed]), tell=said.append)

    assert "events orders is there already: it is adopted as it is" in said
    assert "events orders differs from what is declared: its column 'id' is String, not UUID" in said


async def test_statement_that_is_refused_is_named_and_gone_on_with(clickhouse: ClickHouseDatabase, asked: Ask) -> None:
    files = [by_hand("CREATE TABLE IF NOT EXISTS a (x Int8) ENGINE = Memory", "ALTER TABLE b ADD COLUMN y Int8")]
    with pytest.raises(MigrationError, match=r"statement 2 of 2 failed.*Code: 60"):
        await migrate(clickhouse.url(), files=files)
    await asked("CREATE TABLE b (x Int8) ENGINE = MergeTree ORDER BY x")

    done = await migrate(clickhouse.url(), files=files)

    assert len(done) == 1
    assert await migrate(clickhouse.url(), files=files) == []
    assert (await asked("SELECT toUInt32(max(done)) FROM eventrec_migrations")) == [[2]]


INSERTING = ("CREATE TABLE IF NOT EXISTS kinds (x Int8) ENGINE = MergeTree ORDER BY x", "INSERT INTO kinds VALUES (1)")


async def killed_behind(statement: str, url: str, files: list[Migration]) -> None:
    """Migrate, and die once `statement` ran, before that is noted."""
    run = Node.run

    async def dying(self: Node, sql: str) -> None:
        await run(self, sql)
        if sql.startswith(statement):
            raise OSError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Node, "run", dying)
        with pytest.raises(OSError, match="killed"):
            await migrate(url, files=files)


@pytest.mark.parametrize(("how", "left"), [("ran", 1), ("again", 2)])
async def test_statement_that_may_have_run_is_named_and_runs_no_second_time_unless_that_is_said(
    clickhouse: ClickHouseDatabase, asked: Ask, how: Any, left: int
) -> None:
    files = [by_hand(*INSERTING)]
    await killed_behind("INSERT INTO kinds", clickhouse.url(), files)

    with pytest.raises(MigrationError, match=r"statement 2 of 2 failed.*not known whether it ran.*--unsure"):
        await migrate(clickhouse.url(), files=files)
    async with migration_target_from_url(clickhouse.url()) as target:
        runner = MigrationRunner(target, files=files)
        remarks = (await runner.status()).remarks
        rows = await asked("SELECT toUInt32(count()) FROM kinds")
        await runner.run(unsure=how)
        after = (await runner.status()).remarks

    assert [each for each in remarks if "statement 2 was sent" in each and "INSERT INTO kinds" in each] == list(remarks)
    assert (rows, after) == ([[1]], ())
    assert await asked("SELECT toUInt32(count()) FROM kinds") == [[left]]
    assert await migrate(clickhouse.url(), files=files) == []


async def test_statement_that_may_run_twice_runs_again_by_itself(clickhouse: ClickHouseDatabase, asked: Ask) -> None:
    files = [by_hand(*INSERTING)]
    await killed_behind("CREATE TABLE IF NOT EXISTS kinds", clickhouse.url(), files)

    await migrate(clickhouse.url(), files=files)

    assert await asked("SELECT toUInt32(count()) FROM kinds") == [[1]]


async def test_statement_that_was_refused_did_not_run(clickhouse: ClickHouseDatabase, asked: Ask) -> None:
    files = [by_hand("INSERT INTO later VALUES (1)")]
    with pytest.raises(MigrationError, match=r"statement 1 of 1 failed.*Code: 60"):
        await migrate(clickhouse.url(), files=files)
    await asked("CREATE TABLE later (x Int8) ENGINE = Memory")

    await migrate(clickhouse.url(), files=files)

    assert await asked("SELECT toUInt32(count()) FROM later") == [[1]]


async def test_records_of_an_earlier_version_are_gone_on_with(clickhouse: ClickHouseDatabase, asked: Ask) -> None:
    first, second = by_hand(INSERTING[0]), by_hand(INSERTING[1], version=2)
    await migrate(clickhouse.url(), files=[first])
    await asked("ALTER TABLE eventrec_migrations DROP COLUMN sent")

    async with migration_target_from_url(clickhouse.url()) as target:
        pending = (await MigrationRunner(target, files=[first, second]).status()).pending
    await migrate(clickhouse.url(), files=[first, second])

    assert [each.migration.version for each in pending] == [2]
    assert await asked("SELECT toUInt32(count()) FROM kinds") == [[1]]


async def test_a_migration_of_an_earlier_version_is_undone(clickhouse: ClickHouseDatabase, asked: Ask) -> None:
    file = with_text(replace(by_hand(INSERTING[0]), down=(Statement("DROP TABLE kinds", in_transaction=False),)))
    await migrate(clickhouse.url(), files=[file])
    await asked("ALTER TABLE eventrec_migrations DROP COLUMN sent")

    async with migration_target_from_url(clickhouse.url()) as target:
        undone = await MigrationRunner(target, files=[file]).rollback()
        assert await target.records() == []

    assert undone == [file]
    assert await asked("EXISTS TABLE kinds") == [[0]]


async def test_who_comes_second_waits_and_finds_it_done(clickhouse: ClickHouseDatabase) -> None:
    said: list[str] = []
    waits = anyio.Event()
    results: list[list[Migration]] = []

    def tell(sentence: str) -> None:
        said.append(sentence)
        waits.set()

    async def second() -> None:
        results.append(await migrate(clickhouse.url(), FIRST, tell=tell))

    async with (
        migration_target_from_url(clickhouse.url()) as target,
        anyio.create_task_group() as tasks,
        target.lock(lambda: None),
    ):
        tasks.start_soon(second)
        with anyio.fail_after(20):
            await waits.wait()

    assert said == ["another process migrates this database: waiting for it"]
    assert len(results[0]) == 2


async def test_lock_of_a_silent_owner_is_taken_over(
    clickhouse: ClickHouseDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner on another machine: nothing tells but its silence. Once it wakes up, it does nothing more."""
    async with (
        migration_target_from_url(clickhouse.url()) as asleep,
        migration_target_from_url(clickhouse.url()) as two,
    ):
        assert isinstance(asleep, ClickHouseMigrations)
        asleep._lease.owner = "another machine 1 2 3"
        async with asleep.lock(lambda: None):
            await asleep.prepare()
            monkeypatch.setattr(lease, "LEASE", -1.0)
            with anyio.fail_after(20):
                async with two.lock(lambda: None):
                    migration = by_hand("CREATE TABLE t (x Int8) ENGINE = Memory")
                    await asleep.begin(migration, ())
                    with pytest.raises(MigrationError, match="silent for too long"):
                        await asleep.apply(migration, 0)


async def test_table_of_records_of_another_program_is_left_alone(clickhouse: ClickHouseDatabase, asked: Ask) -> None:
    await asked("CREATE TABLE eventrec_migrations (x Int8) ENGINE = Memory")

    with pytest.raises(PauseError, match="another program's: rename it"):
        await migrate(clickhouse.url(), FIRST)


@pytest.mark.parametrize(
    ("every", "catalogue"),
    [
        (23, ["killed_catalogue:CATALOGUE"]),
        pytest.param(1, [], marks=[pytest.mark.faults, pytest.mark.timeout(1_800)]),
    ],
)
async def test_killed_at_any_point_and_run_again_gives_the_same_tables(
    clickhouse_server: ClickHouseServer, every: int, catalogue: list[str]
) -> None:
    name = f"killed_{every}_"

    def run() -> tuple[list[int], dict[int | str, Any]]:
        places: list[int | str] = ["whole", *range(1, 150, every)]
        for place in places:
            clickhouse_server.query(f"CREATE DATABASE {name}{place}")
        url = clickhouse_server.url(name + "{}")
        done = subprocess.run(
            [sys.executable, "-W", "error", str(WRITER), url, str(every), *catalogue],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True,
            text=True,
            check=False,
            timeout=1_700,
        )
        assert (done.returncode, done.stderr) == (0, "")
        found = {place: dump(clickhouse_server, f"{name}{place}") for place in places}
        for place in places:
            clickhouse_server.query(f"DROP DATABASE {name}{place}")
        return [int(each) for each in done.stdout.split()], found

    (points, *killed_at), found = await to_thread.run_sync(run)

    assert points > 40
    assert len(found["whole"]) > 8
    assert [at for at in killed_at if found[at] != found["whole"]] == []


def dump(server: ClickHouseServer, database: str) -> list[Any]:
    """What is there, but for what tells one database from another."""
    tables = server.query(
        "SELECT name, replaceAll(create_table_query, currentDatabase(), '') FROM system.tables"
        " WHERE database = currentDatabase() ORDER BY name",
        database=database,
    )
    if not tables:
        return []
    newest = "argMax((done, undone, adopted, state, checksum), noted_at)"
    return [
        *tables,
        *server.query(f"SELECT version, {newest} FROM eventrec_migrations GROUP BY 1 ORDER BY 1", database=database),
    ]
