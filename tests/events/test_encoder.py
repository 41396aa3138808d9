import enum
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, cast
from uuid import UUID

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.errors import EncodeError, InvalidEventError, RowWidthError
from eventrec.events.encoder import MAX_CLASSES, MAX_SHAPES, Encoder
from eventrec.events.event import Event, EventModel, EventStruct, ReceivedEvent
from eventrec.events.fields import Column, Timestamp
from eventrec.records.column_types import ColumnType
from eventrec.records.entry import EXTRA_ROWS, OVERHEAD_BYTES, PAYLOAD, SHAPE, TIMESTAMP, Entry
from eventrec.records.extra_rows import MAX_ROWS, decode_rows, encode_rows
from eventrec.records.ids import Ids
from eventrec.records.marks import Redacted
from eventrec.records.schema import ColumnSchema, Row, Shape

NOW = 1_700_000_000_000_000_000
LOG_ID = UUID("0190f3a2-5b7e-7c4d-9a1b-2c3d4e5f6a7b")
A = ColumnSchema("a", ColumnType.INT64)
B = ColumnSchema("b", ColumnType.STRING)


class Said(Event):
    """An event of which a test says each member; what it does not say is left at the default."""

    def __init__(self, payload: object = None, **said: Any) -> None:
        self.said: dict[str, Any] = {"payload": payload, **said}

    @property
    def type(self) -> str:
        return cast("str", self.said.get("type", "said"))

    @property
    def table(self) -> str:
        return cast("str", self.said.get("table", "events"))

    @property
    def payload(self) -> object:
        payload = self.said["payload"]
        return payload() if callable(payload) else payload

    @property
    def timestamp(self) -> int | None:
        return self.said.get("timestamp")

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return cast("Sequence[ColumnSchema]", self.said.get("schema", ()))

    def extra_rows(self) -> Sequence[Row]:
        return cast("Sequence[Row]", self.said.get("rows", ((),)))


class Plain(Event):
    def __init__(self, payload: object) -> None:
        self._payload = payload

    @property
    def payload(self) -> object:
        return self._payload


class Model(EventModel):
    value: Any = None


class Struct(EventStruct):
    value: Any = None


def encoded(event: object, **settings: Any) -> Entry:
    entry = Encoder(now=lambda: NOW, **settings).encode(event)
    assert isinstance(entry, tuple), entry
    return entry


def rows_of(event: object) -> list[list[Any]]:
    extras = encoded(event)[4]
    return [[]] if extras is None else decode_rows(extras)


# -- what an entry holds


def test_entry_holds_shape_time_payload_context_rows_id_and_size() -> None:
    event = Said({"a": 1}, type="t", table="u", schema=(A,), rows=((7,),))

    shape, timestamp, payload, context, extras, explicit, size = encoded(event, context=lambda: b'{"b":2}')

    assert (shape.table, shape.type, shape.columns) == ("u", "t", (A,))
    assert (timestamp, payload, context, explicit) == (NOW, b'{"a":1}', b'{"b":2}', None)
    assert extras is not None
    assert decode_rows(extras) == [[7]]
    assert size == len(payload) + len(b'{"b":2}') + len(extras) + OVERHEAD_BYTES


@pytest.mark.parametrize("event", [Plain({"a": 1}), Said({"a": 1}), ReceivedEvent("a", b'{"a":1}')])
def test_event_without_extras_counts_its_payload_and_200_bytes(event: object) -> None:
    assert encoded(event)[4:] == (None, None, len(b'{"a":1}') + 200)


def test_structured_payload_is_stored_as_structure_not_as_text_in_json() -> None:
    assert encoded(Plain({"timeout": "10s"}))[2] == b'{"timeout":"10s"}'


def test_equal_events_share_one_shape() -> None:
    encoder = Encoder()

    entries = [
        encoder.encode(Said(number, schema=schema, rows=[(1,)])) for number, schema in enumerate(([A], (A,), [A]))
    ]

    assert len({id(entry[SHAPE]) for entry in entries}) == 1


def test_shapes_and_classes_made_from_user_input_do_not_fill_the_memory() -> None:
    encoder = Encoder()

    for number in range(MAX_SHAPES + 1):
        made: Any = type(f"Made{number}", (Plain,), {})
        encoder.encode(made(1))

    assert len(encoder._shapes) <= MAX_SHAPES
    assert len(encoder.plans) <= MAX_CLASSES


# -- time


def test_event_is_stamped_once_when_it_is_recorded() -> None:
    clock = itertools.count(1)
    encoder = Encoder(now=lambda: next(clock))

    entries = [encoder.encode(event) for event in (Plain(1), Said(2), Model(), Struct(), ReceivedEvent("a", b"1"))]

    assert [entry[TIMESTAMP] for entry in entries] == [1, 2, 3, 4, 5]


def test_own_timestamp_is_kept() -> None:
    class Timed(Plain):
        @property
        def timestamp(self) -> int:
            return 7

    class TimedStruct(EventStruct):
        at: Annotated[datetime, Timestamp()]

    events = [
        Timed(1),
        Said(1, timestamp=8),
        ReceivedEvent("a", b"1", timestamp=-9),
        TimedStruct(datetime(1970, 1, 1, tzinfo=UTC)),
    ]

    assert [encoded(event)[1] for event in events] == [7, 8, -9, 0]


@pytest.mark.parametrize(
    "moment",
    [2**63, -(2**63) - 1, 1.5, True, "now", datetime.now(UTC), 10**5_000],
    ids=lambda each: type(each).__name__,
)
def test_timestamp_out_of_64_bit_or_of_another_kind_is_refused(moment: Any) -> None:
    for event in (Said(1, timestamp=moment), ReceivedEvent("a", b"1", timestamp=moment)):
        with pytest.raises(InvalidEventError, match="a timestamp is nanoseconds since the epoch as int, within 64 bit"):
            encoded(event)


def test_moment_that_64_bit_nanoseconds_cannot_say_is_refused() -> None:
    class Late(EventModel):
        at: Annotated[datetime, Timestamp()]

    with pytest.raises(InvalidEventError, match="within 64 bit"):
        encoded(Late(at=datetime(2300, 1, 1, tzinfo=UTC)))


def test_naive_moment_is_refused() -> None:
    class Naive(EventModel):
        at: Annotated[datetime, Timestamp()]

    with pytest.raises(EncodeError, match="timestamp field 'at': a datetime must carry a time zone"):
        encoded(Naive(at=datetime(2024, 5, 17)))  # noqa: DTZ001 - naive on purpose


# -- filters


def must_not_be_asked() -> object:
    pytest.fail("the payload was asked for")


class Untouchable(EventModel):
    value: int = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "value":
            must_not_be_asked()
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    ("types", "taken"), [(None, ["a", "b", "c"]), ([], []), (["b"], ["b"]), ({"a", "c", "z"}, ["a", "c"])]
)
def test_filter_takes_all_types_none_or_the_selected(types: list[str] | None, taken: list[str]) -> None:
    encoder = Encoder(types=types)

    entries = [encoder.encode(ReceivedEvent(each, b"1")) for each in "abc"]

    assert [entry[SHAPE].type for entry in entries if isinstance(entry, tuple)] == taken
    assert [entry for entry in entries if isinstance(entry, str)] == ["filtered"] * (3 - len(taken))


class LazyPlain(Event):
    @property
    def payload(self) -> object:
        return must_not_be_asked()


@pytest.mark.parametrize(
    "event",
    [
        LazyPlain(),
        Said(must_not_be_asked, rows=must_not_be_asked),
        Untouchable(),
        Struct(b"never encoded"),
        ReceivedEvent("a", b"1"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_filtered_event_is_rejected_before_its_payload_is_encoded(event: object) -> None:
    assert Encoder(types=["another"]).encode(event) == "filtered"


def test_filter_knows_a_type_that_is_an_enum_of_texts() -> None:
    class Kind(enum.StrEnum):
        OPENED = "opened"

    assert encoded(Said(1, type=Kind.OPENED), types=["opened"])[0].type == "opened"


# -- rows


def test_event_may_have_several_rows() -> None:
    event = Said({}, schema=[A, B], rows=[(1, "x"), [2, None], (None, "z")])

    assert rows_of(event) == [[1, "x"], [2, None], [None, "z"]]


def test_event_without_columns_may_have_several_rows() -> None:
    assert rows_of(Said({}, rows=[(), ()])) == [[], []]


@pytest.mark.parametrize("rows", [[], ()])
def test_event_without_rows_records_nothing(rows: Sequence[Row]) -> None:
    assert Encoder().encode(Said(must_not_be_asked, schema=[A], rows=rows)) == "declined"


@pytest.mark.parametrize("row", [(), (1,), (1, "x", 2)])
def test_width_of_a_row_must_be_that_of_the_schema(row: Row) -> None:
    with pytest.raises(RowWidthError) as refused:
        encoded(Said({}, type="t", schema=[A, B], rows=[(1, "x"), row]))

    assert (refused.value.expected, refused.value.actual) == (("a INT64", "b STRING"), len(row))
    assert str(refused.value) == (
        f"a row of type 't': expected 2 values for columns ['a INT64', 'b STRING'], got {len(row)}"
    )


def test_row_without_a_schema_is_refused() -> None:
    with pytest.raises(RowWidthError, match=r"expected 0 values for columns \[\], got 1"):
        encoded(Said({}, rows=[(1,)]))


@pytest.mark.parametrize("rows", [None, "ab", 5, iter([]), {1: 2}], ids=lambda each: type(each).__name__)
def test_rows_that_are_no_sequence_are_refused(rows: Any) -> None:
    with pytest.raises(InvalidEventError, match=rf"extra_rows\(\) must be a sequence, got {type(rows).__name__}"):
        encoded(Said({}, schema=[A], rows=rows))


@pytest.mark.parametrize("row", ["a", b"a", {"a": 1}, 5, {1}], ids=lambda each: type(each).__name__)
def test_row_that_is_no_sequence_is_refused(row: Any) -> None:
    with pytest.raises(InvalidEventError, match=f"a row must be a sequence, got {type(row).__name__}"):
        encoded(Said({}, schema=[A], rows=[row]))


def test_rows_of_one_event_are_as_many_as_an_id_tells_apart() -> None:
    assert len(rows_of(Said({}, rows=[()] * MAX_ROWS))) == 16_384

    with pytest.raises(InvalidEventError, match="at most 16384 rows, got 16385"):
        encoded(Said({}, rows=[()] * (MAX_ROWS + 1)))


def test_value_that_does_not_fit_its_column_is_refused() -> None:
    with pytest.raises(EncodeError, match="column 'a': a value of kind str does not fit INT64"):
        encoded(Said({}, schema=[A], rows=[("1",)]))


@pytest.mark.parametrize(
    "schema",
    [[A, A], ["a"], 5, [ColumnSchema("id", ColumnType.STRING)], [[]]],
    ids=["twice", "text", "int", "base", "list"],
)
def test_schema_that_is_none_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidEventError):
        encoded(Said({}, schema=schema, rows=[(1,)]))


# -- names


@pytest.mark.parametrize("member", ["type", "table"])
@pytest.mark.parametrize(
    "name",
    ["", "x" * 256, "a\0b", "\ud800", None, 5, b"a", []],
    ids=["empty", "long", "nul", "surrogate", "none", "int", "bytes", "list"],
)
def test_type_and_table_must_be_names(member: str, name: Any) -> None:
    with pytest.raises(InvalidEventError, match=r"type|table"):
        encoded(Said({}, **{member: name}))


# -- kinds of classes


@attrs.define
class AttrsEvent:
    payload: object
    type: str = "attrs"
    table: str = "events"
    timestamp: int | None = None

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return ()

    def extra_rows(self) -> Sequence[Row]:
        return ((),)


class StructEvent(msgspec.Struct):
    payload: object
    type: str = "struct"
    table: str = "events"
    timestamp: int | None = 5
    columns: ClassVar = (A,)

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return self.columns

    def extra_rows(self) -> Sequence[Row]:
        return [(1,), (2,)]


@dataclass
class Saying:
    event: Any

    def to_event(self) -> Any:
        return self.event


def test_classes_that_have_the_six_members_are_events() -> None:
    assert encoded(AttrsEvent({"a": 1}))[1:4] == (NOW, b'{"a":1}', None)
    assert rows_of(StructEvent({"a": 1})) == [[1], [2]]


@pytest.mark.parametrize("event", [Plain({"value": 1}), Model(value=1), Struct(1), AttrsEvent({"value": 1})])
def test_what_says_itself_as_an_event_is_recorded_as_that(event: Any) -> None:
    assert encoded(Saying(event))[2] == b'{"value":1}'


@pytest.mark.parametrize("rows", [(), []])
def test_a_received_event_without_rows_is_declined(rows: Sequence[Row]) -> None:
    assert Encoder().encode(ReceivedEvent("x", b"{}", columns=(A,), rows=rows)) == "declined"
    with pytest.raises(InvalidEventError, match="rows must be a sequence, got int"):
        Encoder().encode(ReceivedEvent("x", b"{}", rows=7))  # type: ignore[arg-type]


def test_what_says_nothing_is_declined() -> None:
    assert Encoder().encode(Saying(None)) == "declined"


@pytest.mark.usefixtures("without_collector")
def test_what_says_itself_without_end_is_refused() -> None:
    circle = Saying(None)
    circle.event = Saying(circle)

    with pytest.raises(RecursionError):
        Encoder().encode(circle)


def test_a_struct_with_a_field_of_the_reserved_name_is_refused() -> None:
    made: Any = msgspec.defstruct("Made", [("to_event", str)], bases=(EventStruct,), frozen=True)

    with pytest.raises(InvalidEventError, match=r"^Made: the name to_event is reserved, no field can have it$"):
        Encoder().encode(made(to_event="x"))


def test_what_says_itself_and_is_no_event_is_refused() -> None:
    circle = Saying(None)
    circle.event = circle

    with pytest.raises(InvalidEventError, match="Saying is not an event, it lacks type"):
        Encoder().encode(circle)


class ModelOrNothing(EventModel, table="paid"):
    cents: int
    who: Annotated[str, Column()] = "ada"
    secret: Annotated[str, Redacted()] = "s"

    def to_event(self) -> Any:
        return self if self.cents else None


class StructOrNothing(EventStruct):
    cents: int
    who: Annotated[str, Column()] = "ada"
    secret: Annotated[str, Redacted()] = "s"

    def to_event(self) -> Any:
        return self if self.cents else None


@dataclass
class EventOrNothing(Event):
    cents: int
    secret: Annotated[str, Redacted()] = "s"

    @property
    def payload(self) -> object:
        return {"cents": self.cents, "secret": self.secret}

    def to_event(self) -> Any:
        return self if self.cents else None


@pytest.mark.parametrize("cls", [ModelOrNothing, StructOrNothing, EventOrNothing])
def test_what_gives_itself_is_recorded_as_it_is(cls: Any) -> None:
    encoder = Encoder()

    entry = encoder.encode(cls(cents=5))

    assert isinstance(entry, tuple)
    assert entry[PAYLOAD] == b'{"cents":5,"secret":"[redacted]"}'
    assert (entry[EXTRA_ROWS] is None) is (cls is EventOrNothing)
    assert encoder.encode(cls(cents=0)) == "declined"


@pytest.mark.parametrize(
    "value", [None, "text", {"type": "a"}, 5, object(), Saying], ids=lambda each: type(each).__name__
)
def test_what_is_no_event_is_told_what_one_is(value: object) -> None:
    with pytest.raises(InvalidEventError, match=r"is not an event, it lacks .*payload.*: subclass Event"):
        Encoder().encode(value)


def test_class_in_place_of_its_instance_is_refused() -> None:
    with pytest.raises((InvalidEventError, TypeError, AttributeError)):
        Encoder().encode(Plain)


@dataclass(frozen=True)
class Failing:
    """Raises in one member."""

    member: str

    def make(self) -> Event:
        def fail(_: object) -> object:
            raise ZeroDivisionError(self.member)

        member: Any = property(fail) if not self.member.startswith("extra") else fail
        members = {"payload": property(lambda _: {}), self.member: member}
        event: Event = type("Made", (Event,), members)()
        return event


@pytest.mark.parametrize("member", ["type", "table", "payload", "timestamp", "extra_schema", "extra_rows"])
def test_what_the_events_own_code_raises_comes_out_and_harms_no_other(member: str) -> None:
    encoder = Encoder()

    with pytest.raises(ZeroDivisionError, match=member):
        encoder.encode(Failing(member).make())

    assert isinstance(encoder.encode(Plain({})), tuple)


@pytest.mark.parametrize(
    "make",
    [Plain, Said, Saying, lambda value: Model(value=value), Struct],
    ids=["plain", "said", "saying", "model", "struct"],
)
@pytest.mark.parametrize(
    "value", [math.nan, {"a": {"b": [math.inf]}}, object(), "\ud800"], ids=["nan", "inf", "object", "surrogate"]
)
def test_payload_that_cannot_be_encoded_is_refused_in_every_kind(make: Callable[[Any], Any], value: object) -> None:
    event = make(Plain(value)) if make is Saying else make(value)

    with pytest.raises(EncodeError, match="not a JSON value"):
        Encoder().encode(event)


# -- received events


def test_received_event_is_taken_as_it_is() -> None:
    explicit = bytes(range(16))
    event = ReceivedEvent("t", b'{"a": 1.0}', timestamp=5, table="u", id=explicit)

    shape, timestamp, payload, _, extras, id_, _ = encoded(event)

    assert (shape.type, shape.table, timestamp, payload, extras, id_) == ("t", "u", 5, b'{"a": 1.0}', None, explicit)


@pytest.mark.parametrize("id_", [b"", bytes(15), bytes(17), "0" * 16, UUID(int=1)], ids=repr)
def test_id_of_a_received_event_is_16_bytes(id_: Any) -> None:
    with pytest.raises(InvalidEventError, match="an id is 16 bytes, got"):
        encoded(ReceivedEvent("a", b"1", id=id_))


def test_received_event_has_the_members_of_an_event() -> None:
    event: Event = ReceivedEvent("a", b"1")

    assert (event.extra_schema(), event.extra_rows()) == ((), ((),))


@pytest.mark.parametrize("context", [b"", b"{", b"[1]", b'{"a":NaN}', b'{"a":"\xff"}'])
def test_context_of_a_received_event_is_an_object(context: bytes) -> None:
    with pytest.raises(EncodeError):
        encoded(ReceivedEvent("t", b"{}", context=context))


def test_payload_of_a_received_event_is_bytes() -> None:
    with pytest.raises(InvalidEventError, match="JSON text as bytes, got str"):
        encoded(ReceivedEvent("a", "{}"))  # type: ignore[arg-type]


def test_bytes_of_a_received_event_are_kept_as_what_they_are() -> None:
    class Blob(bytes):
        def __len__(self) -> int:
            return 3

    given = ReceivedEvent("a", Blob(b"[1]"), context=Blob(b'{"b":2}'), id=Blob(bytes(16)))

    _, _, payload, context, _, id_, _ = encoded(given)

    assert [(type(each), each) for each in (payload, context, id_)] == [
        (bytes, b"[1]"),
        (bytes, b'{"b":2}'),
        (bytes, bytes(16)),
    ]


def test_text_in_place_of_rows_keeps_its_columns_name() -> None:
    shape = Shape("t", "e", (A, B))

    with pytest.raises(EncodeError, match=r"column b STRING: a value of kind str is not valid Unicode"):
        encode_rows(shape, [(1, "fine"), (2, "\udcff")])


# -- ids

FIELDS = st.tuples(st.integers(0, 2**48 - 1), st.integers(0, MAX_ROWS - 1))


@given(st.uuids(), FIELDS)
def test_id_is_a_uuid_version_8_of_log_offset_and_row(log_id: UUID, place: tuple[int, int]) -> None:
    offset, row = place

    made = UUID(bytes=Ids(log_id).as_bytes(offset, row, None))

    assert (made.version, made.variant) == (8, "specified in RFC 4122")
    assert (made.int >> 14 & (2**48 - 1), made.int & (2**14 - 1)) == (offset, row)
    assert made.int >> 80 == UUID(bytes=Ids(log_id).as_bytes(0, 0, None)).int >> 80


@given(st.uuids(), FIELDS, st.none() | st.binary(min_size=16, max_size=16))
def test_both_forms_of_an_id_are_one(log_id: UUID, place: tuple[int, int], explicit: bytes | None) -> None:
    ids = Ids(log_id)

    assert ids.as_text(*place, explicit) == str(UUID(bytes=ids.as_bytes(*place, explicit)))


def test_ids_of_a_log_are_golden() -> None:
    ids = Ids(LOG_ID)

    made = [ids.as_text(0, 0, None), ids.as_text(1, 2, None), ids.as_text(2**48 - 1, 2**14 - 1, None)]

    assert made == GOLDEN


def test_ids_of_two_logs_differ() -> None:
    assert Ids(UUID(int=1)).as_bytes(0, 0, None) != Ids(UUID(int=2)).as_bytes(0, 0, None)


def test_explicit_id_is_that_of_the_first_row_and_the_others_follow_from_it() -> None:
    explicit = bytes(range(16))

    made = [
        Ids(log_id).as_text(offset, row, explicit)
        for log_id, offset in ((LOG_ID, 0), (UUID(int=1), 9))
        for row in (0, 1, 2)
    ]

    assert made[:3] == made[3:] == GOLDEN_EXPLICIT


# The first 15 hexadecimal digits, but for the version, are those of `printf … | b2sum -l 64` over the log id.
GOLDEN = [
    "2b8d6ffe-93d9-80c0-8000-000000000000",
    "2b8d6ffe-93d9-80c0-8000-000000004002",
    "2b8d6ffe-93d9-80c0-bfff-ffffffffffff",
]
GOLDEN_EXPLICIT = [
    "00010203-0405-0607-0809-0a0b0c0d0e0f",
    "304bd8b8-75e1-8fec-8637-491ea0e9924e",
    "da01e350-6f71-8311-888f-74ab013e094d",
]
