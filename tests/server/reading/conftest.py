"""What the tests of reading share: a file with events, an application over it, and a client without a socket."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import pytest

from eventrec import EventModel, EventRecorder, EventRecorderOptions, ReceivedEvent
from eventrec.analytics import Catalogue, Rollup, avg, bucket, count, distinct, first, group, sum_of
from eventrec.server import ServerOptions, application
from eventrec.testing.asgi import Client

SECOND: Final = 1_000_000_000
DAY: Final = 86_400 * SECOND
START: Final = int(datetime(2026, 3, 26, tzinfo=UTC).timestamp()) * SECOND
"""Three days before the clocks of Zurich are put forward."""


class OrderPlaced(EventModel, table="shop"):
    shop: str | None
    customer: str
    cents: int


class OrderCancelled(EventModel, table="shop"):
    customer: str


class Visit(EventModel, table="visits"):
    page: str


class OrdersPerHour(Rollup, name="orders_per_hour", events=[OrderPlaced]):
    """Orders of each hour and shop."""

    hour = bucket("1 hour")
    shop = group("shop")
    orders = count()
    customers = distinct("customer")
    cents = sum_of("cents")
    mean = avg("cents")
    example = first("customer")


class OrdersPerDay(Rollup, name="orders_per_day", events=[OrderPlaced, OrderCancelled]):
    day = bucket("1 day", zone="Europe/Zurich")
    events = count()
    customers = distinct("customer")


CATALOGUE: Final = Catalogue(
    name="shop", events=[OrderPlaced, OrderCancelled, Visit], rollups=[OrdersPerHour, OrdersPerDay]
)
SHOPS: Final = ("a", "b", "=1+1", 'say "so", now', None)


def made(number: int = 400, *, seed: int = 5, start: int = START, days: int = 6) -> list[ReceivedEvent]:
    """Events of some days, in the order of their time."""
    draw = random.Random(seed)
    events = []
    for at in sorted(draw.randrange(days * DAY) for _ in range(number)):
        kind = draw.choice(("order_placed",) * 6 + ("order_cancelled", "visit"))
        said: dict[str, Any] = {"customer": f"c{draw.randrange(30)}"}
        if kind == "order_placed":
            said |= {"shop": draw.choice(SHOPS), "cents": draw.randrange(10_000)}
        if kind == "visit":
            said = {"page": f"/{draw.randrange(5)}"}
        table = "visits" if kind == "visit" else "shop"
        events.append(ReceivedEvent(kind, json.dumps(said).encode(), timestamp=start + at, table=table))
    return events


async def store(url: str, events: Sequence[Any]) -> None:
    async with EventRecorder(url, options=EventRecorderOptions(batch_rows=1_000, flush_interval=0.05)) as recorder:
        for event in events:
            assert recorder.record(event)
        assert await recorder.flush(timeout=30)


@pytest.fixture(scope="session")
def events() -> list[ReceivedEvent]:
    return made()


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, events: list[ReceivedEvent]) -> str:
    """The URL of a file with `events`."""
    url = f"sqlite:///{tmp_path_factory.mktemp('shop') / 'shop.db'}"
    anyio.run(store, url, events)
    return url


@pytest.fixture
def client_of() -> Callable[..., Client]:
    """A client of an application over what a URL names."""

    def make(
        url: str, catalogue: Catalogue | None = CATALOGUE, *, recorder: EventRecorder | None = None, **options: Any
    ) -> Client:
        given = EventRecorder("memory:") if recorder is None else recorder
        return Client(application(given, to=url, catalogue=catalogue, options=ServerOptions(**options)))

    return make


@pytest.fixture
def client(client_of: Callable[..., Client], shop: str) -> Client:
    return client_of(shop)


@pytest.fixture
def catalogue() -> Catalogue:
    return CATALOGUE


@pytest.fixture
def make_events() -> Callable[..., list[ReceivedEvent]]:
    return made


@pytest.fixture
def stored() -> Callable[..., Any]:
    return store
