from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventrec import Batch, EventRecorder, EventRecorderOptions
from eventrec.delivery.sources import log as log_source
from eventrec.records.content import ContentDecoder
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered
from eventrec_handlers.sqlite import SqliteHandler


async def test_what_waited_goes_in_larger_batches(tmp_path: Path) -> None:
    class Noting(SqliteHandler):
        async def handle(self, batch: Batch) -> None:
            sizes.append(len(batch))
            await super().handle(batch)

    sizes: list[int] = []
    recorder = EventRecorder(
        Noting(tmp_path / "events.db"), log=tmp_path / "log", options=EventRecorderOptions(flush_interval=0.1)
    )
    for number in range(10_000):
        assert recorder.record(Numbered(number))

    async with recorder:
        assert await recorder.flush(timeout=60)

    assert sum(sizes) == 10_000
    assert 1_000 < max(sizes) <= 4_000
    assert recorder.status().subscriptions["Noting"].delivered == 10_000


async def test_a_worker_that_has_caught_up_decodes_nothing_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(ContentDecoder):
        def decode(self, content: bytes) -> Any:
            decoded.append(len(content))
            return super().decode(content)

    decoded: list[int] = []
    monkeypatch.setattr(log_source, "ContentDecoder", Counting)
    handler = FencedHandler()

    async with EventRecorder(handler, log=tmp_path, options=EventRecorderOptions(flush_interval=0.01)) as recorder:
        for start in range(0, 1_000, 100):
            recorder.record_many(Numbered(n) for n in range(start, start + 100))
            assert await recorder.flush(timeout=30)
        status = recorder.status()

    assert handler.delivered == list(range(1_000))
    # What came before the first log was there may be read.
    assert len(decoded) <= 1
    assert_conserved(status, offered=1_000)
