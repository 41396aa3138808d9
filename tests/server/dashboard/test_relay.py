"""The page of a relay: its stages, its parts and their leases, what another one serves, what waits for an operator."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
import pytest

from eventrec import EventRecorder, EventRecorderOptions
from eventrec.bus import Lease, MemoryBus, MemoryStore, Output, Records, Shard, Stage
from eventrec.relay import RelayOptions
from eventrec.server import application
from eventrec.testing.sessions import VisitEvent, entry_of

if TYPE_CHECKING:
    from starlette.applications import Starlette

T = 1_760_000_000_000
QUICK = RelayOptions(lease_seconds=9.0, save_seconds=0.01, due_seconds=0.02)
OTHER = "web-2:4711:0a1b2c3d"


class Picky(Stage):
    """Passes on what it is given, once `is_mended`; until then it fails."""

    def __init__(self) -> None:
        self.is_mended = threading.Event()

    @property
    def name(self) -> str:
        return "picky"

    def keys(self, log_id: UUID, records: Records) -> Sequence[str]:
        del log_id, records
        return ()

    def process(self, log_id: UUID, records: Records, state: Mapping[str, bytes | None], now: float) -> Output:
        del log_id, state, now
        if not self.is_mended.is_set():
            raise ValueError("no <b>such</b> field")
        return Output(entries=list(records.entries))


@pytest.fixture
def store() -> MemoryStore:
    """Twenty views of seven devices, of whom three are known."""
    store = MemoryStore()
    store.append(
        [
            entry_of(
                VisitEvent(
                    id=str(i),
                    at=T + i * 1_000,
                    project="shop",
                    device=f"d{i % 7}",
                    profile=f"p{i % 7}" if i % 7 < 3 else "",
                    path="/",
                )
            )
            for i in range(20)
        ]
    )
    return store


@contextmanager
def relaying(store: MemoryStore, directory: Path, *stages: Stage | str) -> Iterator[Starlette]:
    recorder = EventRecorder(
        f"sqlite:///{directory / 'out.db'}",
        log=directory / "log",
        options=EventRecorderOptions(close_timeout=2.0, flush_interval=0.01),
        bus=MemoryBus(store),
        stages=stages,
        relay=QUICK,
        environment={},
    )
    with recorder.sync():
        yield application(recorder, to=f"sqlite:///{directory / 'out.db'}", log=directory / "log", takes_events=False)


@pytest.fixture
def relay(store: MemoryStore, tmp_path: Path) -> Iterator[Callable[..., Starlette]]:
    """Relays `store` through stages into SQLite until the end of the test; gives the application that tells of it."""
    with ExitStack() as stack:
        yield lambda *stages: stack.enter_context(relaying(store, tmp_path, *stages))


def on_shard(store: MemoryStore, work: Callable[[Shard], Any]) -> Any:
    async def run() -> Any:
        async with MemoryBus(store) as bus:
            return await work((await bus.shards())[0])

    with ThreadPoolExecutor(1) as thread:  # the browser's has a loop
        return thread.submit(anyio.run, run).result(30)


def row_of(page: Any, name: str) -> list[str]:
    """The cells of a part, in their order."""
    row = page.locator("#relay-parts tr", has=page.locator("th", has_text=name))
    return [text.strip() for text in row.locator("td").all_inner_texts()]


def test_stages_parts_and_leases_are_told(relay: Callable[..., Starlette], serve: Any, view: Any) -> None:
    app = relay("sessions", "profiles")
    url = serve(app).url

    for width, scheme in ((1_440, "light"), (1_440, "dark"), (390, "light"), (390, "dark")):
        page = view.open(url, width=width, scheme=scheme)
        page.wait_for_selector("#connection[data-state=good]")
        page.wait_for_selector("#relay-stages:has-text('in session 20')")
        page.wait_for_selector("#relay-stages li:first-child div:last-child > dd:text-is('7')")
        page.wait_for_selector("#tail-rows tr")
        view.keep(page, f"relay-{scheme}-{width}")
        assert view.serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page itself does not scroll"

    sessions, profiles = page.locator("#relay-stages li").all()
    assert sessions.locator("h3").inner_text() == "stage:sessions"
    assert sessions.locator("dd").all_inner_texts() == ["20", "0", "10", "7", "7"]
    assert "keeps devices and known profiles in open sessions" in sessions.inner_text()
    assert profiles.locator("dd").all_inner_texts()[2] == "7"
    assert "created 7" in profiles.inner_text()
    state, pending, shard, lease, holder = row_of(page, "sqlite")
    assert (state, pending, holder) == ("serving", "0", "this relay")
    assert shard.endswith("/sessions/profiles")
    assert "held for" in lease
    assert "left" in lease
    assert "serves 3 of 3 parts" in page.inner_text("#relay-note")
    assert "commit" in page.inner_text("#relay-phases")
    assert page.is_visible("#relay-link")


def test_what_another_relay_serves_is_named_and_taken_over(
    store: MemoryStore, relay: Callable[..., Starlette], serve: Any, view: Any
) -> None:
    async def take(shard: Shard) -> Lease | None:
        return await shard.acquire("stage:sessions", OTHER, seconds=3_600)

    async def give_back(shard: Shard) -> None:
        await shard.release(lease)

    lease = on_shard(store, take)
    page = view.open(serve(relay("sessions")).url)
    page.wait_for_selector(f"#relay-parts:has-text('{OTHER}')")
    before = row_of(page, "stage:sessions")
    note = page.inner_text("#relay-note")
    kept_by = page.inner_text("#relay-stages .badge")
    view.keep(page, "relay-waiting-light-1440")

    on_shard(store, give_back)
    page.wait_for_selector("#relay-stages:has-text('in session 20')")

    assert before == [f"waiting: {OTHER} serves it", "–", "memory", "–", OTHER]
    assert kept_by == "another relay serves it"
    assert "1 other relay has the rest, and this one takes over" in note
    assert row_of(page, "stage:sessions")[4] == "this relay"


def test_a_stage_that_holds_says_why_and_goes_on_by_the_keyboard(
    relay: Callable[..., Starlette], serve: Any, view: Any
) -> None:
    stage = Picky()
    page = view.open(serve(relay(stage)).url)
    page.wait_for_selector("#relay-parts .badge[data-state=bad]")
    state = row_of(page, "stage:picky")[0]
    said = page.inner_text("#relay-stages .badge")
    view.keep(page, "relay-held-light-1440")
    assert view.serious(page) == []
    stage.is_mended.set()

    page.focus("#relay-parts .resume:visible")
    page.keyboard.press("Enter")
    page.wait_for_selector("#resume-dialog[open]")
    assert page.inner_text("#resume-title") == "Resume stage:picky"
    page.keyboard.press("Tab")
    page.focus("#resume-yes")
    page.keyboard.press("Enter")
    page.wait_for_selector("#relay-stages div:first-child > dd:text-is('20')")

    assert said == "waits for an operator"
    assert state.startswith("holding: stage 'picky' failed on")
    assert "no <b>such</b> field" in state
    assert page.locator("#relay-parts .badge[data-state=bad]").count() == 0


def test_a_recorder_that_is_no_relay_has_no_such_section(shop: Callable[..., Any], serve: Any, view: Any) -> None:
    opened = shop()
    opened.sell(10)

    page = view.open(serve(opened.app).url)
    page.wait_for_selector("#connection[data-state=good]")

    assert not page.is_visible("#relay")
    assert not page.is_visible("#relay-link")
