"""The account as measurements: their names, and what each says. Exporters turn them into their own form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from eventrec.runtime.texts import encodable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from eventrec.status import Status


class Measure(NamedTuple):
    """A counter only rises while the recorder lives; a gauge goes up and down. `unit` is what is counted."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    description: str
    labels: tuple[str, ...] = ()


OFFERED: Final = Measure("offered", "counter", "events", "Events given to record().")
APPENDED: Final = Measure("appended", "counter", "events", "Events taken into the log.")
REFUSED: Final = Measure("refused", "counter", "events", "Events not taken, by reason.", ("reason",))
IN_INTAKE: Final = Measure("in_intake", "gauge", "events", "Events taken and not yet in the log.")
DELIVERED: Final = Measure("delivered", "counter", "records", "Records safe at the destination.", ("subscription",))
FILTERED: Final = Measure("filtered", "counter", "records", "Records not for this subscription.", ("subscription",))
DEAD: Final = Measure(
    "dead",
    "counter",
    "records",
    "Records set aside as dead letters, also of logs of earlier runs.",
    ("subscription",),
)
DEAD_LETTERS: Final = Measure(
    "dead_letters",
    "gauge",
    "records",
    "Dead letters that wait in the log directory, of all its runs.",
    ("subscription",),
)
DROPPED: Final = Measure("dropped", "counter", "records", "Records lost, by reason.", ("subscription", "reason"))
REWOUND: Final = Measure("rewound", "counter", "records", "Records that a destination had and lost.", ("subscription",))
PENDING: Final = Measure("pending", "gauge", "records", "Records not settled yet.", ("subscription",))
HEALTHY: Final = Measure(
    "healthy",
    "gauge",
    "1",
    "0 in an outage, while it is held, or without an answer, also with logs of earlier runs; else 1.",
    ("subscription",),
)
LAST_SUCCESS: Final = Measure(
    "last_success_timestamp", "gauge", "s", "When a batch last went through, since the epoch.", ("subscription",)
)
OLDEST_PENDING: Final = Measure(
    "oldest_pending_age", "gauge", "s", "Age of the oldest record in hand that is not settled.", ("subscription",)
)
UNANSWERED: Final = Measure(
    "unanswered_time", "gauge", "s", "How long the handler's call that is open has lasted.", ("subscription",)
)
ADOPTED: Final = Measure(
    "adopted_pending", "gauge", "records", "Records of earlier runs that are not settled yet.", ("subscription",)
)
FORFEITED: Final = Measure(
    "forfeited",
    "counter",
    "records",
    "Records lost to the bound on the log directory that no subscription here counts.",
    ("subscription",),
)
FOLLOW_REFUSALS: Final = Measure(
    "follow_refusals", "counter", "refusals", "Times that what follows live logs was refused its files or locks."
)
LEFT: Final = Measure("left_logs", "gauge", "logs", "Logs of earlier runs that wait for an operator.")
MIRROR_LAG: Final = Measure("mirror_lag", "gauge", "records", "Records that a mirror has not got yet.", ("mirror",))
LOG_OK: Final = Measure("log_writable", "gauge", "1", "1 while the log can be written, 0 while the disk refuses.")
RELAY_PENDING: Final = Measure(
    "relay_pending", "gauge", "records", "Records of the bus that a part of the relay has to settle.", ("shard", "part")
)
RELAY_SERVING: Final = Measure(
    "relay_serving",
    "gauge",
    "1",
    "1 while this relay serves it, 0 in trouble or while another one does.",
    ("shard", "part"),
)
LEASES_LOST: Final = Measure(
    "relay_leases_lost", "counter", "leases", "Leases that were found to be lost to another relay.", ("shard", "part")
)
STAGE_PROCESSED: Final = Measure(
    "stage_processed", "counter", "records", "Records that a stage has read.", ("shard", "part")
)
STAGE_RECORDS: Final = Measure(
    "stage_outcomes",
    "counter",
    "records",
    "What became of them, in the stage's own words.",
    ("shard", "part", "outcome"),
)
STAGE_KEYS: Final = Measure(
    "stage_keys", "gauge", "keys", "Keys that a stage keeps: open sessions, profiles.", ("shard", "part")
)
STAGE_TALLY: Final = Measure(
    "stage_tally",
    "gauge",
    "items",
    "What a stage counts of what it keeps: open_sessions.",
    ("shard", "part", "of"),
)
STAGE_SEEN: Final = Measure(
    "stage_seen",
    "gauge",
    "members",
    "Members of an index that were seen of late; of live:PROJECT, its visitors.",
    ("shard", "part", "index"),
)
PHASE_RUNS: Final = Measure(
    "relay_phase_runs", "counter", "runs", "How often a phase of the relay came: fetch, process, ….", ("phase",)
)
PHASE_TIME: Final = Measure("relay_phase_time", "counter", "s", "How long they took in all.", ("phase",))

MEASURES: Final = (
    OFFERED,
    APPENDED,
    REFUSED,
    IN_INTAKE,
    DELIVERED,
    FILTERED,
    DEAD,
    DEAD_LETTERS,
    DROPPED,
    REWOUND,
    PENDING,
    HEALTHY,
    LAST_SUCCESS,
    OLDEST_PENDING,
    UNANSWERED,
    ADOPTED,
    FORFEITED,
    FOLLOW_REFUSALS,
    LEFT,
    MIRROR_LAG,
    LOG_OK,
    RELAY_PENDING,
    RELAY_SERVING,
    LEASES_LOST,
    STAGE_PROCESSED,
    STAGE_RECORDS,
    STAGE_KEYS,
    STAGE_TALLY,
    STAGE_SEEN,
    PHASE_RUNS,
    PHASE_TIME,
)


def measured(status: Status) -> Iterator[tuple[Measure, Mapping[str, str], float]]:
    """Every measurement that `status` holds, with its labels: UTF-8 can hold them, else a scrape would fail."""
    for measure, labels, value in _measured(status):
        yield measure, {name: encodable(label) for name, label in labels.items()}, value


def _measured(status: Status) -> Iterator[tuple[Measure, Mapping[str, str], float]]:
    yield OFFERED, {}, status.offered
    yield APPENDED, {}, status.appended
    for reason, count in status.refused.items():
        yield REFUSED, {"reason": reason}, count
    yield IN_INTAKE, {}, status.in_intake
    for name, count in status.forfeited.items():
        yield FORFEITED, {"subscription": name}, count
    if status.following is not None:
        yield FOLLOW_REFUSALS, {}, status.follow_refusals
    yield LEFT, {}, status.waiting_logs
    for name, count in {**dict.fromkeys(status.subscriptions, 0), **(status.dead_letters or {})}.items():
        yield DEAD_LETTERS, {"subscription": name}, count
    for name, count in status.mirrors.items():
        yield MIRROR_LAG, {"mirror": name}, count
    yield LOG_OK, {}, int(status.failure is None)
    for name, part in status.subscriptions.items():
        of = {"subscription": name}
        yield DELIVERED, of, part.delivered
        yield FILTERED, of, part.filtered
        yield DEAD, of, max(part.dead, status.died.get(name, 0))
        for reason, count in part.dropped.items():
            yield DROPPED, {**of, "reason": reason}, count
        yield REWOUND, of, part.rewound
        yield PENDING, of, part.pending
        yield HEALTHY, of, int(status.is_delivering(name))
        if part.last_success is not None:
            yield LAST_SUCCESS, of, part.last_success
        if part.oldest_pending is not None:
            yield OLDEST_PENDING, of, part.oldest_pending
        yield UNANSWERED, of, part.unanswered or 0.0
        yield ADOPTED, of, sum(log[name].pending for log in status.adopted.values() if name in log)
    yield from _of_relay(status)


def _of_relay(status: Status) -> Iterator[tuple[Measure, Mapping[str, str], float]]:
    for each in status.relay:
        part = {"shard": each.shard, "part": each.name}
        yield RELAY_PENDING, part, each.pending
        yield RELAY_SERVING, part, int(each.state == "serving")
        yield LEASES_LOST, part, each.leases_lost
        if each.kind == "stage" and each.keys is not None and each.since is not None:
            # Of what another relay serves, that one tells.
            yield STAGE_KEYS, part, each.keys
            for name, count in (each.tallies or {}).items():
                yield STAGE_TALLY, {**part, "of": name}, count
            for index, count in each.seen.items():
                yield STAGE_SEEN, {**part, "index": index}, count
        if each.kind == "stage":
            yield STAGE_PROCESSED, part, each.processed
            for outcome, count in each.counts.items():
                yield STAGE_RECORDS, {**part, "outcome": outcome}, count
    for phase, time in status.phases.items():
        yield PHASE_RUNS, {"phase": phase}, time.times
        yield PHASE_TIME, {"phase": phase}, time.seconds
