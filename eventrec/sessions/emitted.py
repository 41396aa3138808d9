"""What comes out of sessions beside the events themselves: their start, their end, and their rows.

Payloads are in snake_case, as those of events: what a layout for the tables of events and sessions takes by name.

    session_start, session_end    name project_id device_id profile_id session_id path origin referrer referrer_name
                                  referrer_type duration properties groups, and what is carried
    session                       id project_id device_id profile_id ended_at duration is_bounce entry_path
                                  entry_origin exit_path exit_origin screen_view_count event_count revenue referrer
                                  referrer_name referrer_type groups sign version, and what is carried; the time of
                                  the record is when it began, `created_at`

A duration is in milliseconds. Texts that are missing are empty, longitude and latitude null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventrec.errors import OptionsError
from eventrec.records.entry import make_entry
from eventrec.records.schema import Shape
from eventrec.sessions.moments import moment_at, nanoseconds_at
from eventrec.sessions.payloads import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventrec.records.entry import Entry
    from eventrec.sessions.session import Session

SESSION_START: Final = "session_start"
SESSION_END: Final = "session_end"
BEFORE: Final = 100
"""Milliseconds from the start of a session to its first event."""

AFTER: Final = 1_000
"""Milliseconds from its last event to its end."""

MAX_DURATION: Final = 2**32 - 1
"""Milliseconds of a row's duration at most: what 32 bits hold, 49 days."""

_NUMBERS: Final = frozenset({"longitude", "latitude"})
_EVENT: Final = (
    "name",
    "project_id",
    "device_id",
    "profile_id",
    "session_id",
    "path",
    "origin",
    "referrer",
    "referrer_name",
    "referrer_type",
    "duration",
    "properties",
    "groups",
)
_ROW: Final = (
    "id",
    "project_id",
    "device_id",
    "profile_id",
    "ended_at",
    "duration",
    "is_bounce",
    "entry_path",
    "entry_origin",
    "exit_path",
    "exit_origin",
    "screen_view_count",
    "event_count",
    "revenue",
    "referrer",
    "referrer_name",
    "referrer_type",
    "groups",
    "sign",
    "version",
)
_NO_REFERRER: Final = ("", "", "")


class OpenSession:
    """A session that a turn has changed, and the parts of its entries that stay the same.

    Attributes:
        before: Its row as it was before the turn, taken back; None: it had none.
        text: Its id as JSON.
    """

    __slots__ = ("before", "carried", "device", "project", "session", "text", "text_id")

    def __init__(self, project: str, device: str, session: Session, carried: bytes) -> None:
        self.project = project
        self.device = device
        self.session = session
        self.carried = carried
        self.before: Entry | None = None
        self.text_id = session.text_id
        self.text = encode(self.text_id)


class SessionWriter:
    """Makes the entries of sessions. `carried` are the names of what they carry, in its order.

    Raises:
        OptionsError: One of them is the name of a member that an entry has anyway.
    """

    def __init__(self, *, events_table: str, sessions_table: str, carried: Sequence[str]) -> None:
        if taken := {*_EVENT, *_ROW} & {*carried}:
            raise OptionsError(f"{min(taken)!r} is a member that sessions have: nothing that is carried has its name")
        self._start = Shape(events_table, SESSION_START)
        self._end = Shape(events_table, SESSION_END)
        self._row = Shape(sessions_table, "session")
        self._missing = [None if name in _NUMBERS else "" for name in carried]
        self._event = _struct("MadeEvent", _EVENT)
        self._session = _struct("SessionRow", _ROW)
        self._carried = _struct("Carried", carried)
        self._nothing = self._encoded(())

    def open(self, project: str, device: str, session: Session) -> OpenSession:
        """A session that entries are to be made of."""
        carried = session.carried
        return OpenSession(project, device, session, self._encoded(carried) if carried else self._nothing)

    def start(self, of: OpenSession, at: int, context: bytes | None) -> Entry:
        """Its start, for a first event at `at` that has this context."""
        session = of.session
        payload = self._made(of, SESSION_START, (session.entry_path, session.entry_origin), 0, {})
        return make_entry(self._start, nanoseconds_at(at - BEFORE), payload, context, None, entry_id(session.id, 0, 1))

    def end(self, of: OpenSession) -> Entry:
        """Its end."""
        session = of.session
        properties = _BOUNCE if session.is_bounce else _NO_BOUNCE
        payload = self._made(of, SESSION_END, (session.exit_path, session.exit_origin), session.duration, properties)
        at = nanoseconds_at(session.ended + AFTER)
        return make_entry(self._end, at, payload, None, None, entry_id(session.id, 0, -1))

    def row(self, of: OpenSession, sign: int) -> Entry:
        """Its row as it is now; with the sign -1 the same row, taken back: equal in all but that."""
        session = of.session
        row = self._session(
            of.text_id,
            of.project,
            of.device,
            session.profile or of.device,
            moment_at(session.ended),
            min(session.duration, MAX_DURATION),
            session.is_bounce,
            session.entry_path,
            session.entry_origin,
            session.exit_path,
            session.exit_origin,
            session.views,
            session.events,
            session.revenue,
            *(session.referrer or _NO_REFERRER),
            session.groups,
            sign,
            session.version,
        )
        payload = encode(row)[:-1] + of.carried
        id_ = entry_id(session.id, session.version, sign)
        return make_entry(self._row, nanoseconds_at(session.created), payload, None, None, id_)

    def _made(
        self, of: OpenSession, kind: str, place: tuple[str, str], duration: int, properties: dict[str, str]
    ) -> bytes:
        session = of.session
        event = self._event(
            kind,
            of.project,
            of.device,
            session.profile or of.device,
            of.text_id,
            *place,
            *(session.referrer or _NO_REFERRER),
            duration,
            properties,
            session.groups,
        )
        return encode(event)[:-1] + of.carried

    def filled(self, carried: Sequence[Any]) -> list[Any]:
        """What a session keeps of what it carries: without what is missing at its end."""
        values = list(carried)
        while values and (values[-1] is None or values[-1] == ""):
            values.pop()
        if None in values:
            return [absent if value is None else value for value, absent in zip(values, self._missing, strict=False)]
        return values

    def _encoded(self, carried: Sequence[Any]) -> bytes:
        """What stands behind the other members. A session of another policy may carry more values, or fewer."""
        missing = self._missing
        values = carried if len(carried) == len(missing) else [*carried[: len(missing)], *missing[len(carried) :]]
        return b"," + encode(self._carried(*values))[1:] if values else b"}"


def entry_id(session: bytes, version: int, sign: int) -> bytes:
    """The id of an entry of a session, 16 bytes: 88 bits of the session's, then the version and the sign."""
    return session[:11] + (version << 1 | (sign > 0)).to_bytes(5)


_BOUNCE: Final = {"__bounce": "true"}
_NO_BOUNCE: Final = {"__bounce": "false"}


def _struct(name: str, members: Sequence[str]) -> Callable[..., Any]:
    attributes = {f"m{i}": member for i, member in enumerate(members)}
    return msgspec.defstruct(name, [(attribute, Any) for attribute in attributes], rename=attributes, gc=False)
