from __future__ import annotations

import json
import tracemalloc
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord as Message

from eventrec import ColumnSchema, ColumnType, ReceivedEvent
from eventrec.ingest import otlp_json, otlp_protobuf
from eventrec.ingest.elements import BodyError, BodyTooLargeError
from eventrec.ingest.otlp_logs import Found, LogReading
from eventrec.ingest.received import EventTooLargeError, LineError
from eventrec.testing.conformance.log import Log
from eventrec_handlers.otlp.encodings import JsonEncoding, ProtobufEncoding
from eventrec_handlers.otlp.records import Requests

NOW = 1_767_312_001_000_000_000
UUID_TEXT = "0195f9b5-6f0e-8d6b-9d1a-3c1d6a1f0b7e"


def value(said: Any) -> AnyValue:
    found = AnyValue()
    match said:
        case bool():
            found.bool_value = said
        case int():
            found.int_value = said
        case float():
            found.double_value = said
        case str():
            found.string_value = said
        case bytes():
            found.bytes_value = said
        case list():
            found.array_value.values.extend(map(value, said))
            found.array_value.SetInParent()
        case dict():
            found.kvlist_value.values.extend(pairs(said))
            found.kvlist_value.SetInParent()
    return found


def pairs(said: dict[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=name, value=value(each)) for name, each in said.items()]


def message(body: Any = None, attributes: dict[str, Any] | None = None, **members: Any) -> Message:
    if body is not None:
        members["body"] = value(body)
    return Message(attributes=pairs(attributes or {}), **members)


def request(
    *records: Message, resource: dict[str, Any] | None = None, scope: str = "", version: str = "", **of_scope: Any
) -> ExportLogsServiceRequest:
    found = ExportLogsServiceRequest()
    logs = found.resource_logs.add()
    logs.resource.attributes.extend(pairs(resource or {}))
    scoped = logs.scope_logs.add()
    scoped.scope.name, scoped.scope.version = scope, version
    scoped.scope.attributes.extend(pairs(of_scope))
    scoped.log_records.extend(records)
    return found


def as_json(said: ExportLogsServiceRequest) -> bytes:
    """OTLP's JSON, not protobuf's: ids of traces and spans are hexadecimal."""
    found = MessageToDict(said, use_integers_for_enums=True)
    for logs in found.get("resourceLogs", ()):
        for scoped in logs.get("scopeLogs", ()):
            for record, of in zip(
                scoped.get("logRecords", ()), said.resource_logs[0].scope_logs[0].log_records, strict=True
            ):
                record.update({"traceId": of.trace_id.hex(), "spanId": of.span_id.hex()})
    return json.dumps(found).encode()


def read(body: bytes, reader: Callable[..., list[Found]] = otlp_protobuf.log_records, **reading: Any) -> list[Any]:
    return list(LogReading(**reading).events(body, reader(body, limit=1_000)))


def both(said: ExportLogsServiceRequest) -> list[Any]:
    """What either encoding says; the same, but for the ids, which follow from the bytes."""
    binary, text = read(said.SerializeToString()), read(as_json(said), otlp_json.log_records)
    assert [without_id(each) for each in binary] == [without_id(each) for each in text]
    return binary


def without_id(event: ReceivedEvent | LineError) -> Any:
    return parts(event) if isinstance(event, ReceivedEvent) else str(event)


def parts(event: ReceivedEvent) -> Any:
    payload, context = json.loads(event.payload), json.loads(event.context or b"null")
    return event.type, event.timestamp, event.table, payload, context


def one(*args: Any, **members: Any) -> Any:
    (event,) = both(request(message(*args, **members)))
    return parts(event)


@pytest.mark.parametrize(
    "body",
    [
        None,
        "text",
        "",
        True,
        0,
        -1,
        2**63 - 1,
        -(2**63),
        1.5,
        -0.0,
        [],
        [1, [2, {"a": None}]],
        {},
        {"a": {"b": ["c", 1.5]}, "": "ä"},
    ],
)
def test_body_is_the_payload(body: Any) -> None:
    assert one(body)[3] == (body if body is not None else None)


def test_what_json_cannot_say_is_a_text() -> None:
    body = [b"\xff\0", float("nan"), float("inf"), float("-inf")]

    assert one(body)[3] == [b64encode(b"\xff\0").decode(), "NaN", "Infinity", "-Infinity"]


def test_event_name_is_the_type() -> None:
    assert one(event_name="opened", attributes={"event.name": "other"})[0] == "opened"
    assert one(attributes={"event.name": "opened"})[0] == "opened"
    assert one()[0] == "log"


def test_times_are_exact() -> None:
    assert one(time_unix_nano=NOW + 1)[1] == NOW + 1
    assert one(observed_time_unix_nano=NOW)[1] == NOW
    assert one(attributes={"eventrec.time_unix_nano": -5})[1] == -5
    assert one()[1] is None
    assert one(time_unix_nano=NOW, observed_time_unix_nano=NOW + 1)[4] == {"observed_time_unix_nano": NOW + 1}


def test_time_beyond_all_years_is_refused() -> None:
    (refused,) = read(request(message(time_unix_nano=2**63)).SerializeToString())

    assert isinstance(refused, LineError)


def test_severity_is_said_unless_the_payload_says_it() -> None:
    assert one({"level": "warn"}, severity_number=13, severity_text="warn")[4] is None
    assert one("x", severity_number=9)[4] is None
    assert one("x", severity_number=17, severity_text="ERROR")[4] == {"severity_number": 17, "severity_text": "ERROR"}


def test_trace_and_span_are_said_where_they_are_some() -> None:
    trace, span = bytes(range(16)), bytes(range(8))

    assert one(trace_id=trace, span_id=span, flags=1)[4] == {
        "trace_id": trace.hex(),
        "span_id": span.hex(),
        "trace_flags": 1,
    }
    assert one(trace_id=bytes(16), span_id=b"abc", dropped_attributes_count=2)[4] == {"dropped_attributes_count": 2}


def test_resource_scope_and_attributes_are_the_context() -> None:
    said = request(
        message("x", {"user": "ada", "service": "taken", "attribute.service": "too", "resource": 1}),
        resource={"service.name": "shop", "host.name": "h", "deployment.environment.name": "prod", "os.type": "linux"},
        scope="lib",
        version="2",
        a=1,
    )

    (event,) = both(said)

    assert parts(event)[4] == {
        "service": "shop",
        "host": "h",
        "environment": "prod",
        "resource": {"os.type": "linux"},
        "scope": {"name": "lib", "version": "2", "attributes": {"a": 1}},
        "user": "ada",
        "attribute.attribute.service": "taken",
        "attribute.service": "too",
        "attribute.resource": 1,
    }


def test_table_and_id_are_those_of_the_attributes() -> None:
    (event, other) = both(
        request(
            message("x", {"log.record.uid": UUID_TEXT, "eventrec.table": "orders"}),
            message("x", {"log.record.uid": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}),
        )
    )

    assert (event.id, event.table, event.context) == (UUID(UUID_TEXT).bytes, "orders", None)
    assert UUID(bytes=other.id or b"").version == 5


def test_same_bytes_have_the_same_ids_again_and_others_have_others() -> None:
    one_, two = request(message("x"), message("x")), request(message("x"), message("y"))

    first = [event.id for event in read(one_.SerializeToString())]

    assert first == [event.id for event in read(one_.SerializeToString())]
    assert len({*first, *(event.id for event in read(two.SerializeToString()))}) == 4


@pytest.mark.parametrize("name", ["\0", "x" * 300])
def test_record_of_a_name_that_cannot_be_a_type_is_refused_alone(name: str) -> None:
    first, refused, last = both(request(message("x"), message("y", event_name=name), message("z")))

    assert isinstance(refused, LineError)
    assert (first.payload, last.payload) == (b'"x"', b'"z"')


@pytest.mark.parametrize(
    "record",
    [
        b"\x2a\x03\x0a\x01\xff",  # a text that is not UTF-8
        b"\x62\x01\xff",
        b"\x2a\x05\x0a",  # which breaks off
        b"\x32\x02\x0a\x05",
        b"\x0e",
        b"\x2a\x0b\x18" + b"\x80" * 10,
    ],
)
def test_record_that_cannot_be_read_is_refused_alone(record: bytes) -> None:
    good = message("x").SerializeToString()
    records = b"".join(b"\x12" + bytes([len(each)]) + each for each in (good, record, good))
    body = b"\x0a" + bytes([len(records) + 2]) + b"\x12" + bytes([len(records)]) + records

    first, refused, last = read(body)

    assert isinstance(refused, LineError)
    assert first.payload == last.payload == b'"x"'


@pytest.mark.parametrize(
    "record",
    [
        '{"timeUnixNano":"x"}',
        '{"timeUnixNano":-1}',
        '{"timeUnixNano":"99999999999999999999"}',
        '{"body":{"intValue":"1.5"}}',
        '{"body":{"intValue":"\uff19"}}',
        '{"body":{"intValue":99999999999999999999}}',
        '{"body":{"doubleValue":"x"}}',
        '{"body":"x"}',
        '{"attributes":{}}',
        '{"eventName":1}',
        "1",
        '{"body":' + '{"arrayValue":{"values":[' * 100 + "]}}" * 100 + "}",
    ],
)
def test_record_of_json_that_cannot_be_read_is_refused_alone(record: str) -> None:
    records = '[{"body":{"stringValue":"x"}},' + record + ",{}]"
    body = '{"resourceLogs":[{"scopeLogs":[{"logRecords":' + records + "}]}]}"

    first, refused, last = read(body.encode(), otlp_json.log_records)

    assert isinstance(refused, LineError)
    assert (first.payload, last.payload) == (b'"x"', b"null")


def test_json_takes_numbers_for_texts_and_ignores_what_it_does_not_know() -> None:
    record = {
        "timeUnixNano": NOW,
        "body": {"intValue": 5},
        "attributes": [{"key": "d", "value": {"doubleValue": "1.5"}}, {"key": "n"}],
        "traceId": "ABCDEF0123456789ABCDEF0123456789",
        "unheard": {"of": []},
        "severityText": None,
    }
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}], "resource": None}]}).encode()

    (event,) = read(body, otlp_json.log_records)

    assert parts(event)[1:] == (NOW, "events", 5, {"trace_id": record["traceId"].lower(), "d": 1.5, "n": None})  # type: ignore[attr-defined]


def test_unknown_fields_and_other_wire_types_are_skipped() -> None:
    record = b"\xaa\x1f\x01x" + b"\x50\x01" + b"\x0b\x08\x01\x0c" + message("x").SerializeToString() + b"\x2d\0\0\0\0"
    scoped = b"\x12" + bytes([len(record)]) + record + b"\x0a\0" + b"\x1a\x01u"
    body = b"\x0a" + bytes([len(scoped) + 2]) + b"\x12" + bytes([len(scoped)]) + scoped

    (event,) = read(body)

    assert event.payload == b'"x"'


def nested(levels: int) -> AnyValue:
    inner = AnyValue(string_value="x")
    for _ in range(levels):
        outer = AnyValue()
        outer.array_value.values.append(inner)
        inner = outer
    return inner


def test_value_that_is_nested_too_deeply_is_refused_alone() -> None:
    deep = b""
    for _ in range(500):
        size = otlp_protobuf._varint(len(deep))
        array = b"\x0a" + size + deep
        deep = b"\x2a" + otlp_protobuf._varint(len(array)) + array
    record = b"\x2a" + otlp_protobuf._varint(len(deep)) + deep
    for field in (b"\x12", b"\x12", b"\x0a"):
        record = field + otlp_protobuf._varint(len(record)) + record

    (refused,) = read(record)
    (event,) = read(request(Message(body=nested(30))).SerializeToString())

    assert isinstance(refused, LineError)
    assert event.payload == b"[" * 30 + b'"x"' + b"]" * 30


@pytest.mark.parametrize("body", [b"\x0a", b"\x0a\x05\x12", b"\xff" * 20, b"not protobuf", b"\x0a\x04\x0a\x02\x0a\x05"])
def test_other_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(BodyError):
        read(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"resourceLogs":{}}',
        b'{"resourceLogs":[1]}',
        b'{"resourceLogs":[{"scopeLogs":[[]]}]}',
        b'{"resourceLogs":[{"resource":1}]}',
        b'{"resourceLogs":[{"resource":{"attributes":[{"key":"a","value":{"intValue":"x"}}]}}]}',
        b'{"resourceLogs":[{"resource":{"attributes":[{"key":"\xff"}]}}]}',
        b'{"resourceLogs":' + b"[" * 5_000,
    ],
)
def test_other_json_is_refused(body: bytes) -> None:
    with pytest.raises(BodyError):
        read(body, otlp_json.log_records)


def test_request_has_so_many_records_resources_and_scopes_at_most() -> None:
    many = request(*[Message()] * 11)
    for body in (many.SerializeToString(), b"\x0a\0" * 11, b"\x0a\x16" + b"\x12\0" * 11):
        with pytest.raises(BodyTooLargeError):
            otlp_protobuf.log_records(body, limit=10)
    scopes = b'{"resourceLogs":[{"scopeLogs":[' + b",".join([b"{}"] * 11) + b"]}]}"
    for body in (as_json(many), b'{"resourceLogs":[' + b",".join([b"{}"] * 11) + b"]}", scopes):
        with pytest.raises(BodyTooLargeError):
            otlp_json.log_records(body, limit=10)


def test_resource_that_all_records_repeat_is_not_repeated_without_end() -> None:
    said = request(*[Message()] * 500, resource={"x": "y" * 100_000})

    tracemalloc.start()
    events = read(said.SerializeToString(), max_total_bytes=1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 8 << 20
    assert len(events) == 500
    assert isinstance(events[0], ReceivedEvent)
    assert isinstance(events[-1], LineError)


@pytest.mark.parametrize("size", [1_100_000, 5_000_000])
def test_record_that_is_too_large_is_refused_alone(size: int) -> None:
    said = request(message("x" * size), message("y"))

    for events in (read(said.SerializeToString()), read(as_json(said), otlp_json.log_records)):
        assert [type(found) for found in events] == [EventTooLargeError, ReceivedEvent]


@given(st.binary())
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    start = request(message("x", {"a": [1, {"b": 2.5}]}, time_unix_nano=NOW), resource={"r": 1}).SerializeToString()
    for said in (body, start[: len(start) // 2] + body, start + body, start[:-3] + body):
        try:
            read(said)
        except BodyError:
            continue


@given(st.binary(max_size=30), st.integers(0, 200))
def test_any_text_is_read_or_refused(piece: bytes, at: int) -> None:
    text = as_json(request(message("x", {"a": [1, {"b": 2.5}]}, time_unix_nano=NOW), resource={"r": 1}))
    for said in (text[:at] + piece + text[at:], text[:at] + piece + text[at + len(piece) :]):
        try:
            read(said, otlp_json.log_records)
        except BodyError:
            continue


def test_answers_are_those_of_otlp() -> None:
    response, error = ExportLogsServiceResponse(), Status()

    response.ParseFromString(otlp_protobuf.success(300, "too large"))
    error.ParseFromString(otlp_protobuf.status(8, "full"))

    assert (response.partial_success.rejected_log_records, response.partial_success.error_message) == (300, "too large")
    assert (error.code, error.message) == (8, "full")
    assert (otlp_protobuf.success(0, ""), otlp_json.success(0, "")) == (b"", b"{}")
    assert json.loads(otlp_json.success(2, "no")) == {
        "partialSuccess": {"rejectedLogRecords": "2", "errorMessage": "no"}
    }
    assert json.loads(otlp_json.status(3, "no")) == {"code": 3, "message": "no"}


# -- backwards: what the handler for OTLP sends

COLUMN = ColumnSchema("shop", ColumnType.STRING)
SENT = [
    ReceivedEvent("opened", b'{"n":1,"level":"warn","deep":[1,2.5,null,true]}', NOW + 7, id=UUID(UUID_TEXT).bytes),
    ReceivedEvent("opened", b'{"huge":123456789012345678901234567890}', NOW, table="orders"),
    ReceivedEvent("opened", b"null", -5, context=b'{"service":"shop","host":"h","environment":"prod","user":"ada"}'),
    ReceivedEvent(
        "opened", b'"text"', NOW, context=b'{"trace_id":"' + b"ab" * 16 + b'","span_id":"' + b"cd" * 8 + b'"}'
    ),
    ReceivedEvent("$identify", b"{}", NOW, context=b'{"distinct_id":"ada","deep":{"a":[1]}}'),
]


@pytest.mark.parametrize("body", ["map", "json"])
@pytest.mark.parametrize(
    ("encoding", "reader"),
    [(ProtobufEncoding(), otlp_protobuf.log_records), (JsonEncoding(), otlp_json.log_records)],
)
async def test_what_the_handler_sends_comes_back(encoding: Any, reader: Any, body: Any) -> None:
    log = Log(*SENT)
    records = log.batch(0).records

    sent = await Requests(encoding, body=body, version="1").request_of(log.batch(0))
    found = read(sent.body, reader)

    assert [parts(event) for event in found] == [parts(event) for event in SENT]
    assert [str(UUID(bytes=event.id)) for event in found] == [record.id for record in records]
    if body == "json":
        assert [event.payload for event in found] == [event.payload for event in SENT]


async def test_columns_come_back_as_fields_of_the_context() -> None:
    log = Log(ReceivedEvent("opened", b"1", NOW, columns=(COLUMN,), rows=[("a",)]))

    sent = await Requests(ProtobufEncoding(), body="map", version="1").request_of(log.batch(0))

    assert [parts(event) for event in read(sent.body)] == [("opened", NOW, "events", 1, {"shop": "a"})]
