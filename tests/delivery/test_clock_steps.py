"""A wall clock that is put back or forward: what is recorded then keeps its order, and goes when it is due.

With a log, in processes that are killed, the soak steps clocks: `tests/faults/soak`.
"""

from __future__ import annotations

import time

import anyio
import pytest

from eventrec import Batch, EventRecorder
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly

HOURS = 3_600.0


@pytest.mark.parametrize("step", [-48 * HOURS, 48 * HOURS], ids=["back", "forward"])
async def test_a_clock_that_steps_changes_neither_order_nor_the_moment_of_a_batch(
    monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    seconds, nanoseconds = time.time, time.time_ns
    off = 0.0
    monkeypatch.setattr(time, "time", lambda: seconds() + off)
    monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() + int(off * 1e9))
    stamps: list[int] = []

    def note(batch: Batch) -> None:
        stamps.extend(record.timestamp for record in batch.records)

    handler = ScriptedHandler(always=note)
    begun = []
    options = quickly(batch_rows=100, flush_interval=1.0)

    async with EventRecorder(handler, options=options, clock=time.time_ns) as recorder:
        for number in range(4):
            begun.append(anyio.current_time())
            recorder.record(Numbered(2 * number))
            off += step
            recorder.record(Numbered(2 * number + 1))
            await anyio.sleep(1.5)

    assert handler.batches == [[0, 1], [2, 3], [4, 5], [6, 7]]
    # A timer on the wall clock would have fired at once, or in two days.
    assert [at - start for at, start in zip(handler.times, begun, strict=True)] == pytest.approx([1.0] * 4, abs=0.1)
    assert [(after > before) is (step > 0) for before, after in zip(stamps[::2], stamps[1::2], strict=True)] == [
        True
    ] * 4
    assert_conserved(recorder.status(), offered=8)
