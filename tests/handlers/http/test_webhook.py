"""What an endpoint is sent, byte for byte, and what its answers lead to."""

from __future__ import annotations

import json
import logging
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import unquote
from uuid import UUID

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventrec import (
    Batch,
    BatchTooLargeError,
    ColumnSchema,
    ColumnType,
    EventRecorder,
    EventRecorderOptions,
    HandlerURLError,
    PartialError,
    PauseError,
    PermanentError,
    ReceivedEvent,
    TransientError,
    handler_from_url,
)
from eventrec.bridges.loggers import RecordingHandler
from eventrec.ingest.received import Reading, received_event
from eventrec.testing.conformance.log import Sample
from eventrec_handlers._lines import lines_in_slices, lines_of
from eventrec_handlers.http import HTTPHandler, from_url
from eventrec_handlers.http.formats import FORMATS, HTTPFormat, Message, messages_of, time_text
from eventrec_handlers.http.signing import Signer, request_key

BatchOf: TypeAlias = Callable[..., Batch]
EndpointOf: TypeAlias = Callable[..., Any]

LOG = UUID("01990000-0000-7000-8000-000000000001")
KEY = "whsec_c2VjcmV0"
AT = 1_709_208_000_123_456_789
COLUMNS = (ColumnSchema("order id", ColumnType.INT64), ColumnSchema("raw", ColumnType.BINARY))


@asynccontextmanager
async def opened(handler: HTTPHandler) -> AsyncIterator[HTTPHandler]:
    await handler.open()
    try:
        yield handler
    finally:
        await handler.close()


class Keeping:
    """Answers with `statuses`, then 204, and JSON where there is a `body`; keeps what it is sent."""

    def __init__(self, *statuses: int, headers: Mapping[str, str] | None = None, body: object = None) -> None:
        self.posted: list[Any] = []
        self.statuses = list(statuses)
        self.headers = headers or {}
        self.content = b"" if body is None else json.dumps(body).encode()

    def __call__(self, posted: Any) -> tuple[int, Mapping[str, str], bytes]:
        self.posted.append(posted)
        return (self.statuses.pop(0) if self.statuses else 204), self.headers, self.content


# -- formats


def messages(batch: Batch, *, format_: HTTPFormat, source: str | None = None) -> list[Message]:
    """What a handler would post."""
    return anyio.run(partial(messages_of, batch, format_=format_, source=source))


async def test_lines_made_in_slices_are_those_that_files_get(batch: BatchOf) -> None:
    whole = batch(*(Sample({"n": n}, kind=f"kind_{n % 3}") for n in range(250)))

    assert await lines_in_slices(whole) == lines_of(whole)


def test_cloud_event_is_written_as_documented(batch: BatchOf) -> None:
    event = Sample({"a": 1}, kind="order placed", into="orders", at=AT, columns=COLUMNS, values=(7, b"\0"))
    (message,) = messages(batch(event, context=b'{"service":"shop \xc3\xa9"}'), format_="cloudevents-structured")

    assert json.loads(message.body) == {
        "specversion": "1.0",
        "id": batch(event).records[0].id,
        "source": "shop%20%C3%A9",
        "type": "order placed",
        "time": "2024-02-29T12:00:00.123456789Z",
        "datacontenttype": "application/json",
        "table": "orders",
        "context": '{"service":"shop é"}',
        "columns": '{"order id":7,"raw":"AA=="}',
        "columntypes": '{"order id":{"type":"INT64"},"raw":{"type":"BINARY"}}',
        "data": {"a": 1},
    }


def test_attributes_are_headers_in_the_binary_mode(batch: BatchOf) -> None:
    event = Sample({"a": 1}, kind='50% "é"\n', at=AT)
    (message,) = messages(batch(event), format_="cloudevents-binary", source="urn:x")

    assert message.body == b'{"a":1}'
    assert message.headers == {
        "ce-specversion": "1.0",
        "ce-id": batch(event).records[0].id,
        "ce-source": "urn:x",
        "ce-type": "50%25%20%22%C3%A9%22%0A",
        "ce-time": "2024-02-29T12:00:00.123456789Z",
        "ce-table": "events",
        "Content-Type": "application/json",
    }


def test_batch_is_one_request_in_the_order_of_the_log(batch: BatchOf) -> None:
    events = [Sample({"n": n}, kind=f"kind_{n % 3}") for n in range(9)]

    for format_ in ("cloudevents-batch", "ndjson"):
        (message,) = messages(batch(*events), format_=format_)
        text = message.body if format_ == "cloudevents-batch" else b"[" + b",".join(message.body.splitlines()) + b"]"
        member = "data" if format_ == "cloudevents-batch" else "payload"
        assert [each[member]["n"] for each in json.loads(text)] == list(range(9))
        assert list(message.offsets) == list(range(9))


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, b"1970-01-01T00:00:00.000000000Z"),
        (-1, b"1969-12-31T23:59:59.999999999Z"),
        (-(2**63), b"1677-09-21T00:12:43.145224192Z"),
        (2**63 - 1, b"2262-04-11T23:47:16.854775807Z"),
    ],
)
def test_time_is_exact(at: int, text: bytes) -> None:
    assert time_text(at) == text


@pytest.mark.parametrize("format_", FORMATS)
def test_what_is_not_json_is_named_and_its_neighbours_are_not(batch: BatchOf, format_: HTTPFormat) -> None:
    bad = ReceivedEvent("bad", b'{"no": JSON}')

    with pytest.raises(PermanentError) as caught:
        messages(batch(Sample(1), bad, Sample(2), bad), format_=format_)

    assert set(caught.value.records) == {1, 3}


def test_context_that_is_not_json_is_named(batch: BatchOf) -> None:
    """As a log that an earlier version wrote may have it."""
    with pytest.raises(PermanentError, match="context") as caught:
        messages(batch(Sample(1), Sample(2), context=b"\xff"), format_="cloudevents-binary")

    assert set(caught.value.records) == {0, 1}


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=8,
)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
EVENTS = st.builds(
    Sample,
    ANYTHING,
    kind=NAMES,
    into=NAMES,
    at=st.integers(-(2**63), 2**63 - 1),
    columns=st.just((ColumnSchema("n", ColumnType.INT64), ColumnSchema("s", ColumnType.STRING))),
    values=st.tuples(
        st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | st.text(st.characters(exclude_categories=["Cs"]))
    ),
)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(EVENTS, min_size=10, max_size=10))
def test_any_event_says_the_same_in_every_format(batch: BatchOf, events: list[Sample]) -> None:
    """500 events: read back by another parser than wrote them, every value exact."""
    whole = batch(*events)
    expected = [
        (
            each.id,
            each.type,
            each.table,
            each.timestamp,
            exact(each.payload),
            dict(zip("ns", each.rows[0], strict=True)),
        )
        for each in whole.records
    ]

    lines = [received_event(line, Reading()) for line in messages(whole, format_="ndjson")[0].body.splitlines()]
    structured = [exact(each.body) for each in messages(whole, format_="cloudevents-structured")]
    (one,) = messages(whole, format_="cloudevents-batch")
    binary = messages(whole, format_="cloudevents-binary")

    assert [
        (str(UUID(bytes=each.id)), each.type, each.table, each.timestamp, exact(each.payload)) for each in lines
    ] == [each[:5] for each in expected]
    assert exact(one.body) == structured
    assert [read(each, each["data"]) for each in structured] == expected
    for message, wanted in zip(binary, expected, strict=True):
        said = {name.removeprefix("ce-"): unquote(value, errors="strict") for name, value in message.headers.items()}
        assert all(value.isascii() and value.isprintable() for value in message.headers.values())
        assert read(said, exact(message.body)) == wanted


def read(said: Mapping[str, Any], data: object) -> tuple[Any, ...]:
    second, _, fraction = said["time"].removesuffix("Z").partition(".")
    since = datetime.fromisoformat(f"{second}+00:00") - datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    at = (since.days * 86_400 + since.seconds) * 10**9 + int(fraction)
    return said["id"], said["type"], said["table"], at, data, json.loads(said["columns"])


def exact(text: bytes) -> Any:
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)


# -- signatures and keys


def test_signature_is_that_of_the_published_example() -> None:
    signer = Signer("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    headers = signer.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', now=1_614_265_330.9)

    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_no base64!", "whsec_é"])
def test_secret_that_cannot_be_one_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="secret"):
        Signer(secret)


def test_key_follows_from_the_records_alone() -> None:
    key = request_key(LOG, "hook", range(3, 6))

    assert key == request_key(LOG, "hook", [3, 4, 5])
    others = {
        request_key(UUID(int=1), "hook", [3, 4, 5]),
        request_key(LOG, "hoop", [3, 4, 5]),
        request_key(LOG, "hook", [3, 4]),
        request_key(LOG, "hook", [3, 5]),
        request_key(LOG, "hook", [3], 0),
        request_key(LOG, "hook", [3], 1),
        request_key(LOG, "hook", [3]),
    }
    assert len(others | {key}) == 8


async def test_attempts_carry_one_key_and_their_own_time(batch: BatchOf, endpoint_of: EndpointOf) -> None:
    keeping, times = Keeping(503), iter([1_000.0] * 3 + [2_000.0] * 3)
    endpoint = endpoint_of(keeping)
    handler = HTTPHandler(f"http://127.0.0.1:{endpoint.port}/", secret=KEY, now=lambda: next(times))
    async with opened(handler):
        with pytest.raises(TransientError):
            await handler.handle(batch(Sample(1)))
        await handler.handle(batch(Sample(1)))
        await handler.handle(batch(Sample(1), start=1))

    first, second, other = (each.headers for each in keeping.posted)
    assert first["idempotency-key"] == first["webhook-id"] == second["webhook-id"] == second["idempotency-key"]
    assert other["idempotency-key"] != first["idempotency-key"]
    assert first["webhook-timestamp"] < other["webhook-timestamp"]
    for each in keeping.posted:
        (version, signature) = each.headers["webhook-signature"].split(",")
        again = Signer(KEY).headers(each.headers["webhook-id"], each.body, now=float(each.headers["webhook-timestamp"]))
        assert again["webhook-signature"] == f"{version},{signature}"
        assert len(b64decode(signature)) == 32


# -- answers


async def test_too_large_a_batch_is_split(batch: BatchOf, endpoint_of: EndpointOf) -> None:
    handler = HTTPHandler(f"http://127.0.0.1:{endpoint_of(Keeping(413)).port}/")
    async with opened(handler):
        with pytest.raises(BatchTooLargeError):
            await handler.handle(batch(Sample(1), Sample(2)))


async def test_what_a_server_of_ours_does_not_take_of_a_batch_is_named(batch: BatchOf, endpoint_of: EndpointOf) -> None:
    class TwoRows(Sample):
        def extra_rows(self) -> list[tuple[int]]:
            return [(1,), (2,)]

    said = [{"index": 2, "error": "bad"}, {"index": 4, "error": "full", "retry": True}]
    answer = Keeping(200, headers={"Eventrec-Rejected": "2"}, body={"received": 3, "rejected": 2, "errors": said})
    handler = HTTPHandler(f"http://127.0.0.1:{endpoint_of(answer).port}/")
    two = TwoRows(0, columns=(ColumnSchema("n", ColumnType.INT64),))
    async with opened(handler):
        with pytest.raises(PartialError) as caught:
            await handler.handle(batch(two, Sample(1), Sample(2), Sample(3), start=7))

    assert {offset: type(error) for offset, error in caught.value.errors.items()} == {
        8: PermanentError,
        10: TransientError,
    }


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"received": 1, "rejected": 2, "errors": [{"index": 0, "error": "bad"}]}, BatchTooLargeError),
        ({"received": 1, "rejected": 1, "errors": [{"index": 9, "error": "bad"}]}, BatchTooLargeError),
        ({"received": 1, "rejected": 1, "errors": [{"index": -1, "error": "bad"}]}, BatchTooLargeError),
        ({"received": 1, "rejected": 0, "errors": []}, BatchTooLargeError),
        ({"received": 1}, TransientError),
        ("", TransientError),
    ],
)
async def test_what_it_does_not_take_and_does_not_name_is_not_taken_for_delivered(
    batch: BatchOf, endpoint_of: EndpointOf, body: object, expected: type[Exception]
) -> None:
    answer = Keeping(200, headers={"Eventrec-Rejected": "2"}, body=body)
    handler = HTTPHandler(f"http://127.0.0.1:{endpoint_of(answer).port}/")
    async with opened(handler):
        with pytest.raises(expected):
            await handler.handle(batch(Sample(1), Sample(2)))


@pytest.mark.parametrize("format_", ["cloudevents-structured", "cloudevents-binary"])
async def test_records_sent_singly_are_judged_singly(
    batch: BatchOf, endpoint_of: EndpointOf, format_: HTTPFormat
) -> None:
    keeping = Keeping(204, 400, 204, 413, 204, 503, headers={"Retry-After": "5"})
    handler = HTTPHandler(f"http://127.0.0.1:{endpoint_of(keeping).port}/", format=format_)
    async with opened(handler):
        with pytest.raises(PartialError) as caught:
            await handler.handle(batch(*(Sample(n) for n in range(8))))

    errors = caught.value.errors
    assert {offset: type(error) for offset, error in errors.items()} == {
        1: PermanentError,
        3: BatchTooLargeError,
        5: TransientError,
        6: TransientError,
        7: TransientError,
    }
    assert isinstance(errors[5], TransientError)
    assert errors[5].retry_after == 5
    assert len(keeping.posted) == 6


async def test_pause_before_anything_arrived_is_the_batchs(batch: BatchOf, endpoint_of: EndpointOf) -> None:
    handler = HTTPHandler(f"http://127.0.0.1:{endpoint_of(Keeping(401)).port}/", format="cloudevents-structured")
    async with opened(handler):
        with pytest.raises(PauseError):
            await handler.handle(batch(Sample(1), Sample(2)))


async def test_event_of_several_rows_is_several_cloud_events(batch: BatchOf, endpoint_of: EndpointOf) -> None:
    class Rows(Sample):
        def extra_rows(self) -> Any:
            return [(1, b"a"), (2, b"b"), (3, b"c")]

    event = Rows({"n": 1}, columns=COLUMNS)
    keeping = Keeping(204, 204, 204, 204, 400)
    handler = HTTPHandler(f"http://127.0.0.1:{endpoint_of(keeping).port}/", format="cloudevents-structured")
    async with opened(handler):
        await handler.handle(batch(event))
        with pytest.raises(PartialError) as caught:
            await handler.handle(batch(event, Sample(2), start=1))

    assert set(caught.value.errors) == {1}
    said = [json.loads(each.body) for each in keeping.posted]
    assert [json.loads(each.get("columns", "{}")).get("order id") for each in said] == [1, 2, 3, 1, 2, None]
    assert len({each["id"] for each in said}) == 6
    assert len({each.headers["idempotency-key"] for each in keeping.posted}) == 6


async def test_recorder_keeps_what_is_refused_and_delivers_the_rest(endpoint_of: EndpointOf) -> None:
    """Through the whole recorder: outages, refused records and sizes, and the account balances."""
    arrived: list[int] = []
    answers = iter([503, 429, 413])

    def answer(posted: Any) -> tuple[int, Mapping[str, str], bytes]:
        status = next(answers, None)
        numbers = [each["data"]["n"] for each in json.loads(posted.body)]
        if status is None and 13 in numbers:
            status = 422
        if status is None:
            arrived.extend(numbers)
        return status or 202, {}, b"{}"

    endpoint = endpoint_of(answer)
    retry = {"first": 0.01, "max": 0.05, "attempts": None}
    options = EventRecorderOptions.model_validate({"flush_interval": 0.01, "retry": retry})
    async with EventRecorder(f"http://127.0.0.1:{endpoint.port}/", options=options) as recorder:
        for n in range(50):
            recorder.record(Sample({"n": n}))
        with anyio.fail_after(120):
            assert await recorder.flush()
        (status,) = recorder.status().subscriptions.values()

    assert (status.delivered, status.dead) == (49, 1)
    assert sorted(set(arrived)) == [n for n in range(50) if n != 13]


async def test_what_the_library_logs_about_a_delivery_is_not_one_more_event(endpoint_of: EndpointOf) -> None:
    keeping = Keeping()
    logger = logging.getLogger("httpcore2")
    async with EventRecorder(f"http://127.0.0.1:{endpoint_of(keeping).port}/") as recorder:
        handler = RecordingHandler(recorder)
        logger.addHandler(handler)
        level = logger.level
        logger.setLevel(logging.DEBUG)
        try:
            recorder.record(Sample(1))
            with anyio.fail_after(120):
                assert await recorder.flush()
        finally:
            logger.setLevel(level)
            logger.removeHandler(handler)

    assert recorder.status().offered == 1


# -- URLs


async def test_options_of_a_url_reach_the_endpoint(
    batch: BatchOf, endpoint_of: EndpointOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping = Keeping()
    monkeypatch.setenv("HOOK_SECRET", "whsec_c2VjcmV0")
    monkeypatch.setenv("HOOK_KEY", "k3y")
    port = endpoint_of(keeping).port
    url = (
        f"http://us%20er:p%40ss@127.0.0.1:{port}/a%2Fb/c?format=ndjson&secret=env:HOOK_SECRET&header.X-Key=env:HOOK_KEY"
        "&query=a%3D1%26b%3D%252F&timeout=5s"
    )
    handler = handler_from_url(url)
    assert isinstance(handler, HTTPHandler)
    async with opened(handler):
        await handler.handle(batch(Sample(1)))

    (posted,) = keeping.posted
    assert posted.path == "/a%2Fb/c?a=1&b=%2F"
    assert posted.headers["authorization"] == "Basic dXMgZXI6cEBzcw=="
    assert posted.headers["x-key"] == "k3y"
    assert "webhook-signature" in posted.headers
    assert "p@ss" not in repr(handler)


async def test_token_is_sent_and_never_shown(batch: BatchOf, endpoint_of: EndpointOf) -> None:
    def answer(posted: Any) -> tuple[int, Mapping[str, str], bytes]:
        return 401, {}, f"no {posted.headers['authorization']} at {posted.path}".encode()

    port = endpoint_of(answer).port
    handler = from_url(f"http://127.0.0.1:{port}/services/T00000000000000?token=tok3n&query=key%3Dk3y")
    async with opened(handler):
        with pytest.raises(PauseError) as caught:
            await handler.handle(batch(Sample(1)))

    assert str(caught.value) == f"http://127.0.0.1:{port}: HTTP 401: no *** at /services/***?***"


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://", "host"),
        ("http:///path", "host"),
        ("http://h:0/", "host"),
        ("http://h/a b", "path"),
        ("http://h?format=xml", "format"),
        ("http://h?colour=red", "colour"),
        ("http://h?timeout=0", "timeout"),
        ("http://h?timeout=soon", "timeout"),
        ("http://h?secret=", "secret"),
        ("http://h?secret=env:NOT_SET_ANYWHERE", "secret"),
        ("http://h?secret=whsec_hidden!", "whsec_"),
        ("http://h?header.X-Y=a%0Ahidden", "control character"),
        ("http://h?header.X-Y=hidden%C3%BC", "X-Y"),
        ("http://h?header.=hidden", "name of a header"),
        ("http://u:hidden@h?token=hidden", "Authorization"),
        ("http://h?tls_key=hidden", "tls_cert"),
        ("http://h?source=", "source"),
        ("http://h?query=a%20b", "path"),
        ("http://h\u00fc..x/", "host"),
    ],
)
def test_url_that_cannot_be_served_says_why_and_shows_no_secret(url: str, named: str) -> None:
    with pytest.raises(HandlerURLError, match=named) as caught:
        from_url(url)

    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://h/", "h", "http://h:port/", "//h/", "http://[::1/"])
def test_handler_refuses_what_is_not_a_url_of_http(url: str) -> None:
    with pytest.raises(ValueError, match=r"scheme|URL"):
        HTTPHandler(url)


def test_format_is_one_of_four() -> None:
    with pytest.raises(ValueError, match="cloudevents-batch"):
        HTTPHandler("http://h/", format="xml")  # type: ignore[arg-type]
