"""`record_durable(…, until="mirrored")`: what a caller is told, and what it costs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync as in_thread

from eventrec import DurableTimeoutError, EventRecorder, LogError, NotDurableError, Position
from eventrec.errors import LogClosedError
from eventrec.runs.mirrors import Mirrors
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


def recorder_in(directory: Path, **options: Any) -> EventRecorder:
    recorder = EventRecorder(log=directory, options=quickly(**options))
    recorder.register(ScriptedHandler(), name="s")
    return recorder


async def test_it_returns_once_a_mirror_has_the_record(here: Path, there: Path, kit: Any) -> None:
    async with recorder_in(here) as recorder, anyio.create_task_group() as tasks:
        positions: list[Position | None] = []

        async def record() -> None:
            positions.append(await recorder.record_durable(Numbered(1), until="mirrored"))

        tasks.start_soon(record)
        await kit.until(lambda: recorder.status().subscriptions["s"].delivered == 1)
        assert positions == []
        async with kit.serving(here) as served, kit.mirroring(served.address, there):
            await kit.until(lambda: len(positions))
            later = await recorder.record_durable(Numbered(2), until="mirrored", timeout=30)
            assert later is not None
            assert await in_thread(kit.acknowledged, here, later.log_id) > later.offset
            await kit.until(lambda: recorder.status().mirrors == {"standby": 0})
            recorder.record(Numbered(3))


async def test_a_timeout_is_an_error_and_the_event_is_taken(here: Path) -> None:
    async with recorder_in(here) as recorder:
        with pytest.raises(DurableTimeoutError, match=r"not mirrored within 0\.05 s") as caught:
            await recorder.record_durable(Numbered(1), until="mirrored", timeout=0.05)
    status = recorder.status()  # closed: it is written by then, however busy the machine was

    assert isinstance(caught.value, TimeoutError | LogError)
    assert status.appended == 1


async def test_as_many_mirrors_have_to_have_it_as_the_option_says(here: Path, there: Path, kit: Any) -> None:
    async with (
        recorder_in(here, mirrors=2) as recorder,
        kit.serving(here) as served,
        kit.mirroring(served.address, there / "a", name="a"),
    ):
        with pytest.raises(DurableTimeoutError):
            await recorder.record_durable(Numbered(1), until="mirrored", timeout=0.3)
        async with kit.mirroring(served.address, there / "b", name="b"):
            assert await recorder.record_durable(Numbered(2), until="mirrored", timeout=30)


async def test_many_who_wait_at_once_share_the_looks(
    here: Path, there: Path, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    of_log = Mirrors.of_log

    def counted(self: Mirrors, *arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return of_log(self, *arguments)

    async with recorder_in(here) as recorder, kit.serving(here) as served, kit.mirroring(served.address, there):
        await recorder.record_durable(Numbered(0), until="mirrored", timeout=30)
        monkeypatch.setattr(Mirrors, "of_log", counted)
        async with anyio.create_task_group() as tasks:
            for number in range(300):
                tasks.start_soon(partial(recorder.record_durable, Numbered(number), until="mirrored"))
        monkeypatch.undo()

    assert looks < 300


async def test_a_recorder_that_is_closed_meanwhile_says_so(here: Path) -> None:
    recorder = recorder_in(here, close_timeout=0.5)
    await recorder.open()
    errors: list[Exception] = []

    async def record() -> None:
        try:
            await recorder.record_durable(Numbered(1), until="mirrored")
        except LogClosedError as exc:
            errors.append(exc)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(record)
        while not recorder.status().appended:  # noqa: ASYNC110 - a thread changes it
            await anyio.sleep(0.01)
        await recorder.close()

    assert len(errors) == 1


async def test_one_who_is_cancelled_leaves_the_looking_to_the_others(here: Path, there: Path, kit: Any) -> None:
    async with recorder_in(here) as recorder, anyio.create_task_group() as tasks:
        with anyio.move_on_after(0.1):
            await recorder.record_durable(Numbered(1), until="mirrored")
        tasks.start_soon(partial(recorder.record_durable, Numbered(2), until="mirrored", timeout=30))
        async with kit.serving(here) as served, kit.mirroring(served.address, there):
            assert await recorder.record_durable(Numbered(3), until="mirrored", timeout=30)


async def test_without_a_log_there_is_nothing_to_mirror() -> None:
    async with EventRecorder(ScriptedHandler()) as recorder:
        with pytest.raises(NotDurableError):
            await recorder.record_durable(Numbered(1), until="mirrored", timeout=1)


def test_the_blocking_recorder_has_it_too(here: Path) -> None:
    with recorder_in(here).sync() as recorder:
        assert recorder.record_durable(Numbered(1), until="synced", timeout=30)
        with pytest.raises(DurableTimeoutError):
            recorder.record_durable(Numbered(2), until="mirrored", timeout=0.05)
