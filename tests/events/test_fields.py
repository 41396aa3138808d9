"""Annotations are texts in this module (the next line says so): markers are read all the same."""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, NewType, Optional
from uuid import UUID

import msgspec
import pytest
from pydantic import (
    AwareDatetime,
    BaseModel,
    EmailStr,
    Field,
    FutureDatetime,
    NaiveDatetime,
    PastDate,
    computed_field,
    create_model,
)
from typing_extensions import TypeAliasType, TypedDict

from eventrec.errors import EncodeError
from eventrec.events.encoder import Encoder
from eventrec.events.event import EventModel, EventStruct
from eventrec.events.fields import Column, FieldPlan, Timestamp, model_fields_plan, struct_fields_plan, timestamp_value
from eventrec.records.column_types import ColumnType, SemanticType
from eventrec.records.entry import TIMESTAMP
from eventrec.records.marks import Truncated
from eventrec.records.schema import ColumnSchema

if TYPE_CHECKING:
    from pathlib import Path


class Kind(enum.Enum):
    A = "a"


class Mixed(enum.Enum):
    A = "a"
    ONE = 1


class Number(enum.IntEnum):
    ONE = 1


class Point(NamedTuple):
    x: int


class Fields(TypedDict):
    a: int


UserId = NewType("UserId", UUID)
Marked = Annotated[UserId, Column(name="user")]
Named = TypeAliasType("Named", Annotated[int, Column(tag=True)])


def plan_of_model(annotation: Any) -> FieldPlan:
    return model_fields_plan(create_model("Made", __base__=EventModel, field=(annotation, ...)))


def plan_of_struct(annotation: Any) -> FieldPlan:
    return struct_fields_plan(msgspec.defstruct("Made", [("field", annotation)]))


both = pytest.mark.parametrize("plan_of", [plan_of_model, plan_of_struct], ids=["model", "struct"])


@both
@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (bool, ColumnType.BOOLEAN),
        (int, ColumnType.INT64),
        (float, ColumnType.FLOAT64),
        (str, ColumnType.STRING),
        (bytes, ColumnType.BINARY),
        (UUID, ColumnType.STRING),
        (datetime, ColumnType.TIMESTAMP_NANOSECOND),
        (date, ColumnType.DATE),
        (time, ColumnType.TIME_MICROSECOND),
        (timedelta, ColumnType.INTERVAL_MONTH_DAY_NANO),
        (Decimal, ColumnType.DECIMAL128),
        (dict[str, int], ColumnType.JSON),
        (list[int], ColumnType.JSON),
        (tuple[int, ...], ColumnType.JSON),
        (set[str], ColumnType.JSON),
        (OrderedDict[str, int], ColumnType.JSON),
        (Point, ColumnType.JSON),
        (Fields, ColumnType.JSON),
        (Kind, ColumnType.STRING),
        (Number, ColumnType.INT64),
        (int | None, ColumnType.INT64),
        (Optional[str], ColumnType.STRING),  # noqa: UP045 - the old spelling
        (str | UUID, ColumnType.STRING),
        (list[int] | dict[str, int] | None, ColumnType.JSON),
        (Literal["a", "b"], ColumnType.STRING),
        (Literal[1, None], ColumnType.INT64),  # noqa: PYI061 - another spelling
        (Literal["a"] | None, ColumnType.STRING),
        (Annotated[int, "of another library"], ColumnType.INT64),
        (UserId, ColumnType.STRING),
        (UserId | None, ColumnType.STRING),
    ],
    ids=str,
)
def test_column_type_follows_from_the_annotation(plan_of: Any, annotation: Any, expected: ColumnType) -> None:
    plan = plan_of(Annotated[annotation, Column()])

    assert plan.columns == (ColumnSchema("field", expected),)
    assert (plan.column_fields, plan.excluded) == (("field",), {"field"})


@both
@pytest.mark.parametrize(
    ("annotation", "shown"),
    [
        (int | str, r"int \| str"),
        (object, "object"),
        (Any, "Any"),
        (Mixed, "Mixed"),
        (Literal["a", 1], r"Literal\['a', 1\]"),
        (type(None), "None"),
        (Mapping[str, int], r"Mapping\[str, int\]"),
        (complex, "complex"),
    ],
    ids=str,
)
def test_annotation_without_a_column_type_asks_for_one(plan_of: Any, annotation: Any, shown: str) -> None:
    with pytest.raises(
        TypeError, match=rf"Made\.field: no column type fits .*{shown}; say which, for example Annotated"
    ):
        plan_of(Annotated[annotation, Column()])


@both
def test_column_says_its_own_type_name_and_part(plan_of: Any) -> None:
    plan = plan_of(Annotated[object, Column(ColumnType.DECIMAL128, name="price", tag=True, precision=10, scale=2)])

    assert plan.columns == (ColumnSchema("price", ColumnType.DECIMAL128, SemanticType.TAG, precision=10, scale=2),)


@both
def test_marker_in_an_alias_counts(plan_of: Any) -> None:
    assert plan_of(Marked).columns == (ColumnSchema("user", ColumnType.STRING),)
    assert plan_of(Named).columns == (ColumnSchema("field", ColumnType.INT64, SemanticType.TAG),)


@both
@pytest.mark.parametrize(
    ("annotation", "right"),
    [
        (Annotated[UUID, Column()] | None, "Annotated[UUID | None, Column()]"),
        (None | Annotated[int, Column(tag=True)], "Annotated[None | int, Column(tag=True)]"),
        (list[Annotated[str, Column(ColumnType.JSON)]], "Annotated[list[str], Column(type=ColumnType.JSON)]"),
        (dict[str, list[Annotated[int, Column()]]], "Annotated[dict[str, list[int]], Column()]"),
        (Annotated[datetime, Timestamp()] | None, "Annotated[datetime | None, Timestamp()]"),
        (Annotated[Annotated[int, Timestamp()] | None, Field()], "Annotated[int | None, Timestamp()]"),
        (Marked | None, "Annotated[UUID | None, Column(name='user')]"),
        (Named | None, "Annotated[int | None, Column(tag=True)]"),
    ],
    ids=str,
)
def test_hidden_marker_raises_and_shows_the_right_spelling(plan_of: Any, annotation: Any, right: str) -> None:
    with pytest.raises(TypeError) as refused:
        plan_of(annotation)

    assert str(refused.value).startswith("Made.field: ")
    assert str(refused.value).endswith(f"write {right}")


@both
@pytest.mark.parametrize(
    ("annotation", "why"),
    [
        (Annotated[str, Timestamp()], r"Timestamp\(\) marks a datetime or an int, not str"),
        (Annotated[int, Column(), Timestamp()], "one marker a field"),
        (Annotated[int, Column(), Column()], "one marker a field"),
        (Annotated[int, Column(name="id")], "has the name of a base column"),
        (Annotated[int, Column(name="")], "column must be 1 to 255 bytes"),
        (Annotated[int, Column(precision=3)], "precision and scale are for DECIMAL128"),
    ],
    ids=str,
)
def test_contradicting_markers_are_refused(plan_of: Any, annotation: Any, why: str) -> None:
    with pytest.raises(TypeError, match=f"Made.*: .*{why}"):
        plan_of(annotation)


def test_one_timestamp_a_class() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.second: one marker a field, and one Timestamp\(\) a class"):

        class Wrong(EventModel):
            first: Annotated[int, Timestamp()]
            second: Annotated[int, Timestamp()]


def test_two_fields_cannot_share_a_column() -> None:
    with pytest.raises(TypeError, match="Wrong: extra column 'a' is declared twice"):

        class Wrong(EventModel):
            a: Annotated[int, Column()]
            b: Annotated[int, Column(name="a")]


def test_computed_field_cannot_be_marked() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.twice: a computed field cannot be marked"):

        class Wrong(EventModel):
            once: int

            @computed_field
            def twice(self) -> Annotated[int, Column()]:
                return self.once * 2


class Inner(BaseModel):
    a: int


class AsTexts(EventModel):
    """Its annotations are texts, and so are those of the struct below."""

    user: Annotated[UserId | None, Column()] = None
    at: Annotated[datetime, Timestamp()]
    inner: Inner


class StructAsTexts(EventStruct):
    user: Annotated[UserId | None, Column()]
    at: Annotated[datetime, Timestamp()]


def test_annotations_that_are_texts_are_read() -> None:
    expected = FieldPlan((ColumnSchema("user", ColumnType.STRING),), ("user",), "at", frozenset({"user", "at"}))

    assert model_fields_plan(AsTexts) == struct_fields_plan(StructAsTexts) == expected


def test_annotations_of_classes_inside_functions_are_read() -> None:
    class Inside(EventModel):
        user: Annotated[UserId, Column()]

    assert model_fields_plan(Inside).column_fields == ("user",)


def test_annotation_that_cannot_be_read_is_named() -> None:
    class Unreadable(EventStruct):
        path: Path

    with pytest.raises(TypeError, match=r"Unreadable: an annotation cannot be read when the program runs: .*'Path'"):
        Encoder().encode(Unreadable("a"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), 1_000_000_000),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), -1_000),
        (datetime.max.replace(tzinfo=UTC), 253_402_300_799_999_999_000),
        (5, 5),
        (Number.ONE, 1),
        (None, None),
    ],
)
def test_timestamp_is_exact_nanoseconds(value: object, expected: int | None) -> None:
    assert timestamp_value("at", value) == expected


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (datetime(2024, 5, 17), "a datetime must carry a time zone, got '2024-05-17T00:00:00'"),  # noqa: DTZ001
        ("2024-05-17", "a value of kind str is not a timestamp"),
        (1.5, "a value of kind float is not a timestamp"),
        (True, "a value of kind bool is not a timestamp"),
    ],
)
def test_timestamp_of_another_kind_is_refused(value: object, why: str) -> None:
    with pytest.raises(EncodeError, match=f"timestamp field 'at': {why}"):
        timestamp_value("at", value)


@pytest.mark.parametrize("base", [EventModel, EventStruct])
@pytest.mark.parametrize("marker", [Column(), Timestamp()])
def test_a_marker_at_what_is_not_a_field_is_refused(base: Any, marker: object) -> None:
    said = {"__annotations__": {"place": ClassVar[Annotated[int, marker]]}, "place": 5, "__module__": __name__}

    with pytest.raises(TypeError, match=r"^Made\.place is marked, and is not a field$"):
        Encoder().encode(type("Made", (base,), said)())


def test_a_column_at_a_private_attribute_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^Made\._place is marked, and is not a field$"):

        class Made(EventModel):
            _place: Annotated[str, Column()] = "Bern"


def test_classes_of_pydantic_that_only_check_are_columns_of_what_they_check() -> None:
    class Signed(EventModel):
        at: Annotated[AwareDatetime, Timestamp()]
        until: Annotated[FutureDatetime | None, Column()] = None
        born: Annotated[PastDate, Column()] = date(2000, 1, 1)

    plan = model_fields_plan(Signed)
    entry = Encoder().encode(Signed(at=datetime(2020, 1, 1, tzinfo=UTC)))

    assert [str(column) for column in plan.columns] == ["until TIMESTAMP_NANOSECOND", "born DATE"]
    assert plan.timestamp_field == "at"
    assert isinstance(entry, tuple)
    assert entry[TIMESTAMP] == 1_577_836_800_000_000_000
    for annotation, kind in ((NaiveDatetime, ColumnType.TIMESTAMP_NANOSECOND), (EmailStr, ColumnType.STRING)):
        (column,) = plan_of_struct(Annotated[annotation, Column()]).columns
        assert column.type is kind
    plan_of_struct(Annotated[EmailStr, Column(), Truncated(3)])  # a text
