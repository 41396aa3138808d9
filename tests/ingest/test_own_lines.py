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
from eventrec.ingest.received import EventTooLargeError, LineError, Reading, received_event
from eventrec.records.column_types import ColumnType
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


@pytest.mark.parametrize("zone", ["Z", "+00:00"])
def test_time_is_taken_as_a_server_tells_it(zone: str) -> None:
    given = line(id=str(ID), **BASE | {"timestamp": f"2026-01-31T10:00:00.123456789{zone}"})

    event = received_event(given, Reading())

    when = 1_769_853_600_123_456_789
    assert event == ReceivedEvent(BASE["type"], PAYLOAD.encode(), when, BASE["table"], ID.bytes)


def test_context_comes_back() -> None:
    event = received_event(line(id=str(ID), **BASE, context={"user": 1}), Reading())

    entry = Encoder(context=lambda: b'{"by":"import"}').encode(event)
    assert not isinstance(entry, str)
    assert json.loads(entry[3] or b"") == {"by": "import", "user": 1}


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
    "changes",
    [
        {"id": "A-17"},
        {"id": 17},
        {"id": None},
        {"timestamp": 1.5},
        {"timestamp": "2026-01-31"},
        {"timestamp": "2026-01-31T10:00:00"},
        {"timestamp": "2026-01-31 10:00:00Z"},
        {"timestamp": "2026-02-30T10:00:00Z"},
        {"timestamp": "9999-01-31T10:00:00Z"},
        {"id": None, "log": str(LOG), "offset": 7, "timestamp": "2026-01-31T10:00:00Z"},
        {"timestamp": 2**63},
        {"type": ""},
        {"table": 5},
        {"customer": "another member"},
    ],
)
def test_line_that_is_only_alike_stays_as_it_is(changes: dict[str, Any]) -> None:
    given = line(**{"id": str(ID), **BASE, **changes})

    event = received_event(given, Reading())

    assert "payload" in json.loads(event.payload)
    assert event.table == "events"


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
