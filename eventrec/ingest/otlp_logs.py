"""Log records of OpenTelemetry, read from either of their encodings, to events: pure functions of values.

    of the event     is in the record
    type             its event name, else the attribute `event.name`, else "log"
    timestamp        its time; else the attribute `eventrec.time_unix_nano`; else its observed time; else none: it is
                     stamped when it is recorded
    payload          its body; with the attribute `eventrec.body` = "json" the JSON that its body is the text of. What
                     JSON cannot say: bytes are Base64, numbers that are not finite the texts that OTLP has for them
    table            the attribute `eventrec.table`, else "events"
    id               the attribute `log.record.uid`: itself where it is a UUID, else a stable one that follows from it
    context          `service`, `host`, `environment`: of the resource, its `service.name`, `host.name`,
                     `deployment.environment.name`; `resource`: its other attributes; `scope`: name, version and
                     attributes of the scope, unless it is eventrec; `trace_id`, `span_id`; `trace_flags`,
                     `dropped_attributes_count` where they are not 0; `severity_number`, `severity_text`, unless they
                     say INFO without a text, or what the payload's `level` says; `observed_time_unix_nano`, where the
                     record has another time too; and every other attribute. One whose name is taken has `attribute.`
                     before it

That is what the handler for OTLP makes of an event, backwards. What does not come back: extra columns of an event are
attributes, and so fields of the context here.

A record without `log.record.uid` has no id, and none is in the protocol. It gets one that follows from the bytes of the
request and from its place there: a client that sends the same bytes again, since no answer came, doubles nothing. Two
requests that are equal in every byte count as one sent twice: what tells them apart is in their records, as the times
are, which every SDK sets. A client that sets none, and says the same thing twice in as many requests, has said it once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from eventrec.events.event import DEFAULT_TABLE, ReceivedEvent
from eventrec.ingest.elements import TOO_MUCH, Total, is_deeper, stable_id
from eventrec.ingest.names import is_name, uuid_in
from eventrec.ingest.received import LineError
from eventrec.otlp_names import INFO, JSON_BODY, RESOURCE, SEVERITIES, TABLE, TIME, UID, UNKNOWN_SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAMESPACE: Final = UUID("c1b7f6de-52a3-5be4-a0a9-6f3f2a4b8d15")
"""Of ids that follow from others, or from bytes. A constant: changing it would give old records new ids."""

DEFAULT_TYPE: Final = "log"
MAX_LEVELS: Final = 64
"""Lists and objects in one another in a value. What writes Protocol Buffers sends half of it at most."""

MAX_VALUES: Final = 5_000_000
"""Fields and values of one request. An attribute is four of them."""

EVENT_NAME: Final = "event.name"
SCOPE: Final = "eventrec"

_CONTEXT: Final[Mapping[str, str]] = {attribute: name for name, attribute in RESOURCE.items()}
_MAX_TIME: Final = 2**63 - 1

_encode: Final = msgspec.json.Encoder().encode
_check: Final = msgspec.json.Decoder(msgspec.Raw).decode


@dataclass(slots=True, kw_only=True)
class LogRecord:
    """A record, as either encoding says it. Times are nanoseconds since the epoch, 0: none; values are JSON's."""

    time: int = 0
    observed: int = 0
    severity: int = 0
    severity_text: str = ""
    body: Any = None
    attributes: dict[str, Any] = field(default_factory=dict)
    dropped: int = 0
    flags: int = 0
    trace_id: str = ""
    span_id: str = ""
    event_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What many records share: the attributes of their resource, and their scope."""

    resource: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""
    version: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def context(self) -> dict[str, Any]:
        """What the context of each record says of it."""
        said: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for name, value in self.resource.items():
            if name in _CONTEXT and isinstance(value, str):
                if (name, value) != ("service.name", UNKNOWN_SERVICE):
                    said[_CONTEXT[name]] = value
            else:
                others[name] = value
        if others:
            said["resource"] = others
        scope = {"name": self.scope, "version": self.version, "attributes": dict(self.attributes)}
        if self.attributes or self.scope not in {"", SCOPE}:
            said["scope"] = {name: value for name, value in scope.items() if value}
        return said


Found = tuple[Origin, "LogRecord | LineError"]
"""A record and where it is from, or why it cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogReading:
    """How the records of one request become events.

    Attributes:
        max_event_bytes: Counts like the recorder's option.
        max_total_bytes: What all events of the request may have: each repeats what its resource says.
        max_depth: How deep the JSON that a body is the text of may be nested.
    """

    max_event_bytes: int = 1 << 20
    max_total_bytes: int = 64 << 20
    max_depth: int = 200

    def events(self, body: bytes, found: Iterable[Found]) -> list[ReceivedEvent | LineError]:
        """The event of each of the records `found` in the bytes `body`, or why it is not one."""
        digest = sha256(body).digest()
        events: list[ReceivedEvent | LineError] = []
        total = Total(self.max_event_bytes, self.max_total_bytes)
        origin: Origin | None = None
        around: dict[str, Any] = {}
        for index, (from_, record) in enumerate(found):
            if isinstance(record, LineError):
                events.append(record)
                continue
            if total.is_spent:
                events.append(LineError(TOO_MUCH))
                continue
            if from_ is not origin:
                origin, around = from_, from_.context()
            try:
                events.append(total.counted(self._event(record, around, digest, index)))
            except LineError as exc:
                events.append(exc)
        return events

    def _event(self, record: LogRecord, around: Mapping[str, Any], digest: bytes, index: int) -> ReceivedEvent:
        attributes = dict(record.attributes)
        kind = record.event_name or _text_in(attributes, EVENT_NAME) or DEFAULT_TYPE
        table = _text_in(attributes, TABLE) or DEFAULT_TABLE
        uid = _text_in(attributes, UID)
        if not (is_name(kind) and is_name(table)):
            raise LineError("its event name, or table, is not a name of 1 to 255 bytes without NUL")
        timestamp = _timestamp(record, attributes)
        payload, level = self._payload(record.body, attributes)
        context = dict(around)
        _say(context, record, level)
        _say_attributes(context, attributes)
        if uid:
            id_ = uuid_in(uid) or stable_id(NAMESPACE, b"uid", uid.encode())
        else:
            id_ = stable_id(NAMESPACE, digest, b"%d" % index)
        return ReceivedEvent(kind, payload, timestamp, table, id_, context=_encode(context) if context else None)

    def _payload(self, body: Any, attributes: dict[str, Any]) -> tuple[bytes, object]:
        """The payload, and its `level`."""
        if attributes.get(JSON_BODY) == "json" and isinstance(body, str):
            text = body.encode()
            if _is_json(text, self.max_depth):
                del attributes[JSON_BODY]
                return text, _level_in(text)
        return _encode(body), body.get("level") if isinstance(body, dict) else None


def _is_json(text: bytes, max_depth: int) -> bool:
    try:
        _check(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return not is_deeper(text, max_depth)


class _Leveled(msgspec.Struct):
    level: str = ""


_leveled: Final = msgspec.json.Decoder(_Leveled).decode


def _level_in(text: bytes) -> str | None:
    try:
        return _leveled(text).level
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _text_in(attributes: dict[str, Any], name: str) -> str:
    """The attribute `name`, taken out, where it is a text."""
    return str(attributes.pop(name)) if isinstance(attributes.get(name), str) else ""


def _timestamp(record: LogRecord, attributes: dict[str, Any]) -> int | None:
    when: int | None = record.time
    if not when:
        said = attributes.get(TIME)
        when = attributes.pop(TIME) if type(said) is int else record.observed or None
    if when is not None and when > _MAX_TIME:
        raise LineError("its time is outside the years 1677 to 2262")
    return when


def _say(context: dict[str, Any], record: LogRecord, level: object) -> None:
    """Add to `context` what stands in places of its own in `record`."""
    if record.trace_id:
        context["trace_id"] = record.trace_id
    if record.span_id:
        context["span_id"] = record.span_id
    if record.flags:
        context["trace_flags"] = record.flags
    if record.dropped:
        context["dropped_attributes_count"] = record.dropped
    if record.time and record.observed not in {0, record.time}:
        context["observed_time_unix_nano"] = record.observed
    said = (record.severity, record.severity_text)
    if said in {(0, ""), (INFO, "")}:
        return
    if isinstance(level, str) and said == (SEVERITIES.get(level.lower()), level):
        return
    context["severity_number"] = record.severity
    if record.severity_text:
        context["severity_text"] = record.severity_text


def _say_attributes(context: dict[str, Any], attributes: Mapping[str, Any]) -> None:
    others = attributes.keys() | context.keys()
    for name, value in attributes.items():
        free = name
        while free in context or (free != name and free in others):
            free = f"attribute.{free}"
        context[free] = value
