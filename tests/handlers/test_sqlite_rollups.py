"""Rollups answered from the events of a SQLite file: the same as brute force, by an index, in nobody's way."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import anyio
import anyio.to_thread
import msgspec
import pytest

from eventrec import (
    EVENT,
    GENERATED,
    TIMESTAMP,
    Batch,
    Event,
    Layout,
    LayoutColumn,
    PauseError,
    ReceivedEvent,
    TransientError,
    default_layout,
    from_payload,
    rollup_store_from_url,
)
from eventrec.analytics import (
    Bucket,
    Field,
    Measure,
    Question,
    Refreshed,
    Rollup,
    RollupPlan,
    bucket,
    column,
    count,
    distinct,
    first,
    group,
    is_type,
    max_of,
    payload,
    percentile,
    plan_of,
    sum_of,
)
from eventrec_handlers.sqlite import SqliteHandler
from eventrec_handlers.sqlite.file import read_table
from eventrec_handlers.sqlite.rollups.fields import Columns
from eventrec_handlers.sqlite.rollups.functions import add_functions
from eventrec_handlers.sqlite.rollups.select import newest, select
from eventrec_handlers.sqlite.rollups.store import SqliteRollups

pytestmark = pytest.mark.handlers

HOUR: Final = 3_600_000_000_000

Batches = Callable[..., Batch]
Events = Callable[..., Event]


class Hourly(Rollup, events=["request"]):
    hour = bucket("hour")
    path = group(payload("path", kind="text"))
    n = count()
    p95 = percentile(payload("ms", kind="integer"), 0.95)
    total = sum_of(payload("ms", kind="integer"))


class Numbers(Rollup, table="numbers"):
    minute = bucket("minute", zone="Europe/Berlin")
    half = percentile(payload("ms", kind="integer"), 0.5)


def request(number: int, **members: Any) -> ReceivedEvent:
    return ReceivedEvent("request", msgspec.json.encode(members), timestamp=number * HOUR // 4)


async def test_an_answer_is_read_while_a_writer_writes_and_neither_waits(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    await handler.handle(batch(*(request(n, path="/", ms=n) for n in range(8))))

    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM events")
        async with handler.rollups() as rollups:
            answer = await rollups.answer(Question(Hourly))
        writer.execute("ROLLBACK")

    assert [row[:3] + row[4:] for row in answer.rows] == [(0, "/", 4, 6), (HOUR, "/", 4, 22)]
    assert [row[3] for row in answer.rows] == [pytest.approx(2.85), pytest.approx(6.85)]
    assert (answer.complete_to, answer.pending) == (7 * HOUR // 4, 0)


async def test_a_long_answer_does_not_make_a_writer_wait(handler: SqliteHandler, path: Path, batch: Batches) -> None:
    await handler.handle(batch(*(request(n, path="/", ms=n) for n in range(8))))
    written = anyio.Event()
    reading = sqlite3.connect(path, isolation_level=None)
    reading.execute("BEGIN")
    reading.execute("SELECT count(*) FROM events").fetchall()

    with closing(reading), anyio.fail_after(120):
        await handler.handle(batch(request(9, path="/", ms=1), start=8))
        written.set()
        async with handler.rollups() as rollups:
            answer = await rollups.answer(Question(Hourly, groups=()))

    assert written.is_set()
    assert sum(int(row[1] or 0) for row in answer.rows) == 9


@pytest.mark.parametrize("types", [("request",), ("request", "other")])
async def test_events_of_a_time_are_found_by_the_index(
    handler: SqliteHandler, path: Path, batch: Batches, types: tuple[str, ...]
) -> None:
    await handler.handle(batch(request(0, path="/", ms=1)))
    plan = RollupPlan(
        name="x",
        table="events",
        types=types,
        where=None,
        bucket_name="hour",
        bucket=Bucket("hour"),
        groups=(),
        measures=(Measure("n", "count", Field("payload", ("ms",), "integer")),),
        column_names=("hour", "n"),
    )

    def explained() -> tuple[list[str], list[str]]:
        with closing(sqlite3.connect(path)) as connection:
            columns = Columns.of(default_layout("events"), read_table(connection, "events"))
            statement = select(Question(plan, start=0, end=HOUR), columns)
            add_functions(connection, plan.bucket)
            rows = connection.execute(f"EXPLAIN QUERY PLAN {statement.sql}", statement.parameters)
            return [row[3] for row in rows], [
                row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {newest(plan, columns)}")
            ]

    steps, last = await anyio.to_thread.run_sync(explained)

    index = "USING INDEX eventrec_events_type_timestamp"
    assert any(f"SEARCH events {index} (type=? AND timestamp>? AND timestamp<?)" in step for step in steps), steps
    assert [step for step in last if "events" in step] == [f"SEARCH events {index} (type=?)"] * len(types), last


async def test_a_table_that_is_not_there_has_no_events_and_a_file_that_is_not_there_is_an_error(
    handler: SqliteHandler, tmp_path: Path
) -> None:
    async with handler.rollups() as rollups:
        answer = await rollups.answer(Question(Hourly, groups=(), start=0, end=HOUR, empty_buckets=True))
    with pytest.raises(PauseError, match="unable to open"):
        await rollup_store_from_url(f"sqlite:///{tmp_path / 'nowhere.db'}").answer(Question(Hourly))

    assert answer.rows == ((0, 0, None, None),)
    assert answer.complete_to is None


class HourlyCount(Rollup, events=["request"]):
    hour = bucket("hour")
    n = count()


class DailyCount(Rollup, events=["request"]):
    day = bucket("day", zone="America/Havana")
    n = count()


class MonthlyCount(Rollup, events=["request"]):
    month = bucket("month", zone="Asia/Kathmandu")
    n = count()


@pytest.mark.parametrize("rollup", [HourlyCount, DailyCount, MonthlyCount])
async def test_moments_whose_bucket_the_file_cannot_hold_keep_no_answer_back(
    handler: SqliteHandler, batch: Batches, rollup: type[Rollup]
) -> None:
    moments = (-(2**63), -(2**63) + 1, 0, 2**63 - 1)
    await handler.handle(batch(*(ReceivedEvent("request", b"{}", timestamp=at) for at in moments)))
    async with handler.rollups() as rollups:
        asked = [
            Question(rollup),
            Question(rollup, start=-(2**70), end=2**70),
            Question(rollup, start=-(2**63), end=2**63, newest_first=True, limit=9),
            Question(rollup, start=-(2**63), limit=2, empty_buckets=True, newest_first=True),
        ]
        found = [(await rollups.answer(question)).rows for question in asked]
        await rollups.refresh([plan_of(rollup)])
        again = [(await rollups.answer(question)).rows for question in asked]

    assert [sum(row[1] for row in rows) for rows in found] == [2, 2, 2, 1]  # type: ignore[misc] # counts are numbers
    assert again == found


async def test_what_other_programs_have_stored_is_no_error(handler: SqliteHandler, path: Path, batch: Batches) -> None:
    await handler.handle(batch(request(0, path="/", ms=1)))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        insert = "INSERT INTO events (id, type, timestamp, payload) VALUES (?, ?, ?, ?)"
        for row in (
            ("1", "request", 0, "not JSON"),
            ("2", "request", 0, '{"path": "\\ud800", "ms": 1e999, "ä": 1e999}'),
            ("3", "request", 0, '{"path": "\\u0000", "ms": -9223372036854775808, "ä": "\\ud800"}'),
            ("4", "request", 0, "[" * 2_000),
            # And what is not an event.
            ("5", "request", "yesterday", "{}"),
            ("6", "request", 0, b"\xff"),
            (7.5, b"request", 0, "{}"),
        ):
            other.execute(insert, row)
        other.execute(insert.replace("?, ?)", "0, CAST(x'7b2261223a2022ff227d' AS TEXT))"), ("8", "request"))

    class Odd(Rollup, events=["request"]):
        day = bucket("day")
        n = count()
        low = first(payload("path", kind="text"))
        high = max_of(payload("path", kind="text"))
        odd = first(payload("a", kind="text"))
        odder = count(payload("ä", kind="text"))
        beyond = count(payload("ä", kind="float"))
        total = sum_of(payload("ms", kind="integer"))

    async with handler.rollups() as rollups:
        ((_, n, low, high, odd, odder, beyond, total),) = (await rollups.answer(Question(Odd))).rows
        pages = [(await rollups.answer(Question(Hourly, newest_first=True, limit=n))).rows for n in (0, 1, 9)]

    assert (n, odder, beyond, total) == (6, 1, 0, 1 - 2**63)
    assert low in {"", "\0"}  # older versions of SQLite end a text there
    assert (high, odd) == ("\ufffd\ufffd\ufffd", "\ufffd")
    assert list(map(len, pages)) == [0, 1, 4]


async def test_a_sum_of_whole_numbers_is_exact_beyond_64_bits(handler: SqliteHandler, batch: Batches) -> None:
    await handler.handle(batch(*(request(0, path="/", ms=2**63 - 1) for _ in range(3)), request(0, path="/", ms=-5)))

    async with handler.rollups() as rollups:
        ((_, _, n, _, total),) = (await rollups.answer(Question(Hourly))).rows

    assert (n, total) == (4, 3 * (2**63 - 1) - 5)


async def test_what_is_absent_is_not_known_to_be_none_of_no_values(handler: SqliteHandler, batch: Batches) -> None:
    class Chosen(Rollup, events=["request"]):
        hour = bucket("1 hour")
        none = count(where=payload("n", kind="integer").is_in([]))
        not_none = count(where=~payload("n", kind="integer").is_in([]))

    await handler.handle(batch(request(0, n=1), request(1, n="x"), request(2)))

    async with handler.rollups() as rollups:
        answer = await rollups.answer(Question(Chosen))

    assert [row[1:] for row in answer.rows] == [(0, 1)]


async def test_columns_that_come_later_and_names_in_any_case_are_found(
    handler: SqliteHandler, path: Path, batch: Batches
) -> None:
    await handler.handle(batch(request(0, path="/", ms=1)))

    class Shops(Rollup, table="EVENTS"):
        day = bucket("day")
        shops = distinct(column("SHOP", kind="text"))

    async with handler.rollups() as rollups:
        before = (await rollups.answer(Question(Shops))).rows
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("ALTER TABLE events ADD COLUMN shop TEXT")
            other.execute("UPDATE events SET shop = 'a'")
        after = (await rollups.answer(Question(Shops))).rows

    assert (before, after) == (((0, 0),), ((0, 1),))


async def test_a_table_of_another_program_has_no_events(handler: SqliteHandler, path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE events (a, b)")
        other.execute("CREATE VIEW views AS SELECT 1 AS a")

    class Views(Rollup, table="views"):
        day = bucket("day")
        n = count()

    async with handler.rollups() as rollups:
        assert (await rollups.answer(Question(Hourly))).rows == ()
        assert (await rollups.answer(Question(Views))).rows == ()


async def test_an_answer_ends_when_its_caller_is_cancelled(handler: SqliteHandler, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE numbers (id TEXT, type TEXT, timestamp INTEGER, payload TEXT)")
        other.execute(
            "INSERT INTO numbers WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 300000)"
            " SELECT n, 'request', n, '{\"ms\": 1}' FROM n"
        )

    rollups = SqliteRollups(path, busy_timeout=1)
    async with rollups:
        with anyio.move_on_after(0.01) as scope:
            await rollups.answer(Question(Numbers))
        ((_, half),) = (await rollups.answer(Question(Numbers))).rows

    assert scope.cancelled_caught
    assert half == 1.0


async def test_a_file_that_is_not_a_database_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_bytes(b"no database" * 1_000)

    with pytest.raises((PauseError, TransientError), match=r"text\.db"):
        await SqliteRollups(path, busy_timeout=1).answer(Question(Hourly))


async def test_there_is_nothing_to_refresh_and_a_file_that_cannot_be_read_is_said(
    handler: SqliteHandler, tmp_path: Path
) -> None:
    async with handler.rollups() as rollups:
        refreshed = await rollups.refresh([plan_of(Hourly)])
    (tmp_path / "text.db").write_bytes(b"no database" * 1_000)
    for name in ("nowhere.db", "text.db", "."):
        with pytest.raises((PauseError, TransientError)):
            await SqliteRollups(tmp_path / name, busy_timeout=1).refresh([plan_of(Hourly)])

    assert refreshed == Refreshed()


async def test_a_table_with_a_layout_is_answered_by_it_also_where_only_the_file_knows_it(
    path: Path, batch: Batches, log_id: UUID
) -> None:
    layout = Layout(
        "orders",
        [
            LayoutColumn("number", GENERATED, "bigint"),
            LayoutColumn("at", TIMESTAMP, "timestamptz"),
            LayoutColumn("shop", from_payload("shop"), "text", nullable=False, default="unknown"),
            LayoutColumn("customer", from_payload("customer", "id"), "uuid"),
            LayoutColumn("gift", from_payload("gift"), "boolean"),
            LayoutColumn("size", from_payload("size"), "jsonb"),
            LayoutColumn("data", EVENT, "jsonb"),
        ],
    )
    customer = "0b8e2f6e-3c1f-4a57-9d3b-0123456789ab"
    events = [
        ReceivedEvent(kind, msgspec.json.encode(said), timestamp=n, table="orders")
        for n, (kind, said) in enumerate(
            [
                ("placed", {"shop": "a", "customer": {"id": customer}, "gift": True, "size": 5, "amount": 3}),
                ("placed", {"gift": False, "size": "5", "amount": 4}),
                ("returned", {"shop": "a", "customer": {"id": customer.upper()}, "amount": 5}),
                ("other", {"shop": "z"}),
            ]
        )
    ]
    handler = SqliteHandler(path)
    handler.use_layouts({"orders": layout})
    await handler.open()
    await handler.resume(log_id, "tested", 0)
    await handler.handle(batch(*events))
    await handler.close()

    class Orders(Rollup, table="orders", events=["placed", "returned"]):
        day = bucket("day")
        shop = group(payload("shop", kind="text"))
        n = count()
        placed = count(where=is_type("placed"))
        customers = distinct(payload("customer", "id", kind="uuid"))
        gifts = count(where=payload("gift", kind="boolean").is_true())
        sizes = sum_of(payload("size", kind="integer"))
        amount = sum_of(payload("amount", kind="integer"))
        known = max_of(column("shop", kind="text"))

    question = Question(Orders)
    for store in (handler.rollups(), SqliteHandler(path).rollups()):
        async with store:
            answer = await store.answer(question)

        # The column of the shop has a default, so what the event said stands in the event alone.
        assert answer.rows == (
            (0, None, 1, 1, 0, 0, None, 4, "unknown"),
            (0, "a", 2, 1, 1, 1, 5, 8, "a"),
        )
        assert answer.complete_to == 2
