"""An event as a client of PostHog sends it, to one of ours: pure functions of values.

    event           type            kind                   payload                              context
    `$identify`     `$identify`     Identify               `$set`                               the other properties
    `$set`          `$set`          SetPersonProperties    `$set`                               the other properties
    any other       its `event`     Append                 properties, `$set` and `$set_once`

    distinct_id   a field of the context: `distinct_id`, `$distinct_id`, or the property `distinct_id`; a number, and
                  anything else that is not a text, as the text that it is written as. An event must have one
    session_id    the property of that name is a field of the context
    $set          of the event and of its properties is one; likewise `$set_once`. An event of a person that has no
                  `$set`, and a `$set` event that has `$set_once` or `$unset`, is kept as Append, which its context
                  says, as `posthog_kind`: so nothing of it is lost
    timestamp     `timestamp`, put right by `sent_at` (client_clock.py), unless the property `$ignore_sent_at` is true;
                  else `offset`, the milliseconds it lay back when it arrived; one that cannot be read does not count,
                  and the event is stamped when it is recorded
    uuid          its id; one that is not a UUID, or else the property `$insert_id`, leads to a stable one. An event
                  with neither has an id that follows from its bytes and from how many equal ones stand before it, so
                  that the same batch again is the same events; without a `timestamp` it has none
    key           the project's key is left out, wherever it stands
    v1            what PostHog's second protocol lifts out of the properties is put back: `session_id` and `window_id`
                  of the event are `$session_id` and `$window_id`, its `options` their sentinels

That is what the handler for PostHog makes of an event, backwards: what is taken here and delivered there arrives as the
same event. So a personless event, whose distinct id is its own uuid, has none here either. Two things do not come
back: fields of the context beside these are properties (of Append), and a property `table` stays one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec

from eventrec.events.event import ReceivedEvent
from eventrec.ingest.client_clock import corrected, moment
from eventrec.ingest.elements import id_of_bytes, members_of, stable_id
from eventrec.ingest.members import decode_members, encode_members, integer_of, is_null, object_without, text_of
from eventrec.ingest.names import is_name, uuid_in
from eventrec.ingest.received import EventTooLargeError, LineError
from eventrec.records.entry import entry_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Members = Mapping[str, msgspec.Raw]

NAMESPACE: Final = UUID("5d1c9c0e-1b3e-5f57-8a7b-64d7d3c05b7a")
"""Of ids that follow from others, or from bytes. A constant: changing it would give old events new ids."""

APPEND: Final = "Append"
IDENTIFY: Final = "$identify"
SET: Final = "$set"

_SET_ONCE: Final = "$set_once"
_KIND: Final = "posthog_kind"
_PROFILE: Final = "$process_person_profile"
_PERSON: Final = ("$set", _SET_ONCE, "$unset")
_NOT_PLAIN: Final = ((_KIND,), (_KIND, _SET_ONCE, "$unset"))
"""Properties with which an event is not Identify, or not SetPersonProperties."""

_KEYS: Final = ("token", "api_key")
_OF_THE_REQUEST: Final = frozenset({*_KEYS, "$token", "sent_at", "offset"})
"""What stands in an event that is alone in its request, and may be another when it is sent again."""

_LIFTED: Final = {"session_id": "$session_id", "window_id": "$window_id"}
_OPTIONS: Final = {
    "cookieless_mode": "$cookieless_mode",
    "disable_skew_correction": "$ignore_sent_at",
    "process_person_profile": _PROFILE,
    "product_tour_id": "$product_tour_id",
}
_MILLISECOND: Final = 1_000_000

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class PostHogReading:
    """How the events of one request are read. Times are nanoseconds since the epoch.

    Attributes:
        now: When the request arrived.
        sent_at: When the client says that it sent it.
        key: The project's key.
        max_event_bytes: Counts like the recorder's option.
        max_depth: How deep an event's JSON may be nested.
    """

    now: int
    sent_at: int | None = None
    key: str | None = field(default=None, repr=False)
    max_event_bytes: int = 1 << 20
    max_depth: int = 200

    def events(self, elements: Iterable[bytes]) -> list[ReceivedEvent | LineError]:
        """The event of each of `elements`, or why it is not one."""
        equal: Counter[bytes] = Counter()
        found: list[ReceivedEvent | LineError] = []
        for element in elements:
            try:
                found.append(self._event(element, equal))
            except LineError as exc:
                found.append(exc)
        return found

    def _event(self, element: bytes, equal: Counter[bytes]) -> ReceivedEvent:
        members = members_of(element, max_bytes=self.max_event_bytes, max_depth=self.max_depth)
        name = text_of(members.get("event"))
        if not name:
            raise LineError("it has no event: a text that names it")
        if not is_name(name):
            raise LineError("its event is not a name of 1 to 255 bytes without NUL")
        properties = self._properties(members)
        distinct_id = _distinct_id(members, properties)
        timestamp = self._timestamp(members, properties)
        id_ = _id(members, properties, equal)
        is_personless = name not in {IDENTIFY, SET} and _is_personless(distinct_id, members, properties)
        if is_personless:
            del properties[_PROFILE]
        payload, around = _parts(name, properties)
        if not is_personless:
            around["distinct_id"] = distinct_id
        event = ReceivedEvent(
            name,
            encode_members(payload),
            timestamp,
            id=id_,
            context=encode_members(around) if around else None,
        )
        size = entry_size(event.payload, event.context)
        if size > self.max_event_bytes:
            raise EventTooLargeError(size, self.max_event_bytes)
        return event

    def _properties(self, members: Members) -> dict[str, msgspec.Raw]:
        """The properties of the event, and what is to be set on the person among them; without the project's key."""
        properties = _object(members.get("properties"), "properties")
        if self.key is not None:
            for name in _KEYS:
                if name in properties and text_of(properties[name]) == self.key:
                    del properties[name]
        _put_back(properties, members, _LIFTED)
        if not is_null(members.get("options")):
            _put_back(properties, _object(members["options"], "options"), _OPTIONS)
        for name in _PERSON:
            if not is_null(members.get(name)):
                both = {**_object(properties.get(name), name), **_object(members[name], name)}
                properties[name] = msgspec.Raw(encode_members(both))
        return properties

    def _timestamp(self, members: Members, properties: Members) -> int | None:
        said = moment(members.get("timestamp"))
        if said is not None:
            is_left = bytes(properties.get("$ignore_sent_at", b"")) == b"true"
            return said if is_left else corrected(said, self.sent_at, self.now)
        offset = integer_of(members.get("offset"))
        return None if offset is None or not 0 <= offset < 2**40 else self.now - offset * _MILLISECOND


def _put_back(properties: dict[str, msgspec.Raw], lifted: Members, names: Mapping[str, str]) -> None:
    for name, sentinel in names.items():
        if not is_null(lifted.get(name)):
            properties[sentinel] = lifted[name]


def _parts(name: str, properties: dict[str, msgspec.Raw]) -> tuple[dict[str, msgspec.Raw], dict[str, msgspec.Raw]]:
    """The payload, and the context but for the distinct id."""
    is_person = name in {IDENTIFY, SET}
    is_plain = "$set" in properties and not any(other in properties for other in _NOT_PLAIN[name == SET])
    if is_person and is_plain:
        person = _object(properties.pop("$set", None), "$set")
        return person, properties
    around: dict[str, msgspec.Raw] = {}
    if not is_null(properties.get("session_id")):
        around["session_id"] = properties.pop("session_id")
    if is_person:
        around[_KIND] = msgspec.Raw(_encode(APPEND))
    return properties, around


def _object(raw: msgspec.Raw | None, name: str) -> dict[str, msgspec.Raw]:
    if is_null(raw):
        return {}
    try:
        return decode_members(raw)  # type: ignore[arg-type]  # it is not None
    except msgspec.ValidationError as exc:
        raise LineError(f"its {name} are not an object") from exc


def _distinct_id(members: Members, properties: Members) -> msgspec.Raw:
    for raw in (members.get("distinct_id"), members.get("$distinct_id"), properties.get("distinct_id")):
        if raw is None or is_null(raw):
            continue
        text = text_of(raw)
        if text is None:
            return msgspec.Raw(_encode(bytes(raw).decode()))
        if not text.strip():
            raise LineError("its distinct_id is empty")
        return raw
    raise LineError("it has no distinct_id: whose it is")


def _is_personless(distinct_id: msgspec.Raw, members: Members, properties: Members) -> bool:
    """Whether its uuid stands where a person's id would, and it says that it has no person."""
    uuid = members.get("uuid")
    return uuid is not None and bytes(uuid) == bytes(distinct_id) and bytes(properties.get(_PROFILE, b"")) == b"false"


def _id(members: Members, properties: Members, equal: Counter[bytes]) -> bytes | None:
    for what, raw in (("uuid", members.get("uuid")), ("insert", properties.get("$insert_id"))):
        text = text_of(raw)
        if text:
            return uuid_in(text) or stable_id(NAMESPACE, what.encode(), text.encode())
    if moment(members.get("timestamp")) is None:
        return None
    return id_of_bytes(NAMESPACE, object_without(members, _OF_THE_REQUEST), equal)
