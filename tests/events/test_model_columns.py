"""Columns beside which something needs pydantic's serializer: exact, and hidden where the class hides them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, computed_field, field_serializer

from eventrec import Column, EncodeError, EventModel
from eventrec.events.encoder import Encoder
from eventrec.records.entry import EXTRA_ROWS

ODD = [b"\xff\xfe\x00", b"text", b"", bytes(range(256))]


class Inner(BaseModel):
    x: int


class BesideDict(EventModel):
    d: Annotated[dict[str, Any], Column()]
    b: Annotated[bytes, Column()]


class BesideModel(EventModel):
    d: Annotated[list[Inner], Column()]
    b: Annotated[bytes | None, Column()]


class Open(EventModel):
    model_config = ConfigDict(extra="allow")
    d: Annotated[dict[str, Any], Column()]
    b: Annotated[bytes, Column()]


class InBase64(EventModel):
    model_config = ConfigDict(ser_json_bytes="base64")
    d: Annotated[dict[str, Any], Column()]
    b: Annotated[bytes, Column()]


class Computed(EventModel):
    model_config = ConfigDict(ser_json_bytes="base64")
    d: Annotated[dict[str, Any], Column()]
    b: Annotated[bytes, Column()]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def more(self) -> int:
        return 1


def row_of(event: EventModel) -> list[Any]:
    entry = Encoder().encode(event)
    assert isinstance(entry, tuple), entry
    (row,) = msgspec.msgpack.decode(entry[EXTRA_ROWS] or b"")
    return list(row)


@pytest.mark.parametrize("value", ODD, ids=["odd", "text", "empty", "all"])
@pytest.mark.parametrize("model", [BesideDict, Open, InBase64, Computed])
def test_bytes_are_exact_beside_a_column_that_is_serialized(model: Any, value: bytes) -> None:
    assert row_of(model(d={"a": 1}, b=value))[1] == value


def test_the_other_column_is_what_its_serializer_says() -> None:
    seen = datetime(2024, 5, 17, tzinfo=UTC)

    assert msgspec.json.decode(row_of(BesideDict(d={"at": seen}, b=b"\xff"))[0]) == {"at": "2024-05-17T00:00:00Z"}
    assert msgspec.json.decode(row_of(BesideModel(d=[Inner(x=1)], b=None))[0]) == [{"x": 1}]


def test_a_column_of_json_cannot_hold_odd_bytes() -> None:
    with pytest.raises(EncodeError, match="columns: UnicodeDecodeError"):
        Encoder().encode(BesideDict(d={"a": b"\xff"}, b=b"\xff"))


class Masked(EventModel):
    d: Annotated[dict[str, Any], Column()]
    b: Annotated[bytes, Column()]
    other: Annotated[bytes, Column()]

    @field_serializer("b", when_used="json")
    def masked(self, _: bytes) -> str:
        return "***"


class MaskedByPart(Masked):
    @field_serializer("b", when_used="json")
    def masked(self, value: bytes) -> str:
        return value.decode()[:1] + "***"


def test_what_a_serializer_hides_in_json_alone_is_hidden_beside_odd_bytes_too() -> None:
    for value in ODD:
        with pytest.raises(EncodeError, match="column 'b'"):
            Encoder().encode(Masked(d={}, b=value, other=b"\xff"))


def test_a_serializer_that_fails_on_odd_bytes_shows_nothing() -> None:
    with pytest.raises(EncodeError, match="columns: "):
        Encoder().encode(MaskedByPart(d={}, b=b"\xff", other=b"\xff"))


class Lasting(EventModel):
    model_config = ConfigDict(ser_json_timedelta="float")
    d: Annotated[dict[str, Any], Column()]
    t: Annotated[datetime, Column()]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def more(self) -> timedelta:
        return timedelta(seconds=1)


def test_a_time_beside_it_is_exact() -> None:
    seen = datetime(2024, 5, 17, 1, 2, 3, 456_789, tzinfo=UTC)

    assert row_of(Lasting(d={}, t=seen))[1] == int(seen.timestamp()) * 10**9 + 456_789_000
