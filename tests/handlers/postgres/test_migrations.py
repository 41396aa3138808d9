"""Migrating a PostgreSQL database. The second program of `database` sees what stands there."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
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
    PauseError,
    TransientError,
    from_payload,
)
from eventrec import migration_target_from_url as target_from_url
from eventrec.analytics import (
    Catalogue,
    Migration,
    MigrationError,
    MigrationRunner,
    Phase,
    Refresh,
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


THEIRS = "CREATE TABLE _migrations (version bigint PRIMARY KEY, name text, applied_at timestamptz)"
ADOPTED = "what these made is adopted as it is, and not run again"
FOREIGN = "the table _migrations is another program's, of a kind that is not known: it is left alone"


def by_hand(*up: str | Statement, down: tuple[str, ...] | None = None) -> Migration:
    statements = tuple(each if isinstance(each, Statement) else Statement(each) for each in up)
    undoing = None if down is None else tuple(map(Statement, down))
    return with_text(Migration(1, "by_hand", Phase.PRE, statements, undoing, "postgresql"))


def kept(layout: Layout) -> str:
    """What keeps `layout` at the database, for processes that do not declare it."""
    text = layout.to_json()
    assert "'" not in text
    return (
        f"INSERT INTO eventrec_layouts (table_name, layout) VALUES (E'{layout.table}', E'{text}')"
        " ON CONFLICT (table_name) DO UPDATE SET layout = excluded.layout"
    )


def dump(database: Any, schema: str = "public") -> list[str]:
    found: list[str] = database.dump(schema)
    return found


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


async def test_rollback_takes_no_right_that_it_does_not_need(database: Any) -> None:
    files = [by_hand("CREATE TABLE t (a int)", down=("DROP TABLE t",))]
    await migrate(database.url(), files=files)
    name = f"undoing_{database.name}"
    database.execute(
        f"CREATE ROLE {name} LOGIN",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON eventrec_migrations TO {name}",
        f"ALTER TABLE t OWNER TO {name}",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    )
    try:
        async with target_from_url(database.url().replace("postgres@", f"{name}@")) as target:
            assert await MigrationRunner(target, files=files).rollback() == files
    finally:
        database.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")

    assert "t" not in database.tables()


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
        (kept(after), True),
    ]
    with pytest.raises(MigrationError, match="'event_type' was event_type varchar"):
        await migrate(database.url(), Catalogue(name="s", layouts=[layout(more, length=100)]))


async def test_table_made_by_other_sql_is_adopted_and_its_differences_named(database: Any) -> None:
    database.execute(
        "CREATE TABLE visits (id BIGSERIAL, timestamp TIMESTAMPTZ NOT NULL DEFAULT NOW(), event_type VARCHAR(50)"
        " NOT NULL, data TEXT NOT NULL, PRIMARY KEY (timestamp, id))",
        "CREATE INDEX visits_type ON visits (event_type)",
        "INSERT INTO visits (event_type, data) VALUES ('a', '{}')",
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
        with anyio.fail_after(120):
            await waits.wait()
        await target.prepare()
        await target.begin(files[0], [])
        with anyio.fail_after(120):
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


@pytest.mark.slow
@pytest.mark.parametrize("every", [61, pytest.param(1, marks=[pytest.mark.faults, pytest.mark.timeout(600)])])
def test_killed_at_any_point_and_run_again_gives_the_same_schema(database: Any, every: int) -> None:
    command = [sys.executable, "-W", "error", str(WRITER), database.url(namespace="s{}"), str(every)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=550)
    assert (done.returncode, done.stderr) == (0, "")

    points, *killed_at = map(int, done.stdout.split())
    whole = dump(database, "swhole")
    assert points > 60
    assert len(whole) > 60
    assert [at for at in killed_at if dump(database, f"s{at}") != whole] == []


async def test_policies_alone_are_a_migration(database: Any) -> None:
    class Often(OrdersHourly, name="orders_hourly", events=[Placed]):
        refresh = Refresh(window="3 days", lag="1 hour", every="10m")
        retention = "30d"

    first = Catalogue(name="s", events=[Placed], layouts=[layout(partition="day")], rollups=[OrdersHourly])
    other = layout(partition="day", retention="7d")
    second = Catalogue(name="s", events=[Placed], layouts=[other], rollups=[Often])
    await migrate(database.url(), first)
    comment = "SELECT obj_description('orders_hourly'::regclass)"
    before = database.rows(comment)

    pre, post = await migrate(database.url(), second)
    again = await migrate(database.url(), second)

    assert again == []
    assert [each.sql for each in pre.up] == [kept(other)]
    assert database.rows("SELECT layout FROM eventrec_layouts") == [(other.to_json(),)]
    assert database.rows(comment) == [
        ("eventrec rollup: refresh window 259200 s, lag 3600 s, every 600 s; kept 2592000 s",)
    ]
    assert post.text == with_text(post).text
    async with target_from_url(database.url()) as target:
        await MigrationRunner(target).rollback()
    assert database.rows(comment) == before


async def test_handler_and_migration_make_the_same_tables(
    database: Any, batch: Any, reference: Layout, received: Any, opened: Any
) -> None:
    class Daily(Rollup, name="per_day", table="analytics_events"):
        day = bucket("day")
        n = count()

    divided = replace(reference, partition="day", retention="90d")
    handlers = await opened(database.url(), namespace="by_handler")
    handlers.use_layouts({divided.table: divided})
    await handlers.handle(batch(received("a", at=0, id_=1)))
    rollups = handlers.rollups()
    async with rollups:
        await rollups.refresh([Daily.rollup_plan])

    await migrate(database.url(namespace="by_migration"), Catalogue(name="s", layouts=[divided], rollups=[Daily]))

    def made(schema: str) -> set[str]:
        """Without the partitions that are made as time goes by; their constraints are called as those of the table."""
        lines = dump(database, schema)
        return {line for line in lines if not any(part in line for part in ("eventrec_migrations", "_p19", "_p20"))}

    assert made("by_migration") == made("by_handler")
    assert len(made("by_handler")) > 60
    kept_ = "SELECT table_name, layout FROM {}.eventrec_layouts"
    assert database.rows(kept_.format("by_migration")) == database.rows(kept_.format("by_handler"))


async def test_table_that_is_adopted_need_not_be_divided(database: Any) -> None:
    database.execute(
        "CREATE TABLE visits (id bigserial, timestamp timestamptz NOT NULL DEFAULT now(), event_type varchar(100)"
        " NOT NULL, data jsonb NOT NULL, PRIMARY KEY (timestamp, id))"
    )

    await migrate(database.url(), Catalogue(name="s", layouts=[layout(partition="day")]))

    assert "visits_default" not in database.tables()
    assert database.rows("SELECT relkind::text FROM pg_class WHERE relname = 'visits'") == [("r",)]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            f"{THEIRS}; INSERT INTO _migrations VALUES (1, 'first'), (2, 'sec''ond')",
            f"_migrations says that 1 'first', 2 \"sec'ond\" ran here: {ADOPTED}",
        ),
        (THEIRS, None),
        ("CREATE TABLE _migrations (filename text PRIMARY KEY, applied_at timestamptz)", FOREIGN),
        ("CREATE TABLE _migrations (version text, name text, applied_at timestamptz)", FOREIGN),
        ("CREATE VIEW _migrations AS SELECT 1 AS version, 'a'::text AS name, now() AS applied_at", FOREIGN),
    ],
)
async def test_records_of_other_programs_are_read_and_left_alone(database: Any, table: str, said: str | None) -> None:
    database.execute(table)
    theirs = database.rows("SELECT count(*), count(DISTINCT _migrations::text) FROM _migrations")
    told: list[str] = []
    expected = [] if said is None else [said]
    async with target_from_url(database.url()) as target:
        assert list((await MigrationRunner(target, catalogue=BEFORE).status()).remarks) == expected

    await migrate(database.url(), BEFORE, tell=told.append)
    await migrate(database.url(), AFTER, tell=told.append)

    assert told == expected
    assert database.rows("SELECT count(*), count(DISTINCT _migrations::text) FROM _migrations") == theirs


async def test_hostile_names_are_names(database: Any) -> None:
    table = """o'd"d $do$; DROP TABLE x\\ä%"""
    columns = [
        LayoutColumn(f"{each.name}{table}", each.source, each.type, length=each.length) for each in layout().columns
    ]
    hostile = Layout(
        table,
        columns,
        primary_key=(columns[1].name, columns[0].name),
        indexes=[LayoutIndex(f"i{table}", (columns[2].name,))],
        partition="day",
    )

    class Hostile(Rollup, name=f"r{table}"[:40], table=table):
        day = bucket("day")
        n = count()

    catalogue = Catalogue(name="s", layouts=[hostile], rollups=[Hostile])

    first = await migrate(database.url(), catalogue)

    assert await migrate(database.url(), catalogue) == []
    assert [with_text(each) for each in first] == first
    assert {table, f"{table}_default"} < database.tables()
    broken = replace(hostile, table="a\n-- statement\nDROP TABLE x")
    async with target_from_url(database.url()) as target:
        with pytest.raises(MigrationError, match="looks like one that stands between statements"):
            migrations_of(Catalogue(name="s", layouts=[broken]), target)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("COPY t FROM STDIN", "not for a migration"),
        ("/* a */ -- b\n copy (SELECT 1) to\nstdout", "not for a migration"),
        ("CREATE INDEX CONCURRENTLY ON t (a)", "needs a name"),
    ],
)
async def test_statement_that_cannot_be_run_or_not_again_is_refused(database: Any, sql: str, said: str) -> None:
    database.execute("CREATE TABLE t (a int)")

    with pytest.raises(MigrationError, match=f"statement 1 of 1 failed.*{said}"):
        await migrate(database.url(), files=[by_hand(Statement(sql, in_transaction=False))])


async def test_search_path_that_a_statement_sets_is_that_of_no_other(database: Any) -> None:
    outside = Statement("CREATE INDEX CONCURRENTLY i ON one (a)", in_transaction=False)
    other = "SET search_path = public"

    await migrate(database.url(namespace="a"), files=[by_hand(other, "CREATE TABLE one (a int)", other, outside)])

    assert database.rows("SELECT indexname::text FROM pg_indexes WHERE schemaname = 'a' AND tablename = 'one'") == [
        ("i",)
    ]
    assert database.tables() == set()


@pytest.mark.parametrize(
    "changed",
    ["text = 'x'", "adopted = '{'", "adopted = '[1]'", "done = 99", "done = -1", "undone = 9", "version = 7"],
)
async def test_notes_that_another_program_changed_are_refused_in_one_line(database: Any, changed: str) -> None:
    files = [by_hand("CREATE TABLE one (a int)")]
    await migrate(database.url(), files=files)
    database.execute(f"UPDATE eventrec_migrations SET {changed}")

    for given in ({"files": files}, {"catalogue": BEFORE}):
        with pytest.raises(MigrationError, match=r"what is noted of migration [17] ") as raised:
            await migrate(database.url(), **given)
        assert "\n" not in str(raised.value)


async def test_session_that_is_ended_leaves_no_lock_and_is_said_in_one_line(database: Any) -> None:
    hung = by_hand("SELECT pg_sleep(50)")
    failed: list[Exception] = []
    done: list[int] = []
    ready = anyio.Event()

    async def first() -> None:
        with pytest.raises((MigrationError, PauseError, TransientError)) as raised:
            await migrate(database.url(application_name="first"), files=[hung])
        failed.append(raised.value)

    async def second() -> None:
        files = [by_hand("SELECT 1")]
        done.append(len(await migrate(database.url(), files=files, tell=lambda _: ready.set())))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        with anyio.fail_after(120):
            sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(50)' AND state = 'active'"
            while database.rows(sleeping) != [(1,)]:  # noqa: ASYNC110 - the server changes it
                await anyio.sleep(0.02)
            tasks.start_soon(second)
            await ready.wait()
        database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'first'")

    assert done == [1]
    assert "terminating connection" in str(failed[0])
    assert "\n" not in str(failed[0])


async def test_records_are_what_was_applied(database: Any) -> None:
    pre, post = await migrate(database.url(), BEFORE)

    found = database.rows("SELECT version, name, phase, checksum, done, adopted FROM eventrec_migrations ORDER BY 1")

    assert found == [
        (each.version, each.name, each.phase, each.checksum, len(each.up), json.dumps([])) for each in (pre, post)
    ]
