import json
import math
import types
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Generic, TypeVar
from uuid import UUID

import msgspec
import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretBytes,
    SecretStr,
    SerializationInfo,
    ValidationError,
    WrapSerializer,
    computed_field,
    create_model,
    field_serializer,
    model_serializer,
)

from eventrec.errors import EncodeError, InvalidEventError
from eventrec.events.encoder import Encoder
from eventrec.events.event import Event, EventModel, EventStruct, type_name
from eventrec.events.fields import Column, Timestamp
from eventrec.records.column_types import ColumnType, SemanticType
from eventrec.records.entry import EXTRA_ROWS, PAYLOAD
from eventrec.records.extra_rows import decode_rows

NOW = 1_700_000_000_000_000_000
T = TypeVar("T")


def recorded(event: object) -> tuple[str, str, int, Any, list[Any]]:
    """Type, table, timestamp, payload and the first row's extra values of the record."""
    entry = Encoder(now=lambda: NOW).encode(event)
    assert isinstance(entry, tuple), entry
    shape, timestamp, payload, _, extras, _, _ = entry
    values = [] if extras is None else decode_rows(extras)[0]
    return shape.type, shape.table, timestamp, json.loads(payload), values


@pytest.mark.parametrize(
    ("class_name", "expected"),
    [
        ("HTTPRequestDone", "http_request_done"),
        ("OrderPlaced", "order_placed"),
        ("Order", "order"),
        ("order", "order"),
        ("OrderV2Placed", "order_v2_placed"),
        ("UserID", "user_id"),
        ("ABC", "abc"),
        ("_Private", "_private"),
        ("Already_Snake", "already_snake"),
    ],
)
def test_type_name_is_the_snake_case_of_the_class_name(class_name: str, expected: str) -> None:
    assert type_name(class_name) == expected


def test_event_needs_a_payload_alone() -> None:
    class HTTPRequestDone(Event):
        @property
        def payload(self) -> object:
            return {"status": 200}

    event = HTTPRequestDone()

    assert (event.type, event.table, event.timestamp) == ("http_request_done", "events", None)
    assert (event.extra_schema(), event.extra_rows()) == ((), ((),))


# -- models


class OrderPlaced(EventModel, table="orders"):
    order_id: UUID
    customer: Annotated[UUID, Column(tag=True)]
    price: Annotated[Decimal, Column(name="cost", precision=10, scale=2)] = Decimal("1.50")
    at: Annotated[datetime | None, Timestamp()] = None


def test_marked_fields_leave_the_payload_and_become_columns() -> None:
    order = OrderPlaced(order_id=UUID(int=1), customer=UUID(int=2), at=datetime(2024, 5, 17, tzinfo=UTC))

    said = recorded(order)

    assert said == (
        "order_placed",
        "orders",
        1_715_904_000_000_000_000,
        {"order_id": str(UUID(int=1))},
        [str(UUID(int=2)), "1.50"],
    )
    columns = order.__eventrec_fields__.columns if order.__eventrec_fields__ else ()
    assert [(str(column), column.semantic) for column in columns] == [
        ("customer STRING", SemanticType.TAG),
        ("cost DECIMAL128", SemanticType.FIELD),
    ]


def test_model_without_an_own_timestamp_is_stamped() -> None:
    assert recorded(OrderPlaced(order_id=UUID(int=1), customer=UUID(int=2)))[2] == NOW


def test_subclass_inherits_table_and_columns_but_not_the_type() -> None:
    class OrderPaid(OrderPlaced):
        method: str

    class OrderLost(OrderPaid, type="lost", table="lost_orders"):
        pass

    fields: Any = {"order_id": UUID(int=1), "customer": UUID(int=2), "method": "card"}

    assert recorded(OrderPaid(**fields))[:2] == ("order_paid", "orders")
    assert recorded(OrderLost(**fields)) == (
        *("lost", "lost_orders", NOW),
        {"order_id": str(UUID(int=1)), "method": "card"},
        [str(UUID(int=2)), "1.50"],
    )


def test_fields_may_be_called_type_table_payload_and_timestamp() -> None:
    class Named(EventModel, type="named"):
        type: str
        table: int
        payload: list[int]
        timestamp: float

    said = recorded(Named(type="a", table=1, payload=[2], timestamp=0.5))

    assert said == ("named", "events", NOW, {"type": "a", "table": 1, "payload": [2], "timestamp": 0.5}, [])


def test_generic_model_keeps_its_type_and_table_when_parametrized() -> None:
    class Measured(EventModel, Generic[T], type="measure", table="measures"):
        value: T

    class Got(EventModel, Generic[T]):
        value: Annotated[T, Column(ColumnType.JSON)]

    assert recorded(Measured[int](value=1))[:2] == ("measure", "measures")
    assert recorded(Got[list[int]](value=[1])) == ("got", "events", NOW, {}, [b"[1]"])


def test_column_type_of_a_generic_model_follows_its_parameter() -> None:
    class Got(EventModel, Generic[T]):
        value: Annotated[T | None, Column()]

    assert recorded(Got[str](value="a"))[4] == ["a"]
    assert recorded(Got[int](value=1))[4] == [1]
    with pytest.raises(TypeError, match=r"Got\.value: no column type fits ~T \| None; say which"):
        Encoder().encode(Got(value=1))


@pytest.mark.parametrize(
    ("keywords", "why"),
    [
        ({"table": 1}, "Wrong: table must be text, got int"),
        ({"type": ""}, "Wrong: type must be 1 to 255 bytes"),
        ({"table": "a\0"}, "Wrong: table must be 1 to 255 bytes without NUL"),
        ({"tabel": "orders"}, r"Wrong: class keywords are type, table, layout and pydantic's, not \['tabel'\]"),
    ],
)
def test_wrong_class_keyword_is_refused_at_class_definition(keywords: dict[str, Any], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        types.new_class("Wrong", (EventModel,), keywords)


def test_class_keywords_of_pydantic_pass() -> None:
    class Open(EventModel, extra="allow", type="open"):
        pass

    assert recorded(Open.model_validate({"a": 1}))[3] == {"a": 1}


def test_models_are_frozen() -> None:
    order = OrderPlaced(order_id=UUID(int=1), customer=UUID(int=2))

    with pytest.raises(ValidationError, match="frozen"):
        order.order_id = UUID(int=3)


def test_name_to_event_is_reserved() -> None:
    with pytest.raises(TypeError, match="the name to_event is reserved"), pytest.warns(UserWarning, match="shadows"):

        class Wrong(EventModel):
            to_event: int  # type: ignore[assignment]


def test_payload_is_what_pydantic_writes() -> None:
    class Address(BaseModel):
        street: str
        model_config = ConfigDict(alias_generator=str.upper, populate_by_name=True)

    class Moved(EventModel):
        model_config = ConfigDict(serialize_by_alias=True, ser_json_timedelta="float")
        address: Address
        raw: bytes = b"text"
        when: datetime = datetime(2024, 5, 17, tzinfo=UTC)
        key: Annotated[int, Column(), Field(alias="KEY")] = 7
        price: Decimal = Decimal("1.10")

        @computed_field
        def twice(self) -> int:
            return self.key * 2

    moved = Moved(address=Address(street="a"))

    _, _, _, payload, values = recorded(moved)

    assert payload == json.loads(moved.model_dump_json(exclude={"key"}))
    assert values == [7]


def test_model_is_one_with_its_to_event() -> None:
    order = OrderPlaced(order_id=UUID(int=1), customer=UUID(int=2), at=datetime(2024, 5, 17, tzinfo=UTC))

    assert recorded(order.to_event()) == recorded(order)


def test_overridden_to_event_is_what_is_recorded() -> None:
    class Small(EventModel):
        size: int

        def to_event(self) -> Event | None:
            return None if self.size > 3 else super().to_event()

    class Tiny(EventStruct):
        size: int

        def to_event(self) -> Event | None:
            return None if self.size > 3 else super().to_event()

    encoder = Encoder()

    assert [encoder.encode(Small(size=5)), encoder.encode(Tiny(5))] == ["declined", "declined"]
    assert recorded(Small(size=1))[3] == recorded(Tiny(1))[3] == {"size": 1}


# -- what a serializer masks is masked everywhere


Masked = Annotated[str, PlainSerializer(lambda card: f"***{card[-1]}")]


class Paid(EventModel):
    plain: str = "1234"
    annotated: Masked = "1234"
    secret: SecretStr = SecretStr("1234")
    column_annotated: Annotated[Masked, Column()] = "1234"
    column_secret: Annotated[SecretStr, Column(ColumnType.STRING)] = SecretStr("1234")
    column_by_method: Annotated[str, Column()] = "1234"
    column_in_json_alone: Annotated[str, Column()] = "1234"
    column_by_mode: Annotated[int, Column()] = 1234
    column_raw: Annotated[SecretBytes | None, Column(ColumnType.STRING)] = SecretBytes(b"1234")
    column_inside: Annotated[dict[str, Masked], Column()] = Field(default={"card": "1234"})

    @field_serializer("plain", "column_by_method")
    def _always(self, _: str) -> str:
        return "masked"

    @field_serializer("column_in_json_alone", when_used="json")
    def _in_json(self, _: str) -> str:
        return "masked"

    @field_serializer("column_by_mode")
    def _by_mode(self, value: int, info: SerializationInfo) -> int:
        return 0 if info.mode == "json" else value


def test_what_a_serializer_masks_is_masked_in_payload_and_columns() -> None:
    entry = Encoder().encode(Paid())

    assert isinstance(entry, tuple)
    assert b"1234" not in entry[PAYLOAD] + (entry[EXTRA_ROWS] or b"")
    _, _, _, payload, values = recorded(Paid())
    assert payload == {"plain": "masked", "annotated": "***4", "secret": "**********"}
    assert values == ["***4", "**********", "masked", "masked", 0, "**********", b'{"card":"***4"}']


def test_mask_inherited_from_a_config_holds_for_columns() -> None:
    with pytest.warns(DeprecationWarning, match="json_encoders"):

        class Quiet(EventModel):
            model_config = ConfigDict(json_encoders={str: lambda text: "*" * len(text)})
            name: Annotated[str, Column()]

    assert recorded(Quiet(name="abc"))[4] == ["***"]


@pytest.mark.parametrize(
    ("annotation", "card", "expected"),
    [
        (Annotated[Masked, Column()], "1234", "***4"),
        (Annotated[Masked | None, Column()], "1234", "***4"),
        (
            Annotated[str, AfterValidator(str.lower), PlainSerializer(lambda _: "*", when_used="json"), Column()],
            "1234",
            "*",
        ),
        (Annotated[str, WrapSerializer(lambda text, write: write(text)[:1]), Column()], "1234", "1"),
        (Annotated[SecretStr, Column(ColumnType.STRING)], "1234", "**********"),
        (Annotated[list[Masked], Column()], list("1234"), b'["***1","***2","***3","***4"]'),
        (Annotated[dict[str, SecretStr], Column()], {"a": "1234"}, b'{"a":"**********"}'),
    ],
)
def test_mask_holds_for_a_column_that_stands_alone(annotation: Any, card: object, expected: object) -> None:
    model: Any = create_model("Masking", __base__=EventModel, card=(annotation, ...))

    assert recorded(model(card=card))[4] == [expected]


def test_serializer_of_another_type_is_refused_by_the_column() -> None:
    class Counted(EventModel):
        count: Annotated[int, Column()] = 5

        @field_serializer("count")
        def _as_text(self, count: int) -> str:
            return f"about {count}"

    with pytest.raises(EncodeError, match="column 'count': a value of kind str does not fit INT64"):
        recorded(Counted())


def test_value_that_only_its_serializer_can_write_is_what_that_writes() -> None:
    class Money:
        cents = 950

    class Bought(EventModel, arbitrary_types_allowed=True):
        price: Annotated[
            Money, PlainSerializer(lambda money: money.cents, when_used="json"), Column(ColumnType.INT64)
        ] = Money()

    assert recorded(Bought())[4] == [950]


def test_masking_model_inside_a_json_column_masks_there_too() -> None:
    class Card(BaseModel):
        number: SecretStr
        at: datetime

    class Charged(EventModel):
        card: Annotated[Card, Column(ColumnType.STRUCT)]

    charged = Charged(card=Card(number=SecretStr("1234"), at=datetime(2024, 5, 17, tzinfo=UTC)))

    assert recorded(charged)[4] == [b'{"number":"**********","at":"2024-05-17T00:00:00Z"}']


def test_columns_of_models_with_a_model_serializer_are_refused() -> None:
    with pytest.raises(TypeError, match="Wrong: has a model_serializer, so its fields cannot be columns"):

        class Wrong(EventModel):
            name: Annotated[str, Column()]

            @model_serializer
            def _all(self) -> dict[str, Any]:
                return {"n": self.name}


def test_model_serializer_makes_the_payload() -> None:
    class Wrapped(EventModel):
        name: str

        @model_serializer
        def _all(self) -> dict[str, Any]:
            return {"n": self.name}

    assert recorded(Wrapped(name="a"))[3] == {"n": "a"}


def test_field_left_out_by_pydantic_cannot_be_a_column() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.name: Column\(\) takes it out of the payload already"):

        class Wrong(EventModel):
            name: Annotated[str, Column()] = Field(exclude=True)


def test_validated_value_is_what_the_column_holds() -> None:
    class Lowered(EventModel):
        name: Annotated[str, Column(), AfterValidator(str.lower)]

    assert recorded(Lowered(name="ABC"))[4] == ["abc"]


# -- what cannot be encoded


class Inner(BaseModel):
    """Its own config writes NaN as null."""

    x: float | None


class Anything(EventModel):
    value: Any = None
    inner: Inner | None = None
    number: float | None = None


@pytest.mark.parametrize(
    "event",
    [
        Anything(value=math.nan),
        Anything(value=[math.inf]),
        Anything(value={"a": Inner(x=math.nan)}),
        Anything(inner=Inner(x=-math.inf)),
        Anything(number=math.nan),
        Anything.model_construct(number="NaN", value=math.nan),
    ],
)
def test_nan_in_a_model_is_refused_also_where_pydantic_writes_null(event: EventModel) -> None:
    with pytest.raises(EncodeError, match="not a JSON value"):
        Encoder().encode(event)


def test_null_and_the_word_nan_in_a_model_are_fine() -> None:
    assert recorded(Anything(value="NaN", inner=Inner(x=None)))[3] == {
        "value": "NaN",
        "inner": {"x": None},
        "number": None,
    }


def test_author_of_a_model_may_write_nan_as_null() -> None:
    class Lenient(EventModel):
        model_config = ConfigDict(ser_json_inf_nan="null")
        value: float

    assert recorded(Lenient(value=math.nan))[3] == {"value": None}


@pytest.mark.parametrize("value", [b"\xff", "\ud800", object()], ids=["bytes", "surrogate", "object"])
def test_model_that_pydantic_cannot_write_is_refused(value: object) -> None:
    with pytest.raises(EncodeError, match="not a JSON value"):
        Encoder().encode(Anything(value=value))


@pytest.mark.parametrize("number", [None, 1.5])
def test_integer_of_any_size_in_a_model_is_kept_exactly(number: float | None) -> None:
    entry = Encoder().encode(Anything(value=10**5_000, number=number))

    assert isinstance(entry, tuple)
    assert b'"value":1%s,' % (b"0" * 5_000) in entry[PAYLOAD]


def test_model_whose_serializer_fails_is_refused() -> None:
    class Broken(EventModel):
        name: Annotated[str, Column()] = "a"

        @field_serializer("name")
        def _fail(self, _: str) -> str:
            raise ZeroDivisionError

    with pytest.raises(EncodeError, match="ZeroDivisionError"):
        Encoder().encode(Broken())


def test_model_completed_later_has_its_columns() -> None:
    class Late(EventModel):
        value: "Annotated[LaterNamed, Column(), Field(gt=0)]"  # type: ignore[name-defined] # noqa: F821

    Late.model_rebuild(_types_namespace={"LaterNamed": int})

    assert recorded(Late(value=1))[3:] == ({}, [1])


# -- structs


class Clicked(EventStruct, rename="camel"):
    type: ClassVar[str] = "clicked"
    table: ClassVar[str] = "clicks"
    page_name: str
    user_id: Annotated[UUID, Column(tag=True)]
    at: Annotated[datetime | int | None, Timestamp()] = None
    note: str | None = None


def test_struct_says_type_and_table_by_class_variables() -> None:
    said = recorded(Clicked("home", UUID(int=1), 5))

    assert said == ("clicked", "clicks", 5, {"pageName": "home", "note": None}, [str(UUID(int=1))])


def test_struct_has_defaults_for_type_and_table() -> None:
    class PageSeen(EventStruct):
        page: str

    assert recorded(PageSeen("home")) == ("page_seen", "events", NOW, {"page": "home"}, [])


def test_struct_may_have_fields_of_any_name() -> None:
    class Named(EventStruct):
        type: str
        table: str

    assert recorded(Named("a", "b")) == ("named", "events", NOW, {"type": "a", "table": "b"}, [])


def test_struct_is_one_with_its_to_event() -> None:
    clicked = Clicked("home", UUID(int=1), datetime(2024, 5, 17, tzinfo=UTC))

    assert recorded(clicked.to_event()) == recorded(clicked)


def test_struct_options_hold_for_what_is_left_of_the_payload() -> None:
    class Tagged(EventStruct, tag="t", tag_field="kind", omit_defaults=True):
        a: int = 1
        b: Annotated[int, Column()] = 2
        c: int | msgspec.UnsetType = msgspec.UNSET

    class AllTagged(EventStruct, tag=True):
        b: Annotated[bytes, Column()]
        c: int | msgspec.UnsetType = msgspec.UNSET

    class AllColumns(EventStruct):
        b: Annotated[int, Column()]

    assert recorded(Tagged())[3:] == ({"kind": "t"}, [2])
    assert recorded(Tagged(a=3))[3:] == ({"kind": "t", "a": 3}, [2])
    assert recorded(AllTagged(b"\xff"))[3:] == ({"type": "AllTagged"}, [b"\xff"])
    assert recorded(AllColumns(1))[3:] == ({}, [1])


def test_struct_as_array_is_a_payload_but_has_no_columns() -> None:
    class Plain(EventStruct, array_like=True):
        a: int

    class Wrong(EventStruct, array_like=True):
        a: Annotated[int, Column()]

    assert recorded(Plain(1))[3] == [1]
    with pytest.raises(TypeError, match="Wrong: array_like leaves no names"):
        Encoder().encode(Wrong(1))


@pytest.mark.parametrize(
    "value", [math.nan, [math.inf], b"x", {"a": b"x"}, {b"a": 1}, object(), "\ud800"], ids=lambda value: repr(value)[:8]
)
def test_struct_that_json_cannot_say_is_refused(value: Any) -> None:
    class Bare(EventStruct):
        value: Any

    class WithColumn(EventStruct):
        value: Any
        column: Annotated[int, Column()] = 1

    class Omitting(EventStruct, omit_defaults=True):
        value: Any
        column: Annotated[int, Column()] = 1

    for struct in (Bare(value), WithColumn(value), Omitting(value)):
        with pytest.raises(EncodeError, match="not a JSON value"):
            Encoder().encode(struct)


def test_dataclass_that_is_an_event_is_recorded() -> None:
    @dataclass(frozen=True, slots=True)
    class Opened(Event):
        door: str

        @property
        def payload(self) -> object:
            return {"door": self.door}

    assert recorded(Opened("front")) == ("opened", "events", NOW, {"door": "front"}, [])


def test_type_of_a_struct_is_checked_when_recorded() -> None:
    class Wrong(EventStruct):
        type: ClassVar[str] = ""

    with pytest.raises(InvalidEventError, match="type must be 1 to 255 bytes"):
        Encoder().encode(Wrong())
