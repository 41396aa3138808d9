"""Relays on a bus in memory, each with a log directory of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest

from eventrec import Backoff, EventHandler, EventRecorder, EventRecorderOptions
from eventrec.bus import MemoryBus, MemoryStore
from eventrec.testing import assert_conserved
from eventrec.testing.relays import QUICK


class MakeRelay(Protocol):
    def __call__(self, *handlers: EventHandler | str, **given: Any) -> AbstractAsyncContextManager[EventRecorder]: ...


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def relay(store: MemoryStore, tmp_path: Path) -> MakeRelay:
    """A relay of `store` with a log directory of its own; its account must add up whenever it has closed."""
    count = 0

    @asynccontextmanager
    async def made(*handlers: EventHandler | str, **given: Any) -> AsyncIterator[EventRecorder]:
        nonlocal count
        count += 1
        name = given.pop("name", None)
        registered = {key: given.pop(key) for key in ("types", "start", "batch_rows") if key in given}
        options = EventRecorderOptions(
            retry=Backoff(jitter="none", first=0.02, max=0.2), flush_interval=0.01, close_timeout=5.0
        )
        recorder = EventRecorder(
            log=given.pop("log", tmp_path / f"relay-{count}"),
            options=given.pop("options", options),
            bus=given.pop("bus", None) or MemoryBus(store),
            relay=given.pop("relay", QUICK),
            **given,
        )
        for handler in handlers:
            recorder.register(handler, name=name, **registered)
        async with recorder:
            yield recorder
        assert_conserved(recorder.status())

    return made


Until = Callable[[Callable[[], bool]], Any]


@pytest.fixture
def until() -> Until:
    """Wait for what is to come true; where it does not within 20 seconds, the test fails."""

    async def wait(is_true: Callable[[], bool]) -> None:
        with anyio.fail_after(120):
            while not is_true():  # noqa: ASYNC110 - foreign state has no event
                await anyio.sleep(0.005)

    return wait
