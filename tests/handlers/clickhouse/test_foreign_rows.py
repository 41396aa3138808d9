"""Rows that another program has written, and that no event can be: passed over and counted, all others are shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eventrec import Batch, EventPage, PauseError, ReceivedEvent
from eventrec.analytics import Bucket, Field, Group, Measure, Question, RollupPlan
from eventrec.testing.clickhouse_http import ClickHouseDatabase
from eventrec_handlers.clickhouse import ClickHouseHandler, reader
from eventrec_handlers.clickhouse.calls import Calls
from eventrec_handlers.clickhouse.errors import Failure
from eventrec_handlers.clickhouse.nodes import Nodes
from eventrec_handlers.clickhouse.options import Options
from eventrec_handlers.clickhouse.sql import literal, quoted
from eventrec_handlers.clickhouse.target import Target

pytestmark = pytest.mark.handlers

Ask = Callable[[str], Awaitable[list[list[Any]]]]
Batches = Callable[..., Batch]
Open = Callable[..., Awaitable[ClickHouseHandler]]

AT = 1_700_000_000_000_000_000
ENGINE = "ENGINE = MergeTree ORDER BY tuple() SETTINGS enable_block_number_column = 1, enable_block_offset_column = 1"
COLUMNS = "id Nullable(UUID), type Nullable(String), payload Nullable(String), x String DEFAULT ''"
YEAR_2290 = "toDateTime64('2290-01-01 00:00:00', 3, 'UTC')"

ODD = {
    "payload": (
        "DateTime64(3, 'UTC')",
        "generateUUIDv4(), 'x', unhex('7bfffe7d'), now64(3)",
        "its payload is not UTF-8",
    ),
    "type": ("DateTime64(9, 'UTC')", "generateUUIDv4(), unhex('ff'), '{}', now64(9)", "its type is not UTF-8"),
    "id": ("DateTime", "NULL, 'x', '{}', now()", "its id is not an id"),
    "millisecond": (
        "DateTime64(3)",
        f"generateUUIDv4(), 'x', '{{}}', {YEAR_2290}",
        "its timestamp is not of the years",
    ),
    "second": ("DateTime64(0)", f"generateUUIDv4(), 'x', '{{}}', {YEAR_2290}", "its timestamp is not of the years"),
    "no time": ("Nullable(DateTime64(9))", "generateUUIDv4(), 'x', '{}', NULL", "its timestamp is not of the years"),
}
"""How the time is declared, a row of it (id, type, payload, timestamp), and why that is passed over."""


def ours(*numbers: int) -> list[ReceivedEvent]:
    return [ReceivedEvent("ours", b'{"n":%d}' % n, AT + n) for n in numbers]


def numbers(page: EventPage) -> list[str]:
    return [event.payload for event in page.events]


@pytest.mark.parametrize("odd", ODD)
async def test_row_that_no_event_can_be_is_passed_over_and_counted(
    opened: Open, asked: Ask, batch: Batches, odd: str
) -> None:
    declared, values, why = ODD[odd]
    handler = await opened()
    await handler.handle(batch(*ours(1, 2)))
    await asked(f"CREATE TABLE audit ({COLUMNS}, timestamp {declared}) {ENGINE}")
    insert = f"INSERT INTO audit (id, type, payload, timestamp) SELECT {values}"
    async with handler.reader() as shown:
        before = (await shown.latest(limit=0)).cursor
        await asked(insert)
        await handler.handle(batch(*ours(3), start=2))

        latest = await shown.latest(limit=10)
        whole = await shown.range(limit=10)
        followed = await shown.follow(before, limit=10)
        after = await shown.follow(followed.cursor, limit=10)

    assert numbers(latest) == numbers(whole) == ['{"n":1}', '{"n":2}', '{"n":3}']
    assert numbers(followed) == ['{"n":3}']
    assert [sum(page.foreign.values()) for page in (latest, whole, followed, after)] == [1, 1, 1, 0]
    assert all(why in said for page in (latest, whole, followed) for said in page.foreign)


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_rows_of_others_never_count_against_the_limit(
    opened: Open, asked: Ask, batch: Batches, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(reader, "AT_ONCE", 4)
    monkeypatch.setattr(reader, "TOGETHER", 1)
    handler = await opened()
    await handler.handle(batch(*ours(1)))
    async with handler.reader() as shown:
        start = (await shown.latest(limit=0)).cursor
        for n in (2, 3):
            await asked(
                "INSERT INTO events (id, type, payload, timestamp) SELECT generateUUIDv4(), 'x', unhex('fffe'),"
                f" fromUnixTimestamp64Nano({AT + n}) FROM numbers(11)"
            )
            await handler.handle(batch(*ours(n), start=n))
        await asked(
            "INSERT INTO events (id, type, payload, timestamp) SELECT generateUUIDv4(), 'x', unhex('fffe'), now64(9) FROM numbers(11)"  # noqa: E501 - one piece
        )

        newest = numbers(await shown.latest(limit=limit))
        in_range, followed = [], []
        page = await shown.range(limit=limit)
        while page.events:
            in_range += numbers(page)
            page = await shown.range(limit=limit, cursor=page.cursor)
        page = await shown.follow(start, limit=limit)
        while page.events:
            followed += numbers(page)
            page = await shown.follow(page.cursor, limit=limit)

    assert newest == ['{"n":1}', '{"n":2}', '{"n":3}'][-limit:]
    assert in_range == ['{"n":1}', '{"n":2}', '{"n":3}']
    assert followed == ['{"n":2}', '{"n":3}']


async def test_page_looks_no_further_than_so_many_rows_of_others_and_the_next_goes_on(
    opened: Open, asked: Ask, batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "AT_ONCE", 4)
    monkeypatch.setattr(reader, "MAX_FOREIGN", 6)
    handler = await opened()
    await handler.handle(batch(*ours(1)))
    async with handler.reader() as shown:
        cursor = (await shown.latest(limit=0)).cursor
        await asked(
            "INSERT INTO events (id, type, payload, timestamp) SELECT generateUUIDv4(), 'x', unhex('fffe'), now64(9) FROM numbers(11)"  # noqa: E501 - one piece
        )
        await handler.handle(batch(*ours(2), start=1))

        first = await shown.follow(cursor, limit=3)
        second = await shown.follow(first.cursor, limit=3)

    assert (numbers(first), numbers(second)) == ([], ['{"n":2}'])
    assert sum(first.foreign.values()) + sum(second.foreign.values()) == 11


async def test_what_is_not_utf_8_in_an_extra_column_or_a_name_is_shown_with_the_sign_for_it(
    opened: Open, asked: Ask, batch: Batches
) -> None:
    handler = await opened()
    await handler.handle(batch(*ours(1)))
    await asked(f"CREATE TABLE `odd\\xff` ({COLUMNS}, timestamp DateTime64(3), `y\\xfe` Array(String)) {ENGINE}")
    await asked(
        "INSERT INTO `odd\\xff` SELECT generateUUIDv4(), 'theirs', '{}', unhex('61ff'), now64(3), [unhex('fe'), 'b']"
    )

    async with handler.reader() as shown:
        latest = await shown.latest(limit=10)
        whole = await shown.range(limit=10)
        rest = await shown.range(limit=10, cursor=whole.cursor)

    assert [event.type for event in latest.events] == [event.type for event in whole.events] == ["ours", "theirs"]
    assert (latest.events[1].table, latest.events[1].columns) == (
        "odd\ufffd",
        {"x": "a\ufffd", "y\ufffd": ["\ufffd", "b"]},
    )
    assert (rest.events, rest.foreign, latest.foreign) == ((), {}, {})


@pytest.mark.parametrize(
    "declared", ["DateTime", "DateTime64(0)", "DateTime64(3)", "DateTime64(6)", "Nullable(DateTime64(2))"]
)
async def test_range_of_a_coarser_time_has_the_rows_of_that_time(opened: Open, asked: Ask, declared: str) -> None:
    handler = await opened()
    await asked(f"CREATE TABLE audit ({COLUMNS}, timestamp {declared}) {ENGINE}")
    await asked(
        "INSERT INTO audit (id, type, payload, timestamp) SELECT generateUUIDv4(), 'x', toString(number),"
        " toDateTime(number, 'UTC') FROM numbers(6)"
    )
    second = 10**9

    async with handler.reader() as shown:
        found = [
            numbers(await shown.range(*bounds, limit=10))
            for bounds in ((2 * second, 4 * second), (1, 2 * second + 1), (-(2**70), second), (5 * second, 2**70))
        ]
        paged = []
        page = await shown.range(limit=2)
        while page.events:
            paged += numbers(page)
            page = await shown.range(limit=2, cursor=page.cursor)

    assert found == [["2", "3"], ["1", "2"], ["0"], ["5"]]
    assert paged == [str(n) for n in range(6)]


@pytest.mark.parametrize("keeps", [False, True])
async def test_rollup_counts_what_it_can_read(
    clickhouse: ClickHouseDatabase, opened: Open, asked: Ask, batch: Batches, *, keeps: bool
) -> None:
    """A row that no event can be, as its time has no number, does not count; a text that is not UTF-8 is shown so."""
    await asked(f"CREATE TABLE events ({COLUMNS}, timestamp DateTime64(3)) {ENGINE}")
    await asked(
        "INSERT INTO events (id, type, payload, timestamp, x) VALUES"
        f" (generateUUIDv4(), 'ours', '{{}}', {YEAR_2290}, 'a'),"
        " (generateUUIDv4(), 'ours', unhex('ff'), 5, unhex('61ff'))"
    )
    handler = await opened()
    await handler.handle(batch(*ours(1)))
    group = Group("x", Field("column", ("x",), "text"))
    plan = RollupPlan(
        name="told",
        table="events",
        types=("ours",),
        where=None,
        bucket_name="month",
        bucket=Bucket("month"),
        groups=(group,),
        measures=(Measure("events", "count"), Measure("last", "last", group.field)),
        column_names=("month", "x", "events", "last"),
    )

    async with ClickHouseHandler(clickhouse.url(), timeout=10).rollups() as store:
        if keeps:
            assert (await store.refresh([plan])).remarks == ()
            await asked(
                f"INSERT INTO events (id, type, payload, timestamp) SELECT generateUUIDv4(), 'x', '', {YEAR_2290}"
            )
        found = await store.answer(Question(plan))

    assert [row[1:] for row in found.rows] == [("a\ufffd", 1, "a\ufffd"), ("", 1, "")]
    assert found.complete_to == AT // 10**6 * 10**6


async def test_server_that_fails_for_what_is_stored_is_not_asked_for_ever(clickhouse: ClickHouseDatabase) -> None:
    calls, nodes = Calls(), Nodes(Target(clickhouse.url()), Options())

    async def failing(_: object) -> None:
        raise Failure("data", "Code: 407", code=407)

    with pytest.raises(PauseError, match="407"):
        await calls.ask(nodes, failing)


@pytest.mark.parametrize("name", ["a`b", "a\\xff", "\udcff", "é\udcc3", "'"])
async def test_name_of_any_bytes_is_said_in_sql(asked: Ask, name: str) -> None:
    ((said, label),) = await asked(f"SELECT hex({literal(name)}), 1 AS {quoted(name)} FORMAT JSONCompactEachRow")

    assert (bytes.fromhex(said), label) == (name.encode(errors="surrogateescape"), 1)
