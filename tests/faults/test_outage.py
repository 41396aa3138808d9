"""Half a minute without the destination, under 2,000 events a second, on real time and into a real database."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import anyio
import pytest

from eventrec import (
    Backoff,
    Batch,
    DestinationCheckpoints,
    EventHandler,
    EventRecorder,
    EventRecorderOptions,
    TransientError,
    handler_from_url,
)
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered

pytestmark = pytest.mark.faults


class Interrupted(EventHandler):
    """A real handler whose destination is out of reach between two times."""

    def __init__(self, url: str, down: tuple[float, float]) -> None:
        self._inner = handler_from_url(url)
        self._down = down
        self._start: float | None = None

    async def open(self) -> None:
        self._start = self._start or anyio.current_time()
        await self._inner.open()

    async def handle(self, batch: Batch) -> None:
        assert self._start is not None
        if self._down[0] <= anyio.current_time() - self._start < self._down[1]:
            raise TransientError("down")
        await self._inner.handle(batch)

    async def close(self) -> None:
        await self._inner.close()

    @property
    def checkpoints(self) -> DestinationCheckpoints | None:
        return self._inner.checkpoints


async def record_for(seconds: float, recorder: EventRecorder) -> int:
    """2,000 events a second; how many were offered."""
    start = anyio.current_time()
    offered = 0
    while (passed := anyio.current_time() - start) < seconds:
        while offered < passed * 2_000:
            recorder.record(Numbered(offered))
            offered += 1
        await anyio.sleep(0.005)
    return offered


def stored(database: Path) -> list[int]:
    connection = sqlite3.connect(database)
    try:
        return [number for (number,) in connection.execute("SELECT payload ->> 'number' FROM events ORDER BY rowid")]
    finally:
        connection.close()


async def test_with_room_and_attempts_an_outage_loses_nothing_and_says_two_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    options = EventRecorderOptions(queue_events=200_000, retry=Backoff())
    handler = Interrupted(f"sqlite:///{tmp_path}/c.db", down=(2, 32))

    async with EventRecorder(handler, options=options) as recorder:
        offered = await record_for(36, recorder)
        assert await recorder.flush(timeout=60)

    assert await anyio.to_thread.run_sync(stored, tmp_path / "c.db") == list(range(offered))
    lines = [(record.levelname, record.getMessage().partition(" subscription")[0]) for record in caplog.records]
    assert lines == [("WARNING", "delivery interrupted"), ("INFO", "delivery restored")]
    assert_conserved(recorder.status(), offered=offered)


async def test_with_the_defaults_what_is_missing_is_what_the_account_says(tmp_path: Path) -> None:
    handler = Interrupted(f"sqlite:///{tmp_path}/c.db", down=(2, 32))

    async with EventRecorder(handler) as recorder:
        offered = await record_for(36, recorder)
        await recorder.flush(timeout=60)

    there = await anyio.to_thread.run_sync(stored, tmp_path / "c.db")
    status = recorder.status()
    part = status.subscriptions["Interrupted"]
    assert len(there) == len(set(there))
    assert offered - len(there) == status.refused.get("overflow", 0) + sum(part.dropped.values()) > 0
    assert set(part.dropped) <= {"overflow", "exhausted"}
    assert_conserved(status, offered=offered)
