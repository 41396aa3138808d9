"""One log per run: the lock says who owns it, and nobody else's is ever touched."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eventrec.errors import LogLockedError
from eventrec.log import descriptors, disk
from eventrec.log.log import Log
from eventrec.runs.checkpoint import CHECKPOINTS
from eventrec.runs.directory import LOCK, list_runs
from eventrec.runs.done import delete_done
from eventrec.runs.leftovers import sweep
from eventrec.runs.run import Run, new_run_id
from eventrec.runs.run_folder import is_locked


def test_ids_sort_by_age_and_are_version_7(monkeypatch: pytest.MonkeyPatch) -> None:
    one_after_another = [new_run_id() for _ in range(1_000)]
    moments = iter(range(1_700_000_000_000_000_000, 1_700_000_000_003_000_000, 245))
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    within_three_milliseconds = [new_run_id() for _ in range(3_000_000 // 245)]

    assert one_after_another == sorted(set(one_after_another))
    assert within_three_milliseconds == sorted(set(within_three_milliseconds))
    assert {(id_.version, id_.variant) for id_ in one_after_another} == {(7, "specified in RFC 4122")}


def test_a_run_is_born_locked_under_its_id(tmp_path: Path) -> None:
    id_ = new_run_id()

    run = Run.create(tmp_path / "deep" / "log", id_)

    assert list_runs(tmp_path / "deep" / "log") == [id_]
    assert is_locked(tmp_path / "deep" / "log", id_)
    assert (run.path / CHECKPOINTS).is_dir()
    run.release()
    assert not is_locked(tmp_path / "deep" / "log", id_)


@pytest.mark.parametrize("is_lock_deleted", [False, True])
def test_a_run_is_found_again_where_the_system_takes_its_mark_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_lock_deleted: bool
) -> None:
    write = descriptors._pwrite
    monkeypatch.setattr(descriptors, "_pwrite", lambda fd, piece, position: write(fd, piece[:7], position))
    run = Run.create(tmp_path, new_run_id())
    if is_lock_deleted:
        (run.path / LOCK).unlink()
        assert run.restore_lock()
    run.release()

    adopted = Run.adopt(tmp_path, run.id)

    assert adopted is not None
    adopted.retire()
    assert list(tmp_path.iterdir()) == []


def test_only_orphans_are_adopted_and_they_are_listed_oldest_first(tmp_path: Path) -> None:
    runs = []
    for _ in range(4):
        runs.append(Run.create(tmp_path, new_run_id()))
        time.sleep(0.002)
    for run in runs[:3]:
        run.release()

    adopted = [found for id_ in list_runs(tmp_path) if (found := Run.adopt(tmp_path, id_)) is not None]

    assert [run.id for run in adopted] == [run.id for run in runs[:3]]
    assert [Run.adopt(tmp_path, run.id) for run in runs] == [None] * 4
    for run in [runs[3], *adopted]:
        run.release()


def failing(call: Callable[..., object], name: str, number: int) -> Callable[..., object]:
    """`call`, which the system refuses where it is about `name`."""

    def attempt(path: str | Path, *args: object, **options: object) -> object:
        if Path(path).name == name:
            raise OSError(number, os.strerror(number))
        return call(path, *args, **options)

    return attempt


class OddSystem:
    """`os`, with some calls replaced."""

    def __init__(self, **calls: Callable[..., object]) -> None:
        vars(self).update(calls)

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("what", ["directory", "lock", "state of the lock", "segment"])
def test_a_run_that_the_system_does_not_show_now_is_not_taken_for_gone(
    what: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path, new_run_id())
    with Log.create(run.storage) as log:
        log.append([run.id.bytes])
    run.release()
    segment = next(run.path.glob("*.stdb.log")).name
    if what == "segment":
        (run.path / LOCK).write_bytes(b"\xff")
    calls = {
        "directory": {"open": failing(os.open, str(run.id), number)},
        "lock": {"open": failing(os.open, LOCK, number)},
        "state of the lock": {"stat": failing(os.stat, LOCK, number)},
        "segment": {"open": failing(os.open, segment, number)},
    }

    with monkeypatch.context() as patch:
        for module in (disk, descriptors):
            patch.setattr(module, "os", OddSystem(**calls[what]))
        assert Run.try_adopt(tmp_path, run.id) == "held"

    adopted = Run.try_adopt(tmp_path, run.id)
    assert isinstance(adopted, Run), "nothing keeps its lock"
    adopted.release()


def test_a_run_that_cannot_be_made_keeps_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    id_, before = new_run_id(), count()
    refused = failing(os.rename, "", errno.EIO)
    monkeypatch.setattr(disk, "os", OddSystem(rename=lambda *_, **__: refused("")))

    with pytest.raises(OSError, match="Input/output"):
        Run.create(tmp_path, id_)

    assert count() <= before


def test_a_retired_run_is_gone_and_its_lock_with_it(tmp_path: Path) -> None:
    run = Run.create(tmp_path, new_run_id())

    run.retire()
    run.release()

    assert list(tmp_path.iterdir()) == []
    assert Run.adopt(tmp_path, run.id) is None


def half_made(directory: Path) -> Path:
    """What a process leaves that is killed before its log has its name."""
    run = Run.create(directory, new_run_id())
    run.release()
    return run.path.rename(directory / f".new-{run.id}")


def test_leftovers_are_swept_but_never_those_of_the_living(tmp_path: Path) -> None:
    living, dead, gone = (Run.create(tmp_path, new_run_id()) for _ in range(3))
    dead.release()
    gone.path.rename(tmp_path / f"gone-{gone.id}")
    fresh, old = (half_made(tmp_path) for _ in range(2))
    os.utime(old, (1, 1))

    assert sweep(tmp_path) == 1
    gone.release()
    assert sweep(tmp_path) == 1

    left = {path.name for path in tmp_path.iterdir()}
    assert left == {str(living.id), str(dead.id), fresh.name}
    living.release()


def test_a_directory_that_is_not_there_has_no_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "no") == []
    assert sweep(tmp_path / "no") == 0
    assert not is_locked(tmp_path / "no", new_run_id())
    assert Run.adopt(tmp_path / "no", new_run_id()) is None


@pytest.mark.skipif(sys.platform == "win32", reason="os.fork")
def test_the_end_of_a_process_makes_an_orphan_and_a_forked_child_keeps_nothing(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from eventrec.runs.run import Run, new_run_id
from eventrec.runs.run_folder import is_locked
run = Run.create(Path(sys.argv[1]), new_run_id())
if os.fork() == 0:
    run.forget()
    os._exit(0 if is_locked(Path(sys.argv[1]), run.id) else 1)
code = os.waitstatus_to_exitcode(os.wait()[1])
os._exit(0 if code == 0 and is_locked(Path(sys.argv[1]), run.id) else 1)
"""

    assert subprocess.run([sys.executable, "-c", program, tmp_path], check=False).returncode == 0

    (id_,) = list_runs(tmp_path)
    assert not is_locked(tmp_path, id_)


def test_a_run_says_which_it_is_and_where(tmp_path: Path) -> None:
    run = Run.create(tmp_path, new_run_id())

    assert repr(run) == f"<Run {run.id} in {tmp_path}>"
    run.release()


def test_a_file_system_without_locks_leaves_no_run_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise LogLockedError("locks do not work here")

    monkeypatch.setattr(disk.DiskStorage, "lock", refuse)

    with pytest.raises(LogLockedError):
        Run.create(tmp_path, new_run_id())

    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_lock_was_handed_on_is_made_again_with_one_of_its_own(tmp_path: Path) -> None:
    run = Run.create(tmp_path, new_run_id())
    lock = run.give_lock()
    assert lock is not None
    shutil.rmtree(run.path)

    run.make_again()

    assert (run.is_in_place(), run.incarnation, is_locked(tmp_path, run.id)) == (True, 2, True)
    run.release()
    lock.release()


def test_one_that_takes_the_place_of_a_run_while_it_is_locked_is_not_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path, new_run_id())
    run.release()
    real = disk.DiskStorage.lock

    def replaced_before(storage: disk.DiskStorage, name: str, **options: bool) -> object:
        run.path.rename(tmp_path / "elsewhere")
        run.path.mkdir()
        return real(storage, name, **options)

    with monkeypatch.context() as patch:
        patch.setattr(disk.DiskStorage, "lock", replaced_before)
        assert Run.try_adopt(tmp_path, run.id) == "gone"

    run.path.rmdir()
    (tmp_path / "elsewhere").rename(run.path)
    adopted = Run.adopt(tmp_path, run.id)
    assert adopted is not None, "nothing keeps its lock"
    delete_done(tmp_path, run.id)
    assert run.path.is_dir(), "another holds it"
    adopted.release()


def test_whether_a_run_is_locked_is_not_known_where_it_may_not_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path, new_run_id())

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(disk.DiskStorage, "is_locked", refuse)
        with pytest.raises(PermissionError):
            is_locked(tmp_path, run.id)
    run.release()


def test_an_empty_directory_that_the_system_does_not_remove_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path, new_run_id())
    real = disk.DiskStorage.remove_folder

    def refuse(storage: disk.DiskStorage, name: str) -> None:
        if storage.directory == tmp_path:
            raise OSError(errno.EBUSY, "Device or resource busy")
        real(storage, name)

    with monkeypatch.context() as patch:
        patch.setattr(disk.DiskStorage, "remove_folder", refuse)
        with pytest.raises(OSError, match="busy"):
            run.retire()

    assert sweep(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_another_process_removes_first_is_gone_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path, new_run_id())
    real = disk.DiskStorage.remove_folder

    def remove_twice(storage: disk.DiskStorage, name: str) -> None:
        real(storage, name)
        if storage.directory == tmp_path:
            real(storage, name)

    with monkeypatch.context() as patch:
        patch.setattr(disk.DiskStorage, "remove_folder", remove_twice)
        run.retire()

    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_gone_is_made_again_once_the_disk_lets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path, new_run_id())
    files = sorted(path.name for path in run.path.iterdir())
    assert not run.restore_lock()
    (run.path / LOCK).unlink()

    with monkeypatch.context() as patch:
        patch.setattr(type(run.storage), "replace", _refuse)
        with pytest.raises(OSError, match="Input/output error"):
            run.restore_lock()

    assert sorted(path.name for path in run.path.iterdir()) == [name for name in files if name != LOCK]
    assert run.restore_lock()
    assert sorted(path.name for path in run.path.iterdir()) == files
    assert is_locked(tmp_path, run.id)
    run.release()


def _refuse(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")
