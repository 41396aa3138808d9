"""The two encodings of OTLP over HTTP, with the same methods: Protocol Buffers, and JSON as OTLP's own rules have it.

In JSON, names are in camel case, integers of 64 bit are texts, ids of traces and spans hexadecimal, an enumeration is
its number (opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding").
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from eventrec_handlers.otlp.wire import MAX_DEPTH, InexactError, any_value, delimited, int64, key_value, varint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SCOPE: Final = "eventrec"


class Said(NamedTuple):
    """What a log record says beside body and attributes. `time` is in ns since the epoch; 0: OTLP cannot say it."""

    time: int
    event: str
    severity: int
    severity_text: str = ""
    trace_id: bytes = b""
    span_id: bytes = b""


class Group(NamedTuple):
    """Log records of one resource, whose attributes are given."""

    resource: Mapping[str, str]
    records: Sequence[Any]


class Encoding(Protocol):
    """How values, records and requests are written. What its methods give is only for its other methods."""

    media_type: str

    def value(self, value: Any) -> Any:
        """A value. Raises InexactError where it cannot be said exactly."""

    def attributes(self, items: Iterable[tuple[str, Any]]) -> Any:
        """Attributes of a log record; what two calls give may be added with `+`."""

    def record(self, said: Said, body: Any, attributes: Any) -> Any:
        """A log record."""

    def request(self, groups: Iterable[Group], *, version: str) -> bytes:
        """A request of these groups, of the scope `eventrec` in `version`."""


class ProtobufEncoding:
    """Bytes of Protocol Buffers; each part is a field of what it stands in."""

    media_type = "application/x-protobuf"
    value = staticmethod(any_value)

    def attributes(self, items: Iterable[tuple[str, Any]]) -> bytes:
        return b"".join([key_value(name, value, tag=b"\x32") for name, value in items])

    def record(self, said: Said, body: bytes, attributes: bytes) -> bytes:
        parts = [b"\x10", varint(said.severity), delimited(b"\x2a", body), attributes]
        if said.time:
            time = _fixed64(said.time)
            parts += [b"\x09", time, b"\x59", time]
        if said.severity_text:
            parts.append(delimited(b"\x1a", said.severity_text.encode()))
        if said.trace_id:
            parts.append(delimited(b"\x4a", said.trace_id))
        if said.span_id:
            parts.append(delimited(b"\x52", said.span_id))
        parts.append(delimited(b"\x62", said.event.encode()))
        return delimited(b"\x12", b"".join(parts))

    def request(self, groups: Iterable[Group], *, version: str) -> bytes:
        named = delimited(b"\x0a", SCOPE.encode()) + (delimited(b"\x12", version.encode()) if version else b"")
        scope = delimited(b"\x0a", named)
        return b"".join(
            delimited(
                b"\x0a",
                delimited(b"\x0a", b"".join([key_value(name, value) for name, value in group.resource.items()]))
                + delimited(b"\x12", scope + b"".join(group.records)),
            )
            for group in groups
        )


class JsonEncoding:
    """Bytes of JSON. Attributes each begin with a comma, so that they can be added."""

    media_type = "application/json"

    def value(self, value: Any) -> bytes:
        return _json_value(value)

    def attributes(self, items: Iterable[tuple[str, Any]]) -> bytes:
        return b"".join([b"," + _json_pair(name, value) for name, value in items])

    def record(self, said: Said, body: bytes, attributes: bytes) -> bytes:
        parts = [b'{"severityNumber":%d,"body":%b,"attributes":[%b]' % (said.severity, body, attributes[1:])]
        if said.time:
            parts.append(b',"timeUnixNano":"%d","observedTimeUnixNano":"%d"' % (said.time, said.time))
        if said.severity_text:
            parts.append(b',"severityText":' + _encode(said.severity_text))
        if said.trace_id:
            parts.append(b',"traceId":"%b"' % said.trace_id.hex().encode())
        if said.span_id:
            parts.append(b',"spanId":"%b"' % said.span_id.hex().encode())
        return b"".join(parts) + b',"eventName":%b}' % _encode(said.event)

    def request(self, groups: Iterable[Group], *, version: str) -> bytes:
        scope = _encode({"name": SCOPE, **({"version": version} if version else {})})
        logs = [
            b'{"resource":{"attributes":[%b]},"scopeLogs":[{"scope":%b,"logRecords":[%b]}]}'
            % (self.attributes(group.resource.items())[1:], scope, b",".join(group.records))
            for group in groups
        ]
        return b'{"resourceLogs":[%b]}' % b",".join(logs)


_fixed64: Final = struct.Struct("<Q").pack
_encode: Final = msgspec.json.Encoder().encode


def _json_pair(name: str, value: Any, depth: int = 0) -> bytes:
    return b'{"key":%b,"value":%b}' % (_encode(name), _json_value(value, depth))


def _json_value(value: Any, depth: int = 0) -> bytes:  # noqa: PLR0911 - one for each kind
    """An AnyValue; refuses what `wire.any_value` does."""
    match value:
        case None:
            return b"{}"
        case bool():
            return b'{"boolValue":true}' if value else b'{"boolValue":false}'
        case str():
            return b'{"stringValue":%b}' % _encode(value)
        case int():
            return b'{"intValue":"%d"}' % int64(value)
        case float():
            return b'{"doubleValue":%b}' % _encode(value)
        case bytes():
            return b'{"bytesValue":%b}' % _encode(value)
        case _ if depth >= MAX_DEPTH:
            raise InexactError("it is nested too deeply")
        case dict():
            pairs = [_json_pair(name, each, depth + 1) for name, each in value.items()]
            return b'{"kvlistValue":{"values":[%b]}}' % b",".join(pairs)
        case _:
            return b'{"arrayValue":{"values":[%b]}}' % b",".join([_json_value(each, depth + 1) for each in value])
