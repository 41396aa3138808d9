"""Rollups on PostgreSQL beside other programs: tables that are renamed, dropped or updated, and triggers that go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from eventrec import PauseError
from eventrec.analytics import Question, Refresh, Rollup, bucket, count, group, payload
from eventrec_handlers.postgres import PostgresHandler, PostgresRollups
from eventrec_handlers.postgres.checkpoints import Namespace
from eventrec_handlers.postgres.rollups.retention import first_needed

pytestmark = pytest.mark.handlers


@pytest.fixture(scope="module", params=["asyncio", pytest.param("trio", marks=pytest.mark.faults)])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """One is enough beside all other tests: what differs is the way to the driver, which has its own."""
    backend: str = request.param
    return backend


TABLE = (
    "CREATE TABLE events (id uuid, type text NOT NULL, timestamp timestamptz NOT NULL, payload jsonb, context jsonb)"
)


class Daily(Rollup, name="daily", table="events"):
    day = bucket("day")
    shop = group(payload("shop", kind="text"))
    n = count()
    refresh = Refresh(window="3 days", lag=0)


class Monthly(Rollup, name="monthly", table="events"):
    month = bucket("month")
    n = count()
    refresh = Refresh(window="3 days", lag=0)


PLANS = (Daily.rollup_plan, Monthly.rollup_plan)


def inserted(shop: str, number: int, *, table: str = "events", day: str = "2026-01-05") -> str:
    """A statement that stores so many events, one a day, back from `day` on."""
    return (
        f"INSERT INTO {table} (type, timestamp, payload) SELECT 'ordered', '{day} 12:00+00'::timestamptz"
        f" - n * interval '1 day', jsonb_build_object('shop', '{shop}') FROM generate_series(0, {number - 1}) AS n"
    )


@pytest.fixture
async def rollups(database: Any) -> AsyncIterator[PostgresRollups]:
    """Rollups of twenty events of the shop `a`, refreshed."""
    database.execute(TABLE, inserted("a", 20))
    async with PostgresHandler(database.url()).rollups() as store:
        await store.refresh(PLANS)
        yield store


async def counted(store: PostgresRollups, rollup: type[Rollup] = Daily) -> dict[Any, int]:
    """How many events are counted, by shop where the rollup has shops."""
    found: dict[Any, int] = {}
    answer = await store.answer(Question(rollup))
    for _, *shop, n in answer.rows:
        assert isinstance(n, int)
        found[*shop,] = found.get((*shop,), 0) + n
    return found


EARLIER_FUNCTION = """
CREATE OR REPLACE FUNCTION eventrec_mark() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $mark$BEGIN EXECUTE format('INSERT INTO %1$I.eventrec_dirty
(table_name, since, rows) SELECT %2$L, date_bin(''15 minutes'', %3$I, ''2000-01-01 00:00:00+00''), count(*) FROM '
|| CASE TG_OP WHEN 'UPDATE' THEN '(SELECT %3$I FROM added UNION ALL SELECT %3$I FROM gone) AS changed' ELSE 'added' END
|| ' WHERE %3$I >= ''0003-01-01 00:00:00+00'' AND %3$I < ''9997-01-01 00:00:00+00'' GROUP BY 2',
TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[0]); RETURN NULL; END$mark$
"""
"""What the triggers call, as 0.2 made it."""


LOST = {
    "the table is renamed and made again": (
        ["ALTER TABLE events RENAME TO events_before", TABLE],
        {("b",): 20},
    ),
    "the table is dropped and made again": (["DROP TABLE events", TABLE], {("b",): 20}),
    "a trigger is dropped": (["DROP TRIGGER eventrec_mark ON events"], {("a",): 20, ("b",): 20}),
    "the function is dropped": (["DROP FUNCTION eventrec_mark CASCADE"], {("a",): 20, ("b",): 20}),
    "triggers are switched off": (["ALTER TABLE events DISABLE TRIGGER USER"], {("a",): 20, ("b",): 20}),
}


@pytest.mark.parametrize(("happened", "expected"), LOST.values(), ids=LOST)
async def test_events_are_counted_whatever_becomes_of_what_marks_them(
    rollups: PostgresRollups, database: Any, happened: list[str], expected: dict[Any, int]
) -> None:
    database.execute(*happened, inserted("b", 20))

    at_once = await counted(rollups)
    await rollups.refresh(PLANS)
    later, by_month = await counted(rollups), await counted(rollups, Monthly)
    database.execute(inserted("c", 3))
    marked = await counted(rollups)
    again = await rollups.refresh(PLANS)

    assert at_once == later == expected
    assert by_month == {(): sum(expected.values())}
    assert marked == expected | {("c",): 3}
    assert again.buckets == 3 + 1


OTHERS = {
    "moved": (["CREATE SCHEMA archive", "ALTER TABLE events SET SCHEMA archive"], "archive.events"),
    "moved to where the owner of the rollups may not look": (
        [
            "CREATE ROLE {0}; GRANT ALL ON SCHEMA public TO {0}; ALTER FUNCTION eventrec_mark OWNER TO {0}",
            "CREATE SCHEMA archive; CREATE TABLE archive.eventrec_dirty ()",
            "ALTER TABLE events SET SCHEMA archive",
        ],
        "archive.events",
    ),
    "moved to where others keep rollups": (
        [
            "CREATE ROLE {0}; GRANT ALL ON SCHEMA public TO {0}; ALTER FUNCTION eventrec_mark OWNER TO {0}",
            "CREATE SCHEMA archive; GRANT USAGE ON SCHEMA archive TO {0}; CREATE TABLE archive.eventrec_dirty ()",
            "ALTER TABLE events SET SCHEMA archive",
        ],
        "archive.events",
    ),
    "renamed, with another column": (
        ["ALTER TABLE events RENAME TO old", "ALTER TABLE old RENAME COLUMN timestamp TO at"],
        "old",
    ),
    "without the column": (["ALTER TABLE events DROP COLUMN timestamp"], "events"),
    "with a text in place of a time": (["ALTER TABLE events ALTER COLUMN timestamp TYPE text"], "events"),
    "with numbers in place of a time": (
        ["ALTER TABLE events ALTER COLUMN timestamp TYPE bigint USING 0"],
        "events",
    ),
}
"""What becomes of a table of events, and its name then; {0} is a role that is new."""


@pytest.mark.parametrize(("happened", "table"), OTHERS.values(), ids=OTHERS)
async def test_a_table_takes_what_others_write_whatever_has_become_of_it(
    rollups: PostgresRollups, database: Any, happened: list[str], table: str
) -> None:
    role = f"owner_of_{database.name}"
    database.execute(*(statement.format(role) for statement in happened))
    try:
        database.execute(f"INSERT INTO {table} SELECT * FROM {table} LIMIT 1", f"UPDATE {table} SET payload = '{{}}'")

        assert database.rows(f"SELECT count(*) FROM {table}") == [(21,)]
    finally:
        if any("{0}" in statement for statement in happened):
            database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def test_what_arrives_while_the_time_has_another_name_is_counted_once_it_is_back(
    rollups: PostgresRollups, database: Any
) -> None:
    database.execute(
        "ALTER TABLE events RENAME COLUMN timestamp TO at",
        inserted("b", 20).replace("timestamp,", "at,"),
        "ALTER TABLE events RENAME COLUMN at TO timestamp",
    )

    async def needed(connection: Any, namespace: Namespace) -> Any:
        return await first_needed(connection, namespace, "events", now=await connection.fetchval("SELECT now()"))

    at_once, kept_from = await counted(rollups), await rollups._run(needed)
    await rollups.refresh(PLANS)
    await rollups.refresh(PLANS)

    assert at_once == {("a",): 20, ("b",): 20}
    assert kept_from[0].year < 10
    assert database.rows("SELECT shop, sum(n)::int FROM daily GROUP BY 1 ORDER BY 1") == [("a", 20), ("b", 20)]
    assert database.rows("SELECT count(*) FROM eventrec_dirty") == [(0,)]


async def test_marks_of_a_table_that_no_rollup_is_about_are_swept(rollups: PostgresRollups, database: Any) -> None:
    database.execute("ALTER TABLE events RENAME TO old", TABLE, inserted("b", 3, table="old"))

    await rollups.refresh(PLANS)

    assert database.rows("SELECT count(*) FROM eventrec_dirty") == [(0,)]


async def test_triggers_for_another_column_than_that_of_the_time_do_not_count(
    rollups: PostgresRollups, database: Any
) -> None:
    database.execute(
        "ALTER TABLE events ADD COLUMN other timestamptz",
        "CREATE OR REPLACE TRIGGER eventrec_mark AFTER INSERT ON events REFERENCING NEW TABLE AS added"
        " FOR EACH STATEMENT EXECUTE FUNCTION eventrec_mark('other')",
        inserted("b", 20),
    )

    at_once = await counted(rollups)
    await rollups.refresh(PLANS)
    database.execute(inserted("c", 3))
    later = await counted(rollups)

    assert at_once == {("a",): 20, ("b",): 20}
    assert later == at_once | {("c",): 3}


async def test_the_function_of_an_earlier_version_goes_on_marking_and_is_replaced(
    rollups: PostgresRollups, database: Any
) -> None:
    source = "SELECT prosrc FROM pg_proc WHERE proname = 'eventrec_mark'"
    now = database.rows(source)
    database.execute(EARLIER_FUNCTION, inserted("b", 3))
    async with PostgresHandler(database.url(), schema="strict").rollups() as strict:
        await strict.refresh(PLANS)
    by_strict, left = await counted(rollups), database.rows(source)
    refreshed = await rollups.refresh(PLANS)

    assert by_strict == {("a",): 20, ("b",): 3}
    assert left != now
    assert database.rows(source) == now
    assert refreshed.buckets == 0


@pytest.mark.parametrize(
    "table", ["daily", "eventrec_dirty", "eventrec_pending", "eventrec_floors", "eventrec_rollups"]
)
async def test_a_table_that_was_dropped_is_made_again_and_answers_stay_right(
    rollups: PostgresRollups, database: Any, table: str
) -> None:
    database.execute(f"DROP TABLE {table}")

    at_once = await counted(rollups)
    await rollups.refresh(PLANS)
    database.execute(inserted("b", 2))
    later, by_month = await counted(rollups), await counted(rollups, Monthly)

    assert at_once == {("a",): 20}
    assert later == {("a",): 20, ("b",): 2}
    assert by_month == {(): 22}
    assert database.rows("SELECT count(*) FROM daily") == [(20,)]


async def test_a_rollup_whose_table_lacks_a_column_is_answered_from_the_events(
    rollups: PostgresRollups, database: Any
) -> None:
    database.execute("ALTER TABLE daily RENAME COLUMN n TO number")

    found = await counted(rollups)
    with pytest.raises(PauseError, match="without a column 'n'"):
        await rollups.refresh(PLANS)

    assert found == {("a",): 20}


async def test_what_another_program_updates_is_counted_as_it_is_then(rollups: PostgresRollups, database: Any) -> None:
    database.execute(
        "UPDATE events SET payload = '{\"shop\": \"b\"}' WHERE timestamp > '2026-01-01'",
        "UPDATE events SET timestamp = timestamp - interval '40 days' WHERE timestamp < '2025-12-20'",
    )

    at_once = await counted(rollups)
    days = {row[0] for row in (await rollups.answer(Question(Daily))).rows}
    await rollups.refresh(PLANS)
    later = await rollups.answer(Question(Daily))

    assert at_once == {("a",): 15, ("b",): 5}
    assert {row[0] for row in later.rows} == days
    assert len(days) == 20
    assert database.rows("SELECT count(*) FROM eventrec_dirty") == [(0,)]


async def test_no_event_is_removed_while_what_arrives_is_not_noticed(rollups: PostgresRollups, database: Any) -> None:
    database.execute("DROP TRIGGER eventrec_mark ON events", inserted("b", 1, day="2025-01-01"))
    now = "2026-03-01"

    async def needed(connection: Any, namespace: Namespace) -> Any:
        at = await connection.fetchval(f"SELECT '{now}'::timestamptz")
        return await first_needed(connection, namespace, "events", now=at)

    before = await rollups._run(needed)
    await rollups.refresh(PLANS)
    after = await rollups._run(needed)

    assert before[0].year < 10
    assert "what arrives is not noticed" in before[1]
    assert after[0].year == 2026


async def test_a_strict_store_makes_nothing_again_and_says_so(rollups: PostgresRollups, database: Any) -> None:
    database.execute("DROP TRIGGER eventrec_mark ON events", inserted("b", 1))
    async with PostgresHandler(database.url(), schema="strict").rollups() as strict:
        with pytest.raises(PauseError, match=r"rollup 'daily': .*a trigger of 'events' was dropped"):
            await strict.refresh(PLANS)

        assert await counted(strict) == {("a",): 20, ("b",): 1}


async def test_a_claim_from_a_time_that_has_not_come_holds_no_process(rollups: PostgresRollups, database: Any) -> None:
    """The server's clock has been ahead."""
    database.execute("UPDATE eventrec_rollups SET refreshed_at = now() + interval '1 year'")

    claims = [await rollups.claim_due(PLANS), await rollups.claim_due(PLANS)]

    assert [len(claimed) for claimed in claims] == [2, 0]
