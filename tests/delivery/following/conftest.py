"""What follows a disk is tested in real time, and looks often."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest

from eventrec import EventHandler, EventRecorder
from eventrec.delivery.following.following import Following
from eventrec.delivery.following.live_logs import LiveLogs
from eventrec.testing.scripted import quickly

Eventually: TypeAlias = Callable[[Callable[[], object]], Awaitable[None]]
Recorder: TypeAlias = Callable[..., EventRecorder]


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture(autouse=True)
def _often(looking_often: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("log_delivery", "needs"):
        monkeypatch.setattr(f"eventrec.delivery.{module}.OTHERS_SECONDS", 0.1)
    monkeypatch.setattr("eventrec.delivery.following.live_logs.LOCKS_SECONDS", 0.1)
    monkeypatch.setattr("eventrec.delivery.following.sole_follower.LOCK_SECONDS", 0.1)
    monkeypatch.setattr("eventrec.delivery.following.sole_follower.IN_PLACE_SECONDS", 0.1)
    monkeypatch.setattr("eventrec.delivery.following.following._IDLE_POLL", 0.1)


@pytest.fixture
def owner(tmp_path: Path) -> Recorder:
    """A recorder that writes; without a handler, unless it is given some."""

    def make(*handlers: EventHandler, **options: Any) -> EventRecorder:
        return EventRecorder(*handlers, log=tmp_path / "log", options=quickly(flush_interval=0.01, **options))

    return make


@pytest.fixture
def follower(tmp_path: Path) -> Recorder:
    """A recorder that follows what others write there. Both are in this process: locks keep them apart all the same."""

    def make(*handlers: EventHandler, **options: Any) -> EventRecorder:
        given = quickly(**{"flush_interval": 0.01, "follow": True, "close_timeout": 2.0, **options})
        return EventRecorder(*handlers, log=tmp_path / "log", options=given)

    return make


def _state() -> str:
    """What those that follow know, for a failure that is rare."""
    following = [vars(each) for each in gc.get_objects() if isinstance(each, Following | LiveLogs)]
    return "\n".join(f"{name} = {value!r}" for each in following for name, value in each.items())


@pytest.fixture
def eventually() -> Eventually:
    """Waits until something is so."""

    async def wait(condition: Callable[[], object]) -> None:
        with anyio.move_on_after(40):
            while not condition():  # noqa: ASYNC110 - a thread or a disk changes it
                await anyio.sleep(0.01)
            return
        pytest.fail(f"never so, with {inspect.getclosurevars(condition).nonlocals}\n{_state()}")

    return wait


@pytest.fixture
def runs(tmp_path: Path) -> Callable[[], list[str]]:
    """The names of the runs that there are."""
    return lambda: [path.name for path in (tmp_path / "log").glob("0*-*-7*-*")]
