"""A log that another process writes, read without its lock."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventrec.delivery.sources import followed
from eventrec.delivery.sources.followed import FollowedLog
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log, LogOptions
from eventrec.log.segment import segment_name
from eventrec.runs.run import Run, new_run_id


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run.create(tmp_path, new_run_id())
    yield made
    made.release()


@pytest.fixture
def storage(run: Run) -> Iterator[DiskStorage]:
    """Another descriptor of its directory."""
    made = run.directory.opened().folder(str(run.id))
    yield made
    made.close()


def log_of(run: Run, records: int, *, segment_bytes: int = 200) -> Log:
    """Each record is a commit."""
    log = Log.create(run.storage, LogOptions(segment_bytes=segment_bytes))
    for _ in range(records):
        log.append_encoded(b"x" * 40, 1)
        log.write()
    return log


@pytest.mark.parametrize("near", [0, 1, 17, 19, 20])
def test_it_knows_its_end_wherever_it_begins_to_look(run: Run, storage: DiskStorage, near: int) -> None:
    log = log_of(run, 20)

    found = FollowedLog(storage, run.id, near=near)

    assert (found.begins, found.first, found.written, found.readable, found.appended) == (0, 0, 20, 20, 20)
    assert found.extent.offset == 20
    log.close()


def test_an_offset_that_was_never_reached_is_not_believed(run: Run, storage: DiskStorage) -> None:
    log = log_of(run, 20)

    assert FollowedLog(storage, run.id, near=1 << 60).written == 20
    log.close()


def test_an_empty_log_ends_where_it_begins(run: Run, storage: DiskStorage) -> None:
    log = Log.create(run.storage)

    found = FollowedLog(storage, run.id, near=3)

    assert (found.begins, found.written) == (0, 0)
    assert not found.look()
    log.append_encoded(b"x", 1)
    log.write()
    assert not found.look()
    assert found.written == 1
    assert repr(found) == f"<FollowedLog end=1 in {storage!r}>"
    log.close()


def test_a_reader_goes_as_far_as_was_looked_and_no_further(run: Run, storage: DiskStorage) -> None:
    log = log_of(run, 5)
    found = FollowedLog(storage, run.id)
    log.append_encoded(b"x", 1)
    log.write()

    with found.reader(3) as reader:
        assert [commit.offset for commit in reader.commits()] == [3, 4]
        found.look()
        assert [commit.offset for commit in reader.commits()] == [5]
    log.close()


def test_a_torn_commit_is_not_seen_before_it_is_whole(run: Run, storage: DiskStorage) -> None:
    log = log_of(run, 3, segment_bytes=1 << 20)
    log.close()
    path = next(storage.directory.glob("*.stdb.log"))
    whole = path.read_bytes()
    for cut in range(1, 60):
        path.write_bytes(whole[:-cut])
        found = FollowedLog(storage, run.id)
        assert found.written == 2

        path.write_bytes(whole)

        found.look()
        assert found.written == 3
        found.close()


def test_a_large_piece_takes_several_looks(run: Run, storage: DiskStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "_PIECE", 1)
    monkeypatch.setattr(followed, "_PIECES", 2)
    log = log_of(run, 2)
    found = FollowedLog(storage, run.id)
    for _ in range(5):
        log.append_encoded(b"x", 1)
        log.write()

    assert (found.look(), found.written) == (True, 4)
    assert (found.look(), found.written) == (True, 6)
    assert (found.look(), found.written) == (False, 7)
    log.close()


def test_where_its_directory_is_gone_it_says_so_and_loses_nothing(run: Run, storage: DiskStorage) -> None:
    log = log_of(run, 2)
    found = FollowedLog(storage, run.id)

    shutil.rmtree(storage.directory)

    for look in (found.look, found.reader, found.check_in_place):
        with pytest.raises(FileNotFoundError, match="not in its place"):
            look()
    log.abandon()


def test_a_newest_segment_that_was_deleted_is_not_lost_while_its_owner_may_write_it_again(
    run: Run, storage: DiskStorage
) -> None:
    log = log_of(run, 20)
    found = FollowedLog(storage, run.id)
    assert found.restore_deleted() == 20

    (run.path / segment_name(log.extent.first)).unlink()

    assert found.restore_deleted() == 0
    assert log.restore_deleted() == 20
    assert found.restore_deleted() == 20
    log.close()


def test_nothing_of_it_can_be_deleted_here(run: Run, storage: DiskStorage) -> None:
    log = log_of(run, 20)
    found = FollowedLog(storage, run.id)

    assert found.sealed() == []
    assert found.delete_below(20) == 0
    assert not found.begin_segment()
    assert not found.has_grown()
    assert len(list(storage.directory.glob("*.stdb.log"))) > 3
    log.close()


def test_closed_it_looks_no_more(run: Run, storage: DiskStorage) -> None:
    log = log_of(run, 2)
    found, other = FollowedLog(storage, run.id), FollowedLog(storage, run.id)
    found.close()
    other.abandon()
    log.append_encoded(b"x", 1)
    log.write()

    assert not found.look()
    assert not other.look()
    assert found.written == other.written == 2
    log.close()
