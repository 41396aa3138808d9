"""What an owner keeps for the mirrors of its directory, and when it goes all the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import UUID

import anyio
import pytest
from anyio.to_thread import run_sync as in_thread

from eventrec import EventRecorder
from eventrec.delivery.orphans.adoption import MAX_ADOPTED
from eventrec.log.segment import list_segments
from eventrec.runs.directory import LogDirectory, list_runs
from eventrec.runs.files import file_name
from eventrec.runs.mirrors import MIRRORS, Acknowledged, Mirrors
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly

pytestmark = pytest.mark.usefixtures("looking_often")


class Long(Numbered):
    @property
    def payload(self) -> object:
        return {"number": self.number, "text": "x" * 100}


async def eventually(condition: Callable[[], object], seconds: float = 120) -> None:
    with anyio.fail_after(seconds):
        while not await in_thread(condition):  # noqa: ASYNC110 - a disk changes it
            await anyio.sleep(0.02)


def recorder_in(directory: Path, handler: ScriptedHandler | None = None, **options: object) -> EventRecorder:
    settings = {"max_log_bytes": 400_000, "keep_free": 0, "flush_interval": 0.05, "close_timeout": 1.0} | options
    recorder = EventRecorder(log=directory, options=quickly(**settings))
    if handler is not None:
        recorder.register(handler, name="s")
    return recorder


def _has(handler: ScriptedHandler, count: int) -> bool:
    return len(handler.delivered) == count


async def record_segments(recorder: EventRecorder, handler: ScriptedHandler) -> int:
    """Record, and have delivered, what takes several segments; how many events that is."""
    for start in range(0, 1_000, 200):
        recorder.record_many(Long(n) for n in range(start, start + 200))
        await eventually(partial(_has, handler, start + 200))
    return 1_000


def segments(directory: Path) -> list[int]:
    (id_,) = list_runs(directory)
    return list_segments(LogDirectory(directory).opened().folder(str(id_)))


def acknowledge(directory: Path, next_offset: int, checkpoint: int | None = None) -> None:
    (id_,) = list_runs(directory)
    saved = {} if checkpoint is None else {file_name("s"): checkpoint}
    Mirrors(directory).acknowledge("standby", Acknowledged(log=id_, next_offset=next_offset, checkpoints=saved))


async def test_segments_stay_till_the_mirror_has_them(tmp_path: Path) -> None:
    await in_thread(Mirrors(tmp_path).register, "standby")
    handler = ScriptedHandler()

    async with recorder_in(tmp_path, handler) as recorder:
        await record_segments(recorder, handler)
        held = await in_thread(segments, tmp_path)
        await in_thread(acknowledge, tmp_path, held[1])
        recorder.record(Long(1_000))
        await eventually(lambda: segments(tmp_path)[0] == held[1])

    assert held[0] == 0
    assert len(held) >= 3


async def test_a_log_that_a_mirror_lacks_is_kept_at_close_and_goes_once_it_has_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.delivery.orphans.queue.FIRST_PAUSE", 0.1)
    await in_thread(Mirrors(tmp_path).register, "standby")
    handler = ScriptedHandler()

    async with recorder_in(tmp_path, handler) as recorder:
        count = await record_segments(recorder, handler)
    kept = await in_thread(list_runs, tmp_path)
    async with recorder_in(tmp_path, handler) as later:
        await eventually(lambda: later.status().left)
        said = dict(later.status().left)
        await in_thread(acknowledge_run, tmp_path, kept[0], count, count)
        await eventually(lambda: kept[0] not in list_runs(tmp_path))

    assert said == {str(kept[0]): "kept for 'standby', to be mirrored"}
    assert handler.delivered == list(range(count))


def acknowledge_run(directory: Path, id_: UUID, next_offset: int, checkpoint: int) -> None:
    said = Acknowledged(log=id_, next_offset=next_offset, checkpoints={file_name("s"): checkpoint})
    Mirrors(directory).acknowledge("standby", said)


async def test_a_log_that_all_mirrors_have_goes_at_close(tmp_path: Path) -> None:
    await in_thread(Mirrors(tmp_path).register, "standby")
    handler = ScriptedHandler()

    async with recorder_in(tmp_path, handler) as recorder:
        count = await record_segments(recorder, handler)
        await in_thread(acknowledge, tmp_path, count, count)

    assert await in_thread(list_runs, tmp_path) == []


async def test_many_small_logs_of_earlier_runs_are_delivered_and_kept_for_the_mirror(tmp_path: Path) -> None:
    count = 3 * MAX_ADOPTED
    for number in range(count):
        recorder = recorder_in(tmp_path, None)
        recorder.record(Numbered(number))
        await recorder.close()
    orphans = set(await in_thread(list_runs, tmp_path))
    await in_thread(Mirrors(tmp_path).register, "standby")
    handler = ScriptedHandler()

    async with recorder_in(tmp_path, handler):
        await eventually(lambda: len(handler.delivered) == count)

    assert sorted(handler.delivered) == list(range(count))
    assert orphans <= set(await in_thread(list_runs, tmp_path))


async def test_within_the_disk_bound_a_mirror_that_stays_away_forfeits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await in_thread(Mirrors(tmp_path).register, "standby")
    handler, offered = ScriptedHandler(), 0

    async with recorder_in(tmp_path, handler, max_log_bytes=100_000) as recorder:
        for _ in range(20):
            offered += recorder.record_many(Long(n) for n in range(offered, offered + 200))
            await eventually(partial(_has, handler, offered))
            await anyio.sleep(0.05)
        await eventually(lambda: segments(tmp_path)[0] > 0)
        status = recorder.status()

    assert handler.delivered == list(range(offered))
    assert status.refused == status.subscriptions["s"].dropped == {}
    (said,) = [each.message for each in caplog.records if each.message.startswith("records forfeited")]
    assert "'standby'" in said
    assert "records={}" not in said
    assert "records=" not in said  # No subscription lost any.


@pytest.mark.parametrize("is_folder_readable", [True, False])
async def test_a_file_in_the_place_of_the_folder_holds_nothing(tmp_path: Path, *, is_folder_readable: bool) -> None:
    (tmp_path / MIRRORS).mkdir() if is_folder_readable else (tmp_path / MIRRORS).touch()
    handler = ScriptedHandler()

    async with recorder_in(tmp_path, handler) as recorder:
        await record_segments(recorder, handler)
        await eventually(lambda: segments(tmp_path)[0] > 0)

    assert await in_thread(list_runs, tmp_path) == []


async def test_mirrors_that_cannot_be_read_hold_everything_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> dict[str, Acknowledged]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Mirrors, "of_log", refuse)
    handler = ScriptedHandler()

    async with recorder_in(tmp_path, handler) as recorder:
        count = await record_segments(recorder, handler)
        held = await in_thread(segments, tmp_path)

    assert held[0] == 0
    assert len(await in_thread(list_runs, tmp_path)) == 1
    assert handler.delivered == list(range(count))
    assert [each.message for each in caplog.records if "mirrors unreadable" in each.message]
