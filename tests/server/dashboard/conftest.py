"""The page of a real server in a real browser; tests that ask for `page` run in the browser's thread."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias
from urllib.parse import quote

import anyio
import pytest
from starlette.applications import Starlette

from eventrec import Batch, EventRecorder, EventRecorderOptions, PauseError, SyncRecorder
from eventrec.cli.demo.rollups import catalogue
from eventrec.cli.demo.shop import OrderPlaced, shop_events
from eventrec.server import ServerOptions, Tokens, application
from eventrec.server.web_server import WebServer
from eventrec.testing.browser import Chromium, chromium
from eventrec.testing.scripted import ScriptedHandler, raising

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

__all__ = ["chromium"]

SCREENSHOTS = "EVENTREC_TEST_SCREENSHOTS"
"""The variable that names a directory for screenshots."""

PATIENCE = 20_000
"""Milliseconds that a busy machine may take for what is there at once else."""

Scheme: TypeAlias = Literal["light", "dark"]


class Running(Protocol):
    url: str


class Serve(Protocol):
    def __call__(self, app: Starlette) -> Running: ...


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Playwright's objects belong to one thread."""
    if "view" not in pyfuncitem.fixturenames:
        return None
    given = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    browser, view = pyfuncitem.funcargs["chromium"], pyfuncitem.funcargs["view"]
    assert isinstance(browser, Chromium)
    assert isinstance(view, View)
    try:
        browser.call(pyfuncitem.obj, **given)
    except Exception:
        pyfuncitem.add_report_section("call", "pages", browser.call(view.shown))
        raise
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker has the browser, in the session of what is not ours to run everywhere."""
    for item in items:
        if "view" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.handlers)
            item.add_marker(pytest.mark.xdist_group("browser"))
            item.add_marker(pytest.mark.timeout(300))  # the browser is fetched


@dataclass
class View:
    """Opens pages, and keeps what the browser says about them."""

    chromium: Chromium
    said: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    """Words of messages that a test provokes: a browser says itself that a request was refused, or not answered."""
    _open: ExitStack = field(default_factory=ExitStack)

    def open(
        self,
        url: str,
        *,
        width: int = 1_440,
        height: int = 900,
        scheme: Scheme = "light",
        prepare: Callable[[Page], object] | None = None,
    ) -> Page:
        """A page of its own; `prepare` is called before it is loaded."""
        context = self.chromium.browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            timezone_id="Europe/Berlin",
            reduced_motion="reduce",
        )
        self._open.callback(context.close)
        return self.another(context, url, prepare)

    def another(self, context: BrowserContext, url: str, prepare: Callable[[Page], object] | None = None) -> Page:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        if prepare is not None:
            prepare(page)
        page.goto(url)
        return page

    def close(self) -> None:
        self._open.close()

    def shown(self) -> str:
        """What the pages show, and what the browser has said: the first that one asks where a test has failed."""
        pages = [page for context in self.chromium.browser.contexts for page in context.pages]
        texts = [page.inner_text("body") if not page.is_closed() else "closed" for page in pages]
        return "\n\n".join([*texts, *self.said])

    def serious(self, page: Page) -> list[str]:
        """What axe finds serious or critical."""
        return [
            f"{finding['id']}: {finding['help']}: {[node['target'] for node in finding['nodes'][:3]]}"
            for finding in self.chromium.findings(page)
            if finding["impact"] in {"serious", "critical"}
        ]

    @staticmethod
    def keep(page: Page, name: str) -> None:
        """A screenshot, where they are wanted."""
        if SCREENSHOTS in os.environ:
            folder = Path(os.environ[SCREENSHOTS])
            folder.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=folder / f"{name}.png", full_page=True)

    @property
    def unexpected(self) -> list[str]:
        return [text for text in self.said if not any(words in text for words in self.expected)]


@pytest.fixture
def view(chromium: Chromium) -> Iterator[View]:
    """Opens pages; no message may remain on the console."""
    view = View(chromium)
    yield view
    chromium.call(view.close)
    assert view.unexpected == []


@dataclass
class Shop:
    """A recorder with a log and a database, and the application that serves both.

    Attributes:
        recorder: Open, and empty.
        app: Serves it.
        directory: Where the log and the database are.
    """

    recorder: EventRecorder
    app: Starlette
    directory: Path
    sync: SyncRecorder

    @property
    def database(self) -> Path:
        return self.directory / "shop.db"

    def sell(self, events: int, *, start: int = 0) -> None:
        """Record so many of the shop's events, and wait till they are stored."""
        for event in islice(shop_events(start + events), start, None):
            self.sync.record(event)
        self.settle()

    def settle(self) -> None:
        """Wait till the database has, or has refused, all that is recorded; other destinations may be in an outage."""
        ends = time.monotonic() + 30
        while not self._is_settled():
            assert time.monotonic() < ends
            time.sleep(0.01)

    def _is_settled(self) -> bool:
        status = self.sync.status()
        return not (status.in_intake or status.subscriptions["sqlite"].pending)

    def execute(self, sql: str) -> None:
        with closing(sqlite3.connect(self.database, timeout=30)) as connection, connection:
            connection.execute(sql)

    def refuse_orders(self, number: int) -> None:
        """So many orders become dead letters, because of a trigger of another program, until `accept_orders`."""
        self.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON orders BEGIN SELECT RAISE(ABORT, 'no <b>orders</b> today'); END"
        )
        orders = (event for event in shop_events(100_000) if isinstance(event, OrderPlaced))
        for event in islice(orders, number):
            self.sync.record(event)
        self.settle()

    def accept_orders(self) -> None:
        self.execute("DROP TRIGGER refuse")


@contextmanager
def open_shop(directory: Path, *others: str, **options: Any) -> Iterator[Shop]:
    url = f"sqlite:///{quote(os.fsencode(directory / 'shop.db'))}"
    settings = EventRecorderOptions(close_timeout=0.2)
    recorder = EventRecorder(url, log=directory / "log", options=settings, environment={})
    for number, other in enumerate(others):
        recorder.register(other, name=f"other-{number}")
    with recorder.sync() as sync:
        app = application(recorder, to=url, catalogue=catalogue, log=directory / "log", **options)
        yield Shop(recorder, app, directory, sync)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    """Opens shops, which close with the test."""
    with ExitStack() as stack:
        yield lambda *others, **options: stack.enter_context(open_shop(tmp_path, *others, **options))


@dataclass
class Kept(ScriptedHandler):
    """Counts the shop's events, which have no numbers."""

    count: int = 0

    def keep(self, batch: Batch) -> None:
        self.count += len(batch.records)


@pytest.fixture
def paused(shop: Callable[..., Shop], until: Callable[..., None]) -> Callable[..., tuple[Shop, Kept]]:
    """Opens a shop one of whose destinations waits for an operator, and has that destination's handler too."""

    def opened(**options: Any) -> tuple[Shop, Kept]:
        handler = Kept(always=raising(PauseError("the key was <b>revoked</b>")))
        shopped = shop(handler, **options)
        shopped.sell(30)
        until(lambda: shopped.sync.status().subscriptions["other-0"].held)
        return shopped, handler

    return opened


@pytest.fixture
def make_tokens(tmp_path: Path) -> Callable[..., tuple[Tokens, dict[str, str]]]:
    """Makes a file of tokens: each scope's also reads. Gives it, and what each token is."""

    def made(*scopes: str) -> tuple[Tokens, dict[str, str]]:
        secrets = {scope: token_urlsafe() for scope in scopes}
        file = tmp_path / "tokens.toml"
        file.write_text(
            "\n".join(
                f'[[token]]\nname = "{scope}"\nscopes = {json.dumps(sorted({scope, "read"}))}\n'
                f'sha256 = "{sha256(secret.encode()).hexdigest()}"\ncreated = 2026-01-31T12:00:00Z\n'
                for scope, secret in secrets.items()
            ),
            encoding="utf-8",
        )
        file.chmod(0o600)
        return Tokens(file), secrets

    return made


@dataclass
class Served:
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def running() -> Callable[[Starlette, int], AbstractContextManager[Served]]:
    """Serves an application on a port, 0 for any, until the end of a block; connections are cut then."""

    @contextmanager
    def run(app: Starlette, port: int) -> Iterator[Served]:
        listening = socket.create_server(("127.0.0.1", port))
        started = threading.Event()
        web = WebServer(app, [listening], ServerOptions(), grace=0.1, on_started=started.set)
        thread = threading.Thread(target=anyio.run, args=(web.run,))
        thread.start()
        assert started.wait(30)
        yield Served(listening.getsockname()[1] if port == 0 else port)
        web.cut()
        thread.join()

    return run
