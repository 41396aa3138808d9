"""A request of OTLP's logs in Protocol Buffers, to log records; and the answers to it.

Field numbers are those of opentelemetry-proto 1.x: `common.proto`, `resource.proto`, `logs.proto`,
`logs_service.proto`; of an error, `google/rpc/status.proto`. A field of another wire type than it should have counts as
unknown.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from eventrec.ingest.elements import BodyError, BodyTooLargeError
from eventrec.ingest.otlp_logs import MAX_LEVELS, MAX_VALUES, LogRecord, Origin
from eventrec.ingest.protobuf import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    Budget,
    BudgetError,
    WireError,
    double,
    fields,
    fixed32,
    fixed64,
    key,
    signed,
)
from eventrec.ingest.received import EventTooLargeError, LineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventrec.ingest.otlp_logs import Found

MEDIA_TYPE: Final = "application/x-protobuf"

_FIRST: Final = key(1, LENGTH)
_SECOND: Final = key(2, LENGTH)
_OF_SCOPE: Final = key(3, LENGTH)

# of a LogRecord
_TIME: Final = key(1, FIXED64)
_SEVERITY: Final = key(2, VARINT)
_SEVERITY_TEXT: Final = key(3, LENGTH)
_BODY: Final = key(5, LENGTH)
_ATTRIBUTE: Final = key(6, LENGTH)
_DROPPED: Final = key(7, VARINT)
_FLAGS: Final = key(8, FIXED32)
_TRACE: Final = key(9, LENGTH)
_SPAN: Final = key(10, LENGTH)
_OBSERVED: Final = key(11, FIXED64)
_EVENT_NAME: Final = key(12, LENGTH)

# of an AnyValue
_STRING: Final = key(1, LENGTH)
_BOOL: Final = key(2, VARINT)
_INT: Final = key(3, VARINT)
_DOUBLE: Final = key(4, FIXED64)
_ARRAY: Final = key(5, LENGTH)
_KVLIST: Final = key(6, LENGTH)
_BYTES: Final = key(7, LENGTH)

_MAX_INT32: Final = 2**31 - 1
_TRACE_ID: Final = 16
_SPAN_ID: Final = 8


def log_records(body: bytes, *, limit: int, max_bytes: int = 1 << 20) -> list[Found]:
    """The records of the request `body`, of which there may be `limit`; `max_bytes` is what an event may have.

    A record that cannot be read is refused alone, where the request around it can be.

    Raises:
        BodyError: It is not such a request.
        BodyTooLargeError: It has more than `limit` records, or resources, or scopes; or too many values.
    """
    try:
        return list(_Request(limit, max_bytes).records(body))
    except (WireError, UnicodeDecodeError) as exc:
        raise BodyError(f"not a request of OTLP's logs: {_why(exc)}") from exc
    except BudgetError as exc:
        raise BodyTooLargeError(str(exc)) from exc


class _Request:
    """Reads one request."""

    def __init__(self, limit: int, max_bytes: int) -> None:
        self._budget = Budget(MAX_VALUES)
        self._resources, self._scopes, self._records = Budget(limit), Budget(limit), Budget(limit)
        self._max_bytes = max_bytes

    def records(self, body: bytes) -> Iterator[Found]:
        for part in self._messages(body, _FIRST):
            self._resources.spend()
            resource = self._attributes(b"".join(self._messages(part, _FIRST)), 0)
            for scope_logs in self._messages(part, _SECOND):
                self._scopes.spend()
                origin = self._origin(resource, b"".join(self._messages(scope_logs, _FIRST)))
                for record in self._messages(scope_logs, _SECOND):
                    self._records.spend()
                    yield origin, self._record_or_why_not(record)

    def _messages(self, message: bytes, wanted: int) -> Iterator[bytes]:
        """The messages that are the field `wanted`. Several of one that is not repeated, joined, are it."""
        for found, value in fields(message, self._budget):
            if found == wanted:
                yield value

    def _origin(self, resource: dict[str, Any], scope: bytes) -> Origin:
        name = version = ""
        attributes: dict[str, Any] = {}
        for found, value in fields(scope, self._budget):
            if found == _FIRST:
                name = value.decode()
            elif found == _SECOND:
                version = value.decode()
            elif found == _OF_SCOPE:
                self._add(attributes, value, 0)
        return Origin(resource=resource, scope=name, version=version, attributes=attributes)

    def _attributes(self, message: bytes, depth: int) -> dict[str, Any]:
        """Of a Resource, or a KeyValueList: they are its first field."""
        said: dict[str, Any] = {}
        for pair in self._messages(message, _FIRST):
            self._add(said, pair, depth)
        return said

    def _record_or_why_not(self, message: bytes) -> LogRecord | LineError:
        if len(message) > 2 * self._max_bytes:
            return EventTooLargeError(len(message), self._max_bytes)
        try:
            return self._record(message)
        except (WireError, UnicodeDecodeError) as exc:
            return LineError(f"not a log record: {_why(exc)}")

    def _record(self, message: bytes) -> LogRecord:  # noqa: C901 - one for each field
        record = LogRecord()
        for found, value in fields(message, self._budget):
            if found == _ATTRIBUTE:
                self._add(record.attributes, value, 0)
            elif found == _BODY:
                record.body = self._value(value, 0)
            elif found == _TIME:
                record.time = fixed64(value)
            elif found == _OBSERVED:
                record.observed = fixed64(value)
            elif found == _SEVERITY:
                record.severity = value if value <= _MAX_INT32 else 0
            elif found == _SEVERITY_TEXT:
                record.severity_text = value.decode()
            elif found == _EVENT_NAME:
                record.event_name = value.decode()
            elif found == _TRACE:
                record.trace_id = _id(value, _TRACE_ID)
            elif found == _SPAN:
                record.span_id = _id(value, _SPAN_ID)
            elif found == _FLAGS:
                record.flags = fixed32(value)
            elif found == _DROPPED:
                record.dropped = value & 0xFFFF_FFFF
        return record

    def _add(self, attributes: dict[str, Any], pair: bytes, depth: int) -> None:
        """Add the KeyValue `pair`."""
        name, value = "", None
        for found, held in fields(pair, self._budget):
            if found == _FIRST:
                name = held.decode()
            elif found == _SECOND:
                value = self._value(held, depth)
        attributes[name] = value

    def _value(self, message: bytes, depth: int) -> Any:
        """An AnyValue: the last of its fields, as Protocol Buffers have it."""
        if depth > MAX_LEVELS:
            raise WireError(f"a value is nested deeper than {MAX_LEVELS} levels")
        said: Any = None
        for found, value in fields(message, self._budget):
            if found == _STRING:
                said = value.decode()
            elif found == _INT:
                said = signed(value)
            elif found == _DOUBLE:
                said = json_number(double(value))
            elif found == _BOOL:
                said = value != 0
            elif found == _KVLIST:
                said = self._attributes(value, depth + 1)
            elif found == _ARRAY:
                said = [self._value(each, depth + 1) for each in self._messages(value, _FIRST)]
            elif found == _BYTES:
                said = value
        return said


def json_number(value: float) -> float | str:
    """`value`, or the text that OTLP has for it in JSON where it is not finite."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _id(value: bytes, size: int) -> str:
    """An id of a trace or span; one of another length, or of zeros, is not an id."""
    return value.hex() if len(value) == size and any(value) else ""


def _why(exc: WireError | UnicodeDecodeError) -> str:
    return "a text is not UTF-8" if isinstance(exc, UnicodeDecodeError) else str(exc)


# -- answers


def success(rejected: int, message: str) -> bytes:
    """An ExportLogsServiceResponse: all is well, or so many records were refused."""
    if not rejected:
        return b""
    return _field(1, _number(1, rejected) + _field(2, message.encode()))


def status(code: int, message: str) -> bytes:
    """A google.rpc.Status."""
    return _number(1, code) + _field(2, message.encode())


def _number(number: int, value: int) -> bytes:
    return bytes([key(number, VARINT)]) + _varint(value)


def _field(number: int, content: bytes) -> bytes:
    return bytes([key(number, LENGTH)]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:  # noqa: PLR2004 - seven bits a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
