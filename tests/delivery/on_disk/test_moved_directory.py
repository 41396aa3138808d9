"""What is open is reached through descriptors: nothing that happens to names changes where a log is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from eventrec import EventRecorder, TransientError
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly, raising

pytestmark = pytest.mark.usefixtures("looking_often")


def moved_process(home: Path) -> None:
    (home / "elsewhere").mkdir()
    os.chdir(home / "elsewhere")


def repointed_link(home: Path) -> None:
    (home / "elsewhere").mkdir()
    (home / "current").unlink()
    (home / "current").symlink_to(home / "elsewhere")


def renamed_parent(home: Path) -> None:
    (home / "first").rename(home / "third")


@pytest.mark.parametrize("change", [moved_process, repointed_link, renamed_parent], ids=lambda each: each.__name__)
async def test_everything_recorded_is_delivered_and_nothing_appears_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "first")
    monkeypatch.chdir(tmp_path / "current")
    handler = ScriptedHandler(always=raising(TransientError("down")))
    recorder = EventRecorder(handler, log="var/events", options=quickly(flush_interval=0.02))

    async with recorder:
        recorder.record_many(Numbered(n) for n in range(100))
        await recorder.record_durable(Numbered(100))
        await anyio.to_thread.run_sync(change, tmp_path)
        # The writer looks once a second whether its directory is still there.
        await anyio.sleep(1.2)
        await recorder.record_durable(Numbered(101))
        handler.always = lambda _: None
        assert await recorder.flush(timeout=60)

    assert handler.delivered == list(range(102))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not (tmp_path / "elsewhere").is_dir() or not any((tmp_path / "elsewhere").iterdir())
    assert_conserved(recorder.status(), offered=102)
