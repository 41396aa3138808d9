"""The account of a recorder: what became of everything it was offered, each term counted where it happens."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

RECENT: Final = 60.0
"""Seconds for which `Status.health` says that records were refused for want of room, or lost."""

_MAX_WHYS: Final = 3
"""Of the reasons why logs of earlier runs wait, so many are said."""


@dataclass(frozen=True, slots=True)
class SubscriptionStatus:
    """One subscription's part: `end - start + rewound == delivered + filtered + dead + dropped + pending`.

    `acknowledged` and `scanned` are next offsets; `lag` is `end - scanned`; `dropped` counts records by reason:
    `overflow` (its oldest, when it was too far behind), `exhausted` (after the last attempt), `closed` (undelivered at
    the end of a recorder without a log), `corrupt` (the log's bytes went bad). Of a log, `pending` is on the disk.

    Attributes:
        healthy: Something goes through, or nothing is to be delivered: neither held nor in an outage, and the handler
            answers. "no answer for 12 s" is the state where a call of the handler has lasted for 10 s, or for three
            times as long as its last batches took, whichever is longer, but at most for 5 minutes.
        held: Paused or holding: an operator has to act.
        last_error: What the last attempt that failed said; it stays after a success.
        last_success: When a batch last went through, in seconds since the epoch; None: not in this process.
        oldest_pending: Seconds since the timestamp of the oldest record that was read and is not settled.
        unanswered: Seconds since its handler was called, while that call has not come back.
        since_drop: Seconds since records were last lost here, whatever the reason; None: not in this process.
        remarks: What its handler has to say while it delivers.
    """

    name: str
    state: str
    healthy: bool
    start: int
    end: int
    acknowledged: int
    scanned: int
    delivered: int
    filtered: int
    dead: int
    dropped: dict[str, int]
    replayed: int
    rewound: int
    pending: int
    held: bool = False
    last_error: str | None = None
    last_success: float | None = None
    oldest_pending: float | None = None
    unanswered: float | None = None
    since_drop: float | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def lag(self) -> int:
        """Records not dealt with yet, in offsets."""
        return self.end - self.scanned

    @property
    def is_balanced(self) -> bool:
        """Whether the account adds up."""
        accounted = self.delivered + self.filtered + self.dead + sum(self.dropped.values()) + self.pending
        return self.end - self.start + self.rewound == accounted


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """How often a phase of a relay came, and how many seconds it took in all."""

    times: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RelayPart:
    """What a relay does for one subscription, or stage, on one shard of its bus.

    `state` is serving; `waiting: …`, for another relay that does; `retrying: …`; or `holding: …`, for an operator.

    Attributes:
        holder: Who serves it: this relay or another; empty: no relay is known to. Each relay has a name of its own.
        since: When this relay has got its lease, in seconds since the epoch; None: it has none.
        lease_seconds: How long that lasts still, by our clock, if it is not renewed.
        leases_lost: How often a lease was found to be lost, after which nothing of this relay's was kept.
        pending: Records of the bus that it has not settled, as of the last look; of what another relay serves, 0.
        log: The log of the bus that is delivered now.
        account: What became of the records of that log, whichever relays delivered them.
        processed: Of a stage, the records that it has read in this process.
        counts: Of a stage, what became of them in its own words.
        keys: Of a stage, how many keys it keeps on this shard, whichever relays filled them, as of a few seconds ago.
        kept: What such a key is.
        tallies: Of a stage, what it counts of what it keeps, exactly, whichever relays did: `open_sessions`. As of a
            few seconds ago; None: not known.
        seen: Of a stage, how many members of each index were seen of late: of `live:PROJECT`, its visitors now. It has
            the indexes that have changed in this process, the latest 50.
        remark: What an operator should know beside.
    """

    shard: str
    name: str
    kind: str
    state: str
    healthy: bool
    held: bool = False
    last_error: str | None = None
    holder: str = ""
    since: float | None = None
    lease_seconds: float | None = None
    leases_lost: int = 0
    pending: int = 0
    log: str | None = None
    account: SubscriptionStatus | None = None
    processed: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    keys: int | None = None
    kept: str = ""
    tallies: dict[str, int] | None = None
    seen: dict[str, int] = field(default_factory=dict)
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """What `flush` answers where nothing is pending any more, but not all of it was delivered. It counts as true.

    Attributes:
        dead: Records that became dead letters since the last `flush`, in all subscriptions.
        dropped: Records that were lost since then, for any reason.
    """

    dead: int
    dropped: int

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"settled: {self.dead:,} dead, {self.dropped:,} dropped"


@dataclass(frozen=True, slots=True)
class Health:
    """For health checks. `live`: restarting the process would mend nothing that it could not mend itself.

    `ready`: it is open, its log can be written, no subscription waits for an operator, and what it is to follow can be
    followed; or it is switched off.
    `reasons` says what of that is not so; also, while it is ready, which destinations are in an outage or do not
    answer, what handlers have to remark, of how many logs checkpoints are not saved, for which subscriptions dead
    letters wait (where there is no log: of which subscriptions records became dead letters since it was opened), which
    logs of earlier runs wait, and, for a minute, what was refused for want of room or lost.
    """

    live: bool
    ready: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """A snapshot. `offered == appended + refused + in_intake`, exact whenever no `record()` is in progress.

    `state` is new, open, forked, closed, or disabled: switched off from the start.

    Under `refused` stands also what was taken first and lost before it was in the log: pushed out by newer events
    (`overflow`), or never written, because the disk refused to the end or the log cannot hold it (`not_written`);
    `on_drop` is told of both.
    """

    state: str
    offered: int
    appended: int
    refused: dict[str, int]
    in_intake: int
    subscriptions: dict[str, SubscriptionStatus] = field(default_factory=dict)
    adopted: dict[str, dict[str, SubscriptionStatus]] = field(default_factory=dict)
    """Logs of other runs that are being delivered now, by their id: left by earlier ones, or followed (`follow`)."""
    died: dict[str, int] = field(default_factory=dict)
    """Records that became dead letters since it was opened, by subscription: of its own log and of those of other runs,
    also where these are done."""
    dead_letters: dict[str, int] | None = None
    """Dead letters that wait in its log directory, by subscription, whichever runs set them aside; those of other
    processes as of a few seconds ago. None: it has no log."""
    elsewhere: dict[str, int] = field(default_factory=dict)
    """Records of this recorder's own log that subscriptions of other processes need, as of the last look; "?": no
    handler is registered, and no other process has delivered anything yet."""
    forfeited: dict[str, int] = field(default_factory=dict)
    """Records lost to the bound on the log directory that no subscription here counts, by subscription; "?": unknown.

    Those of logs that earlier runs left; of this recorder's own log, those that others were to get."""
    left: dict[str, str] = field(default_factory=dict)
    """Logs that earlier runs left and that wait for an operator, by their id: why."""
    mirrors: dict[str, int] = field(default_factory=dict)
    """Records of the log that is written which each mirror lacks, by its name; as of a few seconds ago."""
    unsaved: int = 0
    """Logs whose checkpoints the disk refused when they were saved last: what of them was delivered since is sent again
    after a kill."""
    failure: str | None = None
    """Why the log cannot be written, or trusted, while it cannot."""
    defect: str | None = None
    """An error that nothing has contained, as long as delivery, or writing, pauses because of it."""
    since_overflow: float | None = None
    """Seconds since an event was last refused, or pushed out by a newer one, for want of room; None: never."""
    since_forfeit: float | None = None
    """Seconds since something was added to `forfeited`; None: never."""
    following: str | None = None
    """How the logs of other processes are followed (`follow`): following; `waiting: …`, for another process that does;
    `refused: …`, by the system. None: they are not."""
    not_followed: str | None = None
    """What an operator has to mend there, if there is something."""
    follow_refusals: int = 0
    """How often the system refused to remember, or to lock, what is followed."""
    relay: list[RelayPart] = field(default_factory=list)
    """What it delivers of a bus; `subscriptions` counts what of that was done in this process."""
    phases: dict[str, PhaseTime] = field(default_factory=dict)
    """How long that took, by phase: fetch, process, commit, insert, expire."""

    @property
    def is_balanced(self) -> bool:
        """Whether the account adds up, here and in every subscription."""
        taken = self.appended + sum(self.refused.values()) + self.in_intake
        parts = [*self.subscriptions.values(), *(part for log in self.adopted.values() for part in log.values())]
        parts += [part.account for part in self.relay if part.account is not None]
        return self.offered == taken and all(part.is_balanced for part in parts)

    @property
    def is_healthy(self) -> bool:
        """Whether every subscription delivers."""
        return all(map(self.is_delivering, self.subscriptions))

    def is_delivering(self, name: str) -> bool:
        """Whether nothing is wrong with the subscription `name`: with this recorder's log, and with those of others."""
        return all(part.healthy for part in self.parts_of(name))

    def parts_of(self, name: str) -> list[SubscriptionStatus]:
        """The subscription `name` in this recorder's log, and in those of earlier runs that it delivers."""
        return [log[name] for log in (self.subscriptions, *self.adopted.values()) if name in log]

    @property
    def waiting_logs(self) -> int:
        """Logs of other runs that wait for an operator: those that are `left`, and those whose delivery is held."""
        held = {id_ for id_, log in self.adopted.items() if any(part.held for part in log.values())}
        return len(held | self.left.keys())

    @property
    def health(self) -> Health:
        """What a health check asks."""
        reasons = [f"defect: {self.defect}"] if self.defect is not None else []
        if self.state not in {"open", "disabled"}:
            reasons.append(f"the recorder is {self.state}")
        if self.failure is not None:
            reasons.append(f"the log: {self.failure}")
        parts, earlier = list(self.subscriptions.values()), self._earlier()
        reasons += [f"{part.name}: {part.state}" for part in parts if part.held]
        reasons += [f"{part.name}, of an earlier run: {part.state}" for part in earlier if part.held]
        is_refused = self.following is not None and self.following.startswith("refused")
        reasons += [f"live logs: {self.not_followed}"] if is_refused else []
        reasons += [f"{part.name} on {part.shard}: {part.state}" for part in self.relay if part.held]
        ready = not reasons
        if self.not_followed is not None and not is_refused:
            reasons.append(f"live logs: {self.not_followed}")
        reasons += ["the recorder is disabled"] if self.state == "disabled" else []
        reasons += [_outage(part.name, part) for part in parts if not part.healthy and not part.held]
        reasons += [
            f"{part.name} on {part.shard}: {part.state}" for part in self.relay if not part.healthy and not part.held
        ]
        reasons += [
            _outage(f"{part.name}, of an earlier run", part) for part in earlier if not part.healthy and not part.held
        ]
        reasons += [f"{part.name}: {remark}" for part in parts for remark in part.remarks]
        reasons += [f"{part.name} on {part.shard}: {part.remark}" for part in self.relay if part.remark]
        if self.unsaved:
            logs = f"{self.unsaved:,} log{'s' * (self.unsaved > 1)}"
            reasons.append(f"checkpoints of {logs} not saved: what was delivered since may be sent again")
        if _is_recent(self.since_overflow):
            reasons.append(f"no room: {self.refused.get('overflow', 0):,} events refused so far")
        dropped: dict[str, Counter[str]] = {}
        for log in (self.subscriptions, *self.adopted.values()):
            for name, part in log.items():
                if _is_recent(part.since_drop):
                    dropped.setdefault(name, Counter()).update(part.dropped)
        whys = Counter(self.left.values()).most_common(_MAX_WHYS)
        reasons += [f"{count:,} log{'s' * (count > 1)} of earlier runs: {why}" for why, count in whys]
        reasons += [f"{name}: records lost: {_by_reason(counts)} so far" for name, counts in dropped.items()]
        if _is_recent(self.since_forfeit):
            reasons.append(
                f"records that others were to get, lost to the disk bound: {_by_reason(self.forfeited)} so far"
            )
        dead = self.dead_letters if self.dead_letters is not None else {part.name: part.dead for part in parts}
        reasons += [f"{name}: {count:,} dead letter{'s' * (count > 1)}" for name, count in dead.items() if count]
        return Health(live=self.defect is None, ready=ready, reasons=tuple(reasons))

    def _earlier(self) -> list[SubscriptionStatus]:
        """One log of an earlier run for each subscription that is well itself: the worst off."""
        found: dict[str, SubscriptionStatus] = {}
        for name, part in ((name, part) for log in self.adopted.values() for name, part in log.items()):
            own = self.subscriptions.get(name)
            if (
                not part.healthy
                and (own is None or own.healthy)
                and (name not in found or (part.held and not found[name].held))
            ):
                found[name] = part
        return list(found.values())

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        parts = [f"{self.state}: offered {self.offered:,}, appended {self.appended:,}"]
        parts += [f"refused {count:,} ({reason})" for reason, count in sorted(self.refused.items())]
        if self.in_intake:
            parts.append(f"in intake {self.in_intake:,}")
        for part in self.subscriptions.values():
            said = [f"{part.name} {part.state}: delivered {part.delivered:,}"]
            said += [f"{name} {count:,}" for name, count in (("filtered", part.filtered), ("dead", part.dead)) if count]
            said += [f"dropped {count:,} ({reason})" for reason, count in sorted(part.dropped.items())]
            said.append(f"pending {part.pending:,}")
            parts.append(", ".join(said))
        return "; ".join(parts)


def _outage(whose: str, part: SubscriptionStatus) -> str:
    """What an outage's reason says."""
    is_silent = part.unanswered is not None and part.state.startswith("no answer")
    return f"{whose}: {part.state}" + ("" if part.last_error is None or is_silent else f" ({part.last_error})")


def _is_recent(seconds: float | None) -> bool:
    return seconds is not None and seconds < RECENT


def _by_reason(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} ({reason})" for reason, count in sorted(counts.items()))
