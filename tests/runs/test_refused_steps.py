"""A run whose making the system refuses at any step is made by the next try, under the same id, and nothing is left."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from eventrec.errors import LogError
from eventrec.log import descriptors, disk
from eventrec.log.disk import DiskStorage
from eventrec.log.reader import LogReader
from eventrec.log.segment import list_segments
from eventrec.runs.checkpoint import CHECKPOINTS
from eventrec.runs.directory import GONE, LOCK, NEW
from eventrec.runs.own_log import OwnLog
from eventrec.runs.run import Run, new_run_id

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the sticky bit")

TAKES_A_DESCRIPTOR = ("open", "scandir")
CALLS = (
    *TAKES_A_DESCRIPTOR,
    *("mkdir", "rmdir", "stat", "fstat", "chmod", "fchmod", "rename", "replace", "unlink", "fsync", "fdatasync"),
)


class RefusingSystem:
    """`os`, of which call number `first`, and with `lasts` all that follow, end with the error `number`."""

    def __init__(self, number: int, *, first: int, lasts: bool) -> None:
        self._number = number
        self._left = first
        self._lasts = lasts
        self.has_refused = False
        for name in TAKES_A_DESCRIPTOR if number == errno.EMFILE else CALLS:
            setattr(self, name, self.refusing(getattr(os, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def refusing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == 0 or (self._left < 0 and self._lasts):
                self.has_refused = True
                raise OSError(self._number, os.strerror(self._number))
            return call(*args, **options)

        return attempt


@contextmanager
def refusing(number: int, *, first: int, lasts: bool) -> Iterator[RefusingSystem]:
    system = RefusingSystem(number, first=first, lasts=lasts)
    with pytest.MonkeyPatch.context() as patch:
        for module in (disk, descriptors):
            patch.setattr(module, "os", system)
        if number != errno.EMFILE:
            patch.setattr(descriptors, "_pwrite", system.refusing(os.pwrite))
            patch.setattr(descriptors, "lock", system.refusing(descriptors.lock))
        yield system


def open_files(directory: Path) -> list[str]:
    """What of `directory` this process has open. Other descriptors may come and go, with garbage of other tests."""
    if sys.platform != "linux":
        return []
    links = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one with which it is listed
            links.append(str(each.readlink()))
    return sorted(link for link in links if link.startswith(str(directory)))


def is_refused(work: Callable[[], object], number: int, *, step: int, lasts: bool) -> bool:
    """Whether `work` makes so many system calls; that one is refused, and with `lasts` each one after it."""
    with refusing(number, first=step, lasts=lasts) as system, suppress(OSError, LogError):
        work()
    return system.has_refused


def make(directory: Path, id_: UUID, made: list[Run]) -> None:
    made.append(Run.create(directory, id_))


REFUSALS = [errno.EMFILE, errno.ENOSPC, errno.EACCES, errno.EIO]
LASTS = pytest.mark.parametrize("lasts", [False, True], ids=["once", "until it passes"])


@LASTS
@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_a_run_is_made_by_the_next_try_wherever_the_system_refused_it(
    tmp_path: Path, number: int, *, lasts: bool
) -> None:
    directory = tmp_path / "log"
    for step in count(1):
        id_, made = new_run_id(), list[Run]()
        before = open_files(directory)
        if not is_refused(partial(make, directory, id_, made), number, step=step, lasts=lasts):
            break
        if not made:
            if open_files(directory) != before:
                gc.collect()  # at each step, it would take most of the time
            assert open_files(directory) == before, step
            assert list(directory.glob("*")) == [] or (lasts and number != errno.EMFILE), step
            made.append(Run.create(directory, id_))

        made[0].retire()

        assert list(directory.iterdir()) == [], step
        shutil.rmtree(directory)
    made[0].release()
    assert step > 3


@LASTS
@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_a_log_of_one_id_is_made_by_the_next_try_wherever_the_system_refused_it(
    tmp_path: Path, number: int, *, lasts: bool
) -> None:
    id_ = new_run_id()
    for step in count(1):
        own = OwnLog(tmp_path, lambda: id_, on_gone=lambda *_: None)
        goes_on = is_refused(partial(own.make, first=7), number, step=step, lasts=lasts)

        run, log = own.make(first=7)

        assert [path.name for path in tmp_path.iterdir()] == [str(id_)], step
        assert list_segments(run.storage) == [7], step
        log.append([b"record"])
        own.let_go()
        assert [commit.n for commit in LogReader(DiskStorage(run.path)).commits()] == [1]
        adopted = Run.adopt(tmp_path, id_)
        assert adopted is not None
        adopted.retire()
        assert list(tmp_path.iterdir()) == [], step
        if not goes_on:
            break
    assert step > 6


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("00000000000000000000.stdb.log", b"a header, and more"),
        (f"{CHECKPOINTS}/postgres.json", b"{}"),
        ("00000000000000000000.8.gap", b"x"),
        ("notes.txt", b""),
    ],
)
def test_a_run_of_the_same_id_that_holds_anything_stays(tmp_path: Path, name: str, content: bytes) -> None:
    run = Run.create(tmp_path, new_run_id())
    (run.path / name).write_bytes(content)
    run.release()

    with pytest.raises(FileExistsError):
        Run.create(tmp_path, run.id)

    assert (run.path / name).read_bytes() == content
    assert (run.path / LOCK).is_file()


@pytest.mark.parametrize("prefix", [NEW, GONE, ""])
def test_a_run_of_the_same_id_that_a_process_holds_stays(tmp_path: Path, prefix: str) -> None:
    run = Run.create(tmp_path, new_run_id())
    held = run.path.rename(tmp_path / f"{prefix}{run.id}")

    with suppress(OSError):  # Where only what comes later has that name, it is made.
        Run.create(tmp_path, run.id).retire()

    assert (held / LOCK).is_file()
    run.release()


def test_a_folder_of_others_under_the_same_id_stays(tmp_path: Path) -> None:
    id_ = new_run_id()
    (tmp_path / str(id_)).mkdir()

    with pytest.raises(FileExistsError):
        Run.create(tmp_path, id_)

    assert [path.name for path in tmp_path.iterdir()] == [str(id_)]
