"""A process that dies at any step of making or deleting a run leaves nothing that stays for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eventrec.log.disk import DiskStorage
from eventrec.runs.directory import LOCK, NEW, LogDirectory, mark_of
from eventrec.runs.leftovers import sweep
from eventrec.runs.run import Run, new_run_id

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="os.fork, and the sticky bit")

PROGRAM = Path(__file__).with_name("dying_runs.py")


@pytest.mark.parametrize("what", ["make", "delete"])
def test_a_process_that_dies_at_any_system_call_leaves_nothing_for_ever(tmp_path: Path, what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM, tmp_path, what], capture_output=True, check=False, text=True
    )

    assert done.stderr == ""
    assert int(done.stdout) > 10


def half_made(directory: Path, *, held: bytes | None, mode: int = 0o1700) -> Path:
    id_ = new_run_id()
    path = directory / f"{NEW}{id_}"
    path.mkdir()
    if held is not None:
        (path / LOCK).write_bytes(held or mark_of(id_)[:7])
    path.chmod(mode)
    os.utime(path, (1, 1))
    return path


def test_one_without_our_mark_stays_unless_it_was_made_as_we_make_them(tmp_path: Path) -> None:
    others = [
        half_made(tmp_path, held=None, mode=0o700),
        half_made(tmp_path, held=b"mine"),
        half_made(tmp_path, held=None) / "photo.jpg",
    ]
    others[-1].write_text("fish")
    os.utime(others[-1].parent, (1, 1))
    half_made(tmp_path, held=None)
    half_made(tmp_path, held=b"")

    assert sweep(tmp_path) == 2

    assert all(path.exists() for path in others)
    assert len(list(tmp_path.iterdir())) == len(others)


def test_one_that_a_living_process_is_making_stays(tmp_path: Path) -> None:
    path = half_made(tmp_path, held=b"")
    storage = LogDirectory(tmp_path).opened().folder(path.name)
    lock = storage.lock(LOCK)

    assert sweep(tmp_path) == 0

    lock.release()
    storage.close()
    assert sweep(tmp_path) == 1


def test_what_is_made_is_private_and_not_marked_as_unfinished(tmp_path: Path) -> None:
    run = Run.create(tmp_path, new_run_id())

    assert run.path.stat().st_mode & 0o7777 == 0o700
    run.release()


def test_one_whose_age_cannot_be_seen_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = half_made(tmp_path, held=b"")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(DiskStorage, "folder", refuse)
        assert sweep(tmp_path) == 0
    assert half.is_dir()

    assert sweep(tmp_path) == 1
