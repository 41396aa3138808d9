"""A run of our own: made when needed, and again where another program took its directory away."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from eventrec.errors import LogLockedError
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log
from eventrec.log.reader import LogReader
from eventrec.runs.directory import list_runs
from eventrec.runs.own_log import OwnLog
from eventrec.runs.run import Run, new_run_id
from eventrec.runs.run_folder import is_locked

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def gone() -> list[UUID]:
    return []


@pytest.fixture
def own(tmp_path: Path, gone: list[UUID]) -> OwnLog:
    def note(run: Run, log: Log) -> None:
        assert log.synced == 1
        gone.append(run.id)

    return OwnLog(tmp_path, new_run_id, on_gone=note)


def test_nothing_is_made_before_it_is_needed(tmp_path: Path, own: OwnLog) -> None:
    assert own.look() is False
    own.let_go()

    assert list(tmp_path.iterdir()) == []
    assert repr(own) == "<OwnLog None None>"


def test_it_is_made_once_and_left_to_the_next_process(tmp_path: Path, own: OwnLog) -> None:
    run, log = own.make(first=7)
    again = own.make()
    log.append([b"record"])
    own.let_go()
    own.let_go()

    assert again == (run, log)
    assert list_runs(tmp_path) == [run.id]
    assert not is_locked(tmp_path, run.id)
    assert (own.run, own.log) == (None, None)
    assert [commit.offset for commit in LogReader(DiskStorage(run.path)).commits()] == [7]


def test_where_its_directory_is_gone_another_one_is_made_and_told_once(
    tmp_path: Path, own: OwnLog, gone: list[UUID]
) -> None:
    run, log = own.make()
    log.append([b"record"])
    log.write()
    log.sync()
    assert own.look() is False
    shutil.rmtree(run.path)

    assert own.look() is True
    assert own.look() is False

    assert (gone, own.is_gone) == ([run.id], False)
    assert is_locked(tmp_path, run.id)
    log.append([b"another"])
    own.let_go()
    assert [commit.offset for commit in LogReader(DiskStorage(run.path)).commits()] == [0, 1]


def test_while_something_else_has_its_place_each_look_fails_and_it_is_told_once(own: OwnLog, gone: list[UUID]) -> None:
    run, log = own.make()
    log.append([b"record"])
    log.write()
    log.sync()
    shutil.rmtree(run.path)
    run.path.write_text("not ours", encoding="utf-8")

    for _ in range(2):
        with pytest.raises(FileExistsError):
            own.look()
    assert (gone, own.is_gone) == ([run.id], True)
    run.path.unlink()

    assert own.look() is True
    assert own.is_gone is False
    own.let_go()


@pytest.mark.parametrize("failing", [OSError("full"), LogLockedError("no locks")])
def test_a_run_that_cannot_be_made_is_tried_again(
    own: OwnLog, monkeypatch: pytest.MonkeyPatch, failing: Exception
) -> None:
    def refuse(*_: object, **__: object) -> Run:
        raise failing

    with monkeypatch.context() as patch:
        patch.setattr(Run, "create", refuse)
        with pytest.raises(type(failing)):
            own.make()

    own.make()
    own.let_go()


def test_it_is_told_of_when_both_names_are_on_the_disk(
    tmp_path: Path, own: OwnLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, Log | None]] = []
    sync = DiskStorage.sync_directory

    def noting(storage: DiskStorage) -> None:
        sync(storage)
        synced.append((storage.directory.name, own.log))

    monkeypatch.setattr(DiskStorage, "sync_directory", noting)

    run, _ = own.make()

    assert synced == [(str(run.id), None), (tmp_path.name, None)]
    own.let_go()


def test_a_run_whose_name_cannot_be_had_on_the_disk_is_given_up(
    tmp_path: Path, own: OwnLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Run) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "sync_name", refuse)
        with pytest.raises(OSError, match="Input/output"):
            own.make()
    assert (own.run, own.log, list(tmp_path.iterdir())) == (None, None, [])

    run, log = own.make()

    assert (list_runs(tmp_path), log.appended) == ([run.id], 0)
    own.let_go()


def test_the_making_of_a_log_is_within_what_begins_its_run_once(
    tmp_path: Path, gone: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, UUID, bool]] = []

    @contextmanager
    def beginning(run: Run) -> Iterator[None]:
        seen.append(("begins", run.id, making.log is None and list(run.storage.list()) == ["lock"]))
        yield
        seen.append(("ends", run.id, making.log is None and len(run.storage.list()) > 1))

    def refuse(*_: object, **__: object) -> Log:
        raise LogLockedError("no locks")

    making = OwnLog(tmp_path, new_run_id, on_gone=lambda run, _: gone.append(run.id), beginning=beginning)
    run, _ = making.make()
    making.make()
    assert seen == [("begins", run.id, True), ("ends", run.id, True)]
    making.let_go()
    seen.clear()

    with monkeypatch.context() as patch:
        patch.setattr(Log, "create", refuse)
        with pytest.raises(LogLockedError):
            making.make()
    other, _ = making.make()

    assert seen == [("begins", other.id, True)]
    making.let_go()


def test_abandoned_it_touches_nothing(tmp_path: Path, own: OwnLog) -> None:
    run, _ = own.make()
    before = sorted(path.name for path in run.path.iterdir())

    own.abandon()
    own.abandon()

    assert (own.run, own.log) == (None, None)
    assert sorted(path.name for path in run.path.iterdir()) == before


def test_a_lock_that_was_deleted_from_its_directory_is_made_again_so_that_the_log_stays_ours(
    tmp_path: Path, own: OwnLog, gone: list[UUID]
) -> None:
    run, log = own.make()
    (run.path / "lock").unlink()
    (run.path / "checkpoints").rmdir()
    assert list_runs(tmp_path) == []

    assert own.look() is False
    assert list_runs(tmp_path) == [run.id]
    assert is_locked(tmp_path, run.id)
    assert (run.path / "checkpoints").is_dir()
    assert (run.incarnation, gone) == (2, [])
    log.append([b"record"])
    own.let_go()
    adopted = Run.adopt(tmp_path, run.id)
    assert adopted is not None
    adopted.retire()
    assert list(tmp_path.iterdir()) == []
