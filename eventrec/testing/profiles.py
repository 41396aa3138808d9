"""What profiles a list of events comes to, computed in the plainest way from all of them: what a test compares with.

It shares no code with `eventrec.sessions`, and has the whole list at once, where that sees a batch at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import NAMESPACE_OID, uuid5

import msgspec

from eventrec.records.entry import make_entry
from eventrec.records.schema import Shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from eventrec.records.entry import Entry

HOUR: Final = 3_600_000
_PLACES: Final = [
    "city",
    "country",
    "region",
    "longitude",
    "latitude",
    "os",
    "osVersion",
    "os_version",
    "browser",
    "browser_version",
    "device",
    "isServer",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonEvent:
    """An event about a person, or a device. `at` is in milliseconds since the epoch.

    Attributes:
        names: Of `first_name`, `last_name`, `email`, `avatar` those that an update has.
        properties: What an update says beside.
        observed: What any event says: `country`, `device` …
    """

    id: str
    at: int
    project: str = "p"
    device: str = ""
    profile: str = ""
    type: str = "screen_view"
    names: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    observed: Mapping[str, Any] = field(default_factory=dict)
    groups: Sequence[str] = ()


@dataclass(slots=True)
class ExpectedProfile:
    """The last row of a profile. Times in milliseconds.

    Attributes:
        changes: How often it has changed: so many rows it has where each event comes by itself.
    """

    project: str
    id: str
    is_external: bool
    created_at: int
    last_seen_at: int
    first_name: str = ""
    last_name: str = ""
    email: str = ""
    avatar: str = ""
    properties: dict[str, Any] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    changes: int = 1


def person_entry(event: PersonEvent, **members: Any) -> Entry:
    """The record of `event`, as an application would have recorded it, with further `members`. Its id follows."""
    payload = {
        "project_id": event.project,
        "device_id": event.device,
        "profile_id": event.profile,
        "groups": list(event.groups),
        **event.observed,
        **event.names,
        **({"properties": event.properties} if event.properties else {}),
        **members,
    }
    return make_entry(
        Shape("events", event.type),
        event.at * 1_000_000,
        msgspec.json.encode(payload),
        explicit_id=uuid5(NAMESPACE_OID, event.id).bytes,
    )


def brute_force_profiles(events: Iterable[PersonEvent], *, every: int = HOUR) -> list[ExpectedProfile]:
    """The profiles of `events`, which are in the order in which they came; `every` is in milliseconds."""
    found: dict[tuple[str, str], ExpectedProfile] = {}
    for event in events:
        who = event.profile or event.device
        if not who or not event.project:
            continue
        is_update = event.type == "identify"
        is_external = is_update or event.profile not in {"", event.device}
        at = event.at + {"session_start": 100, "session_end": -1_000}.get(event.type, 0)
        before = found.get((event.project, who))
        if before is None:
            is_due, after = True, ExpectedProfile(event.project, who, is_external, at, at)
        else:
            wait = 1 if event.type in {"session_start", "session_end"} else every
            is_due, after = at >= before.last_seen_at + wait, _copy(before)
        if not is_due and not is_update:
            continue
        _put(after, event, is_update=is_update, is_new=before is None)
        after.is_external = after.is_external or is_external
        if before is None or is_due or after != before:
            after.last_seen_at = max(after.last_seen_at, at)
            after.changes += before is not None
            found[event.project, who] = after
    return [found[key] for key in sorted(found)]


def _put(profile: ExpectedProfile, event: PersonEvent, *, is_update: bool, is_new: bool) -> None:
    seen = {name: value for name, value in event.observed.items() if value not in {None, ""}}
    said = {**event.properties, **seen} if is_update else seen
    if said.get("device") == "server" and profile.properties.get("device") != "server" and not is_new:
        said = {name: value for name, value in said.items() if name not in _PLACES}
    for name, value in said.items():
        if value not in (None, "", [], {}):
            profile.properties[name] = _over(profile.properties.get(name), _texts(value))
    if is_update:
        for name, value in event.names.items():
            if value:
                setattr(profile, name, value)
    for group in event.groups:
        if group not in profile.groups:
            profile.groups.append(group)


def _over(before: Any, value: Any) -> Any:
    if isinstance(before, dict) and isinstance(value, dict):
        return {name: _over(before.get(name), value.get(name)) for name in [*before, *(value.keys() - before.keys())]}
    if value is None or (value == "" and isinstance(before, str)):
        return before
    return value


def _texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _texts(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_texts(inner) for inner in value]
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _copy(profile: ExpectedProfile) -> ExpectedProfile:
    copied = msgspec.json.decode(msgspec.json.encode(profile))
    return ExpectedProfile(**copied)


def last_rows(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Of rows in the order in which they were given out, the last one of each profile, by project and id.

    Raises:
        AssertionError: A version does not grow, or a time goes back, or a profile changes when it was created.
    """
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["project_id"], row["id"]
        before = last.get(key)
        if before is not None:
            assert row["version"] > before["version"], f"version {row['version']} of {key} does not grow"
            assert moment_of(row) >= moment_of(before), f"{key} was last seen earlier than before"
            assert row["created_at"] == before["created_at"], f"{key} was created at another time"
        last[key] = dict(row)
    return last


def moment_of(row: Mapping[str, Any], member: str = "last_seen_at") -> int:
    """A moment of a row in milliseconds."""
    return (datetime.fromisoformat(row[member]) - _EPOCH) // timedelta(milliseconds=1)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
