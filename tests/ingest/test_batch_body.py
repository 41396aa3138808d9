"""Bodies of requests: exact or refused, one by one where that is possible, and never another exception."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventrec.events.event import ReceivedEvent, ReceivedJson
from eventrec.ingest.batch_body import BatchReading, BodyShapeError, Form, elements_in, events_of
from eventrec.ingest.cloud_events import members_of_headers
from eventrec.ingest.elements import BodyError, BodyTooLargeError
from eventrec.ingest.members import decode_members, encode_members, repeats_names
from eventrec.ingest.received import NAMESPACE, LineError, Received

ID = "6f9619ff-8b86-8011-b42d-00cf4fc964ff"
AT = "2026-01-31T10:00:00.123456789Z"
NS = 1_769_853_600_123_456_789
TYPED: dict[str, Any] = {"type": "auth_login_attempt", "email": "a@b", "success": True, "n": 10**30}
FORMS: tuple[Form, ...] = ("json", "ndjson", "cloudevent", "cloudevents")


def read(body: bytes | str, reading: BatchReading | None = None) -> list[Received]:
    reading = reading or BatchReading()
    return events_of(elements_in(body.encode() if isinstance(body, str) else body, reading), reading)


def one(element: object, reading: BatchReading | None = None) -> ReceivedEvent | ReceivedJson:
    (event,) = read(json.dumps([element]), reading)
    assert not isinstance(event, LineError), event
    return event


def refused(element: object, reading: BatchReading | None = None) -> str:
    (error,) = read(element if isinstance(element, bytes) else json.dumps([element]).encode(), reading)
    assert isinstance(error, LineError), error
    return error.without_values


# -- envelopes of the platform


def test_an_envelope_is_its_event_with_its_time_host_and_environment() -> None:
    envelope = {"timestamp": AT, "event": TYPED, "hostname": "web-1", "environment": "prod"}

    assert one(envelope) == ReceivedEvent(
        "auth_login_attempt",
        json.dumps(TYPED).encode(),
        NS,
        "events",
        context=b'{"host":"web-1","environment":"prod"}',
    )


@pytest.mark.parametrize(
    ("more", "context"),
    [
        ({}, None),
        ({"hostname": None, "environment": None}, None),
        ({"hostname": "é"}, b'{"host":"\\u00e9"}'),
        ({"environment": ""}, b'{"environment":""}'),
    ],
)
def test_what_is_not_set_around_an_event_is_not_kept(more: dict[str, Any], context: bytes | None) -> None:
    event = one({"timestamp": AT, "event": TYPED, **more})

    assert isinstance(event, ReceivedEvent)
    assert event.context == context


def test_an_own_id_of_the_envelope_counts() -> None:
    as_uuid, as_text, as_number = (one({"timestamp": AT, "event": TYPED, "id": id_}) for id_ in (ID, "a7", 7))

    assert isinstance(as_uuid, ReceivedEvent)
    assert isinstance(as_text, ReceivedEvent)
    assert isinstance(as_number, ReceivedEvent)
    assert as_uuid.id == UUID(ID).bytes
    assert as_text.id == uuid5(NAMESPACE, "events\0auth_login_attempt\0a7").bytes
    assert as_number.id == uuid5(NAMESPACE, "events\0auth_login_attempt\0" + "7").bytes


@pytest.mark.parametrize("said", ["oauth_flow_started", "o_auth_flow_started"])
def test_both_spellings_are_stored_as_one(said: str) -> None:
    event = one({"timestamp": AT, "event": {"provider": "x", "type": said}})

    assert event.type == "oauth_flow_started"
    assert json.loads(event.payload) == {"provider": "x", "type": "oauth_flow_started"}


def test_a_webhooks_own_event_type_is_no_type_of_ours() -> None:
    event = one({"timestamp": AT, "event": {"type": "webhook_received", "event_type": "push"}})

    assert event.type == "webhook_received"
    assert json.loads(event.payload)["event_type"] == "push"


def test_events_go_to_the_table_of_their_type_unless_one_is_named() -> None:
    tables = BatchReading(tables={"task_created": "analytics_events"})
    envelope = {"timestamp": AT, "event": {"type": "task_created"}}
    line = {"id": ID, "type": "task_created", "timestamp": 1, "table": "events", "payload": {}}

    assert [one(each, tables).table for each in (envelope, {"type": "task_created", "a": 1}, line, {"type": "x"})] == [
        "analytics_events",
        "analytics_events",
        "events",
        "events",
    ]
    everywhere = BatchReading(tables=tables.tables, table="elsewhere")
    assert {one(each, everywhere).table for each in (envelope, {"a": 1}, line)} == {"elsewhere"}


@pytest.mark.parametrize(
    ("envelope", "why"),
    [
        ({"event": TYPED}, "timestamp"),
        ({"timestamp": None, "event": TYPED}, "timestamp"),
        ({"timestamp": "yesterday 12345", "event": TYPED}, "timestamp"),
        ({"timestamp": AT, "event": {}}, "type"),
        ({"timestamp": AT, "event": {"type": 5}}, "type"),
        ({"timestamp": AT, "event": {"type": ""}}, "type"),
        ({"timestamp": AT, "event": {"type": "a\0b"}}, "type"),
        ({"timestamp": AT, "event": {"type": "x" * 256}}, "type"),
        ({"timestamp": AT, "event": TYPED, "hostname": 5}, "hostname"),
        ({"timestamp": AT, "event": TYPED, "id": {}}, "id"),
    ],
)
def test_an_envelope_that_is_not_right_is_refused_by_what_is_wrong_and_none_of_its_values(
    envelope: object, why: str
) -> None:
    assert why in refused(envelope)
    assert "12345" not in refused(envelope)


def test_an_object_that_has_more_in_it_is_none_and_nothing_of_it_is_lost() -> None:
    given = {"timestamp": AT, "event": {"type": "x"}, "level": "info"}

    assert one(given) == ReceivedJson("event", "events", json.dumps(given).encode())


# -- lines of ours

LINE: dict[str, Any] = {"id": ID, "type": "order_placed", "table": "orders", "timestamp": AT, "payload": {"n": 1}}


@pytest.mark.parametrize("form", ["json", "ndjson"])
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"id": f"{{{ID}}}"}, "its 'id' is not a UUID"),
        ({"timestamp": "2026-02-30T12:34:56Z"}, "its 'timestamp' is not a time"),
        ({"timestamp": "2300-01-31T12:34:56Z"}, "its 'timestamp' is not a time"),
        ({"table": ""}, "its 'table' cannot be one"),
        ({"type": 5}, "its 'type' cannot be one"),
    ],
)
def test_a_line_of_ours_that_is_not_right_is_never_another_event(changes: dict[str, Any], why: str, form: Form) -> None:
    given = json.dumps({**LINE, **changes}).encode()
    for reading in (BatchReading(form=form), BatchReading(form=form, key="k"), BatchReading(form=form, table="t")):
        assert why in refused(given, reading)
        assert "12:34:56" not in refused(given, reading)
        assert ID not in refused(given, reading)


@pytest.mark.parametrize("written", ["2026-01-31T10:00:00", "2026-01-31 10:00:00Z", "2026-01-31t10:00:00+0000"])
def test_a_line_of_ours_is_taken_at_its_time_however_that_is_written(written: str) -> None:
    assert one({**LINE, "timestamp": written}) == ReceivedEvent(
        "order_placed", b'{"n": 1}', NS // 10**9 * 10**9, "orders", UUID(ID).bytes
    )


# -- what others make


def test_plain_objects_are_read_as_record_reads_them() -> None:
    events = read('[{"type":"click","x":1.10}, {"x":1}, 5, {"type":5}, "x", null]')

    assert events[:2] == [ReceivedJson("click", "events", b'{"x":1.10}'), ReceivedJson("event", "events", b'{"x":1}')]
    assert events[3] == ReceivedJson("event", "events", b'{"type":5}')
    assert [isinstance(event, LineError) for event in events] == [False, False, True, False, True, True]


def test_one_object_is_one_event_and_nothing_none() -> None:
    assert read('{"type":"click"}') == [ReceivedJson("click", "events", b"{}")]
    assert read(" [ ] ") == []
    assert read("\ufeff[]") == []
    assert read("", BatchReading(form="ndjson")) == []


def test_lines_are_counted_without_blank_ones_and_one_that_is_broken_is_refused_alone() -> None:
    body = b'\xef\xbb\xbf{"type":"a"}\r\n\n  \n{"type":\n{"type":"b"}'

    events = read(body, BatchReading(form="ndjson"))

    assert [event if isinstance(event, LineError) else event.type for event in events[::2]] == ["a", "b"]
    assert isinstance(events[1], LineError)


def test_a_cloud_event_of_others_keeps_all_of_it() -> None:
    given = {"specversion": "1.0", "id": "7", "source": "/s", "type": "t", "time": AT, "data": {"a": 1}, "more": "x"}

    event = one(given, BatchReading(form="cloudevents"))

    assert isinstance(event, ReceivedEvent)
    assert (event.type, event.timestamp) == ("t", NS)
    assert json.loads(event.payload) == {name: given[name] for name in given if name not in {"type", "time"}}
    assert event.id == uuid5(NAMESPACE, "events\0t\0/s 7").bytes


@pytest.mark.parametrize("missing", ["specversion", "id", "source", "type"])
def test_what_says_it_is_a_cloud_event_and_is_none_is_refused(missing: str) -> None:
    given = {"specversion": "1.0", "id": "7", "source": "/s", "type": "t"}

    assert missing in refused({**given, missing: ""}, BatchReading(form="cloudevents"))
    assert "specversion" in refused({**given, "specversion": "0.3"}, BatchReading(form="cloudevents"))


def headers(*more: tuple[str, str]) -> list[tuple[str, str]]:
    return [("ce-specversion", "1.0"), ("ce-id", "7"), ("ce-source", "/s"), ("ce-type", "t"), *more]


@pytest.mark.parametrize(
    ("content_type", "body", "members"),
    [
        ("application/json", b'{ "a": 1.10 }', {"data": '{ "a": 1.10 }', "datacontenttype": '"application/json"'}),
        ("text/plain; charset=utf-8", "é".encode(), {"data": '"é"', "datacontenttype": '"text/plain; charset=utf-8"'}),
        ("image/png", b"\x89P", {"data_base64": '"iVA="', "datacontenttype": '"image/png"'}),
        ("text/plain", b"\xff", {"data_base64": '"/w=="', "datacontenttype": '"text/plain"'}),
        ("", b"", {}),
    ],
)
def test_a_binary_cloud_event_is_the_object_it_would_be(
    content_type: str, body: bytes, members: dict[str, str]
) -> None:
    given = [("content-type", content_type)] if content_type else []

    found = members_of_headers(headers(*given), body)

    expected = {"specversion": '"1.0"', "id": '"7"', "source": '"/s"', "type": '"t"', **members}
    assert {name: bytes(raw).decode() for name, raw in found.items()} == expected


def test_attributes_in_headers_are_decoded() -> None:
    found = members_of_headers(headers(("ce-a", "%C3%A9%20%22"), ("ce-b", '"x \\" y"')), b"")

    assert (bytes(found["a"]), bytes(found["b"])) == ('"é \\""'.encode(), b'"x \\" y"')


@pytest.mark.parametrize(
    "wrong",
    [
        [("ce-id", "8")],
        [("ce-a", "%FF")],
        [("ce-a-b", "x")],
        [("ce-", "x")],
        [("ce-data", "x")],
    ],
)
def test_attributes_that_cannot_be_are_refused(wrong: list[tuple[str, str]]) -> None:
    with pytest.raises(LineError):
        members_of_headers(headers(*wrong), b"")
    with pytest.raises(LineError):
        members_of_headers(headers(("content-type", "application/json")), b"{")


# -- repeated requests


def test_a_key_gives_those_without_an_id_the_same_one_again_and_other_bodies_other_ones() -> None:
    elements = [b'{"type":"a"}', b'{"type":"a"}', json.dumps({"timestamp": AT, "event": TYPED, "id": ID}).encode()]
    keyed = BatchReading(key="k")

    first, again = events_of(elements, keyed), events_of(elements[1:], keyed, first=1)

    ids = [event.id for event in first if isinstance(event, ReceivedEvent)]
    assert len({*ids}) == 3
    assert ids[2] == UUID(ID).bytes
    assert [event.id for event in again if isinstance(event, ReceivedEvent)] == ids[1:]
    (other,) = events_of([b'{"type":"b"}'], keyed)
    assert isinstance(other, ReceivedEvent)
    assert other.id not in ids


# -- hostile bodies


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[",
        "[1,]",
        "[1",
        "[1}",
        "[,1]",
        "nul",
        '{"a":1}x',
        "[]x",
        '[{"a":1},{"b":}]',
        '["\\ud800",}]',
        '"x',
        "[NaN]",
        "\0",
    ],
)
def test_what_is_not_json_is_refused_as_a_whole(body: str) -> None:
    with pytest.raises(BodyError) as caught:
        read(body)

    assert not isinstance(caught.value, BodyShapeError | BodyTooLargeError)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("body", ["5", '"x"', "null", "true"])
def test_json_of_another_shape_is_told_apart(body: str, form: Form) -> None:
    if form == "ndjson":
        assert isinstance(read(body, BatchReading(form=form))[0], LineError)
        return
    with pytest.raises(BodyShapeError):
        read(body, BatchReading(form=form))


@pytest.mark.parametrize(("form", "body"), [("cloudevent", "[]"), ("cloudevents", "{}")])
def test_one_cloud_event_and_several_are_told_apart(form: Form, body: str) -> None:
    with pytest.raises(BodyShapeError):
        read(body, BatchReading(form=form))


@pytest.mark.parametrize(
    "bad",
    [
        b'{"a":"\xff"}',
        b'{"\xff":1}',
        b'{"a":"\\ud800"}',
        b'{"a":' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"a":' + b"[" * 60_000 + b"]" * 60_000 + b"}",
        b'{"a":1,"a":2}',
        b'{"type":"x","a":1,"\\u0061":2}',
        b'{"a" :1, "a":2, "b":{"c":1}}',
        b'{"":1,"":1,"a":2,"b":3}',
        b'{"timestamp":5,"event":{"type":"a","type":"b"}}',
        b'{"timestamp":5,"event":{"type":"a","\\u0074ype":"b"}}',
        b'{"a":"' + b"x" * 2_000_000 + b'"}',
        b"[]",
    ],
)
def test_one_bad_element_is_refused_alone(bad: bytes) -> None:
    events = read(b'[{"type":"before"},' + bad + b',{"type":"after"}]')

    assert [event if isinstance(event, LineError) else event.type for event in events[::2]] == ["before", "after"]
    assert isinstance(events[1], LineError)


@pytest.mark.parametrize(
    "payload",
    [
        '{"n":' + "9" * 6_000 + "}",
        '{"n":1e999999999}',
        '{"n":-0.0,"m":1.10}',
        '{"s":"\\u0000"}',
        '{"o":{"a":1,"a":2}}',
        '{"s":"\\ud83d\\ude00"}',
        '{"s":"\\"type\\":"}',
    ],
)
def test_payloads_keep_their_bytes(payload: str) -> None:
    assert [event.payload for event in read(f"[{payload}]") if isinstance(event, ReceivedJson)] == [payload.encode()]
    typed = f'{{"type":"t",{payload[1:]}'
    (event,) = read(f'[{{"timestamp":5,"event":{typed}}}]')
    assert isinstance(event, ReceivedEvent)
    assert event.payload == typed.encode()


def test_so_many_elements_and_no_more() -> None:
    few = BatchReading(max_elements=3)

    assert len(read("[{},{},{}]", few)) == 3
    for body in ("[{},{},{},{}]", "[" + "{}," * 100_000 + "{}]"):
        with pytest.raises(BodyTooLargeError):
            read(body, few)
    lines = BatchReading(form="ndjson", max_elements=3)
    assert len(read("{}\n{}\n\n{}\n", lines)) == 3
    for body in ("{}\n" * 4, "\n" * 1_000):
        with pytest.raises(BodyTooLargeError):
            read(body, lines)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=3), JSON), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]))
def test_names_that_stand_once_are_never_taken_for_repeated(
    given_members: dict[str, Any], how: tuple[str, str]
) -> None:
    text = json.dumps(given_members, separators=how, ensure_ascii=False).encode(errors="surrogatepass")
    try:
        members = decode_members(text)
        text.decode()
    except ValueError:
        return  # half of a surrogate pair

    assert not repeats_names(text, members)


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=3), JSON, min_size=1), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_a_name_that_stands_twice_is_always_found(given_members: dict[str, Any], how: tuple[str, str]) -> None:
    name = next(iter(given_members))
    whole = json.dumps(given_members, separators=how)
    text = f"{whole[:-1]}{how[0]}{json.dumps({name: 1}, separators=how)[1:]}".encode()
    try:
        members = decode_members(text)
    except ValueError:
        return  # half of a surrogate pair

    assert repeats_names(text, members)


@given(st.binary(max_size=60), st.sampled_from(FORMS))
def test_any_bytes_are_read_or_refused(body: bytes, form: Form) -> None:
    reading = BatchReading(form=form, key="k")
    try:
        events = read(body, reading)
    except BodyError:
        return

    assert all(isinstance(event, ReceivedEvent | ReceivedJson | LineError) for event in events)


NAMES = ("type", "event", "timestamp", "payload", "id", "specversion", "table", "columns", "context", "log", "offset")
PIECES = st.sampled_from(
    [
        *(f'"{name}"'.encode() for name in NAMES),
        *(
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b'"',
            b"\\",
            b"1",
            b"-",
            b"e9",
            b"null",
            b"\xff",
            b"\\ud800",
            b" ",
            b"\n",
        ),
        *(b"\n", b'{"type":"x"}', b'{"timestamp":1,"event":{"type":"x"}}', b'"1.0"'),
    ]
)


@given(st.lists(PIECES, max_size=30).map(b"".join), st.sampled_from(FORMS))
def test_any_pieces_of_json_are_read_or_refused(body: bytes, form: Form) -> None:
    for text in (body, b"[" + body + b"]", b"[{" + body + b"}]"):
        try:
            read(text, BatchReading(form=form))
        except BodyError:
            continue


def test_members_are_written_as_they_were_read() -> None:
    assert encode_members(decode_members(b'{"a":1.10,"b":{ }}')) == b'{"a":1.10,"b":{ }}'
