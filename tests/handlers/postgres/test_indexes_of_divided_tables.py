"""A migration's indexes of tables that another program has divided: PostgreSQL makes none of these CONCURRENTLY."""

from __future__ import annotations

from typing import Any

import pytest

from eventrec import EventModel
from eventrec import migration_target_from_url as target_from_url
from eventrec.analytics import (
    Catalogue,
    Migration,
    MigrationError,
    MigrationRunner,
    Phase,
    Rollup,
    Statement,
    bucket,
    count,
)
from eventrec.analytics.migration_text import with_text

pytestmark = [pytest.mark.anyio, pytest.mark.handlers]


class Placed(EventModel, table="orders", type="placed"):
    number: int


class Everything(Rollup, name="everything", table="orders"):
    hour = bucket("1 hour")
    orders = count()


CATALOGUE = Catalogue(name="shop", events=[Placed], rollups=[Everything])
BY_TYPE, BY_TIME = '(type, "timestamp" DESC)', '("timestamp")'
ORDERS = "CREATE TABLE orders (id uuid NOT NULL, type text NOT NULL, timestamp timestamptz NOT NULL, payload jsonb)"
DIVIDED = (
    f"{ORDERS} PARTITION BY RANGE (timestamp)",
    "CREATE TABLE january PARTITION OF orders FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
    "CREATE TABLE later PARTITION OF orders DEFAULT PARTITION BY LIST (type)",
    "CREATE TABLE later_placed PARTITION OF later FOR VALUES IN ('placed')",
)


async def migrate(url: str, *files: Migration) -> None:
    async with target_from_url(url) as target:
        catalogue = None if files else CATALOGUE
        await MigrationRunner(target, catalogue=catalogue, files=files or None).run()


def concurrently(sql: str) -> Migration:
    up = (Statement("CREATE TABLE first (a int)"), Statement(sql, in_transaction=False))
    return with_text(Migration(1, "by_hand", Phase.PRE, up, None, "postgresql"))


def indexes(database: Any) -> dict[str, str]:
    """The valid ones, each with its table, and what it is on."""
    found = database.rows(
        "SELECT indexrelid::regclass::text, indrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
        " WHERE indisvalid AND indrelid IN (SELECT relid FROM pg_partition_tree('orders')) ORDER BY 2, 1"
    )
    return {name: f"{table} {definition.partition(' USING btree ')[2]}" for name, table, definition in found}


async def test_each_partition_gets_its_index_and_the_table_takes_these(database: Any) -> None:
    database.execute(*DIVIDED)

    await migrate(database.url())

    tables = ("january", "later", "later_placed", "orders")
    assert sorted(indexes(database).values()) == [f"{table} {on}" for table in tables for on in (BY_TIME, BY_TYPE)]
    named = {name for name, on in indexes(database).items() if on == f"orders {BY_TYPE}"}
    assert named == {"orders_type_timestamp_idx"}
    assert database.rows("SELECT count(*) FROM pg_class WHERE relname LIKE 'eventrec_trial%'") == [(0,)]


@pytest.mark.parametrize("name", ["orders_type_timestamp_idx", '"by ON orders USING"'])
async def test_index_that_is_there_counts_whatever_its_name(database: Any, name: str) -> None:
    database.execute(*DIVIDED, f"CREATE INDEX {name} ON orders (type, timestamp DESC)")
    before = indexes(database)

    await migrate(database.url())

    added = [on for on in indexes(database).items() if on not in before.items()]
    assert {on for _, on in added} == {f"{table} {BY_TIME}" for table in ("january", "later", "later_placed", "orders")}


async def test_indexes_of_partitions_that_are_there_are_taken(database: Any) -> None:
    database.execute(
        *DIVIDED,
        "CREATE INDEX of_january ON january (type, timestamp DESC)",
        "CREATE INDEX of_later ON later (type, timestamp DESC)",
        "CREATE INDEX too_few ON january (type, timestamp DESC) WHERE type = 'placed'",
    )
    before = indexes(database)

    await migrate(database.url())

    added = {name: on for name, on in indexes(database).items() if name not in before and on.endswith(BY_TYPE)}
    assert added == {"orders_type_timestamp_idx": f"orders {BY_TYPE}"}
    parts = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'orders_type_timestamp_idx'::regclass"
    assert sorted(database.rows(parts)) == [("of_january",), ("of_later",)]


async def test_partition_of_another_server_needs_none(database: Any) -> None:
    database.execute(
        *DIVIDED,
        "CREATE EXTENSION file_fdw",
        "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
        "CREATE FOREIGN TABLE away PARTITION OF orders FOR VALUES FROM ('2025-01-01') TO ('2025-02-01') SERVER files"
        " OPTIONS (filename '/dev/null')",
    )

    await migrate(database.url())

    assert indexes(database)["orders_type_timestamp_idx"] == f"orders {BY_TYPE}"


async def test_partition_whose_index_failed_halfway_gets_it_again(database: Any) -> None:
    database.execute(*DIVIDED, *(f"INSERT INTO january VALUES {row}" for row in [_row(1), _row(1)]))
    file = concurrently("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS one ON public . orders (id, type, timestamp)")
    with pytest.raises(MigrationError, match=r"statement 2 of 2 failed.*could not create unique index"):
        await migrate(database.url(), file)
    database.execute("DELETE FROM january WHERE ctid = (SELECT min(ctid) FROM january)")

    await migrate(database.url(), file)

    unique = "SELECT count(*) FROM pg_index WHERE indrelid::regclass::text IN ('january', 'orders') AND indisunique"
    assert database.rows(f"{unique} AND indisvalid") == database.rows(unique) == [(2,)]


async def test_remarks_may_stand_in_the_statement(database: Any) -> None:
    database.execute(*DIVIDED)

    await migrate(
        database.url(), concurrently("CREATE INDEX /* big */ CONCURRENTLY by_id -- of (all)\n ON orders /*!*/ (id)")
    )

    assert indexes(database)["by_id"] == "orders (id)"


async def test_name_that_is_taken_is_refused_and_nothing_is_made(database: Any) -> None:
    database.execute(*DIVIDED, "CREATE INDEX one ON orders (type)")

    with pytest.raises(MigrationError, match='relation "one" already exists'):
        await migrate(database.url(), concurrently("CREATE INDEX CONCURRENTLY one ON orders (id)"))
    assert {on for on in indexes(database).values() if on.endswith("(id)")} == set()


async def test_index_waits_for_writers_a_moment_at_a_time(database: Any) -> None:
    database.execute(*DIVIDED)
    session = database.session()
    database.run(session.execute(f"BEGIN; INSERT INTO orders VALUES {_row(1)}"))

    with pytest.raises(MigrationError, match="others use the table all the time"):
        await migrate(database.url(lock_timeout="300ms"))

    database.run(session.close())
    await migrate(database.url())
    assert indexes(database)["orders_type_timestamp_idx"] == f"orders {BY_TYPE}"


def _row(number: int) -> str:
    return f"('00000000-0000-0000-0000-{number:012d}', 'placed', '2026-01-05', '{{}}')"
