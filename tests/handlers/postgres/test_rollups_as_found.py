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
