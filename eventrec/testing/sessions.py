"""What sessions a list of events comes to, computed in the plainest way from all of them: what a test compares with.

It shares no code with `eventrec.sessions`, and has the whole list at once, where that sees a batch at a time.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, uuid5

import msgspec

from eventrec.records.entry import make_entry
from eventrec.records.schema import Shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from eventrec.records.entry import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitEvent:
    """An event of a visit. Times are in milliseconds since the epoch; `received` is when it came to the relay.

    Attributes:
        received: Seconds by the clock of the bus; the same for all: no device is ever idle before the last event.
    """

    id: str
    at: int
    project: str
    device: str
    type: str = "screen_view"
    profile: str = ""
    path: str = ""
    origin: str = ""
    revenue: float = 0.0
    groups: Sequence[str] = ()
    received: float = 0.0


@dataclass(frozen=True, slots=True)
class ExpectedSession:
    """What a session comes to: its last row, its start and its end.

    Attributes:
        events: The ids of its events, as they came.
        started: The time of its `session_start`, in milliseconds; `ended_event` that of its `session_end`.
    """

    project: str
    device: str
    profile: str
    events: tuple[str, ...]
    created_at: int
    ended_at: int
    started: int
    ended_event: int
    screen_view_count: int
    event_count: int
    revenue: float
    entry_path: str
    entry_origin: str
    exit_path: str
    exit_origin: str
    groups: tuple[str, ...]

    @property
    def duration(self) -> int:
        """Milliseconds from its first event to its last."""
        return self.ended_at - self.created_at

    @property
    def is_bounce(self) -> bool:
        """It has not more than one view."""
        return self.screen_view_count <= 1


def entry_of(event: VisitEvent, **members: Any) -> Entry:
    """The record of `event`, as an application would have recorded it, with further `members` in its payload.

    A member `...` is left out. Its id follows from that of the event.
    """
    payload: dict[str, Any] = {
        "project_id": event.project,
        "device_id": event.device,
        "profile_id": event.profile,
        "path": event.path,
        "origin": event.origin,
        "revenue": event.revenue,
        "groups": list(event.groups),
        **members,
    }
    text = msgspec.json.encode({name: value for name, value in payload.items() if value is not ...})
    return make_entry(
        Shape("events", event.type), event.at * 1_000_000, text, explicit_id=uuid5(NAMESPACE_OID, event.id).bytes
    )


def collapsed(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is left of the rows of sessions, by their ids, once those with the sign -1 have taken others back.

    Raises:
        AssertionError: One is taken back that was not there, or is not the same, or more than one is left of a session.
    """
    there: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        key = (row["id"], row["version"])
        rest = {name: value for name, value in row.items() if name not in {"sign", "_id"}}
        if row["sign"] == 1:
            assert key not in there, f"version {key[1]} of session {key[0]} is there twice"
            there[key] = rest
        else:
            assert there.pop(key, None) == rest, f"version {key[1]} of session {key[0]} is not what is taken back"
    left = {id_: row for (id_, _), row in there.items()}
    assert len(left) == len(there), "more than one version of a session is left"
    return left


@dataclass(slots=True)
class _Device:
    visits: list[list[VisitEvent]] = field(default_factory=list)
    current: list[VisitEvent] = field(default_factory=list)
    late: list[VisitEvent] = field(default_factory=list)


def brute_force(
    events: Iterable[VisitEvent], *, gap: int = 1_800_000, idle: float = float("inf"), view_type: str = "screen_view"
) -> list[ExpectedSession]:
    """The sessions of `events`, which are in the order in which they came, once all of them have ended.

    `gap` is in milliseconds, `idle` in seconds. They are sorted by project, device and when they were opened.
    """
    by_device: dict[tuple[str, str], list[VisitEvent]] = defaultdict(list)
    for event in events:
        by_device[event.project, event.device].append(event)
    expected = []
    for key in sorted(by_device):
        expected += [_summary(visit, view_type) for visit in _visits(by_device[key], gap, idle)]
    return expected


def _visits(events: Sequence[VisitEvent], gap: int, idle: float) -> list[list[VisitEvent]]:
    state = _Device()
    last_received: float | None = None
    for event in events:
        if last_received is not None and event.received - last_received >= idle:
            state.current, state.late = [], []
        last_received = event.received
        here = state.current
        if here and event.at < min(other.at for other in here) - gap:
            late = state.late
            times = [other.at for other in late]
            if not late or event.at > max(times) + gap or event.at < min(times) - gap:
                late = state.late = []
                state.visits.append(late)
            late.append(event)
            continue
        if not here or event.at > max(other.at for other in here) + gap:
            here = state.current = []
            state.visits.append(here)
        here.append(event)
    return state.visits


def _summary(visit: Sequence[VisitEvent], view_type: str) -> ExpectedSession:
    times = [event.at for event in visit]
    first = visit[0]
    views = [event for event in visit if event.type == view_type and event.path]
    known = [event.profile for event in visit if event.profile and event.profile != event.device]
    placed = [event for event in visit if event.path]
    entry = min(placed, key=lambda event: event.at, default=None)
    leaving = [event for event in placed if event.at == max(other.at for other in placed)]
    return ExpectedSession(
        project=first.project,
        device=first.device,
        profile=known[-1] if known else first.profile or first.device,
        events=tuple(event.id for event in visit),
        created_at=min(times),
        ended_at=max(times),
        started=first.at - 100,
        ended_event=max(times) + 1_000,
        screen_view_count=len(views),
        event_count=len(visit) - len(views),
        revenue=sum(event.revenue for event in visit),
        entry_path=entry.path if entry else "",
        entry_origin=entry.origin if entry else "",
        exit_path=leaving[-1].path if leaving else "",
        exit_origin=leaving[-1].origin if leaving else "",
        groups=tuple(dict.fromkeys(group for event in visit for group in event.groups)),
    )
