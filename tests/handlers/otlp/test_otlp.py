"""What of an event goes where in OTLP, decoded by OpenTelemetry's own messages, and what its answers lead to."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, TypeAlias

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from eventrec import (
    Batch,
    BatchTooLargeError,
    ColumnSchema,
    ColumnType,
    EventRecorder,
    HandlerURLError,
    PauseError,
    PermanentError,
    ReceivedEvent,
    TransientError,
    handler_from_url,
)
from eventrec.testing.conformance.log import Sample
from eventrec_handlers._http.client import Answer
from eventrec_handlers.otlp import OTLPHandler, from_url
from eventrec_handlers.otlp.answers import ForeignAnswerError, Partial, partial_of
from eventrec_handlers.otlp.encodings import Encoding, JsonEncoding, ProtobufEncoding
from eventrec_handlers.otlp.records import Requests
from eventrec_handlers.otlp.wire import InexactError, WireError, any_value, fields, varint

BatchOf: TypeAlias = Callable[..., Batch]
EndpointOf: TypeAlias = Callable[..., Any]
LogsIn: TypeAlias = Callable[[Mapping[str, str], bytes], list[Any]]

AT = 1_709_208_000_123_456_789
ENCODINGS: list[Encoding] = [ProtobufEncoding(), JsonEncoding()]
PROTOBUF = "application/x-protobuf"

each_encoding = pytest.mark.parametrize("encoding", ENCODINGS, ids=["protobuf", "json"])


def logs_of(logs_in: LogsIn, batch: Batch, encoding: Encoding, *, body: Any = "map") -> list[Any]:
    request = anyio.run(Requests(encoding, body=body, version="1.2").request_of, batch)
    logs = logs_in({"content-type": encoding.media_type}, request.body)
    assert request.size == len(logs)
    return logs


# -- what goes where


@each_encoding
def test_event_is_a_log_record_as_documented(batch: BatchOf, logs_in: LogsIn, encoding: Encoding) -> None:
    columns = (ColumnSchema("order id", ColumnType.UINT64), ColumnSchema("raw", ColumnType.BINARY))
    event = Sample({"a": 1}, kind="order_placed", into="orders", at=AT, columns=columns, values=(2**64 - 1, b"\0\xff"))
    context = b'{"service":"shop","host":"h1","environment":"prod","user_id":7,"gone":null}'

    (log,) = logs_of(logs_in, batch(event, context=context), encoding)

    assert log.message.event_name == "order_placed"
    assert log.message.time_unix_nano == log.message.observed_time_unix_nano == AT
    assert (log.message.severity_number, log.message.severity_text) == (9, "")
    assert log.body == {"a": 1}
    assert log.scope == ("eventrec", "1.2")
    assert log.resource == {"service.name": "shop", "host.name": "h1", "deployment.environment.name": "prod"}
    assert log.attributes == {
        "log.record.uid": batch(event).records[0].id,
        "eventrec.table": "orders",
        "order id": "18446744073709551615",
        "raw": b"\0\xff",
        "user_id": 7,
    }


@each_encoding
@pytest.mark.parametrize(
    ("level", "number"),
    [("info", 9), ("WARNING", 13), ("Error", 17), ("critical", 21), ("debug", 5), ("nonsense", 9), (17, 9), (None, 9)],
)
def test_payload_may_name_the_severity(
    batch: BatchOf, logs_in: LogsIn, encoding: Encoding, level: object, number: int
) -> None:
    (log,) = logs_of(logs_in, batch(Sample({"level": level})), encoding)

    assert log.message.severity_number == number
    assert log.message.severity_text == (level if isinstance(level, str) and level != "nonsense" else "")
    assert log.body == {"level": level}


@each_encoding
def test_trace_of_the_context_is_the_records(batch: BatchOf, logs_in: LogsIn, encoding: Encoding) -> None:
    good = b'{"trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"B7AD6B7169203331"}'
    bad = b'{"trace_id":"00000000000000000000000000000000","span_id":"xyz"}'

    (log,) = logs_of(logs_in, batch(Sample(1), context=good), encoding)
    (other,) = logs_of(logs_in, batch(Sample(1), context=bad), encoding)

    assert log.message.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert log.message.span_id.hex() == "b7ad6b7169203331"
    assert not {"trace_id", "span_id"} & set(log.attributes)
    assert (other.message.trace_id, other.message.span_id) == (b"", b"")
    assert other.attributes["span_id"] == "xyz"


@each_encoding
@pytest.mark.parametrize("at", [-(2**63), -1, 0, 1, 2**63 - 1])
def test_every_time_is_exact(batch: BatchOf, logs_in: LogsIn, encoding: Encoding, at: int) -> None:
    (log,) = logs_of(logs_in, batch(Sample(1, at=at)), encoding)

    assert log.attributes.get("eventrec.time_unix_nano", log.message.time_unix_nano) == at


@each_encoding
@pytest.mark.parametrize(
    "text",
    [
        "9223372036854775808",
        "-9223372036854775809",
        "1e400",
        "0.10000000000000000001",
        "123456789012345678901234567890.5",
        "[" * 60 + "]" * 60,
        '{"a":{"n":18446744073709551616}}',
        r'"\ud800"',
    ],
)
def test_body_that_otlp_cannot_say_exactly_is_its_text(
    batch: BatchOf, logs_in: LogsIn, encoding: Encoding, text: str
) -> None:
    (log,) = logs_of(logs_in, batch(ReceivedEvent("odd", text.encode())), encoding)

    assert log.body == text
    assert log.attributes["eventrec.body"] == "json"


@each_encoding
def test_body_may_be_asked_for_as_text(batch: BatchOf, logs_in: LogsIn, encoding: Encoding) -> None:
    (log,) = logs_of(logs_in, batch(ReceivedEvent("x", b'{"level": "error"}')), encoding, body="json")

    assert log.body == '{"level": "error"}'
    assert log.attributes["eventrec.body"] == "json"
    assert log.message.severity_number == 17


@each_encoding
def test_names_that_are_taken_get_another(batch: BatchOf, logs_in: LogsIn, encoding: Encoding) -> None:
    names = ("log.record.uid", "column.log.record.uid", "user", "eventrec.body")
    columns = tuple(ColumnSchema(name, ColumnType.INT64) for name in names)
    event = Sample(1, columns=columns, values=(1, 2, 3, 4))
    context = b'{"user":5,"context.user":6,"eventrec.table":7,"column.eventrec.body":8}'

    (log,) = logs_of(logs_in, batch(event, context=context), encoding)

    assert log.attributes["log.record.uid"] == batch(event).records[0].id
    assert sorted(value for value in log.attributes.values() if isinstance(value, int)) == list(range(1, 9))


def test_order_is_that_of_the_log_across_shapes_and_resources(batch: BatchOf, logs_in: LogsIn) -> None:
    events = [ReceivedEvent(f"kind_{n % 3}", b"%d" % n, context=b'{"service":"s%d"}' % (n // 4 % 2)) for n in range(24)]

    logs = logs_of(logs_in, batch(*events), ENCODINGS[0])

    assert [log.body for log in logs] == list(range(24))
    assert [log.resource["service.name"] for log in logs] == [f"s{n // 4 % 2}" for n in range(24)]


def test_event_of_several_rows_is_several_records(batch: BatchOf, logs_in: LogsIn) -> None:
    class Rows(Sample):
        def extra_rows(self) -> Any:
            return [(1,), (None,), (3,)]

    logs = logs_of(logs_in, batch(Rows("x", columns=(ColumnSchema("n", ColumnType.INT64),))), ENCODINGS[0])

    assert [log.attributes.get("n") for log in logs] == [1, None, 3]
    assert len({log.attributes["log.record.uid"] for log in logs}) == 3


@each_encoding
def test_what_is_not_json_is_named(batch: BatchOf, logs_in: LogsIn, encoding: Encoding) -> None:
    bad = ReceivedEvent("bad", b'{"no": JSON}')

    with pytest.raises(PermanentError) as caught:
        logs_of(logs_in, batch(Sample(1), bad, Sample(2)), encoding)

    assert set(caught.value.records) == {1}


@each_encoding
@pytest.mark.parametrize("context", [b"7", b"[1]", b"\xff", b'{"n":1e999,"deep":{"a":[1]},"e":""}', b'{"":1}'])
def test_context_that_is_odd_is_kept(batch: BatchOf, logs_in: LogsIn, encoding: Encoding, context: bytes) -> None:
    """As a log that an earlier version wrote may have it."""
    (log,) = logs_of(logs_in, batch(ReceivedEvent("x", b"1"), context=context), encoding)

    kept = set(log.attributes) - {"log.record.uid", "eventrec.table"}
    assert kept == ({"context"} if not context.startswith(b"{") else set(json.loads(context)))


VALUES: Mapping[ColumnType, st.SearchStrategy[Any]] = {
    ColumnType.BOOLEAN: st.booleans(),
    ColumnType.INT8: st.integers(-128, 127),
    ColumnType.INT64: st.integers(-(2**63), 2**63 - 1),
    ColumnType.UINT64: st.integers(0, 2**64 - 1),
    ColumnType.FLOAT64: st.floats(allow_nan=False, allow_infinity=False),
    ColumnType.BINARY: st.binary(max_size=20),
    ColumnType.STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    ColumnType.DATE: st.dates(),
    ColumnType.TIMESTAMP_NANOSECOND: st.integers(-(2**63), 2**63 - 1),
    ColumnType.INTERVAL_MONTH_DAY_NANO: st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(-9, 9)),
    ColumnType.DECIMAL128: st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-999, max_value=999),
    ColumnType.VECTOR: st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=3),
    ColumnType.JSON: st.dictionaries(st.sampled_from("ab"), st.none() | st.integers(-5, 5) | st.text("é☃", max_size=3)),
}
SCHEMA = tuple(ColumnSchema(type_.name, type_) for type_ in VALUES)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=8,
)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
EVENTS = st.builds(
    Sample,
    ANYTHING,
    kind=NAMES,
    into=NAMES,
    at=st.integers(-(2**63), 2**63 - 1),
    columns=st.just(SCHEMA),
    values=st.tuples(*(st.none() | strategy for strategy in VALUES.values())),
)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(EVENTS, min_size=10, max_size=10), st.dictionaries(NAMES, ANYTHING, max_size=3))
def test_any_event_says_the_same_in_both_encodings(
    batch: BatchOf, logs_in: LogsIn, events: list[Sample], context: dict[str, Any]
) -> None:
    """500 events: decoded by OpenTelemetry's own messages, every value exact."""
    whole = batch(*events, context=json.dumps(context).encode() if context else None)

    for encoding in ENCODINGS:
        logs = logs_of(logs_in, whole, encoding)

        for record, log in zip(whole.records, logs, strict=True):
            said = log.attributes
            assert (log.message.event_name, said["eventrec.table"]) == (record.type, record.table)
            assert said["log.record.uid"] == record.id
            assert said.get("eventrec.time_unix_nano", log.message.time_unix_nano) == record.timestamp
            is_text = said.get("eventrec.body") == "json"
            body = json.loads(log.body, parse_int=Decimal, parse_float=Decimal) if is_text else log.body
            assert same(body, json.loads(record.payload, parse_int=Decimal, parse_float=Decimal))
            for column, value in zip(record.columns, record.rows[0], strict=True):
                assert same(said.get(column.name), expected_of(column, value))
    assert [log.attributes for log in logs_of(logs_in, whole, ENCODINGS[0])] == [log.attributes for log in logs]


def expected_of(column: ColumnSchema, value: Any) -> Any:
    if column.type is ColumnType.JSON and value is not None:
        return json.loads(value)
    return str(value) if type(value) is int and value >= 2**63 else value


def same(found: Any, expected: Any) -> bool:
    """Whether they are equal and of one kind; numbers by their exact value."""
    match expected:
        case dict():
            return (
                isinstance(found, dict)
                and found.keys() == expected.keys()
                and all(same(found[name], expected[name]) for name in expected)
            )
        case list() | tuple():
            return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected))
        case bool() | None | str() | bytes():
            return found is expected or (type(found) is type(expected) and found == expected)
        case _:
            return not isinstance(found, bool) and Decimal(repr(found) if isinstance(found, float) else found) == (
                Decimal(repr(expected)) if isinstance(expected, float) else expected
            )


# -- the wire


@given(st.integers(-(2**63), 2**64 - 1))
def test_any_number_comes_back(value: int) -> None:
    assert list(fields(b"\x08" + varint(value))) == [(1, value % 2**64)]


@given(ANYTHING)
def test_any_value_is_what_the_official_message_makes_of_it(value: Any) -> None:
    try:
        content = any_value(value)
    except InexactError:
        return

    message = AnyValue.FromString(content)
    assert message.ByteSize() == len(content)
    assert AnyValue.FromString(message.SerializeToString()) == message


@given(st.binary(max_size=40))
def test_any_bytes_are_a_message_or_a_wire_error(message: bytes) -> None:
    try:
        found = list(fields(message))
    except WireError:
        return
    assert all(number > 0 for number, _ in found)


@given(st.binary(max_size=60), st.sampled_from([PROTOBUF, "application/json", "text/html", ""]))
def test_any_answer_is_understood_or_foreign(body: bytes, kind: str) -> None:
    try:
        said = partial_of(Answer(200, {"content-type": kind}, body))
    except ForeignAnswerError:
        return
    assert said.rejected >= 0


# -- answers


def answered(rejected: int, message: str = "", *, encoding: str = PROTOBUF) -> tuple[int, Mapping[str, str], bytes]:
    response = ExportLogsServiceResponse()
    response.partial_success.rejected_log_records = rejected
    response.partial_success.error_message = message
    if encoding == PROTOBUF:
        return 200, {"Content-Type": PROTOBUF}, response.SerializeToString()
    said = {"partialSuccess": {"rejectedLogRecords": str(rejected), "errorMessage": message}}
    return 200, {"Content-Type": "application/json; charset=utf-8"}, json.dumps(said).encode()


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"", "", Partial()),
        (b"", "text/html", Partial()),
        (b"{}", "application/json", Partial()),
        (b'{"partialSuccess":{}}', "application/json", Partial()),
        (b'{"partialSuccess":null,"more":[1]}', "application/json", Partial()),
        (b'{"partialSuccess":{"rejectedLogRecords":2}}', "application/json", Partial(2)),
        (answered(3, "old")[2], PROTOBUF, Partial(3, "old")),
        (answered(0, "slow")[2], PROTOBUF, Partial(0, "slow")),
        (answered(-1)[2], PROTOBUF, Partial(0)),
        (b"\x12\x01x" + answered(3)[2] + b"\x1d\0\0\0\0\x21\0\0\0\0\0\0\0\0", PROTOBUF, Partial(3)),
    ],
)
def test_answer_says_how_many_were_refused(body: bytes, kind: str, expected: Partial) -> None:
    assert partial_of(Answer(200, {"content-type": kind}, body)) == expected


@asynccontextmanager
async def opened(handler: OTLPHandler) -> AsyncIterator[OTLPHandler]:
    await handler.open()
    try:
        yield handler
    finally:
        await handler.close()


@pytest.mark.parametrize("kind", [PROTOBUF, "application/json"])
async def test_part_that_is_refused_is_counted_and_said(
    batch: BatchOf, endpoint_of: EndpointOf, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    answers = [answered(2, "too old", encoding=kind), answered(1, "too old", encoding=kind), answered(0)]
    port = endpoint_of(lambda posted: answers.pop(0)).port
    handler = OTLPHandler(f"http://127.0.0.1:{port}")
    with caplog.at_level(logging.INFO, "eventrec.otlp"):
        async with opened(handler):
            assert not handler.remarks
            for start in (0, 3, 6):
                await handler.handle(batch(Sample(1), Sample(2), Sample(3), start=start))

    assert list(handler.remarks) == [
        f"http://127.0.0.1:{port}: 3 of 9 log records were refused, the protocol does not say which: too old"
    ]
    assert [record.levelname for record in caplog.records if record.name == "eventrec.otlp"] == ["WARNING", "INFO"]


async def test_batch_of_which_all_is_refused_is_dead(batch: BatchOf, endpoint_of: EndpointOf) -> None:
    async with opened(OTLPHandler(f"http://127.0.0.1:{endpoint_of(lambda posted: answered(9, 'no')).port}")) as handler:
        with pytest.raises(PermanentError, match="refused: no") as caught:
            await handler.handle(batch(Sample(1), Sample(2)))

    assert set(caught.value.records) == {0, 1}
    assert not handler.remarks


async def test_part_may_be_located_at_the_price_of_copies(endpoint_of: EndpointOf, logs_in: LogsIn) -> None:
    """Through the recorder: exactly the refused ones become dead letters."""
    arrived: list[int] = []

    def answer(posted: Any) -> tuple[int, Mapping[str, str], bytes]:
        numbers = [log.body["n"] for log in logs_in(posted.headers, posted.body)]
        good = [n for n in numbers if n % 10 != 3]
        arrived.extend(good)
        return answered(len(numbers) - len(good), "three")

    url = f"otlp://127.0.0.1:{endpoint_of(answer).port}?partial=locate"
    async with EventRecorder(url) as recorder:
        for n in range(20):
            recorder.record(Sample({"n": n}))
    (status,) = recorder.status().subscriptions.values()

    assert (status.delivered, status.dead) == (18, 2)
    assert set(arrived) == {n for n in range(20) if n % 10 != 3}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *[(status, PauseError) for status in (401, 403, 404, 405, 406, 410, 415, 501)],
        *[(status, TransientError) for status in (408, 429, 500, 502, 503, 504)],
        (400, PermanentError),
        (413, BatchTooLargeError),
    ],
)
async def test_each_status_leads_where_it_should(
    batch: BatchOf, endpoint_of: EndpointOf, status: int, expected: type[Exception]
) -> None:
    port = endpoint_of(lambda posted: (status, {"Content-Type": PROTOBUF, "Retry-After": "4"}, b"\x12\x02no")).port
    async with opened(OTLPHandler(f"http://127.0.0.1:{port}")) as handler:
        with pytest.raises(expected) as caught:
            await handler.handle(batch(Sample(1)))

    assert type(caught.value) is expected
    if isinstance(caught.value, TransientError):
        assert caught.value.retry_after == 4


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<html>welcome</html>"),
        ("text/plain", b"OK"),
        ("", b"{}"),
        (PROTOBUF, b"<html>"),
        (PROTOBUF, b"\x0a\x05\x08"),
        (PROTOBUF, b"\x08\x01"),
        (PROTOBUF, b"\x0a\x03\x12\x01\xff"),
        ("application/json", b"<html>"),
        ("application/json", b'{"partialSuccess":{"rejectedLogRecords":"many"}}'),
        ("application/json", b"[" * 100_000),
        ("application/json", b""" {"partialSuccess":{"errorMessage":7}}"""),
    ],
)
async def test_answer_that_is_not_otlp_pauses(batch: BatchOf, endpoint_of: EndpointOf, kind: str, body: bytes) -> None:
    port = endpoint_of(lambda posted: (200, {"Content-Type": kind}, body)).port
    async with opened(OTLPHandler(f"http://127.0.0.1:{port}")) as handler:
        with pytest.raises(PauseError, match="not a receiver of OTLP"):
            await handler.handle(batch(Sample(1)))


async def test_secret_that_an_answer_repeats_is_not_said(batch: BatchOf, endpoint_of: EndpointOf) -> None:
    port = endpoint_of(lambda posted: answered(1, f"who is {posted.headers['x-key']}?")).port
    handler = from_url(f"otlp://127.0.0.1:{port}?header.X-Key=k3y")
    async with opened(handler):
        await handler.handle(batch(Sample(1), Sample(2)))

    assert handler.remarks[0].endswith("who is ***?")


# -- URLs


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("otlp://h", "http://h:4318", "/v1/logs"),
        ("otlp://h:80/", "http://h", "/v1/logs"),
        ("otlp://h/otel%2Fx/v1/logs", "http://h:4318", "/otel%2Fx/v1/logs"),
        ("otlp://h?tls=true", "https://h:4318", "/v1/logs"),
        ("otlp+http://h", "http://h:4318", "/v1/logs"),
        ("otlp+https://h", "https://h", "/v1/logs"),
        ("otlp+https://[::1]:4318", "https://[::1]:4318", "/v1/logs"),
    ],
)
def test_url_names_the_receiver(url: str, origin: str, target: str) -> None:
    handler = handler_from_url(url)

    assert isinstance(handler, OTLPHandler)
    assert (str(handler._client.origin), handler._target) == (origin, target)


async def test_options_of_a_url_reach_the_receiver(
    batch: BatchOf, endpoint_of: EndpointOf, logs_in: LogsIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted: list[Any] = []

    def answer(request: Any) -> tuple[int, Mapping[str, str], bytes]:
        posted.append(request)
        return 200, {}, b""

    monkeypatch.setenv("OTLP_TOKEN", "t0ken")
    port = endpoint_of(answer).port
    for query in ("", "&encoding=json&compression=none&body=json"):
        handler = handler_from_url(f"otlp://127.0.0.1:{port}?token=env:OTLP_TOKEN&header.X-Team=a{query}")
        assert isinstance(handler, OTLPHandler)
        async with opened(handler):
            await handler.handle(batch(Sample({"a": [1]})))

    first, second = posted
    assert first.path == "/v1/logs"
    assert (first.headers["authorization"], first.headers["x-team"]) == ("Bearer t0ken", "a")
    assert gzip.decompress(first.body)
    assert (second.headers["content-type"], second.headers.get("content-encoding")) == ("application/json", None)
    bodies = [log.body for each in posted for log in logs_in(each.headers, each.body)]
    assert bodies == [{"a": [1]}, '{"a":[1]}']


@pytest.mark.parametrize("form", ["otlp://{}", "http://{}"])
async def test_user_of_a_url_is_sent_and_the_password_not_shown(
    batch: BatchOf, endpoint_of: EndpointOf, form: str
) -> None:
    def answer(posted: Any) -> tuple[int, Mapping[str, str], bytes]:
        return 401, {}, f"{posted.headers['authorization']} p@ss".encode()

    url = form.format(f"me:p%40ss@127.0.0.1:{endpoint_of(answer).port}")
    handler = from_url(url) if url.startswith("otlp") else OTLPHandler(url)
    async with opened(handler):
        with pytest.raises(PauseError) as caught:
            await handler.handle(batch(Sample(1)))

    assert str(caught.value).endswith("HTTP 401: *** ***")


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("otlp://", "host"),
        ("otlp:h", "host"),
        ("otlp://h?encoding=xml", "encoding"),
        ("otlp://h?compression=br", "compression"),
        ("otlp://h?partial=ignore", "partial"),
        ("otlp://h?body=text", "body"),
        ("otlp://h?tls=maybe", "tls"),
        ("otlp+https://h?tls=false", "otlp://"),
        ("otlp://h?query=a", "query"),
        ("otlp://u:hidden@h?token=hidden", "Authorization"),
        ("otlp://h/a b", "path"),
    ],
)
def test_url_that_cannot_be_served_says_why_and_shows_no_secret(url: str, named: str) -> None:
    with pytest.raises(HandlerURLError, match=named) as caught:
        from_url(url)

    assert "hidden" not in str(caught.value)
