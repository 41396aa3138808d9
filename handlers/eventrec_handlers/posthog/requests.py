"""A batch as one request: the events in the form of the protocol, compressed, a slice at a time.

v0   POST /batch/, `{"api_key":…,"historical_migration":…,"batch":[…],"sent_at":…}`; of an event

     Append                `{event, distinct_id, timestamp, uuid, properties: {…, session_id}}`
     Identify              `{…, properties: {session_id}, $set: {…}}`
     SetPersonProperties   `{…, properties: {$set: {…}}}`

v1   POST /i/v1/analytics/events, the key in a header, `{"created_at":…,"historical_migration":…,"batch":[…]}`; of an
     event `{event, distinct_id, timestamp, uuid, options, properties}`. `$set` is a property, and what PostHog calls
     sentinels are lifted out of the properties: `$session_id` and `$window_id` to the event, others to `options`.
     `$lib` and `$lib_version` are left out: the server sets them.

Sources: the official Python client, 7.91 (`request.py`, `capture_v1.py`), and the server's `rust/capture`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias
from uuid import uuid5

import anyio.lowlevel
import msgspec

from eventrec_handlers._rows import in_slices, refuse
from eventrec_handlers.posthog.events import APPEND, IDENTIFY, NAMESPACE, PROFILE, SET, rfc3339, sendables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec import Batch
    from eventrec_handlers.posthog.events import Persons, Sendable

Protocol: TypeAlias = Literal["v0", "v1"]
Historical: TypeAlias = Literal["auto"] | bool

ENDPOINTS: Final[Mapping[str, str]] = {"v0": "/batch/", "v1": "/i/v1/analytics/events"}

HISTORICAL_SECONDS: Final = 48 * 3_600
"""PostHog asks that events of a historical migration be at least this old."""

SDK: Final = "eventrec/0.2.0"

_SLICE: Final = 100
"""Events that are encoded before others get their turn on the loop."""

_SLICE_BYTES: Final = 64 * 1024
"""Bytes that are compressed before."""

_LEVEL: Final = 5
_GZIP: Final = zlib.MAX_WBITS | 16
_PERSONLESS: Final = b'"%b":false' % PROFILE.encode()
_LIFTED: Final = {"$session_id": "session_id", "$window_id": "window_id"}
_FLAGS: Final = {
    "$cookieless_mode": "cookieless_mode",
    "$ignore_sent_at": "disable_skew_correction",
    PROFILE: "process_person_profile",
}
_TOUR: Final = "$product_tour_id"
_LEFT_OUT: Final = ("$lib", "$lib_version")
_WORDS: Final = {"true": b"true", "1": b"true", "false": b"false", "0": b"false"}

_encode: Final = msgspec.json.Encoder().encode
_text: Final = msgspec.json.Decoder(str).decode
_members_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What every request of a handler has in common."""

    protocol: Protocol
    key: str = field(repr=False)
    gzip: bool
    historical: Historical


@dataclass(frozen=True, slots=True)
class Request:
    """A request, ready to be sent. `uuids` are those of its events, each with the offset of its record."""

    headers: Mapping[str, str]
    body: bytes
    protocol: Protocol
    uuids: Sequence[tuple[str, int]]


class Encoded:
    """A batch, encoded but for what is known only when it is sent."""

    def __init__(self, batch: Batch, envelope: Envelope, events: Sequence[Sendable], *, now: float) -> None:
        self.batch = batch
        self._envelope = envelope
        self._events = events
        self._now = now
        self._gzip = zlib.compressobj(_LEVEL, wbits=_GZIP) if envelope.gzip else None
        self._pieces: list[bytes] = []

    async def encode(self) -> Self:
        """Encode all events; the loop gets its turn in between."""
        form = in_v0 if self._envelope.protocol == "v0" else in_v1
        self._add(self._head())
        for start in range(0, len(self._events), _SLICE):
            await anyio.lowlevel.checkpoint()
            events = b",".join(map(form, self._events[start : start + _SLICE]))
            if start:
                self._add(b",")
            for part in range(0, len(events), _SLICE_BYTES):
                if part:
                    await anyio.lowlevel.checkpoint()
                self._add(events[part : part + _SLICE_BYTES])
        return self

    def request(self, *, now: float, attempt: int = 1) -> Request:
        """What to send at the time `now`, for the time `attempt`. Called once, at most."""
        sent_at, headers = _moment(now), {"Content-Type": "application/json", "Accept": "application/json"}
        if self._envelope.protocol == "v0":
            self._add(b'],"sent_at":"%b"}\n' % sent_at.encode())
        else:
            self._add(b"]}\n")
            headers |= {
                "PostHog-Sdk-Info": SDK,
                "PostHog-Attempt": str(attempt),
                "PostHog-Request-Id": str(uuid5(NAMESPACE, self.batch.token)),
                "PostHog-Request-Timestamp": sent_at,
            }
        if self._gzip is not None:
            headers["Content-Encoding"] = "gzip"
            self._pieces.append(self._gzip.flush())
        uuids = [(event.uuid, event.offset) for event in self._events]
        return Request(headers, b"".join(self._pieces), self._envelope.protocol, uuids)

    def _head(self) -> bytes:
        is_historical = self._envelope.historical
        if is_historical == "auto":
            oldest = (self._now - HISTORICAL_SECONDS) * 1e9
            is_historical = all(event.timestamp <= oldest for event in self._events)
        flag = b"true" if is_historical else b"false"
        if self._envelope.protocol == "v0":
            return b'{"api_key":%b,"historical_migration":%b,"batch":[' % (_encode(self._envelope.key), flag)
        return b'{"created_at":"%b","historical_migration":%b,"batch":[' % (_moment(self._now).encode(), flag)

    def _add(self, piece: bytes) -> None:
        self._pieces.append(piece if self._gzip is None else self._gzip.compress(piece))


async def encoded(batch: Batch, envelope: Envelope, persons: Persons, *, now: float) -> Encoded:
    """`batch` as a request, its events in the order of the log. The loop gets its turn in between.

    Raises:
        PermanentError: Records cannot be events: names each.
    """
    events = await _events(batch, persons)
    return await Encoded(batch, envelope, events, now=now).encode()


def _moment(seconds: float) -> str:
    return rfc3339(int(seconds * 1e6) * 1_000)


async def _events(batch: Batch, persons: Persons) -> list[Sendable]:
    refused: dict[int, str] = {}
    events = await in_slices(event for each in batch.row_inserts() for event in sendables(each, persons, refused))
    refuse(refused, batch, what="events of PostHog")
    events.sort(key=lambda event: event.offset)  # they come shape by shape; rows of one record keep their order
    return events


# -- an event in the form of a protocol


def in_v0(event: Sendable) -> bytes:
    """The event as JSON, in the form of v0."""
    properties, person = event.properties, b""
    if event.kind == SET:
        properties = b'"$set":{%b}' % event.person
    elif event.kind == IDENTIFY:
        person = b',"$set":{%b}' % event.person
    elif event.is_personless:
        properties = b"%b,%b" % (properties, _PERSONLESS) if properties else _PERSONLESS
    return b'{"event":%b,"distinct_id":%b,"timestamp":"%b","uuid":"%b","properties":{%b}%b}' % (
        event.name,
        event.distinct_id,
        rfc3339(event.timestamp).encode(),
        event.uuid.encode(),
        properties,
        person,
    )


def in_v1(event: Sendable) -> bytes:
    """The event as JSON, in the form of v1."""
    properties, lifted, options = _without_sentinels(event.properties)
    if event.is_personless:
        options["process_person_profile"] = msgspec.Raw(b"false")
    if event.kind != APPEND:
        person = b'"$set":{%b}' % event.person
        properties = b"%b,%b" % (properties, person) if properties else person
    return b'{"event":%b,"distinct_id":%b,"timestamp":"%b","uuid":"%b","options":%b,"properties":{%b}%b}' % (
        event.name,
        event.distinct_id,
        rfc3339(event.timestamp).encode(),
        event.uuid.encode(),
        _encode(options),
        properties,
        b"".join(b',"%b":%b' % (name.encode(), value) for name, value in lifted.items()),
    )


def _without_sentinels(properties: bytes) -> tuple[bytes, dict[str, msgspec.Raw], dict[str, msgspec.Raw]]:
    """The other properties, what belongs to the event, and to its options; what does not fit its place is left out."""
    lifted: dict[str, msgspec.Raw] = {}
    options: dict[str, msgspec.Raw] = {}
    if b'"$' not in properties and b'"\\u' not in properties:
        return properties, lifted, options
    members = _members_of(b"{%b}" % properties)
    for name in (*_LIFTED, *_FLAGS, _TOUR, *_LEFT_OUT):
        raw = members.pop(name, None)
        if raw is None:
            continue
        if name in _FLAGS and (flag := _flag_of(bytes(raw))) is not None:
            options[_FLAGS[name]] = msgspec.Raw(flag)
        elif bytes(raw)[:1] == b'"' and name in _LIFTED:
            lifted[_LIFTED[name]] = raw
        elif bytes(raw)[:1] == b'"' and name == _TOUR:
            options[_TOUR.removeprefix("$")] = raw
    return _encode(members)[1:-1], lifted, options


def _flag_of(raw: bytes) -> bytes | None:
    """`raw` as true or false, as the official client takes it; None where it is neither."""
    if raw in {b"true", b"false"}:
        return raw
    if raw[:1] in b"-0123456789":
        return b"true" if float(raw) else b"false"
    return _WORDS.get(_text(raw).strip().lower()) if raw[:1] == b'"' else None
