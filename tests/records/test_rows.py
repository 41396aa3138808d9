import itertools
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.errors import RowWidthError, SchemaMismatchError
from eventrec.events.encoder import Encoder
from eventrec.events.event import Event, ReceivedEvent
from eventrec.records.column_types import ColumnType, SemanticType
from eventrec.records.context import merged_context
from eventrec.records.entry import SHAPE, Entry, make_entry
from eventrec.records.extra_rows import encode_rows
from eventrec.records.ids import Ids
from eventrec.records.rows import Group, RowInsertRequest, build_row_inserts_request, group_events_by_type
from eventrec.records.schema import BASE_COLUMNS, CONTEXT_COLUMN, ColumnSchema, Row, Shape

LOG_ID = UUID("0190f3a2-5b7e-7c4d-9a1b-2c3d4e5f6a7b")
IDS = Ids(LOG_ID)
REGION = ColumnSchema("region", ColumnType.UINT64)
PEER = ColumnSchema("peer", ColumnType.STRING)


class EventA(Event):
    """As GreptimeDB's own test has it: the default table, no extras, one row."""

    @property
    def payload(self) -> object:
        return {"a": 1}


class EventB(Event):
    """A table of its own, one extra column, two rows."""

    @property
    def table(self) -> str:
        return "table_B"

    @property
    def payload(self) -> object:
        return {"b": 1}

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return (REGION,)

    def extra_rows(self) -> Sequence[Row]:
        return ((1,),)


class EventC(EventA):
    @property
    def table(self) -> str:
        return "table_C"


def entries_of(*events: object, now: int = 7) -> list[Entry]:
    encoder = Encoder(now=lambda: now)
    entries = [encoder.encode(event) for event in events]
    return [entry for entry in entries if isinstance(entry, tuple)]


def requests_for(*events: object, static_context: bytes | None = None) -> list[RowInsertRequest]:
    entries = entries_of(*events)
    groups = group_events_by_type(range(len(entries)), entries)
    return [build_row_inserts_request(group, IDS, static_context=static_context) for group in groups]


def only_request(*events: object, **settings: Any) -> RowInsertRequest:
    (request,) = requests_for(*events, **settings)
    return request


# -- grouping


def test_events_are_grouped_by_type() -> None:
    events = [EventA(), EventB(), EventA(), EventC(), EventB(), EventC(), EventA()]

    groups = group_events_by_type(range(7), entries_of(*events))

    assert [(group.shape.type, list(group.offsets)) for group in groups] == [
        ("event_a", [0, 2, 6]),
        ("event_b", [1, 4]),
        ("event_c", [3, 5]),
    ]


def test_one_request_per_table_with_a_row_for_each_event() -> None:
    events = [EventA(), EventB(), EventA(), EventC(), EventB(), EventC(), EventA()]

    requests = requests_for(*events)

    assert [(request.table, len(request.rows)) for request in requests] == [
        ("events", 3),
        ("table_B", 2),
        ("table_C", 2),
    ]


def test_events_of_one_type_with_other_columns_are_a_group_of_their_own() -> None:
    class Grown(EventB):
        @property
        def type(self) -> str:
            return "event_b"

        def extra_schema(self) -> Sequence[ColumnSchema]:
            return (REGION, PEER)

        def extra_rows(self) -> Sequence[Row]:
            return ((1, "x"),)

    requests = requests_for(EventB(), Grown(), EventB())

    assert [(request.type, len(request.schema), request.offsets) for request in requests] == [
        ("event_b", 5, [0, 2]),
        ("event_b", 6, [1]),
    ]


def test_equal_shapes_of_two_encoders_are_one_group() -> None:
    entries = [*entries_of(EventB()), *entries_of(EventA()), *entries_of(EventB())]

    groups = group_events_by_type([3, 4, 9], entries)

    assert [list(group.offsets) for group in groups] == [[3, 9], [4]]


def test_nothing_is_no_group() -> None:
    assert group_events_by_type([], []) == []


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from("XY"))), st.integers(0, 2**40))
def test_grouping_keeps_the_order_and_loses_nothing(kinds: list[tuple[str, str]], first: int) -> None:
    entries = entries_of(*(ReceivedEvent(kind, b"%d" % n, table=table) for n, (kind, table) in enumerate(kinds)))
    offsets = range(first, first + len(entries))

    groups = group_events_by_type(offsets, entries)

    placed = [(offset, entry) for group in groups for offset, entry in zip(group.offsets, group.entries, strict=True)]
    assert sorted(placed, key=lambda each: each[0]) == list(zip(offsets, entries, strict=True))
    assert all(list(group.offsets) == sorted(group.offsets) for group in groups)
    assert Counter((group.shape.type, group.shape.table) for group in groups) == Counter(set(kinds))
    assert [group.offsets[0] for group in groups] == sorted(group.offsets[0] for group in groups)


# -- requests: the event contract


def test_request_holds_the_base_columns_and_one_row() -> None:
    request = only_request(EventA())

    assert request == RowInsertRequest(
        table="events",
        type="event_a",
        schema=BASE_COLUMNS,
        columns=([IDS.as_text(0, 0, None)], ("event_a",), (7,), (b'{"a":1}',)),
        offsets=range(1),
    )
    assert request.rows == [(IDS.as_text(0, 0, None), "event_a", 7, b'{"a":1}')]


def test_extra_columns_follow_the_base_columns() -> None:
    request = only_request(EventB())

    assert request.schema == (*BASE_COLUMNS, REGION)
    assert request.rows == [(IDS.as_text(0, 0, None), "event_b", 7, b'{"b":1}', 1)]


def test_event_with_several_rows_has_each_with_an_id_of_its_own() -> None:
    class Migrated(EventA):
        def extra_schema(self) -> Sequence[ColumnSchema]:
            return (ColumnSchema("region", ColumnType.UINT64, SemanticType.TAG), PEER)

        def extra_rows(self) -> Sequence[Row]:
            return [(1, "x"), (2, None), (3, "z")]

    _, request = requests_for(EventA(), Migrated())

    assert request.rows == [
        (IDS.as_text(1, number, None), "migrated", 7, b'{"a":1}', *values)
        for number, values in enumerate([(1, "x"), (2, None), (3, "z")])
    ]
    assert request.offsets == [1, 1, 1]


def test_event_without_rows_yields_none() -> None:
    class Nothing(EventB):
        def extra_rows(self) -> Sequence[Row]:
            return []

    assert requests_for(Nothing()) == []


def test_timestamp_is_the_same_whenever_the_request_is_built() -> None:
    clock = itertools.count(1)
    entry = Encoder(now=lambda: next(clock)).encode(EventA())
    group = Group(entry[SHAPE], [0], [entry])  # type: ignore[arg-type, list-item]

    first, again = build_row_inserts_request(group, IDS), build_row_inserts_request(group, IDS)

    assert first == again
    assert first.rows[0][2] == 1


def test_ids_are_text_or_16_bytes_as_asked_for() -> None:
    explicit = bytes(range(16))
    entries = entries_of(EventA(), ReceivedEvent("event_a", b"1", id=explicit))
    (group,) = group_events_by_type([5, 6], entries)

    as_text = build_row_inserts_request(group, IDS)
    as_bytes = build_row_inserts_request(group, IDS, id_form="bytes")

    assert [row[0] for row in as_bytes.rows] == [IDS.as_bytes(5, 0, None), explicit]
    assert [row[0] for row in as_text.rows] == [str(UUID(bytes=row[0])) for row in as_bytes.rows]


@given(st.lists(st.integers(0, 2**48 - 1) | st.integers(2**34 - 2, 2**34 + 2), min_size=1, unique=True), st.data())
def test_ids_made_at_once_are_those_made_one_by_one(offsets: list[int], data: st.DataObject) -> None:
    offsets.sort()
    explicit = [data.draw(st.none() | st.binary(min_size=16, max_size=16)) for _ in offsets]
    (plain,) = entries_of(EventA())

    for ids in (explicit, [None] * len(offsets)):
        entries = [make_entry(*plain[:5], id_) for id_ in ids]
        assert IDS.first_bytes(offsets, entries) == [
            IDS.as_bytes(offset, 0, id_) for offset, id_ in zip(offsets, ids, strict=True)
        ]
        assert IDS.first_texts(offsets, entries) == [
            IDS.as_text(offset, 0, id_) for offset, id_ in zip(offsets, ids, strict=True)
        ]


# -- context


def test_context_column_is_there_where_any_record_has_a_context() -> None:
    with_context = Encoder(context=lambda: b'{"user":1}', now=lambda: 7).encode(EventA())
    entries: list[Any] = [*entries_of(EventA()), with_context]
    (group,) = group_events_by_type([0, 1], entries)

    request = build_row_inserts_request(group, IDS)

    assert request.schema == (*BASE_COLUMNS, CONTEXT_COLUMN)
    assert [row[4] for row in request.rows] == [None, b'{"user":1}']


def test_static_context_is_merged_into_every_row() -> None:
    request = only_request(EventB(), EventB(), static_context=b'{"service":"shop"}')

    assert request.schema == (*BASE_COLUMNS, CONTEXT_COLUMN, REGION)
    assert [row[4:] for row in request.rows] == [(b'{"service":"shop"}', 1)] * 2


@pytest.mark.parametrize(
    ("static", "of_call", "expected"),
    [
        (None, None, None),
        (b'{"a":1}', None, b'{"a":1}'),
        (None, b'{"a":1}', b'{"a":1}'),
        (b'{"a":1,"b":2}', b'{"b":3,"c":4}', b'{"a":1,"b":3,"c":4}'),
        (b'{"a":%d}' % 2**200, b'{"b":1.10}', b'{"a":%d,"b":1.10}' % 2**200),
    ],
)
def test_fields_of_the_call_hide_static_ones(
    static: bytes | None, of_call: bytes | None, expected: bytes | None
) -> None:
    assert merged_context(static, of_call) == expected


# -- what does not fit together


def test_schema_mismatch_lists_expected_and_actual() -> None:
    (expected,), (actual,) = entries_of(EventB()), entries_of(EventA())

    with pytest.raises(SchemaMismatchError) as refused:
        build_row_inserts_request(Group(expected[0], [0, 9], [expected, actual]), IDS)

    assert (refused.value.expected, refused.value.actual) == (("region UINT64",), ())
    assert str(refused.value) == "record 9 of type 'event_a': expected columns ['region UINT64'], got []"


@pytest.mark.parametrize(("extras", "width"), [(None, 0), (encode_rows(Shape("t", "e"), [()]), 0)])
def test_row_width_mismatch_lists_expected_and_actual(extras: bytes | None, width: int) -> None:
    (entry,) = entries_of(EventB())
    narrow: Any = (*entry[:4], extras, *entry[5:])

    with pytest.raises(RowWidthError) as refused:
        build_row_inserts_request(Group(entry[SHAPE], [9], [narrow]), IDS)

    assert (refused.value.expected, refused.value.actual) == (("region UINT64",), width)
    assert "record 9 of type 'event_b': expected 1 values for columns ['region UINT64'], got 0" in str(refused.value)


def test_payload_is_structured_json_never_json_in_a_text() -> None:
    payload = only_request(EventA()).rows[0][3]

    assert json.loads(payload) == {"a": 1}
