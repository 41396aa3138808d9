"""`EventRecorderOptions.reference()`: GreptimeDB's recorder, event by event, on a virtual clock."""

from __future__ import annotations

import anyio
import pytest

from eventrec import EventRecorder, EventRecorderOptions, TransientError
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, ScriptedHandler, raising

REFERENCE = EventRecorderOptions.reference()


async def test_the_101st_event_triggers_a_batch_of_100() -> None:
    handler = ScriptedHandler()

    async with EventRecorder(handler, options=REFERENCE) as recorder:
        await anyio.sleep(1)
        recorder.record_many(Numbered(n) for n in range(100))
        await anyio.sleep(1)
        assert handler.batches == []
        recorder.record(Numbered(100))
        await anyio.sleep(1)
        assert handler.batches == [list(range(100))]

    assert handler.batches == [list(range(100)), [100]]
    assert_conserved(recorder.status(), offered=101)


async def test_ticks_come_every_five_seconds_the_first_at_once() -> None:
    handler = ScriptedHandler()

    recorder = EventRecorder(handler, options=REFERENCE)
    recorder.record(Numbered(0))
    async with recorder:
        start = anyio.current_time()
        await anyio.sleep(0.5)
        assert handler.batches == [[0]]
        for n in range(1, 4):
            recorder.record(Numbered(n))
            await anyio.sleep(5)

    assert handler.batches == [[0], [1], [2], [3]]
    assert [time - start for time in handler.times] == pytest.approx([0, 5, 10, 15], abs=0.1)


async def test_four_attempts_without_jitter_then_counted_and_on() -> None:
    handler = ScriptedHandler(acts=[raising(TransientError("down"))] * 4)

    async with EventRecorder(handler, options=REFERENCE) as recorder:
        recorder.record_many(Numbered(n) for n in range(150))
        await anyio.sleep(60)

    gaps = [later - earlier for earlier, later in zip(handler.times, handler.times[1:], strict=False)]
    assert gaps[:3] == pytest.approx([5 / 3, 10 / 3, 5.0], abs=0.01)
    assert handler.delivered == list(range(100, 150))
    assert recorder.status().subscriptions["ScriptedHandler"].dropped == {"exhausted": 100}
    assert_conserved(recorder.status(), offered=150)


async def test_while_a_batch_is_retried_the_channel_holds_2048_and_refuses_more() -> None:
    handler = ScriptedHandler(always=raising(TransientError("down")))

    async with EventRecorder(handler, options=REFERENCE) as recorder:
        await anyio.sleep(1)
        taken = 0
        for n in range(3_000):
            taken += recorder.record(Numbered(n))
            if n % 50 == 0:
                await anyio.sleep(0.03)

        assert taken == pytest.approx(2_048 + 100, abs=1)
        assert recorder.status().refused == {"overflow": 3_000 - taken}
    assert_conserved(recorder.status(), offered=3_000)


async def test_closing_delivers_what_is_still_in_the_channel() -> None:
    """The original flushes its buffer and loses the channel when it is cancelled."""
    handler = ScriptedHandler()

    async with EventRecorder(handler, options=REFERENCE) as recorder:
        recorder.record_many(Numbered(n) for n in range(2_000))

    assert handler.delivered == list(range(2_000))


async def test_a_retry_keeps_the_time_of_recording() -> None:
    """The original stamps rows when the request is built, so that a retry moves them."""
    stamps: list[list[int]] = []
    handler = ScriptedHandler(acts=[lambda batch: _keep_and_fail(stamps, batch)] * 2)
    times = iter(range(1_000, 2_000))

    async with EventRecorder(handler, options=REFERENCE, clock=lambda: next(times)) as recorder:
        recorder.record_many(Numbered(n) for n in range(3))
        await anyio.sleep(60)

    assert stamps == [[1_000, 1_001, 1_002]] * 2


def _keep_and_fail(stamps: list[list[int]], batch: object) -> None:
    stamps.append([record.timestamp for record in batch.records])  # type: ignore[attr-defined]
    raise TransientError("down")


async def test_a_failing_group_does_not_send_the_groups_before_it_again() -> None:
    """The original inserts type by type, and on a retry repeats the types that went through."""
    handler = ScriptedHandler(acts=[raising(TransientError("down"))])

    async with EventRecorder(handler, options=REFERENCE) as recorder:
        recorder.record_many(Numbered(n, kind="abc"[n % 3]) for n in range(30))
        await anyio.sleep(60)

    assert handler.delivered == list(range(30))


async def test_a_handler_that_raises_the_unexpected_does_not_end_the_recorder() -> None:
    """The original's task dies of a panic in the handler, and record() only logs from then on."""
    handler = ScriptedHandler(acts=[raising(ZeroDivisionError("panic"))])

    async with EventRecorder(handler, options=REFERENCE) as recorder:
        recorder.record(Numbered(0))
        await anyio.sleep(60)
        assert recorder.record(Numbered(1))
        await anyio.sleep(60)

    assert handler.delivered == [0, 1]
    assert_conserved(recorder.status(), offered=2)
