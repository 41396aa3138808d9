"""Deleting, and cutting back."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from eventrec.errors import LogClosedError, LogWriteError
from eventrec.log.log import Log, LogOptions
from eventrec.log.reader import LogReader
from eventrec.log.segment import index_name, list_segments, segment_name
from eventrec.log.verify import verify

if TYPE_CHECKING:
    from eventrec.testing.storage import FaultyStorage


def _log(storage: FaultyStorage, commits: int, *, n: int = 1, segment_bytes: int = 300) -> Log:
    log = Log.create(storage, LogOptions(segment_bytes=segment_bytes, index_interval=100))
    for i in range(commits):
        log.append([b"%03d" % i] * n)
        log.write()
    return log


def _offsets(log: Log) -> list[int]:
    return [commit.offset for commit in log.reader(strict=True).commits()]


def test_segments_wholly_below_an_offset_are_deleted(storage: FaultyStorage) -> None:
    log = _log(storage, 50)
    firsts = list_segments(storage)

    assert log.delete_below(firsts[2] - 1) == 1
    assert log.delete_below(firsts[2]) == 1
    assert log.delete_below(firsts[2]) == 0

    assert list_segments(storage) == firsts[2:]
    assert index_name(0) not in storage.list()
    assert _offsets(log) == list(range(firsts[2], 50))


def test_the_segment_being_written_is_never_deleted(storage: FaultyStorage) -> None:
    log = _log(storage, 50)

    log.delete_below(2**63)
    log.append([b"x"])

    assert (log.write(), list_segments(storage)) == (51, [log._head.first])


def test_the_segment_being_written_is_not_deleted_when_its_successor_is_there_but_could_not_be_opened(
    storage: FaultyStorage,
) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=100))
    storage.fail("open", errno.EMFILE, name=segment_name(1))
    log.append([bytes(100)])
    log.write()
    log.sync()
    assert list_segments(storage) == [0, 1]

    log.delete_below(1)

    assert list_segments(storage) == [0, 1]


def test_an_index_goes_for_room_and_every_record_is_still_read(storage: FaultyStorage) -> None:
    log = _log(storage, 50)
    log.sync()
    firsts = list_segments(storage)
    with_index = [first for first in firsts if index_name(first) in storage.list()]

    while log.drop_index():
        with_index.pop(0)
        assert [first for first in firsts if index_name(first) in storage.list()] == with_index

    assert set(with_index) <= {firsts[-1]}  # what is written now keeps its own
    assert _offsets(log) == list(range(50))
    assert list(verify(storage)) == []


def test_the_index_of_what_is_written_goes_last_and_only_where_that_is_asked_for(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=2_000, index_interval=64))
    for number in range(60):
        log.append([b"%02d" % number + bytes(50)])
        log.write()
        log.sync()
    assert index_name(list_segments(storage)[-1]) in storage.list()

    while log.drop_index():
        pass
    assert index_name(list_segments(storage)[-1]) in storage.list()
    assert [log.drop_index(of_head=True) for _ in range(2)] == [True, False]

    assert [name for name in storage.list() if name.endswith(".ofs")] == []
    log.append([b"60"])
    log.close()
    assert _offsets(Log.open(storage.kill())) == list(range(61))
    assert list(verify(storage)) == []


def test_deletion_is_durable_on_return(storage: FaultyStorage) -> None:
    log = _log(storage, 50)

    log.delete_below(30)

    assert list_segments(storage.crash(keep=0)) == list_segments(storage)


def test_deletion_waits_for_nothing_where_nothing_is_to_delete(storage: FaultyStorage) -> None:
    log = _log(storage, 3)
    before = storage.counts["sync_directory"]

    log.delete_below(3)

    assert storage.counts["sync_directory"] == before


@pytest.mark.parametrize("operation", ["delete", "sync_directory", "list"])
def test_a_deletion_that_fails_can_be_repeated(storage: FaultyStorage, operation: str) -> None:
    log = _log(storage, 50)
    storage.fail(operation)

    with pytest.raises(LogWriteError, match="delete segments"):
        log.delete_below(30)
    log.delete_below(30)

    assert list_segments(storage)[0] > 10
    assert _offsets(log)[-1] == 49


def test_reset_hard(storage: FaultyStorage) -> None:
    log = _log(storage, 50)

    log.reset()

    assert (list_segments(storage), log.appended, _offsets(log)) == ([0], 0, [])
    log.append([b"new"])
    log.write()
    assert _offsets(log) == [0]


def test_reset_to_offset(storage: FaultyStorage) -> None:
    log = _log(storage, 50)

    for offset in range(49, -1, -1):
        log.reset_to(offset)
        assert _offsets(log) == list(range(offset + 1))
        assert log.appended == log.written == log.synced == offset + 1


def test_reset_to_offset_many_txs_per_commit(storage: FaultyStorage) -> None:
    log = _log(storage, 20, n=3)

    for offset, end in ((60, 60), (59, 60), (31, 33), (30, 33), (2, 3), (1, 3), (0, 3)):
        log.reset_to(offset)
        assert log.appended == end
        assert _offsets(log) == list(range(0, end, 3))


def test_reset_then_resume(storage: FaultyStorage) -> None:
    log = _log(storage, 20)

    log.reset_to(4)
    for i in range(5, 10):
        log.append([b"%04d, otherwise" % i])
        log.write()
    log.close()

    found = [(commit.offset, commit.content) for commit in LogReader(storage, strict=True).commits()]
    assert found == [(i, b"%03d" % i) for i in range(5)] + [(i, b"%04d, otherwise" % i) for i in range(5, 10)]
    assert [(commit.offset) for commit in LogReader(storage, 7).commits()] == [7, 8, 9]


def test_what_is_taken_is_written_before_it_is_forgotten(storage: FaultyStorage) -> None:
    log = _log(storage, 3)
    log.append([b"x"])

    log.reset_to(9)

    assert log.written == 4


def test_a_cut_is_durable_on_return_and_leaves_no_hole_before(storage: FaultyStorage) -> None:
    log = _log(storage, 50)
    log.sync()
    storage.calls.clear()

    log.reset_to(20)

    operations = [operation for operation, _ in storage.calls]
    assert operations.index("sync_directory") < operations.index("truncate") < operations.index("sync", 1)
    assert [c.offset for c in LogReader(storage.crash(keep=0)).commits()] == list(range(21))


def test_the_index_of_a_segment_that_was_cut_names_nothing_that_will_stand_elsewhere(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(index_interval=100))
    for _ in range(9):
        log.append([bytes(60)])
    log.sync()
    log.write()

    log.reset_to(4)
    for size in range(30, 90, 10):
        log.append([bytes(size)])
    log.write()

    assert list(verify(storage)) == []


def test_a_record_that_is_deleted_cannot_be_gone_back_to(storage: FaultyStorage) -> None:
    log = _log(storage, 50)
    log.delete_below(30)

    with pytest.raises(ValueError, match="is deleted"):
        log.reset_to(3)

    assert _offsets(log)[-1] == 49
    assert log.append([b"x"]) == range(50, 51)


def test_a_cut_that_fails_leaves_a_log(storage: FaultyStorage) -> None:
    log = _log(storage, 50)
    storage.fail("delete", errno.EIO, after=2)

    with pytest.raises(LogWriteError, match="reset the log"):
        log.reset_to(3)

    assert _offsets(log) == list(range(log.appended))
    assert log.append([b"x"])[0] == log.written


def test_a_cut_after_which_nothing_can_be_read_closes_the_log(storage: FaultyStorage) -> None:
    log = _log(storage, 50)
    storage.fail("list", errno.EIO, times=9)

    with pytest.raises(LogWriteError, match="reset the log"):
        log.reset_to(3)

    with pytest.raises(LogClosedError):
        log.write()
    storage.heal()
    assert Log.open(storage).appended == 50


def test_readers_made_after_a_cut_see_the_new_content(storage: FaultyStorage) -> None:
    log = _log(storage, 10)
    log.reset_to(0)
    log.append([b"other"])
    log.write()

    assert [commit.content for commit in log.reader().commits()] == [b"000", b"other"]
    assert len(storage.read(segment_name(0))) == 10 + 29 + 31


def test_where_it_cannot_be_told_whether_the_segment_is_there_it_is_taken_to_be(storage: FaultyStorage) -> None:
    with Log.create(storage) as log:
        log.append([b"a"])
        log.write()
        storage.fail("size", errno.EIO)

        assert log.restore_deleted() == 1
        assert storage.list() == [segment_name(0)]
