"""An outage of half a minute under 2,000 events a second, on virtual time; `tests/faults` has it on real time."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
import pytest

from eventrec import Backoff, Batch, EventRecorder, EventRecorderOptions, TransientError
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, ScriptedHandler


async def record_through_an_outage(
    options: EventRecorderOptions, *, seconds: float, down: tuple[float, float]
) -> tuple[ScriptedHandler, EventRecorder, int]:
    """2,000 events a second for `seconds`, with the destination down between two times; how many were offered."""
    start = anyio.current_time()

    def act(_: Batch) -> None:
        if down[0] <= anyio.current_time() - start < down[1]:
            raise TransientError("down")

    handler = ScriptedHandler(always=act)
    offered = 0
    async with EventRecorder(handler, options=options) as recorder:
        while anyio.current_time() - start < seconds:
            for _ in range(20):
                recorder.record(Numbered(offered))
                offered += 1
            await anyio.sleep(0.01)
        await recorder.flush(timeout=60)
    return handler, recorder, offered


async def test_with_room_and_attempts_an_outage_loses_nothing_and_says_two_lines(
    caplog: pytest.LogCaptureFixture, said_by: Callable[[str], list[logging.LogRecord]]
) -> None:
    caplog.set_level(logging.INFO)
    options = EventRecorderOptions(queue_events=200_000, retry=Backoff())

    handler, recorder, offered = await record_through_an_outage(options, seconds=45, down=(5, 35))

    assert offered >= 80_000
    assert handler.delivered == list(range(offered))
    lines = [
        (record.levelname, record.getMessage().partition(" subscription")[0]) for record in said_by("eventrec.delivery")
    ]
    assert lines == [("WARNING", "delivery interrupted"), ("INFO", "delivery restored")]
    assert_conserved(recorder.status(), offered=offered)


async def test_with_the_defaults_what_is_missing_is_what_the_account_says() -> None:
    handler, recorder, offered = await record_through_an_outage(EventRecorderOptions(), seconds=45, down=(5, 35))

    status = recorder.status()
    part = status.subscriptions["ScriptedHandler"]
    missing = offered - len(handler.delivered)
    assert missing == status.refused.get("overflow", 0) + sum(part.dropped.values()) > 0
    assert set(part.dropped) <= {"overflow", "exhausted"}
    assert len(set(handler.delivered)) == len(handler.delivered)
    assert_conserved(status, offered=offered)


class Hanging(ScriptedHandler):
    async def handle(self, batch: Batch) -> None:
        await anyio.sleep_forever()


async def test_a_handler_that_hangs_holds_up_no_other_however_small_the_queue() -> None:
    fine, options = ScriptedHandler(), EventRecorderOptions(queue_events=20, flush_interval=0.1)
    recorder = EventRecorder(options=options)
    recorder.register(Hanging(), name="hangs")
    recorder.register(fine, name="fine")

    async with recorder:
        for first in range(0, 400, 10):
            assert recorder.record_many(Numbered(number) for number in range(first, first + 10)) == 10
            await anyio.sleep(0.5)
        await recorder.close(1)

    assert fine.delivered == list(range(400))
    assert recorder.status().subscriptions["fine"].dropped == {}
    assert_conserved(recorder.status(), offered=400)
