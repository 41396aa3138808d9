"""What a server may answer, and what becomes of the batch."""

from __future__ import annotations

import gzip
import json
import socket
import struct
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import anyio
import pytest

from eventrec import (
    Batch,
    BatchTooLargeError,
    DeliveryError,
    Event,
    HandlerURLError,
    PartialError,
    PauseError,
    PermanentError,
    TransientError,
)
from eventrec.testing.posthog import FakePostHog, Said, Staged
from eventrec_handlers.posthog import PostHogHandler, from_url

pytestmark = pytest.mark.handlers

BatchOf = Callable[..., Batch]
EventOf = Callable[..., Event]
HTML = b"<!doctype html><title>Welcome to the hotel</title>"
TAKEN = b'{"status":1}'


def raw(head: str, body: bytes = b"") -> bytes:
    return head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body


async def failure(posthog: FakePostHog, given: Batch, **options: str) -> DeliveryError:
    """What `handle` raises, within a minute."""
    handler = from_url(posthog.url(**{"timeout": "5s", **options}))
    await handler.open()
    try:
        with anyio.fail_after(60), pytest.raises(DeliveryError) as caught:
            await handler.handle(given)
    finally:
        await handler.close()
    assert posthog.key not in str(caught.value)
    return caught.value


# -- a batch that is taken


@pytest.mark.parametrize(
    "answer",
    [
        Said(200, TAKEN),
        Said(200, b'{"status":"Ok"}'),
        Said(200, b' {"status":1,"quota_limited":[]}\n', (("Content-Type", "text/plain"),)),
        Said(200, b'{"status":1,"quota_limited":null}'),
        Said(200, b'{"status":1,"quota_limited":["recordings"]}'),
        Said(200, gzip.compress(TAKEN, mtime=0), (("Content-Encoding", "gzip"),)),
        Said(204),
        raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b'5\r\n{"sta\r\n7\r\ntus":1}\r\n0\r\n\r\n'),
        raw(f"HTTP/1.0 200 OK\nContent-Length: {len(TAKEN)}", TAKEN),
        raw("HTTP/1.0 200 OK", TAKEN),
    ],
)
async def test_whatever_says_taken_is_success(
    posthog: FakePostHog, batch: BatchOf, event: EventOf, answer: Staged
) -> None:
    posthog.answer_with(answer)
    handler = from_url(posthog.url())

    await handler.open()
    await handler.handle(batch(event({})))
    await handler.close()

    assert len(posthog.requests) == 1


# -- what is not PostHog's protocol is never taken for success


def reset(exchange: BaseHTTPRequestHandler) -> None:
    """Half of an answer, and then the connection is reset."""
    exchange.wfile.write(raw("HTTP/1.1 200 OK\nContent-Length: 100", b'{"status"'))
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.connection.close()


def endless(exchange: BaseHTTPRequestHandler) -> None:
    """An answer that goes on for as long as it is read."""
    exchange.wfile.write(raw("HTTP/1.1 200 OK\nContent-Type: application/json", b'{"status":1,"x":"'))
    try:
        while True:
            exchange.wfile.write(b"x" * 65_536)
    except OSError:
        return


def bomb(exchange: BaseHTTPRequestHandler) -> None:
    """A short answer that would be long."""
    body = gzip.compress(b'{"status":1,"x":"' + b"x" * (64 << 20) + b'"}')
    head = f"HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: {len(body)}"
    try:
        exchange.wfile.write(raw(head, body))
    except OSError:
        return


def silent(exchange: BaseHTTPRequestHandler) -> None:
    """Nothing, until the client has enough of it."""
    exchange.connection.settimeout(20)
    exchange.rfile.read(1)


@pytest.mark.parametrize(
    "answer",
    [
        Said(200, HTML, (("Content-Type", "text/html"),)),
        Said(200, HTML, (("Content-Type", "text/" + "x" * 5_000),)),
        Said(200, b""),
        Said(200, b"Ok"),
        Said(200, b"[]"),
        Said(200, b"{}"),
        Said(200, b'{"status":1'),
        Said(200, b'{"status":true}'),
        Said(200, b'{"status":0}'),
        Said(200, b'{"status":1,"error":"kafka is down"}'),
        Said(200, b'{"type":"validation_error","code":"invalid_payload","detail":"no api_key"}'),
        Said(200, b"[" * 100_000),
        Said(200, b"\xff\xfe"),
        Said(200, gzip.compress(TAKEN, mtime=0)[:-9], (("Content-Encoding", "gzip"),)),
        Said(200, TAKEN, (("Content-Encoding", "gzip"),)),
        raw(f"HTTP/1.1 200 OK\nContent-Length: {len(TAKEN) + 5}", TAKEN),
        raw("HTTP/1.0 200 OK", b'{"status":'),
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0" * 100,
        reset,
        Said(500, HTML),
        Said(502),
        Said(503, "transient error, please retry"),
        Said(429, {"error": "rate limited"}),
        Said(408),
    ],
)
async def test_whatever_else_is_an_outage(posthog: FakePostHog, batch: BatchOf, event: EventOf, answer: Staged) -> None:
    posthog.answer_with(answer)

    raised = await failure(posthog, batch(event({})))

    assert type(raised) is TransientError
    assert len(str(raised)) < 400


async def test_server_that_says_nothing_is_an_outage_after_the_timeout(
    posthog: FakePostHog, batch: BatchOf, event: EventOf
) -> None:
    posthog.answer_with(silent)

    raised = await failure(posthog, batch(event({})), timeout="200ms")

    assert type(raised) is TransientError


@pytest.mark.parametrize(
    "answer",
    [
        endless,
        bomb,
        Said(301, headers=(("Location", "/batch/"),)),
        Said(307, headers=(("Location", "https://elsewhere.example/batch/"),)),
        Said(401, "API key is not valid"),
        Said(402),
        Said(403),
        Said(404, HTML),
        Said(405),
        Said(200, b'{"status":1,"quota_limited":["events"]}'),
        Said(200, b'{"status":1,"quota_limited":["recordings","exceptions"]}'),
        Said(200, b'{"status":1,"quota_limited":"events"}'),
        Said(200, b'{"status":1,"quotaLimited":["events"]}'),
    ],
)
async def test_what_an_operator_has_to_mend_pauses(
    posthog: FakePostHog, batch: BatchOf, event: EventOf, answer: Staged
) -> None:
    """Of a used-up quota PostHog says so with 200, and drops the events: that is not success."""
    posthog.answer_with(answer)

    raised = await failure(posthog, batch(event({})))

    assert type(raised) is PauseError


async def test_redirect_on_the_same_host_is_followed(posthog: FakePostHog, batch: BatchOf, event: EventOf) -> None:
    posthog.answer_with(Said(308, headers=(("Location", "/batch"),)))
    handler = from_url(posthog.url(endpoint="/old/batch"))

    await handler.open()
    await handler.handle(batch(event({})))
    await handler.close()

    assert [request.path for request in posthog.requests] == ["/old/batch", "/batch"]


async def test_demanded_pause_goes_along(posthog: FakePostHog, batch: BatchOf, event: EventOf) -> None:
    posthog.answer_with(Said(503, headers=(("Retry-After", "17"),)))

    raised = await failure(posthog, batch(event({})))

    assert isinstance(raised, TransientError)
    assert raised.retry_after == 17


async def test_batch_that_is_too_large_is_to_be_split(posthog: FakePostHog, batch: BatchOf, event: EventOf) -> None:
    posthog.max_bytes = 1_000

    raised = await failure(posthog, batch(*(event("x" * 500) for _ in range(3))), gzip="false")

    assert type(raised) is BatchTooLargeError


async def test_batch_that_is_refused_is_at_fault(posthog: FakePostHog, batch: BatchOf, event: EventOf) -> None:
    posthog.answer_with(Said(400, "event submitted with an empty event name"))

    assert type(await failure(posthog, batch(event({})))) is PermanentError


async def test_no_error_shows_the_key_that_an_answer_quotes(
    posthog: FakePostHog, batch: BatchOf, event: EventOf
) -> None:
    for status in (200, 400, 401, 503):
        posthog.answer_with(Said(status, f"<p>{posthog.key} is not known"))

        raised = await failure(posthog, batch(event({})))

        assert "*** is not known" in str(raised)


# -- a verdict for each event


def verdicts(**by_name: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda event: by_name[event["event"]]


async def test_each_event_has_its_own_fate(posthog: FakePostHog, batch: BatchOf, event: EventOf) -> None:
    posthog.verdict = verdicts(
        fine={"result": "ok"},
        warned={"result": "warning", "details": "person_processing_disabled"},
        bad={"result": "drop", "details": "invalid_timestamp"},
        later={"result": "retry", "details": "not_persisted"},
        new={"result": "postponed"},
        over={"result": "drop", "details": "billing_limit_exceeded"},
    )
    names = ("fine", "bad", "warned", "later", "new", "over")

    raised = await failure(posthog, batch(*(event({}, kind=name) for name in names), start=7), protocol="v1")

    assert isinstance(raised, PartialError)
    assert {offset: type(error) for offset, error in raised.errors.items()} == {
        8: PermanentError,
        10: TransientError,
        11: TransientError,
        12: TransientError,
    }
    assert "invalid_timestamp" in str(raised.errors[8])
    assert [error.retry_after for error in raised.errors.values() if isinstance(error, TransientError)] == [1, 1, 1]
    assert [event["event"] for event in posthog.events] == ["fine", "warned"]


async def test_used_up_quota_pauses(posthog: FakePostHog, batch: BatchOf, event: EventOf) -> None:
    posthog.verdict = verdicts(fine={"result": "ok"}, over={"result": "drop", "details": "billing_limit_exceeded"})

    raised = await failure(posthog, batch(event({}, kind="fine"), event({}, kind="over")), protocol="v1")

    assert type(raised) is PauseError


async def test_warning_is_a_remark_until_there_is_none(posthog: FakePostHog, batch: BatchOf, event: EventOf) -> None:
    posthog.verdict = verdicts(
        warned={"result": "warning", "details": "person_processing_disabled"}, fine={"result": "ok"}
    )
    handler = from_url(posthog.url(protocol="v1"))
    await handler.open()

    await handler.handle(batch(event({}, kind="warned")))
    remarks = handler.remarks
    await handler.handle(batch(event({}, kind="fine"), start=1))
    await handler.close()

    assert remarks == ("PostHog took events with a warning: person_processing_disabled",)
    assert handler.remarks == ()


@pytest.mark.parametrize(
    "body", [TAKEN, b'{"results":[]}', b'{"results":null}', b"", HTML, b'{"results":{"nobody":{"result":"ok"}}}']
)
async def test_event_without_a_verdict_is_not_delivered(
    posthog: FakePostHog, batch: BatchOf, event: EventOf, body: bytes
) -> None:
    posthog.answer_with(Said(200, body))

    raised = await failure(posthog, batch(event({}), event({})), protocol="v1")

    assert isinstance(raised, TransientError | PartialError)
    if isinstance(raised, PartialError):
        assert raised.errors.keys() == {0, 1}
        assert all(isinstance(error, TransientError) for error in raised.errors.values())


@pytest.mark.parametrize("verdict", [None, [], "ok", {"result": 1}, {"result": ["ok"]}, {"result": {}}, {}])
async def test_verdict_of_another_form_is_none(
    posthog: FakePostHog, batch: BatchOf, event: EventOf, verdict: Any
) -> None:
    given = batch(event({}))
    posthog.answer_with(Said(200, json.dumps({"results": {given.records[0].id: verdict}}).encode()))

    raised = await failure(posthog, given, protocol="v1")

    assert isinstance(raised, PartialError)
    assert isinstance(raised.errors[0], TransientError)


# -- the URL


def test_url_says_where_and_how() -> None:
    handler = from_url("posthog://phc_abc@eu.i.posthog.com")
    own = from_url("posthog://phc_abc@[::1]:8000?tls=false&endpoint=/ingest/batch/&protocol=v1")

    assert repr(handler) == "<PostHogHandler https://eu.i.posthog.com/batch/>"
    assert repr(own) == "<PostHogHandler http://[::1]:8000/ingest/batch/>"
    assert repr(from_url("posthog://phc_abc@?protocol=v1")) == (
        "<PostHogHandler https://us.i.posthog.com/i/v1/analytics/events>"
    )


@pytest.mark.parametrize(
    "url",
    [
        "posthog://",
        "posthog://host",
        "posthog://:phc_abc@host",
        "posthog://phc_abc:secret@host",
        "posthog://phc_abc@host/path",
        "posthog://phc%20abc@host",
        "posthog://phc_%C3%A4@host",
        "posthog://phc_abc@host?colour=red",
        "posthog://phc_abc@host?protocol=v2",
        "posthog://phc_abc@host?tls=perhaps",
        "posthog://phc_abc@host?gzip=9",
        "posthog://phc_abc@host?historical_migration=yes",
        "posthog://phc_abc@host?distinct_id=",
        "posthog://phc_abc@host?distinct_id_field=",
        "posthog://phc_abc@host?endpoint=batch",
        "posthog://phc_abc@host?endpoint=/a%20b",
        "posthog://phc_abc@host?timeout=0",
        "posthog://phc_abc@ho%20st",
    ],
)
def test_url_that_says_something_else_is_refused_without_showing_the_key(url: str) -> None:
    with pytest.raises(HandlerURLError) as caught:
        from_url(url)

    assert "abc" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_key_is_shown_nowhere() -> None:
    handler = PostHogHandler("phc_secret")

    assert "secret" not in f"{handler!r} {handler} {vars(handler)}"
