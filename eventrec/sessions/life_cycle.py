"""Sessions by pauses: one begins with a device's first event, and ends where none came for half an hour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from eventrec.records.entry import CONTEXT, PAYLOAD
from eventrec.sessions.emitted import SESSION_END, SESSION_START, OpenSession, SessionWriter
from eventrec.sessions.kept import FORMAT, DeviceState, decode_state, encode_state, profile_state
from eventrec.sessions.payloads import encode, with_members, with_session
from eventrec.sessions.policy import OPEN_SESSIONS, SessionPolicy
from eventrec.sessions.session import Session, opened

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventrec.sessions.fields import EventFields, SessionEvent
    from eventrec.sessions.turn import Turn

_NO_REFERRER: Final = ["", "", ""]


class Sessions(SessionPolicy):
    """Sessions of devices within projects, by the time of their events.

        event                            becomes
        the first of a device            the first of a session; `session_start` stands 100 ms before it
        not further than the gap         one of the session, before its first, between or after its last, in any order
        further behind the last          the first of a new session; `session_end` of the old one stands 1 s after its
                                         last event, with duration, exit path and `__bounce`
        further before the first         late: one of an earlier session of the device, which is open beside the other
                                         one (`late="own"`), or passed on without a session (`late="pass"`)
        without a device, with a         passed on with session, device, referrer and path of the session that the
        profile                          profile is in; as it came where it is in none. It changes nothing of that
        without project or device        passed on as it came
        `session_start`, `session_end`   passed on as it came, or dropped and counted (`boundaries="drop"`)

    A device of which nothing came for `idle_seconds` by the bus's clock is in no session any more: what it was in ends,
    and the next event opens another.

    Events are passed on with the id of their session as the member `session_member` of their payload, and with the
    referrer of the session's first event; everything else of them stays. Each output has, for every session that it
    changes, its row of the last output with the sign -1 and the new one with the sign 1 and the version, which counts
    the events: what VersionedCollapsingMergeTree keeps one row of, if it sorts by the session's id too.

    The id of a session follows from that of its first event; with `ids="given"` it is the one that this event brings,
    unless it had the session before. A path, origin or referrer is kept up to 2,048 characters, groups up to 100.

    Attributes:
        gap_milliseconds: How far apart by their own time two events of one session may be.
    """

    kept = "devices and known profiles in open sessions"

    def __init__(
        self,
        *,
        fields: EventFields | None = None,
        gap_seconds: float = 1_800.0,
        idle_seconds: float | None = None,
        late: Literal["own", "pass"] = "own",
        ids: Literal["derived", "given"] = "derived",
        boundaries: Literal["pass", "drop"] = "pass",
        view_type: str = "screen_view",
        flat_properties: bool = False,
        session_member: str | None = "session_id",
        events_table: str = "events",
        sessions_table: str | None = "sessions",
    ) -> None:
        super().__init__(
            fields=fields,
            idle_seconds=gap_seconds if idle_seconds is None else idle_seconds,
            flat_properties=flat_properties,
        )
        self.gap_milliseconds = int(gap_seconds * 1_000)
        self._passes_late = late == "pass"
        self._takes_given_ids = ids == "given"
        self._drops_boundaries = boundaries == "drop"
        self._view_type = view_type
        self._member = session_member
        self._quoted_member = b"" if session_member is None else encode(session_member)
        self._has_rows = sessions_table is not None
        self._write = SessionWriter(
            events_table=events_table,
            sessions_table=sessions_table or "sessions",
            carried=list(self.fields.carried),
        )

    # -- rules, for subclasses to change

    def is_view(self, event: SessionEvent) -> bool:
        """It shows something: more than one make a visit that is not a bounce."""
        return event.type == self._view_type

    def is_boundary(self, session: Session, event: SessionEvent) -> bool:
        """`event` is behind the end of `session`: that ends, and another begins."""
        return event.at - session.ended > self.gap_milliseconds

    def is_late(self, session: Session, event: SessionEvent) -> bool:
        """`event` is of a time before `session`, and does not belong to it."""
        return session.created - event.at > self.gap_milliseconds

    # -- state

    def keys(self, event: SessionEvent) -> Iterable[str]:
        """The device's; of an event without one that of its profile."""
        if not event.project or event.type in _BOUNDARIES:
            return ()
        if event.device:
            return (f"d{len(event.project)}:{event.project}:{event.device}",)
        return (f"p{len(event.project)}:{event.project}:{event.profile}",) if event.profile else ()

    def decode(self, key: str, kept: bytes) -> Any:
        """A DeviceState or a ProfileState."""
        return decode_state(key, kept)

    def encode(self, value: Any) -> bytes:
        """It as msgpack."""
        return encode_state(profile_state(value) if isinstance(value, OpenSession) else value)

    # -- turns

    def take(self, event: SessionEvent, turn: Turn) -> None:
        """The table above, and a row for each session that it changes, at the end."""
        if event.type in _BOUNDARIES:
            if self._drops_boundaries:
                turn.counts["dropped"] += 1
            else:
                turn.counts["boundaries"] += 1
                turn.pass_on(event.entry, event.id)
            return
        project, device = event.project, event.device
        if not project:
            turn.counts["without_session"] += 1
            turn.pass_on(event.entry, event.id)
            return
        turn.note_received(project)
        if not device:
            self._take_of_server(event, turn)
            return
        turn.note_visitor(project, event.profile or device)
        key = f"d{len(project)}:{project}:{device}"
        state: DeviceState | None = turn.get(key)
        if state is None:
            touched = self._open(event, turn)
            state = DeviceState(FORMAT, touched.session)
        elif self.is_boundary(state.current, event):
            self._end(project, device, state.current, turn)
            touched = self._open(event, turn, state.current)
            state.current = touched.session
        elif self.is_late(state.current, event):
            if self._passes_late:
                turn.counts["late"] += 1
                turn.pass_on(event.entry, event.id)
                return
            self._take_late(event, state, turn)
            turn.put(key, state)
            return
        else:
            touched = self._extend(event, state.current, turn)
        turn.put(key, state)
        profile = touched.session.profile
        if profile:
            turn.put(f"p{len(project)}:{project}:{profile}", touched)

    def idle(self, key: str, turn: Turn) -> None:
        """A device's sessions end; a profile is nowhere any more."""
        if key[0] == "d":
            state: DeviceState = turn.get(key)
            length, _, rest = key[1:].partition(":")
            project, device = rest[: int(length)], rest[int(length) + 1 :]
            if state.late is not None:
                self._end(project, device, state.late, turn)
            self._end(project, device, state.current, turn)
        turn.put(key, None)

    def settle(self, turn: Turn) -> None:
        """The rows: what is taken back first."""
        if not self._has_rows:
            return
        touched: dict[int, OpenSession] = turn.notes.get("touched", {})
        row = self._write.row
        append = turn.entries.append
        for each in touched.values():
            if each.before is not None:
                append(each.before)
            append(row(each, 1))
        turn.counts["rows"] += len(touched)

    def _take_late(self, event: SessionEvent, state: DeviceState, turn: Turn) -> None:
        late = state.late
        if late is not None and (self.is_boundary(late, event) or self.is_late(late, event)):
            self._end(event.project, event.device, late, turn)
            late = None
        if late is None:
            state.late = self._open(event, turn, state.late, state.current).session
        else:
            self._extend(event, late, turn)
        turn.counts["late"] += 1

    def _take_of_server(self, event: SessionEvent, turn: Turn) -> None:
        where = turn.get(f"p{len(event.project)}:{event.project}:{event.profile}") if event.profile else None
        if isinstance(where, OpenSession):
            where = profile_state(where)
        gap = self.gap_milliseconds
        if where is None or not where.created - gap <= event.at <= where.ended + gap:
            turn.counts["without_session"] += 1
            turn.pass_on(event.entry, event.id)
            return
        turn.counts["joined"] += 1
        if self._member is None:
            turn.pass_on(event.entry, event.id)
            return
        members = {self._member: encode(where.session_id), "device_id": encode(where.device)}
        if not event.path and where.path:
            members |= {"path": encode(where.path), "origin": encode(where.origin)}
        if where.referrer and not event.referrer:
            members |= _referrer_members(where.referrer)
        _pass_with(event, members, turn)

    def _open(self, event: SessionEvent, turn: Turn, *before: Session | None) -> OpenSession:
        is_given = self._takes_given_ids and all(event.session != each.text_id for each in before if each is not None)
        carried = self._write.filled(self.reader.carried(event.entry, turn.static_context))
        session = opened(event, given=event.session if is_given else "", carried=carried)
        session.add(event, is_view=self.is_view(event))
        touched = self._write.open(event.project, event.device, session)
        turn.notes.setdefault("touched", {})[id(session)] = touched
        turn.entries.append(self._write.start(touched, event.at, event.entry[CONTEXT]))
        turn.counts["opened"] += 1
        turn.tallies[OPEN_SESSIONS] += 1
        self._pass(event, touched, turn, is_first=True)
        return touched

    def _extend(self, event: SessionEvent, session: Session, turn: Turn) -> OpenSession:
        all_touched = turn.notes.setdefault("touched", {})
        touched: OpenSession | None = all_touched.get(id(session))
        if touched is None:
            touched = all_touched[id(session)] = self._write.open(event.project, event.device, session)
            if self._has_rows:
                touched.before = self._write.row(touched, -1)
        profile = session.profile
        earlier = profile_state(touched) if profile and event.profile and event.profile != profile else None
        session.add(event, is_view=self.is_view(event))
        if earlier is not None and session.profile != profile:
            key = f"p{len(event.project)}:{event.project}:{profile}"
            if turn.peek(key) is touched:
                turn.put(key, earlier)  # the profile that it had is still found where it was
        self._pass(event, touched, turn, is_first=False)
        return touched

    def _end(self, project: str, device: str, session: Session, turn: Turn) -> None:
        touched: OpenSession | None = turn.notes.get("touched", {}).get(id(session))
        turn.entries.append(self._write.end(touched or self._write.open(project, device, session)))
        turn.counts["ended"] += 1
        turn.tallies[OPEN_SESSIONS] -= 1

    def _pass(self, event: SessionEvent, touched: OpenSession, turn: Turn, *, is_first: bool) -> None:
        turn.counts["in_session"] += 1
        entry = event.entry
        if self._member is None:
            turn.pass_on(entry, event.id)
            return
        referrer = touched.session.referrer
        if is_first or not referrer or [event.referrer, event.referrer_name, event.referrer_type] == referrer:
            old = encode(event.session)
            if old == touched.text:
                turn.pass_on(entry, event.id)
                return
            try:
                payload = with_session(entry[PAYLOAD], self._quoted_member, old, touched.text)
            except _UNREADABLE:
                turn.pass_on(entry, event.id)
                return
            turn.pass_changed(entry, event.id, payload)
            return
        _pass_with(event, {self._member: touched.text, **_referrer_members(referrer)}, turn)


_BOUNDARIES: Final = frozenset({SESSION_START, SESSION_END})
_UNREADABLE: Final = (ValueError, RecursionError)


def _referrer_members(referrer: list[str]) -> dict[str, bytes]:
    names = ("referrer", "referrer_name", "referrer_type")
    return {name: encode(value) for name, value in zip(names, referrer or _NO_REFERRER, strict=True)}


def _pass_with(event: SessionEvent, members: dict[str, bytes], turn: Turn) -> None:
    """Pass `event` on with these members; as it came where its payload is not an object."""
    try:
        payload = with_members(event.entry[PAYLOAD], members)
    except _UNREADABLE:
        turn.pass_on(event.entry, event.id)
        return
    turn.pass_changed(event.entry, event.id, payload)
