"""What the platform's dashboard is answered: the names and kinds of values that it has always read."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct


class Overview(Struct, kw_only=True):
    total_users: int
    active_users_today: int
    active_users_week: int
    active_users_month: int
    total_tasks: int
    tasks_today: int
    task_success_rate: float
    total_cocoons: int
    active_cocoons: int
    total_integrations: int


class UsersDay(Struct, kw_only=True):
    """Of a day; or of the week or month that begins with it."""

    day: datetime
    active_users: int
    total_events: int


class TaskDay(Struct, kw_only=True):
    day: datetime
    created: int
    started: int
    completed: int
    failed: int
    cancelled: int
    avg_duration_ms: float | None
    p95_duration_ms: float | None
    success_rate: float


class TasksOverview(Struct, kw_only=True):
    total_created: int
    total_completed: int
    total_failed: int
    total_cancelled: int
    success_rate: float
    avg_duration_ms: float | None


class ApiLatency(Struct, kw_only=True):
    hour: datetime
    service: str | None
    endpoint: str | None
    method: str | None
    request_count: int
    avg_duration_ms: float | None
    p50_duration_ms: float | None
    p95_duration_ms: float | None
    p99_duration_ms: float | None
    error_4xx_count: int
    error_5xx_count: int


class IntegrationDay(Struct, kw_only=True):
    day: datetime
    provider: str | None
    connections: int
    disconnections: int
    uses: int
    errors: int
    unique_users: int
    error_rate: float


class AuthDay(Struct, kw_only=True):
    day: datetime
    login_attempts: int
    successful_logins: int
    failed_logins: int
    code_verifications: int
    token_refreshes: int
    unique_users_authenticated: int
    login_success_rate: float


class CocoonDay(Struct, kw_only=True):
    day: datetime
    registrations: int
    connections: int
    disconnections: int
    claims: int
    avg_session_duration_seconds: float | None
    unique_cocoons: int


class ErrorHour(Struct, kw_only=True):
    hour: datetime
    service: str | None
    error_type: str | None
    error_count: int
    affected_users: int
    sample_error_message: str | None
