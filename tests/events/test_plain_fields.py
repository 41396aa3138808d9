"""Markers that nothing reads are refused; fields of plain subclasses of `Event` that are not recorded are said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

import attrs
import pytest
from pydantic import BaseModel

from eventrec import (
    Column,
    ColumnSchema,
    ColumnType,
    Event,
    EventModel,
    EventRecorder,
    EventStruct,
    ReceivedEvent,
    Row,
    Timestamp,
)
from eventrec.events.encoder import Encoder
from eventrec.records.entry import PAYLOAD, TIMESTAMP
from eventrec.testing.scripted import quickly

TIME = datetime(2020, 1, 1, tzinfo=UTC)


def unrecorded(*events: object) -> list[tuple[str, list[str]]]:
    """What an encoder tells of `events`; all are encoded."""
    told: list[tuple[str, list[str]]] = []
    encoder = Encoder(on_unrecorded=lambda name, fields: told.append((name, list(fields))))
    for event in events:
        assert isinstance(encoder.encode(event), tuple)
    return told


# -- markers


@dataclass(frozen=True)
class PaidWithColumn(Event):
    order: int
    customer: Annotated[str, Column()] = "ada"

    @property
    def payload(self) -> object:
        return {"order": self.order}


@dataclass(frozen=True)
class PaidAt(Event):
    at: Annotated[datetime, Timestamp()]

    @property
    def payload(self) -> object:
        return {"at": self.at}


@attrs.frozen
class PaidByAttrs(Event):
    customers: list[Annotated[str, Column(tag=True)]]


class PaidPlainly(Event):
    customer: Annotated[str, Column()] = "ada"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            PaidWithColumn(1),
            r"^PaidWithColumn\.customer: Column\(\) has no effect .* derive from EventModel or Ev",
        ),
        (PaidAt(TIME), r"^PaidAt\.at: Timestamp\(\) has no effect in a subclass of Event; .*, or override timestamp$"),
        (PaidByAttrs(["ada"]), r"^PaidByAttrs\.customers: Column\(tag=True\) has no effect"),
        (PaidPlainly(), r"^PaidPlainly\.customer: Column\(\) has no effect"),
    ],
)
def test_a_marker_that_nothing_reads_is_refused_with_class_and_field(event: object, said: str) -> None:
    with pytest.raises(TypeError, match=said) as caught:
        Encoder().encode(event)

    assert "\n" not in str(caught.value)


def test_markers_are_left_to_a_class_that_reads_them_itself() -> None:
    @dataclass
    class OfAnApplication(Event):
        at: Annotated[datetime, Timestamp()]
        customer: Annotated[str, Column()]

        @property
        def timestamp(self) -> int | None:
            return 7

        def extra_schema(self) -> Sequence[ColumnSchema]:
            return (ColumnSchema("customer", ColumnType.STRING),)

        def extra_rows(self) -> Sequence[Row]:
            return ((self.customer,),)

    entry = Encoder().encode(OfAnApplication(TIME, "ada"))

    assert isinstance(entry, tuple)
    assert entry[TIMESTAMP] == 7


@dataclass
class SaysReceived:
    given: ReceivedEvent | None
    customer: Annotated[str, Column()] = "ada"

    def to_event(self) -> ReceivedEvent | None:
        return self.given


@attrs.frozen
class SaysModel:
    given: Any
    customer: Annotated[str, Column(name="who")] = "ada"
    at: Annotated[datetime | None, Timestamp()] = None

    def to_event(self) -> Any:
        return self.given


class SaysItself(BaseModel):
    customer: Annotated[str, Column()] = "ada"

    def to_event(self) -> Any:
        return WithWho(who=self.customer)


@dataclass
class Structural:
    at: Annotated[datetime, Timestamp()] = TIME
    customer: Annotated[str, Column()] = "ada"
    columns: Sequence[ColumnSchema] = (ColumnSchema("customer", ColumnType.STRING),)
    timestamp: int | None = 7
    type: ClassVar[str] = "structural"
    table: ClassVar[str] = "events"
    payload: ClassVar[object] = None

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return self.columns

    def extra_rows(self) -> Sequence[Row]:
        return ((self.customer,) if self.columns else (),)


class WithWho(EventModel):
    who: Annotated[str, Column()] = "ada"


class WithBoth(EventStruct):
    who: Annotated[str, Column()] = "ada"
    at: Annotated[datetime | None, Timestamp()] = None


class Bare(Event):
    """Its type says all."""


CUSTOMER = (ColumnSchema("customer", ColumnType.STRING),)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            SaysReceived(ReceivedEvent("x", b"{}")),
            r"^SaysReceived\.customer: Column\(\) .*has no column 'customer'; only",
        ),
        (SaysModel(WithWho()), r"^SaysModel\.at: Timestamp\(\) has no effect, the event has no time of its own; only"),
        (SaysModel(Bare()), r"^SaysModel\.customer: Column\(name='who'\) .* no column 'who'"),
        (SaysItself(), r"^SaysItself\.customer: Column\(\) has no effect, the event has no column 'customer'"),
        (Structural(columns=()), r"^Structural\.customer: Column\(\) has no effect"),
        (Structural(timestamp=None), r"^Structural\.at: Timestamp\(\) has no effect"),
    ],
)
def test_an_event_is_refused_that_lacks_what_its_class_is_marked_for(event: object, said: str) -> None:
    encoder = Encoder()

    for _ in range(2):
        with pytest.raises(TypeError, match=said) as caught:
            encoder.encode(event)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "event",
    [
        SaysReceived(ReceivedEvent("x", b"{}", columns=CUSTOMER, rows=(("ada",),))),
        SaysModel(WithBoth()),
        SaysModel(SaysReceived(ReceivedEvent("x", b"{}", columns=CUSTOMER, rows=(("ada",),)))),
        Structural(),
    ],
)
def test_an_event_that_has_what_its_class_is_marked_for_is_taken(event: object) -> None:
    assert isinstance(Encoder().encode(event), tuple)
    assert Encoder().encode(SaysReceived(None)) == "declined"


class Inner(BaseModel):
    city: Annotated[str, Column(tag=True)] = "Bern"


@dataclass
class InnerData:
    at: list[Annotated[datetime, Timestamp()]]


class InnerEvent(EventModel):
    city: Annotated[str, Column()] = "Bern"


@pytest.mark.parametrize("annotation", [Inner, list[Inner], Inner | None, dict[str, tuple[Inner, int]]])
def test_a_column_inside_of_a_nested_class_is_refused(annotation: Any) -> None:
    said = r"^Inner\.city: Column\(tag=True\) has no effect inside of Made; mark a field of Made$"
    fields = {"__annotations__": {"inner": annotation}, "__module__": __name__}
    made: Any = type("Made", (EventStruct,), fields)
    plain: Any = dataclass(type("Made", (Event,), fields))

    with pytest.raises(TypeError, match=said):
        type("Made", (EventModel,), fields)
    with pytest.raises(TypeError, match=said):
        Encoder().encode(made(inner=None))
    with pytest.raises(TypeError, match=said):
        Encoder().encode(plain(None))


def test_a_time_inside_of_a_nested_dataclass_is_refused() -> None:
    class Outer(EventStruct):
        inner: InnerData

    with pytest.raises(TypeError, match=r"^InnerData\.at: Timestamp\(\) has no effect inside of Outer"):
        Encoder().encode(Outer(InnerData([TIME])))


def test_an_event_may_stand_in_another_one_with_its_columns() -> None:
    class Outer(EventModel):
        inner: InnerEvent

    entry = Encoder().encode(Outer(inner=InnerEvent()))

    assert isinstance(entry, tuple)
    assert entry[PAYLOAD] == b'{"inner":{"city":"Bern"}}'


# -- fields


@dataclass(frozen=True)
class Paid(Event):
    order: int = 1
    customer: str = "ada"
    _cache: str = ""
    unit: ClassVar[str] = "EUR"


@dataclass
class PaidOfType(Event):
    order: int = 1

    @property
    def type(self) -> str:
        return "paid"

    @property
    def table(self) -> str:
        return "payments"


class PaidOfClass(Event):
    type = "paid"
    payload = None
    order: int
    unit: ClassVar[str] = "EUR"

    def __init__(self) -> None:
        self.order, self.customer, self._cache = 1, "ada", None


@attrs.frozen
class PaidOfAttrs(Event):
    order: int = 1


@dataclass(slots=True)
class PaidWithSlots(Event):
    order: int = 1


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (Paid, ["order", "customer"]),
        (PaidOfType, ["order"]),
        (PaidOfClass, ["order", "customer"]),
        (PaidOfAttrs, ["order"]),
        (PaidWithSlots, ["order"]),
    ],
)
def test_a_class_of_which_no_field_is_recorded_is_told_once(make: Callable[[], Event], fields: list[str]) -> None:
    assert unrecorded(make(), make()) == [(make.__name__, fields)]


class Named(Event):
    def __init__(self) -> None:
        self.name = "backup"

    @property
    def type(self) -> str:
        return f"{self.name}_done"


class WithPayload(Event):
    def __init__(self) -> None:
        self.order = 1

    @property
    def payload(self) -> object:
        return None


class WithRows(Event):
    def __init__(self) -> None:
        self.order = 1

    def extra_rows(self) -> Sequence[Row]:
        return ((),)


class Hidden(Event):
    def __init__(self) -> None:
        self._order = 1


class Strange(Event):
    order: int = 1

    def __getattribute__(self, name: str) -> Any:
        return {"n": 1} if name == "payload" else object.__getattribute__(self, name)


@pytest.mark.parametrize("make", [Bare, Named, WithPayload, WithRows, Hidden, Strange])
def test_nothing_is_told_where_something_may_read_the_fields_or_there_are_none(make: Callable[[], Event]) -> None:
    assert unrecorded(make()) == []


@pytest.mark.parametrize("log", [False, True])
async def test_it_is_recorded_all_the_same_and_the_logging_has_one_line(
    log: bool,  # noqa: FBT001 - a parameter of the test
    caplog: pytest.LogCaptureFixture,
    tmp_path: Any,
) -> None:
    async with EventRecorder("memory:", log=tmp_path if log else None, options=quickly()) as recorder:
        assert recorder.record_many([Paid(), Paid()]) == 2
        assert await recorder.flush(timeout=60)

    (line,) = [record.getMessage() for record in caplog.records if "not recorded" in record.getMessage()]
    assert "fields are not recorded type=Paid fields='order, customer'" in line
    assert "derive from EventModel or EventStruct, or override payload" in line
    assert Encoder().encode(Paid())[PAYLOAD] == b"null"
