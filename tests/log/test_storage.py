from __future__ import annotations

import errno
import fcntl
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from eventrec.errors import LogLockedError
from eventrec.log import descriptors
from eventrec.log.disk import DiskStorage
from eventrec.log.storage import Storage, write_all
from eventrec.testing.storage import FaultyStorage, MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["descriptor", "path", "memory", "faulty"])
def any_storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    if request.param == "path":
        # What a system without directory descriptors gives.
        monkeypatch.setattr("eventrec.log.disk._BY_DESCRIPTOR", False)
        for name in ("pread", "pwrite"):
            monkeypatch.setattr(descriptors, f"_{name}", getattr(descriptors, f"_seek_{name[1:]}"))
    made: Storage
    match request.param:
        case "memory":
            made = MemoryStorage()
        case "faulty":
            made = FaultyStorage()
        case _:
            made = DiskStorage(tmp_path / "a" / "b", create=True)
    yield made
    made.close()


def test_a_file_is_written_at_positions_and_read_back(any_storage: Storage) -> None:
    file = any_storage.open("f", "create")

    assert file.write(b"hello", 0) == 5
    assert file.write(b"!", 7) == 1
    file.sync()

    assert file.read(0, 99) == b"hello\0\0!"
    assert (file.read(3, 2), file.read(8, 1), file.size()) == (b"lo", b"", 8)
    file.truncate(2)
    assert any_storage.open("f", "read").read(0, 99) == b"he"
    file.truncate(4)
    assert (file.read(0, 99), any_storage.size("f").length) == (b"he\0\0", 4)
    assert any_storage.size("f").allocated % 512 == 0
    file.close()
    file.close()


def test_names_are_made_listed_replaced_and_deleted(any_storage: Storage) -> None:
    for name in ("a", "b"):
        write_all(any_storage.open(name, "create"), name.encode(), 0)

    any_storage.replace("a", "b")
    any_storage.sync_directory()

    assert any_storage.list() == ["b"]
    assert any_storage.open("b", "write").read(0, 9) == b"a"
    any_storage.delete("b")
    assert any_storage.list() == []


def test_what_is_not_there_is_said_so(any_storage: Storage) -> None:
    any_storage.open("there", "create").close()

    for missing in (
        lambda: any_storage.open("gone", "read"),
        lambda: any_storage.open("gone", "write"),
        lambda: any_storage.delete("gone"),
        lambda: any_storage.size("gone"),
    ):
        with pytest.raises(FileNotFoundError):
            missing()
    with pytest.raises(FileExistsError):
        any_storage.open("there", "create")


def test_a_lock_is_held_by_one_or_shared_by_many(any_storage: Storage) -> None:
    lock = any_storage.lock("l")

    for shared in (False, True):
        with pytest.raises(LogLockedError):
            any_storage.lock("l", shared=shared)
    lock.release()
    one, two = any_storage.lock("l", shared=True), any_storage.lock("l", shared=True)
    with pytest.raises(LogLockedError):
        any_storage.lock("l")
    one.release()
    two.release(delete=True)
    any_storage.lock("l").release(delete=True)

    assert any_storage.list() == []


def test_directories_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").touch()

    assert DiskStorage(tmp_path).list() == ["f"]


def test_a_directory_that_is_not_there_is_made_only_on_demand(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DiskStorage(tmp_path / "x")


def test_renaming_the_directory_does_not_matter(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path / "old", create=True)

    (tmp_path / "old").rename(tmp_path / "new")
    storage.open("f", "create").close()

    assert (tmp_path / "new" / "f").exists()
    assert "old" in repr(storage)
    storage.close()
    storage.close()


def test_a_closed_directory_is_never_reached_by_its_path(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    storage.open("f", "create").close()
    storage.close()
    storage.close()

    for use in (
        lambda: storage.open("f", "write"),
        lambda: storage.open("g", "create"),
        lambda: storage.lock("lock"),
        lambda: storage.delete("f"),
        lambda: storage.replace("f", "g"),
        lambda: storage.folder("d", create=True),
        storage.list,
        storage.sync_directory,
    ):
        with pytest.raises(OSError, match="Bad file descriptor"):
            use()
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_lock_taken_on_a_file_deleted_meanwhile_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = DiskStorage(tmp_path)
    locked: list[int] = []
    real = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        real(fd, operation)
        locked.append(fd)
        if len(locked) == 1:
            (tmp_path / "l").unlink()
        elif len(locked) == 2:
            (tmp_path / "l").rename(tmp_path / "other")
            (tmp_path / "l").touch()

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = storage.lock("l")

    assert len(locked) == 3
    with pytest.raises(LogLockedError):
        storage.lock("l")
    lock.release()


def test_a_lock_whose_file_cannot_be_deleted_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = DiskStorage(tmp_path)
    lock = storage.lock("l")
    monkeypatch.setattr(storage, "delete", lambda _: (_ for _ in ()).throw(PermissionError()))

    lock.release(delete=True)

    storage.lock("l").release()


def test_a_forked_child_that_forgets_a_lock_leaves_it_to_its_parent(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    lock = storage.lock("l")
    pid = os.fork()
    if not pid:
        lock.forget()
        os._exit(0)

    os.waitpid(pid, 0)

    with pytest.raises(LogLockedError):
        storage.lock("l")
    lock.release()


def test_forgetting_a_lock_closes_its_descriptor(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    lock = storage.lock("l")

    lock.forget()

    with pytest.raises(OSError, match="Bad file"):
        os.fstat(lock._fd)


def test_a_lock_in_memory_can_be_forgotten() -> None:
    storage = MemoryStorage()
    storage.lock("l").forget()

    with pytest.raises(LogLockedError):
        storage.lock("l")


def test_reading_goes_on_where_the_system_returns_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = DiskStorage(tmp_path)
    file = storage.open("f", "create")
    write_all(file, b"0123456789", 0)
    monkeypatch.setattr(descriptors, "_pread", lambda fd, size, position: os.pread(fd, min(3, size), position))

    assert (file.read(1, 7), file.read(5, 99)) == (b"1234567", b"56789")


def test_writing_all_goes_on_after_a_short_write() -> None:
    storage = FaultyStorage(max_per_write=3)

    end = write_all(storage.open("f", "create"), b"0123456789", 0)

    assert (end, storage.read("f"), storage.counts["write"]) == (10, b"0123456789", 4)


def test_a_disk_that_takes_nothing_is_an_error_and_no_loop() -> None:
    storage = FaultyStorage(max_per_write=0)

    with pytest.raises(OSError, match="took nothing"):
        write_all(storage.open("f", "create"), b"x", 0)


@pytest.mark.parametrize("expected", ["fdatasync", "fsync"])
def test_files_are_synced_by_fdatasync_where_there_is_one_and_directories_by_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: str
) -> None:
    called: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: called.append("fsync"))
    monkeypatch.setattr(os, "fdatasync", lambda _: called.append("fdatasync"))
    if expected == "fsync":
        monkeypatch.delattr(os, "fdatasync")
    storage = DiskStorage(tmp_path)

    storage.open("f", "create").sync()
    storage.sync_directory()

    assert called == [expected, "fsync"]


def test_macos_syncs_past_the_drives_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda _, operation: called.append(operation))

    DiskStorage(tmp_path).open("f", "create").sync()

    assert called == [51]


class _Msvcrt:
    LK_NBLCK, LK_UNLCK = 2, 0

    def __init__(self) -> None:
        self.called: list[tuple[int, int]] = []

    def locking(self, _: int, mode: int, size: int) -> None:
        self.called.append((mode, size))


def test_windows_locks_by_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _Msvcrt()
    monkeypatch.setattr(descriptors, "_fcntl", None)
    monkeypatch.setattr(descriptors, "_msvcrt", fake)

    DiskStorage(tmp_path).lock("l").release()

    assert fake.called == [(2, 1), (0, 1)]


def is_free(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


@pytest.mark.usefixtures("without_stdin")
def test_what_is_opened_to_be_read_leaves_the_number_of_a_standard_stream_free(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")

    with closing(DiskStorage(tmp_path)) as directory, closing(directory.open("f", "read")) as file:
        directory.entries()

        assert is_free(0)
        assert (file.read(0, 9), os.get_inheritable(file._fd)) == (b"x", False)


@pytest.mark.usefixtures("without_stdin")
@pytest.mark.parametrize("opened", ["create", "write", "lock"])
def test_what_is_written_has_the_number_of_a_standard_stream_at_no_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: str
) -> None:
    (tmp_path / "write").write_bytes(b"")
    real, given = os.open, []

    def noting(path: Any, flags: int, *args: Any, **options: Any) -> int:
        given.append((real(path, flags, *args, **options), path))
        return given[-1][0]

    assert os.open(os.devnull, os.O_RDONLY) == 0
    with closing(DiskStorage(tmp_path)) as directory:
        os.close(0)
        monkeypatch.setattr(os, "open", noting)
        if opened == "lock":
            directory.lock("lock").release()
        else:
            directory.open(opened, "create" if opened == "create" else "write").close()

    assert [number > 2 for number, path in given if path == opened] == [True]
    with pytest.raises(OSError, match="Bad file"):
        os.write(0, b"progress")


@pytest.mark.usefixtures("without_stdin")
def test_where_nothing_else_can_have_the_number_of_a_standard_stream_a_file_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "devnull", str(tmp_path / "no"))

    with closing(DiskStorage(tmp_path)) as directory, closing(directory.open("f", "create")):
        assert is_free(0)


@pytest.mark.usefixtures("without_stdin")
def test_what_cannot_be_given_another_number_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "fcntl", refuse)
        with pytest.raises(OSError, match="Too many"):
            DiskStorage(tmp_path)

    assert is_free(0)


@pytest.mark.usefixtures("without_stdin")
def test_a_system_without_fcntl_gives_out_no_such_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "_fcntl", None)

    with closing(DiskStorage(tmp_path)) as directory, closing(directory.open("f", "create")) as file:
        assert write_all(file, b"x", 0) == 1


def test_a_module_of_another_system_is_none() -> None:
    optional: Any = descriptors._optional

    assert optional("no_such_module") is None
    assert optional("sys") is sys


# -- the storage that fails ------------------------------------------------------------------------------------------


def test_a_power_cut_keeps_what_was_synced_and_loses_names_that_were_not() -> None:
    storage = FaultyStorage()
    file = storage.open("f", "create")
    file.write(b"abc", 0)
    file.sync()

    assert storage.crash(keep=0).list() == []
    storage.sync_directory()
    file.write(b"def", 3)

    assert storage.crash(keep=0).read("f") == b"abc"
    assert storage.crash(keep=1).read("f") == b"abcdef"


def test_a_power_cut_may_reorder_sectors_lengths_cuts_and_names() -> None:
    storage = FaultyStorage(seed=1)
    file = storage.open("f", "create")
    storage.sync_directory()
    file.write(b"a" * 1024, 0)
    file.truncate(700)
    storage.open("g", "create")
    storage.delete("g")
    storage.replace("f", "h")

    seen = {
        (tuple(sorted(after.list())), *(after.read(n) for n in after.list())) for after in map(_cut, [storage] * 99)
    }

    contents = {content for _, *rest in seen for content in rest}
    assert {b"a" * 1024, bytes(512) + b"a" * 512, b"a" * 512 + bytes(512), bytes(1024), b"", b"a" * 700} <= contents
    assert {("f",), ("h",), ("f", "g"), ("g", "h")} == {names for names, *_ in seen}


def _cut(storage: FaultyStorage) -> FaultyStorage:
    return storage.crash()


def test_after_a_failed_sync_later_ones_say_nothing_about_the_bytes() -> None:
    for seed in range(20):
        storage = FaultyStorage(seed)
        file = storage.open("f", "create")
        storage.sync_directory()
        file.write(b"x", 0)
        storage.fail("sync")
        with pytest.raises(OSError, match="Input/output"):
            file.sync()
        file.sync()
        if storage.crash(keep=1).read("f") != b"x":
            break
    else:
        pytest.fail("twenty failed syncs, and every byte was on the disk")

    assert file.read(0, 1) == b"x"
    storage.evict()
    assert file.read(0, 1) != b"x"


def test_a_kill_leaves_the_page_cache_the_bad_disk_and_no_lock() -> None:
    storage = FaultyStorage()
    file = storage.open("f", "create")
    file.write(b"a", 0)
    storage.lock("l")
    storage.fail("sync")
    storage.kill_in(1)

    storage.size("f")
    file.write(b"b", 1)
    left = storage.wreck

    assert left is not None
    assert left.read("f") == b"a"
    left.lock("l")
    with pytest.raises(OSError, match="Input/output"):
        left.open("f", "write").sync()
    assert left.crash(keep=0).list() == []


def test_a_file_whose_sync_failed_is_on_the_disk_once_it_is_written_again() -> None:
    for seed in range(20):
        storage = FaultyStorage(seed)
        file = storage.open("f", "create")
        storage.sync_directory()
        file.write(b"x", 0)
        storage.fail("sync")
        with pytest.raises(OSError, match="Input/output"):
            file.sync()

        file.write(b"x", 0)
        storage.evict()
        file.sync()

        assert storage.crash(keep=0).read("f") == b"x"


def test_a_full_disk_cuts_a_write_short_first() -> None:
    storage = FaultyStorage(capacity=5)
    file = storage.open("f", "create")

    assert (file.write(b"abc", 0), file.write(b"defg", 3)) == (3, 2)
    with pytest.raises(OSError, match="No space") as caught:
        file.write(b"g", 5)

    assert caught.value.errno == errno.ENOSPC
    assert file.write(b"x", 0) == 1
    storage.heal()
    assert file.write(b"fg", 5) == 2
    assert repr(storage) == "<FaultyStorage 1 files>"


def test_evicting_keeps_what_is_not_yet_written_back() -> None:
    storage = FaultyStorage()
    file = storage.open("f", "create")
    file.write(b"x", 0)

    storage.evict()

    assert file.read(0, 1) == b"x"


def test_faults_come_after_a_number_of_calls_and_go() -> None:
    storage = FaultyStorage()
    storage.fail("list", after=1, times=2)

    outcomes = []
    for _ in range(4):
        try:
            storage.list()
            outcomes.append("ok")
        except OSError:
            outcomes.append("error")

    assert outcomes == ["ok", "error", "error", "ok"]


def test_threads_that_list_at_once_all_see_every_file(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    names = {f"{number:020d}.stdb.log" for number in range(500)}
    for name in names:
        (tmp_path / name).touch()

    def see(_: int) -> bool:
        return all(set(storage.list()) == names for _ in range(50))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(see, range(4)))


# -- the directory itself


def test_without_descriptors_a_directory_is_listed_measured_and_never_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.log.disk._BY_DESCRIPTOR", False)
    storage = DiskStorage(tmp_path)
    (tmp_path / "f").touch()
    (tmp_path / "d").mkdir()
    mode = tmp_path.stat().st_mode

    storage.note_unfinished(is_unfinished=True)
    free, capacity = storage.space()

    assert storage.room()[1] == math.inf
    assert storage.has_room(size=1, files=1 << 40)
    assert sorted(entry.name for entry in storage.entries()) == ["d", "f"]
    assert storage.list() == ["f"]
    assert 0 < free <= capacity
    assert tmp_path.stat().st_mode == mode


def test_a_directory_that_is_closed_is_not_there_and_whether_it_is_in_place_cannot_be_told(tmp_path: Path) -> None:
    parent = DiskStorage(tmp_path / "parent", create=True)
    child = parent.folder("d", create=True)
    assert (child.is_there(), child.is_in_place(), parent.is_in_place()) == (True, True, True)

    child.close()
    parent.close()

    assert (child.is_there(), child.is_in_place(), parent.is_in_place()) == (False, True, True)
    (tmp_path / "parent").rename(tmp_path / "moved")
    assert not parent.is_in_place()


def test_what_is_not_a_directory_is_not_opened_as_one(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "l").symlink_to(tmp_path)

    for name in ("f", "l"):
        with pytest.raises(NotADirectoryError):
            DiskStorage(tmp_path).folder(name)
    with pytest.raises(FileNotFoundError):
        DiskStorage(tmp_path).folder("gone")


def test_a_link_in_the_place_of_a_directory_is_said_to_be_one_where_the_system_names_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loop(*_: object, **__: object) -> int:
        raise OSError(errno.ELOOP, "Too many levels of symbolic links", "l")

    storage = DiskStorage(tmp_path)
    monkeypatch.setattr(os, "open", loop)

    with pytest.raises(NotADirectoryError, match="a link"):
        storage.folder("l")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be led to write another user's file")
def test_root_writes_no_file_of_another_user_that_has_two_names(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    storage.open("f", "create").close()
    os.chown(tmp_path / "f", 12_345, -1)
    storage.open("f", "write").close()
    os.link(tmp_path / "f", tmp_path / "elsewhere")

    with pytest.raises(PermissionError, match="under two names"):
        storage.open("f", "write")

    storage.open("f", "read").close()


def test_a_child_of_a_fork_closes_no_descriptor_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = DiskStorage(tmp_path)
    monkeypatch.setattr(storage, "_process", -1)

    storage.__del__()

    assert storage.is_there()
