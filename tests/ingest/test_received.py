import json
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.events.event import ReceivedEvent, ReceivedJson
from eventrec.ingest.received import NAMESPACE, LineError, Reading, _known_kind, received_event, received_events

CLOUD = (
    b'{"specversion":"1.0","type":"com.example.sent","source":"/mail","id":"A-1",'
    b'"time":"2026-01-31T12:00:00.5Z","data":{"to":"ada"}}'
)


def test_without_a_field_that_says_so_the_type_is_event() -> None:
    assert received_event(b'{"a": 1}', Reading()).type == "event"
    assert received_event(b'{"a": 1, "type": "sold"}', Reading()).type == "sold"
    assert received_event(b'{"a": 1, "type": 7}', Reading()).type == "event"


def test_type_that_is_none_stays_in_the_payload() -> None:
    assert received_event(b'{"type": 7}', Reading()).payload == b'{"type": 7}'


def test_payload_keeps_the_bytes_of_its_values() -> None:
    kept = b'"price":1.10,"big":123456789012345678901234567890,"text":"\\u00e9 \xc3\xa9","far":1e400,"in":{ "a" :1}}'

    payload = received_event(b'{"type":"t",' + kept, Reading()).payload

    assert payload == b"{" + kept


def test_line_from_which_nothing_is_taken_is_its_own_payload() -> None:
    assert received_event(b'  {"a" : 1 }\t', Reading()).payload == b'{"a" : 1 }'


def test_fields_become_type_time_and_id_and_leave_the_payload() -> None:
    reading = Reading(type_field="kind", timestamp_field="at", id_field="key", table="sales")
    id_ = "6F9619FF-8B86-D011-B42D-00CF4FC964FF"

    event = received_event(json.dumps({"kind": "sold", "at": 1_700_000_000.25, "key": id_, "n": 1}).encode(), reading)

    assert (event.type, event.timestamp, event.table) == ("sold", 1_700_000_000_250_000_000, "sales")
    assert event.id == UUID(id_).bytes
    assert event.payload == b'{"n":1}'


@pytest.mark.parametrize(("written", "meant"), [('"A-17"', "A-17"), ("17", "17"), ('"17"', "17")])
def test_id_that_is_no_uuid_becomes_one_of_table_type_and_value_and_stays_in_the_payload(
    written: str, meant: str
) -> None:
    event = received_event(f'{{"type":"sold","key":{written}}}'.encode(), Reading(id_field="key", table="sales"))

    assert event.id == uuid5(NAMESPACE, f"sales\0sold\0{meant}").bytes
    assert event.payload == f'{{"key":{written}}}'.encode()


def test_timestamp_that_is_a_text_of_digits_is_a_number() -> None:
    event = received_event(b'{"at":"1700000000123456"}', Reading(timestamp_field="at"))

    assert event.timestamp == 1_700_000_000_123_456_000


def test_cloud_event_says_type_time_and_id_itself() -> None:
    event = received_event(CLOUD, Reading())

    assert event.type == "com.example.sent"
    assert event.timestamp == 1_769_860_800_500_000_000
    assert event.id == uuid5(NAMESPACE, "events\0com.example.sent\0/mail A-1").bytes
    assert json.loads(event.payload) == {"specversion": "1.0", "source": "/mail", "id": "A-1", "data": {"to": "ada"}}


def test_fields_that_are_named_go_before_those_of_a_cloud_event() -> None:
    event = received_event(CLOUD.replace(b"{", b'{"at":5,', 1), Reading(type_field="source", timestamp_field="at"))

    assert (event.type, event.timestamp) == ("/mail", 5_000_000_000)
    assert json.loads(event.payload)["time"] == "2026-01-31T12:00:00.5Z"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": oops}', "not JSON: Expecting value at character 7"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a":"\xff"}', "not UTF-8: invalid start byte at byte 6"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a":1}{"a":2}', "not JSON"),
        (b"{}", "it has no field 'kind'"),
        (b'{"kind":5}', "must be a text to be the type"),
        (b'{"kind":""}', "1 to 255 bytes"),
        (b'{"kind":"a\\u0000b"}', "NUL"),
        (b'{"kind":"' + b"x" * 256 + b'"}', "255 bytes"),
        (b'{"kind":"k"}', "it has no field 'at'"),
        (b'{"kind":"k","at":null}', "must be a number or a text to be a time"),
        (b'{"kind":"k","at":true}', "must be a number or a text to be a time"),
        (b'{"kind":"k","at":"soon"}', "the field 'at': 'soon' is not a time"),
        (b'{"kind":"k","at":1}', "it has no field 'key'"),
        (b'{"kind":"k","at":1,"key":1.5}', "must be a text or a whole number to be an id"),
        (b'{"kind":"k","at":1,"key":""}', "must be a text or a whole number to be an id"),
        (b'{"kind":"k","at":1,"key":1,"a":"' + b"x" * 800 + b'"}', "an event may have 1,000 bytes"),
    ],
)
def test_malformed_line_is_refused_with_a_reason(line: bytes, reason: str) -> None:
    reading = Reading(type_field="kind", timestamp_field="at", id_field="key", max_event_bytes=1_000)

    with pytest.raises(LineError) as refused:
        received_event(line, reading)

    assert reason in str(refused.value)


def test_iso_takes_no_numbers() -> None:
    with pytest.raises(LineError, match="must be a text"):
        received_event(b'{"at":1700000000}', Reading(timestamp_field="at", timestamp_unit="iso"))


@pytest.mark.parametrize(
    "null", [b'"time":null', b'"time": null ,"subject":null', b'"subject":null,"datacontenttype":null']
)
def test_attribute_of_a_cloud_event_that_is_null_is_not_set(null: bytes) -> None:
    event = received_event(b'{"specversion":"1.0","type":"a.b","source":"/s","id":"1",' + null + b"}", Reading())

    assert (event.type, event.timestamp) == ("a.b", None)
    assert event.id == uuid5(NAMESPACE, "events\0a.b\0/s 1").bytes


@pytest.mark.parametrize("name", [b"type", b"source", b"id", b"specversion"])
def test_without_an_attribute_that_it_needs_it_is_not_a_cloud_event(name: bytes) -> None:
    line = CLOUD.replace(b'"' + name + b'":', b'"' + name + b'":null,"_":', 1)

    assert received_event(line, Reading()).timestamp is None


# -- many lines at once

NAMES = ("type", "payload", "table", "timestamp", "id", "source", "specversion", "t\\u0079pe", "\\u001F", "a", "\u00e9")
VALID = (
    *('"sold"', '""', '"a\\u0000b"', '"\\ud83d\\ude00"', '"' + "x" * 256 + '"', '"1.0"', '"\u00e9"'),
    *("7", "1e400", "-0", "null", "{ }", '{"a" : [1 , 2]}', '"6f9619ff-8b86-d011-b42d-00cf4fc964ff"'),
)
INVALID = ("01", "[", "[" * 2_000 + "]" * 2_000, '"\\ud83d"', '"6f9619ff-8b86', "nul")


def objects(*values: str) -> st.SearchStrategy[bytes]:
    """Lines with members of these values."""
    members = st.tuples(st.sampled_from(NAMES), st.sampled_from(["", " "]), st.sampled_from(values))
    return st.lists(members, max_size=6).map(
        lambda given: ("{" + ",".join(f'{space}"{name}":{space}{value}' for name, space, value in given) + "}").encode()
    )


OTHERS = (
    *(CLOUD, b" {} ", b"[]", b"7", b"{}{}", b'{"a":"\xff"}', b'{"\xc3":1}', b'{"a":1}\r'),
    b'{"type":"' + b"y" * 900 + b'"}',
)


def told(found: ReceivedEvent | ReceivedJson | LineError) -> object:
    if isinstance(found, ReceivedJson):
        found = ReceivedEvent(found.type, found.payload, table=found.table)
    return (type(found), str(found)) if isinstance(found, LineError) else found


def alone(line: bytes, reading: Reading) -> object:
    try:
        return told(received_event(line, reading))
    except LineError as exc:
        return told(exc)


@given(
    st.lists(objects(*VALID) | st.just(CLOUD), max_size=4)
    | st.lists(objects(*VALID, *INVALID) | st.sampled_from(OTHERS), max_size=4),
    st.sampled_from([Reading(max_event_bytes=1_000), Reading(table="sales"), Reading(type_field="a")]),
)
def test_many_lines_become_what_each_becomes_alone(lines: list[bytes], reading: Reading) -> None:
    assert list(map(told, received_events(lines, reading))) == [alone(line, reading) for line in lines]


def test_text_that_only_two_lines_make_is_not_utf_8() -> None:
    first, second = received_events([b'{"a":"\xc3"}', b'{"a":"\xa9"}'], Reading())

    assert isinstance(first, LineError)
    assert isinstance(second, LineError)


def test_long_text_that_is_no_type_is_not_remembered() -> None:
    before = _known_kind.cache_info()

    (event,) = received_events([b'{"type":"' + b"x" * 100_000 + b'"}'], Reading())

    assert isinstance(event, ReceivedJson)
    assert event.type == "event"
    assert _known_kind.cache_info() == before
