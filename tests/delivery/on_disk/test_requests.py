"""What an operator asks of a running process by a file in the log directory."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import anyio
import anyio.to_thread
import pytest

from eventrec import Backoff, EventRecorder, TransientError
from eventrec.delivery.directory_look import DirectoryLook, DirectoryNews
from eventrec.runs.requests import OperatorRequest, save_request
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, quickly, raising

pytestmark = pytest.mark.usefixtures("looking_often")

HOUR = Backoff(jitter="none", first=3_600, max=3_600)


class Looks:
    """Counts how often the process looked around its directory, for requests among other things."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        real = DirectoryLook.look

        def look(each: DirectoryLook, asked: Iterable[UUID]) -> DirectoryNews:
            seen = real(each, asked)
            self.count += 1
            return seen

        monkeypatch.setattr(DirectoryLook, "look", look)

    async def two_more(self) -> None:
        until = self.count + 2
        with anyio.fail_after(120):
            while self.count < until:  # noqa: ASYNC110 - a thread changes it
                await anyio.sleep(0.02)


async def failing(recorder: EventRecorder) -> None:
    """Return once the subscription waits in a pause."""
    with anyio.fail_after(120):
        while recorder.status().is_healthy:  # noqa: ASYNC110 - delivery changes it
            await anyio.sleep(0.02)


async def ask(directory: Path, asked: float, skip: int | None = None) -> None:
    request = OperatorRequest(subscription="FencedHandler", asked=asked, skip=skip)
    await anyio.to_thread.run_sync(save_request, directory, request)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


async def test_a_request_that_is_written_late_is_applied(tmp_path: Path, looks: Looks) -> None:
    handler = FencedHandler(acts=[raising(TransientError("busy"))])

    async with EventRecorder(handler, log=tmp_path, options=quickly(retry=HOUR, flush_interval=0.1)) as recorder:
        asked = time.time()
        recorder.record(Numbered(0))
        await looks.two_more()
        await ask(tmp_path, asked)
        assert await recorder.flush(timeout=30)

    assert handler.delivered == [0]
    assert_conserved(recorder.status(), offered=1)


@pytest.mark.parametrize("hours", [-48, -2, 48])
async def test_a_request_of_another_clock_is_applied(tmp_path: Path, looks: Looks, hours: int) -> None:
    handler = FencedHandler(acts=[raising(TransientError("busy"))])

    async with EventRecorder(handler, log=tmp_path, options=quickly(retry=HOUR, flush_interval=0.1)) as recorder:
        recorder.record(Numbered(0))
        await looks.two_more()
        await failing(recorder)
        await ask(tmp_path, time.time() + hours * 3_600)
        assert await recorder.flush(timeout=30)

    assert handler.delivered == [0]


async def test_a_request_is_applied_once_however_often_it_is_found(tmp_path: Path, looks: Looks) -> None:
    handler = FencedHandler(acts=[raising(TransientError("busy"))] * 10)

    async with EventRecorder(handler, log=tmp_path, options=quickly(retry=HOUR, flush_interval=0.1)) as recorder:
        recorder.record(Numbered(0))
        await failing(recorder)
        await ask(tmp_path, time.time())
        await looks.two_more()
        await looks.two_more()
        assert len(handler.times) == 2
        handler.acts.clear()
        await ask(tmp_path, time.time())
        assert await recorder.flush(timeout=30)


async def test_a_skip_does_not_wait_for_the_end_of_a_long_pause(tmp_path: Path) -> None:
    handler = FencedHandler(acts=[raising(TransientError("busy"))])

    async with EventRecorder(handler, log=tmp_path, options=quickly(retry=HOUR, flush_interval=0.1)) as recorder:
        recorder.record_many(Numbered(number) for number in range(3))
        await failing(recorder)
        await ask(tmp_path, time.time(), skip=0)
        assert await recorder.flush(timeout=30)

    assert handler.delivered == [1, 2]
    assert_conserved(recorder.status(), offered=3)
