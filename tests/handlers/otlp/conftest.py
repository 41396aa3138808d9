"""Requests of OTLP, decoded by OpenTelemetry's own messages."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord


class Log(NamedTuple):
    """One log record: the message, what of it is needed often as values of Python, and where it stands."""

    message: LogRecord
    body: Any
    attributes: dict[str, Any]
    resource: dict[str, Any]
    scope: tuple[str, str]


def decoded(headers: Mapping[str, str], body: bytes) -> list[Log]:
    """The log records of a request, in their order; nothing in it may be unknown to OpenTelemetry."""
    content = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
    request = ExportLogsServiceRequest()
    if headers["content-type"] == "application/x-protobuf":
        request.ParseFromString(content)
        assert request.SerializeToString() == content or request.ByteSize() == len(content)
        clean = ExportLogsServiceRequest()
        clean.CopyFrom(request)
        clean.DiscardUnknownFields()
        assert clean == request
    else:
        assert headers["content-type"] == "application/json"
        json_format.ParseDict(_of_otlp(json.loads(content)), request)
    return list(_logs(request))


def _of_otlp(said: dict[str, Any]) -> dict[str, Any]:
    """OTLP's JSON as protobuf's: ids of traces and spans are hexadecimal there, base64 here."""
    for logs in said["resourceLogs"]:
        for scope in logs["scopeLogs"]:
            for record in scope["logRecords"]:
                for name in {"traceId", "spanId"} & set(record):
                    record[name] = b64encode(bytes.fromhex(record[name])).decode()
    return said


def _logs(request: ExportLogsServiceRequest) -> Iterator[Log]:
    for logs in request.resource_logs:
        resource = members(logs.resource.attributes)
        for scoped in logs.scope_logs:
            for record in scoped.log_records:
                scope = (scoped.scope.name, scoped.scope.version)
                yield Log(record, value_of(record.body), members(record.attributes), resource, scope)


def members(pairs: Any) -> dict[str, Any]:
    names = [pair.key for pair in pairs]
    assert len(set(names)) == len(names), f"names are given twice: {sorted(names)}"
    return {pair.key: value_of(pair.value) for pair in pairs}


def value_of(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [value_of(each) for each in value.array_value.values]
        case "kvlist_value":
            pairs: list[KeyValue] = list(value.kvlist_value.values)
            return members(pairs)
        case kind:
            return getattr(value, kind)


@pytest.fixture
def logs_in() -> Callable[[Mapping[str, str], bytes], list[Log]]:
    """What a request holds."""
    return decoded
