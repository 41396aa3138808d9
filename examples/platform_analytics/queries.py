"""What the platform's dashboard asks its database: one statement for each page, the same on PostgreSQL and TimescaleDB.

They read the rollups by their names, and of the events only the last 30 days. Moments are `timestamptz`, means and
rates `double precision`, numbers `bigint`. Parameters are numbered, as asyncpg has them:

    overview, api_slowest         the present moment
    errors                        from, to, how many rows, how many to leave out
    all others                    from, to

A rate is between 0 and 1, and 0 where there was nothing to succeed. Rows come newest first.
"""

from __future__ import annotations

from typing import Final

# Of all time: what was counted stays, whatever has become of the events.
OVERVIEW: Final = """
SELECT
    (SELECT count(DISTINCT user_id) FROM analytics_known_users) AS total_users,
    (SELECT coalesce(sum(active_users), 0)::bigint FROM analytics_daily_active_users
        WHERE day = date_trunc('day', $1::timestamptz, 'UTC')) AS active_users_today,
    (SELECT count(DISTINCT user_id) FROM analytics_events
        WHERE timestamp > $1 - interval '168 hours' AND timestamp <= $1) AS active_users_week,
    (SELECT count(DISTINCT user_id) FROM analytics_events
        WHERE timestamp > $1 - interval '720 hours' AND timestamp <= $1) AS active_users_month,
    (SELECT coalesce(sum(created), 0)::bigint FROM analytics_task_stats_daily) AS total_tasks,
    (SELECT coalesce(sum(created), 0)::bigint FROM analytics_task_stats_daily
        WHERE day = date_trunc('day', $1::timestamptz, 'UTC')) AS tasks_today,
    (SELECT coalesce(sum(completed)::float8 / nullif(sum(completed + failed), 0)::float8, 0)
        FROM analytics_task_stats_daily) AS task_success_rate,
    (SELECT count(DISTINCT cocoon_id) FROM analytics_known_cocoons) AS total_cocoons,
    (SELECT count(DISTINCT data ->> 'cocoon_id') FROM analytics_events
        WHERE event_type = 'cocoon_connected' AND timestamp > $1 - interval '24 hours' AND timestamp <= $1
    ) AS active_cocoons,
    (SELECT count(DISTINCT integration_id) FROM analytics_known_integrations) AS total_integrations
"""

USERS_DAILY: Final = """
SELECT day, active_users, total_events
FROM analytics_daily_active_users
WHERE day >= $1 AND day <= $2
ORDER BY day DESC
"""

# Each user once: a sum of days would count those again who come every day.
USERS_WEEKLY: Final = """
SELECT week AS day, active_users, total_events
FROM analytics_weekly_active_users
WHERE week >= $1 AND week <= $2
ORDER BY week DESC
"""

USERS_MONTHLY: Final = """
SELECT month AS day, active_users, total_events
FROM analytics_monthly_active_users
WHERE month >= $1 AND month <= $2
ORDER BY month DESC
"""

TASKS_DAILY: Final = """
SELECT day, created, started, completed, failed, cancelled, avg_duration_ms, p95_duration_ms,
    coalesce(completed::float8 / nullif(completed + failed, 0)::float8, 0) AS success_rate
FROM analytics_task_stats_daily
WHERE day >= $1 AND day <= $2
ORDER BY day DESC
"""

# The mean of all tasks, not that of the days: a day of many tasks weighs more.
TASKS_OVERVIEW: Final = """
SELECT
    coalesce(sum(created), 0)::bigint AS total_created,
    coalesce(sum(completed), 0)::bigint AS total_completed,
    coalesce(sum(failed), 0)::bigint AS total_failed,
    coalesce(sum(cancelled), 0)::bigint AS total_cancelled,
    coalesce(sum(completed)::float8 / nullif(sum(completed + failed), 0)::float8, 0) AS success_rate,
    (sum(avg_duration_ms * completed) / nullif(sum(completed) FILTER (WHERE avg_duration_ms IS NOT NULL), 0)::float8
    ) AS avg_duration_ms
FROM analytics_task_stats_daily
WHERE day >= $1 AND day <= $2
"""

API_LATENCY: Final = """
SELECT hour, service, endpoint, method, request_count, avg_duration_ms, p50_duration_ms, p95_duration_ms,
    p99_duration_ms, error_4xx_count, error_5xx_count
FROM analytics_api_latency_hourly
WHERE hour >= $1 AND hour <= $2
ORDER BY hour DESC, p99_duration_ms DESC NULLS LAST, service COLLATE "C", endpoint COLLATE "C", method COLLATE "C"
LIMIT 1000
"""

API_SLOWEST: Final = """
SELECT hour, service, endpoint, method, request_count, avg_duration_ms, p50_duration_ms, p95_duration_ms,
    p99_duration_ms, error_4xx_count, error_5xx_count
FROM analytics_api_latency_hourly
WHERE hour > $1::timestamptz - interval '24 hours' AND hour <= $1
ORDER BY p99_duration_ms DESC NULLS LAST, hour DESC, service COLLATE "C", endpoint COLLATE "C", method COLLATE "C"
LIMIT 10
"""

INTEGRATIONS_HEALTH: Final = """
SELECT day, provider, connections, disconnections, uses, errors, unique_users,
    coalesce(errors::float8 / nullif(uses + errors, 0)::float8, 0) AS error_rate
FROM analytics_integration_health_daily
WHERE day >= $1 AND day <= $2
ORDER BY day DESC, provider COLLATE "C"
"""

AUTH_DAILY: Final = """
SELECT day, login_attempts, successful_logins, failed_logins, code_verifications, token_refreshes,
    unique_users_authenticated,
    coalesce(successful_logins::float8 / nullif(successful_logins + failed_logins, 0)::float8, 0) AS login_success_rate
FROM analytics_auth_events_daily
WHERE day >= $1 AND day <= $2
ORDER BY day DESC
"""

COCOONS_DAILY: Final = """
SELECT day, registrations, connections, disconnections, claims, avg_session_duration_seconds, unique_cocoons
FROM analytics_cocoon_activity_daily
WHERE day >= $1 AND day <= $2
ORDER BY day DESC
"""

ERRORS: Final = """
SELECT hour, service, error_type, error_count, affected_users, sample_error_message
FROM analytics_errors_hourly
WHERE hour >= $1 AND hour <= $2
ORDER BY hour DESC, error_count DESC, service COLLATE "C", error_type COLLATE "C"
LIMIT $3 OFFSET $4
"""
