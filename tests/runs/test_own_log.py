"""A run of our own: made when needed, and again where another program took its directory away."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import UUID

import pytest

from eventrec.errors import LogLockedError
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log
from eventrec.log.reader import LogReader
from eventrec.runs.own_log import OwnLog
from eventrec.runs.run import Run, is_locked, list_runs, new_run_id


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
    assert [commit.offset for commit in LogReader(DiskStorage(run.path)).commits()] == [1]


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
    def refuse(*_: object) -> Run:
        raise failing

    with monkeypatch.context() as patch:
        patch.setattr(Run, "create", refuse)
        with pytest.raises(type(failing)):
            own.make()

    own.make()
    own.let_go()


def test_abandoned_it_touches_nothing(tmp_path: Path, own: OwnLog) -> None:
    run, _ = own.make()
    before = sorted(path.name for path in run.path.iterdir())

    own.abandon()
    own.abandon()

    assert (own.run, own.log) == (None, None)
    assert sorted(path.name for path in run.path.iterdir()) == before
