"""How a record is read for sessions: where in payload, context or columns each thing stands that rules look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventrec.records.entry import SHAPE, Entry
from eventrec.records.entry import TIMESTAMP as MOMENT
from eventrec.records.ids import Ids
from eventrec.records.layout_columns import TIMESTAMP, TYPE, from_payload
from eventrec.sessions.moments import milliseconds_of
from eventrec.sessions.picker import Picker, Sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from eventrec.delivery.sources.source import Records

MAX_ID: Final = 512
"""Characters of a project, device, profile or session; a record with a longer one cannot be read."""

_QUERY: Final = ("utm_source", "utm_medium", "utm_campaign", "utm_content", "utm_term")
_PLAIN: Final = (
    "country",
    "region",
    "city",
    "longitude",
    "latitude",
    "os",
    "os_version",
    "browser",
    "browser_version",
    "device",
    "brand",
    "model",
    "sdk_name",
    "sdk_version",
)

CARRIED: Final[Mapping[str, Sources]] = {
    **{name: from_payload(name) for name in _PLAIN},
    **{
        name: (from_payload("properties", "__query", name), from_payload("properties", f"__query.{name}"))
        for name in _QUERY
    },
}
"""What a session has of its first event alone, by the names of columns."""


@dataclass(frozen=True, slots=True)
class EventFields:
    """Where each thing stands. The defaults are those of payloads in snake_case, `project_id`, `device_id` ….

    Sources are `TYPE`, `TIMESTAMP`, `from_payload(…)`, `from_context(…)`, `from_field(…)`. A `time` that is taken from
    elsewhere than `TIMESTAMP` is a number of milliseconds or a text as RFC 3339 writes it, UTC where it has no zone.
    `carried` may be extended at its end; what sessions that are open have of it stands by its place.

    Raises:
        OptionsError: A source is not one of these, or two contradict each other.
    """

    type: Sources = TYPE
    time: Sources = TIMESTAMP
    project: Sources = field(default=from_payload("project_id"))
    device: Sources = field(default=from_payload("device_id"))
    profile: Sources = field(default=from_payload("profile_id"))
    session: Sources = field(default=from_payload("session_id"))
    path: Sources = field(default=from_payload("path"))
    origin: Sources = field(default=from_payload("origin"))
    referrer: Sources = field(default=from_payload("referrer"))
    referrer_name: Sources = field(default=from_payload("referrer_name"))
    referrer_type: Sources = field(default=from_payload("referrer_type"))
    revenue: Sources = field(default=from_payload("revenue"))
    groups: Sources = field(default=from_payload("groups"))
    carried: Mapping[str, Sources] = field(default_factory=lambda: CARRIED)

    def __post_init__(self) -> None:
        FieldReader(self)


class SessionEvent(msgspec.Struct, gc=False):
    """One record as rules see it: texts are empty and groups None where the record has none.

    Attributes:
        id: 16 bytes: the one that the record brought, or that follows from its place.
        at: Milliseconds since the epoch, UTC, of the event.
    """

    entry: Entry
    id: bytes
    type: str
    at: int
    project: str
    device: str
    profile: str
    session: str
    path: str
    origin: str
    referrer: str
    referrer_name: str
    referrer_type: str
    revenue: float
    groups: list[str] | None


class FieldReader:
    """Reads records by `fields`. A record of which a part that is looked at cannot be read, is None.

    Raises:
        OptionsError: As `EventFields`.
    """

    def __init__(self, fields: EventFields) -> None:
        self._picker = Picker([(name, getattr(fields, name), _TYPES[name]) for name in _NAMES], is_strict=True)
        own = [("type", fields.type, _TYPES["session"]), ("time", fields.time, _TIME)]
        self._own = None if (fields.type, fields.time) == (TYPE, TIMESTAMP) else Picker(own, is_strict=True)
        carried = [(name, source, _SCALAR) for name, source in fields.carried.items()]
        self._carried = Picker(carried, is_strict=False, max_text=MAX_ID)

    def read(self, log_id: UUID, records: Records) -> list[SessionEvent | None]:
        """Each record as rules see it."""
        ids = Ids(log_id).first_bytes(records.offsets, records.entries) if records.entries else []
        static = records.static_context
        return [self._event(id_, entry, static) for id_, entry in zip(ids, records.entries, strict=True)]

    def carried(self, entry: Entry, static: bytes | None) -> Sequence[Any]:
        """The carried values of `entry`, in their order; what cannot be read is None."""
        return self._carried.pick(entry, static)

    def _event(self, id_: bytes, entry: Entry, static: bytes | None) -> SessionEvent | None:
        try:
            project, device, profile, session, path, origin, referrer, name, kind, revenue, groups = self._picker.pick(
                entry, static
            )
            type_, at = entry[SHAPE].type, entry[MOMENT] // 1_000_000
            if self._own is not None:
                type_, at = self._typed(entry, static)
            return SessionEvent(
                entry,
                id_,
                type_,
                at,
                project if project.__class__ is str and len(project) <= MAX_ID else _id(project),
                device if device.__class__ is str and len(device) <= MAX_ID else _id(device),
                profile if profile.__class__ is str and len(profile) <= MAX_ID else _id(profile),
                session if session.__class__ is str and len(session) <= MAX_ID else _id(session),
                path or "",
                origin or "",
                referrer or "",
                name or "",
                kind or "",
                _number(revenue) if revenue else 0.0,
                groups,
            )
        except Exception:  # noqa: BLE001 - RecursionError, UnicodeDecodeError: whatever odd bytes make of a decoder
            return None

    def _typed(self, entry: Entry, static: bytes | None) -> tuple[str, int]:
        assert self._own is not None  # noqa: S101 - for the type checker
        kind, time = self._own.pick(entry, static)
        return _id(kind) or entry[SHAPE].type, entry[MOMENT] // 1_000_000 if time is None else milliseconds_of(time)


_NAMES: Final = (
    "project",
    "device",
    "profile",
    "session",
    "path",
    "origin",
    "referrer",
    "referrer_name",
    "referrer_type",
    "revenue",
    "groups",
)
_TEXT: Final[Any] = str | None
_SCALAR: Final[Any] = str | float | bool | None
_TIME: Final[Any] = int | float | str | None
_TYPES: Final[Mapping[str, Any]] = {
    **dict.fromkeys(_NAMES, _TEXT),
    **dict.fromkeys(("project", "device", "profile", "session"), str | int | None),
    "revenue": float | str | None,
    "groups": list[str] | None,
}


def _id(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(value)
    if len(text) > MAX_ID:
        raise ValueError("an id is too long")
    return text


def _number(value: float | str) -> float:
    number = float(value)
    if number - number != 0:
        raise ValueError("revenue is not a number")
    return number
