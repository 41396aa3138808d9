"""Rollups in a zone whose rules change in between: what each destination is asked that keeps them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from eventrec import ReceivedEvent, default_layout
from eventrec.analytics import Question, Refresh, Rollup, bucket, count, plan_of
from eventrec.records.times import nanoseconds

if TYPE_CHECKING:
    from eventrec.analytics import RollupStore

ZONE: Final = "America/Asuncion"
OLD: Final = (-4,)
NEW: Final = (-4, ("2026-03-10T04:00+00:00", -3))
LATER: Final = (-4, ("2026-03-10T04:00+00:00", -5.5))
NEVER: Final = (-5.5,)
NOW: Final = datetime(2026, 4, 2, 15, 30, tzinfo=UTC)
HOURS: Final = [NOW - timedelta(hours=n) for n in range(40 * 24)]
KEPT: Final = replace(default_layout("events"), retention="10d")


class Daily(Rollup, name="daily", table="events"):
    """By days of the zone."""

    day = bucket("day", zone=ZONE)
    n = count()
    refresh = Refresh(window="3 days", lag=0)


class Weekly(Rollup, name="weekly", table="events"):
    """By its weeks."""

    week = bucket("week", zone=ZONE)
    n = count()
    refresh = Refresh(window="3 days", lag=0)


class Monthly(Rollup, name="monthly", table="events"):
    """By its months."""

    month = bucket("month", zone=ZONE)
    n = count()
    refresh = Refresh(window="3 days", lag=0)


class Quarterly(Rollup, name="quarterly", table="events"):
    """By quarters of its days, as its clock shows them."""

    part = bucket("6 hours", zone=ZONE)
    n = count()
    refresh = Refresh(window="3 days", lag=0)


class Everywhere(Rollup, name="everywhere", table="events"):
    """By days of UTC, which has no rules."""

    day = bucket("day")
    n = count()
    refresh = Refresh(window="3 days", lag=0)


ROLLUPS: Final = (Daily, Weekly, Monthly, Quarterly, Everywhere)
PLANS: Final = [plan_of(rollup) for rollup in ROLLUPS]


def happened(*moments: datetime) -> list[ReceivedEvent]:
    """An event at each of `moments`."""
    return [ReceivedEvent("ordered", b"{}", timestamp=nanoseconds(at), table="events") for at in moments]


def by_brute_force(rollup: type[Rollup], moments: list[datetime]) -> list[tuple[int, int]]:
    """The buckets of `rollup`, and how many of `moments` are in each."""
    return sorted(Counter(plan_of(rollup).bucket.floor(nanoseconds(at)) for at in moments).items())


async def counted(store: RollupStore, rollup: type[Rollup]) -> list[tuple[int, int]]:
    """What `store` answers of `rollup`, in the same form."""
    return [tuple(row) for row in (await store.answer(Question(rollup))).rows]  # type: ignore[misc]
