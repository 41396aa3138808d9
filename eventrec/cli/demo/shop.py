"""The events of a little shop: what `eventrec demo` records. The same seed makes the same events in the same order."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, TypeAlias
from uuid import UUID

from eventrec.events.event import EventModel, EventStruct, type_name
from eventrec.events.fields import Column

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED: Final = 2026
VISITORS: Final = 40
"""Visitors in the shop at a time: their events interleave."""

Reason: TypeAlias = Literal["card_declined", "insufficient_funds", "timeout"]

_PRODUCTS: Final = (("tea", 790), ("coffee", 1_290), ("kettle", 4_900), ("mug", 1_450), ("honey", 890), ("tin", 650))
_PAGES: Final = ("/", "/products", "/offers", "/about")
_REASONS: Final[tuple[Reason, ...]] = ("card_declined", "insufficient_funds", "timeout")
_REFERRERS: Final = (None, None, "https://search.example", "https://news.example", "https://friends.example")


class PageView(EventStruct):
    """A visitor sees a page. A struct: the fast path, for what happens often."""

    table: ClassVar[str] = "page_views"
    path: Annotated[str, Column()]
    visitor: Annotated[UUID, Column()]
    referrer: str | None = None


class SearchPerformed(EventStruct):
    """A visitor looks for something."""

    visitor: str
    query: str
    results: int


class ItemAddedToCart(EventStruct):
    """A visitor wants something."""

    visitor: str
    product: str
    quantity: int


class OrderPlaced(EventModel, table="orders"):
    """A visitor buys what is in the cart. A model: validated, and columns to query by."""

    order_id: Annotated[UUID, Column()]
    customer: Annotated[UUID, Column()]
    total_cents: Annotated[int, Column()]
    items: dict[str, int]
    currency: Literal["EUR"] = "EUR"


class PaymentSucceeded(EventModel, table="payments"):
    """The money came."""

    order_id: Annotated[UUID, Column()]
    amount_cents: Annotated[int, Column()]
    method: str


class PaymentFailed(EventModel, table="payments"):
    """The money did not come."""

    order_id: Annotated[UUID, Column()]
    amount_cents: Annotated[int, Column()]
    method: str
    reason: Reason


class SupportRequested(EventModel):
    """A visitor needs help."""

    visitor: UUID
    topic: str


ShopEvent: TypeAlias = (
    PageView | SearchPerformed | ItemAddedToCart | OrderPlaced | PaymentSucceeded | PaymentFailed | SupportRequested
)

TABLES: Final = ("events", "orders", "page_views", "payments")
"""Where the rows of all these types go."""


def shop_events(count: int, *, seed: int = SEED) -> Iterator[ShopEvent]:
    """The first `count` events of the shop."""
    return islice(_interleaved(random.Random(seed)), count)  # noqa: S311 - it shall be predictable


def count_by_type(count: int, *, seed: int = SEED) -> Counter[str]:
    """How many of the first `count` events are of each type: the shop's own count, whatever became of them."""
    return Counter(type_name(type(event).__name__) for event in shop_events(count, seed=seed))


def _interleaved(chance: random.Random) -> Iterator[ShopEvent]:
    visits = [_visit(chance) for _ in range(VISITORS)]
    while True:
        place = chance.randrange(VISITORS)
        event = next(visits[place], None)
        if event is None:
            visits[place] = _visit(chance)
        else:
            yield event


@dataclass(slots=True)
class _Cart:
    items: dict[str, int]
    cents: int = 0


def _visit(chance: random.Random) -> Iterator[ShopEvent]:
    """One visitor, from the first page to the last."""
    visitor = UUID(int=chance.getrandbits(128), version=4)
    cart = _Cart({})
    yield PageView(path=chance.choice(_PAGES), visitor=visitor, referrer=chance.choice(_REFERRERS))
    while chance.random() < 0.75:  # noqa: PLR2004 - a shop's chances
        product, cents = chance.choice(_PRODUCTS)
        if chance.random() < 0.3:  # noqa: PLR2004
            yield SearchPerformed(visitor=str(visitor), query=product, results=chance.randint(1, 12))
        yield PageView(path=f"/products/{product}", visitor=visitor)
        if chance.random() < 0.35:  # noqa: PLR2004
            quantity = chance.randint(1, 3)
            cart.items[product] = cart.items.get(product, 0) + quantity
            cart.cents += quantity * cents
            yield ItemAddedToCart(visitor=str(visitor), product=product, quantity=quantity)
    if cart.items and chance.random() < 0.6:  # noqa: PLR2004
        yield from _checkout(chance, visitor, cart)
    if chance.random() < 0.04:  # noqa: PLR2004
        yield SupportRequested(visitor=visitor, topic=chance.choice(("delivery", "returns", "payment")))


def _checkout(chance: random.Random, visitor: UUID, cart: _Cart) -> Iterator[ShopEvent]:
    order = UUID(int=chance.getrandbits(128), version=4)
    yield OrderPlaced(order_id=order, customer=visitor, total_cents=cart.cents, items=cart.items)
    while True:
        method = chance.choice(("card", "card", "transfer", "wallet"))
        if chance.random() < 0.85:  # noqa: PLR2004
            yield PaymentSucceeded(order_id=order, amount_cents=cart.cents, method=method)
            return
        reason = chance.choice(_REASONS)
        yield PaymentFailed(order_id=order, amount_cents=cart.cents, method=method, reason=reason)
        if chance.random() < 0.3:  # noqa: PLR2004
            return
