from typing import Any

import anyio
import pytest

from eventrec import ReceivedEvent
from eventrec.bridges.asgi import Message, Receive, RecordRequests, Scope, Send, recorder_lifespan
from eventrec.testing.recorded import RecordedEvents


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


def scope(**changed: Any) -> Scope:
    return {
        "type": "http",
        "method": "GET",
        "path": "/orders",
        "query_string": b"token=secret",
        "headers": [],
        **changed,
    }


async def serve(app: Any, scope: Scope) -> list[Message]:
    """What `app` sends."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def hello(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b"hel", "more_body": True})
    await send({"type": "http.response.body", "body": b"lo"})


async def test_request_becomes_an_event_without_its_query(events: RecordedEvents) -> None:
    sent = await serve(RecordRequests(hello, events.recorder), scope())

    (event,) = events
    assert [message["type"] for message in sent] == ["http.response.start"] + ["http.response.body"] * 2
    assert event.type == "http_request"
    assert event.payload.pop("milliseconds") >= 0
    assert event.payload == {
        "method": "GET",
        "path": "/orders",
        "route": None,
        "status": 201,
        "response_bytes": 5,
        "error": None,
    }


async def test_request_id_is_that_of_the_header_and_in_the_context_of_all_events(events: RecordedEvents) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        events.recorder.record(ReceivedEvent("said", b"{}"))
        await hello(scope, receive, send)

    await serve(RecordRequests(app, events.recorder), scope(headers=[(b"X-Request-ID", b"abc")]))
    await serve(RecordRequests(app, events.recorder), scope())

    contexts = [event.context["request_id"] for event in events]
    assert contexts[:2] == ["abc", "abc"]
    assert contexts[2] == contexts[3] != "abc"


@pytest.mark.parametrize("header", [b"", b"x" * 129])
async def test_unreasonable_request_id_is_replaced(events: RecordedEvents, header: bytes) -> None:
    await serve(RecordRequests(hello, events.recorder), scope(headers=[(b"x-request-id", header)]))

    assert len(events[0].context["request_id"]) == 36


async def test_failure_of_the_application_is_recorded_and_goes_on(events: RecordedEvents) -> None:
    async def failing(*_: Any) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await serve(RecordRequests(failing, events.recorder), scope())

    assert (events[0].payload["error"], events[0].payload["status"]) == ("KeyError", None)


async def test_cancelled_request_is_recorded(events: RecordedEvents) -> None:
    async def slow(*_: Any) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0.01):
        await serve(RecordRequests(slow, events.recorder), scope())

    assert events[0].payload["error"] == "cancelled"


async def test_what_is_not_wanted_or_not_http_passes_untouched(events: RecordedEvents) -> None:
    app = RecordRequests(hello, events.recorder, wants=lambda scope: scope["path"] != "/health")

    sent = await serve(app, scope(path="/health")) + await serve(app, {"type": "websocket", "path": "/"})

    assert len(sent) == 6
    assert list(events) == []


async def test_template_of_the_route_is_recorded_where_the_framework_tells(events: RecordedEvents) -> None:
    class Route:
        path = "/orders/{order_id}"

    await serve(RecordRequests(hello, events.recorder), scope(route=Route()))

    assert events[0].payload["route"] == "/orders/{order_id}"


async def test_lifespan_opens_and_closes_the_recorder(events: RecordedEvents) -> None:
    async with recorder_lifespan(events.recorder)(None) as state:
        assert state == {"recorder": events.recorder}
        assert events.recorder.status().state == "open"

    assert events.recorder.status().state == "closed"
