"""Answers that come late, in another order, or not at all: what the page shows then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from eventrec import PauseError
from eventrec.testing.scripted import ScriptedHandler, raising

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

NO_ANSWER = ["net::ERR_FAILED"]


class Held:
    """Requests of `page` to `pattern` that get no answer before a test gives one."""

    def __init__(self, page: Page, pattern: str, *, limit: int | None = None) -> None:
        self._page = page
        self._limit = limit
        self.routes: list[Route] = []
        page.route(pattern, self._hold)

    def _hold(self, route: Route) -> None:
        if self._limit is not None and len(self.routes) >= self._limit:
            route.fallback()
        else:
            self.routes.append(route)

    def wait(self, number: int = 1) -> Route:
        """The newest one, once there are so many."""
        while len(self.routes) < number:
            self._page.wait_for_timeout(5)
        return self.routes[-1]


def letter(number: int, subscription: str) -> dict[str, Any]:
    """A dead letter as the server tells it."""
    return {
        "id": f"{subscription}-{number}",
        "subscription": subscription,
        "offset": number,
        "time": "2026-01-31T12:00:00Z",
        "type": "seen",
        "reason": "no",
    }


def dead(*letters: dict[str, Any]) -> dict[str, Any]:
    """What the server answers when it is asked for them."""
    return {"letters": list(letters), "waiting": len(letters), "unreadable": {}}


@pytest.fixture
def letters(shop: Callable[..., Any], serve: Any, view: Any) -> Callable[..., Page]:
    """Opens a page that is told of these dead letters."""

    def opened(*told: dict[str, Any]) -> Any:
        answer = dead(*told)
        page = view.open(
            serve(shop().app).url,
            prepare=lambda page: page.route("**/dead?*", lambda route: route.fulfill(json=answer)),
        )
        if told:
            page.wait_for_selector(".letter-group")
        return page

    return opened


def replay(page: Page, subscription: str) -> None:
    page.click(f"[aria-label='Replay the dead letters of {subscription}']")
    page.click("#replay-dialog button[type=submit]")


def test_two_replays_at_once_have_a_line_each(letters: Any, view: Any) -> None:
    page = letters(letter(1, "a"), letter(2, "b"))
    held = Held(page, "**/dead/replay")
    done = {"delivered": 1, "refused_again": 0, "waiting": 0, "is_done": True, "state": ""}

    replay(page, "a")
    first = held.wait(1)
    replay(page, "b")
    held.wait(2).fulfill(json=done)
    page.wait_for_selector("#replays li:has-text('b: 1 delivered')")
    assert page.inner_text("#replays li >> nth=0").startswith("a: replaying")
    assert page.text_content("#announcement").startswith("b: 1 delivered")
    first.fulfill(json=done)

    page.wait_for_selector("#replays li:has-text('a: 1 delivered')")
    assert page.locator("#replays li").count() == 2


def test_after_a_replay_without_an_answer_it_may_be_asked_for_again(letters: Any, view: Any) -> None:
    view.expected = NO_ANSWER
    page = letters(letter(1, "a"))
    page.route("**/dead/replay", lambda route: route.abort())
    page.route("**/dead?*", lambda route: route.abort())

    replay(page, "a")
    page.wait_for_selector("#replays li:has-text('a: no answer')")

    assert page.get_attribute(".replay", "aria-disabled") == "false"
    page.click(".letter-group .replay")
    page.wait_for_selector("#replay-dialog[open]")


def test_a_list_of_dead_letters_that_comes_late_is_not_shown(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    opened = shop()
    opened.sell(1_000)
    opened.refuse_orders(3)
    page = view.open(serve(opened.app).url)
    page.wait_for_selector(".letter-group")
    held = Held(page, "**/dead?*", limit=1)
    page.click("#dead-refresh")
    late = held.wait()

    page.evaluate("document.querySelector('.letter-group').dataset.known = 'yes'")
    with page.expect_response("**/dead?*"):
        page.click("#dead-refresh")
    late.fulfill(json=dead())
    page.wait_for_timeout(100)

    assert page.locator(".letter-group[data-known]").count() == 1


def test_letters_stay_shown_while_they_are_replayed(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    view.expected = NO_ANSWER
    opened = shop()
    opened.sell(1_000)
    opened.refuse_orders(3)
    page = view.open(serve(opened.app).url)
    held = Held(page, "**/dead/replay")
    page.click(".letter-group .replay")
    page.click("#replay-dialog button[type=submit]")
    page.wait_for_selector(".replay:has-text('Replaying')")
    page.route("**/dead?*", lambda route: route.fulfill(json=dead()))

    with page.expect_response("**/dead?*"):
        page.click("#dead-refresh")
    page.wait_for_selector("#dead-head", state="hidden")

    assert page.locator(".letter-offsets li").count() == 3
    assert page.text_content("#replays").startswith("sqlite: replaying")
    held.wait().abort()
    page.wait_for_selector("#dead-state:has-text('No dead letter waits.')")
    assert page.text_content("#replays") == "sqlite: no answer"


def test_a_letter_shows_its_own_text_though_that_of_another_comes_late(letters: Any) -> None:
    page = letters(letter(1, "a"), letter(2, "a"))
    held = Held(page, "**/dead/a-*")

    page.click(".letter-offsets li:nth-child(1) button")
    first = held.wait(1)
    page.click("#letter-close")
    page.click(".letter-offsets li:nth-child(2) button")
    held.wait(2).fulfill(json={"said": "second"})
    page.wait_for_selector("#letter-text:has-text('second')")
    with page.expect_event("requestfinished"):
        first.fulfill(json={"said": "first"})
    page.wait_for_timeout(100)

    assert "second" in page.text_content("#letter-text")
    assert page.text_content("#letter-title") == "Record 2: seen"


def test_a_list_that_is_asked_for_by_hand_and_not_answered_is_asked_for_again(letters: Any, view: Any) -> None:
    view.expected = NO_ANSWER
    page = letters(letter(1, "a"))
    page.route("**/dead?*", lambda route: route.abort(), times=1)

    with page.expect_response("**/dead?*", timeout=10_000):  # it is asked for every 15 s else
        page.click("#dead-refresh")


def test_before_the_first_status_nothing_is_said_of_a_log(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    held: list[Held] = []
    page = view.open(serve(shop().app).url, prepare=lambda page: held.append(Held(page, "**/status")))
    held[0].wait()

    page.click("#dead-refresh")

    assert page.text_content("#dead-state") == "Asking the server"
    held[0].routes[0].continue_()


def test_as_long_as_the_server_says_is_waited_whatever_happens(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    view.expected = ["503 (Service Unavailable)"]
    busy = {"status": 503, "headers": {"Retry-After": "2592000"}, "json": {"detail": "too much to do"}}
    paths: list[str] = []

    def prepare(page: Page) -> None:
        page.clock.install()
        page.on("request", lambda request: paths.append(urlsplit(request.url).path))
        for asked in ("dead?*", "rollups", "events?*"):
            page.route(f"**/{asked}", lambda route: route.fulfill(**busy))

    opened = shop()
    opened.sell(1_000)
    page = view.open(serve(opened.app).url, prepare=prepare)
    for section in ("dead", "rollups", "tail"):
        page.wait_for_selector(f"#{section}-state:has-text('too much to do')")
    opened.refuse_orders(1)
    del paths[:]

    for _ in range(10):
        with page.expect_response("**/status"):
            page.clock.fast_forward(2_500)
    page.wait_for_selector("#dead-count:has-text('1')")

    assert not {"/dead", "/rollups", "/events"} & {*paths}
    with page.expect_request("**/dead?*"):
        page.click("#dead-refresh")


def test_while_one_is_resumed_another_one_may_be(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    view.expected = NO_ANSWER
    handlers = [ScriptedHandler(always=raising(PauseError("revoked"))) for _ in range(2)]
    opened = shop(*handlers)
    opened.sell(10)
    page = view.open(serve(opened.app).url)
    held = Held(page, "**/resume/*")

    page.click("[aria-label='Resume other-0']")
    page.click("#resume-yes")
    first = held.wait()
    page.click("#resume-cancel")
    page.click("[aria-label='Resume other-1']")
    page.wait_for_selector("#resume-title:has-text('Resume other-1')")
    assert page.text_content("#resume-yes") == "Resume"
    page.click("#resume-cancel")
    first.abort()

    page.wait_for_selector("#resume-title:has-text('Resume other-0')")
    page.wait_for_selector("#resume-error:has-text('no answer')")


def test_the_focus_stays_where_what_stands_before_it_goes(letters: Any) -> None:
    page = letters(letter(1, "a"), letter(2, "a"), letter(3, "a"))
    page.focus("[aria-label='Show record 3']")
    page.route("**/dead?*", lambda route: route.fulfill(json=dead(letter(2, "a"), letter(3, "a"))))

    with page.expect_response("**/dead?*"):
        page.evaluate("document.querySelector('#dead-refresh').click()")
    page.wait_for_selector("[aria-label='Show record 1']", state="detached")

    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Show record 3"


def focused(page: Page) -> str:
    """What has the focus: its id, or what it is called."""
    return str(page.evaluate("(({ id, ariaLabel, tagName }) => id || ariaLabel || tagName)(document.activeElement)"))


def test_a_destination_that_goes_on_before_resume_is_answered_leaves_the_focus_there(
    paused: Callable[..., Any], serve: Any, view: Any
) -> None:
    opened, handler = paused()
    page = view.open(serve(opened.app).url)
    page.focus("[aria-label='Resume other-0']")
    page.keyboard.press("Enter")
    held = Held(page, "**/resume/*")
    page.click("#resume-yes")
    answer = held.wait()
    handler.always = lambda _: None

    opened.sync.resume("other-0")
    page.wait_for_selector("[aria-label='Resume other-0']", state="hidden")
    assert focused(page) == "resume-yes"
    answer.fulfill(json={})
    page.wait_for_selector("#resume-dialog", state="hidden")

    assert focused(page) == "destinations-title"


@pytest.mark.parametrize("wants_token", [False, True])
def test_a_dialog_over_a_dialog_gives_the_focus_back_to_what_opened_the_first(
    paused: Callable[..., Any], serve: Any, view: Any, *, wants_token: bool
) -> None:
    view.expected = ["401 (Unauthorized)"]
    opened, _ = paused()
    page = view.open(serve(opened.app).url)
    page.focus("[aria-label='Resume other-0']")
    page.keyboard.press("Enter")
    if wants_token:
        page.route("**/resume/*", lambda route: route.fulfill(status=401, json={"detail": "a token"}))
        page.click("#resume-yes")
        page.wait_for_selector("#token-dialog")
        page.wait_for_selector("#resume-dialog", state="hidden")

    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")

    assert focused(page) == "Resume other-0"


def test_letters_that_are_replayed_leave_the_focus_in_their_section(letters: Any) -> None:
    page = letters(letter(1, "a"))
    page.route("**/dead?*", lambda route: route.fulfill(json=dead()))
    page.route(
        "**/dead/replay",
        lambda route: route.fulfill(json={"delivered": 1, "refused_again": 0, "waiting": 0, "is_done": True}),
    )
    page.focus(".replay")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.wait_for_selector(".letter-group", state="detached")

    assert focused(page) == "dead-title"


def test_an_error_that_is_over_leaves_the_focus_in_its_section(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    view.expected = [*NO_ANSWER]
    page = view.open(serve(shop().app).url, prepare=lambda page: page.route("**/dead?*", lambda route: route.abort()))
    page.wait_for_selector("#dead-state button")
    page.focus("#dead-state button")
    page.route("**/dead?*", lambda route: route.fulfill(json=dead()))

    page.keyboard.press("Enter")
    page.wait_for_selector("#dead-state:has-text('No dead letter waits.')")

    assert focused(page) == "dead-title"


def test_the_focus_of_who_has_pressed_elsewhere_is_left_alone(letters: Any) -> None:
    page = letters(letter(1, "a"), letter(2, "a"))
    page.focus("[aria-label='Show record 1']")
    page.click("footer")
    page.route("**/dead?*", lambda route: route.fulfill(json=dead(letter(2, "a"))))

    page.evaluate("document.querySelector('#dead-refresh').click()")
    page.wait_for_selector("[aria-label='Show record 1']", state="detached")

    assert focused(page) == "BODY"


def test_a_chart_that_is_drawn_late_does_not_stand_over_a_newer_answer(
    shop: Callable[..., Any], serve: Any, view: Any
) -> None:
    opened = shop()
    opened.sell(300)
    held: list[Held] = []
    page = view.open(serve(opened.app).url, prepare=lambda page: held.append(Held(page, "**/plotly.min.js", limit=1)))
    late = held[0].wait()
    page.wait_for_selector(".rollup:nth-child(3) tbody tr", timeout=10_000)  # though nothing is drawn yet

    page.select_option("#range", "custom")
    page.fill("#range-from", "2020-01-01")
    page.fill("#range-to", "2020-01-02")
    page.wait_for_selector(".rollup:nth-child(3) .chart-state:has-text('No event in this range.')")
    late.continue_()
    while not page.evaluate("'Plotly' in globalThis"):
        page.wait_for_timeout(10)
    page.wait_for_timeout(300)

    assert page.is_visible(".rollup:nth-child(1) .chart-state:has-text('No event in this range.')")


def test_a_token_that_was_given_up_is_not_asked_for_again(
    shop: Callable[..., Any], serve: Any, view: Any, make_tokens: Any
) -> None:
    view.expected = ["401 (Unauthorized)"]
    tokens, secrets = make_tokens("read")
    held: list[Held] = []
    url = serve(shop(tokens=tokens).app).url
    page = view.open(url, prepare=lambda page: held.append(Held(page, "**/status", limit=1)))
    page.fill("#token", "not-this-one")
    page.click("#token-form button[type=submit]")
    late = held[0].wait()
    page.click("#token-open")
    page.fill("#token", secrets["read"])
    page.click("#token-form button[type=submit]")

    late.fulfill(status=401, json={"detail": "no"})

    page.wait_for_selector("#connection[data-state=good]")
    assert not page.is_visible("#token-dialog")
