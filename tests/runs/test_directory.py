"""Whose is what in a log directory: nothing without our mark is changed, followed, locked or counted."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from eventrec.log.log import Log
from eventrec.log.segment import encode_header, segment_name
from eventrec.runs.checkpoint import CHECKPOINTS
from eventrec.runs.directory import DEAD, DONE, LOCK, LogDirectory, list_runs, mark_of
from eventrec.runs.done import delete_done, take_up_done
from eventrec.runs.leftovers import sweep
from eventrec.runs.requests import REQUESTS
from eventrec.runs.run import Run, new_run_id
from eventrec.runs.run_folder import is_locked
from eventrec.runs.survey import list_foreign, see, see_all, tree_size

OLD = (1.0, 1.0)


def picture(directory: Path) -> dict[str, tuple[int, str]]:
    """Every name below, with its mode and the hash of what it holds."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_symlink():
            held = f"-> {path.readlink()}"
        elif path.is_file():
            held = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            held = "directory"
        found[str(path.relative_to(directory))] = (path.lstat().st_mode, held)
    return found


def everything(directory: Path) -> None:
    """All that a recorder and the commands do to a directory, on their own."""
    sweep(directory)
    for id_ in list_runs(directory):
        if (run := Run.adopt(directory, id_)) is not None:
            run.retire()
    take_up_done(directory)
    for id_ in list_runs(directory / DONE):
        delete_done(directory / DONE, id_)
    see_all(directory)
    tree_size(directory)


def folder(at: Path, **files: str) -> Path:
    at.mkdir(parents=True)
    for name, held in files.items():
        (at / name.replace("__", ".")).write_text(held)
    return at


def uuid_with_checkpoints(at: Path) -> None:
    folder(at / str(uuid4()) / CHECKPOINTS, epoch1__pt="weights")


def uuid_with_a_lock(at: Path) -> None:
    folder(at / str(new_run_id()), lock="mine", model__bin="weights")


def uuid_with_an_empty_lock(at: Path) -> None:
    folder(at / str(new_run_id()), lock="", model__bin="weights")


def marked_for_another_id(at: Path) -> None:
    folder(at / str(new_run_id()), lock=mark_of(new_run_id()).decode(), model__bin="weights")


def gone_by_name(at: Path) -> None:
    folder(at / "gone-fishing", photo__jpg="fish", lock="")
    folder(at / f"gone-{uuid4()}", photo__jpg="fish", lock="")


def new_by_name(at: Path) -> None:
    for name in (".new-album", f".new-{uuid4()}"):
        os.utime(folder(at / name, photo__jpg="fish"), OLD)


def bare_uuid(at: Path) -> None:
    folder(at / str(uuid4()))
    folder(at / "done" / str(uuid4()), model__bin="weights")


def odd_spelling(at: Path) -> None:
    for name in (str(uuid4()).upper(), uuid4().hex, f"{{{uuid4()}}}"):
        folder(at / name, lock=mark_of(UUID(name)).decode(), model__bin="weights")


def linked_run(at: Path) -> None:
    id_ = new_run_id()
    target = folder(at / "elsewhere", lock=mark_of(id_).decode(), model__bin="weights")
    (at / str(id_)).symlink_to(target)
    (at / f"gone-{id_}").symlink_to(target)


def linked_lock(at: Path) -> None:
    id_ = new_run_id()
    (at / "target").write_bytes(mark_of(id_))
    (folder(at / str(id_), model__bin="weights") / LOCK).symlink_to(at / "target")


def linked_rooms(at: Path) -> None:
    for name in (DONE, DEAD, REQUESTS):
        target = folder(at / f"my-{name}", a__json="mine")
        os.utime(target / "a.json", OLD)
        (at / name).symlink_to(target)


def files_in_the_way(at: Path) -> None:
    for name in (DONE, DEAD, REQUESTS, "others", str(uuid4()), f"gone-{uuid4()}"):
        (at / name).write_text("mine")


def pipes_in_the_way(at: Path) -> None:
    os.mkfifo(folder(at / str(new_run_id())) / LOCK)
    os.mkfifo(at / DONE)


FOREIGN: list[Callable[[Path], None]] = [
    uuid_with_checkpoints,
    uuid_with_a_lock,
    uuid_with_an_empty_lock,
    marked_for_another_id,
    gone_by_name,
    new_by_name,
    bare_uuid,
    odd_spelling,
    linked_run,
    linked_lock,
    linked_rooms,
    files_in_the_way,
    pipes_in_the_way,
]


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
def test_what_is_not_ours_is_left_and_not_counted(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    before = picture(tmp_path)

    everything(tmp_path)

    assert picture(tmp_path) == before
    assert list_runs(tmp_path) == see_all(tmp_path) == []
    assert tree_size(tmp_path) == 0


def test_what_is_not_ours_is_named(tmp_path: Path) -> None:
    run = Run.create(tmp_path, new_run_id())
    gone_by_name(tmp_path)
    (tmp_path / DONE).mkdir()

    assert [name for name in list_foreign(tmp_path) if "fishing" in name] == ["gone-fishing"]
    assert not {str(run.id), DONE} & {*list_foreign(tmp_path)}
    run.release()


def test_files_of_others_in_a_run_of_ours_outlive_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    folder(outside, precious="mine")
    run = Run.create(tmp_path / "log", new_run_id())
    Log.create(run.storage).close()
    (run.path / "notes.txt").write_text("mine")
    (run.path / CHECKPOINTS / "epoch1.pt").write_text("mine")
    (run.path / "0000.stdb.log").symlink_to(outside / "precious")
    (run.path / "sub").symlink_to(outside)

    run.retire()

    gone = tmp_path / "log" / f"gone-{run.id}"
    left = set(picture(gone))
    assert left == {"notes.txt", CHECKPOINTS, f"{CHECKPOINTS}/epoch1.pt", "0000.stdb.log", "sub"}
    before = picture(tmp_path)
    everything(tmp_path / "log")
    assert picture(tmp_path) == before


def test_a_link_put_in_the_place_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    outside = folder(tmp_path / "outside", a__json="mine")
    run = Run.create(tmp_path / "log", new_run_id())
    (run.path / CHECKPOINTS).rmdir()
    (run.path / CHECKPOINTS).symlink_to(outside)

    run.retire()

    assert picture(outside) == {"a.json": ((outside / "a.json").stat().st_mode, picture(outside)["a.json"][1])}
    assert (outside / "a.json").read_text() == "mine"


def test_a_log_of_before_the_mark_is_ours_by_the_id_in_its_commits(tmp_path: Path) -> None:
    run = Run.create(tmp_path, new_run_id())
    with Log.create(run.storage) as log:
        log.append_encoded(b"\x01\x92\x94\xc4\x10" + run.id.bytes + b"\x00", 1)
    run.release()
    for held in (b"", b"eventrec rum 1"):
        (run.path / LOCK).write_bytes(held)

        assert LogDirectory(tmp_path).runs() == [run.id]
        adopted = Run.adopt(tmp_path, run.id)
        assert adopted is not None
        adopted.release()


def test_a_directory_is_the_same_after_its_process_moved_and_its_parent_was_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    directory = LogDirectory("var/log")
    monkeypatch.chdir(tmp_path / "second")
    run = Run.create(directory, new_run_id())
    assert (tmp_path / "first" / "var" / "log" / str(run.id)).is_dir()

    (tmp_path / "first").rename(tmp_path / "third")

    assert run.is_in_place()
    assert directory.runs() == [run.id]
    other = Run.create(directory, new_run_id())
    assert (tmp_path / "third" / "var" / "log" / str(other.id)).is_dir()
    other.retire()
    run.retire()
    assert picture(tmp_path / "third" / "var" / "log") == {}
    assert not (tmp_path / "first").exists()


def test_a_link_that_points_elsewhere_later_changes_nothing(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "one")
    directory = LogDirectory(link)
    run = Run.create(directory, new_run_id())

    link.unlink()
    link.symlink_to(tmp_path / "two")

    assert run.is_in_place()
    run.retain()
    assert [path.name for path in (tmp_path / "one" / DONE).iterdir()] == [str(run.id)]
    assert take_up_done(directory) == 1
    assert picture(tmp_path / "two") == {}


def test_a_directory_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    directory = LogDirectory(tmp_path / "log")
    run = Run.create(directory, new_run_id())
    for path in sorted((tmp_path / "log").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "log").rmdir()

    assert not run.is_in_place()
    run.make_again()

    assert run.is_in_place()
    assert list_runs(tmp_path / "log") == [run.id]
    assert is_locked(tmp_path / "log", run.id)
    run.release()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_what_is_made_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        run = Run.create(tmp_path / "deep" / "log", new_run_id())
        with Log.create(run.storage) as log:
            log.append([b"a"])
    finally:
        os.umask(before)

    paths = [tmp_path / "deep", *(tmp_path / "deep").rglob("*")]
    assert {oct(path.stat().st_mode & 0o777) for path in paths if path.is_dir()} == {"0o700"}
    assert {oct(path.stat().st_mode & 0o777) for path in paths if path.is_file()} == {"0o600"}
    run.release()


def test_a_lock_that_others_could_read_is_private_once_we_hold_it(tmp_path: Path) -> None:
    run = Run.create(tmp_path, new_run_id())
    run.release()
    (run.path / LOCK).chmod(0o644)

    adopted = Run.adopt(tmp_path, run.id)

    assert adopted is not None
    assert (run.path / LOCK).stat().st_mode & 0o777 == 0o600
    adopted.release()


def test_looking_at_a_log_needs_no_right_to_write_and_takes_no_lock(tmp_path: Path) -> None:
    run = Run.create(tmp_path, new_run_id())
    seen = see(tmp_path, run.id)
    assert seen is not None
    assert seen.state == "held"
    run.release()
    for path in (run.path / LOCK, run.path / CHECKPOINTS, run.path):
        path.chmod(0o400 if path.is_file() else 0o500)
    before = picture(tmp_path)

    seen = see(tmp_path, run.id)

    assert seen is not None
    assert seen.state == "orphan"
    assert picture(tmp_path) == before


def test_of_a_log_that_may_not_be_opened_nobody_knows_whether_it_is_an_orphan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path, new_run_id())
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path in (str(run.id), LOCK):
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    (seen,) = see_all(tmp_path)
    monkeypatch.undo()

    assert seen.state == "unknown"
    assert not seen.is_held
    run.release()


def test_bytes_are_counted_in_runs_in_done_and_in_dead_letters(tmp_path: Path) -> None:
    runs = [Run.create(at, new_run_id()) for at in (tmp_path, tmp_path / DONE, tmp_path / DEAD)]
    for run in runs:
        (run.path / "00000000000000000000.stdb.log").write_bytes(bytes(1_000))
    uuid_with_checkpoints(tmp_path)
    (tmp_path / "film.mkv").write_bytes(bytes(100_000))

    assert tree_size(tmp_path) == 3 * (1_000 + len(mark_of(runs[0].id)))
    for run in runs:
        run.release()


def test_hole_in_a_file_takes_no_room_of_the_directory(tmp_path: Path) -> None:
    run = Run.create(tmp_path, new_run_id())
    with (run.path / segment_name(0)).open("wb") as file:
        file.write(encode_header())
        file.truncate(1 << 40)

    assert tree_size(tmp_path) < 1 << 30

    run.release()


def test_names_that_sort_by_age_are_given_in_that_order(tmp_path: Path) -> None:
    made = []
    for _ in range(3):
        made.append(Run.create(tmp_path, new_run_id()))
        time.sleep(0.002)

    assert list_runs(tmp_path) == [run.id for run in made]
    for run in made:
        run.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory away")
def test_root_believes_another_users_run_only_where_the_log_directory_is_that_users_too(tmp_path: Path) -> None:
    run = Run.create(tmp_path, new_run_id())
    run.release()
    (tmp_path / DONE).mkdir(0o700)
    believed = []

    os.chown(run.path, 12_345, -1)
    believed.append(LogDirectory(tmp_path).is_ours(run.id))
    os.chown(tmp_path, 12_345, -1)
    tmp_path.chmod(0o777)
    believed.append(LogDirectory(tmp_path).is_ours(run.id))
    tmp_path.chmod(0o755)
    believed.append(LogDirectory(tmp_path).is_ours(run.id))
    run.path.rename(tmp_path / DONE / str(run.id))
    done = LogDirectory(tmp_path) / DONE
    believed.append(done.is_ours(run.id))

    assert believed == [False, False, True, True]
    assert repr(done) == f"<LogDirectory '{tmp_path / DONE}'>"


def test_a_directory_is_there_whether_it_is_ours_or_may_not_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, gone = new_run_id(), new_run_id()
    (tmp_path / str(there)).mkdir()
    log = LogDirectory(tmp_path)

    assert (log.is_there(there), log.is_there(gone)) == (True, False)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("eventrec.log.disk.DiskStorage.folder", refuse)
    assert log.is_there(there)


def test_a_run_without_a_mark_is_known_by_any_of_its_segments(tmp_path: Path) -> None:
    run = Run.create(tmp_path, new_run_id())
    with Log.create(run.storage) as log:
        log.append([b"of another run, or of a version without ids"])
        log.write()
        log.begin_segment()
        log.append([run.id.bytes])
    run.release()
    (run.path / LOCK).write_bytes(b"\xff")

    assert LogDirectory(tmp_path).is_ours(run.id)
    (run.path / segment_name(1)).unlink()
    assert not LogDirectory(tmp_path).is_ours(run.id)
