"""Migrating a PostgreSQL database. The second program of `database` sees what stands there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest

from eventrec import (
    EVENT,
    GENERATED,
    TIMESTAMP,
    TYPE,
    Column,
    EventModel,
    Layout,
    LayoutColumn,
    LayoutIndex,
    from_payload,
)
from eventrec import migration_target_from_url as target_from_url
from eventrec.analytics import (
    Catalogue,
    Migration,
    MigrationError,
    MigrationRunner,
    Phase,
    RollbackNotSupported,
    Rollup,
    Statement,
    bucket,
    count,
    max_of,
    migrations_of,
    sum_of,
)
from eventrec.analytics.migration_text import with_text

pytestmark = [pytest.mark.anyio, pytest.mark.handlers]
WRITER = Path(__file__).parents[1] / "migration_writer.py"


class Placed(EventModel, table="orders", type="placed"):
    number: int


class PlacedWithCustomer(EventModel, table="orders", type="placed"):
    number: int
    customer: Annotated[str, Column()]


class OrdersHourly(Rollup, name="orders_hourly", events=[Placed]):
    hour = bucket("1 hour")
    orders = count()


class OrdersHourlyMore(Rollup, name="orders_hourly", events=[Placed], version=2):
    hour = bucket("1 hour")
    orders = count()
    largest = max_of("number")


class OrdersDaily(Rollup, name="orders_daily", events=[Placed]):
    day = bucket("1 day")
    numbers = sum_of("number")


def layout(*more: LayoutColumn, length: int = 100, indexes: tuple[LayoutIndex, ...] = (), **options: Any) -> Layout:
    return Layout(
        "visits",
        [
            LayoutColumn("id", GENERATED, "bigint"),
            LayoutColumn("timestamp", TIMESTAMP, "timestamptz", default="now"),
            LayoutColumn("event_type", TYPE, "varchar", length=length),
            LayoutColumn("data", EVENT, "jsonb"),
            *more,
        ],
        primary_key=("timestamp", "id"),
        indexes=(LayoutIndex("visits_type", ("event_type", "timestamp"), descending=("timestamp",)), *indexes),
        **options,
    )


BEFORE = Catalogue(name="shop", events=[Placed], rollups=[OrdersHourly])
AFTER = Catalogue(name="shop", events=[PlacedWithCustomer], rollups=[OrdersHourly, OrdersDaily])


async def migrate(url: str, catalogue: Catalogue | None = None, **options: Any) -> list[Migration]:
    async with target_from_url(url) as target:
        return await MigrationRunner(target, catalogue=catalogue, **options).run(options.pop("phase", None))


def by_hand(*up: str | Statement, down: tuple[str, ...] | None = None) -> Migration:
    statements = tuple(each if isinstance(each, Statement) else Statement(each) for each in up)
    undoing = None if down is None else tuple(map(Statement, down))
    return with_text(Migration(1, "by_hand", Phase.PRE, statements, undoing, "postgresql"))


DUMP = """
SELECT 'column', c.relname || '.' || a.attname, format_type(a.atttypid, a.atttypmod) || a.attnotnull
 || coalesce(pg_get_expr(d.adbin, d.adrelid), '') FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
 LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relnamespace = to_regnamespace('{0}') AND a.attnum > 0
UNION ALL SELECT 'relation', relname, relkind::text || coalesce(reloptions::text, '')
 || coalesce(pg_get_partkeydef(oid), '') || coalesce(pg_get_expr(relpartbound, oid), '')
 FROM pg_class WHERE relnamespace = to_regnamespace('{0}')
UNION ALL SELECT 'index', c.relname, pg_get_indexdef(c.oid) || i.indisvalid FROM pg_index i
 JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = to_regnamespace('{0}')
UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE connamespace = to_regnamespace('{0}')
UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
 WHERE c.relnamespace = to_regnamespace('{0}')
UNION ALL SELECT 'function', proname, prosrc FROM pg_proc WHERE pronamespace = to_regnamespace('{0}')
ORDER BY 1, 2, 3
"""
"""What stands in a schema of the database, without the name of that."""


def dump(database: Any, schema: str = "public") -> list[str]:
    return ["|".join(row).replace(f"{schema}.", "") for row in database.rows(DUMP.format(schema))]


async def test_second_run_finds_nothing_to_do(database: Any) -> None:
    first = await migrate(database.url(), BEFORE)
    made = dump(database)

    second = await migrate(database.url(), BEFORE)

    assert [str(each) for each in first] == ["0001 pre tables", "0002 post rollups"]
    assert second == []
    assert dump(database) == made


async def test_evolved_catalogue_makes_new_migrations_only(database: Any) -> None:
    await migrate(database.url(), BEFORE)

    pre, post = await migrate(database.url(), AFTER)

    assert [str(pre), str(post)] == ["0003 pre events_orders", "0004 post rollup_orders_daily"]
    assert [each.sql for each in pre.up] == ['ALTER TABLE "orders" ADD COLUMN IF NOT EXISTS "customer" text']
    assert {"customer"} < set(database.declared("orders"))
    assert list(database.declared("orders_daily")) == ["day", "numbers"]


async def test_new_version_of_a_rollup_keeps_the_rows_of_the_old_one(database: Any) -> None:
    await migrate(database.url(), BEFORE)
    database.execute("INSERT INTO orders_hourly VALUES ('2020-01-01 00:00+00', 7)")

    (migration,) = await migrate(database.url(), Catalogue(name="s", events=[Placed], rollups=[OrdersHourlyMore]))

    assert migration.down is None
    assert list(database.declared("orders_hourly")) == ["hour", "orders", "largest"]
    assert database.rows("SELECT orders FROM orders_hourly_v1") == [(7,)]
    indexes = database.rows("SELECT indexname::text, tablename::text FROM pg_indexes WHERE indexname LIKE 'orders_h%'")
    assert sorted(indexes) == [
        ("orders_hourly_by_bucket", "orders_hourly"),
        ("orders_hourly_by_bucket_v1", "orders_hourly_v1"),
    ]


async def test_rollup_that_changes_without_a_new_version_is_refused(database: Any) -> None:
    class Changed(Rollup, name="orders_hourly", events=[Placed]):
        hour = bucket("1 day")
        orders = count()

    await migrate(database.url(), BEFORE)

    with pytest.raises(MigrationError, match=r"'orders_hourly' tells something else .* declare version=2"):
        await migrate(database.url(), Catalogue(name="s", events=[Placed], rollups=[Changed]))


async def test_rollback_takes_rollups_away_and_no_events(database: Any) -> None:
    await migrate(database.url(), BEFORE)
    database.execute("INSERT INTO orders VALUES (gen_random_uuid(), 'placed', now(), '{}')")

    async with target_from_url(database.url()) as target:
        assert [each.version for each in await MigrationRunner(target).rollback()] == [2]
        with pytest.raises(RollbackNotSupported, match="migration 1 cannot be rolled back"):
            await MigrationRunner(target).rollback()

    assert "orders_hourly" not in database.tables()
    assert [each.version for each in await migrate(database.url(), BEFORE)] == [2]
    async with target_from_url(database.url()) as target:
        assert [each.version for each in await MigrationRunner(target).rollback()] == [2]
    assert database.rows("SELECT count(*) FROM orders") == [(1,)]
    database.execute("INSERT INTO orders VALUES (gen_random_uuid(), 'placed', now(), '{}')")


async def test_post_waits_for_pre(database: Any) -> None:
    async with target_from_url(database.url()) as target:
        runner = MigrationRunner(target, catalogue=BEFORE)
        with pytest.raises(MigrationError, match="0001 pre tables comes before it"):
            await runner.run(Phase.POST)
        assert [each.version for each in await runner.run(Phase.PRE)] == [1]
        assert [each.version for each in await runner.run(Phase.PRE)] == []
        assert [each.version for each in await runner.run(Phase.POST)] == [2]


async def test_layout_is_the_table_that_was_declared(database: Any) -> None:
    await migrate(database.url(), Catalogue(name="s", layouts=[layout(partition="day")]))

    assert database.rows(
        "SELECT column_name::text, data_type::text, character_maximum_length, is_nullable::text, column_default::text"
        " FROM information_schema.columns WHERE table_name = 'visits' ORDER BY ordinal_position"
    ) == [
        ("id", "bigint", None, "NO", "nextval('visits_id_seq'::regclass)"),
        ("timestamp", "timestamp with time zone", None, "NO", "now()"),
        ("event_type", "character varying", 100, "NO", None),
        ("data", "jsonb", None, "NO", None),
    ]
    assert database.rows("SELECT pg_get_partkeydef('visits'::regclass)") == [('RANGE ("timestamp")',)]
    database.execute("INSERT INTO visits (event_type, data) VALUES ('a', '{}')")


async def test_layout_that_changes_changes_its_table(database: Any) -> None:
    await migrate(database.url(), Catalogue(name="s", layouts=[layout()]))
    more = LayoutColumn("user_id", from_payload("user_id"), "text")
    after = layout(more, length=200, indexes=(LayoutIndex("visits_data", ("data",), kind="json"),))

    (migration,) = await migrate(database.url(), Catalogue(name="s", layouts=[after]))

    assert [(each.sql, each.in_transaction) for each in migration.up] == [
        ('ALTER TABLE "visits" ADD COLUMN IF NOT EXISTS "user_id" text', True),
        ('ALTER TABLE "visits" ALTER COLUMN "event_type" TYPE character varying(200)', True),
        ('CREATE INDEX CONCURRENTLY IF NOT EXISTS "visits_data" ON "visits" USING gin ("data")', False),
    ]
    with pytest.raises(MigrationError, match="'event_type' was event_type varchar"):
        await migrate(database.url(), Catalogue(name="s", layouts=[layout(more, length=100)]))


async def test_table_made_by_other_sql_is_adopted_and_its_differences_named(database: Any) -> None:
    database.execute(
        "CREATE TABLE visits (id BIGSERIAL, timestamp TIMESTAMPTZ NOT NULL DEFAULT NOW(), event_type VARCHAR(50)"
        " NOT NULL, data TEXT NOT NULL, PRIMARY KEY (timestamp, id))",
        "CREATE INDEX visits_type ON visits (event_type)",
        "INSERT INTO visits (event_type, data) VALUES ('a', '{}')",
        "CREATE TABLE _migrations (version bigint)",
    )
    told: list[str] = []

    await migrate(database.url(), Catalogue(name="s", layouts=[layout()]), tell=told.append)

    assert told == [
        "table visits is there already: it is adopted as it is",
        "table visits differs from what is declared: its column 'data' is text, not jsonb",
        "table visits differs from what is declared: its column 'event_type' holds 50 characters, not 100",
    ]
    assert database.rows("SELECT count(*) FROM visits") == [(1,)]
    async with target_from_url(database.url()) as target:
        with pytest.raises(RollbackNotSupported):
            await MigrationRunner(target).rollback()


async def test_to_look_changes_nothing(database: Any) -> None:
    before = dump(database)

    async with target_from_url(database.url(namespace="later")) as target:
        status = await MigrationRunner(target, catalogue=BEFORE).status()

    assert [str(each.migration) for each in status.pending] == ["0001 pre tables", "0002 post rollups"]
    assert dump(database) == before
    assert database.rows("SELECT count(*) FROM pg_namespace WHERE nspname = 'later'") == [(0,)]


async def test_index_that_was_killed_halfway_is_made_again(database: Any) -> None:
    database.execute("CREATE TABLE t (a int)", "INSERT INTO t VALUES (1), (1)")
    index = Statement('CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS "odd ""name" ON t (a)', in_transaction=False)
    files = [by_hand("CREATE TABLE first (a int)", index)]
    with pytest.raises(MigrationError, match=r"statement 2 of 2 failed.*could not create unique index"):
        await migrate(database.url(), files=files)
    invalid = "SELECT indisvalid FROM pg_index WHERE indrelid = 't'::regclass"
    assert database.rows(invalid) == [(False,)]
    database.execute("DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)")

    await migrate(database.url(), files=files)

    assert database.rows(invalid) == [(True,)]


async def test_who_waits_for_the_lock_does_not_hold_up_an_index(database: Any) -> None:
    database.execute("CREATE TABLE t (a int)")
    index = Statement("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)", in_transaction=False)
    files = [by_hand("CREATE TABLE first (a int)", index)]
    waits = anyio.Event()
    results: dict[str, int] = {}

    async def second() -> None:
        done = await migrate(database.url(), files=files, tell=lambda _: waits.set())
        results["second"] = len(done)

    async with (
        anyio.create_task_group() as tasks,
        target_from_url(database.url()) as target,
        target.lock(lambda: None),
    ):
        tasks.start_soon(second)
        with anyio.fail_after(30):
            await waits.wait()
        await target.prepare()
        await target.begin(files[0], [])
        with anyio.fail_after(30):
            await target.apply(files[0], 0)
            await target.apply(files[0], 1)

    assert results == {"second": 0}


async def test_statement_waits_for_a_lock_a_moment_at_a_time_and_not_for_ever(database: Any) -> None:
    database.execute("CREATE TABLE t (a int)")
    session = database.session()
    database.run(session.execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE"))
    try:
        with pytest.raises(MigrationError, match=r"statement 1 of 1 failed.*others use the table all the time"):
            await migrate(database.url(lock_timeout="200ms"), files=[by_hand("ALTER TABLE t ADD COLUMN b int")])
    finally:
        database.run(session.close())


async def test_every_statement_has_a_lock_timeout(database: Any) -> None:
    said = "SELECT set_config('eventrec.lock', current_setting('lock_timeout'), false)"
    table = "CREATE TABLE said AS SELECT current_setting('lock_timeout') AS inside"
    outside = Statement("INSERT INTO said SELECT current_setting('lock_timeout')", in_transaction=False)

    await migrate(database.url(), files=[by_hand(said, table, outside)])

    assert database.rows("SELECT * FROM said") == [("1s",), ("1h",)]


async def test_migration_is_kept_in_its_namespace(database: Any) -> None:
    await migrate(database.url(namespace="a%20b"), BEFORE)

    assert database.tables() == set()
    assert database.rows("SELECT count(*) FROM pg_tables WHERE schemaname = 'a b'") != [(0,)]


async def test_text_does_not_depend_on_the_place(database: Any) -> None:
    def texts(url: str) -> list[str]:
        return [each.text for each in migrations_of(AFTER, target_from_url(url))]

    assert texts(database.url()) == texts("postgresql://other/else?namespace=there")


@pytest.mark.parametrize("every", [23, pytest.param(1, marks=[pytest.mark.faults, pytest.mark.timeout(600)])])
def test_killed_at_any_point_and_run_again_gives_the_same_schema(database: Any, every: int) -> None:
    command = [sys.executable, "-W", "error", str(WRITER), database.url(namespace="s{}"), str(every)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=550)
    assert (done.returncode, done.stderr) == (0, "")

    points, *killed_at = map(int, done.stdout.split())
    whole = dump(database, "swhole")
    assert points > 60
    assert len(whole) > 60
    assert [at for at in killed_at if dump(database, f"s{at}") != whole] == []


async def test_records_are_what_was_applied(database: Any) -> None:
    pre, post = await migrate(database.url(), BEFORE)

    found = database.rows("SELECT version, name, phase, checksum, done, adopted FROM eventrec_migrations ORDER BY 1")

    assert found == [
        (each.version, each.name, each.phase, each.checksum, len(each.up), json.dumps([])) for each in (pre, post)
    ]
