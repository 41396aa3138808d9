"""The site as it is built: strictly, and with nothing that a reader's browser would fetch from elsewhere."""

import os
import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eventrec.testing.browser import Chromium

ROOT = Path(__file__).parents[2]
FETCHED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "form": "action"}

pytestmark = [pytest.mark.docs, pytest.mark.timeout(280)]


class Site(HTMLParser):
    """The links of one page, what it fetches, and its anchors."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given.get("id") or "", given.get("name") or ""}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        found = given.get(FETCHED.get(tag, ""))
        if found and given.get("rel") != "canonical":
            self.fetched.append(found)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return directory


def test_every_link_leads_to_a_page_and_an_anchor(built: Path) -> None:
    pages = {page: Site(page) for page in built.rglob("*.html")}
    broken = []
    for page, site in pages.items():
        if page.name == "404.html":
            continue
        for link in site.links:
            if re.match(r"https?://", link):
                continue
            path, _, anchor = link.partition("#")
            target = page if not path else (page.parent / path).resolve()
            is_page = target.suffix == ".html"
            if not target.exists() or (is_page and anchor and anchor not in pages[target].anchors):
                broken.append(f"{page.relative_to(built)}: {link}")

    assert len(pages) > 40
    assert broken == []


def test_a_browser_fetches_nothing_from_elsewhere(built: Path) -> None:
    elsewhere = re.compile(r"^(https?:)?//")
    fetched = {link for page in built.rglob("*.html") for link in Site(page).fetched if elsewhere.match(link)}
    styles = {
        link
        for sheet in built.rglob("*.css")
        for link in re.findall(r"url\(['\"]?((?:https?:)?//[^)'\"]+)", sheet.read_text("utf-8"))
    }

    assert fetched == set()
    assert styles == set()


def test_a_browser_has_no_complaint_and_finds_what_is_searched_for(built: Path, chromium: Chromium) -> None:
    files = partial(SimpleHTTPRequestHandler, directory=str(built))
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        origin = f"http://127.0.0.1:{server.server_port}/"
        asked: list[str] = []
        complaints: list[str] = []

        def look() -> str:
            page = chromium.browser.new_page()
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
            page.goto(f"{origin}operations.html")
            page.click("input[name=query]")
            page.keyboard.type("write_interval", delay=50)
            page.wait_for_selector(".md-search-result__item", timeout=60_000)
            found = page.inner_text(".md-search-result__list")
            page.close()
            return found

        found = chromium.call(look)
        server.shutdown()

    assert "write_interval" in found
    assert complaints == []
    assert {url for url in asked if not url.startswith((origin, "data:", "blob:"))} == set()


def test_reference_holds_every_option_and_every_command(built: Path) -> None:
    from eventrec import EventRecorderOptions  # noqa: PLC0415 - the rest needs none of it
    from eventrec.cli.app import app  # noqa: PLC0415

    options = (built / "reference" / "options.html").read_text("utf-8")
    commands = (built / "reference" / "commands.html").read_text("utf-8")

    assert {name for name in EventRecorderOptions.model_fields if f"EVENTREC_{name.upper()}" not in options} == set()
    assert {name for name in app if not name.startswith("-") and f"eventrec-{name}" not in commands} == set()
