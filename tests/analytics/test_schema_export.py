"""A catalogue as JSON Schema, AsyncAPI and CloudEvents: what is recorded fits the schema."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID, uuid4

import jsonschema
import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field

from eventrec import (
    CatalogueError,
    Column,
    ColumnType,
    EventModel,
    EventStruct,
    Hashed,
    Record,
    Redacted,
    Timestamp,
    Truncated,
)
from eventrec.analytics import Catalogue, Upgrade
from eventrec.analytics.event_schema import references
from eventrec.analytics.schema_export import FORMATS, Format, encoded, export
from eventrec_handlers.http.formats import messages_of

Recorded = Callable[[object], Record]


class Kind(Enum):
    GIFT = "gift"
    OWN = "own"


class Address(BaseModel):
    street: Annotated[str, Redacted()]
    before: Address | None = None


class Line(msgspec.Struct):
    sku: Annotated[str, msgspec.Meta(max_length=8)]
    buyer: Annotated[str, Hashed()] = "x"


class OrderPlacedV1(EventModel, type="order/placed", table="orders"):
    total: float


class OrderPlaced(EventModel, type="order/placed", table="orders"):
    """An order is placed."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[2] = 2
    order_id: UUID
    kind: Kind = Kind.OWN
    total: Annotated[Decimal, Field(ge=0)]
    on: date
    address: Address
    pair: tuple[int, str] = (1, "a")
    email: Annotated[str | None, Hashed()] = None
    card: Annotated[str, Redacted()] = "none"
    age: Annotated[int, Redacted()] = 0
    note: Annotated[str, Truncated(4)] = ""
    customer: Annotated[UUID, Column(name="who", tag=True)]
    amount: Annotated[Decimal, Column(precision=12, scale=2)] = Decimal(0)
    at: Annotated[datetime | None, Timestamp()] = None

    @computed_field
    def is_gift(self) -> bool:
        return self.kind is Kind.GIFT


class Basket(EventStruct, rename="camel", kw_only=True):
    type: ClassVar[str] = "basket"
    first_line: Line
    lines: list[Line] = msgspec.field(default_factory=list)
    rest: Any = None
    where: Address | None = None
    user_name: Annotated[str, Column()]


class Tree(EventModel):
    label: str
    children: list[Tree] = Field(default_factory=list)


EVENTS: list[type[EventModel | EventStruct]] = [OrderPlacedV1, OrderPlaced, Basket, Tree]
ORDER = OrderPlaced(
    order_id=uuid4(),
    total=Decimal("9.50"),
    on=date(2026, 2, 3),
    address=Address(street="Rue", before=Address(street="Via")),
    email="ada@example.org",
    card="4111",
    note="too long",
    customer=uuid4(),
    at=datetime(2026, 2, 3, tzinfo=UTC),
)
BASKET = Basket(first_line=Line("a"), lines=[Line("b", "ada")], rest={"a": [1]}, user_name="ada")
TREE = Tree(label="a", children=[Tree(label="b")])


@pytest.fixture(scope="module")
def shop() -> Catalogue:
    return Catalogue(
        name="shop & co",
        events=EVENTS,
        upgrades=[Upgrade(OrderPlacedV1, OrderPlaced, lambda _: ORDER)],
        aliases={"order": "order/placed"},
        description="What is sold.",
        release="2.1.0",
    )


def validator(document: dict[str, Any], key: str) -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator({**document, "oneOf": [{"$ref": f"#/$defs/{key}"}]})


def fields_of(record: Record) -> dict[str, Any]:
    """All that a record says, as a schema describes it."""
    stored = zip((column.name for column in record.columns), record.rows[0], strict=True)
    names = {"who": "customer", "user_name": "userName"}
    columns = {names.get(name, name): str(value) for name, value in stored}
    return {**msgspec.json.decode(record.payload), **columns}


# -- JSON Schema


@pytest.mark.parametrize(("event", "key"), [(ORDER, "order-2Fplaced.v2"), (BASKET, "basket.v1"), (TREE, "tree.v1")])
def test_what_is_recorded_fits_the_schema(shop: Catalogue, recorded: Recorded, event: object, key: str) -> None:
    said = fields_of(recorded(event)) | ({"at": "2026-02-03T00:00:00Z"} if event is ORDER else {})

    checker = validator(export(shop), key)
    checker.validate(said)
    for name in export(shop)["$defs"][key]["required"]:
        with pytest.raises(jsonschema.ValidationError):
            checker.validate({other: value for other, value in said.items() if other != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "other"),
        ("schema_version", 1),
        ("email", "ada@example.org"),
        ("card", "4111"),
        ("age", 5),
        ("note", "too long"),
        ("pair", ["a", 1]),
        ("total", []),
        ("unheard", 1),
    ],
)
def test_what_would_not_be_recorded_does_not_fit(shop: Catalogue, recorded: Recorded, name: str, value: object) -> None:
    said = fields_of(recorded(ORDER)) | {"at": "2026-02-03T00:00:00Z", name: value}

    with pytest.raises(jsonschema.ValidationError):
        validator(export(shop), "order-2Fplaced.v2").validate(said)


def test_columns_time_and_privacy_are_shown(shop: Catalogue) -> None:
    definitions = export(shop)["$defs"]
    order = definitions["order-2Fplaced.v2"]

    assert order["properties"]["customer"]["x-eventrec-column"] == {"name": "who", "type": "STRING", "tag": True}
    assert order["properties"]["amount"]["x-eventrec-column"] == {
        "name": "amount",
        "type": ColumnType.DECIMAL128.name,
        "precision": 12,
        "scale": 2,
    }
    assert order["properties"]["at"]["x-eventrec-timestamp"] is True
    assert order["x-eventrec-privacy"] == {
        "address.street": "redacted",
        "email": "hashed",
        "card": "redacted",
        "age": "redacted",
        "note": "truncated",
    }
    assert definitions["basket.v1"]["x-eventrec-privacy"] == {
        "firstLine.buyer": "hashed",
        "lines.*.buyer": "hashed",
        "where.street": "redacted",
    }
    assert "ada" not in encoded(export(shop)).decode()


def test_document_says_what_is_declared(shop: Catalogue) -> None:
    document = export(shop)

    assert document["$id"] == "urn:eventrec:catalogue:shop%20%26%20co"
    about = document["x-eventrec"]
    assert (about["release"], about["aliases"]) == ("2.1.0", {"order": "order/placed"})
    assert about["upgrades"] == [["order-2Fplaced.v1", "order-2Fplaced.v2"]]
    order = document["$defs"]["order-2Fplaced.v1"]
    assert [order[f"x-eventrec-{name}"] for name in ("type", "version", "table")] == ["order/placed", 1, "orders"]


@pytest.mark.parametrize("format_", FORMATS)
def test_every_reference_leads_to_something(shop: Catalogue, format_: Format) -> None:
    document = export(shop, format_)

    found = set(references(document))
    assert len(found) > len(EVENTS)
    for reference in found:
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        assert isinstance(target, dict)


@pytest.mark.parametrize("format_", FORMATS)
def test_same_catalogue_gives_the_same_bytes(shop: Catalogue, format_: Format) -> None:
    assert encoded(export(shop, format_)) == encoded(export(shop, format_))
    assert msgspec.json.decode(encoded(export(shop, format_))) == export(shop, format_)


@pytest.mark.parametrize("format_", FORMATS)
def test_empty_catalogue_is_a_document(format_: Format) -> None:
    document = export(Catalogue(name="empty"), format_)

    if format_ != "asyncapi":
        jsonschema.Draft202012Validator.check_schema(document)


def test_unknown_format_is_refused(shop: Catalogue) -> None:
    given: Any = "avro"
    with pytest.raises(ValueError, match="a format is one of json-schema, asyncapi, cloudevents, got 'avro'"):
        export(shop, given)


class Foreign:
    pass


class Odd(EventModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    it: Foreign
    call: Callable[[], int]


class OddStruct(EventStruct):
    it: Foreign


def test_what_has_no_schema_may_be_anything() -> None:
    definitions = export(Catalogue(name="odd", events=[Odd, OddStruct]))["$defs"]
    assert definitions["odd.v1"]["properties"]["it"].keys() <= {"title"}
    assert definitions["odd_struct.v1"]["properties"]["it"].keys() <= {"title"}


def test_class_that_pydantic_cannot_describe_is_named() -> None:
    class Broken(EventModel):
        x: int

        @classmethod
        def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
            raise TypeError("not today")

    with pytest.raises(CatalogueError, match="Broken has no JSON Schema: not today"):
        export(Catalogue(name="broken", events=[Broken]))


# -- AsyncAPI


def test_asyncapi_has_a_channel_for_each_table(shop: Catalogue) -> None:
    document = export(shop, "asyncapi")

    assert document["asyncapi"] == "3.0.0"
    assert {name: channel["address"] for name, channel in document["channels"].items()} == {
        "orders": "orders",
        "events": "events",
    }
    assert list(document["channels"]["orders"]["messages"]) == ["order-2Fplaced.v1", "order-2Fplaced.v2"]
    assert document["operations"]["record.orders"]["channel"] == {"$ref": "#/channels/orders"}
    assert document["info"] == {"title": "shop & co", "version": "2.1.0", "description": "What is sold."}


@pytest.mark.parametrize(("event", "key"), [(ORDER, "order-2Fplaced.v2"), (BASKET, "basket.v1"), (TREE, "tree.v1")])
def test_asyncapi_describes_the_payload_in_draft_7(
    shop: Catalogue, recorded: Recorded, event: object, key: str
) -> None:
    document = export(shop, "asyncapi")
    message = document["components"]["messages"][key]
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft7Validator.check_schema(schema)

    checker = jsonschema.Draft7Validator({**document, **message["payload"]})
    payload = msgspec.json.decode(recorded(event).payload)
    checker.validate(payload)
    with pytest.raises(jsonschema.ValidationError):
        checker.validate({})
    if event is ORDER:
        with pytest.raises(jsonschema.ValidationError):
            checker.validate({**payload, "pair": ["a", 1]})


# -- CloudEvents


@pytest.mark.anyio
async def test_cloudevents_that_the_http_handler_sends_fit(shop: Catalogue, batch_of: Callable[..., Any]) -> None:
    checker = jsonschema.Draft202012Validator(export(shop, "cloudevents"))
    (message,) = await messages_of(batch_of(ORDER, BASKET, TREE), format_="cloudevents-batch")

    sent = msgspec.json.decode(message.body)
    assert len(sent) == 3
    for event in sent:
        checker.validate(event)
        with pytest.raises(jsonschema.ValidationError):
            checker.validate({**event, "table": "elsewhere"})
        with pytest.raises(jsonschema.ValidationError):
            checker.validate({**event, "data": []})
