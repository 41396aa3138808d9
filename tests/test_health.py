"""Health of a running recorder whose handler hangs, or whose intake is full: never silent, and from any thread."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from eventrec import Batch, EventHandler, EventRecorder, Health
from eventrec.bridges.prometheus import RecorderCollector
from eventrec.runs.checkpoint import Checkpoint, CheckpointFiles
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of a second is long."""
    monkeypatch.setattr("eventrec.delivery.worker.health._SILENCE", 0.2)
    monkeypatch.setattr("eventrec.delivery.supervisor._LOOK_SECONDS", 0.05)


class Hanging(EventHandler):
    def __init__(self) -> None:
        self.may_go_on = anyio.Event()

    async def handle(self, batch: Batch) -> None:
        await self.may_go_on.wait()


class HangingInOpen(Hanging):
    async def open(self) -> None:
        await self.may_go_on.wait()


async def health_once(recorder: EventRecorder, condition: Callable[[Health], bool]) -> Health:
    with anyio.fail_after(120):
        while not condition(health := recorder.status().health):  # noqa: ASYNC110 - delivery changes it
            await anyio.sleep(0.01)
    return health


def refuse_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_files: CheckpointFiles, _checkpoint: Checkpoint, *, sync: bool) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), f"sync={sync}")

    monkeypatch.setattr(CheckpointFiles, "save", refuse)


async def test_checkpoints_that_the_disk_refuses_are_seen_until_they_are_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="eventrec")

    async with EventRecorder(ScriptedHandler(), log=tmp_path, options=quickly(sync="take")) as recorder:
        with monkeypatch.context() as patch:
            refuse_checkpoints(patch)
            recorder.record(Numbered(0))
            assert await recorder.flush(timeout=60)
            unsaved = await health_once(recorder, lambda health: bool(health.reasons))
        await health_once(recorder, lambda health: not health.reasons)

    assert unsaved == Health(
        live=True, ready=True, reasons=("checkpoints of 1 log not saved: what was delivered since may be sent again",)
    )
    assert "closed with checkpoints not saved" not in caplog.text
    assert recorder.status().unsaved == 0


async def test_checkpoints_that_the_disk_refuses_to_the_end_are_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = EventRecorder(ScriptedHandler(), log=tmp_path, options=quickly())
    await recorder.open()
    refuse_checkpoints(monkeypatch)
    recorder.record(Numbered(0))

    status = await recorder.close(30)

    assert status.unsaved == 1
    said = [record.getMessage() for record in caplog.records if "closed with" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("closed with checkpoints not saved")


@pytest.mark.parametrize("kind", [Hanging, HangingInOpen])
@pytest.mark.parametrize("has_log", [True, False])
async def test_a_handler_that_hangs_is_seen_and_is_well_again_after_it(
    kind: type[Hanging],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    said_by: Callable[[str], list[logging.LogRecord]],
    *,
    has_log: bool,
) -> None:
    caplog.set_level(logging.INFO, logger="eventrec")
    handler = kind()
    registry = CollectorRegistry()
    options = quickly(flush_interval=0.01)

    async with EventRecorder(handler, log=tmp_path if has_log else None, options=options) as recorder:
        registry.register(RecorderCollector(recorder))
        recorder.record(Numbered(0))
        silent = await health_once(recorder, lambda health: bool(health.reasons))
        told = generate_latest(registry).decode()
        with anyio.fail_after(120):
            while not said_by("eventrec.delivery"):  # noqa: ASYNC110 - delivery changes it
                await anyio.sleep(0.01)
        handler.may_go_on.set()
        assert await recorder.flush(timeout=20)
        well = await health_once(recorder, lambda health: not health.reasons)

    assert silent.ready
    assert silent.reasons[0].startswith(f"{kind.__name__}: no answer for ")
    assert f'eventrec_healthy{{subscription="{kind.__name__}"}} 0.0\n' in told
    assert f'eventrec_unanswered_time{{subscription="{kind.__name__}"}} 0.' in told
    assert well.ready
    lines = [record.getMessage() for record in said_by("eventrec.delivery")]
    assert [line.split(" subscription")[0] for line in lines[:2]] == ["delivery interrupted", "delivery restored"], (
        lines
    )


class Blocking(EventHandler):
    def __init__(self) -> None:
        self.may_go_on = threading.Event()

    async def handle(self, batch: Batch) -> None:
        self.may_go_on.wait(20)


def test_a_handler_that_blocks_its_loop_is_seen_from_another_thread() -> None:
    handler = Blocking()

    with EventRecorder(handler, options=quickly(flush_interval=0.01)).sync() as recorder:
        recorder.record(Numbered(0))
        until = time.monotonic() + 10
        while not (reasons := recorder.status().health.reasons) and time.monotonic() < until:
            time.sleep(0.01)
        handler.may_go_on.set()

    assert reasons
    assert reasons[0].startswith("Blocking: no answer for ")


@pytest.mark.parametrize("overflow", ["drop_new", "drop_old"])
async def test_an_intake_without_room_is_seen(overflow: str) -> None:
    options = quickly(queue_events=10, overflow=overflow)

    async with EventRecorder(Hanging(), options=options) as recorder:
        assert recorder.status().health.reasons == ()
        recorder.record_many(Numbered(number) for number in range(50))
        status = recorder.status()
        await recorder.close(0)

    refused = status.refused["overflow"]
    assert refused >= 40
    assert status.health.reasons == (f"no room: {refused:,} events refused so far",)
    assert status.health.ready


async def test_records_that_a_slow_subscription_loses_are_seen() -> None:
    slow = Hanging()
    recorder = EventRecorder(options=quickly(queue_events=100, flush_interval=0.01))
    recorder.register(slow, name="slow")
    recorder.register(ScriptedHandler(), name="fast")

    async with recorder:
        with anyio.fail_after(120):
            while not recorder.status().subscriptions["slow"].dropped:
                recorder.record(Numbered(0))
                await anyio.lowlevel.checkpoint()
        reasons = recorder.status().health.reasons
        slow.may_go_on.set()

    assert any(reason.startswith("slow: records lost: ") and "(overflow)" in reason for reason in reasons)
