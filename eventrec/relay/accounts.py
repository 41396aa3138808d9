"""One account of a subscription that is delivered from several logs: sums of what this process has done."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from uuid import UUID

    from eventrec.bus.bus import Held, LogBounds
    from eventrec.runs.checkpoint import Progress
    from eventrec.status import SubscriptionStatus


def share(status: SubscriptionStatus, began: Progress, *, is_over: bool = False) -> SubscriptionStatus:
    """Of `status` what came after `began`. `is_over`: what is pending is for others to deliver."""
    dropped = {reason: count - began.dropped.get(reason, 0) for reason, count in status.dropped.items()}
    end = status.scanned if is_over else status.end
    return replace(
        status,
        start=began.scanned + status.start - began.start,
        end=end,
        delivered=status.delivered - began.delivered,
        filtered=status.filtered - began.filtered,
        dead=status.dead - began.dead,
        dropped={reason: count for reason, count in dropped.items() if count},
        replayed=status.replayed - began.replayed,
        rewound=status.rewound - began.rewound,
        pending=0 if is_over else status.pending,
    )


def summed(
    own: SubscriptionStatus, shares: Sequence[SubscriptionStatus], now: Sequence[SubscriptionStatus]
) -> SubscriptionStatus:
    """The account of `own` and `shares` together; how it is doing is said by the worst of `own` and `now`."""
    parts = [own, *shares]
    told = [own, *now]
    worst = min(told, key=lambda part: (not part.held, part.healthy, part.state == "waiting"))
    dropped: Counter[str] = Counter()
    for part in parts:
        dropped.update(part.dropped)
    return replace(
        worst,
        start=sum(part.start for part in parts),
        end=sum(part.end for part in parts),
        acknowledged=sum(part.acknowledged for part in parts),
        scanned=sum(part.scanned for part in parts),
        delivered=sum(part.delivered for part in parts),
        filtered=sum(part.filtered for part in parts),
        dead=sum(part.dead for part in parts),
        dropped=dict(dropped),
        replayed=sum(part.replayed for part in parts),
        rewound=sum(part.rewound for part in parts),
        pending=sum(part.pending for part in parts),
        last_success=max((part.last_success for part in parts if part.last_success is not None), default=None),
        oldest_pending=max((part.oldest_pending for part in told if part.oldest_pending is not None), default=None),
        unanswered=max((part.unanswered for part in told if part.unanswered is not None), default=None),
        since_drop=min((part.since_drop for part in parts if part.since_drop is not None), default=None),
        remarks=own.remarks,
    )


def are_settled(
    ends: Mapping[UUID, int], logs: Iterable[LogBounds], held: Iterable[Held], names: Sequence[str]
) -> bool:
    """Whether all of `names` have settled what `logs` hold below `ends`."""
    scanned = {each.subscription: each.scanned for each in held}
    oldest = {log.id: log.oldest for log in logs}
    return all(
        log_id not in oldest or scanned.get(name, {}).get(log_id, 0) >= end
        for log_id, end in ends.items()
        for name in names
        if end > oldest.get(log_id, end)
    )


class Tally:
    """The shares of logs that are over, as one: they may be many."""

    def __init__(self) -> None:
        self.total: SubscriptionStatus | None = None

    def add(self, part: SubscriptionStatus) -> None:
        """One more."""
        self.total = part if self.total is None else summed(self.total, [part], [])
