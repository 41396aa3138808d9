"""The questions of the platform's dashboard: the same SQL on TimescaleDB and PostgreSQL, and what plain Python counts.

The catalogue is migrated, the events go through a recorder, every policy is run once, and then each statement is asked.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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


@pytest.fixture(params=["on_timescale", "on_postgresql"])
def platform(request: pytest.FixtureRequest) -> Platform:
    found: Platform = request.getfixturevalue(request.param)
    return found


# -- in plain Python


def day(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def percentile(values: Sequence[float], fraction: float) -> float:
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    low = math.floor(place)
    return ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (place - low)


def rate(part: int, others: int) -> float:
    return part / (part + others) if part + others else 0.0


def users_per(platform: Platform, bucket: Callable[[datetime], datetime]) -> list[Row]:
    found = defaultdict(list)
    for _, at, said in platform.events:
        if said.get("user_id") is not None:
            found[bucket(at)].append(said["user_id"])
    return [
        {"day": start, "active_users": len(set(users)), "total_events": len(users)}
        for start, users in sorted(found.items(), reverse=True)
    ]


def per_day(platform: Platform, prefix: str, *types: str) -> dict[datetime, dict[str, list[Mapping[str, Any]]]]:
    """What events say, by day and type, latest day first."""
    found: dict[datetime, dict[str, list[Mapping[str, Any]]]] = {}
    for kind in types:
        for at, said in platform.of(prefix + kind):
            found.setdefault(day(at), {each: [] for each in types})[kind].append(said)
    return dict(sorted(found.items(), reverse=True))


def latencies(platform: Platform) -> list[Row]:
    found = defaultdict(list)
    for at, said in platform.of("api_request"):
        found[hour(at), said["service"], said["endpoint"], said["method"]].append(said)
    rows = []
    for key, requests in found.items():
        took = [said["duration_ms"] for said in requests]
        status = [said["status_code"] for said in requests]
        rows.append(
            dict(zip(("hour", "service", "endpoint", "method"), key, strict=True))
            | {"request_count": len(took), "avg_duration_ms": statistics.fmean(took)}
            | {f"p{part}_duration_ms": percentile(took, part / 100) for part in (50, 95, 99)}
            | {
                "error_4xx_count": sum(400 <= code < 500 for code in status),
                "error_5xx_count": sum(code >= 500 for code in status),
            }
        )
    return rows


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


def test_every_question_is_answered_as_plain_python_does(platform: Platform, platform_analytics: Any) -> None:
    sql = platform_analytics.queries
    everything = (platform.now - timedelta(days=80), platform.now)

    same(platform.ask(sql.OVERVIEW, platform.now), [overview(platform)])
    same(platform.ask(sql.USERS_DAILY, *everything), users_per(platform, day))
    same(
        platform.ask(sql.USERS_WEEKLY, *everything),
        users_per(platform, lambda at: day(at) - timedelta(days=at.weekday())),
    )
    same(platform.ask(sql.USERS_MONTHLY, *everything), users_per(platform, lambda at: day(at).replace(day=1)))
    same(platform.ask(sql.TASKS_DAILY, *everything), tasks_daily(platform))
    same(platform.ask(sql.TASKS_OVERVIEW, *everything), [tasks_overview(platform)])
    found = latencies(platform)
    names = ("service", "endpoint", "method")
    found.sort(key=lambda row: (-row["hour"].timestamp(), -row["p99_duration_ms"], *map(row.get, names)))
    same(platform.ask(sql.API_LATENCY, *everything), found[:1_000])
    recent = [row for row in found if platform.now - timedelta(hours=24) < row["hour"] <= platform.now]
    recent.sort(key=lambda row: (-row["p99_duration_ms"], -row["hour"].timestamp(), *map(row.get, names)))
    same(platform.ask(sql.API_SLOWEST, platform.now), recent[:10])
    same(platform.ask(sql.INTEGRATIONS_HEALTH, *everything), integrations(platform))
    same(platform.ask(sql.AUTH_DAILY, *everything), auth(platform))
    same(platform.ask(sql.COCOONS_DAILY, *everything), cocoons(platform))
    wanted = errors(platform)
    same(platform.ask(sql.ERRORS, *everything, 100, 0), wanted[:100])
    same(platform.ask(sql.ERRORS, *everything, 3, 2), wanted[2:5])


def test_questions_about_a_time_without_events_are_answered(platform: Platform, platform_analytics: Any) -> None:
    sql = platform_analytics.queries
    before = (platform.now - timedelta(days=800), platform.now - timedelta(days=700))

    (overview_of_tasks,) = platform.ask(sql.TASKS_OVERVIEW, *before)

    assert list(overview_of_tasks.values()) == [0, 0, 0, 0, 0.0, None]
    assert platform.ask(sql.USERS_DAILY, *before) == []
    assert platform.ask(sql.OVERVIEW, before[1])[0]["active_users_month"] == 0


def test_totals_and_days_outlive_the_events(platform: Platform, platform_analytics: Any) -> None:
    sql = platform_analytics.queries
    everything = (platform.now - timedelta(days=80), platform.now)
    totals = ("total_users", "total_tasks", "total_cocoons", "total_integrations", "task_success_rate")
    (before,) = platform.ask(sql.OVERVIEW, platform.now)

    platform.retain()

    assert platform.ask("SELECT count(*) AS events FROM analytics_events") == [{"events": 0}]
    (after,) = platform.ask(sql.OVERVIEW, platform.now)
    assert [after[name] for name in totals] == [before[name] for name in totals]
    assert after["active_users_month"] == 0 < before["active_users_month"]  # of the events alone
    same(platform.ask(sql.USERS_DAILY, *everything), users_per(platform, day))
    same(platform.ask(sql.TASKS_DAILY, *everything), tasks_daily(platform))
    same(platform.ask(sql.AUTH_DAILY, *everything), auth(platform))


def overview(platform: Platform) -> Row:
    def distinct(name: str, *types: str, hours: float | None = None) -> int:
        return len(
            {
                said[name]
                for kind, at, said in platform.events
                if said.get(name) is not None
                and (not types or kind in types)
                and (hours is None or platform.now - timedelta(hours=hours) < at <= platform.now)
            }
        )

    today = users_per(platform, day)[0]
    return {
        "total_users": distinct("user_id"),
        "active_users_today": today["active_users"] if today["day"] == day(platform.now) else 0,
        "active_users_week": distinct("user_id", hours=168),
        "active_users_month": distinct("user_id", hours=720),
        "total_tasks": platform.count("task_created"),
        "tasks_today": sum(day(at) == day(platform.now) for at, _ in platform.of("task_created")),
        "task_success_rate": rate(platform.count("task_completed"), platform.count("task_failed")),
        "total_cocoons": distinct("cocoon_id"),
        "active_cocoons": distinct("cocoon_id", "cocoon_connected", hours=24),
        "total_integrations": distinct("integration_id"),
    }


def tasks_daily(platform: Platform) -> list[Row]:
    rows = []
    types = ("created", "started", "completed", "failed", "cancelled")
    for start, said in per_day(platform, "task_", *types).items():
        took = [one["duration_ms"] for one in said["completed"]]
        rows.append(
            {
                "day": start,
                **{kind: len(said[kind]) for kind in types},
                "avg_duration_ms": statistics.fmean(took) if took else None,
                "p95_duration_ms": percentile(took, 0.95) if took else None,
                "success_rate": rate(len(said["completed"]), len(said["failed"])),
            }
        )
    return rows


def tasks_overview(platform: Platform) -> Row:
    took = [said["duration_ms"] for _, said in platform.of("task_completed")]
    return {
        **{f"total_{kind}": platform.count(f"task_{kind}") for kind in ("created", "completed", "failed", "cancelled")},
        "success_rate": rate(len(took), platform.count("task_failed")),
        "avg_duration_ms": statistics.fmean(took),
    }


def integrations(platform: Platform) -> list[Row]:
    types = ("connected", "disconnected", "used", "error")
    found: defaultdict[tuple[datetime, str], list[tuple[str, str]]] = defaultdict(list)
    for kind in types:
        for at, said in platform.of(f"integration_{kind}"):
            found[day(at), said["provider"]].append((kind, said["user_id"]))
    rows = []
    for (start, provider), seen in sorted(found.items(), key=lambda item: (-item[0][0].timestamp(), item[0][1])):
        number = Counter(kind for kind, _ in seen)
        rows.append(
            {
                "day": start,
                "provider": provider,
                **dict(zip(("connections", "disconnections", "uses", "errors"), map(number.get, types), strict=True)),
                "unique_users": len({user for _, user in seen}),
                "error_rate": rate(number["error"], number["used"]),
            }
        )
    return [{name: 0 if value is None else value for name, value in row.items()} for row in rows]


def auth(platform: Platform) -> list[Row]:
    rows = []
    types = ("login_attempt", "code_verified", "token_refresh")
    for start, said in per_day(platform, "auth_", *types).items():
        logins = Counter(one["success"] for one in said["login_attempt"])
        users = {one["user_id"] for kind in types for one in said[kind]} - {None}
        rows.append(
            {
                "day": start,
                "login_attempts": logins.total(),
                "successful_logins": logins[True],
                "failed_logins": logins[False],
                "code_verifications": len(said["code_verified"]),
                "token_refreshes": len(said["token_refresh"]),
                "unique_users_authenticated": len(users),
                "login_success_rate": rate(logins[True], logins[False]),
            }
        )
    return rows


def cocoons(platform: Platform) -> list[Row]:
    rows = []
    types = ("registered", "connected", "disconnected", "claimed")
    for start, said in per_day(platform, "cocoon_", *types).items():
        lasted = [one["duration_seconds"] for one in said["disconnected"]]
        rows.append(
            {
                "day": start,
                "registrations": len(said["registered"]),
                "connections": len(said["connected"]),
                "disconnections": len(lasted),
                "claims": len(said["claimed"]),
                "avg_session_duration_seconds": statistics.fmean(lasted) if lasted else None,
                "unique_cocoons": len({one["cocoon_id"] for kind in types for one in said[kind]}),
            }
        )
    return rows


def errors(platform: Platform) -> list[Row]:
    found = defaultdict(list)
    for at, said in platform.of("application_error"):
        found[hour(at), said["service"], said["error_type"]].append((at, said["error_message"], said.get("user_id")))
    rows = [
        {
            "hour": start,
            "service": service,
            "error_type": kind,
            "error_count": len(seen),
            "affected_users": len({user for _, _, user in seen if user is not None}),
            "sample_error_message": min((at, message) for at, message, _ in seen)[1],
        }
        for (start, service, kind), seen in found.items()
    ]
    return sorted(
        rows, key=lambda row: (-row["hour"].timestamp(), -row["error_count"], row["service"], row["error_type"])
    )
