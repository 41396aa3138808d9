"""A record is given back as its class, equal to what was recorded, or refused with a reason."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_serializer

from eventrec import Column, ColumnType, DecodeError, Event, EventModel, EventStruct, Record, Timestamp
from eventrec.events.encoder import Encoder
from eventrec.records.batch import Batch

NOW = 1_700_000_000_000_000_000
MOMENT = datetime(2026, 2, 3, 4, 5, 6, 789_012, tzinfo=UTC)


def recorded(event: object) -> Record:
    """What a handler is given of `event`."""
    entry = Encoder(now=lambda: NOW).encode(event)
    assert isinstance(entry, tuple), entry
    batch = Batch(log_id=uuid4(), subscription="test", start=0, end=1, offsets=[0], entries=[entry])
    return batch.records[0]


class Address(BaseModel):
    street: str
    since: date


class ModelOfAll(EventModel, type="all", table="kept"):
    order: UUID
    note: str | None = None
    where: Address
    tags: set[str]
    customer: Annotated[UUID, Column(name="who")]
    amount: Annotated[Decimal, Column(precision=12, scale=2)]
    digest: Annotated[bytes, Column()]
    on: Annotated[date, Column()]
    at: Annotated[datetime, Column()]
    millis: Annotated[int, Column(ColumnType.TIMESTAMP_MILLISECOND)]
    daily: Annotated[time, Column()]
    took: Annotated[timedelta, Column()]
    details: Annotated[dict[str, Any], Column(ColumnType.JSON)]
    missing: Annotated[int | None, Column()] = None
    happened: Annotated[datetime, Timestamp()]


class StructOfAll(EventStruct, frozen=True, rename="camel"):
    type: ClassVar[str] = "all"
    order_id: UUID
    customer: Annotated[UUID, Column()]
    amount: Annotated[Decimal, Column()]
    digest_of: Annotated[bytes, Column()]
    at: Annotated[datetime, Column()]
    took: Annotated[timedelta, Column()]
    details: Annotated[dict[str, Any], Column(ColumnType.JSON)]
    happened: Annotated[int, Timestamp()]
    note: str | None = None


MODEL = ModelOfAll(
    order=uuid4(),
    where=Address(street="a", since=date(2020, 1, 2)),
    tags={"x", "y"},
    customer=uuid4(),
    amount=Decimal("12.50"),
    digest=b"abc",
    on=date(1969, 12, 31),
    at=MOMENT,
    millis=1_700_000_000_123,
    daily=time(23, 59, 59, 1),
    took=timedelta(hours=30, microseconds=7),
    details={"a": [1, None]},
    happened=MOMENT,
)
STRUCT = StructOfAll(
    order_id=uuid4(),
    customer=uuid4(),
    amount=Decimal("-0.001"),
    digest_of=b"\x80",
    at=MOMENT,
    took=timedelta(milliseconds=5),
    details={"deep": {"er": True}},
    happened=NOW + 1,
)


@pytest.mark.parametrize("event", [MODEL, STRUCT], ids=["model", "struct"])
def test_a_record_decodes_to_what_was_recorded(event: ModelOfAll | StructOfAll) -> None:
    assert recorded(event).decode(type(event)) == event


def test_bytes_that_are_no_text_decode() -> None:
    class Hashed(EventModel):
        name: str
        key: UUID
        digest: Annotated[bytes, Column()]

    event = Hashed(name="a", key=uuid4(), digest=b"\x00\xff\xfe")

    assert recorded(event).decode(Hashed) == event


def test_bytes_that_are_text_keep_a_strict_model_strict() -> None:
    class Strict(EventModel):
        model_config = ConfigDict(strict=True)
        key: UUID
        digest: Annotated[bytes, Column()]

    event = Strict(key=uuid4(), digest=b"abc")

    assert recorded(event).decode(Strict) == event


def test_aliases_and_computed_fields_find_their_way_back() -> None:
    class Aliased(EventModel):
        model_config = ConfigDict(extra="forbid")
        name: str = Field(alias="theName")
        user: Annotated[str, Column()] = Field(alias="theUser")

        @computed_field
        def shout(self) -> str:
            return self.name.upper()

    event = Aliased(theName="a", theUser="b")

    assert recorded(event).decode(Aliased) == event


def test_a_timestamp_that_was_stamped_is_there() -> None:
    class Stamped(EventModel):
        when: Annotated[datetime | None, Timestamp()] = None

    assert recorded(Stamped()).decode(Stamped).when == datetime.fromtimestamp(NOW // 10**9, UTC)


def test_a_struct_that_is_an_array_decodes() -> None:
    class Row(EventStruct, frozen=True, array_like=True):
        a: int
        b: str

    assert recorded(Row(1, "x")).decode(Row) == Row(1, "x")


def test_what_a_serializer_masked_stays_masked() -> None:
    class Paid(EventModel):
        card: str

        @field_serializer("card")
        def mask(self, value: str) -> str:
            return "***" + value[-1]

    assert recorded(Paid(card="1234")).decode(Paid).card == "***4"


class Other(EventModel):
    n: int


class Narrow(EventModel, type="wide"):
    n: int


class Wide(EventModel):
    n: str


class Plain(Event):
    pass


@pytest.mark.parametrize(
    ("event", "cls", "reason"),
    [
        (Wide(n="x"), Other, "record 0 is of type 'wide': Other is 'other'"),
        (Wide(n="x"), Narrow, "record 0 of type 'wide' does not fit Narrow"),
        (Wide(n="x"), Plain, "Plain cannot be decoded"),
        (Wide(n="x"), dict, "dict cannot be decoded"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(event: object, cls: type, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        recorded(event).decode(cls)


def test_several_rows_do_not_fit_one_instance() -> None:
    class Twice(Event):
        @property
        def type(self) -> str:
            return "other"

        def extra_rows(self) -> Any:
            return [(), ()]

    with pytest.raises(DecodeError, match="2 rows"):
        recorded(Twice()).decode(Other)


def test_event_without_a_payload_of_its_own_has_null() -> None:
    assert recorded(Plain()).payload == b"null"
