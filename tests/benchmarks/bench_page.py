"""How soon the server's page is there, in a real browser: on the demo's data, from an empty cache.

    python tests/benchmarks/bench_page.py [ROUNDS]

Milliseconds from the start of the navigation: the first paint, by the browser's own Performance API, the first chart,
and the first row of the live tail; and the bytes that came over the network.

What it must come to: the first paint < 1,000 ms.
"""

from __future__ import annotations

import socket
import statistics
import sys
import tempfile
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import anyio

from eventrec import EventRecorder
from eventrec.cli.demo.rollups import catalogue
from eventrec.cli.demo.shop import shop_events
from eventrec.server import ServerOptions, application
from eventrec.server.web_server import WebServer
from eventrec.testing.browser import Chromium

EVENTS = 20_000
CACHE = Path(__file__).parents[2] / ".pytest_cache" / "eventrec"

NOTE_APPEARANCE = """
window.appeared = {};
new MutationObserver(() => {
  for (const [name, selector] of [['chart', '.main-svg'], ['row', '#tail-rows tr']]) {
    if (!(name in window.appeared) && document.querySelector(selector)) window.appeared[name] = performance.now();
  }
}).observe(document, { childList: true, subtree: true });
"""
FOUND = """
() => ({
  paint: performance.getEntriesByName('first-contentful-paint')[0].startTime,
  ...window.appeared,
  bytes: performance.getEntriesByType('resource').reduce((all, each) => all + each.transferSize, 0),
})
"""


def measure(chromium: Chromium, url: str) -> dict[str, float]:
    context = chromium.browser.new_context(viewport={"width": 1_440, "height": 900})
    page = context.new_page()
    page.add_init_script(NOTE_APPEARANCE)
    page.goto(url)
    page.wait_for_selector(".rollup:nth-child(3) .main-svg")
    page.wait_for_selector("#tail-rows tr")
    found: dict[str, float] = page.evaluate(FOUND)
    context.close()
    return found


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    chromium = Chromium.in_cache(CACHE)
    chromium.start()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/shop.db"
        recorder = EventRecorder(url, log=Path(folder, "log"), environment={})
        with recorder.sync() as sync:
            for event in islice(shop_events(EVENTS), EVENTS):
                sync.record(event)
            sync.flush(timeout=60)
            app: Any = application(recorder, to=url, catalogue=catalogue, log=Path(folder, "log"))
            listening = socket.create_server(("127.0.0.1", 0))
            started = threading.Event()
            web = WebServer(app, [listening], ServerOptions(), grace=0.1, on_started=started.set)
            thread = threading.Thread(target=anyio.run, args=(web.run,))
            thread.start()
            started.wait()
            address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
            found = [chromium.call(measure, chromium, address) for _ in range(rounds)]
            web.end()
            thread.join()
    chromium.stop()
    for name, unit in (("paint", "ms"), ("chart", "ms"), ("row", "ms"), ("bytes", "bytes")):
        values = [each[name] for each in found]
        print(f"{name:<6} median {statistics.median(values):>12,.0f} {unit}   worst {max(values):>12,.0f} {unit}")


if __name__ == "__main__":
    main()
