"""Rollups on PostgreSQL whose events are far apart: work follows the buckets that hold events, not the time between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from eventrec import StoredEvent
from eventrec.analytics import (
    Bucket,
    Question,
    Refresh,
    Rollup,
    RollupPlan,
    brute_force,
    bucket,
    count,
    distinct,
    group,
    payload,
)
from eventrec_handlers.postgres import PostgresHandler, PostgresRollups
from eventrec_handlers.postgres.rollups import uncounted
from eventrec_handlers.postgres.rollups.moments import moment, nanoseconds

pytestmark = pytest.mark.handlers


@pytest.fixture(scope="module", params=["asyncio", pytest.param("trio", marks=pytest.mark.faults)])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """One is enough beside all other tests: what differs is the way to the driver, which has its own."""
    backend: str = request.param
    return backend


TABLE = (
    "CREATE TABLE events (id uuid, type text NOT NULL, timestamp timestamptz NOT NULL, payload jsonb, context jsonb)"
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = 86_400


class Minutes(Rollup, name="minutes", table="events"):
    minute = bucket("1 minute")
    shop = group(payload("shop", kind="text"))
    n = count()
    refresh = Refresh(window="3 days", lag=0)


class Customers(Rollup, name="customers", table="events", events=["ordered"]):
    minute = bucket("1 minute", zone="Europe/Berlin")
    shop = group(payload("shop", kind="text"))
    n = distinct(payload("customer", kind="integer"))
    refresh = Refresh(window="3 days", lag=0)


class Hours(Rollup, name="hours", table="events", events=["ordered", "returned"]):
    hour = bucket("2 hours", zone="Europe/Berlin")
    n = count()
    refresh = Refresh(window="3 days", lag=0)


class Days(Rollup, name="days", table="events"):
    day = bucket("day", zone="America/Sao_Paulo")
    n = count()
    refresh = Refresh(window="3 days", lag=0)


class Months(Rollup, name="months", table="events", events=["returned"]):
    month = bucket("month", zone="Asia/Kolkata")
    n = count()
    refresh = Refresh(window="3 days", lag=0)


ROLLUPS = (Minutes, Customers, Hours, Days, Months)


def event(second: float, *, shop: str = "a", customer: int = 1, type_: str = "ordered") -> StoredEvent:
    said = f'{{"shop": "{shop}", "customer": {customer}}}'
    return StoredEvent(table="events", id="1", type=type_, timestamp=round(second * 1_000) * 1_000_000, payload=said)


def inserted(events: Sequence[StoredEvent]) -> str:
    values = ", ".join(
        f"('{each.type}', '{EPOCH + timedelta(microseconds=each.timestamp // 1_000)}', '{each.payload}')"
        for each in events
    )
    return f"INSERT INTO events (type, timestamp, payload) VALUES {values}"


@pytest.fixture
async def rollups(database: Any) -> AsyncIterator[PostgresRollups]:
    database.execute(TABLE, "CREATE INDEX ON events (type, timestamp DESC)")
    async with PostgresHandler(database.url()).rollups() as store:
        yield store


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From which bucket to the next was gone: a few thousand times at most."""
    gone: list[int] = []
    after = Bucket.after

    def noted(self: Bucket, start: int) -> int:
        gone.append(start)
        assert len(gone) < 20_000, "buckets are listed that hold no event"
        return after(self, start)

    monkeypatch.setattr(Bucket, "after", noted)
    return gone


UNSET_CLOCK = [event(0, shop="b"), event(1_795_910_400), event(1_795_996_800, customer=2)]
"""Of 2026, and one of a device whose clock is not set."""


@pytest.mark.parametrize("rollup", ROLLUPS[:3])
@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 5])
async def test_an_event_far_from_all_others_costs_an_answer_as_much_as_a_near_one(
    rollups: PostgresRollups,
    database: Any,
    steps: list[int],
    rollup: type[Rollup],
    limit: int | None,
    *,
    newest_first: bool,
) -> None:
    database.execute(inserted(UNSET_CLOCK))
    questions = [Question(rollup, limit=limit, newest_first=newest_first, groups=groups) for groups in (None, ())]

    found = [await rollups.answer(question) for question in questions]

    assert [each.rows for each in found] == [brute_force(question, UNSET_CLOCK).rows for question in questions]
    assert len(steps) < 500


async def test_one_that_comes_later_costs_no_more_while_what_arrives_is_not_noticed(
    rollups: PostgresRollups, database: Any, steps: list[int]
) -> None:
    database.execute(inserted(UNSET_CLOCK[1:]))
    await rollups.refresh([Minutes.rollup_plan])
    database.execute("ALTER TABLE events DISABLE TRIGGER USER", inserted(UNSET_CLOCK[:1]))
    steps.clear()

    found = await rollups.answer(Question(Minutes, limit=5))

    assert found.rows == brute_force(Question(Minutes), UNSET_CLOCK).rows


async def test_a_rollup_is_filled_over_any_time(rollups: PostgresRollups, database: Any, steps: list[int]) -> None:
    database.execute(inserted(UNSET_CLOCK))

    for rollup in ROLLUPS:
        steps.clear()
        await rollups.refresh([rollup.rollup_plan], now=2**61)

        assert database.rows(f"SELECT sum(n)::int FROM {rollup.rollup_plan.name}") == [
            (3 if rollup is not Months else None,)
        ]


async def test_a_rollup_is_filled_once_up_to_the_last_bucket_that_there_is(
    rollups: PostgresRollups, database: Any, steps: list[int]
) -> None:
    last = (datetime(9996, 12, 31, 22, tzinfo=UTC) - EPOCH).total_seconds()
    database.execute(inserted([event(0), event(1_795_910_400), event(last)]))

    for rollup in (Hours, Days):
        await rollups.refresh([rollup.rollup_plan], now=2**61)

        assert database.rows(f"SELECT sum(n)::int FROM {rollup.rollup_plan.name}") == [(3,)]


def scattered(seed: int) -> list[StoredEvent]:
    """Events of all times that there can be, alone and in crowds."""
    random = Random(seed)
    at = random.choice((-40_000_000_000.0, -3_000_000_000.0, 0.0))
    made = []
    for _ in range(60):
        at += random.choice((0, 1, 59, 3_600, 5_000, DAY, 40 * DAY, 9_000 * DAY)) * random.random()
        made.append(
            event(
                round(at, 3),
                shop=random.choice("ab"),
                customer=random.randrange(3),
                type_=random.choice(("ordered", "returned", "other")),
            )
        )
    random.shuffle(made)
    return made


async def everything(store: PostgresRollups, plan: RollupPlan, limit: int, **asked: Any) -> list[Any]:
    rows: list[Any] = []
    cursor: str | None = None
    while True:
        page = await store.answer(Question(plan, limit=limit, cursor=cursor, **asked))
        rows += page.rows
        if (cursor := page.cursor) is None:
            return rows


@pytest.mark.parametrize("found", [1, 2_048])
@pytest.mark.parametrize("rollup", ROLLUPS)
async def test_scattered_events_are_counted_as_brute_force_counts_them(
    rollups: PostgresRollups, database: Any, monkeypatch: pytest.MonkeyPatch, rollup: type[Rollup], found: int
) -> None:
    monkeypatch.setattr(uncounted, "FOUND", found)
    plan = rollup.rollup_plan
    events = scattered(found)
    database.execute(inserted(events[:40]))
    moments = sorted(each.timestamp for each in events)
    asked: list[dict[str, Any]] = [
        {"newest_first": newest_first, "groups": groups, "start": start, "end": end}
        for newest_first in (False, True)
        for groups in (None, ())
        for start, end in ((None, None), (moments[9], moments[50]))
    ]

    async def check(stored: Sequence[StoredEvent]) -> None:
        for each in asked:
            expected = brute_force(Question(plan, **each), stored).rows
            assert (await rollups.answer(Question(plan, **each))).rows == expected
            assert tuple(await everything(rollups, plan, 11, **each)) == expected

    await check(events[:40])
    await rollups.refresh([plan], now=max(moments))
    database.execute(inserted(events[40:]))
    await check(events)
    database.execute("ALTER TABLE events DISABLE TRIGGER USER", inserted(events[:5]))
    await check([*events, *events[:5]])


class Half:
    """A server that holds an event every half hour, and answers as PostgreSQL: in bins from the first moment on."""

    def __init__(self, low: int, high: int) -> None:
        self.events = range(low, high, 1_800 * 10**9)

    async def fetch(self, sql: str, since: datetime, until: datetime, step: timedelta, *_: object) -> list[tuple[Any]]:
        low, high, size = nanoseconds(since), nanoseconds(until), step // timedelta(microseconds=1) * 1_000
        bins = {low + (at - low) // size * size for at in self.events if low <= at < high}
        return [(moment(at),) for at in sorted(bins, reverse="DESC" in sql)[: uncounted.FOUND]]


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("length", [uncounted.FOUND - 1, uncounted.FOUND, uncounted.FOUND + 1])
@pytest.mark.parametrize(("every", "unit"), [(1, "day"), (6, "hour")])
async def test_a_walk_gives_the_buckets_of_its_span_once_each_whatever_clocks_do(
    every: int, unit: Any, length: int, *, newest_first: bool
) -> None:
    bucket_ = Bucket(unit=unit, every=every, zone="Europe/Berlin")
    starts = [bucket_.floor(nanoseconds(datetime(2020, 1, 2, 12, tzinfo=UTC)))]
    while len(starts) < length + 5:
        starts.append(bucket_.after(starts[-1]))
    span = starts[0], starts[length]
    walk = uncounted.Walk(
        Half(starts[0] - DAY * 10**9, starts[-1]),
        SimpleNamespace(bucket=bucket_, types=None),  # type: ignore[arg-type]
        SimpleNamespace(time="timestamp", type="type"),  # type: ignore[arg-type]
        "events",
        uncounted.Uncounted.of([], [span]),
        newest_first=newest_first,
        size=uncounted.FOUND,
    )
    found: list[int] = []

    while (run := await walk.next()) is not None:
        found += run.starts

    assert sorted(found) == starts[:length]
