"""Django as it is, in this process: its settings are made once, and each test has a recorder of its own in them."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import django
import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client
from django.urls import path

if not settings.configured:
    settings.configure(
        SECRET_KEY="of a test",  # noqa: S106 - Django wants one
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["eventrec.bridges.django"],
        EVENTREC={"to": "memory:"},
        DATABASES={},
        USE_TZ=True,
        LOGGING_CONFIG=None,
    )
    django.setup()

from django.apps import apps

from eventrec import EventStruct
from eventrec.bridges.django import close, recorder
from eventrec.bridges.django.asgi import get_asgi_application, with_lifespan
from eventrec.bridges.django.middleware import RecordRequests
from eventrec.bridges.process_recorder import ProcessRecorder
from eventrec.testing import assert_conserved
from eventrec.testing.recorded import RecordedEvents


class Asked(EventStruct):
    number: int


class RecordShop(RecordRequests):
    def wants(self, request: HttpRequest) -> bool:
        return request.path != "/health"

    def fields_of(self, request: HttpRequest) -> Mapping[str, object]:
        return {**super().fields_of(request), "tenant": request.headers.get("x-tenant")}


def order(request: HttpRequest, number: int) -> HttpResponse:
    recorder().record(Asked(number))
    return HttpResponse("ordered")


async def order_later(request: HttpRequest, number: int) -> HttpResponse:
    recorder().record(Asked(number))
    return HttpResponse("ordered")


def fails(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


def streams(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse([b"a", b"b"])


urlpatterns = [
    path("orders/<int:number>", order),
    path("later/<int:number>", order_later),
    path("health", order, {"number": 0}),
    path("fails", fails),
    path("streams", streams),
]


@pytest.fixture(autouse=True)
def middleware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MIDDLEWARE", [f"{__name__}.RecordShop"], raising=False)
    monkeypatch.setattr("django.utils.module_loading.import_string", lambda _: RecordShop, raising=False)
    monkeypatch.setattr("django.core.handlers.base.import_string", lambda _: RecordShop)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordedEvents]:
    events = RecordedEvents()
    monkeypatch.setattr(apps.get_app_config("eventrec"), "process_recorder", ProcessRecorder(events.recorder))
    yield events
    assert_conserved(close(), offered=len(events))


def test_request_becomes_an_event_without_its_query_and_its_id_is_in_the_context_of_all(events: RecordedEvents) -> None:
    Client().get("/orders/7?token=secret", headers={"X-Request-ID": "abc", "X-Tenant": "a"})

    asked, served = events
    assert served.payload.pop("milliseconds") >= 0
    assert (asked.type, asked.payload) == ("asked", {"number": 7})
    assert served.type == "http_request"
    assert served.payload == {
        "method": "GET",
        "path": "/orders/7",
        "route": "orders/<int:number>",
        "status": 200,
        "response_bytes": len("ordered"),
        "error": None,
    }
    assert asked.context == served.context == {"request_id": "abc", "tenant": "a"}


def test_what_becomes_of_a_request_is_told(events: RecordedEvents) -> None:
    client = Client(raise_request_exception=False)
    for where in ("/fails", "/nowhere", "/streams", "/health"):
        client.get(where)

    told = [(event.payload["path"], event.payload["status"], event.payload["error"]) for event in events[:3]]
    assert told == [("/fails", 500, "ZeroDivisionError"), ("/nowhere", 404, None), ("/streams", 200, None)]
    assert events[2].payload["response_bytes"] is None
    assert [event.type for event in events[3:]] == ["asked"]
    ids = [event.context["request_id"] for event in events]
    assert len(set(ids)) == 4
    assert all(re.fullmatch(r"[0-9a-f-]{36}", id_) for id_ in ids)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("view", ["later", "orders"])
async def test_under_asgi_views_of_both_kinds_have_the_context_of_their_request(
    events: RecordedEvents, view: str
) -> None:
    await AsyncClient().get(f"/{view}/7", headers={"X-Request-ID": "abc"})

    asked, served = events
    assert served.payload["status"] == 200
    assert asked.context == served.context == {"request_id": "abc", "tenant": None}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_lifespan_of_the_server_opens_and_closes_the_recorder(events: RecordedEvents) -> None:
    states: list[str] = []
    asked = iter(["lifespan.startup", "lifespan.shutdown"] * 2)

    async def receive() -> dict[str, Any]:
        states.append(events.recorder.status().state)
        return {"type": next(asked)}

    async def send(message: Mapping[str, Any]) -> None:
        states.append(message["type"])

    for _ in range(2):  # as tests of an application do, in one process
        await get_asgi_application()({"type": "lifespan"}, receive, send)
        states.append(events.recorder.status().state)

    rest = ["lifespan.startup.complete", "open", "lifespan.shutdown.complete", "closed"]
    assert states == ["new", *rest, "closed", *rest]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_other_scopes_go_to_the_application() -> None:
    seen: list[str] = []

    async def app(scope: Mapping[str, Any], *_: object) -> None:
        seen.append(scope["type"])

    await with_lifespan(app)({"type": "websocket"}, None, None)  # type: ignore[arg-type]  # it asks and says nothing

    assert seen == ["websocket"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"to": "memory:", "lgo": 1}, "unknown option 'lgo' in settings.EVENTREC"),
        ({"to": "memory:", "batch_rows": 0}, "options in settings.EVENTREC: batch_rows: "),
        ({"to": "nosuch:"}, "nosuch"),
        ({}, "nothing says where events go"),
    ],
)
def test_wrong_setting_is_djangos_own_error(setting: object, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "EVENTREC", setting)

    with pytest.raises(ImproperlyConfigured, match=said) as caught:
        apps.get_app_config("eventrec").ready()

    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("Traceback") == 1
    assert shown.splitlines()[-1].endswith(str(caught.value))
