"""A catalogue gives records back as their classes, older ones upgraded; what contradicts itself is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar
from uuid import UUID, uuid4

import pytest
from pydantic import ConfigDict, Field

from eventrec import (
    TIMESTAMP,
    TYPE,
    CatalogueError,
    Column,
    DecodeError,
    Event,
    EventModel,
    EventStruct,
    Hashed,
    Layout,
    LayoutColumn,
    ReceivedEvent,
    Record,
    Timestamp,
)
from eventrec.analytics import Catalogue, Rollup, Upgrade, bucket, count

Recorded = Callable[[object], Record]
T = TypeVar("T")


class OrderPlacedV1(EventModel, type="order_placed", table="orders"):
    order_id: UUID
    total: float


class OrderPlacedV2(EventModel, type="order_placed", table="orders"):
    schema_version: Literal[2] = 2
    order_id: UUID
    cents: int


class OrderPlaced(EventModel, table="orders"):
    schema_version: Literal[3] = 3
    order_id: UUID
    cents: int
    currency: Annotated[str, Column()]
    at: Annotated[datetime | None, Timestamp()] = None


class ClickedV1(EventStruct):
    type: ClassVar[str] = "clicked"
    target: str


class Clicked(EventStruct, kw_only=True):
    target: str
    user: Annotated[str, Column()]
    schema_version: Literal[2] = 2


def to_cents(old: OrderPlacedV1) -> OrderPlacedV2:
    return OrderPlacedV2(order_id=old.order_id, cents=round(old.total * 100))


def to_currency(old: OrderPlacedV2) -> OrderPlaced:
    return OrderPlaced(order_id=old.order_id, cents=old.cents, currency="EUR")


FIRST = Upgrade(OrderPlacedV1, OrderPlacedV2, to_cents)
SECOND = Upgrade(OrderPlacedV2, OrderPlaced, to_currency)
ORDERS: list[type[EventModel]] = [OrderPlacedV1, OrderPlacedV2, OrderPlaced]


@pytest.fixture(scope="module")
def shop() -> Catalogue:
    return Catalogue(
        name="shop",
        events=[*ORDERS, ClickedV1, Clicked],
        upgrades=[FIRST, SECOND, Upgrade(ClickedV1, Clicked, lambda old: Clicked(target=old.target, user="nobody"))],
        aliases={"order_made": "order_placed"},
    )


# -- what it says


def test_it_lists_types_and_versions(shop: Catalogue) -> None:
    assert shop.types == ("order_placed", "clicked")
    assert [version.cls for version in shop.versions("order_placed").values()] == ORDERS
    assert (shop.newest("order_made").cls, shop.newest("clicked").version) == (OrderPlaced, 2)
    assert [event.table for event in shop.events] == ["orders", "orders", "orders", "events", "events"]
    assert (shop.layouts, shop.rollups) == ((), ())
    with pytest.raises(CatalogueError, match="'shop' has no event of type 'unheard'"):
        shop.newest("unheard")


def test_class_without_the_field_is_version_one_and_pays_nothing(recorded: Recorded) -> None:
    record = recorded(OrderPlacedV1(order_id=uuid4(), total=1.5))

    assert b"version" not in record.payload
    assert Catalogue(name="shop", events=[OrderPlacedV1]).version_of(record) == 1


# -- records back to classes


def test_record_decodes_to_the_class_that_recorded_it(shop: Catalogue, recorded: Recorded) -> None:
    order = OrderPlaced(order_id=uuid4(), cents=5, currency="CHF", at=datetime(2026, 2, 3, tzinfo=UTC))
    click = Clicked(target="buy", user="ada")

    assert shop.decode(recorded(order)) == order
    assert shop.decode(recorded(click)) == click


def test_older_versions_are_upgraded_step_by_step(shop: Catalogue, recorded: Recorded) -> None:
    first = OrderPlacedV1(order_id=uuid4(), total=12.34)
    second = OrderPlacedV2(order_id=first.order_id, cents=1234)

    expected = OrderPlaced(order_id=first.order_id, cents=1234, currency="EUR")
    assert shop.decode(recorded(first)) == expected
    assert shop.decode(recorded(second)) == expected
    assert shop.decode(recorded(first), upgrade=False) == first
    assert shop.decode(recorded(ClickedV1("buy"))) == Clicked(target="buy", user="nobody")


def test_alias_is_read_as_its_type(shop: Catalogue, recorded: Recorded) -> None:
    order = OrderPlacedV1(order_id=uuid4(), total=1.0)
    record = replace(recorded(order), type="order_made")

    assert shop.decode(record, upgrade=False) == order


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"schema_version":4}', "is version 4 of 'order_placed': catalogue 'shop' knows 1, 2, 3"),
        (b'{"schema_version":"2"}', "'schema_version' of a payload is not a version"),
        (b'{"schema_version":0}', "is not a version"),
        (b'{"schema_version":2.0}', "is not a version"),
        (b'{"schema_version":null}', "is not a version"),
        (b'{"schema_version":99999999999999999999}', "is not a version"),
        (b'{"schema_version":2', "is not JSON"),
        (b"\xff", "is not JSON"),
        (b'{"schema_version":3}', "does not fit OrderPlaced"),
        (b"[1]", "does not fit OrderPlacedV1"),
        (b"null", "does not fit OrderPlacedV1"),
        (b"[" * 100_000, "is not JSON|does not fit"),
    ],
)
def test_what_cannot_be_decoded_is_refused(shop: Catalogue, recorded: Recorded, payload: bytes, said: str) -> None:
    record = recorded(ReceivedEvent("order_placed", b"{}", table="orders"))

    with pytest.raises(DecodeError, match=said):
        shop.decode(replace(record, payload=payload))


def test_type_that_is_not_in_the_catalogue_is_refused(shop: Catalogue, recorded: Recorded) -> None:
    with pytest.raises(DecodeError, match="catalogue 'shop' has no event of type 'other'"):
        shop.decode(recorded(ReceivedEvent("other", b"{}")))


def test_member_of_that_name_that_is_no_version_is_left_alone_where_none_is_declared(recorded: Recorded) -> None:
    class Loaded(EventModel):
        name: str

    catalogue = Catalogue(name="shop", events=[Loaded])

    assert catalogue.decode(recorded(ReceivedEvent("loaded", b'{"schema_version":"x","name":"n"}'))) == Loaded(name="n")
    with pytest.raises(DecodeError, match="is version 2 of 'loaded': catalogue 'shop' knows 1"):
        catalogue.decode(recorded(ReceivedEvent("loaded", b'{"schema_version":2,"name":"n"}')))


def test_upgrade_that_fails_or_gives_something_else_is_refused(recorded: Recorded) -> None:
    def broken(_: OrderPlacedV1) -> OrderPlacedV2:
        raise ZeroDivisionError

    def wrong(old: OrderPlacedV1) -> Any:
        return old

    record = recorded(OrderPlacedV1(order_id=uuid4(), total=1.0))
    cases: list[tuple[Any, str]] = [(broken, "raised ZeroDivisionError"), (wrong, "gave an OrderPlacedV1")]
    for convert, said in cases:
        shop = Catalogue(name="shop", events=ORDERS[:2], upgrades=[Upgrade(OrderPlacedV1, OrderPlacedV2, convert)])
        with pytest.raises(DecodeError, match=rf"the upgrade from .*OrderPlacedV1 to .*OrderPlacedV2 {said}"):
            shop.decode(record)


# -- what contradicts itself


class Twin(EventModel, type="order_placed"):
    pass


class Plain(Event):
    pass


class Envelope(EventModel, Generic[T]):
    content: T


class Waiting(EventModel):
    other: NotThere  # type: ignore[name-defined]  # noqa: F821 - on purpose


class Other(EventModel):
    schema_version: Literal[2] = 2


class Daily(Rollup, name="daily", events=[OrderPlacedV1]):
    day = bucket("1 day")
    orders = count()


class AlsoDaily(Daily, name="Daily"):
    pass


class Orders(Daily, name="orders"):
    pass


SHORT = Layout("orders", [LayoutColumn("kind", TYPE, "varchar", length=5)])
LONG = Layout("Orders", [LayoutColumn("kind", TYPE, "text")])
BACK = Upgrade(OrderPlacedV2, OrderPlacedV1, lambda _: OrderPlacedV1(order_id=uuid4(), total=1.0))
SKIPPING = Upgrade(OrderPlacedV1, OrderPlaced, lambda old: to_currency(to_cents(old)))
ACROSS = Upgrade(OrderPlacedV1, Other, lambda _: Other())


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"events": [OrderPlacedV1, Twin]}, r"OrderPlacedV1 and .*Twin are both order_placed version 1"),
        ({"events": [Twin, Twin]}, "Twin is given twice"),
        ({"events": [Plain]}, "Plain is not an EventModel or EventStruct class"),
        ({"events": [EventModel]}, "EventModel is not an EventModel or EventStruct class of an application"),
        ({"events": [OrderPlacedV1(order_id=uuid4(), total=1.0)]}, "is not an EventModel or EventStruct class"),
        ({"events": [Envelope]}, "Envelope: has type parameters"),
        ({"events": [Waiting]}, "Waiting: names what does not exist yet"),
        (
            {"events": ORDERS, "upgrades": [FIRST]},
            r"OrderPlacedV2 is order_placed version 2, and no upgrade .*version 3",
        ),
        ({"events": [OrderPlaced]}, r"OrderPlaced is order_placed version 3, and no class is of version 1, 2"),
        ({"events": [OrderPlacedV1, OrderPlaced]}, r"OrderPlacedV1 is order_placed version 1, and no upgrade"),
        (
            {"events": ORDERS, "upgrades": [FIRST, SECOND, BACK]},
            "from version 2 back to version 1: upgrades in a circle",
        ),
        ({"events": ORDERS, "upgrades": [FIRST, SKIPPING]}, "another leads"),
        ({"events": ORDERS[:1], "upgrades": [FIRST]}, "OrderPlacedV2 is not among the events"),
        (
            {"events": [*ORDERS, Other], "upgrades": [ACROSS], "retired": {"other": 1}},
            "leads from type 'order_placed' to 'other'",
        ),
        ({"events": ORDERS[:2], "upgrades": [(OrderPlacedV1, OrderPlacedV2, print)]}, "is not an Upgrade"),
        ({"events": ORDERS[:2], "upgrades": [Upgrade(OrderPlacedV1, OrderPlacedV2, None)]}, "is not an Upgrade"),  # type: ignore[arg-type]
        ({"events": ORDERS[:1], "aliases": {"clicked": "click"}}, "alias 'clicked': no event is of type 'click'"),
        (
            {"events": [OrderPlacedV1, ClickedV1], "aliases": {"clicked": "order_placed"}},
            r"alias 'clicked' of 'order_placed' is a type itself: .*ClickedV1 and .*OrderPlacedV1",
        ),
        ({"events": ORDERS[:1], "aliases": {"": "order_placed"}}, "alias"),
        ({"events": ORDERS[:1], "retired": {"order_placed": 1}}, r"up to version 1, and .*OrderPlacedV1 is"),
        ({"events": ORDERS[:1], "retired": {"clicked": 1}}, "retired: no event is of type 'clicked'"),
        ({"events": [Other], "retired": {"other": True}}, "retired: True is not a version"),
        ({"layouts": [SHORT, LONG]}, "one table has two layouts: <Layout 'orders': .*> and <Layout 'Orders': .*>"),
        ({"layouts": ["orders"]}, "'orders' is not a Layout"),
        (
            {"layouts": [SHORT], "events": [OrderPlacedV1]},
            r"OrderPlacedV1: .* holds 5 characters, and the type 'order_placed' has 12",
        ),
        ({"rollups": [Daily, AlsoDaily]}, r"rollup .*AlsoDaily has the name 'daily', and so has rollup .*\.Daily"),
        (
            {"rollups": [Daily, replace(Daily.rollup_plan, name="weekly", index="Daily")]},
            r"rollup .*weekly.* has the name 'daily', and so has rollup .*\.Daily",
        ),
        ({"rollups": [Orders], "layouts": [LONG]}, r"rollup .*Orders has the name 'orders', and so has <Layout"),
        ({"rollups": [Orders], "events": ORDERS[:1]}, r"and so has the table of .*OrderPlacedV1"),
        ({"rollups": [Rollup]}, "Rollup'> is not a rollup"),
        ({"rollups": [OrderPlacedV1]}, "is not a rollup"),
        ({"name": ""}, "catalogue"),
        ({"name": 5}, "a catalogue is a text, not 5"),
        ({"version_field": "x" * 300}, "version_field"),
    ],
)
def test_contradiction_is_refused_and_names_both(declared: dict[str, Any], said: str) -> None:
    with pytest.raises(CatalogueError, match=said):
        Catalogue(**{"name": "shop", **declared})


def test_old_versions_may_be_retired(recorded: Recorded) -> None:
    shop = Catalogue(name="shop", events=[OrderPlaced], retired={"order_placed": 2})

    with pytest.raises(DecodeError, match="is version 1 of 'order_placed': catalogue 'shop' knows 3"):
        shop.decode(recorded(OrderPlacedV1(order_id=uuid4(), total=1.0)))


# -- how a version is declared


class NotLiteral(EventModel):
    schema_version: int = 2


class OfText(EventModel):
    schema_version: str = "1.2.3"


class OfTwo(EventModel):
    schema_version: Literal[1, 2] = 2


class OfBool(EventModel):
    schema_version: Literal[True] = True


class OfZero(EventModel):
    schema_version: Literal[0] = 0


class WithoutDefault(EventModel):
    schema_version: Literal[2]


class Excluded(EventModel):
    schema_version: Literal[2] = Field(default=2, exclude=True)


class AsColumn(EventModel):
    schema_version: Annotated[Literal[2], Column()] = 2


class Marked(EventModel):
    schema_version: Annotated[Literal[2], Hashed()] = 2


class Renamed(EventModel):
    model_config = ConfigDict(serialize_by_alias=True)

    schema_version: Literal[2] = Field(default=2, alias="v")


class RenamedStruct(EventStruct, rename="camel"):
    schema_version: Literal[2] = 2


class OmittingStruct(EventStruct, omit_defaults=True):
    schema_version: Literal[2] = 2


class ListStruct(EventStruct, array_like=True):
    schema_version: Literal[2] = 2


class BareStruct(EventStruct):
    schema_version: Literal[2]


@pytest.mark.parametrize("cls", [NotLiteral, OfText, OfTwo, OfBool, OfZero])
def test_field_that_is_not_a_version_is_refused(cls: type[EventModel]) -> None:
    with pytest.raises(CatalogueError, match=rf"{cls.__name__}\.schema_version is not a version: write"):
        Catalogue(name="shop", events=[cls])


@pytest.mark.parametrize("cls", [WithoutDefault, BareStruct])
def test_version_without_its_default_is_refused(cls: type[EventModel]) -> None:
    with pytest.raises(CatalogueError, match=r"needs the default 2"):
        Catalogue(name="shop", events=[cls])


@pytest.mark.parametrize("cls", [Excluded, AsColumn, Marked, Renamed, RenamedStruct, OmittingStruct, ListStruct])
def test_version_that_would_not_stand_in_every_payload_is_refused(cls: type[EventModel]) -> None:
    with pytest.raises(CatalogueError, match=r"would not stand in every payload"):
        Catalogue(name="shop", events=[cls])


def test_application_with_a_field_of_that_name_chooses_another(recorded: Recorded) -> None:
    class Kept(EventModel):
        schema_version: str
        v: Literal[2] = 2

    catalogue = Catalogue(name="shop", events=[Kept], retired={"kept": 1}, version_field="v")

    kept = Kept(schema_version="1.2.3")
    assert catalogue.decode(recorded(kept)) == kept


def laid_out(table: str, kind: str) -> Layout:
    return Layout(table, [LayoutColumn("at", TIMESTAMP, "timestamptz"), LayoutColumn(kind, TYPE, "text")])


def test_layouts_of_classes_are_among_those_of_the_catalogue() -> None:
    given, own = laid_out("test_catalogue_given", "sort"), laid_out("test_catalogue_own", "kind")

    class One(EventModel, layout=laid_out("test_catalogue_given", "kind")):
        pass

    class Two(EventModel, layout=own):
        pass

    class Three(EventModel, layout=laid_out("test_catalogue_own", "sort")):
        pass

    try:
        assert Catalogue(name="shop", events=[One, Two], layouts=[given]).layouts == (given, own)
        with pytest.raises(CatalogueError, match=r"Two and .*Three have two layouts for one table"):
            Catalogue(name="shop", events=[Two, Three])
        assert Catalogue(name="shop", events=[Two, Three], layouts=[own]).layouts == (own,)
    finally:
        One.__eventrec_layout__ = Two.__eventrec_layout__ = Three.__eventrec_layout__ = None
