"""Retention beside rollups: what was counted stays, what was not is kept, and partitions come and go."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from eventrec import EVENT, GENERATED, TIMESTAMP, TYPE, Batch, Event, Layout, LayoutColumn
from eventrec.analytics import Question, Refresh, Refreshed, Rollup, bucket, count, distinct, group, payload
from eventrec_handlers.postgres import PostgresRollups
from eventrec_handlers.postgres.checkpoints import Namespace
from eventrec_handlers.postgres.expiry import Expiry
from eventrec_handlers.postgres.options import Options
from eventrec_handlers.postgres.rollups.fields import Columns
from eventrec_handlers.postgres.rollups.tables import own_tables, rollup_tables
from eventrec_handlers.postgres.target import Target

pytestmark = pytest.mark.handlers


@pytest.fixture(scope="module", params=["asyncio", pytest.param("trio", marks=pytest.mark.faults)])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """One is enough beside all other tests: what differs is the way to the driver, which has its own."""
    backend: str = request.param
    return backend


NOW = datetime(2026, 3, 30, 12, 0, tzinfo=UTC)


def nanoseconds(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000


PLATFORM = Layout(
    "events",
    (
        LayoutColumn("id", GENERATED, "bigint"),
        LayoutColumn("timestamp", TIMESTAMP, "timestamptz"),
        LayoutColumn("event_type", TYPE, "varchar", length=100),
        LayoutColumn("data", EVENT, "jsonb"),
    ),
    primary_key=("timestamp", "id"),
    partition="day",
    retention="10d",
)
DIVIDED = (
    "CREATE TABLE events (id bigserial, timestamp timestamptz NOT NULL, event_type varchar(100) NOT NULL,"
    " data jsonb NOT NULL, PRIMARY KEY (timestamp, id)) PARTITION BY RANGE (timestamp);"
    " CREATE TABLE events_default PARTITION OF events DEFAULT"
)


class Daily(Rollup, name="daily", table="events", events=["ordered"]):
    day = bucket("day")
    shop = group(payload("shop", kind="text"))
    orders = count()
    customers = distinct(payload("customer", kind="integer"))
    refresh = Refresh(window="3 days", lag="1 hour")


class Monthly(Rollup, name="monthly", table="events"):
    month = bucket("month")
    customers = distinct(payload("customer", kind="integer"))
    refresh = Refresh(window="3 days", lag="1 hour")


class Minutely(Rollup, name="minutely", table="events"):
    minute = bucket("1 minute")
    happened = count()
    refresh = Refresh(window="3 days", lag=0)


DIVIDED_PLANS = (Daily.rollup_plan, Monthly.rollup_plan)


ADOPTED = (
    "CREATE TABLE events (id bigserial PRIMARY KEY, timestamp timestamptz NOT NULL, event_type varchar(100) NOT NULL,"
    " data jsonb NOT NULL)"
)
FILLED = (
    "INSERT INTO events (timestamp, event_type, data) SELECT '2026-03-30 11:59+00'::timestamptz"
    " - n * interval '1 hour', 'ordered', jsonb_build_object("
    "'type', 'ordered', 'shop', chr(97 + n % 3), 'customer', n % 7)"
    " FROM generate_series(0, 40 * 24 - 1) AS n"
)


@pytest.fixture
async def divided(database: Any) -> AsyncIterator[PostgresRollups]:
    """Rollups of a table with partitions and a retention of ten days, and 40 days of events in it."""
    database.execute(
        DIVIDED,
        FILLED,
    )
    async with PostgresRollups(Target(database.url()), Options(), layouts={"events": PLATFORM}) as store:
        yield store


def late(database: Any, moment: str, customer: int = 99) -> None:
    database.execute(
        "INSERT INTO events (timestamp, event_type, data)"
        f" VALUES ('{moment}', 'ordered', '{{\"shop\": \"a\", \"customer\": {customer}}}')"
    )


async def test_what_was_rolled_up_stays_when_its_events_are_dropped_and_late_ones_arrive_for_their_days(
    divided: PostgresRollups, database: Any
) -> None:
    now = nanoseconds(NOW)
    before = await divided.answer(Question(Daily))
    assert len(before.rows) == 41 * 3

    await divided.refresh([Daily.rollup_plan], now=now)
    after = await divided.answer(Question(Daily))

    ((oldest, partitions),) = database.rows(
        "SELECT min(timestamp), (SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass) FROM events"
    )
    assert oldest >= datetime(2026, 3, 20, tzinfo=UTC)
    assert partitions == 11 + 7 + 1
    assert after == before

    late(database, "2026-03-01 10:00+00")
    late(database, "2026-03-10 10:00+00")
    late(database, "2026-03-25 10:00+00")
    done = await divided.refresh([Daily.rollup_plan], now=now)
    last_ = await divided.answer(Question(Daily))

    assert done.late == 2
    march_25 = nanoseconds(datetime(2026, 3, 25, tzinfo=UTC))
    assert [row for row in last_.rows if row[0] != march_25] == [row for row in before.rows if row[0] != march_25]
    assert {row[1]: row[2:] for row in last_.rows if row[0] == march_25} == {"a": (9, 8), "b": (8, 7), "c": (8, 7)}
    assert "2 rows arrived for buckets whose events are no longer stored" in last_.remarks[0]
    assert database.rows("SELECT count(*) FROM events WHERE timestamp < '2026-03-20 00:00+00'") == [(0,)]


async def test_no_event_is_dropped_before_every_rollup_has_counted_it(divided: PostgresRollups, database: Any) -> None:
    now, here = nanoseconds(NOW), Namespace("public", 63, 10_000)
    columns = Columns.of(PLATFORM)
    database.execute(*own_tables(here), *rollup_tables(Daily.rollup_plan, columns, here))

    done = await divided.refresh([], now=now)

    assert database.rows("SELECT count(*) FROM events") == [(40 * 24,)]
    assert any("rollup 'daily' has not counted its events yet" in remark for remark in done.remarks)
    await divided.refresh([Daily.rollup_plan], now=now)
    assert database.rows("SELECT min(timestamp) >= '2026-03-20 00:00+00' FROM events") == [(True,)]


@pytest.fixture
async def adopted(database: Any) -> AsyncIterator[PostgresRollups]:
    """The same, of a table that was there before the layout: it has no partitions, and another index."""
    database.execute(ADOPTED, FILLED)
    async with PostgresRollups(Target(database.url()), Options(), layouts={"events": PLATFORM}) as store:
        yield store


async def test_old_events_of_an_adopted_table_go_once_they_are_counted(adopted: PostgresRollups, database: Any) -> None:
    now, here = nanoseconds(NOW), Namespace("public", 63, 10_000)
    database.execute(*own_tables(here), *rollup_tables(Daily.rollup_plan, Columns.of(PLATFORM), here))

    waiting = await adopted.refresh([], now=now)
    assert database.rows("SELECT count(*) FROM events") == [(40 * 24,)]
    assert waiting.remarks == ("table 'events': rollup 'daily' has not counted its events yet: refresh it",)
    done = await adopted.refresh([Daily.rollup_plan], now=now)
    before = await adopted.answer(Question(Daily))
    late(database, "2026-03-01 10:00+00")
    again = await adopted.refresh([Daily.rollup_plan], now=now)

    assert done.remarks == again.remarks == ()
    assert database.rows("SELECT count(*), min(timestamp) FROM events") == [
        (10 * 24, datetime(2026, 3, 20, 12, 59, tzinfo=UTC))
    ]
    assert (again.late, (await adopted.answer(Question(Daily))).rows) == (1, before.rows)


async def test_what_arrives_beside_the_floor_is_kept_until_it_is_counted(
    adopted: PostgresRollups, database: Any
) -> None:
    now, minute = nanoseconds(NOW), 60_000_000_000
    await adopted.refresh([Minutely.rollup_plan], now=now + 7 * minute)
    at = datetime(2026, 3, 20, 12, 10, tzinfo=UTC)
    late(database, at.isoformat())  # the mark of its quarter of an hour begins before what is kept for ten days

    waiting = await adopted.refresh([], now=now + 12 * minute)
    assert waiting.remarks == ("table 'events': rollup 'minutely' has not counted its events yet: refresh it",)
    done = await adopted.refresh([Minutely.rollup_plan], now=now + 12 * minute)

    assert done.late == 0
    assert (nanoseconds(at), 1) in (await adopted.answer(Question(Minutely))).rows


async def test_a_row_that_comes_too_late_is_counted_once_however_short_the_buckets_are(
    adopted: PostgresRollups, database: Any
) -> None:
    await adopted.refresh([Minutely.rollup_plan], now=nanoseconds(NOW))
    late(database, "2026-03-01 10:00+00")
    late(database, "2026-03-01 10:14:59+00")

    done = await adopted.refresh([Minutely.rollup_plan], now=nanoseconds(NOW))

    assert done.late == 2
    assert (await adopted.answer(Question(Minutely))).remarks[0].startswith("2 rows arrived for buckets")


@pytest.mark.parametrize("partition", ["day", None])
@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (
            [ADOPTED.replace("events", "stored"), "CREATE VIEW events AS SELECT * FROM stored"],
            "it is a view, or a table of another server",
        ),
        (
            [ADOPTED, "CREATE TABLE notes (about bigint REFERENCES events ON DELETE CASCADE)"],
            "rows of 'notes' refer to them, and would be changed or deleted too",
        ),
        (
            [
                ADOPTED,
                FILLED,
                "CREATE TABLE notes AS SELECT id AS about FROM events",
                "ALTER TABLE notes ADD FOREIGN KEY (about) REFERENCES events",
            ],
            "violates",
        ),
        ([ADOPTED.replace("timestamptz", "timestamp"), FILLED], "is timestamp without time zone, not"),
        (
            [
                ADOPTED,
                FILLED,
                "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
                "CREATE TRIGGER keep BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION keep()",
            ],
            "the server deletes none of its old rows: see its triggers and policies",
        ),
    ],
    ids=["view", "cascade", "reference", "another-type", "trigger"],
)
async def test_where_old_events_cannot_be_removed_without_harm_they_stay_and_that_is_said(
    database: Any, statements: list[str], said: str, partition: Any
) -> None:
    database.execute(*statements)
    kept = replace(PLATFORM, partition=partition)
    before = database.rows("SELECT count(*) FROM events")

    async with PostgresRollups(Target(database.url()), Options(), layouts={"events": kept}) as store:
        done = await store.refresh([], now=nanoseconds(NOW))
        again = await store.refresh([], now=nanoseconds(NOW))

    assert database.rows("SELECT count(*) FROM events") == before
    (remark,) = done.remarks
    assert remark.startswith("table 'events': ")
    assert said in remark
    assert again.remarks == done.remarks


async def test_a_table_that_is_not_there_has_nothing_old(database: Any) -> None:
    layouts = {"events": PLATFORM, "others": replace(PLATFORM, table="others", partition=None)}

    async with PostgresRollups(Target(database.url()), Options(), layouts=layouts) as store:
        assert await store.refresh([], now=nanoseconds(NOW)) == Refreshed()


async def test_a_question_for_fewer_groups_is_refused_where_it_cannot_be_answered(divided: PostgresRollups) -> None:
    await divided.refresh([Daily.rollup_plan], now=nanoseconds(NOW))
    start = nanoseconds(datetime(2026, 3, 21, tzinfo=UTC))

    with pytest.raises(ValueError, match="before 2026-03-20 00:00 UTC the events are no longer stored"):
        await divided.answer(Question(Daily, groups=()))
    found = await divided.answer(Question(Daily, start=start, groups=()))

    assert [row[1:] for row in found.rows][:3] == [(24, 7)] * 3


async def test_a_month_that_has_not_ended_keeps_its_events(divided: PostgresRollups, database: Any) -> None:
    done = await divided.refresh(DIVIDED_PLANS, now=nanoseconds(NOW))

    ((oldest,),) = database.rows("SELECT min(timestamp) FROM events")
    assert oldest.date() == date(2026, 3, 1)
    assert any("a bucket of rollup 'monthly' has not ended" in remark for remark in done.remarks)
    late(database, "2026-03-31 10:00+00")
    await divided.refresh(DIVIDED_PLANS, now=nanoseconds(NOW + timedelta(days=3)))

    ((oldest,),) = database.rows("SELECT min(timestamp) FROM events")
    assert oldest.date() == date(2026, 3, 23)
    assert [row[1] for row in (await divided.answer(Question(Monthly))).rows] == [7, 8]


async def test_a_ttl_deletes_what_was_counted_and_no_more(
    opened: Any, database: Any, event: Callable[..., Event], batch: Callable[..., Batch]
) -> None:
    class Hourly(Rollup, name="hourly", table="events", events=["happening"]):
        hour = bucket("1 hour")
        happened = count()
        refresh = Refresh(window="3 days", lag=0)

    handler = await opened(database.url(), ttl=7_200)
    clock = itertools.count(step=1_000)
    handler._expiry = Expiry(7_200, clock=lambda: float(next(clock)))  # always due
    now = time.time_ns()
    hour = 3_600 * 1_000_000_000
    store = handler.rollups()
    await handler.handle(batch(event("first", at=now)))
    await store.refresh([Hourly.rollup_plan])

    await handler.handle(batch(event("old", at=now - 5 * hour), event("old", at=now - 6 * hour), start=1))
    assert database.rows("SELECT count(*) FROM events") == [(3,)]  # nothing has counted them
    await store.refresh([Hourly.rollup_plan])
    before = (await store.answer(Question(Hourly))).rows
    await handler.handle(batch(event("young", at=now), start=3))
    assert database.rows("SELECT count(*) FROM events") == [(2,)]
    await handler.handle(batch(event("late", at=now - 5 * hour), start=4))
    done = await store.refresh([Hourly.rollup_plan])
    after = (await store.answer(Question(Hourly))).rows
    await store.close()

    assert done.late == 1
    assert after[:2] == before[:2]
    assert [happened for _, happened in after] == [1, 1, 2]
