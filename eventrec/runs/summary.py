"""What a log directory holds, as plain values for JSON: each log, all of them together, what is followed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.runs.followers import Follower
    from eventrec.runs.survey import SeenLog


def log_summary(log: SeenLog) -> dict[str, Any]:
    """One log."""
    return {
        "log": str(log.id),
        "is_held": log.is_held,
        "state": log.state,
        "first": log.first,
        "end": log.end,
        "bytes": log.size,
        "lost": log.lost,
        "subscriptions": accounts(log),
        "awaited": {name: log.pending(name) for name in sorted(log.awaited)},
        "unreadable": sorted(log.unreadable),
        "newer": sorted(log.newer),
        "error": log.error or None,
        "mirrors": log.mirror_lags(),
    }


def accounts(log: SeenLog) -> dict[str, dict[str, Any]]:
    """What its checkpoints say, by subscription."""
    return {
        name: {
            **msgspec.to_builtins(each.progress),
            "pending": log.pending(name),
            "state": each.state,
            "last_error": each.last_error,
            "by_holder": each.by_holder,
            "saved": each.saved,
        }
        for name, each in sorted(log.checkpoints.items())
    }


def total(logs: Sequence[SeenLog]) -> dict[str, Any]:
    """All of `logs` together. `unclaimed` are the records of logs that are not held for any known subscription."""
    pending: Counter[str] = Counter()
    for log in logs:
        pending.update({name: log.pending(name) for name in log.names})
    return {
        "logs": len(logs),
        "held": sum(log.is_held for log in logs),
        "orphans": sum(log.state == "orphan" for log in logs),
        "unknown": sum(log.state == "unknown" for log in logs),
        "unreadable": sum(bool(log.error) for log in logs),
        "bytes": sum(log.size for log in logs),
        "pending": dict(sorted(pending.items())),
        "unclaimed": sum(log.end - log.first for log in logs if not log.names),
    }


def follower_summary(follower: Follower, logs: Sequence[SeenLog]) -> dict[str, Any]:
    """What the logs are kept for, for a subscription that is followed."""
    held = [log.pending(follower.name) for log in logs if follower.name in log.holders()]
    return {
        "is_alive": follower.is_alive,
        "process": follower.pid,
        "is_remembered": follower.is_remembered,
        "logs": len(held),
        "pending": sum(held),
    }
