"""The page as readers see it: light and dark, wide and narrow; with nothing, with the demo's data, in trouble."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from playwright.sync_api import Page

LOOKS: list[tuple[Literal["light", "dark"], int]] = [("dark", 1_440), ("dark", 390), ("light", 390), ("light", 1_440)]
MAX_SHIFT = 0.1
"""Of the layout, as https://web.dev/articles/cls has it: up to here it is good."""

NOTE_SHIFTS = """
window.shifts = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


def wait_until_shown(page: Page) -> None:
    """Every part has had its first answer."""
    page.wait_for_selector("main:not(:has([aria-busy=true]))")


CHARTS_FIT = """
async () => {
  const fits = (chart) => {
    const drawn = chart.querySelector('.main-svg');
    return drawn === null || Math.abs(drawn.clientWidth - chart.clientWidth) < 2;
  };
  while (![...document.querySelectorAll('.chart')].every(fits)) await new Promise(requestAnimationFrame);
}
"""


def look_at(page: Page, view: Any, name: str) -> None:
    """In every look it fits, and axe finds nothing serious."""
    for scheme, width in LOOKS:
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.evaluate(CHARTS_FIT)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (scheme, width)
        view.keep(page, f"{name}-{scheme}-{width}")
        assert view.serious(page) == [], (scheme, width)


def test_demo_is_shown(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    opened = shop()
    opened.sell(2_000)

    page = view.open(serve(opened.app).url, prepare=lambda page: page.add_init_script(NOTE_SHIFTS))
    page.wait_for_selector(".rollup:nth-child(3) .main-svg")
    wait_until_shown(page)

    assert page.text_content("#connection-text") == "Live"
    assert "2,000 so far" in page.text_content("#rate-note")
    assert page.text_content(".destination dd") == "2,000"
    assert page.locator("#type-list li").count() >= 5
    assert page.locator("#tail-rows tr").count() == 200
    assert page.text_content("#dead-state") == "No dead letter waits."
    assert page.text_content("#losses-state") == "Nothing was refused or dropped."
    assert "complete to 20" in page.text_content(".rollup .complete")
    assert page.locator(".rollup tbody tr").count() >= 3
    assert page.evaluate("window.shifts") < MAX_SHIFT
    look_at(page, view, "demo")


def test_empty_is_said(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    opened = shop()
    opened.execute("CREATE TABLE other (x)")

    page = view.open(serve(opened.app).url)
    page.wait_for_selector(".rollup:nth-child(3) .chart-state:has-text('No event in this range.')")
    page.wait_for_selector("#tail-state:has-text('No event is stored yet.')")
    wait_until_shown(page)

    assert page.text_content("#types-state") == "No event is stored yet."
    assert page.text_content("#lag") == "0"
    assert page.text_content("#oldest") == "none"
    look_at(page, view, "empty")


def test_outage_with_dead_letters_is_shown(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    opened = shop("http://127.0.0.1:9/events")
    opened.sell(500)
    opened.refuse_orders(12)

    page = view.open(serve(opened.app).url)
    page.wait_for_selector(".letter-group")
    page.wait_for_selector(".destination:nth-child(2) .badge[data-state=warn]")
    wait_until_shown(page)

    assert page.text_content("#dead-count") == "12"
    assert page.text_content(".letter-group h3") == "order_placed, for sqlite"
    assert "no <b>orders</b> today" in page.text_content(".letter-reason")
    assert page.locator(".letter-offsets button").count() == 8
    assert page.text_content("#health") == "1 of 2 does not deliver"
    assert "127.0.0.1:9" in page.text_content(".destination:nth-child(2) .destination-error")
    look_at(page, view, "outage")
