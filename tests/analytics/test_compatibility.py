"""What breaks is named, each on its own; what does not is listed."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model

from eventrec import (
    TIMESTAMP,
    TYPE,
    CatalogueError,
    Column,
    ColumnType,
    EventModel,
    EventStruct,
    Hashed,
    Layout,
    LayoutColumn,
    LayoutIndex,
    Record,
    Timestamp,
    from_context,
    from_payload,
)
from eventrec.analytics import Catalogue, Refresh, Rollup, Upgrade, bucket, count, f, group, sum_of
from eventrec.analytics.compatibility import compare
from eventrec.analytics.schema_export import encoded, export


def model(*, table: str = "events", extra: Any = "ignore", **fields: Any) -> type[EventModel]:
    """A class of the type "sold" with these fields."""
    base = type("Base", (EventModel,), {"model_config": ConfigDict(extra=extra), "__module__": __name__})
    made: Any = create_model("Sold", __base__=base, __cls_kwargs__={"type": "sold", "table": table}, **fields)
    return made  # type: ignore[no-any-return]


def changes(old: type[EventModel], new: type[EventModel]) -> list[str]:
    """Each change: a line, with `!` before those that break."""
    documents = [msgspec.json.decode(encoded(export(Catalogue(name="shop", events=[cls])))) for cls in (old, new)]
    return [f"{'!' * change.is_breaking}{change}" for change in compare(documents[0], documents[1])]


class Street(BaseModel):
    name: str


class LongStreet(BaseModel):
    model_config = ConfigDict(title="Street")

    name: str
    number: int


SOLD = "sold version 1"
TEXT, NUMBER = (str, ...), (int, ...)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # fields
        ({"a": TEXT, "b": TEXT}, {"a": TEXT}, [f"!{SOLD}, field b: is removed"]),
        ({"a": TEXT}, {"a": TEXT, "b": (str | None, None)}, [f"{SOLD}, field b: is added"]),
        (
            {"a": TEXT},
            {"a": TEXT, "b": TEXT},
            [f"!{SOLD}, field b: is added and required: events that are stored lack it"],
        ),
        (
            {"a": (str, "x")},
            {"a": TEXT},
            [
                f"!{SOLD}, field a: is now required, and events that are stored may lack it",
                f"{SOLD}, field a: the default 'x' is now none",
            ],
        ),
        (
            {"a": TEXT},
            {"a": (str, "x")},
            [f"{SOLD}, field a: is no longer required", f"{SOLD}, field a: the default none is now 'x'"],
        ),
        # types
        ({"a": TEXT}, {"a": NUMBER}, [f"!{SOLD}, field a: string is now integer"]),
        ({"a": NUMBER}, {"a": (float, ...)}, [f"{SOLD}, field a: integer is now number"]),
        ({"a": (float, ...)}, {"a": NUMBER}, [f"!{SOLD}, field a: number is now integer"]),
        ({"a": (Any, ...)}, {"a": NUMBER}, [f"!{SOLD}, field a: any value is now integer"]),
        ({"a": NUMBER}, {"a": (Any, ...)}, [f"{SOLD}, field a: integer is now any value"]),
        ({"a": (str | None, ...)}, {"a": TEXT}, [f"!{SOLD}, field a: null is no longer allowed"]),
        ({"a": TEXT}, {"a": (str | None, ...)}, [f"{SOLD}, field a: null is allowed too"]),
        (
            {"a": (list[int], ...)},
            {"a": (list[str], ...)},
            [f"!{SOLD}, field a, each item: integer is now string"],
        ),
        (
            {"a": (dict[str, int], ...)},
            {"a": (dict[str, bool], ...)},
            [f"!{SOLD}, field a, other members: integer is now boolean"],
        ),
        (
            {"a": (tuple[int, str], ...)},
            {"a": (tuple[int, int], ...)},
            [f"!{SOLD}, field a, item 1: string is now integer"],
        ),
        # narrower, and wider
        (
            {"a": (Literal["x", "y"], ...)},
            {"a": (Literal["y", "z"], ...)},
            [f"!{SOLD}, field a: 'x' is no longer allowed", f"{SOLD}, field a: 'z' is allowed too"],
        ),
        ({"a": TEXT}, {"a": (Literal["y", "z"], ...)}, [f"!{SOLD}, field a: is now one of 'y', 'z'"]),
        ({"a": (Literal["y"], ...)}, {"a": TEXT}, [f"{SOLD}, field a: is no longer one of 'y'"]),
        (
            {"a": (Annotated[str, Field(max_length=9)], ...)},
            {"a": (Annotated[str, Field(max_length=8, min_length=1)], ...)},
            [f"!{SOLD}, field a: maxLength 9 is now 8", f"!{SOLD}, field a: minLength none is now 1"],
        ),
        (
            {"a": (Annotated[int, Field(ge=3, lt=5)], ...)},
            {"a": (Annotated[int, Field(ge=2)], ...)},
            [f"{SOLD}, field a: exclusiveMaximum 5 is now none", f"{SOLD}, field a: minimum 3 is now 2"],
        ),
        (
            {"a": (Annotated[str | None, Field(max_length=9)], ...)},
            {"a": (Annotated[str | None, Field(max_length=8)], ...)},
            [f"!{SOLD}, field a: maxLength 9 is now 8"],
        ),
        (
            {"a": (Annotated[str, Field(pattern="a")], ...)},
            {"a": (Annotated[str, Field(pattern="b")], ...)},
            [f"!{SOLD}, field a: pattern 'a' is now 'b'"],
        ),
        (
            {"extra": "ignore", "a": TEXT},
            {"extra": "forbid", "a": TEXT},
            [f"!{SOLD}, other members: is refused now"],
        ),
        # inside
        (
            {"a": (Street, ...), "b": (Street | None, None)},
            {"a": (LongStreet, ...), "b": (LongStreet | None, None)},
            [f"!{SOLD}, field a, field number: is added and required: events that are stored lack it"],
        ),
        (
            {"b": (Street | None, None)},
            {"b": (LongStreet | None, None)},
            [f"!{SOLD}, field b, field number: is added and required: events that are stored lack it"],
        ),
        # what we know of a field
        (
            {"a": TEXT},
            {"a": (Annotated[str, Column()], ...)},
            [f"!{SOLD}, field a: moves from the payload to the column 'a'"],
        ),
        (
            {"a": (Annotated[str, Column()], ...)},
            {"a": TEXT},
            [f"!{SOLD}, field a: its column 'a' is removed: it moves to the payload"],
        ),
        (
            {"a": (Annotated[str, Column()], ...)},
            {"a": (Annotated[str, Column(name="b")], ...)},
            [f"!{SOLD}, field a: its column 'a' is now 'b'"],
        ),
        (
            {"a": (Annotated[int, Column(ColumnType.INT64)], ...)},
            {"a": (Annotated[int, Column(ColumnType.INT32)], ...)},
            [f"!{SOLD}, field a: its column INT64 is now INT32"],
        ),
        (
            {"a": (Annotated[int, Timestamp()], ...)},
            {"a": NUMBER},
            [f"!{SOLD}, field a: is no longer the time of the event"],
        ),
        ({"a": TEXT, "table": "t"}, {"a": TEXT}, [f"!{SOLD}: its table 't' is now 'events'"]),
        # nothing
        ({"a": TEXT}, {"a": (Annotated[str, Field(description="new", title="A!")], ...)}, []),
    ],
)
def test_change_is_named(old: dict[str, Any], new: dict[str, Any], expected: list[str]) -> None:
    assert changes(model(**old), model(**new)) == expected


def test_value_that_is_no_longer_private_is_named() -> None:
    plain, hidden = model(a=TEXT), model(a=(Annotated[str, Hashed()], ...))

    assert f"!{SOLD}, a: is no longer hashed: from now on the value itself is stored" in changes(hidden, plain)
    assert f"!{SOLD}, a: was stored as it is, and is now hashed" in changes(plain, hidden)


# -- the whole


class OrderV1(EventModel, type="order"):
    a: int


class Order(EventModel):
    schema_version: Literal[2] = 2
    b: str


class Click(EventStruct):
    type: ClassVar[str] = "click"
    x: int


UPGRADE = Upgrade(OrderV1, Order, lambda old: Order(b=str(old.a)))


def compared(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    found = compare(export(Catalogue(name="shop", **old)), export(Catalogue(name="shop", **new)))
    return [f"{'!' * change.is_breaking}{change}" for change in found]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"events": [OrderV1, Click]}, {"events": [OrderV1]}, ["!click: is removed"]),
        ({"events": [OrderV1]}, {"events": [OrderV1, Click]}, ["click: is added"]),
        (
            {"events": [OrderV1]},
            {"events": [OrderV1, Order], "upgrades": [UPGRADE]},
            ["order version 2: is added"],
        ),
        (
            {"events": [OrderV1, Order], "upgrades": [UPGRADE]},
            {"events": [Order], "retired": {"order": 1}},
            ["!order version 1: is removed: records of it no longer decode"],
        ),
        (
            {"events": [OrderV1]},
            {"events": [type("Renamed", (OrderV1,), {"__module__": __name__})], "aliases": {"order": "renamed"}},
            ["alias order: leads to renamed", "order: is now called renamed"],
        ),
        (
            {"events": [OrderV1], "aliases": {"o": "order"}},
            {"events": [OrderV1]},
            ["!alias o: no longer leads to order: records of that name do not decode"],
        ),
        (
            {"events": [OrderV1]},
            {"events": [OrderV1], "version_field": "v"},
            ["!version_field: 'schema_version' is now 'v': stored versions are lost"],
        ),
        ({"events": [OrderV1]}, {"events": [OrderV1], "release": "2"}, []),
    ],
)
def test_change_of_the_whole_is_named(old: dict[str, Any], new: dict[str, Any], expected: list[str]) -> None:
    assert sorted(compared(old, new)) == sorted(expected)


def layout(*columns: LayoutColumn, **parts: Any) -> dict[str, Any]:
    base = [LayoutColumn("kind", TYPE, "varchar", length=20), LayoutColumn("at", TIMESTAMP, "timestamptz")]
    return {"layouts": [Layout("t", [*base, *columns], **parts)]}


TEXT_A = LayoutColumn("a", from_payload("a"), "varchar", length=9)
OF_T = "layout of table t"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, layout(), [f"{OF_T}: is added"]),
        (layout(), {}, [f"!{OF_T}: is removed"]),
        (layout(TEXT_A), layout(), [f"!{OF_T}, column a: is removed"]),
        (layout(), layout(TEXT_A), [f"{OF_T}, column a: is added"]),
        (
            layout(),
            layout(LayoutColumn("a", from_payload("a"), "text", nullable=False)),
            [f"!{OF_T}, column a: is added, and refuses records without a value"],
        ),
        (
            layout(),
            layout(LayoutColumn("a", from_payload("a"), "text", nullable=False, default="")),
            [f"{OF_T}, column a: is added"],
        ),
        (
            layout(TEXT_A),
            layout(LayoutColumn("a", from_payload("a"), "varchar", length=8)),
            [f"!{OF_T}, column a: length 9 is now 8"],
        ),
        (
            layout(TEXT_A),
            layout(LayoutColumn("a", from_payload("a"), "varchar", length=10)),
            [f"{OF_T}, column a: length 9 is now 10"],
        ),
        (
            layout(TEXT_A),
            layout(LayoutColumn("a", from_payload("a"), "text")),
            [f"!{OF_T}, column a: type varchar is now text"],
        ),
        (
            layout(TEXT_A),
            layout(LayoutColumn("a", from_context("a"), "varchar", length=9)),
            [f"!{OF_T}, column a: source payload is now context"],
        ),
        (
            layout(TEXT_A),
            layout(LayoutColumn("a", from_payload("a"), "varchar", length=9, nullable=False)),
            [f"!{OF_T}, column a: now refuses records without a value"],
        ),
        (
            layout(retention="90d"),
            layout(retention="30d"),
            [f"!{OF_T}: rows are kept for 30 days, no longer for 90 days"],
        ),
        (layout(retention="90d"), layout(), [f"{OF_T}: rows are kept for ever, no longer for 90 days"]),
        (
            layout(),
            layout(partition="day"),
            [f"!{OF_T}: partition None is now day: no migration changes it in place"],
        ),
        (layout(), layout(indexes=[LayoutIndex("i", ("kind",))]), [f"{OF_T}: indexes changed"]),
    ],
)
def test_change_of_a_layout_is_named(old: dict[str, Any], new: dict[str, Any], expected: list[str]) -> None:
    assert compared(old, new) == expected


class Bought(EventModel):
    shop: str
    price: int


def rollup(**body: Any) -> dict[str, Any]:
    """A catalogue of one rollup, whose class has these members beside a bucket and a count."""
    keywords = {name: body.pop(name) for name in ("where", "events") if name in body}
    members = {"day": bucket("1 day"), "number": count(), **body}
    made: Any = type(
        "Daily", (Rollup,), {name: value for name, value in members.items() if value}, events=[Bought], **keywords
    )
    return {"rollups": [made]}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, rollup(), ["rollup daily: is added"]),
        (rollup(), {}, ["!rollup daily: is removed"]),
        (rollup(), rollup(total=sum_of("price")), ["rollup daily, measure total: is added"]),
        (rollup(total=sum_of("price")), rollup(), ["!rollup daily, measure total: is removed"]),
        (
            rollup(),
            rollup(number=count(where=f("price") > 1)),
            ["!rollup daily, measure number: changed: its numbers would mean something else"],
        ),
        (
            rollup(),
            rollup(shop=group("shop")),
            ["!rollup daily, group shop: is added: a row no longer tells of the same events"],
        ),
        (
            rollup(),
            rollup(day=bucket("1 day", zone="Europe/Zurich")),
            ["!rollup daily: its bucket changed: its numbers would mean something else"],
        ),
        (
            rollup(),
            rollup(where=f("price") > 1),
            ["!rollup daily: its where changed: its numbers would mean something else"],
        ),
        (
            rollup(retention="2 years"),
            rollup(retention="1 year"),
            ["!rollup daily: rows are kept for 365 days, no longer for 730 days"],
        ),
        (rollup(), rollup(refresh=Refresh(every="2 hours")), ["rollup daily: is refreshed at other times"]),
        (rollup(), rollup(), []),
    ],
)
def test_change_of_a_rollup_is_named(old: dict[str, Any], new: dict[str, Any], expected: list[str]) -> None:
    assert compared(old, new) == expected


def test_what_breaks_comes_first() -> None:
    found = compare(export(Catalogue(name="shop", events=[OrderV1])), export(Catalogue(name="shop", events=[Click])))

    assert [(change.is_breaking, change.kind, change.subject) for change in found] == [
        (True, "removed", "order"),
        (False, "added", "click"),
    ]


# -- bad documents


@pytest.mark.parametrize("document", [{}, {"x-eventrec": 5}, {"x-eventrec": {"document": 2}}, {"x-eventrec": {}}])
def test_other_documents_are_refused(document: dict[str, Any]) -> None:
    good = export(Catalogue(name="shop", events=[OrderV1]))

    for pair in ((document, good), (good, document)):
        with pytest.raises(CatalogueError, match="a catalogue"):
            compare(*pair)


def every_damage(document: Any, where: Callable[[], Any], depth: int = 0) -> Any:
    """Copies of the whole in which one value is another."""
    if depth > 5:
        return
    for key in list(document) if isinstance(document, dict) else range(len(document)):
        value = document[key]
        for bad in (None, 5, "x", [], {}, [None], {"a": None}):
            document[key] = bad
            yield deepcopy(where())
        document[key] = value
        if isinstance(value, (dict, list)):
            yield from every_damage(value, where, depth + 1)


def test_damaged_document_is_compared_or_refused() -> None:
    good = export(Catalogue(name="shop", events=[OrderV1, Click, model(a=(Street | None, None), b=(int, 5))]))
    damaged = deepcopy(good)
    refused = 0

    for document in every_damage(damaged, lambda: damaged):
        for pair in ((document, good), (good, document)):
            try:
                compare(*pair)
            except CatalogueError:
                refused += 1
    assert refused > 100


def test_definitions_that_refer_to_each_other_end() -> None:
    document = export(Catalogue(name="shop", events=[OrderV1]))
    looped = deepcopy(document)
    looped["$defs"]["order.v1"]["properties"]["a"] = {"$ref": "#/$defs/x"}
    looped["$defs"] |= {"x": {"$ref": "#/$defs/y"}, "y": {"$ref": "#/$defs/x"}}

    assert [change.is_breaking for change in compare(document, looped)] == [False]
    assert [change.is_breaking for change in compare(looped, document)] == [True]


def test_recursive_class_is_compared_to_its_depth() -> None:
    class Tree(BaseModel):
        label: str
        children: list[Tree] = Field(default_factory=list)

    class Other(BaseModel):
        label: int
        children: list[Other] = Field(default_factory=list)

    old, new = model(tree=(Tree, ...)), model(tree=(Other, ...))

    assert changes(old, new) == [f"!{SOLD}, field tree, field label: string is now integer"]


def test_recorded_version_still_decodes_where_nothing_breaks(recorded: Callable[[object], Record]) -> None:
    old: Any = model(a=NUMBER)
    new = model(a=(float, ...), b=(str | None, None))
    assert not any(line.startswith("!") for line in changes(old, new))

    event: Any = Catalogue(name="shop", events=[new]).decode(recorded(old(a=5)))

    assert (event.a, event.b) == (5.0, None)
