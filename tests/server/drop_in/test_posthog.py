from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_from_bytes
from uuid import UUID, uuid4

import msgspec
import pytest

from eventrec import EventRecorder, EventRecorderOptions, ReceivedEvent
from eventrec.testing.account import assert_conserved
from eventrec_handlers.posthog import PostHogHandler

NOW = "2026-01-02T00:00:01Z"
PATHS = ["/batch", "/batch/", "/capture", "/capture/", "/e", "/e/", "/i/v0/e", "/i/v0/e/", "/i/v0/ai/batch/"]


def said(**members: Any) -> dict[str, Any]:
    return {"event": "opened", "distinct_id": "ada", "properties": {"n": 1}, "uuid": str(uuid4()), **members}


def test_every_path_takes_a_batch_and_one_event(taking: Any) -> None:
    for path in PATHS:
        batch = taking.post(path, {"api_key": taking.token, "batch": [said(), said()], "sent_at": NOW})
        one = taking.post(path, {"api_key": taking.token, **said()})
        assert (batch.status, batch.json()) == (one.status, one.json()) == (200, {"status": 1})

    assert taking.values(3 * len(PATHS)) == [("opened", {"n": 1}, {"distinct_id": "ada"})] * 3 * len(PATHS)
    assert not any(taking.token.encode() in record.payload for record in taking.memory.records)


def test_browser_and_old_clients_are_understood(taking: Any) -> None:
    events = json.dumps([{**said(), "properties": {"token": taking.token}}]).encode()
    packed = gzip.compress(events)
    form = b"data=" + quote_from_bytes(b64encode(events)).encode()
    text, of_form = {"Content_Type": "text/plain"}, {"Content_Type": "application/x-www-form-urlencoded"}

    answers = [
        taking.post("/e/?compression=gzip-js&ver=1.2", packed, **text),
        taking.post("/e/", events, **text),
        taking.post("/e/?ip=1&_=1767312001000", form, **of_form),
        taking.post("/capture/", form + b"&compression=base64", **of_form),
        taking.post("/batch/", packed, Content_Type="application/json", Content_Encoding="gzip"),
        taking.post(f"/batch/?api_key={taking.token}", json.dumps({"batch": [said()]}).encode(), **text),
        taking.post("/batch/", json.dumps({"batch": [said()]}).encode(), Authorization=f"Bearer {taking.token}"),
    ]

    assert [answer.status for answer in answers] == [200] * 7
    assert len(taking.events(7)) == 7


def test_token_is_the_projects_key(taking: Any) -> None:
    for body, status in (
        ({"batch": [said()]}, 401),
        ({"api_key": "phc_unknown", "batch": [said()]}, 401),
        ({"api_key": taking.reader, "batch": [said()]}, 403),
    ):
        answer = taking.post("/batch/", body)
        assert answer.status == status
        assert answer.json()["status"] == status
    assert taking.post("/flags/?v=2", {"api_key": "phc_unknown", "distinct_id": "a"}).status == 401
    assert taking.events(0) == []


def test_one_that_is_no_event_is_refused_and_the_others_are_taken(taking: Any) -> None:
    answer = taking.post("/batch/", {"api_key": taking.token, "batch": [said(), {"event": "nobody's"}, said()]})
    none = taking.post("/batch/", {"api_key": taking.token, "batch": [{}]})
    empty = taking.post("/batch/", {"api_key": taking.token, "batch": []})

    assert (answer.status, none.status, empty.status) == (400, 422, 200)
    assert answer.json()["errors"] == [{"index": 1, "error": "it has no distinct_id: whose it is"}]
    assert answer.json()["detail"] == "1 of 3 events are refused, the others are recorded"
    assert len(taking.events(2)) == 2


@pytest.mark.parametrize(
    ("body", "query", "status"),
    [
        (b"", "", 400),
        (b"{", "", 400),
        (b"[", "", 400),
        (b"\xff\xfe", "", 400),
        (b"[" * 100_000, "", 400),
        (gzip.compress(b" " * 3_000_000, mtime=0), "", 413),
        (b"data=" + quote_from_bytes(b64encode(gzip.compress(b" " * 3_000_000, mtime=0))).encode(), "", 413),
        (b"\x1f\x8b", "", 400),
        (b"\x1f\x8b\x08garbage", "?compression=gzip-js", 400),
        (gzip.compress(b"[]", mtime=0)[:-4], "", 400),
        (b"[" + b"{}," * 200 + b"{}]", "", 413),
        (b"data=NobwRAdghgtgpmAXGA", "?compression=lz64", 415),
    ],
)
def test_hostile_bodies_are_refused(start: Callable[..., Any], body: bytes, query: str, status: int) -> None:
    taking = start(max_unpacked_bytes=2_000_000, max_elements=100)

    answer = taking.post(f"/batch/{query}", body, Authorization=f"Bearer {taking.token}")

    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")


def test_second_protocol_has_a_verdict_for_each_event(taking: Any) -> None:
    good, bad = said(options={"process_person_profile": True}, session_id="s-1"), said(event="")
    head = {"Authorization": f"Bearer {taking.token}", "PostHog_Request_Timestamp": NOW}

    answer = taking.post("/i/v1/analytics/events", {"created_at": NOW, "batch": [good, bad, 1]}, **head)
    none = taking.post("/i/v1/analytics/events", {"batch": [bad]}, **head)

    assert answer.json()["results"][good["uuid"]] == {"result": "ok"}
    assert answer.json()["results"][bad["uuid"]]["result"] == none.json()["results"][bad["uuid"]]["result"] == "drop"
    properties = {"n": 1, "$session_id": "s-1", "$process_person_profile": True}
    assert taking.values(1) == [("opened", properties, {"distinct_id": "ada"})]


@pytest.mark.parametrize("path", ["/flags/?v=2", "/flags/?v=4", "/flags", "/decide/?v=3", "/decide"])
def test_no_feature_flag_is_on(taking: Any, path: str) -> None:
    answer = taking.post(path, {"api_key": taking.token, "distinct_id": "ada"})

    assert answer.status == 200
    assert (answer.json()["flags"], answer.json()["featureFlags"]) == ({}, {})
    assert answer.json()["errorsWhileComputingFlags"] is False


@pytest.mark.parametrize("protocol", ["v0", "v1"])
async def test_our_own_handler_delivers_to_it(taking: Any, protocol: Any, anyio_backend_name: str) -> None:
    handler = PostHogHandler(taking.token, host="127.0.0.1", port=taking.web.port, tls=False, protocol=protocol)
    recorder = EventRecorder(handler, options=EventRecorderOptions(flush_interval=0.01))
    async with recorder:
        recorder.record(ReceivedEvent("opened", b'{"n":1}', id=UUID(int=1).bytes, context=b'{"distinct_id":"ada"}'))
        recorder.record(
            ReceivedEvent("$identify", b'{"email":"a"}', id=UUID(int=2).bytes, context=b'{"distinct_id":"b"}')
        )
        assert await recorder.flush(30)
    assert_conserved(recorder.status(), offered=2)

    assert taking.values(2) == [
        ("opened", {"n": 1}, {"distinct_id": "ada"}),
        ("$identify", {"email": "a"}, {"distinct_id": "b"}),
    ]


def test_event_is_kept_once_by_its_uuid_however_often_it_comes(taking: Any) -> None:
    event = said(uuid="0195f9b5-6f0e-4d6b-9d1a-3c1d6a1f0b7e")
    for _ in range(2):
        assert taking.post("/batch/", {"api_key": taking.token, "batch": [event]}).status == 200

    assert {record.id for record in taking.events(2)} == {event["uuid"]}, "a destination keeps one of an id"
    assert msgspec.json.decode(taking.memory.records[0].payload) == {"n": 1}
