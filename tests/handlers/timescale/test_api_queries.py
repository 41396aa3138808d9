"""The questions of the platform's dashboard: the same SQL on TimescaleDB and PostgreSQL, and what plain Python counts.

The catalogue is migrated, the events go through a recorder, every policy is run once, and then each statement is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from eventrec import EventRecorder, handler_from_url, migration_target_from_url
from eventrec.analytics import MigrationRunner, plan_of
from eventrec.testing import assert_conserved

pytestmark = [pytest.mark.handlers, pytest.mark.xdist_group("timescale"), pytest.mark.timeout(300)]  # it is fetched

Row = dict[str, Any]
POLICIES = {"policy_compression": 1, "policy_refresh_continuous_aggregate": 12, "policy_retention": 1}


@dataclass
class Platform:
    """A database of the platform, with its events in it and all policies run.

    Attributes:
        ask: The rows that a statement gives.
        events: What happened, each event once: type, moment, and what it says.
        now: The present moment, as the dashboard has it.
        retain: Refresh all rollups to the end, and then let retention remove all events, as if months had passed.
    """

    ask: Callable[..., list[Row]]
    retain: Callable[[], None]
    events: Sequence[tuple[str, datetime, Mapping[str, Any]]]
    now: datetime

    def of(self, *types: str) -> Iterator[tuple[datetime, Mapping[str, Any]]]:
        return ((at, said) for kind, at, said in self.events if kind in types)

    def count(self, kind: str) -> int:
        return sum(1 for _ in self.of(kind))


async def migrated(url: str, example: Any) -> None:
    async with migration_target_from_url(url) as target:
        await MigrationRunner(target, catalogue=example.catalogue.catalogue).run()


async def recorded(url: str, example: Any, events: Sequence[Any]) -> None:
    async with EventRecorder(url, layouts=example.catalogue.catalogue.layouts) as recorder:
        for event in events:
            assert recorder.record(event)
        assert await recorder.flush(timeout=120)
        status = await recorder.close()
    assert_conserved(status, offered=len(events))


async def refreshed(url: str, example: Any, now: datetime) -> None:
    """As if every bucket had ended."""
    catalogue = example.catalogue.catalogue
    plans = [plan_of(rollup) for rollup in catalogue.rollups]
    handler = handler_from_url(url)
    handler.use_layouts({layout.table: layout for layout in catalogue.layouts})
    rollups = handler.rollups()
    assert rollups is not None
    async with rollups as store:
        done = await store.refresh(plans, now=int((now + timedelta(days=70)).timestamp()) * 1_000_000_000)
    assert (done.remaining, done.late) == (0, 0)


@pytest.fixture(scope="module")
def made(platform_analytics: Any) -> tuple[datetime, list[Any]]:
    """The present, and what has happened since the midnight before yesterday's: so all policies come to it."""
    now = datetime.now(UTC)
    start = datetime(now.year, now.month, now.day, tzinfo=UTC) - timedelta(days=2)
    arrived = platform_analytics.generate.arrivals(start=start, days=3, number=2_500, users=60, doubled=0.05)
    return now, [event for event in arrived if event.timestamp < (now.timestamp() - 60) * 1_000_000_000]


def once(events: Sequence[Any]) -> list[tuple[str, datetime, Mapping[str, Any]]]:
    start = datetime(1970, 1, 1, tzinfo=UTC)
    return [
        (event.type, start + timedelta(microseconds=event.timestamp // 1_000), msgspec.json.decode(event.payload))
        for event in {event.id: event for event in events}.values()
    ]


@pytest.fixture
def on_timescale(schema: Any, platform_analytics: Any, made: tuple[datetime, list[Any]]) -> Platform:
    now, events = made
    url = schema.url()
    asyncio.run(migrated(url, platform_analytics))
    asyncio.run(recorded(url, platform_analytics, events))
    assert {kind: schema.run_jobs(kind) for kind in POLICIES} == POLICIES

    def ask(sql: str, *values: object) -> list[Row]:
        return schema.records(sql, *values)  # type: ignore[no-any-return]

    def retain() -> None:
        names = [plan_of(rollup).name for rollup in platform_analytics.catalogue.catalogue.rollups]
        schema.execute(*(f"CALL refresh_continuous_aggregate('{name}', NULL, NULL)" for name in names))
        schema.execute("SELECT drop_chunks('analytics_events', now() + interval '1 day')")

    return Platform(ask, retain, once(events), now)


@pytest.fixture
def on_postgresql(
    postgres_server: Any, postgres_database: str, platform_analytics: Any, made: tuple[datetime, list[Any]]
) -> Platform:
    now, events = made
    url = postgres_server.url(postgres_database)
    asyncio.run(migrated(url, platform_analytics))
    asyncio.run(recorded(url, platform_analytics, events))
    asyncio.run(refreshed(url, platform_analytics, now))

    async def fetch(sql: str, values: tuple[object, ...]) -> list[Row]:
        connection = await asyncpg.connect(url)
        try:
            return [dict(row) for row in await connection.fetch(sql, *values)]
        finally:
            await connection.close()

    return Platform(
        lambda sql, *values: asyncio.run(fetch(sql, values)),
        lambda: asyncio.run(refreshed(url, platform_analytics, now + timedelta(days=100))),
        once(events),
        now,
    )


@pytest.fixture(scope="session")
def counts(load_module: Callable[[Path], Any]) -> Any:
    """What plain Python counts."""
    return load_module(Path(__file__).with_name("platform_counts.py"))


@pytest.fixture(params=["on_timescale", "on_postgresql"])
def platform(request: pytest.FixtureRequest) -> Platform:
    found: Platform = request.getfixturevalue(request.param)
    return found


def same(found: Sequence[Row], wanted: Sequence[Row]) -> None:
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert list(one) == list(other)
        assert one == {
            name: pytest.approx(value, rel=1e-9) if isinstance(value, float) else value for name, value in other.items()
        }
        assert {name: type(value) for name, value in one.items() if value is not None} == {
            name: type(value) for name, value in other.items() if value is not None
        }


# -- the questions


def test_every_question_is_answered_as_plain_python_does(
    platform: Platform, platform_analytics: Any, counts: Any
) -> None:
    sql = platform_analytics.queries
    everything = (platform.now - timedelta(days=80), platform.now)

    same(platform.ask(sql.OVERVIEW, platform.now), [counts.overview(platform)])
    same(platform.ask(sql.USERS_DAILY, *everything), counts.users_per(platform, counts.day))
    same(
        platform.ask(sql.USERS_WEEKLY, *everything),
        counts.users_per(platform, lambda at: counts.day(at) - timedelta(days=at.weekday())),
    )
    same(
        platform.ask(sql.USERS_MONTHLY, *everything),
        counts.users_per(platform, lambda at: counts.day(at).replace(day=1)),
    )
    same(platform.ask(sql.TASKS_DAILY, *everything), counts.tasks_daily(platform))
    same(platform.ask(sql.TASKS_OVERVIEW, *everything), [counts.tasks_overview(platform)])
    found = counts.latencies(platform)
    names = ("service", "endpoint", "method")
    found.sort(key=lambda row: (-row["hour"].timestamp(), -row["p99_duration_ms"], *map(row.get, names)))
    same(platform.ask(sql.API_LATENCY, *everything), found[:1_000])
    recent = [row for row in found if platform.now - timedelta(hours=24) < row["hour"] <= platform.now]
    recent.sort(key=lambda row: (-row["p99_duration_ms"], -row["hour"].timestamp(), *map(row.get, names)))
    same(platform.ask(sql.API_SLOWEST, platform.now), recent[:10])
    same(platform.ask(sql.INTEGRATIONS_HEALTH, *everything), counts.integrations(platform))
    same(platform.ask(sql.AUTH_DAILY, *everything), counts.auth(platform))
    same(platform.ask(sql.COCOONS_DAILY, *everything), counts.cocoons(platform))
    wanted = counts.errors(platform)
    same(platform.ask(sql.ERRORS, *everything, 100, 0), wanted[:100])
    same(platform.ask(sql.ERRORS, *everything, 3, 2), wanted[2:5])


def test_questions_about_a_time_without_events_are_answered(platform: Platform, platform_analytics: Any) -> None:
    sql = platform_analytics.queries
    before = (platform.now - timedelta(days=800), platform.now - timedelta(days=700))

    (overview_of_tasks,) = platform.ask(sql.TASKS_OVERVIEW, *before)

    assert list(overview_of_tasks.values()) == [0, 0, 0, 0, 0.0, None]
    assert platform.ask(sql.USERS_DAILY, *before) == []
    assert platform.ask(sql.OVERVIEW, before[1])[0]["active_users_month"] == 0


def test_totals_and_days_outlive_the_events(platform: Platform, platform_analytics: Any, counts: Any) -> None:
    sql = platform_analytics.queries
    everything = (platform.now - timedelta(days=80), platform.now)
    totals = ("total_users", "total_tasks", "total_cocoons", "total_integrations", "task_success_rate")
    (before,) = platform.ask(sql.OVERVIEW, platform.now)

    platform.retain()

    assert platform.ask("SELECT count(*) AS events FROM analytics_events") == [{"events": 0}]
    (after,) = platform.ask(sql.OVERVIEW, platform.now)
    assert [after[name] for name in totals] == [before[name] for name in totals]
    assert after["active_users_month"] == 0 < before["active_users_month"]  # of the events alone
    same(platform.ask(sql.USERS_DAILY, *everything), counts.users_per(platform, counts.day))
    same(platform.ask(sql.TASKS_DAILY, *everything), counts.tasks_daily(platform))
    same(platform.ask(sql.AUTH_DAILY, *everything), counts.auth(platform))
