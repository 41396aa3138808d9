from __future__ import annotations

import shutil
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log
from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles, Progress
from eventrec.runs.run import Run

ID = UUID("0195f1a2-7c3d-7e4f-8a5b-6c7d8e9fa0b1")
CHECKPOINT = Checkpoint(subscription="a", progress=Progress(0, 0, 0))


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the directories that are synced, in turn."""
    names: list[str] = []
    sync = DiskStorage.sync_directory

    def noting(storage: DiskStorage) -> None:
        sync(storage)
        names.append(storage.directory.name)

    monkeypatch.setattr(DiskStorage, "sync_directory", noting)
    return names


def test_the_directory_of_a_run_is_synced_once_for_its_checkpoints(tmp_path: Path, synced: list[str]) -> None:
    run = Run.create(tmp_path, ID)
    files = CheckpointFiles(run.storage)
    synced.clear()

    for _ in range(3):
        files.save(CHECKPOINT, sync=True)
        files.sync_names()

    assert synced == [CHECKPOINTS, str(ID), CHECKPOINTS, CHECKPOINTS]
    run.release()


@pytest.mark.parametrize("sync", [True, False])
def test_a_run_begins_with_checkpoints_at_its_first_record(tmp_path: Path, synced: list[str], *, sync: bool) -> None:
    run = Run.create(tmp_path, ID)
    files = CheckpointFiles(run.storage, is_named=True)
    synced.clear()

    begun = files.begin({"a": "", "b/c": "0123456789abcdef"}, sync=sync)

    assert synced == []  # until `sync_names`
    saved = files.load()
    assert begun.keys() == saved.keys() == {"a", "b/c"}
    assert {name: msgspec.structs.replace(each, saved=0.0) for name, each in saved.items()} == begun
    assert all(each.by_holder and each.progress == Progress(0, 0, 0) for each in saved.values())
    assert [each.address for _, each in sorted(saved.items())] == ["", "0123456789abcdef"]
    run.release()


def test_stray_files_are_named_in_text_that_can_be_encoded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run.create(tmp_path, ID)
    files = CheckpointFiles(run.storage)
    files.save(CHECKPOINT, sync=False)
    (run.path / CHECKPOINTS / "caf\udce9.json").write_bytes(b"of an operator")
    (run.path / CHECKPOINTS / "\udcff.json").write_bytes(b'{"version":99}')

    saved = files.look()
    again = files.look(said=saved.unreadable)

    assert (list(saved.unreadable), list(saved.newer)) == ([r"caf\udce9.json"], [r"\udcff.json"])
    assert again == saved
    (line,) = caplog.messages
    assert line.startswith(rf"checkpoint unreadable file={run.path / CHECKPOINTS}/caf\udce9.json error=")
    run.release()


def test_a_folder_of_checkpoints_that_is_made_again_has_its_name_synced(tmp_path: Path, synced: list[str]) -> None:
    run = Run.create(tmp_path, ID)
    with Log.create(run.storage):
        assert str(ID) in synced  # so that the folder, which is older, has its name
    files = CheckpointFiles(run.storage, is_named=True)
    synced.clear()

    files.save(CHECKPOINT, sync=True)
    files.sync_names()
    shutil.rmtree(run.path / CHECKPOINTS)
    files.save(CHECKPOINT, sync=True)
    files.sync_names()

    assert synced == [CHECKPOINTS, CHECKPOINTS, str(ID)]
    assert files.load().keys() == {"a"}
    run.release()
