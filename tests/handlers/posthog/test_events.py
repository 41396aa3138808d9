"""What a record becomes, as it arrives at a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated, Any
from uuid import UUID

import pytest

from eventrec import (
    Batch,
    Column,
    ColumnSchema,
    ColumnType,
    Event,
    EventModel,
    PermanentError,
    ReceivedEvent,
    TransientError,
)
from eventrec.testing.posthog import FakePostHog, Said
from eventrec_handlers.posthog import PostHogHandler, from_url
from eventrec_handlers.posthog.events import Persons, rfc3339, sendables, uuid_of
from eventrec_handlers.posthog.requests import SDK

pytestmark = pytest.mark.handlers

BatchOf = Callable[..., Batch]
DAY = 86_400
SESSION = "0195f9b5-6f0e-4d6b-9d1a-3c1d6a1f0b7e"


def received(type_: str, payload: Any, **context: Any) -> ReceivedEvent:
    return ReceivedEvent(
        type_,
        json.dumps(payload).encode(),
        1_743_643_210_557_958_200,
        id=UUID("c9941c5d-c2fe-8501-8000-000000000000").bytes,
        context=json.dumps(context).encode() if context else None,
    )


async def sent(posthog: FakePostHog, given: Batch, **options: str) -> list[dict[str, Any]]:
    """The events that arrive when `given` is handled."""
    handler = from_url(posthog.url(**options))
    await handler.open()
    try:
        await handler.handle(given)
    finally:
        await handler.close()
    return posthog.events


# -- the three kinds


async def test_append_carries_its_properties_and_its_session(posthog: FakePostHog, batch: BatchOf) -> None:
    given = received("viewer_started", {"a": 1, "b": [None]}, distinct_id="me", session_id=SESSION)

    assert await sent(posthog, batch(given)) == [
        {
            "event": "viewer_started",
            "distinct_id": "me",
            "timestamp": "2025-04-03T01:20:10.557958200Z",
            "uuid": "c9941c5d-c2fe-8501-8000-000000000000",
            "properties": {"a": 1, "b": [None], "session_id": SESSION},
        }
    ]


async def test_identify_sets_properties_of_the_person_beside_its_session(posthog: FakePostHog, batch: BatchOf) -> None:
    given = received("$identify", {"rerun_version": "0.23"}, distinct_id="me", session_id=SESSION)

    assert await sent(posthog, batch(given)) == [
        {
            "event": "$identify",
            "distinct_id": "me",
            "timestamp": "2025-04-03T01:20:10.557958200Z",
            "uuid": "c9941c5d-c2fe-8501-8000-000000000000",
            "properties": {"session_id": SESSION},
            "$set": {"rerun_version": "0.23"},
        }
    ]


async def test_set_person_properties_has_no_session(posthog: FakePostHog, batch: BatchOf) -> None:
    given = received("$set", {"email": "me@example.org"}, distinct_id="me", session_id=SESSION, host="here")

    assert await sent(posthog, batch(given)) == [
        {
            "event": "$set",
            "distinct_id": "me",
            "timestamp": "2025-04-03T01:20:10.557958200Z",
            "uuid": "c9941c5d-c2fe-8501-8000-000000000000",
            "properties": {"$set": {"email": "me@example.org"}},
        }
    ]


async def test_person_without_properties_has_none(posthog: FakePostHog, batch: BatchOf) -> None:
    identify, person = await sent(posthog, batch(received("$identify", None), received("$set", None)), distinct_id="me")

    assert identify["$set"] == person["properties"]["$set"] == {}


async def test_context_may_say_the_kind_in_spite_of_the_type(posthog: FakePostHog, batch: BatchOf) -> None:
    given = (
        received("$set", {"a": 1}, distinct_id="me", posthog_kind="Append"),
        received("signed_up", {"a": 1}, distinct_id="me", posthog_kind="Identify"),
        received("other", {"a": 1}, distinct_id="me", posthog_kind="Alias"),
    )

    append, identify, other = await sent(posthog, batch(*given))

    assert (append["event"], append["properties"]) == ("$set", {"a": 1})
    assert (identify["event"], identify["$set"]) == ("$identify", {"a": 1})
    assert (other["event"], other["properties"]) == ("other", {"a": 1})


# -- properties


async def test_second_protocol_has_the_person_among_the_properties(posthog: FakePostHog, batch: BatchOf) -> None:
    given = (
        received("$identify", {"a": 1}, distinct_id="me", session_id="s"),
        received("$set", {"a": 1}, distinct_id="me", session_id="s"),
        received("anonymous", {}, session_id="s"),
    )

    # One request each: this protocol refuses a uuid that it is given twice.
    for each in given:
        await sent(posthog, batch(each), protocol="v1")

    identify, person, anonymous = posthog.events
    assert identify["properties"] == {"session_id": "s", "$set": {"a": 1}}
    assert person["properties"] == {"$set": {"a": 1}}
    assert anonymous["properties"] == {"session_id": "s"}
    assert anonymous["options"] == {"process_person_profile": False}


async def test_other_fields_of_the_context_are_properties_that_hide_none(posthog: FakePostHog, batch: BatchOf) -> None:
    given = batch(received("done", {"host": "mine", "x": 1}), context=b'{"host":"theirs","service":"shop"}')

    (event,) = await sent(posthog, given, distinct_id="me")

    assert event["properties"] == {"host": "mine", "x": 1, "service": "shop"}


@pytest.mark.parametrize("written", ['"session_id"', '"session\\u005fid"'])
def test_session_of_the_context_is_the_only_one(batch: BatchOf, written: str) -> None:
    payload = b'{"a":1.50,%b:"a trick","z":{"session_id":"kept"}}' % written.encode()
    given = ReceivedEvent("done", payload, context=b'{"distinct_id":"me","session_id":"s"}')
    (request,) = batch(given).row_inserts()

    (event,) = sendables(request, Persons(), {})

    assert event.properties == b'"a":1.50,"z":{"session_id":"kept"},"session_id":"s"'


@pytest.mark.parametrize("payload", [None, [], [1, {"a": 2}], "text", 0, True])
async def test_payload_that_is_not_an_object_is_a_property(posthog: FakePostHog, batch: BatchOf, payload: Any) -> None:
    (event,) = await sent(posthog, batch(received("done", payload)), distinct_id="me")

    assert event["properties"] == {"payload": payload}


class Paid(EventModel, table="payments"):
    amount: float
    customer: Annotated[str, Column()]
    coupon: Annotated[str | None, Column()] = None


async def test_columns_and_table_are_properties(posthog: FakePostHog, batch: BatchOf) -> None:
    (event,) = await sent(posthog, batch(Paid(amount=1.5, customer="c-1")), distinct_id="me")

    assert event["properties"] == {"amount": 1.5, "customer": "c-1", "table": "payments"}


async def test_record_of_several_rows_is_several_events(posthog: FakePostHog, batch: BatchOf) -> None:
    schema = (ColumnSchema("region", ColumnType.INT64), ColumnSchema("detail", ColumnType.JSON))
    given = ReceivedEvent("moved", b'{"by":1}', columns=schema, rows=[(1, {"a": []}), (2, None)])

    first, second = await sent(posthog, batch(given), distinct_id="me")

    assert first["properties"] == {"by": 1, "region": 1, "detail": {"a": []}}
    assert second["properties"] == {"by": 1, "region": 2}
    assert first["uuid"] != second["uuid"]


async def test_events_arrive_in_the_order_of_the_log_whatever_their_shapes(
    posthog: FakePostHog, batch: BatchOf, event: Callable[..., Event]
) -> None:
    given = batch(*(event({"n": n}, kind=f"kind_{n % 3}", into=f"table_{n % 2}") for n in range(250)))

    arrived = await sent(posthog, given, distinct_id="me")

    assert [each["properties"]["n"] for each in arrived] == list(range(250))


# -- whose it is


async def test_event_of_no_person_gets_no_profile(posthog: FakePostHog, batch: BatchOf) -> None:
    """As the official client has it; but its made-up id stays the same when the event is sent again."""
    for _ in range(2):
        await sent(posthog, batch(received("done", {"a": 1})))

    assert posthog.events[0] == posthog.events[1]
    assert posthog.events[0]["distinct_id"] == posthog.events[0]["uuid"]
    assert posthog.events[0]["properties"] == {"a": 1, "$process_person_profile": False}


@pytest.mark.parametrize(("said", "id_"), [("me", "me"), (42, "42"), (-(10**30), "-1" + "0" * 30), (None, "default")])
async def test_person_is_who_the_context_says(posthog: FakePostHog, batch: BatchOf, said: Any, id_: str) -> None:
    (event,) = await sent(posthog, batch(received("done", {}, distinct_id=said)), distinct_id="default")

    assert (event["distinct_id"], event["properties"]) == (id_, {})


async def test_person_may_stand_in_another_field(posthog: FakePostHog, batch: BatchOf) -> None:
    given = batch(received("done", {}, user_id="me", distinct_id="not me"))

    (event,) = await sent(posthog, given, distinct_id_field="user_id")

    assert (event["distinct_id"], event["properties"]) == ("me", {"distinct_id": "not me"})


# -- what cannot be sent


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (ReceivedEvent("done", b'{"a":'), "not JSON"),
        (ReceivedEvent("done", b'{"a":1}}'), "not JSON"),
        (ReceivedEvent("done", b'{"a":1},"api_key":"theirs"'), "not JSON"),
        (ReceivedEvent("done", b'{"a":"\xff"}'), "not JSON"),
        (ReceivedEvent("done", b'"\\ud800"'), "not JSON"),
        (ReceivedEvent("done", b""), "not JSON"),
        (ReceivedEvent("done", b"[" * 100_000), "nested too deeply"),
        (ReceivedEvent("done", b'{"a":' * 100_000), "nested too deeply"),
        (received("done", {}, distinct_id=""), "'distinct_id'"),
        (received("done", {}, distinct_id=" "), "'distinct_id'"),
        (received("done", {}, distinct_id=1.5), "'distinct_id'"),
        (received("done", {}, distinct_id=["me"]), "'distinct_id'"),
        (received("$identify", {}), "no distinct id"),
        (received("$set", {}), "no distinct id"),
        (received("$set", [1], distinct_id="me"), "must be an object"),
        (received("$identify", "x", distinct_id="me"), "must be an object"),
    ],
)
async def test_record_that_cannot_be_an_event_is_named_before_anything_is_sent(
    posthog: FakePostHog, batch: BatchOf, event: ReceivedEvent, why: str
) -> None:
    with pytest.raises(PermanentError, match=why) as caught:
        await sent(posthog, batch(received("fine", {}), event, received("fine", {}), start=10))

    assert caught.value.records.keys() == {11}
    assert why in caught.value.records[11]
    assert posthog.requests == []


@pytest.mark.parametrize("context", [b"[]", b"null", b'{"a":1', b'{"a":"\xff"}', b'{"a":' * 100_000])
def test_context_that_is_none_is_a_fault_of_its_record_alone(batch: BatchOf, context: bytes) -> None:
    """`record()` lets none in; a log that is damaged, or of another version, may hold one."""
    (fine,) = batch(received("done", {}, distinct_id="me")).row_inserts()
    row = fine.rows[0]
    request = replace(fine, columns=tuple(zip(row, (*row[:4], context), strict=True)), offsets=[0, 1])
    refused: dict[int, str] = {}

    events = list(sendables(request, Persons(), refused))

    assert [event.offset for event in events] == [0]
    assert refused.keys() == {1}
    assert "context is not a JSON object" in refused[1]


# -- ids and times


def test_id_that_is_a_uuid_is_the_uuid_and_any_other_gives_a_valid_one() -> None:
    odd = "00000000-0000-0000-0000-000000000001"

    assert uuid_of("c9941c5d-c2fe-8501-8000-000000000000") == "c9941c5d-c2fe-8501-8000-000000000000"
    assert uuid_of(odd) == uuid_of(odd) == "90e697d1-6f13-57d8-a485-964772748e1a", "a uuid is for ever"
    assert UUID(uuid_of(odd)).version == 5


async def test_event_with_an_odd_id_is_not_dropped(posthog: FakePostHog, batch: BatchOf) -> None:
    given = ReceivedEvent("done", b"{}", id=bytes(range(16)))

    await sent(posthog, batch(given), distinct_id="me")

    assert (len(posthog.events), posthog.dropped) == (1, [])


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (1_743_643_210_557_958_200, "2025-04-03T01:20:10.557958200Z"),
        (-(2**63), "1677-09-21T00:12:43.145224192Z"),
        (2**63 - 1, "2262-04-11T23:47:16.854775807Z"),
    ],
)
def test_time_is_exact_to_the_nanosecond(nanoseconds: int, text: str) -> None:
    assert rfc3339(nanoseconds) == text


@pytest.mark.parametrize(("ages", "is_historical"), [((49, 72), True), ((49, 47), False), ((0,), False)])
async def test_batch_of_old_events_alone_is_a_migration(
    posthog: FakePostHog, batch: BatchOf, event: Callable[..., Event], ages: tuple[int, ...], *, is_historical: bool
) -> None:
    now = 1_700_000_000
    given = batch(*(event({}, at=(now - hours * 3_600) * 1_000_000_000) for hours in ages))
    handler = PostHogHandler(posthog.key, host=posthog.host, port=posthog.port, tls=False, now=lambda: now)

    await handler.open()
    await handler.handle(given)
    await handler.close()

    assert posthog.requests[0].body["historical_migration"] is is_historical
    assert posthog.requests[0].body["sent_at"] == "2023-11-14T22:13:20Z"


@pytest.mark.parametrize("protocol", ["v0", "v1"])
@pytest.mark.parametrize("said", ["true", "false"])
async def test_operator_may_say_what_is_a_migration(
    posthog: FakePostHog, batch: BatchOf, said: str, protocol: str
) -> None:
    old = ReceivedEvent("done", b"{}", 0)

    await sent(posthog, batch(old, ReceivedEvent("done", b"{}")), historical_migration=said, protocol=protocol)

    assert posthog.requests[0].body["historical_migration"] is (said == "true")


async def test_second_protocol_counts_the_attempts_at_a_batch(posthog: FakePostHog, batch: BatchOf) -> None:
    posthog.answer_with(Said(503), Said(503))
    handler = from_url(posthog.url(protocol="v1"))
    first, second = batch(received("done", {})), batch(received("done", {}), start=1)

    await handler.open()
    for given in (first, first, second, second):
        with suppress(TransientError):
            await handler.handle(given)
    await handler.close()

    seen = [(each.headers["posthog-attempt"], each.headers["posthog-request-id"]) for each in posthog.requests]
    assert [attempt for attempt, _ in seen] == ["1", "2", "1", "2"]
    assert [seen[0][1] == id_ for _, id_ in seen] == [True, True, False, False]


def test_second_protocol_says_which_version_this_is() -> None:
    assert f"eventrec/{version('eventrec')}" == SDK
