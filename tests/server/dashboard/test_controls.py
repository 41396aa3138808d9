"""Everything on the page that can be pressed, chosen or written into, by pointer and by keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request

FIRST_ROLLUP = ".rollup:nth-child(1)"


@pytest.fixture
def opened(shop: Callable[..., Any]) -> Any:
    """A shop with the demo's events."""
    opened = shop()
    opened.sell(1_000)
    return opened


def asked(page: Page, rollup: str, press: Callable[[], object]) -> dict[str, list[str]]:
    """What the question for `rollup` says that `press` leads to."""

    def is_wanted(request: Request) -> bool:
        return urlsplit(request.url).path == f"/rollups/{rollup}"

    with page.expect_request(is_wanted) as found:
        press()
    return parse_qs(urlsplit(found.value.url).query, keep_blank_values=True)


def drawn(page: Page) -> Any:
    """What the first chart shows: the kind and the name of each series."""
    return page.evaluate("document.querySelector('.rollup .chart').data.map(({type, name}) => [type, name])")


def test_range_zone_group_and_measure_are_asked_and_drawn(opened: Any, serve: Any, view: Any) -> None:
    page = view.open(serve(opened.app).url)
    page.wait_for_selector(".rollup:nth-child(3) .main-svg")
    name = "payments_by_method"

    assert drawn(page) == [["bar", " "]]
    for value in ("-1h", "-24h", "-7d", "-30d", "-90d"):
        assert asked(page, name, partial(page.select_option, "#range", value))["from"] == [value]
    assert "from" not in asked(page, name, lambda: page.select_option("#range", "all"))
    page.select_option("#range", "custom")
    assert asked(page, name, lambda: page.fill("#range-from", "2026-01-31"))["from"] == ["2026-01-31"]
    assert asked(page, name, lambda: page.fill("#range-to", "2026-02-01"))["to"] == ["2026-02-01"]
    page.wait_for_selector(f"{FIRST_ROLLUP} .chart-state:has-text('No event in this range.')")
    assert asked(page, name, lambda: page.select_option("#range", ""))["from"] == ["-720h"]

    def zoned() -> None:
        page.fill("#zone", "Asia/Tokyo")
        page.keyboard.press("Enter")

    assert asked(page, name, zoned)["zone"] == ["Asia/Tokyo"]
    assert asked(page, name, lambda: page.click("#rollups-refresh"))["group"] == [""]
    first = page.locator(FIRST_ROLLUP)
    assert asked(page, name, lambda: first.locator("select").nth(1).select_option("method"))["group"] == ["method"]
    page.wait_for_selector(f"{FIRST_ROLLUP} .legend li:nth-child(3)")
    assert [kind for kind, _ in drawn(page)] == ["scatter"] * 3
    assert sorted(series for _, series in drawn(page)) == ["card", "transfer", "wallet"]
    assert sorted(first.locator(".legend li").all_text_contents()) == ["card", "transfer", "wallet"]
    first.locator("select").nth(0).select_option("mean_cents")
    page.wait_for_selector(f"{FIRST_ROLLUP} .chart[aria-label^=mean_cents]")
    assert first.locator("thead th").all_text_contents()[:3] == ["day (Asia/Tokyo)", "method", "paid"]
    assert first.locator("tbody tr").count() == 3


def test_a_zone_that_there_is_not_is_said_in_each_chart(opened: Any, serve: Any, view: Any) -> None:
    view.expected = ["400 (Bad Request)"]
    page = view.open(serve(opened.app).url)
    page.wait_for_selector(".rollup:nth-child(3) .main-svg")

    page.fill("#zone", "Nowhere/<b>else</b>")
    page.keyboard.press("Enter")

    page.wait_for_selector(f"{FIRST_ROLLUP} .chart-state.bad:has-text('zone')")
    assert "<b>else</b>" in page.text_content(f"{FIRST_ROLLUP} .chart-state")
    page.fill("#zone", "")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{FIRST_ROLLUP} .chart-state", state="hidden")


def test_theme_is_followed_chosen_and_kept(opened: Any, serve: Any, view: Any) -> None:
    def ground() -> Any:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page = view.open(serve(opened.app).url, scheme="dark")
    page.wait_for_selector(".rollup:nth-child(3) .main-svg")
    dark = ground()
    ink = page.evaluate("getComputedStyle(document.querySelector('.main-svg .xtick text')).fill")

    page.select_option("#theme", "light")

    light = ground()
    assert light != dark
    page.wait_for_selector(".rollup")
    assert page.evaluate("getComputedStyle(document.querySelector('.main-svg .xtick text')).fill") != ink
    page.reload()
    assert (ground(), page.input_value("#theme")) == (light, "light")
    page.select_option("#theme", "")
    assert ground() == dark
    page.emulate_media(color_scheme="light")
    assert ground() == light


def test_dead_letters_are_shown_replayed_and_gone(opened: Any, serve: Any, view: Any) -> None:
    opened.refuse_orders(3)
    page = view.open(serve(opened.app).url)
    page.click(".letter-offsets li:nth-child(2) button")
    page.wait_for_selector("#letter-text:has-text('no <b>orders</b> today')")
    assert re.match(r"Record \d+: order_placed", page.text_content("#letter-title"))
    assert page.evaluate("document.querySelector('#letter-text').childElementCount") == 0
    page.click("#letter-close")
    assert not page.is_visible("#letter-dialog")
    page.click("#dead-refresh")

    page.click(".letter-group .replay")
    page.click("#replay-cancel")
    assert not page.is_visible("#replay-dialog")
    page.click(".letter-group .replay")
    page.click("#replay-dialog button[type=submit]")
    page.wait_for_selector("#replays:has-text('sqlite: 0 delivered, 3 refused again, 3 left')")
    opened.accept_orders()
    page.click(".letter-group .replay")
    page.keyboard.press("Enter")

    page.wait_for_selector("#replays:has-text('sqlite: 3 delivered, 0 refused again, 0 left')")
    assert page.text_content("#announcement") == "sqlite: 3 delivered, 0 refused again, 0 left"
    page.wait_for_selector("#dead-state:has-text('No dead letter waits.')")
    page.wait_for_selector("#dead-count:has-text('0')")
    with page.expect_response("**/dead?*"):
        page.click("#dead-refresh")
    assert page.text_content("#replays") == "sqlite: 3 delivered, 0 refused again, 0 left"


HELD = ".destination:has(.destination-name:text-is('other-0'))"


@pytest.mark.parametrize("width", [1_440, 390])
def test_a_paused_destination_is_resumed(
    paused: Callable[..., Any], serve: Any, view: Any, until: Any, width: int
) -> None:
    opened, handler = paused()
    page = view.open(serve(opened.app).url, width=width)
    page.wait_for_selector(f"{HELD} .badge[data-state=bad]")

    assert page.locator(".destination .resume:visible").count() == 1, "what is not paused cannot be resumed"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.click("[aria-label='Resume other-0']")
    assert page.text_content("#resume-title") == "Resume other-0"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert view.serious(page) == []
    view.keep(page, f"resume-light-{width}")
    page.click("#resume-cancel")
    assert not page.is_visible("#resume-dialog")
    assert page.evaluate("document.activeElement.className") == "resume"
    page.keyboard.press("Enter")
    with page.expect_request("**/resume/other-0") as still_refused:
        page.click("#resume-yes")
    assert still_refused.value.method == "POST"
    page.wait_for_selector("#resume-dialog", state="hidden")
    page.wait_for_selector(f"{HELD} .badge[data-state=bad]")
    page.click("[aria-label='Resume other-0']")
    page.select_option("#resume-from", "earliest")
    handler.always = lambda _: None
    with page.expect_request("**/resume/other-0?from=earliest"):
        page.click("#resume-yes")

    page.wait_for_selector(f"{HELD} .badge[data-state=good]")
    page.wait_for_selector("#resume-dialog", state="hidden")
    page.wait_for_selector(f"{HELD} .resume", state="hidden")
    assert page.evaluate("document.activeElement.id") == "destinations-title"
    until(lambda: handler.count == 30)


def test_resuming_takes_the_scope_admin(paused: Callable[..., Any], serve: Any, view: Any, make_tokens: Any) -> None:
    view.expected = ["403 (Forbidden)"]
    tokens, secrets = make_tokens("read", "admin")
    opened, handler = paused(tokens=tokens)
    page = view.open(serve(opened.app).url)
    page.fill("#token", secrets["read"])
    page.keyboard.press("Enter")

    page.click("[aria-label='Resume other-0']")
    page.click("#resume-yes")
    page.wait_for_selector("#token-why:has-text('scope “admin”')")
    assert not page.is_visible("#resume-dialog")
    page.fill("#token", secrets["admin"])
    page.keyboard.press("Enter")
    page.click("[aria-label='Resume other-0']")
    handler.always = lambda _: None
    page.click("#resume-yes")

    page.wait_for_selector(f"{HELD} .badge[data-state=good]")


def test_a_resume_that_is_refused_says_why_and_can_be_tried_again(
    paused: Callable[..., Any], serve: Any, view: Any
) -> None:
    view.expected = ["503 (Service Unavailable)"]
    opened, _ = paused()
    page = view.open(serve(opened.app).url)
    said = json.dumps({"detail": "the log directory cannot be <b>read</b> now"})
    page.route("**/resume/*", lambda route: route.fulfill(status=503, body=said, content_type="application/json"))

    page.click("[aria-label='Resume other-0']")
    page.click("#resume-yes")

    page.wait_for_selector("#resume-error[role=alert]:has-text('cannot be <b>read</b> now')")
    assert page.text_content("#resume-yes") == "Resume"
    assert view.serious(page) == []
    page.unroute("**/resume/*")
    page.click("#resume-yes")
    page.wait_for_selector("#resume-dialog", state="hidden")


def test_every_control_is_reached_by_keyboard_in_the_order_of_the_page(opened: Any, serve: Any, view: Any) -> None:
    page = view.open(serve(opened.app).url)
    page.wait_for_selector(".rollup:nth-child(3) .main-svg")
    wanted = page.evaluate(
        """[...document.querySelectorAll('a[href], button, select, input, [tabindex="0"]')]
        .filter((each) => each.checkVisibility({ visibilityProperty: true }) && !each.disabled)
        .map((each) => (each.dataset.at = String(Math.random()), each.dataset.at))"""
    )

    found = []
    for _ in wanted:
        page.keyboard.press("Tab")
        found.append(page.evaluate("document.activeElement.dataset.at ?? document.activeElement.outerHTML"))

    assert found == wanted
    page.focus(".skip")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.focus("#token-open")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "token"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "token-open"
    for link in page.locator(".contents a:visible").all():
        link.click()
        assert page.evaluate("document.querySelector(location.hash) !== null")


COLOURS = """
(names) => Object.fromEntries(names.map((name) => {
  const probe = document.createElement('i');
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return [name, colour];
}))
"""
TEXTS = ("ink", "muted", "accent", "good", "warn", "bad")
SERIES = tuple(f"series-{number}" for number in range(1, 7))
GROUNDS = ("page", "card", "sunken")


def luminance(colour: list[float]) -> float:
    """As https://www.w3.org/TR/WCAG22/#dfn-relative-luminance has it."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in scaled(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def scaled(colour: list[float]) -> list[float]:
    return [part / 255 for part in colour]


def contrast(one: list[float], other: list[float]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# How colours look to who lacks a kind of cones, of full severity: Machado, Oliveira and Fernandes, 2009.
BLINDNESS = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}


def seen(colour: list[float], matrix: tuple[tuple[float, ...], ...]) -> tuple[float, float, float]:
    """The colour as it looks, in CIE L*a*b*."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in scaled(colour)]
    red, green, blue = (
        min(1.0, max(0.0, sum(factor * part for factor, part in zip(row, linear, strict=True)))) for row in matrix
    )
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089
    fx, fy, fz = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def test_colours_are_told_apart_by_everybody(opened: Any, serve: Any, view: Any) -> None:
    page = view.open(serve(opened.app).url)

    for theme in ("light", "dark"):
        page.select_option("#theme", theme)
        found = page.evaluate(COLOURS, [*TEXTS, *SERIES, *GROUNDS, "edge", "on-accent"])
        for text in TEXTS:
            assert min(contrast(found[text], found[ground]) for ground in GROUNDS) >= 4.5, (theme, text)
        for mark in (*SERIES, "edge"):
            assert contrast(found[mark], found["card"]) >= 3, (theme, mark)
        assert contrast(found["on-accent"], found["accent"]) >= 4.5
        for blindness, matrix in BLINDNESS.items():
            looks = [seen(found[name], matrix) for name in SERIES]
            apart = {
                (one + 1, other + 1): sum((a - b) ** 2 for a, b in zip(looks[one], looks[other], strict=True)) ** 0.5
                for one in range(len(looks))
                for other in range(one)
            }
            # 2.3 is just noticeable; lines also differ by their dashes.
            assert min(apart.values()) > 10, (theme, blindness, apart)
