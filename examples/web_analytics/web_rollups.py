"""What a dashboard of a web site asks."""

from __future__ import annotations

from typing import Final

from eventrec.analytics import Rollup, avg, bucket, count, distinct, event_timestamp, group, max_of, payload, sum_of
from web_events import EVENTS, AddToCart, Purchase, ScreenView, SessionEnd

DEVICE: Final = payload("device_id")
SIGN: Final = payload("sign", kind="integer")


class LiveVisitors(Rollup, name="live_visitors", events=EVENTS):
    """Who is there: its newest bucket is the last five minutes."""

    since = bucket("5 minutes")
    visitors = distinct(DEVICE)
    events = count()


class TopPages(Rollup, name="top_pages", events=[ScreenView]):
    day = bucket("1 day")
    path = group("path")
    views = count()
    visitors = distinct(DEVICE)


class Visits(Rollup, name="visits", table="sessions"):
    """Sessions by when they began, and those of one view alone. A row of the sign -1 takes another one back."""

    hour = bucket("1 hour")
    sessions = sum_of(SIGN)
    bounces = sum_of(SIGN, where=payload("is_bounce", kind="boolean").is_true())


class People(Rollup, name="people", table="profiles"):
    """Profiles by when they were last seen; of each its latest version counts alone."""

    hour = bucket("1 hour")
    profiles = count()
    known = count(where=payload("is_external", kind="boolean").is_true())
    last_seen = max_of(event_timestamp)


class Durations(Rollup, name="durations", events=[SessionEnd]):
    """How long sessions took, by when they ended."""

    hour = bucket("1 hour")
    ended = count()
    avg_ms = avg("duration")
    longest_ms = max_of("duration")


class Ways(Rollup, name="ways", table="sessions"):
    """Where sessions began and ended."""

    day = bucket("1 day")
    entry_path = group(payload("entry_path", kind="text"))
    exit_path = group(payload("exit_path", kind="text"))
    sessions = sum_of(SIGN)


class Sales(Rollup, name="sales", events=[AddToCart, Purchase]):
    hour = bucket("1 hour")
    carts = count(where=payload("revenue") == 0)
    orders = count(where=payload("revenue") > 0)
    revenue_cents = sum_of("revenue")


ROLLUPS: Final = (LiveVisitors, TopPages, Visits, People, Durations, Ways, Sales)
