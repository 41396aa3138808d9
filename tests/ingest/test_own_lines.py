"""What we wrote ourselves is taken back as it was."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from eventrec.events.encoder import Encoder
from eventrec.events.event import ReceivedEvent
from eventrec.ingest.received import EventTooLargeError, LineError, Reading, received_event, received_events
from eventrec.records.column_types import ColumnType
from eventrec.records.entry import CONTEXT
from eventrec.records.extra_rows import decode_rows, rows_document
from eventrec.records.ids import Ids
from eventrec.records.schema import ColumnSchema, Shape

ID = UUID("6f9619ff-8b86-8011-b42d-00cf4fc964ff")
LOG = UUID("0198f3a4-0000-7000-8000-000000000001")
PAYLOAD = '{"n": 1.10, "type": "x", "timestamp": 5, "payload": {"deep": 12345678901234567890123}}'
BASE: dict[str, Any] = {"type": "order_placed", "timestamp": 1_700_000_000_000_000_001, "table": "orders"}


def line(**members: object) -> bytes:
    encoded = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in members.items()}
    return msgspec.json.encode({**encoded, "payload": msgspec.Raw(PAYLOAD.encode())})


@pytest.mark.parametrize(
    ("given", "id_"),
    [
        ({"id": str(ID), **BASE}, ID.bytes),
        ({"id": ID.hex, **BASE}, ID.bytes),
        ({**BASE, "id": str(ID), "context": None, "columns": None}, ID.bytes),
        ({"log": str(LOG), "offset": 7, **BASE}, Ids(LOG).as_bytes(7, 0, None)),
        ({"log": str(LOG), "offset": 7, **BASE, "id": ID.hex}, ID.bytes),
        (
            {"run": str(ID), "number": 3, "log_id": str(LOG), "offset": 7, "subscription": "s", "handler": "H"}
            | {"reason": "why", "time": 1.5, **BASE},
            Ids(LOG).as_bytes(7, 0, None),
        ),
    ],
)
def test_type_table_time_payload_and_id_are_those_of_the_line(given: dict[str, Any], id_: bytes) -> None:
    event = received_event(line(**given), Reading())

    assert event == ReceivedEvent(BASE["type"], PAYLOAD.encode(), BASE["timestamp"], BASE["table"], id_)


@pytest.mark.parametrize(
    "written",
    [
        "2026-01-31T10:00:00.123456789Z",
        "2026-01-31T10:00:00.123456789+00:00",
        "2026-01-31t10:00:00.123456789z",
        "2026-01-31 11:00:00.123456789+01:00",
        "2026-01-31T10:00:00.123456789+0000",
        "2026-01-31T10:00:00.123456789",
    ],
)
def test_time_is_taken_as_that_of_a_cloud_event_is(written: str) -> None:
    given = line(id=str(ID), **BASE | {"timestamp": written})
    cloud_event = {"specversion": "1.0", "source": "/s", "id": "1", "type": "t", "time": written}

    event = received_event(given, Reading())

    when = 1_769_853_600_123_456_789
    assert event == ReceivedEvent(BASE["type"], PAYLOAD.encode(), when, BASE["table"], ID.bytes)
    assert received_event(json.dumps(cloud_event).encode(), Reading()).timestamp == when


def test_context_comes_back() -> None:
    event = received_event(line(id=str(ID), **BASE, context={"user": 1}), Reading())

    entry = Encoder(context=lambda: b'{"by":"import"}').encode(event)
    assert not isinstance(entry, str)
    assert json.loads(entry[CONTEXT] or b"") == {"by": "import", "user": 1}


def test_columns_without_a_type_follow_from_their_values() -> None:
    values = {"a": 1, "b": 2**63, "c": 1.5, "d": "x", "e": True, "f": {"g": [1]}, "h": [], "i": None}

    event = received_event(line(id=str(ID), **BASE, columns=values), Reading())

    assert [(column.name, column.type.name) for column in event.columns] == [
        ("a", "INT64"),
        ("b", "UINT64"),
        ("c", "FLOAT64"),
        ("d", "STRING"),
        ("e", "BOOLEAN"),
        ("f", "JSON"),
        ("h", "JSON"),
    ]
    assert event.rows == ((1, 2**63, 1.5, "x", True, {"g": [1]}, []),)
    assert not isinstance(Encoder().encode(event), str)


VALUES = {
    ColumnType.BOOLEAN: True,
    ColumnType.INT64: -5,
    ColumnType.FLOAT64: 0.1,
    ColumnType.BINARY: b"\xff\x00[1]",
    ColumnType.STRING: "[1]",
    ColumnType.TIMESTAMP_NANOSECOND: 1_700_000_000_000_000_001,
    ColumnType.INTERVAL_MONTH_DAY_NANO: [1, 2, 3],
    ColumnType.DECIMAL128: Decimal("1.10"),
    ColumnType.JSON: {"a": [None]},
    ColumnType.LIST: [1],
    ColumnType.STRUCT: {"b": 1},
    ColumnType.VECTOR: [0.5, 1.0],
}


def test_columns_with_a_type_come_back_exactly() -> None:
    columns = tuple(ColumnSchema(f"c {kind.name}", kind) for kind in VALUES)
    given = ReceivedEvent("k", b"{}", 1, columns=columns, rows=(tuple(VALUES.values()), (None,) * len(VALUES)))
    first = Encoder().encode(given)
    assert not isinstance(first, str)
    extra_rows = first[4]
    assert extra_rows is not None
    document = {"log": str(LOG), "offset": 1, **BASE, **rows_document(Shape("t", "k", columns), extra_rows)}
    document["payload"] = {}

    again = Encoder().encode(received_event(msgspec.json.encode(document), Reading()))

    assert not isinstance(again, str)
    assert again[0].columns == columns
    assert again[4] is not None
    assert decode_rows(again[4]) == decode_rows(extra_rows)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": "A-17"}, "its 'id' is not a UUID"),
        ({"id": f"{{{ID}}}"}, "its 'id' is not a UUID"),
        ({"id": 17}, "its 'id' is not a UUID"),
        ({"id": None}, "its 'id' is not a UUID"),
        ({"id": None, "log": str(LOG), "offset": 7}, "its 'id' is not a UUID"),
        ({"timestamp": 1.5}, "its 'timestamp' is neither a text nor whole nanoseconds"),
        ({"timestamp": None}, "its 'timestamp' is neither a text nor whole nanoseconds"),
        ({"timestamp": True}, "its 'timestamp' is neither a text nor whole nanoseconds"),
        ({"timestamp": 2**63}, "its 'timestamp' is neither a text nor whole nanoseconds"),
        ({"timestamp": ""}, "its 'timestamp' is not a time"),
        ({"timestamp": "1700000000"}, "its 'timestamp' is not a time"),
        ({"timestamp": "2026-02-30T10:00:00Z"}, "its 'timestamp' is not a time"),
        ({"timestamp": "2300-01-31T10:00:00Z"}, "its 'timestamp' is not a time"),
        ({"type": ""}, "its 'type' cannot be one"),
        ({"type": 5}, "its 'type' cannot be one"),
        ({"table": ""}, "its 'table' cannot be one"),
        ({"table": "a\0b"}, "its 'table' cannot be one"),
        ({"table": 5}, "its 'table' cannot be one"),
    ],
)
def test_what_has_the_members_of_a_line_of_ours_is_refused_where_it_cannot_be_taken_as_one(
    changes: dict[str, Any], reason: str
) -> None:
    given = line(**{"id": str(ID), **BASE, **changes})

    with pytest.raises(LineError) as refused:
        received_event(given, Reading())
    (among_others,) = received_events([given], Reading())

    assert reason in refused.value.without_values
    assert isinstance(among_others, LineError)
    assert "an object of just these members is an event with its own id" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"log": "l-17", "offset": 7}, "its 'log' is not a UUID"),
        ({"log": None, "offset": 7}, "its 'log' is not a UUID"),
        ({"log_id": 5, "offset": 7}, "its 'log_id' is not a UUID"),
        ({"log": str(LOG), "offset": -1}, "its 'offset' is not one of a log"),
        ({"log": str(LOG), "offset": "7"}, "its 'offset' is not one of a log"),
    ],
)
def test_line_by_its_place_is_refused_where_that_is_none(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(LineError, match=reason):
        received_event(line(**BASE, **changes), Reading())


PLAIN: dict[str, Any] = {"id": 17, "type": "order_placed", "timestamp": "soon", "table": "orders"}


@pytest.mark.parametrize(
    "given",
    [
        {"id": 17, "type": "order_placed"},
        {**PLAIN, "customer": "another member", "payload": {}},
        {"id": str(ID), **BASE, "customer": "another member", "payload": {}},
        {name: value for name, value in PLAIN.items() if name != "table"} | {"payload": 1},
        PLAIN,
        {**BASE, "payload": {}},
        {**BASE, "payload": {}, "offset": 7},
        {**BASE, "payload": {}, "log": "l"},
        {**BASE, "payload": {}, "reason": "r", "number": 5},
        {"id": 5, **BASE, "payload": {}, "reason": "fraud"},
        {"id": str(ID), **BASE, "payload": {}, "number": 5},
    ],
)
def test_object_of_other_members_stays_as_it_is(given: dict[str, Any]) -> None:
    event = received_event(json.dumps(given).encode(), Reading())

    rest = {name: value for name, value in given.items() if name != "type"}
    assert (event.type, event.table, event.id, event.timestamp) == ("order_placed", "events", None, None)
    assert json.loads(event.payload) == rest


def test_where_a_field_is_named_no_line_is_taken_for_ours() -> None:
    event = received_event(line(id=str(ID), **BASE), Reading(timestamp_field="timestamp", timestamp_unit="ns"))

    assert json.loads(event.payload)["payload"]["n"] == 1.1


def test_table_that_is_asked_for_goes_before_that_of_the_line() -> None:
    assert received_event(line(id=str(ID), **BASE), Reading(table="t")).table == "t"


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"columns": ["n INT64"], "rows": [[1, 2]]}, "2 values for 1 columns"),
        ({"columns": ["n INT65"], "rows": [[1]]}, "'INT65' is not a column type"),
        ({"columns": ["n INT64", "n INT64"], "rows": []}, "declared twice"),
        ({"columns": ["n INT64"], "rows": []}, "there is no row, so nothing would be stored"),
        ({"columns": {"n": 2**80}}, "no column type holds an integer of that size"),
        ({"columns": "n"}, "cannot be read"),
        ({"columns": ["b BINARY"], "rows": [["ä"]]}, "cannot be read"),
    ],
)
def test_columns_that_cannot_be_read_are_refused_with_a_reason(members: dict[str, Any], reason: str) -> None:
    with pytest.raises(LineError, match=reason):
        received_event(line(id=str(ID), **BASE, **members), Reading())


def test_line_of_ours_counts_its_payload_not_its_length() -> None:
    with pytest.raises(EventTooLargeError):
        received_event(line(id=str(ID), **BASE), Reading(max_event_bytes=200 + len(PAYLOAD) - 1))
    assert received_event(line(id=str(ID), **BASE), Reading(max_event_bytes=200 + len(PAYLOAD))).id == ID.bytes
