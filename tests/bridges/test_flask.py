import os
import re
from collections.abc import Iterator, Mapping

import pytest
from flask import Flask, abort, request

from eventrec import EventRecorder, EventStruct, OptionsError
from eventrec.bridges.flask import FlaskRecorder
from eventrec.testing import assert_conserved
from eventrec.testing.recorded import RecordedEvents


class Asked(EventStruct):
    number: int


class ShopRecorder(FlaskRecorder):
    def wants(self) -> bool:
        return request.path != "/health"

    def fields_of(self) -> Mapping[str, object]:
        return {**super().fields_of(), "tenant": request.headers.get("x-tenant")}


events_of_app = ShopRecorder()


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def app(events: RecordedEvents) -> Iterator[Flask]:
    """Made by a factory, as applications are."""
    app = Flask("shop")
    app.config["EVENTREC"] = events.recorder
    events_of_app.init_app(app)

    @app.get("/orders/<int:number>")
    def order(number: int) -> str:
        events_of_app.record(Asked(number))
        return "ordered"

    @app.get("/health")
    def health() -> str:
        events_of_app.record(Asked(0))
        return "well"

    @app.get("/fails")
    def fails() -> str:
        raise ZeroDivisionError

    @app.get("/forbidden")
    def forbidden() -> str:
        abort(403)

    @app.get("/streams")
    def streams() -> Iterator[bytes]:
        return iter([b"a", b"b"])

    yield app
    with app.app_context():
        status = events_of_app.close()
    assert_conserved(status, offered=len(events))


def test_request_becomes_an_event_without_its_query_and_its_id_is_in_the_context_of_all(
    app: Flask, events: RecordedEvents
) -> None:
    app.test_client().get("/orders/7?token=secret", headers={"X-Request-ID": "abc", "X-Tenant": "a"})

    asked, served = events
    assert served.payload.pop("milliseconds") >= 0
    assert (asked.type, asked.payload) == ("asked", {"number": 7})
    assert served.type == "http_request"
    assert served.payload == {
        "method": "GET",
        "path": "/orders/7",
        "route": "/orders/<int:number>",
        "status": 200,
        "response_bytes": len("ordered"),
        "error": None,
    }
    assert asked.context == served.context == {"request_id": "abc", "tenant": "a"}


def test_what_becomes_of_a_request_is_told(app: Flask, events: RecordedEvents) -> None:
    client = app.test_client()
    for path in ("/fails", "/forbidden", "/nowhere", "/streams", "/health"):
        client.get(path)

    told = [(event.payload["path"], event.payload["status"], event.payload["error"]) for event in events[:4]]
    assert told == [
        ("/fails", 500, "ZeroDivisionError"),
        ("/forbidden", 403, None),
        ("/nowhere", 404, None),
        ("/streams", 200, None),
    ]
    assert events[3].payload["response_bytes"] is None
    assert [event.type for event in events[4:]] == ["asked"]
    ids = [event.context["request_id"] for event in events]
    assert len(set(ids)) == 5
    assert all(re.fullmatch(r"[0-9a-f-]{36}", id_) for id_ in ids)


def test_nothing_is_opened_before_the_first_request(app: Flask, events: RecordedEvents) -> None:
    before = events.recorder.status().state

    app.test_client().get("/health")

    assert (before, events.recorder.status().state) == ("new", "open")


def test_applications_have_recorders_of_their_own(app: Flask) -> None:
    other = Flask("other")
    recorder = EventRecorder("memory:")
    FlaskRecorder(other, recorder=recorder)

    with other.app_context():
        assert events_of_app.recorder is recorder
        events_of_app.close()
    with app.app_context():
        assert events_of_app.recorder is not recorder


def test_application_that_says_no_destination_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EVENTREC_")]:
        monkeypatch.delenv(name)

    with pytest.raises(OptionsError, match="nothing says where events go"):
        FlaskRecorder(Flask("shop"))


def test_application_without_the_extension_is_told_what_to_call() -> None:
    with Flask("shop").app_context(), pytest.raises(RuntimeError, match=re.escape("call FlaskRecorder.init_app(app)")):
        _ = events_of_app.recorder
