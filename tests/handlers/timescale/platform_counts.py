"""What plain Python counts of the platform's events: what SQL and HTTP are compared with."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

Row = dict[str, Any]


class Happened(Protocol):
    """What has happened, each event once: type, moment, and what it says; and the present moment."""

    events: Sequence[tuple[str, datetime, Mapping[str, Any]]]
    now: datetime

    def of(self, *types: str) -> Iterator[tuple[datetime, Mapping[str, Any]]]: ...

    def count(self, kind: str) -> int: ...


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


def users_per(platform: Happened, bucket: Callable[[datetime], datetime]) -> list[Row]:
    found = defaultdict(list)
    for _, at, said in platform.events:
        if said.get("user_id") is not None:
            found[bucket(at)].append(said["user_id"])
    return [
        {"day": start, "active_users": len(set(users)), "total_events": len(users)}
        for start, users in sorted(found.items(), reverse=True)
    ]


def per_day(platform: Happened, prefix: str, *types: str) -> dict[datetime, dict[str, list[Mapping[str, Any]]]]:
    """What events say, by day and type, latest day first."""
    found: dict[datetime, dict[str, list[Mapping[str, Any]]]] = {}
    for kind in types:
        for at, said in platform.of(prefix + kind):
            found.setdefault(day(at), {each: [] for each in types})[kind].append(said)
    return dict(sorted(found.items(), reverse=True))


def latencies(platform: Happened) -> list[Row]:
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


def overview(platform: Happened) -> Row:
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


def tasks_daily(platform: Happened) -> list[Row]:
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


def tasks_overview(platform: Happened) -> Row:
    took = [said["duration_ms"] for _, said in platform.of("task_completed")]
    return {
        **{f"total_{kind}": platform.count(f"task_{kind}") for kind in ("created", "completed", "failed", "cancelled")},
        "success_rate": rate(len(took), platform.count("task_failed")),
        "avg_duration_ms": statistics.fmean(took),
    }


def integrations(platform: Happened) -> list[Row]:
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


def auth(platform: Happened) -> list[Row]:
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


def cocoons(platform: Happened) -> list[Row]:
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


def errors(platform: Happened) -> list[Row]:
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
