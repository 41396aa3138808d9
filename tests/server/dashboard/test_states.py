"""The page where something is missing: a token, the server, a log, a destination, plotly.js, a reader who looks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from eventrec import EventRecorder
from eventrec.server import application

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page, Route

OFFLINE = ["ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE"]

LOOKED_AT = """
() => {
  Object.defineProperty(document, 'hidden', { get: () => HIDDEN, configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}
"""
HIDE = LOOKED_AT.replace("HIDDEN", "true")
SHOW = LOOKED_AT.replace("HIDDEN", "false")


def counting(page: Page) -> list[str]:
    """The paths that the page asks for, from now on."""
    paths: list[str] = []
    page.on("request", lambda request: paths.append(urlsplit(request.url).path))
    return paths


def test_a_token_is_asked_for_told_wrong_taken_kept_and_forgotten(
    shop: Callable[..., Any], serve: Any, view: Any, make_tokens: Any
) -> None:
    view.expected = ["401 (Unauthorized)", "403 (Forbidden)"]
    tokens, secrets = make_tokens("read", "admin")
    opened = shop(tokens=tokens)
    opened.sell(300)
    opened.refuse_orders(1)
    url = serve(opened.app).url

    page = view.open(url)
    page.wait_for_selector("#token-dialog[open]")
    assert "scope “read”" in page.text_content("#token-why")
    assert view.said == [], "nothing was asked in vain"
    view.keep(page, "token-light-1440")
    assert view.serious(page) == []
    page.click("#token-cancel")
    page.wait_for_selector("#connection[data-state=warn]")
    assert page.text_content("#connection-text") == "Needs a token"
    assert page.text_content("#tail-state") == "Needs a token."
    view.keep(page, "without-token-light-1440")

    page.click("#token-open")
    page.fill("#token", "naïve €")
    page.keyboard.press("Enter")
    assert page.is_visible("#token-dialog"), "no header can hold it"
    page.fill("#token", "not-a-token")
    page.keyboard.press("Enter")
    page.wait_for_selector("#token-why:has-text('does not know')")
    page.fill("#token", secrets["read"])
    page.click("#token-form button[type=submit]")
    page.wait_for_selector("#connection[data-state=good]")
    page.wait_for_selector("#tail-rows tr")
    page.wait_for_selector(".rollup .main-svg")
    assert page.evaluate("localStorage.getItem('eventrec.token')") is None
    assert secrets["read"] not in page.content()
    page.reload()
    page.wait_for_selector("#connection[data-state=good]")

    page.click(".letter-group .replay")
    page.keyboard.press("Enter")
    page.wait_for_selector("#token-why:has-text('scope “admin”')")
    page.fill("#token", secrets["admin"])
    page.keyboard.press("Enter")
    opened.accept_orders()
    page.click(".letter-group .replay")
    page.keyboard.press("Enter")
    page.wait_for_selector("#replays:has-text('1 delivered')")

    page.click("#token-open")
    page.click("#token-forget")
    page.wait_for_selector("#token-dialog[open]")
    assert page.evaluate("sessionStorage.length") == 0


def test_offline_is_said_the_pauses_grow_and_it_comes_back_by_itself(
    shop: Callable[..., Any], serving_again: Any, view: Any
) -> None:
    view.expected = OFFLINE
    opened = shop()
    opened.sell(300)
    start, stop = serving_again(opened.app)
    url = start()
    page = view.open(url, prepare=lambda page: page.clock.install())
    page.wait_for_selector("#connection[data-state=good]")
    page.wait_for_selector("#tail-rows tr")
    page.wait_for_selector(".rollup:nth-child(3) :is(.main-svg, .chart-state:has-text('No event'))")

    stop()
    page.clock.fast_forward(2_500)
    page.wait_for_selector("#connection[data-state=bad]:has-text('trying again in')")
    assert page.text_content("#announcement") == "The server does not answer."
    assert page.text_content(".destination-name") == "sqlite", "what was known stays"
    view.keep(page, "offline-light-1440")
    paths = counting(page)
    asked = []
    for _ in range(4):
        with page.expect_event("requestfailed"):
            page.clock.fast_forward(30_000)
        asked.append(len(paths))
        page.wait_for_selector("#connection:has-text('trying again in')")
    assert set(paths) == {"/status"}, "nothing else is asked for meanwhile"
    assert asked[-1] <= 12, "in two minutes"
    page.click("#try-now")
    page.wait_for_selector("#connection:has-text('trying again in')")

    start()
    page.clock.fast_forward(70_000)
    page.wait_for_selector("#connection[data-state=good]")
    assert page.text_content("#announcement") == "The server answers again."
    opened.sell(10, start=300)
    page.clock.fast_forward(5_000)
    page.wait_for_selector("#tail-rows tr")


def test_a_page_that_is_not_looked_at_asks_rarely(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    opened = shop()
    opened.sell(1_000)
    page = view.open(serve(opened.app).url, prepare=lambda page: page.clock.install())
    page.wait_for_selector(".rollup:nth-child(3) .main-svg")
    page.wait_for_selector("#tail-rows tr")
    page.evaluate(HIDE)
    paths = counting(page)
    answered: list[str] = []
    for end in ("requestfinished", "requestfailed"):
        page.on(end, lambda request: answered.append(request.url))

    for _ in range(60):
        page.clock.fast_forward(10_000)
        while len(answered) < len(paths):  # else the page's clock is so fast that it gives the answers up
            page.wait_for_timeout(5)

    assert paths.count("/status") <= 11
    assert paths.count("/rollups") <= 2
    assert paths.count("/dead") <= 3
    assert not [path for path in paths if path.startswith("/events")]
    with page.expect_request(lambda request: urlsplit(request.url).path == "/events/follow"):
        page.evaluate(SHOW)


def test_nothing_is_asked_again_before_the_answer(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    opened = shop()
    opened.sell(10)
    page = view.open(serve(opened.app).url, prepare=lambda page: page.clock.install())
    page.wait_for_selector("#connection[data-state=good]")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/status", hold)
    with page.expect_request("**/status"):
        page.clock.fast_forward(3_000)

    for _ in range(15):  # seconds: after 20 it gives the answer up
        page.clock.fast_forward(1_000)

    assert len(held) == 1
    held[0].continue_()


def test_it_waits_as_long_as_the_server_says(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    view.expected = ["503 (Service Unavailable)"]
    opened = shop()
    opened.sell(10)
    page = view.open(serve(opened.app).url, prepare=lambda page: page.clock.install())
    page.wait_for_selector("#connection[data-state=good]")
    busy = {"status": 503, "headers": {"Retry-After": "600"}, "json": {"detail": "too much to do"}}
    page.route("**/status", lambda route: route.fulfill(**busy))
    page.clock.fast_forward(3_000)
    page.wait_for_selector("#connection:has-text('The server refuses: too much to do')")
    paths = counting(page)

    for _ in range(28):
        page.clock.fast_forward(20_000)

    assert "/status" not in paths
    with page.expect_request("**/status"):
        page.clock.fast_forward(60_000)


def test_without_plotly_each_rollup_is_a_table(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    view.expected = ["404 (Not Found)"]
    opened = shop()
    opened.sell(300)

    def without(page: Page) -> None:
        page.route("**/plotly.min.js", lambda route: route.fulfill(status=404))

    page = view.open(serve(opened.app).url, prepare=without)

    page.wait_for_selector(".rollup:nth-child(3) .chart-state:has-text('plotly.js did not come')")
    assert page.locator(".rollup:nth-child(2) tbody tr").count() >= 1


def test_without_a_log_and_without_a_destination_it_says_so(serve: Any, view: Any, tmp_path: Path) -> None:
    recorder = EventRecorder("memory:", environment={})

    page = view.open(serve(application(recorder)).url)

    page.wait_for_selector("#rollups-state:has-text('reads no destination')")
    page.wait_for_selector("#tail-state:has-text('reads no destination')")
    page.wait_for_selector("#dead-state:has-text('keeps no log')")


def test_an_error_is_said_and_asked_again_by_hand(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    view.expected = ["503 (Service Unavailable)"]
    page = view.open(
        serve(shop().app).url,
        prepare=lambda page: page.route(
            "**/rollups",
            lambda route: route.fulfill(status=503, json={"detail": "<i>no</i>"}, headers={"Retry-After": "60"}),
        ),
    )
    page.wait_for_selector("#rollups-state.bad:has-text('<i>no</i>')")
    page.unroute("**/rollups")

    page.click("#rollups-state button")

    page.wait_for_selector(".rollup:nth-child(3)")


def test_a_question_that_got_no_answer_is_asked_again_soon(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    view.expected = ["net::ERR_FAILED"]
    page = view.open(
        serve(shop().app).url, prepare=lambda page: page.route("**/rollups", lambda route: route.abort(), times=1)
    )

    page.wait_for_selector(".rollup:nth-child(3)")  # which is asked for every 30 s, while all is well


@pytest.fixture
def serving_again(running: Any) -> Any:
    """Gives what starts a server of an application, on the same port each time, and what stops it."""
    with ExitStack() as stack:

        def made(app: Any) -> tuple[Callable[[], str], Callable[[], None]]:
            port = 0
            one = ExitStack()
            stack.callback(one.close)

            def start() -> str:
                nonlocal port
                found = one.enter_context(running(app, port))
                port = found.port
                return str(found.url)

            return start, one.close

        yield made
