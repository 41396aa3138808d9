"""What table and chart show of buckets in the time of a zone, also where its clock is put forward or back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import anyio
import pytest

from eventrec import EventModel, EventRecorder, ReceivedEvent
from eventrec.analytics import Catalogue, Rollup, avg, bucket, count
from eventrec.server import application

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route
    from starlette.applications import Starlette

BERLIN: Final = "Europe/Berlin"
AUTUMN: Final = datetime(2026, 10, 25, 1, tzinfo=UTC)
"""When the clocks of Berlin are put back, from 03:00 to 02:00."""
SPRING: Final = datetime(2026, 3, 29, 1, tzinfo=UTC)
"""When they are put forward, from 02:00 to 03:00."""
CAIRO: Final = datetime(2026, 4, 23, 22, tzinfo=UTC)
"""When those of Cairo are put forward, from midnight to 01:00."""
HOUR: Final = timedelta(hours=1)
MILLISECONDS: Final = 3_600_000
ROLLUP: Final = "**/rollups/*?*"
"""The question for one."""

KNOWS_NO_ZONE: Final = """
const { DateTimeFormat } = Intl;
Intl.DateTimeFormat = function (locale, options) {
  if (options?.timeZone === "Europe/Berlin") throw new RangeError("Invalid time zone specified");
  return new DateTimeFormat(locale, options);
};
"""
KNOWS_OTHER_CLOCKS: Final = """
const { DateTimeFormat } = Intl;
Intl.DateTimeFormat = function (locale, options) {
  const timeZone = options?.timeZone === "Europe/Berlin" ? "Europe/Moscow" : options?.timeZone;
  return new DateTimeFormat(locale, { ...options, timeZone });
};
"""


class Sold(EventModel, table="sold"):
    cents: int


class Hours(Rollup, name="hours", events=[Sold]):
    hour = bucket("1 hour", zone=BERLIN)
    sold = count()
    mean = avg("cents")


class TwoHours(Rollup, name="two_hours", events=[Sold]):
    hours = bucket("2 hours", zone=BERLIN)
    sold = count()


class Days(Rollup, name="days", events=[Sold]):
    day = bucket("day")
    sold = count()
    mean = avg("cents")


class Months(Rollup, name="months", events=[Sold]):
    month = bucket("month")
    sold = count()


class DaysOfCairo(Rollup, name="days_of_cairo", events=[Sold]):
    day = bucket("day", zone="Africa/Cairo")
    sold = count()


def sales() -> Iterable[ReceivedEvent]:
    """One in each hour around a change of a clock, two in the hour just after it."""
    for change in (AUTUMN, SPRING, CAIRO):
        for hours in (*range(-30, 31), 0):
            seconds = int((change + hours * HOUR).timestamp())
            yield ReceivedEvent("sold", b'{"cents": 5}', timestamp=seconds * 1_000_000_000, table="sold")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a file with `sales`."""
    url = f"sqlite:///{tmp_path_factory.mktemp('zones') / 'sales.db'}"

    async def store() -> None:
        async with EventRecorder(url) as recorder:
            assert all(recorder.record(event) for event in sales())
            assert await recorder.flush(timeout=30)

    anyio.run(store)
    return url


@pytest.fixture
def shown(database: str, serve: Any, view: Any) -> Callable[..., Page]:
    """Opens the page with what was sold from one time to another, in a zone."""

    def opened(rollup: type[Rollup], start: str, end: str, zone: str = "", *, script: str = "") -> Any:
        url = serve(app_of(rollup, database)).url
        page = view.open(url, prepare=lambda page: page.add_init_script(script))
        page.wait_for_selector(".rollup[aria-busy=false]")
        show(page, start, end, zone)
        return page

    return opened


def app_of(rollup: type[Rollup], database: str) -> Starlette:
    catalogue = Catalogue(name="zones", events=[Sold], rollups=[rollup])
    return application(EventRecorder("memory:"), to=database, catalogue=catalogue)


def show(page: Page, start: str, end: str, zone: str = "") -> None:
    """The server is asked for times, where the page has dates."""

    def ask(route: Route) -> None:
        route.continue_(url=f"{route.request.url}&{urlencode({'from': start, 'to': end})}")

    page.unroute(ROLLUP)
    page.route(ROLLUP, ask)
    page.fill("#zone", zone)
    choose_range(page, "all")
    page.wait_for_selector(".rollup .chart-state", state="hidden")


def choose_range(page: Page, value: str) -> None:
    """Choose it, and wait for an answer to what is asked from then on: what was asked before is given up by that."""
    page.evaluate(
        """(value) => {
          document.querySelectorAll('.rollup tbody tr').forEach((row) => row.setAttribute('data-before', ''));
          const range = document.getElementById('range');
          range.value = value;
          range.dispatchEvent(new Event('change'));
        }""",
        value,
    )
    page.wait_for_selector(".rollup tbody:has(tr):not(:has(tr[data-before]))")
    page.wait_for_selector(".rollup[aria-busy=false]")


@pytest.fixture
def told(database: str, serve: Any, view: Any) -> Callable[..., Page]:
    """Opens the page at a time; it is told of one sold in each bucket that begins then, as a zone has it."""

    def opened(rollup: type[Rollup], zone: str, starts: Iterable[datetime], *, now: datetime, last: str = "") -> Any:
        answer = {
            "rollup": rollup.__name__,
            "bucket": "1",
            "zone": zone,
            "columns": [
                {"name": "start", "kind": "timestamp", "role": "bucket"},
                {"name": "sold", "kind": "integer", "role": "measure"},
            ],
            "rows": [[start.astimezone(ZoneInfo(zone)).isoformat(), 1] for start in sorted(starts, reverse=True)],
            "complete_to": None,
            "pending": 0,
            "cursor": None,
            "remarks": [],
        }

        def prepare(page: Page) -> None:
            page.clock.set_fixed_time(now)
            page.route(ROLLUP, lambda route: route.fulfill(json=answer))

        page = view.open(serve(app_of(rollup, database)).url, prepare=prepare)
        page.wait_for_selector(".rollup .xtick")
        if last:
            choose_range(page, last)
        return page

    return opened


def hours_around(change: datetime, hours: Iterable[int]) -> list[datetime]:
    return [change + hour * HOUR for hour in hours]


def first_cells(page: Page) -> list[str]:
    """What the table says of buckets, the oldest first."""
    return page.locator(".rollup tbody td:nth-child(1)").all_text_contents()[::-1]


def choose(page: Page, measure: str) -> None:
    page.locator(".rollup select").nth(0).select_option(measure)
    page.wait_for_selector(f".rollup .chart[aria-label^={measure}]")


def drawn(page: Page) -> Any:
    """The one series of the chart, as plotly.js was given it."""
    return page.evaluate("document.querySelector('.rollup .chart').data[0]")


def places(page: Page) -> list[float]:
    """Where its buckets stand, in hours."""
    found = page.evaluate("document.querySelector('.rollup .chart').data[0].x.map((x) => Date.parse(`${x}Z`))")
    return [place / MILLISECONDS for place in found]


def axis_of(page: Page) -> Any:
    return page.evaluate("document.querySelector('.rollup .chart').layout.xaxis")


def tick_texts(page: Page) -> list[str]:
    return page.locator(".rollup .xtick text").all_text_contents()


def point_at(page: Page, index: int, *, told: str) -> None:
    """Move the pointer over the bucket with this index, and wait till that is told of it."""
    x, y = page.evaluate(
        """(index) => {
          const chart = document.querySelector('.rollup .chart');
          chart.scrollIntoView({ block: 'center' });
          const { xaxis } = chart._fullLayout;
          const box = chart.getBoundingClientRect();
          const inside = chart.data[0].x[index].replace(':00:00', ':20:00');
          return [box.left + xaxis._offset + xaxis.d2p(inside), box.top + 120];
        }""",
        index,
    )
    page.mouse.move(x, y)
    page.wait_for_function(
        """(told) => {
          const texts = [...document.querySelectorAll('.rollup .hoverlayer text')];
          return texts.map((text) => text.textContent).join(' | ') === told;
        }""",
        arg=told,
    )


@pytest.mark.parametrize(
    ("zone", "days"),
    [
        ("", ["2026-10-24", "2026-10-25", "2026-10-26"]),
        ("America/New_York", ["2026-10-23 20:00-04:00", "2026-10-24 20:00-04:00", "2026-10-25 20:00-04:00"]),
        (BERLIN, ["2026-10-24 02:00+02:00", "2026-10-25 02:00+02:00", "2026-10-26 01:00+01:00"]),
    ],
)
def test_a_day_is_a_date_in_the_zone_of_its_rollup_alone(
    shown: Callable[..., Page], zone: str, days: list[str]
) -> None:
    page = shown(Days, "2026-10-23T12:00:00Z", "2026-11-01", zone)

    assert first_cells(page) == days


def test_a_month_is_a_date_in_the_zone_of_its_rollup_alone(shown: Callable[..., Page]) -> None:
    page = shown(Months, "2026-01-01", "2027-01-01", "America/New_York")

    assert first_cells(page) == ["2026-02-28 19:00-05:00", "2026-03-31 20:00-04:00", "2026-09-30 20:00-04:00"]


def test_a_day_without_a_midnight_has_its_date(shown: Callable[..., Page]) -> None:
    page = shown(DaysOfCairo, "2026-04-20", "2026-04-30", "Africa/Cairo")

    assert first_cells(page) == ["2026-04-22", "2026-04-23", "2026-04-24", "2026-04-25"]
    assert drawn(page)["x"] == [
        "2026-04-22T00:00:00",
        "2026-04-23T00:00:00",
        "2026-04-24T01:00:00",
        "2026-04-25T00:00:00",
    ]


def test_two_hours_that_a_clock_shows_alike_are_told_apart(shown: Callable[..., Page]) -> None:
    page = shown(Hours, "2026-10-24T21:00", "2026-10-25T09:00")

    cells = first_cells(page)
    at = cells.index("2026-10-25 02:00+01:00")
    assert cells[at - 2 : at + 2] == [
        "2026-10-25 01:00+02:00",
        "2026-10-25 02:00+02:00",
        "2026-10-25 02:00+01:00",
        "2026-10-25 03:00+01:00",
    ]
    assert len(cells) == 13
    assert [place - places(page)[0] for place in places(page)] == list(range(13))
    assert drawn(page)["y"] == [1] * at + [2] + [1] * (12 - at)
    assert {*drawn(page)["width"]} == {0.82 * MILLISECONDS}


def test_the_pointer_is_told_the_time_with_its_offset_around_a_change(shown: Callable[..., Page], view: Any) -> None:
    page = shown(Hours, "2026-10-24T21:00", "2026-10-25T09:00")
    at = first_cells(page).index("2026-10-25 02:00+01:00")

    point_at(page, at - 1, told="sold | 2026-10-25 02:00+02:00: 1")
    view.keep(page, "zones-autumn")
    point_at(page, at, told="sold | 2026-10-25 02:00+01:00: 2")
    point_at(page, at + 1, told="sold | 2026-10-25 03:00+01:00: 1")
    show(page, "2026-10-25T05:00", "2026-10-25T09:00")
    point_at(page, 1, told="Oct 25, 2026, 06:00 | 1")


@pytest.mark.parametrize("script", ["", KNOWS_NO_ZONE, KNOWS_OTHER_CLOCKS], ids=["", "no zone", "other clocks"])
def test_ticks_say_what_the_clock_shows_before_and_after_a_change(shown: Callable[..., Page], script: str) -> None:
    page = shown(Hours, "2026-10-24T23:00", "2026-10-25T05:00", script=script)

    assert tick_texts(page) == [
        *("23:00Oct 24, 2026", "00:00Oct 25, 2026", "01:00", "02:00", "02:00", "03:00", "04:00", "05:00"),
    ]


def test_ticks_leave_out_what_the_clock_does(shown: Callable[..., Page], view: Any) -> None:
    page = shown(Hours, "2026-03-28T23:00", "2026-03-29T06:00")

    view.keep(page, "zones-spring")
    assert tick_texts(page) == [
        *("23:00Mar 28, 2026", "00:00Mar 29, 2026", "01:00", "03:00", "04:00", "05:00", "06:00"),
    ]


def test_ticks_of_several_days_stand_at_their_hours(shown: Callable[..., Page], view: Any) -> None:
    page = shown(Hours, "2026-10-24", "2026-10-27")

    view.keep(page, "zones-days")
    assert tick_texts(page) == [
        *("00:00Oct 24, 2026", "12:00", "00:00Oct 25, 2026", "12:00", "00:00Oct 26, 2026"),
    ]


def test_a_line_goes_on_where_a_clock_leaves_an_hour_out(shown: Callable[..., Page]) -> None:
    page = shown(Hours, "2026-03-28T22:00", "2026-03-29T07:00")

    choose(page, "mean")

    assert drawn(page)["y"] == [5] * 8
    assert [place - places(page)[0] for place in places(page)] == list(range(8))


def test_a_line_is_cut_where_there_is_no_bucket(shown: Callable[..., Page]) -> None:
    page = shown(Days, "2026-03-29", "2026-04-25")

    choose(page, "mean")

    assert drawn(page)["x"] == [
        *("2026-03-29T00:00:00", "2026-03-30T00:00:00", "2026-03-31T00:00:00"),
        *("2026-04-22T00:00:00", "2026-04-23T00:00:00", "2026-04-24T00:00:00"),
    ]
    assert drawn(page)["y"] == [5, 5, None, 5, 5, 5]


def test_hours_that_are_over_sooner_do_not_lie_over_the_next(shown: Callable[..., Page]) -> None:
    page = shown(TwoHours, "2026-10-24T22:00", "2026-10-25T06:00")

    at = first_cells(page).index("2026-10-25 02:00+02:00")
    assert places(page)[at + 1] - places(page)[at] == 1
    assert drawn(page)["width"][at - 1 : at + 2] == [1.64 * MILLISECONDS, 0.82 * MILLISECONDS, 1.64 * MILLISECONDS]


def test_away_from_a_change_the_axis_is_the_clock(shown: Callable[..., Page]) -> None:
    page = shown(Hours, "2026-10-25T05:00", "2026-10-25T08:00", "America/New_York")

    data = drawn(page)
    assert data["x"] == ["2026-10-25T05:00:00", "2026-10-25T06:00:00", "2026-10-25T07:00:00"]
    assert data["width"] == 0.82 * MILLISECONDS
    assert axis_of(page)["range"] == ["2026-10-25T04:30:00", "2026-10-25T08:30:00"]
    assert "tickvals" not in axis_of(page)


@pytest.mark.parametrize(("change", "last"), [(AUTUMN, "06:00"), (SPRING, "12:00")])
@pytest.mark.parametrize("hours", [range(-20, 9), range(-20, -10)], ids=["on both sides", "before"])
def test_an_axis_ends_now_though_the_clock_was_changed_meanwhile(
    told: Callable[..., Page], change: datetime, last: str, hours: range
) -> None:
    now = change + 9.5 * HOUR  # 11:30 or 12:30

    page = told(Hours, BERLIN, hours_around(change, hours), now=now)

    end = datetime.fromisoformat(axis_of(page)["range"][1]).replace(tzinfo=UTC)
    assert end.timestamp() / 3_600 - places(page)[0] == (now - change) / HOUR - hours[0]
    assert tick_texts(page)[-1] == last


def test_an_axis_of_days_ends_now_though_the_clock_was_changed_meanwhile(told: Callable[..., Page]) -> None:
    days = [datetime(2026, 10, day, tzinfo=ZoneInfo("Africa/Cairo")) for day in (24, 25)]

    page = told(DaysOfCairo, "Africa/Cairo", days, now=datetime(2026, 11, 3, 10, tzinfo=UTC))

    assert drawn(page)["x"] == ["2026-10-24T00:00:00", "2026-10-25T00:00:00"]
    assert axis_of(page)["range"] == ["2026-10-04T13:00:00", "2026-11-03T12:00:00"]


def test_ticks_of_days_stand_at_the_first_hour_of_each(told: Callable[..., Page], view: Any) -> None:
    page = told(Hours, "Africa/Cairo", hours_around(CAIRO, range(-60, 70)), now=CAIRO + 72 * HOUR, last="-7d")

    view.keep(page, "zones-cairo")
    assert tick_texts(page) == ["Apr 202026", *(f"Apr {day}" for day in range(21, 28))]
    midnights = [datetime.fromisoformat(tick) for tick in axis_of(page)["tickvals"]]
    assert [(after - before) / HOUR for before, after in pairwise(midnights)] == [24, 24, 24, 24, 23, 24, 24]
