from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec import ReceivedEvent
from eventrec.ingest.elements import BodyError, BodyTooLargeError
from eventrec.ingest.received import EventTooLargeError, LineError
from eventrec.ingest.segment import MESSAGES, SegmentReading, segment_body

SECOND = 1_000_000_000
NOW = 1_767_312_001 * SECOND
UUID_TEXT = "0195f9b5-6f0e-4d6b-9d1a-3c1d6a1f0b7e"


def read(*messages: Any, batch: dict[str, Any] | None = None, **reading: Any) -> list[ReceivedEvent | LineError]:
    body = json.dumps({"batch": messages, **(batch or {})}).encode()
    return SegmentReading(**{"now": NOW, **reading}).events(segment_body(body, is_batch=True, max_elements=1_000))


def one(message: Any, **reading: Any) -> ReceivedEvent:
    (found,) = read(message, **reading)
    assert isinstance(found, ReceivedEvent), found
    return found


def said(type_: str = "track", **members: Any) -> dict[str, Any]:
    return {"type": type_, "userId": "ada", "event": "Order Placed", **members}


def parts(event: ReceivedEvent) -> tuple[str, Any, Any]:
    return event.type, json.loads(event.payload), json.loads(event.context or b"null")


ADA = {"distinct_id": "ada", "user_id": "ada"}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            said(properties={"n": 1}, anonymousId="a-1"),
            ("Order Placed", {"n": 1}, {**ADA, "anonymous_id": "a-1"}),
        ),
        ({"type": "identify", "userId": "ada", "traits": {"email": "a@b"}}, ("$identify", {"email": "a@b"}, ADA)),
        ({"type": "identify", "userId": "ada"}, ("$identify", {}, ADA)),
        (
            {"type": "page", "userId": "ada", "name": "Home", "category": "Docs", "properties": {"url": "/"}},
            ("$pageview", {"name": "Home", "category": "Docs", "url": "/"}, ADA),
        ),
        (
            {"type": "screen", "anonymousId": "a-1", "name": "Home", "category": None},
            ("$screen", {"name": "Home"}, {"distinct_id": "a-1", "anonymous_id": "a-1"}),
        ),
        (
            {"type": "group", "userId": "ada", "groupId": 7, "traits": {"plan": "x"}},
            (
                "$groupidentify",
                {"$group_type": "segment_group", "$group_key": "7", "$group_set": {"plan": "x"}},
                {**ADA, "group_id": "7"},
            ),
        ),
        (
            {"type": "alias", "userId": "ada", "previousId": "a-1"},
            ("$create_alias", {"distinct_id": "ada", "alias": "a-1"}, {**ADA, "previous_id": "a-1"}),
        ),
    ],
)
def test_message_is_the_event_of_the_table(message: dict[str, Any], expected: tuple[str, Any, Any]) -> None:
    assert parts(one(message)) == expected


def test_context_is_that_of_the_message_over_that_of_the_batch() -> None:
    message = said(
        context={"ip": "1.2.3.4", "library": {"name": "x"}, "distinct_id": "mallory", "posthog_kind": "Identify"},
        channel="server",
        integrations={"All": True},
        writeKey="secret",
        receivedAt="2026-01-01",
    )

    _, _, context = parts(one(message, batch={"context": {"ip": "0", "locale": "en"}, "writeKey": "secret"}))

    assert context == {"ip": "1.2.3.4", "locale": "en", "library": {"name": "x"}, "channel": "server", **ADA}


def test_key_and_sending_time_stand_in_the_body() -> None:
    body = segment_body(b'{"writeKey":"k","sentAt":"2026-01-02T00:00:01Z","batch":[]}', is_batch=True, max_elements=1)

    assert (body.write_key, body.sent_at, body.messages) == ("k", NOW, [])
    assert "'k'" not in repr(body)


def test_single_message_takes_its_type_from_its_path() -> None:
    times = b'"sentAt":"2026-01-02T01:00:01Z","timestamp":"2026-01-02T01:00:00Z"'
    text = b'{"userId":"ada","event":"e","writeKey":"k",' + times + b"}"
    body = segment_body(text, is_batch=False, max_elements=1)

    (event,) = SegmentReading(now=NOW, message="track").events(body)

    assert isinstance(event, ReceivedEvent)
    assert (body.write_key, event.type, event.timestamp) == ("k", "e", NOW - SECOND)
    assert b'"k"' not in event.payload + (event.context or b"")


def test_clock_is_put_right_by_the_message_or_the_batch() -> None:
    late = {"timestamp": "2026-01-02T09:00:00Z", "originalTimestamp": "2026-01-02T01:00:00Z"}
    batch = {"sentAt": "2026-01-02T01:00:01Z"}

    assert one(said(**late), batch=batch).timestamp == NOW - SECOND
    assert one(said(**late, sentAt="2026-01-02T01:00:02Z"), batch=batch).timestamp == NOW - 2 * SECOND
    assert one(said(timestamp="2026-01-02T00:00:00.001Z"), batch={"sentAt": "2026-01-02T00:00:00.5Z"}).timestamp == (
        NOW - SECOND + 1_000_000
    )
    assert one(said(timestamp="soon")).timestamp is one(said()).timestamp is None


def test_ids_stay_the_same() -> None:
    at = {"timestamp": "2026-01-02T00:00:00Z"}
    kept = [
        said(messageId=UUID_TEXT),
        said(messageId="ajs-next-1"),
        said(messageId="ajs-next-2"),
        said(**at),
        said(**at),
    ]

    ids = [event.id for event in read(*kept) if isinstance(event, ReceivedEvent)]

    assert ids == [event.id for event in read(*kept) if isinstance(event, ReceivedEvent)]
    assert ids[0] == UUID(UUID_TEXT).bytes
    assert len(set(ids)) == 5
    assert one(said()).id is None


@pytest.mark.parametrize(
    "message",
    [
        1,
        [],
        {},
        {"type": "track"},
        {"type": "track", "event": "e"},
        {"type": "track", "userId": "a"},
        {"type": "track", "userId": "a", "event": ""},
        {"type": "track", "userId": "a", "event": "x" * 300},
        {"type": "track", "userId": {}, "event": "e"},
        {"type": "track", "userId": "", "event": "e"},
        {"type": "unheard of", "userId": "a"},
        {"type": "group", "userId": "a"},
        {"type": "alias", "userId": "a"},
        {"type": "alias", "anonymousId": "a", "previousId": "b"},
        {"type": "track", "userId": "a", "event": "e", "properties": []},
        {"type": "identify", "userId": "a", "traits": 1},
        {"type": "page", "userId": "a", "context": "x"},
    ],
)
def test_what_is_not_a_message_is_refused_alone(message: Any) -> None:
    first, refused, last = read(said(), message, said())

    assert isinstance(refused, LineError)
    assert isinstance(first, ReceivedEvent)
    assert isinstance(last, ReceivedEvent)


def test_message_that_is_too_large_is_refused_alone() -> None:
    large, small = read(said(properties={"x": "y" * 2_000}), said(), max_event_bytes=1_000)

    assert isinstance(large, EventTooLargeError)
    assert isinstance(small, ReceivedEvent)


def test_context_that_all_messages_repeat_is_not_repeated_without_end() -> None:
    found = read(*[said()] * 200, batch={"context": {"x": "y" * 100_000}}, max_total_bytes=1 << 20)

    kept = [event for event in found if isinstance(event, ReceivedEvent)]
    assert len(found) == 200
    assert 0 < sum(len(event.context or b"") for event in kept) <= 1 << 20
    assert isinstance(found[-1], LineError)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"{}",
        b'{"batch":{}}',
        b'{"batch":[],"context":[]}',
        b'{"batch":[],"context":{"a":"\xff"}}',
        b'{"batch":[],"context":{"a":' + b"[" * 300 + b"]" * 300 + b"}}",
        b'{"batch":[],"writeKey":"\xff"}',
        b'{"a":' * 5_000,
    ],
)
def test_other_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(BodyError):
        segment_body(body, is_batch=True, max_elements=10)


def test_batch_has_so_many_messages_at_most() -> None:
    with pytest.raises(BodyTooLargeError):
        segment_body(b'{"batch":[{},{},{}]}', is_batch=True, max_elements=2)


names = st.sampled_from(["userId", "anonymousId", "event", "properties", "traits", "context", "timestamp", "messageId"])
values = st.none() | st.booleans() | st.integers() | st.text() | st.dictionaries(names, st.text()) | st.lists(st.text())


@given(st.sampled_from(MESSAGES), st.dictionaries(names, values))
def test_any_object_is_an_event_or_refused(kind: str, message: dict[str, Any]) -> None:
    for event in read({"type": kind, "userId": "a", "event": "e", **message}, message):
        if isinstance(event, ReceivedEvent):
            parts(event)
