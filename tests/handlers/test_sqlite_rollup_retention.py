"""Retention beside rollups in a SQLite file: what was counted stays, and what was not is kept."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
import msgspec
import pytest

from eventrec import (
    EVENT,
    GENERATED,
    ID,
    PAYLOAD,
    TIMESTAMP,
    TYPE,
    Batch,
    Layout,
    LayoutColumn,
    PauseError,
    ReceivedEvent,
    default_layout,
)
from eventrec.analytics import Question, Refresh, Rollup, bucket, count, distinct, group, payload, plan_of
from eventrec_handlers.sqlite import SqliteHandler
from eventrec_handlers.sqlite.rollups import SqliteRollups

pytestmark = [pytest.mark.handlers, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

NOW: Final = datetime(2026, 3, 30, 12, 0, tzinfo=UTC)


def nanoseconds(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000


PLATFORM: Final = Layout(
    "events",
    (
        LayoutColumn("id", GENERATED, "bigint"),
        LayoutColumn("timestamp", TIMESTAMP, "timestamptz"),
        LayoutColumn("event_type", TYPE, "varchar", length=100),
        LayoutColumn("data", EVENT, "jsonb"),
    ),
    retention="10d",
)
OURS: Final = replace(default_layout("events"), retention="10d")


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
    minute = bucket("minute")
    n = count()
    refresh = Refresh(window="3 days", lag=0)


PLANS: Final = (plan_of(Daily), plan_of(Monthly))


def ordered(at: datetime, shop: str = "a", customer: int = 99) -> ReceivedEvent:
    return ReceivedEvent(
        "ordered", msgspec.json.encode({"shop": shop, "customer": customer}), timestamp=nanoseconds(at), table="events"
    )


FORTY_DAYS: Final = [ordered(NOW - timedelta(minutes=1, hours=n), "abc"[n % 3], n % 7) for n in range(40 * 24)]


@pytest.fixture(params=[PLATFORM, OURS], ids=["a table with a layout", "a table of ours"])
async def kept(
    request: pytest.FixtureRequest, handler: SqliteHandler, path: Path, batch: Callable[..., Batch]
) -> AsyncIterator[SqliteRollups]:
    """Rollups of a table with a retention of ten days, and 40 days of events in it."""
    layout: Layout = request.param
    if layout is PLATFORM:
        handler.use_layouts({"events": layout})
    await handler.handle(batch(*FORTY_DAYS))
    async with SqliteRollups(path, busy_timeout=5, layouts={"events": layout}) as store:
        yield store


async def late(handler: SqliteHandler, batch: Callable[..., Batch], *moments: datetime, start: int) -> None:
    await handler.handle(batch(*(ordered(at) for at in moments), start=start))


async def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    def read() -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
            return connection.execute(sql).fetchall()

    return await anyio.to_thread.run_sync(read)


async def oldest(path: Path) -> int:
    ((found,),) = await rows(path, "SELECT min(timestamp) FROM events")
    return int(found)


async def test_what_was_rolled_up_stays_when_its_events_are_removed_and_late_ones_arrive_for_their_days(
    anyio_backend: str, kept: SqliteRollups, path: Path, handler: SqliteHandler, batch: Callable[..., Batch]
) -> None:
    now = nanoseconds(NOW)
    before = await kept.answer(Question(Daily))
    assert len(before.rows) == 41 * 3

    await kept.refresh([plan_of(Daily)], now=now)
    after = await kept.answer(Question(Daily))

    assert await oldest(path) == nanoseconds(NOW - timedelta(days=10) + timedelta(minutes=59))
    assert after == before

    days = [datetime(2026, 3, day, 10, 0, tzinfo=UTC) for day in (1, 10, 25)]
    await late(handler, batch, *days, start=len(FORTY_DAYS))
    at_once = await kept.answer(Question(Daily))
    done = await kept.refresh([plan_of(Daily)], now=now)
    again = await kept.refresh([plan_of(Daily)], now=now)
    last = await kept.answer(Question(Daily))

    march_25 = nanoseconds(datetime(2026, 3, 25, tzinfo=UTC))
    assert (done.late, again.late) == (2, 0)
    assert at_once.rows == last.rows
    assert [row for row in last.rows if row[0] != march_25] == [row for row in before.rows if row[0] != march_25]
    assert {row[1]: row[2:] for row in last.rows if row[0] == march_25} == {"a": (9, 8), "b": (8, 7), "c": (8, 7)}
    assert "2 rows arrived for buckets whose events are no longer stored" in last.remarks[0]
    assert await oldest(path) > nanoseconds(NOW - timedelta(days=10))


async def test_no_event_is_removed_before_every_rollup_has_counted_it(
    anyio_backend: str, kept: SqliteRollups, path: Path, handler: SqliteHandler, batch: Callable[..., Batch]
) -> None:
    now = nanoseconds(NOW)
    async with SqliteRollups(path, busy_timeout=5) as earlier:
        await earlier.refresh([plan_of(Daily)], now=nanoseconds(NOW - timedelta(days=30)))

    done = await kept.refresh([], now=now)

    assert await rows(path, "SELECT count(*) FROM events WHERE timestamp >= 1772236800000000000") == [(30 * 24 + 12,)]
    assert any("rollup 'daily' has not counted its events yet" in remark for remark in done.remarks)
    before = await kept.answer(Question(Daily))
    await kept.refresh([plan_of(Daily)], now=now)
    assert await oldest(path) > nanoseconds(NOW - timedelta(days=10))
    assert await kept.answer(Question(Daily)) == before

    # What is marked is not removed either, though it is old by now.
    march_21 = datetime(2026, 3, 21, 10, 0, tzinfo=UTC)
    await late(handler, batch, march_21, start=len(FORTY_DAYS))
    await kept.refresh([], now=nanoseconds(NOW + timedelta(days=5)))
    assert await oldest(path) == nanoseconds(datetime(2026, 3, 21, 0, 59, tzinfo=UTC))


async def test_without_a_rollup_in_a_table_retention_removes_by_time_alone(
    anyio_backend: str, kept: SqliteRollups, path: Path
) -> None:
    done = await kept.refresh([], now=nanoseconds(NOW))

    assert done.remarks == ()
    assert await rows(path, "SELECT count(*) FROM events") == [(10 * 24,)]
    assert await rows(path, "SELECT count(*) FROM sqlite_master WHERE name = 'eventrec_rollups'") == [(0,)]


async def test_a_question_for_fewer_groups_is_refused_where_it_cannot_be_answered(
    anyio_backend: str, kept: SqliteRollups
) -> None:
    await kept.refresh([plan_of(Daily)], now=nanoseconds(NOW))
    start = nanoseconds(datetime(2026, 3, 21, tzinfo=UTC))

    with pytest.raises(ValueError, match="before 2026-03-20 12:00 UTC the events are no longer stored"):
        await kept.answer(Question(Daily, groups=()))
    found = await kept.answer(Question(Daily, start=start, groups=()))

    assert [row[1:] for row in found.rows][:3] == [(24, 7)] * 3


async def test_a_month_that_has_not_ended_keeps_its_events(anyio_backend: str, kept: SqliteRollups, path: Path) -> None:
    done = await kept.refresh(PLANS, now=nanoseconds(NOW))

    assert await oldest(path) == nanoseconds(datetime(2026, 3, 1, 0, 59, tzinfo=UTC))
    assert done.remarks == ("table 'events': a bucket of rollup 'monthly' has not ended",)
    await kept.refresh(PLANS, now=nanoseconds(NOW + timedelta(days=3)))

    assert await oldest(path) == nanoseconds(datetime(2026, 3, 23, 12, 59, tzinfo=UTC))
    assert [row[1] for row in (await kept.answer(Question(Monthly))).rows] == [7, 7]


async def test_a_floor_in_the_middle_of_a_mark_removes_nothing_that_the_mark_is_about(
    anyio_backend: str, kept: SqliteRollups, path: Path, handler: SqliteHandler, batch: Callable[..., Batch]
) -> None:
    plan, now = plan_of(Minutely), NOW + timedelta(minutes=7)
    await kept.refresh([plan], now=nanoseconds(now))
    cut = now - timedelta(days=10)
    marked = cut + timedelta(minutes=3)
    await late(handler, batch, marked, start=len(FORTY_DAYS))

    await kept.refresh([], now=nanoseconds(now + timedelta(hours=1)))

    assert await oldest(path) == nanoseconds(marked)
    done = await kept.refresh([plan], now=nanoseconds(now + timedelta(hours=1)))
    assert done.late == 0
    answer = await kept.answer(Question(Minutely))
    assert (nanoseconds(marked), 1) in answer.rows


async def test_what_comes_too_late_is_told_however_near_the_floor_it_is(
    anyio_backend: str, kept: SqliteRollups, path: Path, handler: SqliteHandler, batch: Callable[..., Batch]
) -> None:
    plan, now = plan_of(Minutely), NOW + timedelta(minutes=10)
    await kept.refresh([plan], now=nanoseconds(now))
    before = sum(int(row[1] or 0) for row in (await kept.answer(Question(Minutely))).rows)
    cut = now - timedelta(days=10)
    counted, told = 0, 0

    for number, minutes in enumerate((2, 9, 11, 30)):
        await late(handler, batch, cut - timedelta(minutes=minutes), start=len(FORTY_DAYS) + number)
        done = await kept.refresh([plan], now=nanoseconds(now))
        told += done.late
        counted = sum(int(row[1] or 0) for row in (await kept.answer(Question(Minutely))).rows) - before
        assert counted + told == number + 1, f"{minutes} minutes older than what is kept"

    assert counted == 2, "to the quarter of an hour in which what is kept begins"


async def test_rows_without_numbers_are_neither_refreshed_nor_removed_and_that_is_said(
    anyio_backend: str, handler: SqliteHandler, path: Path
) -> None:
    await rows(
        path,
        "CREATE TABLE events (id TEXT PRIMARY KEY, type TEXT, timestamp INTEGER, payload TEXT) WITHOUT ROWID",
    )
    await rows(path, "INSERT INTO events VALUES ('1', 'ordered', 1, '{}')")
    async with SqliteRollups(path, busy_timeout=5, layouts={"events": OURS}) as store:
        with pytest.raises(PauseError, match="'events': its rows have no numbers, so what arrives there is not"):
            await store.refresh([plan_of(Daily)], now=nanoseconds(NOW))
        done = await store.refresh([], now=nanoseconds(NOW))
        answer = await store.answer(Question(Daily))

    assert done.remarks == ("table 'events': its rows have no numbers, so what is too old is not deleted",)
    assert len(answer.rows) == 1


@pytest.mark.parametrize(
    "happened",
    [
        "UPDATE eventrec_floors SET noted = noted + 1000",
        "DROP TRIGGER eventrec_mark_updated_events",
    ],
    ids=["rows with other numbers", "a trigger dropped"],
)
async def test_what_was_rolled_up_is_answered_also_while_all_that_is_stored_is_looked_at_again(
    anyio_backend: str, kept: SqliteRollups, path: Path, happened: str
) -> None:
    await kept.refresh([plan_of(Daily)], now=nanoseconds(NOW))
    floor = nanoseconds(NOW - timedelta(days=10))
    before = [row for row in (await kept.answer(Question(Daily))).rows if int(row[0] or 0) < floor]

    await rows(path, happened)
    at_once = await kept.answer(Question(Daily))
    page = await kept.answer(Question(Daily, limit=7))
    of_all_shops = await kept.answer(Question(Daily, groups=("shop",), end=floor))
    await kept.refresh([plan_of(Daily)], now=nanoseconds(NOW))
    later = await kept.answer(Question(Daily))

    assert len(before) > 3 * 28
    assert [row for row in at_once.rows if int(row[0] or 0) < floor] == before
    assert list(page.rows) == before[:7]
    assert list(of_all_shops.rows) == before
    assert [row for row in later.rows if int(row[0] or 0) < floor] == before


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("CREATE TRIGGER theirs BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'keep it'); END", "keep it"),
        ("CREATE TRIGGER theirs BEFORE DELETE ON events BEGIN SELECT RAISE(IGNORE); END", "triggers"),
        ("CREATE TABLE notes (event INTEGER REFERENCES EVENTS ON DELETE CASCADE)", "rows of 'notes' refer to them"),
    ],
)
async def test_where_old_events_cannot_be_removed_without_harm_they_stay_and_that_is_said(
    anyio_backend: str, kept: SqliteRollups, path: Path, made: str, said: str
) -> None:
    before = await oldest(path)
    await rows(path, made)

    done = await kept.refresh(PLANS, now=nanoseconds(NOW))

    (remark,) = done.remarks
    assert said in remark
    assert await oldest(path) == before
    assert await rows(path, "SELECT count(*) FROM daily") == [(40 * 3,)]


TABLE: Final = "CREATE TABLE evs (id TEXT, timestamp {}, kind TEXT, data TEXT)"
THEIRS: Final = Layout(
    "evs",
    (
        LayoutColumn("id", ID, "uuid"),
        LayoutColumn("timestamp", TIMESTAMP, "timestamptz"),
        LayoutColumn("kind", TYPE, "text"),
        LayoutColumn("data", PAYLOAD, "jsonb"),
    ),
    retention="10d",
)
INDEXES: Final = (
    "SELECT 1",
    "CREATE INDEX by_time ON evs (timestamp)",
    "CREATE INDEX by_kind ON evs (kind, timestamp DESC)",
)
OLD: Final = nanoseconds(NOW - timedelta(days=11))


async def insert(path: Path, values: list[object]) -> None:
    def store() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executemany("INSERT INTO evs VALUES (NULL, ?, 'ordered', '{}')", [(value,) for value in values])

    await anyio.to_thread.run_sync(store)


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        ("REAL", NOW.timestamp()),
        ("TEXT", f"{NOW:%m/%d/%Y %H:%M:%S}"),
        ("VARCHAR(40)", NOW.isoformat()),
        ("FLOAT", float(OLD)),
    ],
)
async def test_no_row_is_removed_where_the_column_of_the_time_cannot_be_ours(
    anyio_backend: str, handler: SqliteHandler, path: Path, declared: str, value: object
) -> None:
    await rows(path, TABLE.format(declared))
    await insert(path, [value] * 3)
    async with SqliteRollups(path, busy_timeout=5, layouts={"evs": THEIRS}) as store:
        done = await store.refresh([], now=nanoseconds(NOW))

    assert done.remarks == (
        f"table 'evs': old rows are not removed: its column 'timestamp' is {declared}, not INTEGER TIMESTAMP_NS",
    )
    assert await rows(path, "SELECT count(*) FROM evs") == [(3,)]


@pytest.mark.parametrize("index", INDEXES, ids=["no index", "by time", "by type"])
@pytest.mark.parametrize("declared", ["INTEGER", "DATETIME", "", "INTEGER TIMESTAMP_NS"])
async def test_rows_whose_time_is_not_stored_as_ours_stay_and_that_is_said(
    anyio_backend: str, handler: SqliteHandler, path: Path, declared: str, index: str
) -> None:
    await rows(path, TABLE.format(declared))
    await rows(path, index)
    seconds = int(NOW.timestamp())
    of_others: list[object] = [
        *(seconds * unit for unit in (1, 1_000, 1_000_000)),
        seconds + 0.5,
        f"{NOW:%m/%d/%Y %H:%M:%S}",
        f"{NOW:%Y-%m-%d}",
        b"2026",
        0,
        -1,
        None,
    ]
    born = nanoseconds(datetime(1955, 1, 1, tzinfo=UTC))
    async with SqliteRollups(path, busy_timeout=5, layouts={"evs": THEIRS}) as store:
        await insert(path, [OLD, nanoseconds(NOW), born])
        of_ours = await store.refresh([], now=nanoseconds(NOW))
        await insert(path, [*of_others, OLD])
        done = await store.refresh([], now=nanoseconds(NOW))

    left = [value for (value,) in await rows(path, "SELECT timestamp FROM evs ORDER BY rowid")]
    assert left == [nanoseconds(NOW), *of_others]
    assert of_ours.remarks == ()
    (remark,) = done.remarks
    assert remark == (
        "table 'evs': rows are not removed whose 'timestamp' is not an INTEGER, or is too small for nanoseconds"
        " since the epoch (1969-09-16 to 1970-04-17)"
    )
