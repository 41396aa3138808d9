"""One process at a time follows a directory for a subscription."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from eventrec.log.disk import DiskStorage
from eventrec.runs.directory import LogDirectory
from eventrec.runs.follower_locks import FollowerLocks
from eventrec.runs.followers import FOLLOWING


@pytest.fixture
def directory(tmp_path: Path) -> LogDirectory:
    return LogDirectory(tmp_path / "log")


def test_all_are_taken_or_none(directory: LogDirectory) -> None:
    first, second = FollowerLocks(directory, ["a"]), FollowerLocks(directory, ["b", "a", "c"])
    assert first.take() == []

    assert second.take() == ["a"]
    third = FollowerLocks(directory, ["b", "c"])
    assert third.take() == []

    first.release()
    assert second.take() == ["b", "c"]
    third.release()
    assert second.take() == []
    assert second.take() == []
    assert (repr(second), second.are_in_place()) == ("<FollowerLocks of a, b, c held>", True)
    second.release()
    second.release()
    assert (repr(second), second.are_in_place()) == ("<FollowerLocks of a, b, c free>", False)


def test_a_lock_is_private_marked_and_gone_at_the_end(directory: LogDirectory) -> None:
    locks = FollowerLocks(directory, ["a/../b"])
    locks.take()
    (path,) = (directory.path / FOLLOWING).iterdir()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"eventrec following 1 pid ")
    assert "/" not in path.name

    locks.release()
    assert list(directory.path.iterdir()) == []


@pytest.mark.parametrize("content", [b"\xff\x00 other people's", b"eventrec following 2"])
def test_a_file_of_others_is_a_lock_and_stays_as_it_is(directory: LogDirectory, content: bytes) -> None:
    (directory.path / FOLLOWING).mkdir(parents=True)
    path = directory.path / FOLLOWING / "a.lock"
    path.write_bytes(content)
    first, second = FollowerLocks(directory, ["a"]), FollowerLocks(directory, ["a"])

    assert (first.take(), second.take()) == ([], ["a"])

    first.release()
    assert path.read_bytes() == content


def test_what_another_program_deleted_is_not_in_place_and_taken_again(directory: LogDirectory) -> None:
    first, second = FollowerLocks(directory, ["a"]), FollowerLocks(directory, ["a"])
    first.take()
    path = directory.path / FOLLOWING / "a.lock"
    path.unlink()
    assert not first.are_in_place()

    assert second.take() == []
    assert first.take() == ["a"]

    # Not ours any more, so not deleted by us.
    assert path.exists()
    second.release()


def test_a_link_in_the_place_of_the_folder_is_refused(directory: LogDirectory, tmp_path: Path) -> None:
    directory.path.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (directory.path / FOLLOWING).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="link"):
        FollowerLocks(directory, ["a"]).take()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_where_the_second_is_refused_the_first_is_given_back(
    directory: LogDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory.path / FOLLOWING / "b.lock").mkdir(parents=True)

    with pytest.raises(OSError):  # noqa: PT011 - which one, the system says
        FollowerLocks(directory, ["a", "b"]).take()

    assert FollowerLocks(directory, ["a"]).take() == []


def test_on_a_full_disk_it_is_a_lock_all_the_same(directory: LogDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("eventrec.runs.follower_locks.write_all", refuse)
    first, second = FollowerLocks(directory, ["a"]), FollowerLocks(directory, ["a"])

    assert (first.take(), second.take()) == ([], ["a"])

    first.release()
    assert list(directory.path.iterdir()) == []


def test_where_its_file_cannot_be_asked_nothing_stays_locked(
    directory: LogDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(5, "input/output error")

    first = FollowerLocks(directory, ["a"])
    with monkeypatch.context() as patch:
        patch.setattr(DiskStorage, "size", refuse)
        with pytest.raises(OSError, match="input/output"):
            first.take()

    assert first.take() == []
    monkeypatch.setattr(DiskStorage, "size", refuse)
    assert not first.are_in_place()


def test_the_child_of_a_fork_leaves_it_to_its_owner(directory: LogDirectory, tmp_path: Path) -> None:
    first = FollowerLocks(directory, ["a"])
    first.take()

    first.abandon()

    # In one process the descriptor was the lock; a child has another one of the same.
    assert not first.are_in_place()
    assert (directory.path / FOLLOWING / "a.lock").exists()
