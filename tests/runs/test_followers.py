"""The subscriptions for which live logs are followed, as the directory remembers them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from eventrec.log.disk import DiskStorage
from eventrec.runs.directory import LogDirectory
from eventrec.runs.follower_locks import FollowerLocks
from eventrec.runs.followers import FOLLOWING, Follower, Followers
from eventrec.runs.run import new_run_id
from eventrec.runs.survey import list_foreign

LONG = "a/" * 200


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / FOLLOWING).iterdir())


def test_what_is_remembered_is_found_until_it_is_forgotten(tmp_path: Path) -> None:
    followers, first = Followers(tmp_path), new_run_id()
    assert (followers.by_file(), followers.is_remembered("a"), followers.forget("a")) == ({}, False, False)

    followers.remember("a", first)
    followers.remember("a", new_run_id())
    followers.remember(LONG, first)

    assert (followers.since("a"), followers.since(LONG), followers.since("b")) == (first, first, None)
    assert followers.by_file()["a.json"] == Follower(
        name="a", is_remembered=True, is_alive=False, since=first, pid=None
    )
    assert sorted(followers.names().values()) == sorted(["a", LONG])
    assert stat.S_IMODE((tmp_path / FOLLOWING / "a.subscription").stat().st_mode) == 0o600
    assert list_foreign(tmp_path) == []
    assert repr(followers) == f"<Followers of {tmp_path}>"

    assert followers.forget("a")
    assert not followers.forget("a")
    assert followers.forget(LONG)
    assert not (tmp_path / FOLLOWING).exists()


def test_a_stray_file_is_named_in_text_that_can_be_encoded(tmp_path: Path) -> None:
    followers = Followers(tmp_path)
    followers.remember("a", new_run_id())
    (tmp_path / FOLLOWING / "caf\udce9.subscription").write_bytes(b"of an operator")

    assert sorted(followers.names().values()) == ["a", r"caf\udce9"]


def test_a_process_that_follows_is_named(tmp_path: Path) -> None:
    followers = Followers(tmp_path)
    followers.remember("a", new_run_id())
    locks = FollowerLocks(LogDirectory(tmp_path), ["a", "b"])
    assert locks.take() == []

    found = followers.by_file()

    assert {each.name: (each.is_remembered, each.is_alive, each.pid) for each in found.values()} == {
        "a": (True, True, os.getpid()),
        "b": (False, True, os.getpid()),
    }
    assert locks.holders(["a", "c"]) == {"a": os.getpid(), "c": None}
    (tmp_path / FOLLOWING / "a.lock").write_bytes(b"eventrec following 1 pid \xff")
    (tmp_path / FOLLOWING / "b.lock").write_bytes(b"other people's pid 12")
    assert locks.holders(["a", "b"]) == {"a": None, "b": None}
    locks.release()
    assert files(tmp_path) == ["a.subscription", "b.lock"]


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b'{"subscription":"other","since":"x"}'])
def test_one_that_cannot_be_read_holds_by_its_name(tmp_path: Path, content: bytes) -> None:
    followers = Followers(tmp_path)
    followers.remember("a.b", new_run_id())
    (path,) = (tmp_path / FOLLOWING).iterdir()
    path.write_bytes(content)

    assert followers.names() == {"a%2Eb.json": "a.b"}
    assert followers.is_remembered("a.b")
    assert followers.since("a.b") is None

    followers.remember("a.b", new_run_id())
    assert path.read_bytes() == content
    assert followers.forget("a.b")


def test_files_of_others_and_of_other_kinds_are_not_subscriptions(tmp_path: Path) -> None:
    folder = tmp_path / FOLLOWING
    folder.mkdir()
    (folder / "a.subscription").mkdir()
    (folder / "b.subscription.tmp").touch()
    (folder / ".subscription").touch()
    (folder / "notes").touch()
    (folder / "c.subscription").symlink_to(folder / "notes")

    assert Followers(tmp_path).names() == {}


def test_where_it_cannot_be_told_that_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    followers = Followers(tmp_path)
    followers.remember("a", new_run_id())

    def refuse(*_: object, **__: object) -> DiskStorage:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(DiskStorage, "folder", refuse)
    assert followers.since("a") is None
    for ask in (followers.names, lambda: followers.is_remembered("a"), lambda: followers.forget("a")):
        with pytest.raises(OSError, match="too many"):
            ask()
