"""The live tail: what arrives is shown, filtered, paused; text stays text; an hour of it takes no more memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from eventrec import ReceivedEvent

if TYPE_CHECKING:
    from playwright.sync_api import Page

MARKUP = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
EVENTS = 12_000
MiB = 1 << 20


def test_events_appear_as_they_arrive_and_are_filtered(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    opened = shop()
    opened.sell(300)
    page = view.open(serve(opened.app).url)
    page.wait_for_selector("#tail-rows tr:nth-child(200)")
    page.click("#tail-clear")
    page.wait_for_selector("#tail-state:has-text('Nothing has arrived since.')")
    assert page.locator("#tail-rows tr").count() == 0

    opened.sell(60, start=300)
    page.wait_for_selector("#tail-rows tr:nth-child(60)")
    page.fill("#tail-text", "Page_View")
    shown = page.locator("#tail-rows tr").all_text_contents()
    assert 0 < len(shown) < 60
    assert all("page_view" in row for row in shown)
    page.fill("#tail-text", "matches nothing")
    page.wait_for_selector("#tail-state:has-text('No event of these matches.')")
    page.fill("#tail-text", "")

    page.click("#tail-pause")
    assert page.get_attribute("#tail-pause", "aria-pressed") == "true"
    opened.sell(40, start=360)
    page.wait_for_selector("#tail-note:has-text('paused, 40 new events')")
    assert page.locator("#tail-rows tr").count() == 60
    page.click("#tail-pause")
    page.wait_for_selector("#tail-rows tr:nth-child(100)")

    page.fill("#tail-type", "order_placed")
    page.keyboard.press("Enter")
    page.wait_for_selector("#tail-rows:not(:has(td:nth-child(2):text('page_view')))")
    page.wait_for_selector("#tail-rows tr")
    assert set(page.locator("#tail-rows td:nth-child(2)").all_text_contents()) == {"order_placed"}
    assert "of the tail’s type" in page.text_content("#types-note")
    assert page.evaluate("getComputedStyle(document.querySelector('#tail-rows td')).whiteSpace") == "nowrap"
    page.check("#tail-wrap")
    assert page.evaluate("getComputedStyle(document.querySelector('#tail-rows td')).whiteSpace") == "pre-wrap"


def test_what_events_say_stays_text(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    opened = shop()
    number = 12_345_678_901_234_567_890
    payload = json.dumps({"method": MARKUP, "amount_cents": 1, "big": number}).encode()
    hostile = ReceivedEvent(type="payment_succeeded", payload=payload, table="payments")
    opened.sync.record(ReceivedEvent(type=MARKUP, payload=payload))
    opened.sync.record(hostile)
    opened.settle()

    page = view.open(serve(opened.app).url)
    page.wait_for_selector("#tail-rows tr:nth-child(2)")
    page.wait_for_selector(".rollup:nth-child(1) .main-svg")
    page.locator(".rollup:nth-child(1) select").nth(1).select_option("method")
    page.wait_for_selector(".rollup:nth-child(1) tbody td:has-text('<script>')")

    assert page.locator("#main img, #main script").count() == 0
    assert page.title() != "taken"
    assert MARKUP in page.locator("#tail-rows td:nth-child(2)").all_text_contents()
    assert MARKUP in page.locator("#type-list .bar-name").all_text_contents()
    assert str(number) in page.text_content("#tail-rows")


def use(page: Page) -> tuple[int, int]:
    """Bytes of the page's objects, and how many nodes it has, once what nothing needs is gone: the least of a second.

    What is being drawn at one look needs the old and the new.
    """
    session = page.context.new_cdp_session(page)
    looks = []
    for _ in range(10):
        session.send("HeapProfiler.collectGarbage")
        used = session.send("Runtime.getHeapUsage")["usedSize"]
        nodes = session.send("Memory.getDOMCounters")["nodes"]
        looks.append((int(used), int(nodes)))
        page.wait_for_timeout(100)
    session.detach()
    return min(used for used, _ in looks), min(nodes for _, nodes in looks)


@pytest.mark.slow
def test_an_hour_of_it_takes_no_more_memory(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    opened = shop()
    opened.sell(1_000)
    page = view.open(serve(opened.app).url, prepare=lambda page: page.clock.install())
    page.wait_for_selector(".rollup:nth-child(3) .main-svg")
    page.wait_for_selector("#tail-rows tr:nth-child(200)")

    def pass_time(part: int) -> None:
        """Half an hour, in which half of the events arrive."""
        for _ in range(6):
            opened.sell(EVENTS // 12, start=1_000 + part * EVENTS // 2)
            for _ in range(10):
                page.clock.fast_forward(30_000)
        opened.sync.record(ReceivedEvent(type=f"end_of_part_{part}", payload=b"{}"))
        opened.settle()
        while page.locator(f"#tail-rows td:has-text('end_of_part_{part}')").count() == 0:
            page.clock.fast_forward(1_000)

    pass_time(0)
    bytes_before, nodes_before = use(page)
    pass_time(1)
    bytes_after, nodes_after = use(page)

    assert bytes_after < bytes_before + 4 * MiB
    assert nodes_after < nodes_before * 1.2
    assert page.locator("#tail-rows tr").count() <= 200
    assert page.text_content("#rate-note").endswith(f"{EVENTS + 1_002:,} so far")


STREAM = (
    'retry: 2000\r\n\r\n: still here\n\ndata: {"a":\ndata: 1}\nid: x1\n\n'
    "event: end\ndata: {}\r\rdata:two\nid\n\n\nid: x2\n\n"
)
CUT_ANYWHERE = """
async ([address, stream]) => {
  const { EventParser } = await import(address);
  const results = new Set();
  for (let first = 0; first <= stream.length; first++) {
    for (const second of [first, Math.min(stream.length, first + 1), stream.length]) {
      const found = [];
      const parser = new EventParser((each) => found.push(each));
      const pieces = [stream.slice(0, first), stream.slice(first, second), stream.slice(second)];
      pieces.forEach((piece) => parser.feed(piece));
      results.add(JSON.stringify(found));
    }
  }
  return [...results];
}
"""


def test_a_stream_that_is_cut_anywhere_gives_the_same_events(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    opened = shop()
    opened.sell(10)
    page = view.open(serve(opened.app).url)
    address = page.get_attribute("script[type=module]", "src").replace("main.js", "api.js")

    (found,) = page.evaluate(CUT_ANYWHERE, [f"./{address}", STREAM])

    assert [(each["name"], each["data"], each["id"]) for each in json.loads(found)] == [
        ("message", '{"a":\n1}', "x1"),
        ("end", "{}", "x1"),
        ("message", "two", ""),
    ]
