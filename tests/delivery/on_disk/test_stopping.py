"""`on_failure="stop"`: after the first send that fails nothing more is recorded or sent in this process."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventrec import (
    Backoff,
    Batch,
    BatchTooLargeError,
    EventRecorder,
    EventRecorderOptions,
    FencedError,
    PartialError,
    PauseError,
    PermanentError,
    Status,
    TransientError,
)
from eventrec.delivery.worker.outcome import error_text
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, ScriptedHandler, quickly, raising, refusing

STOPPING: dict[str, Any] = {
    "on_failure": "stop",
    "flush_interval": 0.01,
    "close_timeout": 0.1,
    "retry": Backoff(first=0.01, jitter="none"),
}


def stopping(**options: Any) -> EventRecorderOptions:
    return quickly(**STOPPING, **options)


async def until(recorder: EventRecorder, holds: Callable[[Status], bool]) -> Status:
    with anyio.fail_after(120):
        while not holds(status := recorder.status()):  # noqa: ASYNC110 - what is waited for has no event
            await anyio.sleep(0.01)
    return status


def is_paused(status: Status) -> bool:
    return any(part.held for part in status.subscriptions.values())


@pytest.mark.parametrize("error", [TransientError("it is down"), PauseError("401"), ValueError("odd")])
async def test_after_a_failed_send_nothing_more_is_recorded_or_sent(tmp_path: Path, error: Exception) -> None:
    handler = ScriptedHandler(acts=[raising(error)])
    async with EventRecorder(handler, log=tmp_path / "log", options=stopping()) as recorder:
        recorder.record(Numbered(1))
        await until(recorder, is_paused)

        assert recorder.record(Numbered(2)) is False
        assert await recorder.record_durable(Numbered(3)) is None
        recorder.resume("ScriptedHandler")
        assert not await recorder.flush(timeout=5)
        status = await until(recorder, lambda status: "paused: stopped" in str(status))

    (part,) = status.subscriptions.values()
    assert part.state == f"paused: stopped after a failed send: {error_text(error)}"
    assert (status.offered, status.refused) == (3, {"stopped": 2})
    assert not status.health.ready
    assert (len(handler.times), handler.batches) == (1, [])
    assert_conserved(status, offered=3)

    later = ScriptedHandler()
    async with EventRecorder(later, log=tmp_path / "log", options=stopping()) as recorder:
        await until(recorder, lambda _: later.delivered == [1])


async def test_a_destination_that_cannot_be_opened_stops_as_well() -> None:
    handler = ScriptedHandler(open_acts=[lambda: raising(OSError("no route"))(None)])  # type: ignore[arg-type]
    async with EventRecorder(handler, options=stopping()) as recorder:
        recorder.record(Numbered(1))
        await until(recorder, is_paused)

        assert recorder.record(Numbered(2)) is False

    assert (handler.opened, handler.batches) == (1, [])


class Unaskable(FencedHandler):
    asked = 0

    async def resume(self, log_id: object, subscription: str, start: int) -> int:
        self.asked += 1
        raise TransientError("it does not answer")


async def test_a_destination_that_does_not_say_where_it_is_stops_as_well() -> None:
    handler = Unaskable()
    async with EventRecorder(handler, options=stopping()) as recorder:
        recorder.record(Numbered(1))
        await until(recorder, is_paused)

    assert (handler.asked, handler.batches) == (1, [])


async def test_a_checkpoint_that_moved_is_not_a_failure() -> None:
    handler = FencedHandler(acts=[raising(FencedError("moved"))])
    async with EventRecorder(handler, options=stopping()) as recorder:
        recorder.record(Numbered(1))

        assert await recorder.flush(timeout=20)
        assert recorder.record(Numbered(2))

    assert handler.delivered == [1, 2]


@pytest.mark.parametrize("refusal", [PermanentError, BatchTooLargeError])
async def test_a_refused_batch_is_parted_before_it_stops(tmp_path: Path, refusal: Callable[[str], Exception]) -> None:
    handler = ScriptedHandler(always=refusing([3], lambda: refusal("not this")))
    recorder = EventRecorder(handler, log=tmp_path / "log", options=stopping())
    recorder.record_many(Numbered(n) for n in range(8))
    async with recorder:
        status = await until(recorder, is_paused)

    assert handler.delivered == [0, 1, 2]
    assert status.subscriptions["ScriptedHandler"].dead == 1

    later = ScriptedHandler()
    async with EventRecorder(later, log=tmp_path / "log", options=stopping()) as recorder:
        await until(recorder, lambda _: later.delivered == [4, 5, 6, 7])


async def test_what_was_delivered_in_part_is_settled_and_then_it_stops() -> None:
    def half(batch: Batch) -> None:
        raise PartialError({batch.offsets[0]: PermanentError("no")})

    handler = ScriptedHandler(acts=[half])
    recorder = EventRecorder(handler, options=stopping())
    recorder.record_many(Numbered(n) for n in range(3))
    async with recorder:
        await until(recorder, lambda status: status.subscriptions["ScriptedHandler"].dead == 1)

        assert recorder.record(Numbered(4)) is False

    part = recorder.status().subscriptions["ScriptedHandler"]
    assert (part.delivered, part.dead) == (2, 1)


@pytest.mark.parametrize("runs", [3, 12], ids=["singly", "by the group"])
async def test_logs_of_earlier_runs_stay_whole_after_a_failure(tmp_path: Path, runs: int) -> None:
    for run in range(runs):
        earlier = EventRecorder(ScriptedHandler(), log=tmp_path / "log", options=quickly())
        earlier.record(Numbered(run))
        await earlier.close()
    before = sorted(path.name for path in (tmp_path / "log").iterdir())
    handler = ScriptedHandler(always=raising(TransientError("down")))

    async with EventRecorder(handler, log=tmp_path / "log", options=stopping()) as recorder:
        await until(recorder, lambda status: any(is_paused_part(log) for log in status.adopted.values()))
        assert recorder.record(Numbered(9)) is False

    assert len(handler.times) == 1
    assert set(before) <= {path.name for path in (tmp_path / "log").iterdir()}


def is_paused_part(log: Any) -> bool:
    return any(part.held for part in log.values())


async def test_opened_again_it_stays_stopped(tmp_path: Path) -> None:
    handler = ScriptedHandler(acts=[raising(TransientError("down"))])
    recorder = EventRecorder(handler, log=tmp_path / "log", options=stopping())
    async with recorder:
        recorder.record(Numbered(1))
        await until(recorder, is_paused)

    async with recorder:
        assert recorder.record(Numbered(2)) is False

    assert len(handler.times) == 1
    assert recorder.status().refused == {"stopped": 1}


async def test_a_recorder_that_stops_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    one, two = (ScriptedHandler(always=raising(TransientError("down"))) for _ in range(2))
    recorder = EventRecorder(options=stopping())
    recorder.register(one, name="one")
    recorder.register(two, name="two")
    async with recorder:
        recorder.record(Numbered(1))
        await until(recorder, lambda status: all(part.held for part in status.subscriptions.values()))

    assert len(one.times) + len(two.times) <= 2
    assert sum("recording stopped" in line for line in caplog.messages) == 1


async def test_dead_letters_tell_the_name_of_the_handler(tmp_path: Path) -> None:
    letters = tmp_path / "dead.jsonl"
    handler = ScriptedHandler(always=raising(PermanentError("never")))
    async with EventRecorder(handler, options=stopping(dead_letters=letters)) as recorder:
        recorder.record(Numbered(1))
        await until(recorder, lambda status: status.subscriptions["ScriptedHandler"].dead == 1)

    assert '"handler":"ScriptedHandler"' in letters.read_text(encoding="utf-8")


def test_the_stop_does_not_keep_a_forgotten_recorder() -> None:
    recorder = EventRecorder(ScriptedHandler(), options=stopping())
    reference = weakref.ref(recorder)

    del recorder
    gc.collect()

    assert reference() is None
