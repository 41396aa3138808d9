"""The platform's routes: each answers over HTTP what plain Python counts, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpcore2
import msgspec
import pytest

from eventrec import EventRecorder, handler_from_url, migration_target_from_url
from eventrec.analytics import MigrationRunner, plan_of
from eventrec.server import application
from eventrec.testing.servers import PostgresServer

TESTS = Path(__file__).parents[1]
PREFIX = "/api/analytics"
Row = dict[str, Any]
_numbers = count()


@dataclass
class Platform:
    """A database of the platform, what has happened, each event once, and the present moment."""

    url: str
    catalogue: Any
    events: Sequence[tuple[str, datetime, Mapping[str, Any]]]
    now: datetime

    def of(self, *types: str) -> Iterator[tuple[datetime, Mapping[str, Any]]]:
        return ((at, said) for kind, at, said in self.events if kind in types)

    def count(self, kind: str) -> int:
        return sum(1 for _ in self.of(kind))

    @property
    def everything(self) -> dict[str, str]:
        return {"start_date": "2020-01-01", "end_date": self.now.isoformat()}


@pytest.fixture(scope="module")
def counts(load_module: Callable[[Path], Any]) -> Any:
    return load_module(TESTS / "handlers" / "timescale" / "platform_counts.py")


@pytest.fixture(scope="module")
def made(platform_analytics: Any) -> tuple[datetime, list[Any]]:
    now = datetime.now(UTC)
    start = datetime(now.year, now.month, now.day, tzinfo=UTC) - timedelta(days=40)
    arrived = platform_analytics.generate.arrivals(start=start, days=41, number=1_200, users=40, doubled=0.05)
    return now, [event for event in arrived if event.timestamp < (now.timestamp() - 60) * 1_000_000_000]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def platform(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    platform_analytics: Any,
    made: tuple[datetime, list[Any]],
) -> Iterator[Platform]:
    now, events = made
    catalogue = platform_analytics.catalogue.catalogue
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('platform') / 'platform.db'}"
        asyncio.run(filled(url, catalogue, events))
        yield Platform(url, catalogue, once(events), now)
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with a_database(server) as url:
        asyncio.run(filled(url, catalogue, events))
        asyncio.run(refreshed(url, catalogue, now))
        yield Platform(url, catalogue, once(events), now)


def once(events: Sequence[Any]) -> list[tuple[str, datetime, Mapping[str, Any]]]:
    start = datetime(1970, 1, 1, tzinfo=UTC)
    return [
        (event.type, start + timedelta(microseconds=event.timestamp // 1_000), msgspec.json.decode(event.payload))
        for event in {event.id: event for event in events}.values()
    ]


@contextmanager
def a_database(server: PostgresServer) -> Iterator[str]:
    """The URL of one for these tests alone."""
    database = f"routes_{next(_numbers)}"
    server.execute(f"CREATE DATABASE {database}")
    yield server.url(database)
    server.execute(f"DROP DATABASE {database} WITH (FORCE)")


async def filled(url: str, catalogue: Any, events: Sequence[Any]) -> None:
    async with migration_target_from_url(url) as target:
        await MigrationRunner(target, catalogue=catalogue).run()
    async with EventRecorder(url, layouts=catalogue.layouts) as recorder:
        for event in events:
            assert recorder.record(event)
        assert await recorder.flush(timeout=60)


async def refreshed(url: str, catalogue: Any, now: datetime) -> None:
    """As if every bucket had ended."""
    handler = handler_from_url(url)
    handler.use_layouts({layout.table: layout for layout in catalogue.layouts})
    rollups = handler.rollups()
    assert rollups is not None
    async with rollups as store:
        moment = int((now + timedelta(days=70)).timestamp()) * 1_000_000_000
        done = await store.refresh([plan_of(each) for each in catalogue.rollups], now=moment)
    assert (done.remaining, done.late) == (0, 0)


@pytest.fixture
def ask_of(
    platform_analytics: Any, load_module: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Asks a platform, at its present moment, for a path."""
    routes = platform_analytics.routes
    shared = load_module(TESTS / "server" / "reading" / "conftest.py")

    async def get(platform: Platform, path: str, asked: dict[str, object]) -> Any:
        recorder = EventRecorder("memory:")
        app = application(recorder, to=platform.url, catalogue=platform.catalogue, routes=routes.ROUTES)
        found = await shared.Client(app).get(path, **asked)
        await app.state.server.pool.close()
        return found

    def told(platform: Platform, path: str, **asked: object) -> Any:
        now = int(platform.now.timestamp()) * 1_000_000_000 + platform.now.microsecond * 1_000
        monkeypatch.setattr(platform_analytics.asking, "present", lambda: now)
        return asyncio.run(get(platform, path, asked))

    return told


@pytest.fixture
def ask(platform: Platform, ask_of: Callable[..., Any]) -> Callable[..., Any]:
    return partial(ask_of, platform)


def read(answered: Any) -> Any:
    """The JSON of an answer, with its times."""
    assert answered.status == 200, answered.body
    document = answered.json
    for row in document if isinstance(document, list) else []:
        for name in {"day", "hour"} & row.keys():
            row[name] = datetime.fromisoformat(row[name])
    return document


def same(found: Sequence[Row], wanted: Sequence[Row]) -> None:
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert list(one) == list(other)
        assert one == {
            name: pytest.approx(value, rel=1e-9) if isinstance(value, float) else value for name, value in other.items()
        }


def test_overview_is_what_plain_python_counts(platform: Platform, ask: Callable[..., Any], counts: Any) -> None:
    same([read(ask("/overview"))], [counts.overview(platform)])


def test_users_are_counted_once_in_each_day_week_and_month(
    platform: Platform, ask: Callable[..., Any], counts: Any
) -> None:
    day = counts.day

    same(read(ask("/users/daily", **platform.everything)), counts.users_per(platform, day))
    weekly = read(ask("/users/weekly", **platform.everything))
    same(weekly, counts.users_per(platform, lambda at: day(at) - timedelta(days=at.weekday())))
    monthly = read(ask("/users/monthly", **platform.everything))
    same(monthly, counts.users_per(platform, lambda at: day(at).replace(day=1)))
    of_days = sum(row["active_users"] for row in read(ask("/users/daily", **platform.everything)))
    assert sum(row["active_users"] for row in weekly) < of_days


def test_tasks_are_what_plain_python_counts(platform: Platform, ask: Callable[..., Any], counts: Any) -> None:
    same(read(ask("/tasks/daily", **platform.everything)), counts.tasks_daily(platform))
    found = read(ask("/tasks/overview", **platform.everything))
    same([found], [counts.tasks_overview(platform)])


def test_latencies_are_what_plain_python_counts(platform: Platform, ask: Callable[..., Any], counts: Any) -> None:
    names = ("service", "endpoint", "method")
    rows = counts.latencies(platform)
    rows.sort(key=lambda row: (-row["hour"].timestamp(), -row["p99_duration_ms"], *map(row.get, names)))
    recent = [row for row in rows if platform.now - timedelta(hours=24) < row["hour"] <= platform.now]
    recent.sort(key=lambda row: (-row["p99_duration_ms"], -row["hour"].timestamp(), *map(row.get, names)))

    same(read(ask("/api/latency", **platform.everything)), rows[:1_000])
    same(read(ask("/api/slowest")), recent[:10])


def test_a_limit_ends_in_the_middle_of_an_hour_in_its_order(
    platform_analytics: Any, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recent = {"start_date": "-2d"}
    whole = read(ask("/api/latency", **recent))
    monkeypatch.setattr(platform_analytics.asking, "PAGE", 3)
    for number in (1, 2, 7):
        monkeypatch.setattr(platform_analytics.routes, "LATENCY_ROWS", number)
        assert read(ask("/api/latency", **recent)) == whole[:number]


def test_the_four_that_were_missing_are_what_plain_python_counts(
    platform: Platform, ask: Callable[..., Any], counts: Any
) -> None:
    everything = platform.everything

    same(read(ask("/integrations/health", **everything)), counts.integrations(platform))
    same(read(ask("/auth/daily", **everything)), counts.auth(platform))
    same(read(ask("/cocoons/daily", **everything)), counts.cocoons(platform))
    wanted = counts.errors(platform)
    same(read(ask("/errors", **everything)), wanted[:100])
    same(read(ask("/errors", **everything, limit=3, offset=2)), wanted[2:5])
    assert read(ask("/errors", **everything, limit=0)) == []


def test_both_spellings_are_understood_and_the_default_is_thirty_days(
    platform: Platform, ask: Callable[..., Any], counts: Any
) -> None:
    start, end = platform.now - timedelta(days=9), platform.now - timedelta(days=3)

    snake = read(ask("/users/daily", start_date=start.isoformat(), end_date=end.isoformat(), cache="no"))
    camel = read(ask("/users/daily", startDate=start.isoformat(), endDate=end.isoformat()))
    default = read(ask("/users/daily"))

    assert snake == camel
    assert {start <= row["day"] <= end for row in snake} == {True}
    assert len(snake) == 6
    days = [row["day"] for row in counts.users_per(platform, counts.day)]
    assert [row["day"] for row in default] == [day for day in days if day > platform.now - timedelta(days=30)]
    assert len(default) >= 29  # shortly after midnight nobody may have been active today


@pytest.mark.parametrize(
    ("path", "asked", "said"),
    [
        ("/users/daily", {"start_date": "last week"}, "start_date: 'last week' is not a time"),
        ("/tasks/overview", {"endDate": "2026-02-30"}, "endDate: '2026-02-30' is not a time"),
        ("/auth/daily", {"start_date": "2026-01-01", "startDate": "2026-01-02"}, "start_date: it may stand only once"),
        ("/errors", {"limit": "many"}, "limit: a whole number from 0 to 10000"),
        ("/errors", {"offset": "-1"}, "offset: a whole number from 0 to 10000"),
    ],
)
def test_a_bad_date_is_refused_by_its_name(
    ask: Callable[..., Any], path: str, asked: dict[str, str], said: str
) -> None:
    found = ask(path, **asked)

    assert found.status == 400
    assert found.detail.startswith(said)


def test_a_time_without_events_is_answered(ask: Callable[..., Any]) -> None:
    before = {"start_date": "2001-01-01", "end_date": "2001-02-01"}

    assert read(ask("/users/weekly", **before)) == []
    assert list(read(ask("/tasks/overview", **before)).values()) == [0, 0, 0, 0, 0.0, None]


def test_an_answer_says_how_far_it_is_complete(platform: Platform, ask: Callable[..., Any]) -> None:
    found = ask("/users/daily", **platform.everything)

    newest = max(at for _, at, _ in platform.events)  # what comes later may be of a user: it is complete up to here
    complete_to = datetime.fromisoformat(found.headers["eventrec-complete-to"])
    assert abs(complete_to - newest) < timedelta(milliseconds=1)
    assert found.headers["eventrec-pending"] == "0"


def test_totals_outlive_the_events(
    platform_analytics: Any,
    ask_of: Callable[..., Any],
    counts: Any,
    postgres_server: PostgresServer,
    made: tuple[datetime, list[Any]],
) -> None:
    now, events = made
    catalogue = platform_analytics.catalogue.catalogue

    with a_database(postgres_server) as url:
        platform = Platform(url, catalogue, once(events), now)
        asyncio.run(filled(url, catalogue, events))
        asyncio.run(refreshed(url, catalogue, now + timedelta(days=60)))
        after = read(ask_of(platform, "/overview"))
        days = read(ask_of(platform, "/tasks/daily", **platform.everything))

    before = counts.overview(platform)
    for name in ("total_users", "total_tasks", "total_cocoons", "total_integrations"):
        assert after[name] == before[name] > 0
    assert after["active_users_month"] == 0 < before["active_users_month"]
    same(days, counts.tasks_daily(platform))


def test_each_route_is_answered_under_the_prefix_too(platform_analytics: Any) -> None:
    paths = [route.path for route in platform_analytics.routes.ROUTES]

    plain = [path for path in paths if not path.startswith(f"{PREFIX}/")]
    assert len(plain) == 12
    assert sorted(paths) == sorted([*plain, *(PREFIX + path for path in plain)])


def test_a_route_of_ones_own_does_not_hide_one_of_the_server(platform_analytics: Any, tmp_path: Path) -> None:
    (users, *_) = (route for route in platform_analytics.routes.ROUTES if route.path == "/users/daily")
    url = f"sqlite:///{tmp_path / 'platform.db'}"

    for routes in ([replace(users, path="/rollups")], [users, users]):
        with pytest.raises(ValueError, match=r"there is a route GET /(rollups|users/daily) already"):
            application(EventRecorder("memory:"), to=url, routes=routes)


def test_the_script_serves_the_platform(tmp_path: Path, platform_analytics: Any) -> None:
    example = TESTS.parent / "examples" / "platform_analytics"
    url = f"sqlite:///{tmp_path / 'platform.db'}"
    start = datetime.now(UTC) - timedelta(days=3)
    events = list(platform_analytics.generate.arrivals(start=start, days=2, number=50, users=5))
    asyncio.run(filled(url, platform_analytics.catalogue.catalogue, events))
    command = [sys.executable, str(example / "serve.py"), "--to", url, "--port", "0"]

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "running on" in line)
            address = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert address is not None
            with httpcore2.ConnectionPool() as pool:
                found = msgspec.json.decode(pool.request("GET", f"{address[0]}/overview").content)
        finally:
            process.terminate()
            process.communicate(timeout=200)

    assert 0 < found["total_users"] <= 5
