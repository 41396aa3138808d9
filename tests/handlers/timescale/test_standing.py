"""What others have made or taken away in a database: told, mended where that loses nothing, and not believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio.to_thread
import pytest

from eventrec import (
    EVENT,
    GENERATED,
    TIMESTAMP,
    TYPE,
    Batch,
    Layout,
    LayoutColumn,
    LayoutCompression,
    PauseError,
    ReceivedEvent,
    handler_from_url,
    migration_target_from_url,
)
from eventrec.analytics import (
    Catalogue,
    MigrationError,
    MigrationRunner,
    Question,
    Refresh,
    Rollup,
    RollupStore,
    bucket,
    count,
    plan_of,
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
    partition="day",
    retention="90d",
    compression=LayoutCompression("7d"),
)
TABLE = (
    "CREATE TABLE visits (id bigserial, timestamp timestamptz NOT NULL DEFAULT now(), arrived_at timestamptz NOT NULL"
    " DEFAULT now(), event_type varchar(100) NOT NULL, data jsonb NOT NULL)"
)
NOW = int(datetime.now(UTC).timestamp()) * 1_000_000_000


class Daily(Rollup, name="visits_daily", table="visits"):
    day = bucket("day")
    visits = count()
    refresh = Refresh(window="3 days", lag="1 hour", every="1 hour")


async def migrate(url: str, layout: Layout = VISITS, rollup: type[Rollup] = Daily) -> list[str]:
    """Migrate; what was told."""
    told: list[str] = []
    async with migration_target_from_url(url) as target:
        await MigrationRunner(
            target, catalogue=Catalogue(name="shop", layouts=[layout], rollups=[rollup]), tell=told.append
        ).run()
    return [said for said in told if "differs" in said]


def rollups_of(url: str, layout: Layout = VISITS) -> RollupStore:
    handler = handler_from_url(url)
    handler.use_layouts({layout.table: layout})
    found = handler.rollups()
    assert found is not None
    return found


async def visits(url: str) -> list[Any]:
    async with rollups_of(url) as store:
        return [row[1] for row in (await store.answer(Question(Daily))).rows]


async def store(url: str, batch: Batch, layout: Layout = VISITS) -> None:
    handler = handler_from_url(url)
    handler.use_layouts({layout.table: layout})
    await handler.open()
    try:
        assert handler.checkpoints is not None
        await handler.checkpoints.resume(batch.log_id, batch.subscription, 0)
        await handler.handle(batch)
    finally:
        await handler.close()


@pytest.fixture
def some(batch: Callable[..., Batch]) -> Batch:
    return batch(*(ReceivedEvent("seen", b"{}", timestamp=NOW - n, table="visits") for n in range(5)))


async def test_the_plain_table_that_a_handler_has_made_becomes_a_hypertable_with_its_rows(
    schema: Any, some: Batch
) -> None:
    await store(schema.url(), some)
    assert await visits(schema.url()) == [5]

    assert await migrate(schema.url()) == []

    assert schema.rows(
        "SELECT num_chunks FROM timescaledb_information.hypertables WHERE hypertable_schema = $1", schema.name
    ) == [(1,)]
    assert schema.rows("SELECT visits FROM visits_daily") == [(5,)]
    assert await visits(schema.url()) == [5]


async def test_a_hypertable_with_other_chunks_and_policies_is_told_and_left(schema: Any, some: Batch) -> None:
    schema.execute(
        TABLE.replace(" arrived_at timestamptz NOT NULL DEFAULT now(),", ""),
        "SELECT create_hypertable('visits', 'timestamp', chunk_time_interval => interval '7 days')",
        "ALTER TABLE visits SET (timescaledb.compress)",
        "SELECT add_retention_policy('visits', interval '30 days')",
        "SELECT add_compression_policy('visits', interval '2 days')",
    )

    told = await migrate(schema.url())
    await store(schema.url(), some)

    start = "table visits differs from what is declared: "
    assert told == [
        f"{start}a new chunk of it has 7 days, 0:00:00, not 1 day",
        f"{start}its policy_retention has drop_after = 2.592e+06 seconds, not 7.776e+06",
        f"{start}its policy_compression has compress_after = 172800 seconds, not 604800",
    ]
    assert schema.rows(
        "SELECT count(*) FROM timescaledb_information.jobs WHERE hypertable_schema = $1", schema.name
    ) == [(3,)]
    assert await visits(schema.url()) == [5]


async def test_a_hypertable_by_another_column_is_told_and_its_rollups_are_refused(schema: Any, some: Batch) -> None:
    schema.execute(TABLE, "SELECT create_hypertable('visits', 'arrived_at')")
    told: list[str] = []

    catalogue = Catalogue(name="shop", layouts=[VISITS], rollups=[Daily])

    async with migration_target_from_url(schema.url()) as target:
        with pytest.raises(MigrationError, match=r"0002 post rollups: statement 1 .* time bucket"):
            await MigrationRunner(target, catalogue=catalogue, tell=told.append).run()
    await store(schema.url(), some)

    assert any("it is divided by its column 'arrived_at', not by 'timestamp'" in said for said in told)
    assert await visits(schema.url()) == [5]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ("SELECT time_bucket('1 day', timestamp) AS day, count(*) AS other FROM visits", "it has no column 'visits'"),
        ("SELECT time_bucket('1 day', at) AS day, 7::bigint AS visits FROM others", "it counts what is in 'others'"),
    ],
)
async def test_another_aggregate_of_our_name_is_told_and_not_believed(
    schema: Any, some: Batch, *, made: str, why: str
) -> None:
    await migrate(schema.url())
    await store(schema.url(), some)
    schema.execute(
        "DROP MATERIALIZED VIEW visits_daily",
        "DELETE FROM eventrec_migrations WHERE version = 2",
        "CREATE TABLE others (at timestamptz NOT NULL)",
        "SELECT create_hypertable('others', 'at')",
        f"CREATE MATERIALIZED VIEW visits_daily WITH (timescaledb.continuous) AS {made} GROUP BY 1 WITH NO DATA",
    )

    told = await migrate(schema.url())

    assert len(told) == 1
    assert told[0].startswith(f"rollup visits_daily differs from what is declared: {why}")
    assert await visits(schema.url()) == [5]
    async with rollups_of(schema.url()) as store_:
        with pytest.raises(PauseError, match=f"the continuous aggregate of this name is another: {why}"):
            await store_.refresh([plan_of(Daily)])


class Paying(Rollup, name="paying_daily", table="visits", events=["paid", "bought"]):
    day = bucket("day")
    visits = count()
    refresh = Refresh(window="3 days", lag="1 hour", every="1 hour")


async def count_of(url: str, rollup: type[Rollup]) -> int:
    async with rollups_of(url) as store:
        rows: tuple[Any, ...] = (await store.answer(Question(rollup))).rows
        return sum(row[1] for row in rows)


def aggregate(where: str, day: str = "timestamp", name: str = "paying_daily") -> str:
    return (
        f"CREATE MATERIALIZED VIEW {name} WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS"
        f" SELECT time_bucket('1 day', {day}) AS day, count(*) AS visits FROM visits {where} GROUP BY 1 WITH NO DATA"
    )


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("", "it counts the events with true, not those with ("),
        ("WHERE event_type = 'paid'", "it counts the events with ((event_type)::text = 'paid'::text), not those with"),
        ("WHERE event_type IN ('paid', 'bought', 'left')", "it counts the events with"),
        ("WHERE event_type IN ('paid', 'bought') AND id > 1", "it counts the events with"),
        ("WHERE 1 / (id - 1) > 0", "it counts the events with"),
    ],
    ids=["none", "fewer types", "more types", "another column", "one that fails"],
)
async def test_an_aggregate_with_another_filter_is_told_and_not_believed(
    schema: Any, batch: Callable[..., Batch], where: str, said: str
) -> None:
    await migrate(schema.url())
    types = ["paid", "bought", "left", "paid"]
    await store(
        schema.url(),
        batch(*(ReceivedEvent(kind, b"{}", timestamp=NOW - n, table="visits") for n, kind in enumerate(types))),
    )
    schema.execute("DELETE FROM eventrec_migrations WHERE version = 2", aggregate(where))

    told = await migrate(schema.url(), rollup=Paying)

    assert any(one.startswith(f"rollup paying_daily differs from what is declared: {said}") for one in told)
    assert await count_of(schema.url(), Paying) == 3
    async with rollups_of(schema.url()) as store_:
        with pytest.raises(PauseError, match="the continuous aggregate of this name is another: it counts the events"):
            await store_.refresh([plan_of(Paying)])


async def test_an_aggregate_that_leaves_out_groups_is_told_and_not_believed(schema: Any, some: Batch) -> None:
    await migrate(schema.url())
    await store(schema.url(), some)
    schema.execute(
        "DROP MATERIALIZED VIEW visits_daily",
        "DELETE FROM eventrec_migrations WHERE version = 2",
        aggregate("", name="visits_daily").replace("GROUP BY 1", "GROUP BY 1 HAVING count(*) > 100"),
    )

    told = await migrate(schema.url())

    assert ["it leaves out groups: " in one for one in told] == [True]
    assert await visits(schema.url()) == [5]


async def test_an_aggregate_that_says_the_same_in_other_words_is_used(schema: Any, some: Batch) -> None:
    await migrate(schema.url())
    await store(schema.url(), some)
    schema.execute(
        "DELETE FROM eventrec_migrations WHERE version = 2",
        aggregate("WHERE event_type IN ('bought', 'paid')"),
        "INSERT INTO visits (timestamp, event_type, data) VALUES (now() - interval '5 days', 'paid', '{}')",
    )

    told = await migrate(schema.url(), rollup=Paying)
    async with rollups_of(schema.url()) as store_:
        await store_.refresh([plan_of(Paying)])
    schema.execute("DELETE FROM visits")

    assert told == []
    assert schema.rows("SELECT visits FROM paying_daily") == [(1,)]


async def test_an_aggregate_of_ours_differs_in_nothing(schema: Any) -> None:
    await migrate(schema.url(), rollup=Paying)
    schema.execute("DELETE FROM eventrec_migrations WHERE version = 2")

    assert await migrate(schema.url(), rollup=Paying) == []
    assert schema.rows("SELECT count(*) FROM pg_class WHERE relname LIKE 'eventrec_%' AND relkind = 'v'") == [(0,)]


async def test_rollups_with_long_names_alike_at_their_beginning_have_indexes_of_their_own(schema: Any) -> None:
    class One(Rollup, name="visits_" + "daily_" * 7 + "one", table="visits"):
        day = bucket("day")
        visits = count()

    class Two(Rollup, name="visits_" + "daily_" * 7 + "two", table="visits"):
        day = bucket("day")
        visits = count()

    async with migration_target_from_url(schema.url()) as target:
        await MigrationRunner(target, catalogue=Catalogue(name="shop", layouts=[VISITS], rollups=[One, Two])).run()

    assert schema.rows(
        "SELECT count(*) FROM timescaledb_information.continuous_aggregates c JOIN pg_indexes i"
        " ON i.tablename = c.materialization_hypertable_name WHERE c.view_schema = $1"
        " AND i.indexname LIKE '%by_bucket'",
        schema.name,
    ) == [(2,)]


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        (
            "CREATE TABLE visits_daily (day timestamptz, visits bigint)",
            "a table has its name: .* give the URL as postgresql:",
        ),
        ("CREATE VIEW visits_daily AS SELECT now() AS day, 1 AS visits", "a view has its name: rename it"),
    ],
)
@pytest.mark.parametrize("is_chunked", [True, False])
async def test_what_has_the_name_of_a_rollup_and_is_not_its_aggregate_holds_it(
    schema: Any, some: Batch, theirs: str, why: str, *, is_chunked: bool
) -> None:
    layout = VISITS if is_chunked else replace(VISITS, partition=None, retention=None, compression=None)
    async with migration_target_from_url(schema.url()) as target:
        await MigrationRunner(target, catalogue=Catalogue(name="shop", layouts=[layout])).run()
    await store(schema.url(), some, layout)
    schema.execute(theirs)

    async with rollups_of(schema.url(), layout) as found:
        with pytest.raises(PauseError, match=why):
            await found.refresh([plan_of(Daily)])
    assert await visits(schema.url()) == [5]


async def test_an_aggregate_that_was_dropped_is_made_again_by_a_refresh(schema: Any, some: Batch) -> None:
    await migrate(schema.url())
    await store(schema.url(), some)
    schema.execute("DROP MATERIALIZED VIEW visits_daily")

    assert await visits(schema.url()) == [5]
    async with rollups_of(f"{schema.url()}&schema=strict") as strict:
        with pytest.raises(PauseError, match="if it was dropped, refresh once with schema=evolve"):
            await strict.refresh([plan_of(Daily)])
    async with rollups_of(schema.url()) as evolving:
        await evolving.refresh([plan_of(Daily)])

    assert schema.rows("SELECT visits FROM visits_daily") == [(5,)]


async def test_rollups_of_a_table_without_partitions_are_answered_from_its_events(schema: Any, some: Batch) -> None:
    plain = replace(VISITS, partition=None, retention=None, compression=None)
    await migrate(schema.url(), plain)
    await store(schema.url(), some, plain)

    async with rollups_of(schema.url(), plain) as found:
        done = await found.refresh([plan_of(Daily)])

    assert done.buckets == 0
    assert await visits(schema.url()) == [5]


# -- a PostgreSQL without the extension, with an old one, and with one that is elsewhere


@pytest.fixture
def without(postgres_server: Any, postgres_database: str) -> str:
    """The timescale URL of a plain PostgreSQL."""
    url: str = postgres_server.url(postgres_database)
    return url.replace("postgresql:", "timescale:", 1)


async def test_without_the_extension_events_are_stored_and_answered_and_the_rest_says_why(
    without: str, some: Batch
) -> None:
    with pytest.raises(MigrationError, match='extension "timescaledb" is not available'):
        await migrate(without)
    await store(without, some)

    assert await visits(without) == [5]
    async with rollups_of(without) as found:
        with pytest.raises(PauseError, match="the extension timescaledb is not there: migrate first, or CREATE EXTENS"):
            await found.refresh([plan_of(Daily)])


@pytest.fixture
def psql(postgres_server: Any, postgres_database: str) -> Callable[[str], Any]:
    """Executes SQL there, as another program."""
    return partial(anyio.to_thread.run_sync, partial(postgres_server.execute, database=postgres_database))


def extension(version: str, schema: str) -> str:
    return (
        "SET allow_system_table_mods = on; INSERT INTO pg_extension"
        f" SELECT 90001, 'timescaledb', 10, oid, false, '{version}', NULL, NULL"
        f" FROM pg_namespace WHERE nspname = '{schema}'"
    )


async def test_an_old_version_is_refused_by_its_number(without: str, psql: Callable[[str], Any], some: Batch) -> None:
    await store(without, some)
    await psql(extension("1.7.4", "public"))

    with pytest.raises(MigrationError, match=r"TimescaleDB 1\.7\.4 is there, and 2\.15 is needed"):
        await migrate(without)
    async with rollups_of(without) as found:
        with pytest.raises(PauseError, match=r"TimescaleDB 1\.7\.4 is there"):
            await found.refresh([plan_of(Daily)])


async def test_functions_in_another_schema_are_found(without: str, psql: Callable[[str], Any], some: Batch) -> None:
    await psql(
        'CREATE SCHEMA "Else where"; CREATE TABLE public.called (name text); SET search_path = "Else where";'
        " CREATE FUNCTION create_hypertable(t regclass, c name, chunk_time_interval interval, if_not_exists boolean,"
        " migrate_data boolean, create_default_indexes boolean) RETURNS void LANGUAGE sql"
        " AS $$ INSERT INTO public.called VALUES ('create_hypertable') $$;"
        " CREATE FUNCTION add_retention_policy(t regclass, i interval, if_not_exists boolean) RETURNS void LANGUAGE sql"
        " AS $$ INSERT INTO public.called VALUES ('add_retention_policy') $$;" + extension("2.15.0", "Else where")
    )
    layout = replace(VISITS, compression=None)

    async with migration_target_from_url(without) as target:
        await MigrationRunner(target, catalogue=Catalogue(name="shop", layouts=[layout])).run()
    await store(without, some, layout)

    called = await psql("SELECT name FROM public.called")
    assert called.split() == ["create_hypertable", "add_retention_policy"]
