"""A made-up year of the platform means the same on four databases, and what brute force computes.

Its events come skewed, some late, some twice with one id, from users in three zones that change their clocks.

    EVENTREC_TEST_YEAR=1000000 python -m pytest -s -m handlers tests/analytics/test_year.py

says how many there are (1,500 else), and prints a line for each database: what was stored and compared, and how long
that took.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from uuid import UUID

import anyio
import asyncpg
import pytest

from eventrec import Batch, Layout, ReceivedEvent, StoredEvent, handler_from_url, migration_target_from_url
from eventrec.analytics import (
    Answer,
    Catalogue,
    MigrationRunner,
    Question,
    Rollup,
    RollupPlan,
    RollupStore,
    avg,
    brute_force,
    bucket,
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
    plan_of,
    sum_of,
)
from eventrec.cli.query.query import query
from eventrec.cli.query.showing import answer_json, show_chart, show_table
from eventrec.cli.terminal import Terminal
from eventrec.events.encoder import Encoder
from eventrec.testing.clickhouse_http import ClickHouseDatabase
from eventrec.testing.rollups import assert_same_answer, stored_event
from eventrec.testing.servers import PostgresServer
from eventrec.testing.timescale import TimescaleServer

NUMBER: Final = int(os.environ.get("EVENTREC_TEST_YEAR", "1500"))

pytestmark = [
    pytest.mark.handlers,
    pytest.mark.xdist_group("timescale"),  # one worker makes the year, and starts the server, once
    pytest.mark.timeout(300 + NUMBER // 100),
]

LOG: Final = UUID("01990000-0000-7000-8000-000000000002")
HOUR: Final = 3_600 * 1_000_000_000
START: Final = datetime(2025, 1, 1, tzinfo=UTC)
AFTER: Final = int(datetime(2026, 1, 20, tzinfo=UTC).timestamp()) * 1_000_000_000
BATCH: Final = 5_000
TABLE: Final = "analytics_events"
USER: Final = payload("user_id", kind="uuid")


class OfTypes(Rollup, name="year_of_types", table=TABLE):
    """Counts every event: of one that was stored twice, two."""

    month = bucket("1 month")
    kind = group(event_type)
    events = count()
    oldest = min_of(event_timestamp)
    newest = max_of(event_timestamp)


class ZurichWeeks(Rollup, name="year_zurich_weeks", table=TABLE):
    week = bucket("1 week", zone="Europe/Zurich")
    service = group(payload("service", kind="text"))
    users = distinct(USER)
    requests = count(where=event_type == "api_request")
    slow = count(where=(payload("duration_ms", kind="integer") > 100) & ~USER.is_null())
    lowest = min_of(payload("duration_ms", kind="integer"))
    highest = max_of(payload("duration_ms", kind="float"))


class ZurichDays(Rollup, name="year_zurich_days", table=TABLE, events=["api_request"]):
    day = bucket("1 day", zone="Europe/Zurich")
    endpoint = group(payload("endpoint", kind="text"))
    median = percentile(payload("duration_ms", kind="integer"), 0.5)
    earliest = first(payload("method", kind="text"))
    latest = last(payload("status_code", kind="integer"))
    total = sum_of(payload("duration_ms", kind="integer"))


class NewYorkMonths(Rollup, name="year_new_york_months", table=TABLE, events=["proxy_request", "balance_debit"]):
    month = bucket("1 month", zone="America/New_York")
    is_streaming = group(payload("is_streaming", kind="boolean"))
    tokens = sum_of(payload("total_tokens", kind="integer"))
    cost = sum_of(payload("reported_cost_usd", kind="float"))
    mean = avg(payload("latency_ms", kind="integer"))
    p99 = percentile(payload("latency_ms", kind="integer"), 0.99, where=payload("status", kind="text") == "success")


class NewYorkParts(Rollup, name="year_new_york_parts", table=TABLE, where=payload("success", kind="boolean").is_true()):
    """Around a change of the clock they are of five and of seven hours, and no continuous aggregate has them."""

    part = bucket("6 hours", zone="America/New_York")
    users = distinct(USER)
    events = count()


class LordHoweDays(Rollup, name="year_lord_howe_days", table=TABLE, events=["application_error", "task_failed"]):
    """The clock of this zone is changed by half an hour."""

    day = bucket("1 day", zone="Australia/Lord_Howe")
    error = group(payload("error_type", kind="text"))
    kinds = distinct(payload("error_message", kind="text"))
    sample = last(payload("error_message", kind="text"))
    attempts = sum_of(payload("context", "attempt", kind="integer"))
    p95 = percentile(payload("duration_ms", kind="float"), 0.95)


OTHERS: Final = (OfTypes, ZurichWeeks, ZurichDays, NewYorkMonths, NewYorkParts, LordHoweDays)


@dataclass
class Year:
    """The events in the order in which they arrive, some twice, and what their rollups have to tell.

    Attributes:
        arrivals: All of them.
        catalogue: The table and the rollups.
        stored: Each event once: what a database has to keep.
        late: How many arrived an hour or more after one that happened later.
    """

    arrivals: Sequence[ReceivedEvent]
    catalogue: Catalogue
    stored: list[StoredEvent] = field(init=False)
    late: int = field(init=False, default=0)
    _expected: dict[str, Answer] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.stored = [stored_event(event) for event in {event.id: event for event in self.arrivals}.values()]
        newest = 0
        for event in self.arrivals:
            happened = event.timestamp or 0
            newest = max(newest, happened)
            self.late += happened <= newest - HOUR

    @property
    def layout(self) -> Layout:
        return self.catalogue.layouts[0]

    @property
    def doubled(self) -> int:
        return len(self.arrivals) - len(self.stored)

    @property
    def rollups(self) -> list[RollupPlan]:
        return [plan_of(rollup) for rollup in self.catalogue.rollups]

    def expected(self, plan: RollupPlan) -> Answer:
        if plan.name not in self._expected:
            self._expected[plan.name] = brute_force(Question(plan), self.stored)
        return self._expected[plan.name]


@pytest.fixture(scope="module")
def year(platform_analytics: Any) -> Year:
    """Around the clock's changes of 2025: 30 March and 26 October, 9 March and 2 November, 6 April and 5 October."""
    declared = platform_analytics.catalogue.catalogue
    layout = replace(
        platform_analytics.layout.ANALYTICS_EVENTS,
        retention=None,  # it is past
        partition="day" if NUMBER >= 100_000 else "month",
    )
    year = Year(
        list(platform_analytics.generate.arrivals(number=NUMBER, start=START)),
        Catalogue(
            name="year",
            events=[each.cls for each in declared.events],
            layouts=[layout],
            rollups=[*declared.rollups, *OTHERS],
        ),
    )
    assert year.doubled >= NUMBER // 200
    assert year.late >= NUMBER // 100
    return year


class Figures:
    """What a database took, for the line that is printed."""

    def __init__(self, database: str, year: Year) -> None:
        counted = f"{len(year.arrivals):,} arrivals, {year.doubled:,} doubled, {year.late:,} late"
        self._said = [f"\nyear on {database}: {counted}, {len(year.stored):,} events"]
        self._since = time.perf_counter()

    def note(self, what: str) -> None:
        now = time.perf_counter()
        self._said.append(f"{what} in {now - self._since:.1f} s")
        self._since = now

    def show(self) -> None:
        sys.stdout.write("; ".join(self._said) + "\n")


# -- each database


async def migrate(url: str, year: Year) -> None:
    async with migration_target_from_url(url) as target:
        await MigrationRunner(target, catalogue=year.catalogue).run()


async def deliver(url: str, year: Year, start: int, end: int) -> None:
    """Deliver the arrivals from `start` to `end` as a worker would."""
    encode = Encoder().encode
    handler = handler_from_url(url)
    handler.use_layouts({TABLE: year.layout})
    await handler.open()
    try:
        if handler.checkpoints is not None:
            begin = await handler.checkpoints.resume(LOG, "year", start)
            assert begin == start
        for low in range(start, end, BATCH):
            entries: list[Any] = [encode(event) for event in year.arrivals[low : min(low + BATCH, end)]]
            high = low + len(entries)
            await handler.handle(
                Batch(log_id=LOG, subscription="year", start=low, end=high, offsets=range(low, high), entries=entries)
            )
    finally:
        await handler.close()


def rollups_of(url: str, year: Year) -> RollupStore:
    handler = handler_from_url(url)
    handler.use_layouts({TABLE: year.layout})
    store = handler.rollups()
    assert store is not None
    return store


async def compare(store: RollupStore, year: Year) -> int:
    """Compare every rollup; how many rows of answers that were."""
    rows = 0
    for rollup in year.rollups:
        found = await store.answer(Question(rollup))
        assert_same_answer(found, year.expected(rollup))
        rows += len(found.rows)
    return rows


def check_queries(url: str, year: Year, monkeypatch: pytest.MonkeyPatch) -> None:
    """`eventrec query` shows what brute force computes: as JSON, as a table and as a chart."""
    monkeypatch.setitem(sys.modules, "year_catalogue", SimpleNamespace(catalogue=year.catalogue))
    plan = next(plan for plan in year.rollups if plan.name == "analytics_errors_hourly")
    expected = brute_force(Question(plan, limit=20, newest_first=True), year.stored)
    ask = partial(query, plan.name, to=url, catalogue="year_catalogue:catalogue", limit=20, newest_first=True)

    assert json.loads(printed(partial(ask, json=True))) == json.loads(json.dumps(answer_json(expected, plan.bucket)))
    assert printed(ask) == printed(lambda: show_table(expected, plan.bucket, Terminal()))
    assert printed(partial(ask, chart=True)) == printed(lambda: show_chart(expected, plan.bucket, Terminal()))


def printed(command: Callable[[], object]) -> str:
    with redirect_stdout(StringIO()) as out:
        assert not command()
    assert out.getvalue().strip()
    return out.getvalue()


@pytest.fixture(scope="module")
def year_file(year: Year, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of SQLite that was migrated, and given the year."""
    path = tmp_path_factory.mktemp("year") / "year.db"
    url = f"sqlite:///{path}"
    anyio.run(migrate, url, year)
    anyio.run(deliver, url, year, 0, len(year.arrivals))
    return path


@pytest.fixture
def timescale_url(timescale_server: TimescaleServer) -> Iterator[str]:
    """The URL of a schema of one's own."""

    async def execute(sql: str) -> None:
        connection = await asyncpg.connect(timescale_server.url(scheme="postgresql"), statement_cache_size=0)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    anyio.run(execute, "CREATE SCHEMA year")
    yield f"{timescale_server.url()}&namespace=year"
    anyio.run(execute, "DROP SCHEMA year CASCADE")


# -- the year


def test_a_year_on_sqlite_equals_brute_force(year: Year, year_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = Figures("SQLite", year)
    url = f"sqlite:///{year_file}"

    async def check() -> None:
        async with rollups_of(url, year) as store:
            rows = await compare(store, year)
            figures.note(f"{len(year.rollups)} rollups of {rows:,} rows compared")

    anyio.run(check)
    check_queries(url, year, monkeypatch)
    figures.show()


async def check_refreshed(url: str, year: Year, figures: Figures) -> None:
    """Refreshed when most is there, asked while the rest waits to be counted, and again when it has been."""
    most = len(year.arrivals) * 9 // 10
    plans = year.rollups
    await migrate(url, year)
    figures.note("migrated")
    await deliver(url, year, 0, most)
    figures.note(f"{most:,} delivered")
    async with rollups_of(url, year) as store:
        assert (await store.refresh(plans, now=AFTER)).buckets > len(plans)
        figures.note("refreshed")
        await deliver(url, year, most, len(year.arrivals))
        figures.note("the rest delivered")
        rows = await compare(store, year)
        figures.note(f"{len(plans)} rollups of {rows:,} rows compared")
        assert (await store.refresh(plans, now=AFTER)).buckets > len(plans)
        figures.note("refreshed")
        await compare(store, year)
        figures.note("compared again")


def test_a_year_on_postgresql_equals_brute_force(
    year: Year, postgres_server: PostgresServer, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = Figures("PostgreSQL", year)
    url = postgres_server.url(postgres_database)
    anyio.run(check_refreshed, url, year, figures)
    check_queries(url, year, monkeypatch)
    figures.show()


def test_a_year_on_timescaledb_equals_brute_force(
    year: Year, timescale_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = Figures("TimescaleDB", year)
    anyio.run(check_refreshed, timescale_url, year, figures)
    check_queries(timescale_url, year, monkeypatch)
    figures.show()


def test_a_year_on_clickhouse_equals_brute_force(
    year: Year, clickhouse: ClickHouseDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its table has no ids, so it is given each event once; from the events, and from the views that keep rollups."""
    figures = Figures("ClickHouse", year)
    once = Year([*{event.id: event for event in year.arrivals}.values()], year.catalogue)
    url, half = clickhouse.url(), len(once.arrivals) // 2

    async def check() -> None:
        await deliver(url, once, 0, half)
        async with rollups_of(url, once) as store:
            refreshed = await store.refresh(once.rollups)
            figures.note(f"{half:,} delivered, {refreshed.buckets} of {len(once.rollups)} rollups kept")
            assert 0 < refreshed.buckets == len(once.rollups) - len(refreshed.remarks)
            await deliver(url, once, half, len(once.arrivals))
            rows = await compare(store, once)
            figures.note(f"{len(once.rollups)} rollups of {rows:,} rows compared")

    anyio.run(check)
    check_queries(url, once, monkeypatch)
    figures.show()
