from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec import ReceivedEvent
from eventrec.ingest.posthog_batch import PostHogReading
from eventrec.ingest.posthog_body import posthog_body
from eventrec.ingest.received import EventTooLargeError, LineError
from eventrec.testing.conformance.log import Log
from eventrec_handlers.posthog.events import Persons
from eventrec_handlers.posthog.requests import Envelope, encoded

SECOND = 1_000_000_000
HOUR = 3_600 * SECOND
NOW = 1_767_312_001 * SECOND
"""2026-01-02T00:00:01Z."""

UUID_TEXT = "0195f9b5-6f0e-4d6b-9d1a-3c1d6a1f0b7e"


def read(*events: Any, **reading: Any) -> list[ReceivedEvent | LineError]:
    elements = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    return PostHogReading(**{"now": NOW, **reading}).events(elements)


def one(event: Any, **reading: Any) -> ReceivedEvent:
    (found,) = read(event, **reading)
    assert isinstance(found, ReceivedEvent), found
    return found


def said(**members: Any) -> dict[str, Any]:
    return {"event": "opened", "distinct_id": "ada", "properties": {"n": 1}, **members}


def context(event: ReceivedEvent) -> Any:
    return None if event.context is None else json.loads(event.context)


def payload(event: ReceivedEvent) -> Any:
    return json.loads(event.payload)


def test_event_is_its_name_properties_and_person() -> None:
    event = one(said(uuid=UUID_TEXT, timestamp="2026-01-01T00:00:00.123456789Z"))

    assert (event.type, event.table, event.id) == ("opened", "events", UUID(UUID_TEXT).bytes)
    assert (payload(event), context(event)) == ({"n": 1}, {"distinct_id": "ada"})
    assert event.timestamp == 1_767_225_600_123_456_789


def test_values_keep_their_bytes() -> None:
    event = one(b'{"event":"e","distinct_id":"a","properties":{"big":123456789012345678901234567890,"f":1.0e0}}')

    assert event.payload == b'{"big":123456789012345678901234567890,"f":1.0e0}'


@pytest.mark.parametrize(
    ("members", "who"),
    [
        ({"distinct_id": 7}, "7"),
        ({"distinct_id": True}, "true"),
        ({"distinct_id": None, "$distinct_id": "bob"}, "bob"),
        ({"distinct_id": None, "properties": {"distinct_id": "eve"}}, "eve"),
    ],
)
def test_distinct_id_is_found_where_clients_put_it(members: dict[str, Any], who: str) -> None:
    assert context(one(said(**members)))["distinct_id"] == who


def test_set_and_set_once_of_an_event_are_properties() -> None:
    event = one(said(**{"$set": {"a": 1}, "$set_once": {"b": 2}, "properties": {"$set": {"a": 0, "c": 3}}}))

    assert payload(event) == {"$set": {"a": 1, "c": 3}, "$set_once": {"b": 2}}


def test_identify_says_something_of_a_person() -> None:
    event = one(said(event="$identify", **{"$set": {"email": "a@b"}, "$set_once": {"first": 1}}))

    assert (event.type, payload(event)) == ("$identify", {"email": "a@b"})
    assert context(event) == {"n": 1, "$set_once": {"first": 1}, "distinct_id": "ada"}


def test_set_that_sets_once_is_kept_whole() -> None:
    plain = one(said(event="$set", **{"$set": {"a": 1}}))
    once = one(said(event="$set", **{"$set_once": {"a": 1}}))

    assert (payload(plain), context(plain)) == ({"a": 1}, {"n": 1, "distinct_id": "ada"})
    assert payload(once) == {"n": 1, "$set_once": {"a": 1}}
    assert context(once) == {"distinct_id": "ada", "posthog_kind": "Append"}


@pytest.mark.parametrize("name", ["$create_alias", "$groupidentify", "$pageview", "$ai_generation"])
def test_other_events_of_posthog_are_events(name: str) -> None:
    event = one(said(event=name, properties={"alias": "b", "$group_set": {"x": 1}}))

    assert (event.type, payload(event)) == (name, {"alias": "b", "$group_set": {"x": 1}})


def test_key_is_not_kept_wherever_it_stands() -> None:
    keys = {"token": "phc_1", "api_key": "phc_1"}
    event = one(said(**keys, properties={**keys, "n": 1}), key="phc_1")
    other = one(said(properties={"token": "of the application"}), key="phc_1")

    assert b"phc_1" not in event.payload + (event.context or b"")
    assert payload(other) == {"token": "of the application"}


@pytest.mark.parametrize(
    ("ahead", "shift"),
    [(0, 0), (4, 0), (-4, 0), (3_600, -3_600), (-3_600, 3_600), (86_400 * 365, -86_400 * 365)],
)
def test_clock_of_a_client_is_put_right_by_when_it_sent(ahead: int, shift: int) -> None:
    at = NOW - HOUR + ahead * SECOND
    event = said(timestamp=f"{at // SECOND}", properties={})

    assert one(event, sent_at=NOW + ahead * SECOND).timestamp == at + shift * SECOND
    assert one(said(timestamp=f"{at // SECOND}", properties={"$ignore_sent_at": True}), sent_at=0).timestamp == at


def test_event_of_a_clock_that_makes_no_sense_is_now() -> None:
    assert one(said(timestamp="2026-01-01"), sent_at=0).timestamp == NOW


def test_offset_counts_back_from_now() -> None:
    assert one(said(offset=1_500)).timestamp == NOW - 1_500_000_000
    assert one(said(offset=-1)).timestamp is one(said(offset="x")).timestamp is None


@pytest.mark.parametrize("timestamp", ["", "yesterday", None, {}, "9999-01-01", 1e300])
def test_event_without_a_time_that_can_be_read_is_stamped_later(timestamp: Any) -> None:
    assert one(said(timestamp=timestamp)).timestamp is None


def test_ids_stay_the_same() -> None:
    at = "2026-01-01T00:00:00Z"
    kept = [
        said(uuid=UUID_TEXT.upper()),
        said(uuid="not one"),
        said(properties={"$insert_id": "a"}),
        said(timestamp=at),
        said(timestamp=at),
    ]

    ids = [event.id for event in read(*kept) if isinstance(event, ReceivedEvent)]

    assert ids == [event.id for event in read(*kept) if isinstance(event, ReceivedEvent)]
    assert ids[0] == UUID(UUID_TEXT).bytes
    assert len(set(ids)) == 5, "two equal ones of a batch are two"
    assert one(said()).id is None, "nothing tells it from an equal one"
    assert one(said(timestamp=at, sent_at=1, api_key="a")).id == one(said(timestamp=at, sent_at=2)).id


@pytest.mark.parametrize(
    "element",
    [
        b"1",
        b"{",
        b"{}",
        b'{"event":"e"}',
        b'{"event":"e","distinct_id":""}',
        b'{"event":"e","distinct_id":" "}',
        b'{"event":"","distinct_id":"a"}',
        b'{"event":1,"distinct_id":"a"}',
        rb'{"event":"a\u0000b","distinct_id":"a"}',
        b'{"event":"' + b"x" * 300 + b'","distinct_id":"a"}',
        b'{"event":"e","distinct_id":"a","properties":[]}',
        b'{"event":"e","distinct_id":"a","$set":[]}',
        b'{"event":"$identify","distinct_id":"a","properties":{"$set":1}}',
        b'{"event":"e","distinct_id":"a","properties":{"x":"\xff"}}',
        b'{"event":"e","distinct_id":"a","properties":{"x":' + b"[" * 300 + b"]" * 300 + b"}}",
    ],
)
def test_what_is_not_an_event_is_refused_alone(element: bytes) -> None:
    first, refused, last = read(said(), element, said())

    assert isinstance(refused, LineError)
    assert isinstance(first, ReceivedEvent)
    assert isinstance(last, ReceivedEvent)


def test_event_that_is_too_large_is_refused_alone() -> None:
    large, small = read(said(properties={"x": "y" * 2_000}), said(), max_event_bytes=1_000)

    assert isinstance(large, EventTooLargeError)
    assert isinstance(small, ReceivedEvent)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["event", "distinct_id", "properties", "timestamp", "uuid", "$set", "$set_once", "offset", "x"])


@given(st.dictionaries(names, json_values | st.dictionaries(names, json_values)))
def test_any_object_is_an_event_or_refused(element: dict[str, Any]) -> None:
    for event in read({"event": "$set", "distinct_id": "a", **element}, element, sent_at=NOW + HOUR):
        if isinstance(event, ReceivedEvent):
            payload(event)
            context(event)


# -- backwards: what the handler for PostHog sends


def sent(*events: ReceivedEvent) -> list[ReceivedEvent]:
    return [
        ReceivedEvent("opened", b'{"n":1,"deep":{"a":[1,2.5,null]}}', NOW - 123_456_789, id=UUID(UUID_TEXT).bytes),
        *events,
    ]


PERSON = b'{"distinct_id":"ada"}'
BACK = [
    ReceivedEvent("opened", b'{"n":1,"deep":{"a":[1,2.5,null]}}', NOW - 1, context=PERSON),
    ReceivedEvent("opened", b"{}", NOW - 123_456_789, context=b'{"session_id":"s-1","distinct_id":"ada"}'),
    ReceivedEvent("opened", b'{"session_id":"s-2"}', NOW, context=None),
    ReceivedEvent("nobody's", b'{"a":1}', NOW),
    ReceivedEvent("$identify", b'{"email":"a@b"}', NOW, context=b'{"x":1,"session_id":"s","distinct_id":"ada"}'),
    ReceivedEvent("$set", b'{"email":"a@b"}', NOW, context=PERSON),
    ReceivedEvent("$set", b'{"email":"a@b"}', NOW, context=b'{"distinct_id":"ada","posthog_kind":"Append"}'),
    ReceivedEvent("$create_alias", b'{"alias":"b"}', NOW, context=PERSON),
]


async def delivered(events: Iterable[ReceivedEvent]) -> bytes:
    log = Log(*events)
    envelope = Envelope(protocol="v0", key="phc_1", gzip=True, historical="auto")
    found = await encoded(log.batch(0), envelope, Persons(), now=NOW / SECOND)
    return gzip.decompress(found.request(now=NOW / SECOND).body)


async def test_what_the_handler_sends_comes_back() -> None:
    events = [ReceivedEvent(**{**vars_of(event), "id": UUID(int=number).bytes}) for number, event in enumerate(BACK)]
    first = posthog_body(await delivered(events), query={}, max_elements=100)
    once = PostHogReading(now=NOW, sent_at=first.sent_at, key=first.key).events(first.elements)

    again = posthog_body(await delivered(once), query={}, max_elements=100)  # type: ignore[arg-type]

    assert first.key == "phc_1"
    twice = PostHogReading(now=NOW, sent_at=again.sent_at, key=again.key).events(again.elements)
    assert twice == once, "what was sent is the same event at every hop"
    for event, kept in zip(events, once, strict=True):
        assert isinstance(kept, ReceivedEvent)
        assert (kept.type, kept.timestamp) == (event.type, event.timestamp)
        if event.context != BACK[6].context and event.type != "opened":
            assert (payload(kept), context(kept)) == (payload(event), context(event))
    assert [(payload(kept), context(kept)) for kept in once[:2] if isinstance(kept, ReceivedEvent)] == [
        (payload(event), context(event)) for event in events[:2]
    ]


def vars_of(event: ReceivedEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in ("type", "payload", "timestamp", "table", "context")}
