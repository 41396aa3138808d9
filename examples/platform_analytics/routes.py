"""What the platform's dashboard asks over HTTP: the paths, parameters and answers that it has always had.

They are routes of one's own, beside those that a server has by itself; `serve.py` makes such a server. Each puts
questions to rollups of the catalogue, so any database answers them that answers rollups.

    /overview                                            how much there is, and how many were active
    /users/daily, /users/weekly, /users/monthly          who was active: each user once a day, a week, a month
    /tasks/daily, /tasks/overview                        how tasks went
    /api/latency, /api/slowest                           how long requests took, by hour and endpoint
    /integrations/health, /auth/daily, /cocoons/daily, /errors

Each of them also under `/api/analytics`. Times are ISO 8601, `start_date` and `end_date`, or `startDate` and `endDate`;
by default the last 30 days. A rate is between 0 and 1, and 0 where there was nothing to succeed. Headers say how far an
answer is complete.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, Final

from answers import (
    ApiLatency,
    AuthDay,
    CocoonDay,
    ErrorHour,
    IntegrationDay,
    Overview,
    TaskDay,
    TasksOverview,
    UsersDay,
)
from asking import DAY, EPOCH, SECOND, Answering, Asking, Row, endpoint, made, number, rate, text_order
from eventrec.analytics import Rollup, bucket, count, event_timestamp, group, plan_of
from eventrec.server import JSON, Query, Route
from events import CocoonConnected
from rollups import (
    COCOON,
    TABLE,
    USER,
    ApiLatencyHourly,
    AuthEventsDaily,
    CocoonActivityDaily,
    DailyActiveUsers,
    ErrorsHourly,
    IntegrationHealthDaily,
    KnownCocoons,
    KnownIntegrations,
    KnownUsers,
    MonthlyActiveUsers,
    TaskStatsDaily,
    WeeklyActiveUsers,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

LATENCY_ROWS: Final = 1_000
SLOWEST: Final = 10
ERROR_ROWS: Final = 100
MAX_ERROR_ROWS: Final = 10_000
PREFIX: Final = "/api/analytics"


# -- users


async def users_daily(asking: Asking, _: Request) -> list[UsersDay]:
    return made(UsersDay, await asking.asked(DailyActiveUsers))


async def users_weekly(asking: Asking, _: Request) -> list[UsersDay]:
    return made(UsersDay, await asking.asked(WeeklyActiveUsers), day=lambda row: row["week"])


async def users_monthly(asking: Asking, _: Request) -> list[UsersDay]:
    return made(UsersDay, await asking.asked(MonthlyActiveUsers), day=lambda row: row["month"])


# -- tasks


async def tasks_daily(asking: Asking, _: Request) -> list[TaskDay]:
    rows = await asking.asked(TaskStatsDaily)
    return made(TaskDay, rows, success_rate=lambda row: rate(row["completed"], row["failed"]))


async def tasks_overview(asking: Asking, _: Request) -> TasksOverview:
    rows = await asking.asked(TaskStatsDaily)
    total = {name: sum(row[name] for row in rows) for name in ("created", "completed", "failed", "cancelled")}
    # The mean of all tasks, not that of the days: a day of many tasks weighs more.
    timed = [row for row in rows if row["avg_duration_ms"] is not None]
    weight = sum(row["completed"] for row in timed)
    return TasksOverview(
        total_created=total["created"],
        total_completed=total["completed"],
        total_failed=total["failed"],
        total_cancelled=total["cancelled"],
        success_rate=rate(total["completed"], total["failed"]),
        avg_duration_ms=sum(row["avg_duration_ms"] * row["completed"] for row in timed) / weight if weight else None,
    )


# -- requests


def slowest_first(row: Row) -> tuple[Any, ...]:
    p99 = row["p99_duration_ms"]
    return (p99 is None, -(p99 or 0.0))


def named(row: Row) -> tuple[Any, ...]:
    return tuple(map(text_order, (row["service"], row["endpoint"], row["method"])))


def whole_hours(wanted: int) -> Callable[[list[Row]], bool]:
    """Whether the hour of the last row that is wanted has come to its end."""
    return lambda rows: len(rows) > wanted and rows[-1]["hour"] < rows[wanted - 1]["hour"]


async def api_latency(asking: Asking, _: Request) -> list[ApiLatency]:
    rows = await asking.asked(ApiLatencyHourly, enough=whole_hours(LATENCY_ROWS))
    rows.sort(key=lambda row: (-row["hour"].timestamp(), *slowest_first(row), *named(row)))
    return made(ApiLatency, rows[:LATENCY_ROWS])


async def api_slowest(asking: Asking, _: Request) -> list[ApiLatency]:
    rows = await asking.rows(ApiLatencyHourly, start=asking.now - DAY + 1, end=asking.now)
    slowest = nsmallest(SLOWEST, rows, key=lambda row: (*slowest_first(row), -row["hour"].timestamp(), *named(row)))
    return made(ApiLatency, slowest)


# -- integrations, authentication, cocoons, errors


async def integrations_health(asking: Asking, _: Request) -> list[IntegrationDay]:
    rows = await asking.asked(IntegrationHealthDaily)
    rows.sort(key=lambda row: (-row["day"].timestamp(), text_order(row["provider"])))
    return made(IntegrationDay, rows, error_rate=lambda row: rate(row["errors"], row["uses"]))


async def auth_daily(asking: Asking, _: Request) -> list[AuthDay]:
    rows = await asking.asked(AuthEventsDaily)
    return made(AuthDay, rows, login_success_rate=lambda row: rate(row["successful_logins"], row["failed_logins"]))


async def cocoons_daily(asking: Asking, _: Request) -> list[CocoonDay]:
    return made(CocoonDay, await asking.asked(CocoonActivityDaily))


async def errors(asking: Asking, request: Request) -> list[ErrorHour]:
    limit = number(request, "limit", default=ERROR_ROWS, high=MAX_ERROR_ROWS)
    offset = number(request, "offset", default=0, high=MAX_ERROR_ROWS)
    rows = await asking.asked(ErrorsHourly, enough=whole_hours(max(1, offset + limit)))
    rows.sort(
        key=lambda row: (
            -row["hour"].timestamp(),
            -row["error_count"],
            text_order(row["service"]),
            text_order(row["error_type"]),
        )
    )
    return made(ErrorHour, rows[offset : offset + limit])


# -- all of it


async def overview(asking: Asking, _: Request) -> Overview:
    today = asking.now - asking.now % DAY
    users = await asking.rows(DailyActiveUsers, start=today, end=today)
    tasks = await asking.rows(TaskStatsDaily, start=None, end=None)
    task_total: defaultdict[str, int] = defaultdict(int)
    for row in tasks:
        for name in ("created", "completed", "failed"):
            task_total[name] += row[name]
    return Overview(
        # Of all time: what was counted stays, whatever has become of the events.
        total_users=await different(asking, KnownUsers, "user_id"),
        active_users_today=sum(row["active_users"] for row in users),
        active_users_week=await different(asking, active_users(asking.now, hours=168), "user_id", hours=168),
        active_users_month=await different(asking, active_users(asking.now, hours=720), "user_id", hours=720),
        total_tasks=task_total["created"],
        tasks_today=sum(row["created"] for row in tasks if row["day"].timestamp() == today // SECOND),
        task_success_rate=rate(task_total["completed"], task_total["failed"]),
        total_cocoons=await different(asking, KnownCocoons, "cocoon_id"),
        active_cocoons=await different(asking, connected_cocoons(asking.now), "cocoon_id", hours=24),
        total_integrations=await different(asking, KnownIntegrations, "integration_id"),
    )


async def different(asking: Asking, rollup: type[Rollup], name: str, *, hours: int | None = None) -> int:
    """How many values the group `name` has; of `hours` until now, where they are given."""
    start = None if hours is None else plan_of(rollup).bucket.floor(asking.now - hours * 3_600 * SECOND)
    rows = await asking.rows(rollup, start=start, end=None, groups=(name,))
    return len({row[name] for row in rows})


def active_users(now: int, *, hours: int) -> type[Rollup]:
    """Who was active in the `hours` until `now`. It is asked of the events, and needs no table of its own."""

    class ActiveUsers(Rollup, table=TABLE, where=USER.is_not_null() & recent(now, hours)):
        month = bucket("1 month")
        user_id = group(USER)
        total_events = count()

    return ActiveUsers


def connected_cocoons(now: int) -> type[Rollup]:
    """Which cocoons have connected in the day until `now`; likewise."""

    class ConnectedCocoons(Rollup, events=[CocoonConnected], where=COCOON.is_not_null() & recent(now, 24)):
        month = bucket("1 month")
        cocoon_id = group(COCOON)
        total_events = count()

    return ConnectedCocoons


def recent(now: int, hours: int) -> Any:
    at = EPOCH + timedelta(microseconds=now // 1_000)
    return (event_timestamp > at - timedelta(hours=hours)) & (event_timestamp <= at)


# -- the table

RANGE: Final = (
    Query(name="start_date", description="From then on, ISO 8601. Default: 30 days before now. Also startDate."),
    Query(name="end_date", description="Until then, ISO 8601. Default: now. Also endDate."),
    Query(name="startDate", description="The same as start_date."),
    Query(name="endDate", description="The same as end_date."),
)
PAGING: Final = (
    Query(name="limit", description=f"At most so many rows. Default: {ERROR_ROWS}.", type=int),
    Query(name="offset", description="Leave out so many. Default: 0.", type=int),
)

DECLARED: Final[tuple[tuple[str, Answering, Any, tuple[Query, ...], str], ...]] = (
    ("/overview", overview, Overview, (), "How much there is, and how many were active"),
    ("/users/daily", users_daily, list[UsersDay], RANGE, "Active users of each day"),
    ("/users/weekly", users_weekly, list[UsersDay], RANGE, "Active users of each week, each once"),
    ("/users/monthly", users_monthly, list[UsersDay], RANGE, "Active users of each month, each once"),
    ("/tasks/daily", tasks_daily, list[TaskDay], RANGE, "Tasks of each day"),
    ("/tasks/overview", tasks_overview, TasksOverview, RANGE, "Tasks of all the time that is asked for"),
    ("/api/latency", api_latency, list[ApiLatency], RANGE, "How long requests took, the latest hours"),
    ("/api/slowest", api_slowest, list[ApiLatency], (), "The slowest endpoints of the last day"),
    ("/integrations/health", integrations_health, list[IntegrationDay], RANGE, "Integrations of each day"),
    ("/auth/daily", auth_daily, list[AuthDay], RANGE, "Logins of each day"),
    ("/cocoons/daily", cocoons_daily, list[CocoonDay], RANGE, "Cocoons of each day"),
    ("/errors", errors, list[ErrorHour], (*RANGE, *PAGING), "Errors of each hour"),
)

ROUTES: Final[tuple[Route, ...]] = tuple(
    Route(
        method="GET",
        path=f"{prefix}{path}",
        endpoint=endpoint(answering, has_range=RANGE[0] in parameters),
        scope="read",
        summary=summary,
        tag="platform",
        parameters=parameters,
        answers={JSON: kind},
        refusals=(501, 504),
    )
    for prefix in ("", PREFIX)
    for path, answering, kind, parameters, summary in DECLARED
)
