"""What a client of Segment sends, to events: pure functions of values.

    message     type                payload                                             in the context too
    track       its `event`         `properties`
    identify    `$identify`         `traits`
    page        `$pageview`         `properties`, with `name` and `category`
    screen      `$screen`           likewise
    group       `$groupidentify`    `$group_type` "segment_group", `$group_key` the     `group_id`
                                    `groupId`, `$group_set` the `traits`
    alias       `$create_alias`     `distinct_id` the `userId`, `alias` the             `previous_id`
                                    `previousId`

    context     `context` of the message, over that of the batch; `user_id` and `anonymous_id`; `distinct_id`, which is
                the first of both that there is; what else stands in the message, but for `integrations` and the key
    timestamp   `originalTimestamp`, else `timestamp`, put right by the `sentAt` of the message or the batch
                (client_clock.py); one that cannot be read does not count, and the event is stamped when it is recorded
    id          `messageId`: itself where it is a UUID, else a stable one that follows from it. A message without has an
                id that follows from its bytes and from how many equal ones stand before it, so that the same request
                again is the same events; without a timestamp it has none

The names are those that PostHog has for the same: a person, a page, a group are the same in a database, and for the
handler for PostHog, whichever client sent them. What a message must have: its type, `event` of a track, `groupId` of a
group, `previousId` and `userId` of an alias, and of all others `userId` or `anonymousId`.

Source: segment.com/docs, "HTTP tracking API" and "Spec: common fields".
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec

from eventrec.events.event import ReceivedEvent
from eventrec.ingest.client_clock import corrected, moment
from eventrec.ingest.elements import TOO_MUCH, BodyError, Total, elements_of, id_of_bytes, members_of, stable_id
from eventrec.ingest.members import NULL, decode_members, encode_members, is_null, is_number, object_without, text_of
from eventrec.ingest.names import is_name, uuid_in
from eventrec.ingest.received import LineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    Members = Mapping[str, msgspec.Raw]

NAMESPACE: Final = UUID("3a8b7c52-6f0d-5c1e-9b44-0d5f7e2a9c61")
"""Of ids that follow from others, or from bytes. A constant: changing it would give old messages new ids."""

TYPES: Final[Mapping[str, str]] = {
    "identify": "$identify",
    "page": "$pageview",
    "screen": "$screen",
    "group": "$groupidentify",
    "alias": "$create_alias",
}
"""What an event is called that is not a track, by the type of the message."""

MESSAGES: Final = ("track", *TYPES)
GROUP_TYPE: Final = "segment_group"

_TIMES: Final = ("originalTimestamp", "timestamp", "sentAt", "receivedAt")
_OF_THE_REQUEST: Final = frozenset({"sentAt", "writeKey"})
"""What stands in a message that is alone in its request, and may be another when it is sent again."""

_LEFT_OUT: Final = frozenset(
    {*_TIMES, "type", "messageId", "writeKey", "integrations", "context", "userId", "anonymousId"}
)
_IN_PAYLOAD: Final[Mapping[str, frozenset[str]]] = {
    "track": frozenset({"event", "properties"}),
    "identify": frozenset({"traits"}),
    "page": frozenset({"properties", "name", "category"}),
    "screen": frozenset({"properties", "name", "category"}),
    "group": frozenset({"traits", "groupId"}),
    "alias": frozenset({"previousId"}),
}
_OURS: Final = ("distinct_id", "user_id", "anonymous_id", "group_id", "previous_id", "posthog_kind")

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentBody:
    """A body, of which the messages are not looked at yet.

    Attributes:
        write_key: Counts as a token; None: it does not stand in the body.
        messages: Each the JSON that it is written as.
        sent_at: When the client says that it sent them, in nanoseconds since the epoch.
        context: Of all messages, where they have none of the same names.
    """

    write_key: str | None = field(repr=False)
    messages: list[bytes] = field(repr=False)
    sent_at: int | None = None
    context: Mapping[str, msgspec.Raw] = field(default_factory=dict, repr=False)


class _Envelope(msgspec.Struct, rename="camel"):
    write_key: msgspec.Raw = NULL
    batch: msgspec.Raw = NULL
    sent_at: msgspec.Raw = NULL
    context: msgspec.Raw = NULL


_envelope: Final = msgspec.json.Decoder(_Envelope).decode


def segment_body(
    body: bytes, *, is_batch: bool, max_elements: int, max_bytes: int = 1 << 20, max_depth: int = 200
) -> SegmentBody:
    """What `body` is: a batch, or one message. `max_bytes` and `max_depth` are those of an event.

    Raises:
        BodyError: It is not one.
        BodyTooLargeError: It has more than `max_elements` messages.
    """
    try:
        said = _envelope(body)
        write_key = text_of(said.write_key)
    except RecursionError as exc:
        raise BodyError("nested too deeply") from exc
    except msgspec.ValidationError as exc:
        raise BodyError("an object is expected") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise BodyError(f"not JSON: {exc}") from exc
    if not is_batch:
        return SegmentBody(write_key=write_key, messages=[body])
    if is_null(said.batch):
        raise BodyError("it has no batch: an array of messages")
    context = b"{}" if is_null(said.context) else bytes(said.context)
    try:
        of_all = members_of(context, max_bytes=max_bytes, max_depth=max_depth)
    except LineError as exc:
        raise BodyError(f"the context of the batch: {exc}") from exc
    messages = elements_of(said.batch, limit=max_elements)
    return SegmentBody(write_key=write_key, messages=messages, sent_at=moment(said.sent_at), context=of_all)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentReading:
    """How the messages of one request are read. Times are nanoseconds since the epoch.

    Attributes:
        now: When the request arrived.
        message: The type of all messages, which a path of its own names; None: each says it.
        max_event_bytes: Counts like the recorder's option.
        max_total_bytes: What all events of the request may have.
        max_depth: How deep a message's JSON may be nested.
    """

    now: int
    message: str | None = None
    max_event_bytes: int = 1 << 20
    max_total_bytes: int = 64 << 20
    max_depth: int = 200

    def events(self, body: SegmentBody) -> list[ReceivedEvent | LineError]:
        """The event of each message, or why it is not one."""
        equal: Counter[bytes] = Counter()
        found: list[ReceivedEvent | LineError] = []
        total = Total(self.max_event_bytes, self.max_total_bytes)
        for message in body.messages:
            if total.is_spent:
                found.append(LineError(TOO_MUCH))
                continue
            try:
                found.append(total.counted(self._event(message, body, equal)))
            except LineError as exc:
                found.append(exc)
        return found

    def _event(self, message: bytes, body: SegmentBody, equal: Counter[bytes]) -> ReceivedEvent:
        members = members_of(message, max_bytes=self.max_event_bytes, max_depth=self.max_depth)
        kind = self.message or text_of(members.get("type"))
        if kind not in MESSAGES:
            raise LineError(f"its type is not one of {', '.join(MESSAGES)}")
        user, anonymous = _person(members, "userId"), _person(members, "anonymousId")
        if user is None and (anonymous is None or kind == "alias"):
            raise LineError("it has no userId" if kind == "alias" else "it has neither a userId nor an anonymousId")
        payload, extra = _payload(kind, members)
        context = {**body.context, **_object(members.get("context"), "context")}
        context |= {name: raw for name, raw in members.items() if name not in _LEFT_OUT | _IN_PAYLOAD[kind]}
        for name in _OURS:
            context.pop(name, None)
        said = {"distinct_id": user or anonymous, "user_id": user, "anonymous_id": anonymous, **extra}
        context |= {name: raw for name, raw in said.items() if raw is not None}
        timestamp, id_ = self._timestamp(members, body), _id(members, equal)
        return ReceivedEvent(
            _type(kind, members), encode_members(payload), timestamp, id=id_, context=encode_members(context)
        )

    def _timestamp(self, members: Members, body: SegmentBody) -> int | None:
        said = _said_time(members)
        sent_at = moment(members.get("sentAt"))
        return None if said is None else corrected(said, body.sent_at if sent_at is None else sent_at, self.now)


def _type(kind: str, members: Members) -> str:
    if kind != "track":
        return TYPES[kind]
    name = text_of(members.get("event"))
    if not name:
        raise LineError("it has no event: a text that names what was tracked")
    if not is_name(name):
        raise LineError("its event is not a name of 1 to 255 bytes without NUL")
    return name


def _payload(kind: str, members: Members) -> tuple[dict[str, msgspec.Raw], dict[str, msgspec.Raw]]:
    """The payload, and what of it the context says too."""
    match kind:
        case "track":
            return _object(members.get("properties"), "properties"), {}
        case "identify":
            return _object(members.get("traits"), "traits"), {}
        case "group":
            group = _person(members, "groupId")
            if group is None:
                raise LineError("it has no groupId")
            traits = encode_members(_object(members.get("traits"), "traits"))
            type_ = msgspec.Raw(_encode(GROUP_TYPE))
            return {"$group_type": type_, "$group_key": group, "$group_set": msgspec.Raw(traits)}, {"group_id": group}
        case "alias":
            previous, user = _person(members, "previousId"), _person(members, "userId")
            if previous is None or user is None:
                raise LineError("it has no previousId")
            return {"distinct_id": user, "alias": previous}, {"previous_id": previous}
        case _:
            named = {name: members[name] for name in ("name", "category") if not is_null(members.get(name))}
            return {**named, **_object(members.get("properties"), "properties")}, {}


def _object(raw: msgspec.Raw | None, name: str) -> dict[str, msgspec.Raw]:
    if raw is None or is_null(raw):
        return {}
    try:
        return decode_members(raw)
    except msgspec.ValidationError as exc:
        raise LineError(f"its {name} is not an object") from exc


def _person(members: Members, name: str) -> msgspec.Raw | None:
    """An id as JSON text; a number as the text that it is written as."""
    raw = members.get(name)
    if raw is None or is_null(raw):
        return None
    text = text_of(raw)
    if text is None and is_number(raw):
        return msgspec.Raw(_encode(bytes(raw).decode()))
    if text is None:
        raise LineError(f"its {name} is not a text")
    return raw if text.strip() else None


def _said_time(members: Members) -> int | None:
    said = moment(members.get("originalTimestamp"))
    return moment(members.get("timestamp")) if said is None else said


def _id(members: Members, equal: Counter[bytes]) -> bytes | None:
    text = text_of(members.get("messageId"))
    if text:
        return uuid_in(text) or stable_id(NAMESPACE, b"message", text.encode())
    if _said_time(members) is None:
        return None
    return id_of_bytes(NAMESPACE, object_without(members, _OF_THE_REQUEST), equal)
