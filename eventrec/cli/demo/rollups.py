"""What the demo asks of its database: rollups of the shop, and their catalogue for `query` and for the dashboard."""

from __future__ import annotations

from typing import Final

from eventrec.analytics import Catalogue, Rollup, avg, bucket, count, distinct, f, group, is_type, percentile, sum_of
from eventrec.cli.demo.shop import (
    ItemAddedToCart,
    OrderPlaced,
    PageView,
    PaymentFailed,
    PaymentSucceeded,
    SearchPerformed,
    SupportRequested,
)


class PaymentsByMethod(Rollup, name="payments_by_method", events=[PaymentSucceeded, PaymentFailed]):
    """How customers of the shop pay."""

    day = bucket("day")
    method = group("method")
    paid = count(where=is_type(PaymentSucceeded))
    failed = count(where=is_type(PaymentFailed))
    declined = count(where=f("reason") == "card_declined")
    revenue_cents = sum_of("amount_cents", where=is_type(PaymentSucceeded))
    mean_cents = avg("amount_cents", where=is_type(PaymentSucceeded))
    p95_cents = percentile("amount_cents", 0.95, where=is_type(PaymentSucceeded))


class PagesByMinute(Rollup, name="pages_by_minute", events=[PageView]):
    """What visitors of the shop look at."""

    minute = bucket("1 minute")
    path = group("path")
    views = count()
    visitors = distinct("visitor")


class OrdersByMinute(Rollup, name="orders_by_minute", events=[OrderPlaced]):
    """What the shop sells."""

    minute = bucket("1 minute")
    orders = count()
    revenue_cents = sum_of("total_cents")
    median_cents = percentile("total_cents", 0.5)


catalogue: Final = Catalogue(
    name="demo",
    events=[
        PageView,
        SearchPerformed,
        ItemAddedToCart,
        OrderPlaced,
        PaymentSucceeded,
        PaymentFailed,
        SupportRequested,
    ],
    rollups=[PaymentsByMethod, PagesByMinute, OrdersByMinute],
)
