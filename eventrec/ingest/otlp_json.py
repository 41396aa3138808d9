"""A request of OTLP's logs in JSON, to log records; and the answers to it.

As OTLP's own rules have it (opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding"): names in camel case, integers
of 64 bits as texts or numbers, ids of traces and spans hexadecimal, an enumeration as its number, bytes in Base64. What
is null, or not known, is not there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from eventrec.ingest.elements import BodyError, BodyTooLargeError, elements_of
from eventrec.ingest.members import NULL, is_null
from eventrec.ingest.otlp_logs import MAX_LEVELS, MAX_VALUES, LogRecord, Origin
from eventrec.ingest.otlp_protobuf import json_number
from eventrec.ingest.protobuf import Budget, BudgetError
from eventrec.ingest.received import EventTooLargeError, LineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventrec.ingest.otlp_logs import Found

MEDIA_TYPE: Final = "application/json"

_TRACE_ID: Final = re.compile(r"(?!0{32})[0-9a-f]{32}", re.IGNORECASE | re.ASCII)
_SPAN_ID: Final = re.compile(r"(?!0{16})[0-9a-f]{16}", re.IGNORECASE | re.ASCII)
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_NOT_FINITE: Final = frozenset({"NaN", "Infinity", "-Infinity"})

_Int = int | Annotated[str, msgspec.Meta(max_length=20)]


class _Value(msgspec.Struct, rename="camel"):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: _Int | None = None
    double_value: float | str | None = None
    array_value: _Array | None = None
    kvlist_value: _Pairs | None = None
    bytes_value: str | None = None


class _Array(msgspec.Struct):
    values: list[_Value] | None = None


class _Pair(msgspec.Struct):
    key: str = ""
    value: _Value | None = None


class _Pairs(msgspec.Struct):
    values: list[_Pair] | None = None


class _Record(msgspec.Struct, rename="camel"):
    time_unix_nano: _Int | None = None
    observed_time_unix_nano: _Int | None = None
    severity_number: int | None = None
    severity_text: str | None = None
    body: _Value | None = None
    attributes: list[_Pair] | None = None
    dropped_attributes_count: int | None = None
    flags: int | None = None
    trace_id: str | None = None
    span_id: str | None = None
    event_name: str | None = None


class _Resource(msgspec.Struct):
    attributes: list[_Pair] | None = None


class _Scope(msgspec.Struct):
    name: str | None = None
    version: str | None = None
    attributes: list[_Pair] | None = None


class _ScopeLogs(msgspec.Struct, rename="camel"):
    scope: msgspec.Raw = NULL
    log_records: msgspec.Raw = NULL


class _ResourceLogs(msgspec.Struct, rename="camel"):
    resource: msgspec.Raw = NULL
    scope_logs: msgspec.Raw = NULL


class _Logs(msgspec.Struct, rename="camel"):
    resource_logs: msgspec.Raw = NULL


_logs: Final = msgspec.json.Decoder(_Logs).decode
_resource_logs: Final = msgspec.json.Decoder(_ResourceLogs).decode
_scope_logs: Final = msgspec.json.Decoder(_ScopeLogs).decode
_resource: Final = msgspec.json.Decoder(_Resource | None).decode
_scope: Final = msgspec.json.Decoder(_Scope | None).decode
_record: Final = msgspec.json.Decoder(_Record).decode
_encode: Final = msgspec.json.Encoder().encode


def log_records(body: bytes, *, limit: int, max_bytes: int = 1 << 20) -> list[Found]:
    """The records of the request `body`, of which there may be `limit`; `max_bytes` is what an event may have.

    A record that cannot be read is refused alone, where the request around it can be.

    Raises:
        BodyError: It is not such a request.
        BodyTooLargeError: It has more than `limit` records, or resources, or scopes; or too many values.
    """
    try:
        return list(_Request(limit, max_bytes).records(body))
    except RecursionError as exc:
        raise BodyError("nested too deeply") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, _ValueError) as exc:
        raise BodyError(f"not a request of OTLP's logs: {exc}") from exc
    except BudgetError as exc:
        raise BodyTooLargeError(str(exc)) from exc


class _ValueError(ValueError):
    """A value is not one."""


class _Request:
    """Reads one request."""

    def __init__(self, limit: int, max_bytes: int) -> None:
        self._budget = Budget(MAX_VALUES)
        self._scopes, self._records = Budget(limit), Budget(limit)
        self._limit, self._max_bytes = limit, max_bytes

    def records(self, body: bytes) -> Iterator[Found]:
        for part in self._elements(_logs(body).resource_logs):
            of_resource = _resource_logs(part)
            resource = self._attributes((_resource(self._small(of_resource.resource)) or _Resource()).attributes)
            for scope_logs in self._elements(of_resource.scope_logs):
                self._scopes.spend()
                of_scope = _scope_logs(scope_logs)
                origin = self._origin(resource, _scope(self._small(of_scope.scope)) or _Scope())
                for record in self._elements(of_scope.log_records):
                    self._records.spend()
                    yield origin, self._record_or_why_not(record)

    def _elements(self, array: msgspec.Raw) -> list[bytes]:
        return [] if is_null(array) else elements_of(array, limit=self._limit)

    def _small(self, raw: msgspec.Raw) -> bytes:
        """What all records of it repeat: no larger than one may be."""
        text = bytes(raw)
        if len(text) > 4 * self._max_bytes:
            raise BudgetError("a resource, or a scope, is larger than an event may be")
        return text

    def _origin(self, resource: dict[str, Any], scope: _Scope) -> Origin:
        attributes = self._attributes(scope.attributes)
        return Origin(resource=resource, scope=scope.name or "", version=scope.version or "", attributes=attributes)

    def _record_or_why_not(self, text: bytes) -> LogRecord | LineError:
        if len(text) > 4 * self._max_bytes:
            return EventTooLargeError(len(text), self._max_bytes)
        try:
            return self._of(_record(text))
        except (msgspec.DecodeError, UnicodeDecodeError, _ValueError) as exc:
            return LineError(f"not a log record: {exc}")
        except RecursionError:
            return LineError("nested too deeply")

    def _of(self, said: _Record) -> LogRecord:
        return LogRecord(
            time=_time(said.time_unix_nano),
            observed=_time(said.observed_time_unix_nano),
            severity=_natural(said.severity_number, 31),
            severity_text=said.severity_text or "",
            body=self._value(said.body, 0),
            attributes=self._attributes(said.attributes),
            dropped=_natural(said.dropped_attributes_count, 32),
            flags=_natural(said.flags, 32),
            trace_id=_id(said.trace_id, _TRACE_ID),
            span_id=_id(said.span_id, _SPAN_ID),
            event_name=said.event_name or "",
        )

    def _attributes(self, pairs: list[_Pair] | None, depth: int = 0) -> dict[str, Any]:
        return {pair.key: self._value(pair.value, depth) for pair in pairs or ()}

    def _value(self, value: _Value | None, depth: int) -> Any:  # noqa: PLR0911 - one for each kind
        self._budget.spend()
        if depth > MAX_LEVELS:
            raise _ValueError(f"a value is nested deeper than {MAX_LEVELS} levels")
        match value:
            case None:
                return None
            case _Value(string_value=str(text)) | _Value(bytes_value=str(text)):
                return text
            case _Value(bool_value=bool(flag)):
                return flag
            case _Value(int_value=int() | str() as number):
                return _integer(number)
            case _Value(double_value=int() | float() | str() as number):
                return _double(number)
            case _Value(array_value=_Array(values=values)):
                return [self._value(each, depth + 1) for each in values or ()]
            case _Value(kvlist_value=_Pairs(values=pairs)):
                return self._attributes(pairs, depth + 1)
            case _:
                return None


def _integer(said: _Int) -> int:
    if isinstance(said, str) and _INTEGER.fullmatch(said) is None:
        raise _ValueError("an integer is not one")
    number = int(said)
    if not -(2**63) <= number < 2**63:
        raise _ValueError("an integer has more than 64 bits")
    return number


def _double(said: float | str) -> float | str:
    if said in _NOT_FINITE:
        return str(said)
    try:
        return json_number(float(said))
    except (ValueError, OverflowError) as exc:
        raise _ValueError("a double is not one") from exc


def _time(said: _Int | None) -> int:
    """A time without a sign, of 64 bits."""
    if isinstance(said, str) and _INTEGER.fullmatch(said) is None:
        raise _ValueError("a time is not an integer")
    number = int(said or 0)
    if not 0 <= number < 2**64:
        raise _ValueError("a time has more than 64 bits")
    return number


def _natural(said: int | None, bits: int) -> int:
    """A number of so many bits; 0 where it is not one."""
    return said if said is not None and 0 <= said < 1 << bits else 0


def _id(said: str | None, form: re.Pattern[str]) -> str:
    return said.lower() if said is not None and form.fullmatch(said) is not None else ""


# -- answers


def success(rejected: int, message: str) -> bytes:
    """An ExportLogsServiceResponse: all is well, or so many records were refused."""
    if not rejected:
        return b"{}"
    return _encode({"partialSuccess": {"rejectedLogRecords": str(rejected), "errorMessage": message}})


def status(code: int, message: str) -> bytes:
    """A google.rpc.Status."""
    return _encode({"code": code, "message": message})
