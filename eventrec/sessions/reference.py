"""Sessions as applications number them: each view is held back until what follows it says how long it lasted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from eventrec.errors import PauseError
from eventrec.records.content import PlainShape, Shapes, plain_shape
from eventrec.records.entry import PAYLOAD, make_entry
from eventrec.sessions.payloads import encode, members_of, with_members
from eventrec.sessions.policy import OPEN_SESSIONS, SessionPolicy
from eventrec.sessions.session import short, uuid_text
from eventrec.sessions.turn import LIVE_SECONDS, with_static

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventrec.sessions.fields import EventFields, SessionEvent
    from eventrec.sessions.turn import Turn

_FORMAT: Final = 1
LAST_VIEW_SECONDS: Final = 1_860.0
"""How long the last view of a profile, or of a session, can be looked up."""

MAX_VIEWS: Final = 50
"""How many views of a session are known, for events that are of a time before the last one."""


class InheritedView(msgspec.Struct, array_like=True, gc=False):
    """What is inherited from a view. `at` is in milliseconds."""

    at: int
    id: bytes
    path: str
    origin: str


class HeldView(msgspec.Struct, array_like=True, gc=False):
    """What is kept of a session: its last view, which is held back, and the views that it has had, by their time."""

    format: int
    at: int
    profile: str
    shape: PlainShape
    timestamp: int
    payload: bytes
    context: bytes | None
    extras: bytes | None
    id: bytes
    views: list[InheritedView]


class ReferenceSessions(SessionPolicy):
    """Sessions by the id that events bring: views last until the next view, or until the end of the session.

        event                         becomes
        a view                        held back; the view held before is passed on, with the time between both as its
                                      `duration`. One of a time before the held one is passed on at once, with the time
                                      to the view that follows it
        `session_end`                 passed on, behind the held view, whose duration it says; alone where none is held
        another one of a session      passed on with path and origin of the latest view that is not later than itself,
                                      and with the id of that as `properties.__inherit_from`
        without a session             passed on as it came

    A view that nothing follows within `idle_seconds`, by the bus's clock, is passed on as it came. Durations are in
    milliseconds and never negative. Where an event stands among others in the output is where it came, held views where
    they are passed on.

    Published: `session:last_screen_view:{project}:{profile}` and `session:last_screen_view:session:{project}:{session}`
    (the payload of the view, for 1,860 s, or until the session ends), `live:event:{project}:{profile}` (300 s). Seen:
    visitors in `live:{project}`. A session that ends takes the last view of its profile back, also where another
    session of that has shown something since. One key is kept for each held view: the size of the stage counts them.
    """

    name = "reference-sessions"
    kept = "open sessions"

    def __init__(
        self,
        *,
        fields: EventFields | None = None,
        idle_seconds: float = 1_800.0,
        inherits: Literal["always", "missing"] = "always",
        view_type: str = "screen_view",
        flat_properties: bool = False,
        end_type: str = "session_end",
        duration_member: str = "duration",
    ) -> None:
        super().__init__(fields=fields, idle_seconds=idle_seconds, flat_properties=flat_properties)
        self._inherits_always = inherits == "always"
        self._view_type = view_type
        self._end_type = end_type
        self._duration = duration_member
        self._shapes = Shapes()

    # -- rules, for subclasses to change

    def is_view(self, event: SessionEvent) -> bool:
        """It is held back."""
        return event.type == self._view_type

    def is_end(self, event: SessionEvent) -> bool:
        """Nothing of its session is to come."""
        return event.type == self._end_type

    # -- state

    def keys(self, event: SessionEvent) -> Iterable[str]:
        """That of its session."""
        return (_key(event),) if event.project and event.session else ()

    def decode(self, key: str, kept: bytes) -> HeldView:
        """The held view of a session."""
        try:
            held = _decode(kept)
        except Exception as exc:
            raise PauseError(f"what is kept under {key!r:.80} is not a held view: {exc}") from exc
        if held.format != _FORMAT:
            raise PauseError(f"what is kept under {key!r:.80} has format {held.format}; this eventrec reads {_FORMAT}")
        return held

    def encode(self, value: Any) -> bytes:
        """It as msgpack."""
        return _encode(value)

    # -- turns

    def take(self, event: SessionEvent, turn: Turn) -> None:
        """The table above."""
        if event.project:
            turn.note_received(event.project)
            visitor = event.profile or event.device
            if visitor:
                turn.note_visitor(event.project, visitor)
                turn.publish(f"live:event:{event.project}:{visitor}", b"1", LIVE_SECONDS)
        if not (event.project and event.session):
            turn.counts["regular"] += 1
            turn.pass_on(event.entry, event.id)
            return
        key = _key(event)
        held: HeldView | None = turn.get(key)
        if self.is_view(event):
            self._take_view(key, event, held, turn)
        elif self.is_end(event):
            self._take_end(key, event, held, turn)
        else:
            turn.counts["regular"] += 1
            self._pass_regular(event, held, turn)

    def idle(self, key: str, turn: Turn) -> None:
        """The view that was held is passed on: how long it lasted is not known."""
        self._release(turn.get(key), None, turn)
        turn.put(key, None)
        turn.tallies[OPEN_SESSIONS] -= 1

    def _take_view(self, key: str, event: SessionEvent, held: HeldView | None, turn: Turn) -> None:
        view = InheritedView(event.at, event.id, short(event.path), short(event.origin))
        if held is not None and event.at < held.at:
            following = next(other for other in held.views if other.at > event.at)
            payload = self._lasting(event.entry[PAYLOAD], following.at - event.at)
            turn.pass_changed(event.entry, event.id, payload)
            turn.counts["views_passed"] += 1
            held.views.insert(held.views.index(following), view)
            del held.views[:-MAX_VIEWS]
            turn.put(key, held)
            return
        views: list[InheritedView] = []
        if held is not None:
            self._release(held, event.at, turn)
            views = held.views
        else:
            turn.tallies[OPEN_SESSIONS] += 1
        entry = with_static(event.entry, turn.static_context)
        shape, timestamp, payload, context, extras, _, _ = entry
        turn.put(
            key,
            HeldView(
                _FORMAT,
                event.at,
                event.profile or event.device,
                plain_shape(shape),
                timestamp,
                payload,
                context,
                extras,
                event.id,
                [*views[-MAX_VIEWS + 1 :], view],
            ),
        )
        turn.counts["held"] += 1
        for name in _names_of_last_view(event.project, event.profile or event.device, event.session):
            turn.publish(name, payload, LAST_VIEW_SECONDS)

    def _take_end(self, key: str, event: SessionEvent, held: HeldView | None, turn: Turn) -> None:
        if held is not None:
            self._release(held, event.at, turn)
            turn.put(key, None)
            turn.tallies[OPEN_SESSIONS] -= 1
        visitors = dict.fromkeys([event.profile or event.device, *([held.profile] if held is not None else [])])
        for visitor in visitors:
            for name in _names_of_last_view(event.project, visitor, event.session):
                turn.publish(name, None)
        turn.counts["ended"] += 1
        turn.pass_on(event.entry, event.id)

    def _release(self, held: HeldView, until: int | None, turn: Turn) -> None:
        """Pass the held view on; it lasted `until` then. None: for as long as it says itself."""
        payload = held.payload if until is None else self._lasting(held.payload, max(0, until - held.at))
        shape = self._shapes.of(held.shape)
        turn.pass_held(make_entry(shape, held.timestamp, payload, held.context, held.extras, held.id))
        turn.counts["released"] += 1

    def _lasting(self, payload: bytes, milliseconds: int) -> bytes:
        try:
            return with_members(payload, {self._duration: b"%d" % milliseconds})
        except (ValueError, RecursionError):
            return payload  # not an object: fields of it are taken from elsewhere

    def _pass_regular(self, event: SessionEvent, held: HeldView | None, turn: Turn) -> None:
        view = None if held is None else next((view for view in reversed(held.views) if view.at <= event.at), None)
        if view is None or (event.path and not self._inherits_always):
            turn.pass_on(event.entry, event.id)
            return
        try:
            members = members_of(event.entry[PAYLOAD])
            properties = _properties(members.get("properties"))
        except (ValueError, RecursionError):
            turn.pass_on(event.entry, event.id)
            return
        properties["__inherit_from"] = msgspec.Raw(encode(uuid_text(view.id)))
        members["path"] = msgspec.Raw(encode(view.path))
        members["origin"] = msgspec.Raw(encode(view.origin))
        members["properties"] = msgspec.Raw(encode(properties))
        turn.counts["inherited"] += 1
        turn.pass_changed(event.entry, event.id, encode(members))


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(HeldView).decode
_NOTHING: Final = (b"", b"null", b"[]")


def _key(event: SessionEvent) -> str:
    return f"s{len(event.project)}:{event.project}:{event.session}"


def _names_of_last_view(project: str, visitor: str, session: str) -> list[str]:
    by_session = f"session:last_screen_view:session:{project}:{session}"
    return [f"session:last_screen_view:{project}:{visitor}", by_session] if visitor else [by_session]


def _properties(raw: msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    """Those of an event; a new object where it has none.

    Raises:
        ValueError: They are not an object.
    """
    return {} if raw is None or bytes(raw) in _NOTHING else members_of(raw)
