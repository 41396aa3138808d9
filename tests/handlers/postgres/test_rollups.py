"""Rollups on PostgreSQL: equal to brute force whatever has been refreshed, killed, doubled, late or removed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import anyio
import anyio.to_thread
import pytest

from eventrec import StoredEvent, TransientError
from eventrec.analytics import (
    Answer,
    Question,
    Refresh,
    Rollup,
    RollupPlan,
    avg,
    brute_force,
    bucket,
    column,
    count,
    distinct,
    event_timestamp,
    event_type,
    first,
    group,
    last,
    max_of,
    min_of,
    payload,
    percentile,
    sum_of,
)
from eventrec_handlers.postgres import PostgresHandler, PostgresRollups
from eventrec_handlers.postgres.rollups import answering, pages
from eventrec_handlers.postgres.rollups.moments import Run
from eventrec_handlers.postgres.rollups.uncounted import Walk

pytestmark = pytest.mark.handlers

ONE_BACKEND = pytest.mark.parametrize(
    "anyio_backend", ["asyncio", pytest.param("trio", marks=pytest.mark.faults)], indirect=True
)
"""For what takes long: the way to the driver is what differs, and all others go it."""

NOW = datetime(2026, 3, 30, 12, 0, tzinfo=UTC)
NANOSECONDS = 1_000_000_000
TABLE = (
    "CREATE TABLE events (id uuid NOT NULL, type text NOT NULL, timestamp timestamptz NOT NULL, payload jsonb NOT NULL,"
    " context jsonb, shop text, paid boolean, size double precision, number numeric(20,0), owner uuid)"
)


class Orders(Rollup, name="orders_by_day", table="events", events=["ordered", "returned"]):
    day = bucket("day", zone="Europe/Berlin")
    shop = group(column("shop", kind="text"))
    country = group(payload("address", "country", kind="text"))
    orders = count(where=event_type == "ordered")
    customers = distinct(payload("customer", kind="uuid"))
    amount = sum_of(payload("amount", kind="integer"))
    weight = sum_of(payload("weight", kind="float"))
    lightest = min_of(payload("weight", kind="float"))
    latest_name = max_of(payload("name", kind="text"))
    mean = avg(payload("amount", kind="integer"), where=payload("amount", kind="integer") > 10)
    p95 = percentile(payload("weight", kind="float"), 0.95)
    first_name = first(payload("name", kind="text"))
    last_customer = last(payload("customer", kind="uuid"))
    unpaid = count(where=~column("paid", kind="boolean").is_true())
    newest = max_of(event_timestamp)
    big = count(column("size", kind="float"))
    refresh = Refresh(window="3 days", lag=0)


class PerHour(Rollup, name="per_hour", table="events"):
    hour = bucket("1 hour", zone="Asia/Kolkata")
    kind = group(event_type)
    happened = count()
    least = min_of(payload("amount", kind="integer"))
    refresh = Refresh(window="3 days", lag=0)


class Keyed(Rollup, name="keyed", table="events", events=["ordered", "returned"]):
    happened = count()
    customer = group(payload("customer", kind="uuid"))
    amount = group(payload("amount", kind="integer"))
    shop = group(column("shop", kind="text"))
    paid = group(column("paid", kind="boolean"))
    month = bucket("month", zone="Europe/Berlin")
    amounts = sum_of(payload("amount", kind="integer"))
    refresh = Refresh(window="3 days", lag=0)


HOSTILE: Sequence[Any] = (
    None,
    True,
    "",
    "5",
    5,
    5.0,
    -(2**63),
    2**63,
    2**80,
    0.1,
    1e300,
    1.1e300,
    9007199254740993.0,
    [1],
    {"a": 1},
    "it's \\ 'é' \U0001f600",
    "00000000-0000-0000-0000-00000000000A",
    "{00000000-0000-0000-0000-00000000000a}",
)


def events(seed: int, number: int, *, days: int = 40) -> list[StoredEvent]:
    """Events of every shape, spread over the change to summer time in Berlin."""
    random = Random(seed)
    made = []
    for n in range(number):
        at = NOW - timedelta(seconds=random.randrange(days * 86_400), microseconds=random.randrange(1_000_000))
        said: Any = {
            "amount": random.choice((random.randrange(100), *HOSTILE)),
            "weight": random.choice((random.random() * 10, random.randrange(5), *HOSTILE)),
            "name": random.choice(("b", "B", "ä", "z", *HOSTILE)),
            "customer": random.choice((str(UUID(int=random.randrange(5))), *HOSTILE)),
            "address": random.choice(({"country": random.choice(("de", "at", *HOSTILE))}, [{"country": "de"}], "x")),
        }
        for name in random.sample(sorted(said), random.randrange(3)):
            del said[name]
        made.append(
            StoredEvent(
                table="events",
                id=str(UUID(int=n + seed * 1_000_000)),
                type=random.choice(("ordered", "returned", "other")),
                timestamp=(at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000,
                payload=json.dumps(random.choice((said, said, said, [said], None, "x"))),
                columns={
                    "shop": random.choice((None, "north", "south")),
                    "paid": random.choice((None, True, False)),
                    "size": random.choice((None, 1.5, 1e301, float("nan"))),
                },
            )
        )
    return made


def same(one: Answer, other: Answer) -> None:
    assert [column.name for column in one.columns] == [column.name for column in other.columns]
    assert len(one.rows) == len(other.rows)
    for mine, theirs in zip(one.rows, other.rows, strict=True):
        for value, expected in zip(mine, theirs, strict=True):
            if isinstance(expected, float):
                assert value == pytest.approx(expected, rel=1e-9), (mine, theirs)
            else:
                assert (value, type(value)) == (expected, type(expected)), (mine, theirs)
    assert one.complete_to == other.complete_to


def nanoseconds(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000


class Events:
    """The table of events, and what brute force knows of it."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self.stored: list[StoredEvent] = []

    def make(self, sql: str = TABLE) -> None:
        self.database.execute(sql, "CREATE INDEX ON events (type, timestamp DESC)")

    def insert(self, given: Iterable[StoredEvent]) -> None:
        given = list(given)
        self.stored += given
        connection = self.database.session()
        rows = [
            (
                UUID(event.id),
                event.type,
                datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=event.timestamp // 1_000),
                event.payload,
                *(event.columns.get(name) for name in ("shop", "paid", "size")),
            )
            for event in given
        ]
        self.database.run(
            connection.copy_records_to_table(
                "events", records=rows, columns=("id", "type", "timestamp", "payload", "shop", "paid", "size")
            )
        )
        self.database.run(connection.close())

    def expected(self, plan: Any, **asked: Any) -> Answer:
        return brute_force(Question(plan, **asked), self.stored)


@pytest.fixture
def known(database: Any) -> Events:
    known = Events(database)
    known.make()
    return known


@pytest.fixture
async def rollups(database: Any) -> AsyncIterator[PostgresRollups]:
    async with PostgresHandler(database.url()).rollups() as store:
        yield store


PLANS = (Orders.rollup_plan, PerHour.rollup_plan)


async def test_an_answer_is_that_of_brute_force_before_and_after_each_refresh(
    known: Events, rollups: PostgresRollups
) -> None:
    for plan in PLANS:
        same(await rollups.answer(Question(plan)), known.expected(plan))
    known.insert(events(1, 400))
    for plan in PLANS:
        same(await rollups.answer(Question(plan)), known.expected(plan))

    done = await rollups.refresh(PLANS, now=nanoseconds(NOW))

    assert done.buckets > 40
    for plan in PLANS:
        same(await rollups.answer(Question(plan)), known.expected(plan))
    known.insert(events(2, 100))  # some of them late
    for plan in PLANS:
        same(await rollups.answer(Question(plan)), known.expected(plan))

    again = await rollups.refresh(PLANS, now=nanoseconds(NOW))

    assert 0 < again.buckets <= 140
    for plan in PLANS:
        same(await rollups.answer(Question(plan)), known.expected(plan))
    assert (await rollups.refresh(PLANS, now=nanoseconds(NOW))).buckets == 0


async def paged(rollups: PostgresRollups, plan: RollupPlan, size: int, **asked: Any) -> list[Any]:
    """The rows of all pages of an answer."""
    rows: list[Any] = []
    cursor: str | None = None
    while True:
        page = await rollups.answer(Question(plan, limit=size, cursor=cursor, **asked))
        assert len(page.rows) <= size
        rows += page.rows
        cursor = page.cursor
        if cursor is None:
            return rows


@pytest.mark.slow
@ONE_BACKEND
@pytest.mark.parametrize("newest_first", [False, True])
async def test_pages_are_the_whole_answer_whatever_waits(
    known: Events, rollups: PostgresRollups, monkeypatch: pytest.MonkeyPatch, *, newest_first: bool
) -> None:
    monkeypatch.setattr(pages, "FETCHED", 7)
    known.insert(events(5, 60, days=3))
    await rollups.refresh([PerHour.rollup_plan, Keyed.rollup_plan], now=nanoseconds(NOW))
    known.insert(events(6, 20, days=3))

    for plan in (Orders.rollup_plan, PerHour.rollup_plan, Keyed.rollup_plan):
        for groups in (None, (), tuple(each.name for each in plan.groups[:1])):
            asked: dict[str, Any] = {"newest_first": newest_first, "groups": groups}
            whole = known.expected(plan, **asked)
            same(await rollups.answer(Question(plan, **asked)), whole)
            for size in (9,) if groups is None else (1, 9):  # one by one where there are not so many
                rows = tuple(await paged(rollups, plan, size, **asked))
                same(replace(whole, rows=rows), whole)


async def test_groups_that_look_like_what_an_answer_is_packed_with_come_back(
    known: Events, rollups: PostgresRollups
) -> None:
    odd = ("\x02", None, "a\x01b", "\x01", "plain")
    given = events(8, 40, days=3)
    known.insert(replace(event, columns={**event.columns, "shop": odd[n % 5]}) for n, event in enumerate(given))
    await rollups.refresh([Keyed.rollup_plan], now=nanoseconds(NOW))

    same(await rollups.answer(Question(Keyed.rollup_plan)), known.expected(Keyed.rollup_plan))


@pytest.mark.parametrize("newest_first", [False, True])
async def test_pages_with_empty_buckets_are_the_whole_answer(
    known: Events, rollups: PostgresRollups, *, newest_first: bool
) -> None:
    known.insert(events(5, 6, days=2))
    await rollups.refresh([PerHour.rollup_plan], now=nanoseconds(NOW))
    known.insert(events(6, 4, days=2))
    plan = PerHour.rollup_plan

    for groups in ((), tuple(each.name for each in plan.groups[:1])):
        for start in (None, nanoseconds(NOW) - 50 * 3_600 * 1_000_000_000):
            asked: dict[str, Any] = {"newest_first": newest_first, "groups": groups, "start": start}
            whole = known.expected(plan, empty_buckets=True, **asked)
            assert len(whole.rows) > 20
            rows = tuple(await paged(rollups, plan, 19, empty_buckets=True, **asked))
            same(replace(whole, rows=rows), whole)


async def test_a_page_computes_no_bucket_behind_it(
    known: Events, rollups: PostgresRollups, monkeypatch: pytest.MonkeyPatch
) -> None:
    known.insert(events(7, 400))
    computed: list[int] = []
    plan = PerHour.rollup_plan

    class Noted(Walk):
        async def next(self) -> Run | None:
            run = await super().next()
            computed.extend(() if run is None else run.starts)
            return run

    monkeypatch.setattr(answering, "Walk", Noted)

    before = await rollups.answer(Question(plan, limit=5))
    few = len(computed)
    computed.clear()
    await rollups.refresh([plan], now=nanoseconds(NOW))
    known.insert(events(8, 10, days=1))
    after = await rollups.answer(Question(plan, limit=5))

    assert 0 < few <= 2 * answering.FEW
    assert computed == []
    assert before.rows == after.rows == known.expected(plan, limit=5).rows


@pytest.mark.parametrize(
    "cursor", ['[0,["a\\u0000b"]]', "[0,[1]]", "[0,[]]", "[0.5,[null]]", "[1e300,[null]]", "[true,[null]]", "x", ""]
)
async def test_a_cursor_that_no_answer_has_given_is_refused_in_words(
    known: Events, rollups: PostgresRollups, cursor: str
) -> None:
    known.insert(events(9, 3))

    with pytest.raises(ValueError, match="cursor"):
        await rollups.answer(Question(PerHour, cursor=cursor))


@pytest.mark.parametrize("at", [-(2**70), 2**70, 1, -1])
async def test_a_cursor_of_no_bucket_begins_where_one_would_stand(
    known: Events, rollups: PostgresRollups, at: int
) -> None:
    known.insert(events(9, 30))

    for newest_first in (False, True):
        question = Question(PerHour, cursor=f"[{at},[null]]", newest_first=newest_first)
        assert (await rollups.answer(question)).rows == brute_force(question, known.stored).rows


class Killed:
    """A connection that is cut before its statement number `at`."""

    def __init__(self, connection: Any, at: int) -> None:
        self._connection = connection
        self.left = at

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        if name not in {"execute", "fetch", "fetchrow", "fetchval"}:
            return found

        async def call(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                self._connection.terminate()
                raise ConnectionResetError("cut")
            return await found(*arguments, **options)

        return call


@pytest.mark.slow
@ONE_BACKEND
async def test_a_refresh_that_is_cut_before_any_of_its_statements_is_made_up_for_by_the_next(
    known: Events, database: Any
) -> None:
    plan, at, is_cut = PerHour.rollup_plan, 0, True
    known.insert(events(3, 40, days=2))
    while is_cut:
        store = PostgresHandler(database.url()).rollups()
        await store.open()
        store._single._connection = Killed(store._single._connection, at)
        try:
            await store.refresh([plan], now=nanoseconds(NOW))
            is_cut = False
        except TransientError:
            pass
        await store.close()
        if at % 5 == 0:
            known.insert(events(100 + at, 2, days=2))
        at += 1

    assert at > 20
    async with PostgresHandler(database.url()).rollups() as other:
        await other.refresh([plan], now=nanoseconds(NOW))
        assert waiting(database, plan) == set()
        same(await other.answer(Question(plan)), known.expected(plan))


def waiting(database: Any, plan: RollupPlan) -> set[datetime]:
    """The buckets of `plan` that have ended and wait."""
    rows = database.rows("SELECT bucket FROM eventrec_pending WHERE rollup = $1", plan.name)
    return {at for (at,) in rows if nanoseconds(at) < plan.bucket.floor(nanoseconds(NOW))}


@ONE_BACKEND
async def test_several_processes_refresh_while_others_write_and_nothing_is_missed(known: Events, database: Any) -> None:
    stores = [PostgresHandler(database.url()).rollups() for _ in range(3)]
    for store in stores:
        await store.open()
    done: list[int] = []
    is_written = anyio.Event()

    async def refresh(store: PostgresRollups) -> None:
        while not is_written.is_set():
            done.append((await store.refresh(PLANS, now=nanoseconds(NOW))).buckets)

    async with anyio.create_task_group() as group_:
        for store in stores:
            group_.start_soon(refresh, store)
        for seed in range(10, 20):
            await anyio.to_thread.run_sync(known.insert, events(seed, 30, days=2))
        is_written.set()

    await stores[0].refresh(PLANS, now=nanoseconds(NOW))
    await stores[0].refresh(PLANS, now=nanoseconds(NOW))
    for plan in PLANS:
        expected = known.expected(plan)
        same(await stores[1].answer(Question(plan)), expected)
        assert waiting(database, plan) == set()
    for store in stores:
        await store.close()
