"""A small catalogue, for migrations that are killed."""

from __future__ import annotations

from eventrec import EventModel
from eventrec.analytics import Catalogue, Rollup, bucket, count


class Placed(EventModel, table="orders", type="placed"):
    number: int


class OrdersHourly(Rollup, events=[Placed]):
    hour = bucket("1 hour")
    orders = count()


CATALOGUE = Catalogue(name="shop", events=[Placed], rollups=[OrdersHourly])
