"""What the platform's dashboard asks: seven rollups with the names and columns it has always read, and five more."""

from __future__ import annotations

from typing import Final

from eventrec.analytics import (
    Refresh,
    Rollup,
    avg,
    bucket,
    count,
    distinct,
    f,
    first,
    group,
    is_type,
    payload,
    percentile,
)
from events import (
    AUTH,
    COCOONS,
    INTEGRATIONS,
    TASKS,
    ApiRequest,
    ApplicationError,
    AuthCodeVerified,
    AuthLoginAttempt,
    AuthTokenRefresh,
    CocoonClaimed,
    CocoonConnected,
    CocoonDisconnected,
    CocoonRegistered,
    IntegrationConnected,
    IntegrationDisconnected,
    IntegrationError,
    IntegrationUsed,
    TaskCancelled,
    TaskCompleted,
    TaskCreated,
    TaskFailed,
    TaskStarted,
)

TABLE: Final = "analytics_events"
HOURLY: Final = Refresh(window="3 days", lag="1 hour", every="1 hour")
USER: Final = payload("user_id", kind="uuid")


class DailyActiveUsers(
    Rollup, name="analytics_daily_active_users", index="idx_dau_day", table=TABLE, where=USER.is_not_null()
):
    day = bucket("1 day")
    active_users = distinct(USER)
    total_events = count()
    refresh = HOURLY


class TaskStatsDaily(Rollup, name="analytics_task_stats_daily", index="idx_task_stats_day", events=TASKS):
    day = bucket("1 day")
    created = count(where=is_type(TaskCreated))
    started = count(where=is_type(TaskStarted))
    completed = count(where=is_type(TaskCompleted))
    failed = count(where=is_type(TaskFailed))
    cancelled = count(where=is_type(TaskCancelled))
    avg_duration_ms = avg("duration_ms", where=is_type(TaskCompleted))
    p95_duration_ms = percentile("duration_ms", 0.95, where=is_type(TaskCompleted))
    refresh = HOURLY


class ApiLatencyHourly(Rollup, name="analytics_api_latency_hourly", index="idx_api_latency_hour", events=[ApiRequest]):
    hour = bucket("1 hour")
    service = group("service")
    endpoint = group("endpoint")
    method = group("method")
    request_count = count()
    avg_duration_ms = avg("duration_ms")
    p50_duration_ms = percentile("duration_ms", 0.50)
    p95_duration_ms = percentile("duration_ms", 0.95)
    p99_duration_ms = percentile("duration_ms", 0.99)
    error_5xx_count = count(where=f("status_code") >= 500)
    error_4xx_count = count(where=(f("status_code") >= 400) & (f("status_code") < 500))
    refresh = HOURLY


class IntegrationHealthDaily(
    Rollup, name="analytics_integration_health_daily", index="idx_integration_health_day", events=INTEGRATIONS
):
    day = bucket("1 day")
    provider = group("provider")
    connections = count(where=is_type(IntegrationConnected))
    disconnections = count(where=is_type(IntegrationDisconnected))
    uses = count(where=is_type(IntegrationUsed))
    errors = count(where=is_type(IntegrationError))
    unique_users = distinct("user_id")
    refresh = HOURLY


class AuthEventsDaily(Rollup, name="analytics_auth_events_daily", index="idx_auth_events_day", events=AUTH):
    day = bucket("1 day")
    login_attempts = count(where=is_type(AuthLoginAttempt))
    successful_logins = count(where=is_type(AuthLoginAttempt) & f("success").is_true())
    failed_logins = count(where=is_type(AuthLoginAttempt) & f("success").is_false())
    code_verifications = count(where=is_type(AuthCodeVerified))
    token_refreshes = count(where=is_type(AuthTokenRefresh))
    unique_users_authenticated = distinct("user_id")
    refresh = HOURLY


class CocoonActivityDaily(
    Rollup, name="analytics_cocoon_activity_daily", index="idx_cocoon_activity_day", events=COCOONS
):
    day = bucket("1 day")
    registrations = count(where=is_type(CocoonRegistered))
    connections = count(where=is_type(CocoonConnected))
    disconnections = count(where=is_type(CocoonDisconnected))
    claims = count(where=is_type(CocoonClaimed))
    avg_session_duration_seconds = avg("duration_seconds", where=is_type(CocoonDisconnected))
    unique_cocoons = distinct("cocoon_id")
    refresh = HOURLY


class ErrorsHourly(Rollup, name="analytics_errors_hourly", index="idx_errors_hour", events=[ApplicationError]):
    hour = bucket("1 hour")
    service = group("service")
    error_type = group("error_type")
    error_count = count()
    affected_users = distinct("user_id")
    sample_error_message = first("error_message")
    refresh = HOURLY


# -- users of a week and of a month: each counted once, which no sum of days can tell


class WeeklyActiveUsers(Rollup, name="analytics_weekly_active_users", table=TABLE, where=USER.is_not_null()):
    week = bucket("1 week")
    active_users = distinct(USER)
    total_events = count()
    refresh = Refresh(window="14 days", lag="1 hour", every="1 hour")


class MonthlyActiveUsers(Rollup, name="analytics_monthly_active_users", table=TABLE, where=USER.is_not_null()):
    month = bucket("1 month")
    active_users = distinct(USER)
    total_events = count()
    refresh = Refresh(window="62 days", lag="1 hour", every="1 hour")


# -- who and what was ever seen, month by month: the totals of all time, which the events, kept for 90 days, cannot tell

MONTHLY: Final = Refresh(window="62 days", lag="1 hour", every="1 hour")
COCOON: Final = payload("cocoon_id", kind="uuid")
INTEGRATION: Final = payload("integration_id", kind="uuid")


class KnownUsers(Rollup, name="analytics_known_users", table=TABLE, where=USER.is_not_null()):
    month = bucket("1 month")
    user_id = group(USER)
    total_events = count()
    refresh = MONTHLY


class KnownCocoons(Rollup, name="analytics_known_cocoons", table=TABLE, where=COCOON.is_not_null()):
    month = bucket("1 month")
    cocoon_id = group(COCOON)
    total_events = count()
    refresh = MONTHLY


class KnownIntegrations(Rollup, name="analytics_known_integrations", table=TABLE, where=INTEGRATION.is_not_null()):
    month = bucket("1 month")
    integration_id = group(INTEGRATION)
    total_events = count()
    refresh = MONTHLY


ROLLUPS: Final[tuple[type[Rollup], ...]] = (
    DailyActiveUsers,
    TaskStatsDaily,
    ApiLatencyHourly,
    IntegrationHealthDaily,
    AuthEventsDaily,
    CocoonActivityDaily,
    ErrorsHourly,
    WeeklyActiveUsers,
    MonthlyActiveUsers,
    KnownUsers,
    KnownCocoons,
    KnownIntegrations,
)
