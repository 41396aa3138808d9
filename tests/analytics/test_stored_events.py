"""What a destination gives back is decoded as its class: from each reader, with and without a layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID, uuid4

import pytest

from eventrec import (
    EVENT,
    ID,
    TIMESTAMP,
    TYPE,
    Column,
    ColumnType,
    DecodeError,
    EventModel,
    EventRecorder,
    EventStruct,
    Layout,
    LayoutColumn,
    StoredEvent,
    Timestamp,
    from_field,
    from_payload,
    handler_from_url,
)
from eventrec.analytics import Catalogue, Upgrade
from eventrec.testing.servers import PostgresServer

MOMENT = datetime(2026, 2, 3, 4, 5, 6, 789_012, tzinfo=UTC)


class Kept(EventModel, table="kept"):
    note: str | None = None
    tags: set[str]
    customer: Annotated[UUID, Column(name="who")]
    amount: Annotated[Decimal, Column(precision=12, scale=2)]
    digest: Annotated[bytes, Column()]
    on: Annotated[date, Column()]
    at: Annotated[datetime, Column()]
    millis: Annotated[int, Column(ColumnType.TIMESTAMP_MILLISECOND)]
    daily: Annotated[time, Column()]
    took: Annotated[timedelta, Column()]
    months: Annotated[int, Column(ColumnType.INTERVAL_YEAR_MONTH)]
    huge: Annotated[int, Column(ColumnType.UINT64)]
    is_gift: Annotated[bool, Column()]
    ratio: Annotated[float, Column()]
    details: Annotated[dict[str, Any], Column(ColumnType.JSON)]
    missing: Annotated[int | None, Column()] = None
    happened: Annotated[datetime, Timestamp()]


KEPT = Kept(
    tags={"x", "y"},
    customer=uuid4(),
    amount=Decimal("12.50"),
    digest=b"\x00\xff",
    on=date(1969, 12, 31),
    at=MOMENT,
    millis=1_700_000_000_123,
    daily=time(23, 59, 59, 1),
    took=timedelta(hours=30, milliseconds=7),
    months=-27,
    huge=2**62,
    is_gift=True,
    ratio=2.0,
    details={"a": [1, None]},
    happened=MOMENT,
)


class BoughtV1(EventStruct):
    type: ClassVar[str] = "bought"
    table: ClassVar[str] = "test_stored_bought"
    amount: int


class Bought(EventModel, table="test_stored_bought"):
    schema_version: Literal[2] = 2
    cents: int
    shop: Annotated[str, Column()] = "none"
    seen: Annotated[int | None, Column(ColumnType.TIMESTAMP_MILLISECOND)] = None


BOUGHT = [BoughtV1(amount=3), Bought(cents=500, shop="a", seen=1_700_000_000_123)]
LAYOUT = Layout(
    "test_stored_bought",
    [
        LayoutColumn("at", TIMESTAMP, "timestamptz"),
        LayoutColumn("kind", TYPE, "varchar", length=20),
        LayoutColumn("place", from_field("shop"), "text"),
        LayoutColumn("seen_at", from_field("seen"), "timestamptz"),
        LayoutColumn("data", EVENT, "jsonb"),
    ],
)
# Without columns of their own, columns stand inside of the whole event.
WHOLE = Layout("test_stored_bought", [each for each in LAYOUT.columns if each.source.kind != "field"])


def catalogue(*layouts: Layout) -> Catalogue:
    return Catalogue(
        name="shop",
        events=[Kept, BoughtV1, Bought],
        layouts=layouts,
        upgrades=[Upgrade(BoughtV1, Bought, lambda old: Bought(cents=old.amount * 100))],
    )


@pytest.fixture(params=["sqlite", "jsonl", pytest.param("postgres", marks=pytest.mark.handlers)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "sqlite":
            return f"sqlite:///{tmp_path / 'events.db'}"
        case "jsonl":
            return f"jsonl:///{tmp_path / 'lines'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.url(request.getfixturevalue("postgres_database"))


@pytest.fixture
def stored(url: str) -> Callable[..., Any]:
    """Records events, and gives what the destination's reader has of them."""

    async def store(*events: Any, layouts: tuple[Layout, ...] = ()) -> list[StoredEvent]:
        async with EventRecorder(url, layouts=layouts, environment={}) as recorder:
            assert recorder.record_many(events) == len(events)
            assert await recorder.flush(60) is True
        reader = handler_from_url(url).reader()
        assert reader is not None
        async with reader:
            return list((await reader.range(limit=10)).events)

    return store


async def test_every_column_comes_back(stored: Callable[..., Any]) -> None:
    (found,) = await stored(KEPT)

    assert catalogue().decode(found) == KEPT


async def test_older_versions_are_upgraded(stored: Callable[..., Any]) -> None:
    found = await stored(*BOUGHT)

    assert [catalogue().decode(each) for each in found] == [Bought(cents=300), BOUGHT[1]]
    assert [catalogue().decode(each, upgrade=False) for each in found] == BOUGHT
    assert [catalogue().version_of(each) for each in found] == [1, 2]


@pytest.mark.parametrize("layout", [LAYOUT, WHOLE], ids=["columns", "whole event"])
async def test_a_row_with_a_layout_comes_back(url: str, stored: Callable[..., Any], layout: Layout) -> None:
    if url.startswith("jsonl"):
        pytest.skip("JSON Lines have no tables, and no layouts")

    found = await stored(*BOUGHT, layouts=(layout,))

    assert [catalogue(layout).decode(each) for each in found] == [Bought(cents=300), BOUGHT[1]]


STORED = StoredEvent("test_stored_bought", "7", "bought", 1_000, '{"schema_version":2,"cents":5}', columns={})


def test_a_row_that_is_older_than_a_column_has_its_default() -> None:
    assert catalogue().decode(replace(STORED, columns={"shop": None, "seen": None})) == Bought(cents=5)


def test_an_alias_is_decoded() -> None:
    known = Catalogue(name="shop", events=[Kept, BoughtV1], aliases={"was_bought": "bought"})

    assert known.decode(replace(STORED, type="was_bought", payload='{"amount":1}')) == BoughtV1(amount=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"payload": "?"}, "a payload of 1 bytes is not JSON"),
        ({"payload": '{"schema_version":2}'}, "event 7 of type 'bought' does not fit Bought"),
        ({"payload": '{"schema_version":9}'}, "event 7 of table 'test_stored_bought' is version 9 of 'bought'"),
        ({"type": "sold"}, "event 7 of table 'test_stored_bought': catalogue 'shop' has no event of type 'sold'"),
        ({"columns": {"shop": 5}}, "event 7 of table 'test_stored_bought': column 'shop': a value of kind int"),
        ({"columns": {"shop": "a", "seen": "soon"}}, "column 'seen'"),
        ({"payload": '{"schema_version":2,"cents":"\ud800"}'}, "event 7 of type 'bought' does not fit Bought"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DecodeError, match=f".*{said}"):
        catalogue().decode(replace(STORED, **change))


def test_a_layout_that_stores_no_version_is_named() -> None:
    layout = Layout(
        "test_stored_bought",
        [
            LayoutColumn("id", ID, "uuid"),
            LayoutColumn("at", TIMESTAMP, "timestamptz"),
            LayoutColumn("kind", TYPE, "text"),
            LayoutColumn("cents", from_payload("cents"), "bigint"),
        ],
    )

    with pytest.raises(DecodeError, match="the layout of its table stores no 'schema_version'"):
        catalogue(layout).decode(replace(STORED, payload='{"cents":5}'))
