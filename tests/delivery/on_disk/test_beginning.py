"""The beginning of a log: it has a checkpoint of each subscription before there is anything to deliver from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import anyio.to_thread
import pytest

from eventrec import EventRecorder
from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles
from eventrec.runs.directory import list_runs
from eventrec.runtime.native import get_ident
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Counting(ScriptedHandler):
    pass


def checkpoints_in(directory: Path) -> dict[str, Checkpoint]:
    (id_,) = list_runs(directory)
    return CheckpointFiles(directory / str(id_) / CHECKPOINTS).load()


async def saved_in(directory: Path) -> set[str]:
    return set(await anyio.to_thread.run_sync(checkpoints_in, directory))


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Every checkpoint that is saved, and whether that is in the thread that made the log."""
    made: list[tuple[str, bool]] = []
    makers: list[int] = []
    begin, save = CheckpointFiles.begin, CheckpointFiles.save

    def beginning(files: CheckpointFiles, names: Mapping[str, str], *, sync: bool) -> dict[str, Checkpoint]:
        makers.append(get_ident())
        return begin(files, names, sync=sync)

    def saving(files: CheckpointFiles, checkpoint: Checkpoint, *, sync: bool) -> None:
        made.append((checkpoint.subscription, get_ident() in makers))
        save(files, checkpoint, sync=sync)

    monkeypatch.setattr(CheckpointFiles, "begin", beginning)
    monkeypatch.setattr(CheckpointFiles, "save", saving)
    return made


@pytest.mark.parametrize("sync", ["interval", "take", "never"])
async def test_open_returns_with_checkpoints_that_the_log_was_begun_with(
    tmp_path: Path, saves: list[tuple[str, bool]], sync: Literal["interval", "take", "never"]
) -> None:
    recorder = EventRecorder(ScriptedHandler(), Counting(), log=tmp_path, options=quickly(sync=sync))

    await recorder.open()

    assert saves == [("ScriptedHandler", True), ("Counting", True)]
    assert await saved_in(tmp_path) == {"ScriptedHandler", "Counting"}
    recorder.record(Numbered(1))
    assert await recorder.flush(timeout=30)
    assert_conserved(await recorder.close())
    assert await anyio.to_thread.run_sync(list_runs, tmp_path) == []


@pytest.mark.parametrize("refused", ["begin", "sync_names"])
async def test_checkpoints_that_the_disk_refuses_at_first_are_saved_before_open_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    done = getattr(CheckpointFiles, refused)
    refusals = [OSError(28, "No space left on device")]

    def refusing(files: CheckpointFiles, *args: object, **options: object) -> object:
        if refusals:
            raise refusals.pop()
        return done(files, *args, **options)

    monkeypatch.setattr(CheckpointFiles, refused, refusing)
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=tmp_path, options=quickly())

    await recorder.open()

    assert refusals == []
    assert await saved_in(tmp_path) == {"ScriptedHandler"}
    await recorder.close()
