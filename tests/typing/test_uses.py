"""Every kind of class that can be recorded, as a user writes it: both checkers read this file, and it runs."""

import enum
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, ClassVar, Generic, Literal, NewType, TypeVar
from uuid import UUID

import attrs
import msgspec
import pytest
from pydantic import BaseModel, ValidationError, field_serializer

from eventrec import (
    Allowed,
    Backoff,
    Batch,
    Column,
    ColumnSchema,
    ColumnType,
    Event,
    Eventable,
    EventHandler,
    EventModel,
    EventRecorder,
    EventRecorderOptions,
    EventStruct,
    Hashed,
    RateLimit,
    ReceivedEvent,
    Redacted,
    Redaction,
    Row,
    RowInsertRequest,
    Sampling,
    Status,
    Timestamp,
    Truncated,
)


class Started(Event):
    """A type alone."""


class Door(Event):
    """A plain class."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def payload(self) -> object:
        return {"name": self._name}


class Migration(Event):
    """A plain class that says everything itself."""

    columns: ClassVar = (ColumnSchema("region", ColumnType.UINT64), ColumnSchema("peer", ColumnType.STRING))

    @property
    def type(self) -> str:
        return "region_migration"

    @property
    def table(self) -> str:
        return "migrations"

    @property
    def payload(self) -> dict[str, object]:
        return {"timeout": "10s"}

    @property
    def timestamp(self) -> int:
        return 1_700_000_000_000_000_000

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return self.columns

    def extra_rows(self) -> Sequence[Row]:
        return [(1, "a"), (2, None)]


@dataclass
class Opened(Event):
    """A dataclass."""

    door: str
    tags: list[str] = field(default_factory=list[str])

    @property
    def payload(self) -> object:
        return {"door": self.door, "tags": self.tags}


@dataclass(frozen=True, slots=True)
class Closed(Event):
    """A frozen dataclass with slots."""

    door: str

    @property
    def payload(self) -> object:
        return {"door": self.door}


@attrs.frozen
class Locked:
    """An attrs class: it satisfies `Event`, and subclasses nothing."""

    payload: dict[str, int]
    type: str = "locked"
    table: str = "events"
    timestamp: int | None = None

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return ()

    def extra_rows(self) -> Sequence[Row]:
        return ((),)


class Unlocked(msgspec.Struct, frozen=True):
    """A Struct, likewise."""

    payload: dict[str, int]
    type: str = "unlocked"
    table: str = "events"
    timestamp: int | None = None

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return ()

    def extra_rows(self) -> Sequence[Row]:
        return ((),)


class Currency(enum.Enum):
    EUR = "eur"
    USD = "usd"


CustomerId = NewType("CustomerId", UUID)
Amount = Annotated[Decimal, Column(precision=12, scale=2)]


class Item(BaseModel):
    sku: str
    count: int = 1


class OrderEvent(EventModel, table="orders"):
    order_id: UUID
    customer: Annotated[CustomerId, Column()]
    at: Annotated[datetime | None, Timestamp()] = None


class OrderPlaced(OrderEvent, type="order_placed_v2"):
    amount: Amount
    currency: Annotated[Currency | None, Column(tag=True)] = None
    channel: Annotated[Literal["web", "shop"], Column()] = "web"
    items: tuple[Item, ...] = ()
    card: str = ""

    @field_serializer("card")
    def _mask(self, card: str) -> str:
        return "****" + card[-4:]


class Named(EventModel):
    """Fields may have any name but `to_event`."""

    type: str
    table: int
    payload: list[str]
    timestamp: float


T = TypeVar("T")


class Measured(EventModel, Generic[T], type="measured", table="measures"):
    value: T


class Clicked(EventStruct):
    type: ClassVar[str] = "clicked"
    table: ClassVar[str] = "clicks"
    target: str
    user: Annotated[str, Column()]
    at: Annotated[int | None, Timestamp()] = None


class Scrolled(EventStruct, frozen=True, kw_only=True):
    depth: float = 0.0


class SignedIn(EventModel):
    """Fields that are recorded in another form, or not at all."""

    email: Annotated[str, Column(), Hashed()]
    password: Annotated[str, Redacted()]
    user_agent: Annotated[str, Truncated(40)] = ""
    plan: Annotated[str, Allowed()] = "free"
    recovery: list[Annotated[str, Hashed()]] = []  # noqa: RUF012 - pydantic copies it
    referrer: Annotated[str, Hashed()] | None = None


class SignedOut(EventStruct):
    email: Annotated[str, Column(), Hashed()]
    reason: Annotated[str | None, Redacted()] = None


class Basket:
    """Something that can say itself as an event, or decline."""

    def __init__(self, items: list[str]) -> None:
        self.items = items

    def to_event(self) -> Event | None:
        return Door("basket") if self.items else None


class Collecting(EventHandler):
    """A handler as an author writes it."""

    def __init__(self) -> None:
        self.requests: list[RowInsertRequest] = []

    async def handle(self, batch: Batch) -> None:
        self.requests += batch.row_inserts(id_form="bytes")


ORDER = OrderPlaced(
    order_id=UUID(int=1),
    customer=CustomerId(UUID(int=2)),
    amount=Decimal("9.50"),
    currency=Currency.EUR,
    card="12345678",
)
EVENTS: list[Event | Eventable] = [
    Started(),
    Door("front"),
    Migration(),
    Opened("front"),
    Closed("front"),
    Locked({"a": 1}),
    Unlocked({"a": 1}),
    ORDER,
    Named(type="a", table=1, payload=["b"], timestamp=1.5),
    Measured[int](value=1),
    Clicked(target="a", user="b"),
    Scrolled(depth=0.5),
    SignedIn(email="a", password="b", recovery=["c"]),  # noqa: S106 - not one
    SignedOut("a", "b"),
    Basket(["a"]),
    ReceivedEvent("order_placed", b"{}", table="orders", id=bytes(16)),
]


@pytest.fixture
def recorder() -> Iterator[EventRecorder]:
    """One that is never opened, and closed: what it took is lost on purpose."""
    recorder = EventRecorder(
        options=EventRecorderOptions(
            hash_salt="a secret of the application",
            redact=Redaction(keys=frozenset({"nick*"}), patterns=("[A-Z]{2}[0-9]{6}",), cards=False),
            plain_keys=frozenset({"name"}),
            sample={"scrolled": Sampling(rate=1.0, key="user_id"), "started": 1.0},
            rate_limits={"clicked": "100/s", "closed": RateLimit(count=5, period=60)},
        )
    )
    yield recorder
    recorder.sync().close()


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_kind_of_class_is_taken(recorder: EventRecorder, event: Event | Eventable) -> None:
    taken: bool = recorder.record(event)

    assert taken, recorder.status()


def test_declining_is_no_error(recorder: EventRecorder) -> None:
    taken = recorder.record_many([Basket([]), Basket(["a"])])

    status: Status = recorder.status()
    assert (taken, status.refused) == (1, {"declined": 1})


@contextmanager
def in_context(recorder: EventRecorder) -> Generator[None, None, None]:
    with recorder.context(user_id=7, tags=["a"]):
        yield


def test_context_takes_any_field(recorder: EventRecorder) -> None:
    with in_context(recorder):
        taken = recorder.record(Door("front"))

    assert taken


@pytest.mark.parametrize(
    "options",
    [
        EventRecorderOptions(flush_interval="2500ms", close_timeout="1m", write_interval="20ms"),
        EventRecorderOptions(flush_interval=2.5, close_timeout=60, write_interval=0.02),
        EventRecorderOptions(
            flush_interval=timedelta(seconds=2.5),
            close_timeout=timedelta(minutes=1),
            write_interval=timedelta(milliseconds=20),
        ),
    ],
    ids=["text", "numbers", "timedelta"],
)
def test_durations_are_given_in_three_ways(options: EventRecorderOptions) -> None:
    durations = (options.flush_interval, options.close_timeout, options.write_interval)

    assert durations == (2.5, 60.0, 0.02)


def test_every_setting_of_a_subscription_has_a_type() -> None:
    options = EventRecorderOptions(
        overflow="drop_old", retry=Backoff(first="100ms", max=timedelta(seconds=3), attempts=3)
    )
    recorder = EventRecorder(Collecting(), options=options)

    recorder.register(Collecting(), name="other", types=["a"], start="latest", batch_rows=5, flush_interval="1s")

    assert set(recorder.status().subscriptions) == set()


def test_fields_of_a_model_keep_their_types() -> None:
    customer: CustomerId = ORDER.customer
    moment: datetime | None = OrderEvent(order_id=UUID(int=1), customer=customer, at=datetime.now(UTC)).at
    name: str = Clicked(target="a", user="b").user

    assert (customer, moment is None, name) == (UUID(int=2), False, "b")


def test_models_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ORDER.card = "1"  # only pydantic knows: its config is no matter for checkers
