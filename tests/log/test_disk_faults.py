"""What the log does when the disk fails: full, failing to write, failing to sync, failing half-way through anything."""

from __future__ import annotations

import errno
import math
import threading
from typing import TYPE_CHECKING

import pytest

from eventrec.errors import LogError, LogFullError, LogWriteError
from eventrec.log.commit import encode_commit
from eventrec.log.head import SPARED
from eventrec.log.log import Log, LogOptions
from eventrec.log.reader import LogReader
from eventrec.log.repair import rebuild_index
from eventrec.log.segment import HEADER_SIZE, index_name, list_segments, segment_name
from eventrec.log.verify import verify
from eventrec.testing.storage import FaultyStorage

if TYPE_CHECKING:
    from collections.abc import Callable

FAILURES = [errno.ENOSPC, errno.EIO, errno.EDQUOT]


def _fill(log: Log, *values: bytes) -> None:
    for value in values:
        log.append([value])
        log.write()


def _contents(storage: FaultyStorage, start: int = 0) -> list[bytes]:
    return [commit.content for commit in LogReader(storage, start, strict=True).commits()]


# -- writing ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_harms_nothing_and_writing_goes_on_when_there_is_room() -> None:
    storage = FaultyStorage(capacity=200)
    log = Log.create(storage)
    _fill(log, b"a" * 74)
    log.append([b"b" * 74])

    with pytest.raises(LogFullError, match="byte 110"):
        log.write()

    assert (log.appended, log.written) == (2, 1)
    assert [commit.content for commit in log.reader().commits()] == [b"a" * 74]
    assert len(storage.read(segment_name(0))) == 110
    with pytest.raises(LogFullError):
        log.write()
    storage.heal()
    assert log.write() == 2
    assert _contents(storage) == [b"a" * 74, b"b" * 74]


def test_read_log_up_to_partial_write() -> None:
    storage = FaultyStorage(capacity=800)
    log = Log.create(storage)
    for _ in range(20):
        log.append([bytes(32)])

    with pytest.raises(LogFullError):
        log.write()

    assert log.written == 800 // 58 == 13
    assert len(_contents(storage)) == 13
    assert list(verify(storage)) == []


def test_every_commit_that_is_whole_on_a_full_disk_is_written() -> None:
    for capacity in range(68, 200):
        storage = FaultyStorage(capacity=capacity)
        log = Log.create(storage)
        for _ in range(5):
            log.append([bytes(32)])
        with pytest.raises(LogFullError):
            log.write()
        assert log.written == (capacity - 10) // 58
        storage.heal()
        assert log.write() == 5
        assert len(_contents(storage)) == 5


def test_panics_on_partial_write() -> None:
    storage = FaultyStorage(capacity=800, max_per_write=1)
    log = Log.create(storage, LogOptions(segment_bytes=400))

    with pytest.raises(LogFullError):
        _fill(log, *[bytes(32)] * 50)

    storage.heal()
    log.write()
    assert len(_contents(storage)) == log.appended


@pytest.mark.parametrize("max_per_write", [None, 7])
def test_a_file_that_may_not_grow_is_followed_by_another_one(max_per_write: int | None) -> None:
    storage = FaultyStorage(max_file_bytes=200, max_per_write=max_per_write)
    log = Log.create(storage, LogOptions(index_interval=1))
    values = [b"%02d" % n + bytes(30) for n in range(10)]  # three of them, of 58 bytes each, go into one file
    for value in values:
        log.append([value])

    assert log.write() == 10

    assert list_segments(storage) == [0, 3, 6, 9]
    _fill(log, *values)
    log.close()
    assert _contents(storage) == [*values, *values]
    assert list(verify(storage)) == []
    after = storage.kill()
    assert Log.open(after).appended == 20
    assert _contents(after) == [*values, *values]


def test_a_commit_that_no_file_may_hold_is_refused_and_no_segment_is_begun_for_each_try() -> None:
    storage = FaultyStorage(max_file_bytes=200)
    log = Log.create(storage)
    _fill(log, b"a")
    log.append([b"b" * 300])

    for _ in range(3):
        with pytest.raises(LogWriteError, match="File too large") as caught:
            log.write()
        # Room on the disk would not help.
        assert not isinstance(caught.value, LogFullError)

    assert (log.written, list_segments(storage)) == (1, [0, 1])
    assert _contents(storage.kill()) == [b"a"]
    storage.heal()
    assert log.write() == 2
    assert _contents(storage) == [b"a", b"b" * 300]
    log.close()
    assert list_segments(storage) == [0, 1]


@pytest.mark.parametrize(("error", "refusal"), [(errno.ENOSPC, LogFullError), (errno.EIO, LogWriteError)])
def test_a_disk_that_takes_no_segment_after_a_file_that_may_not_grow_keeps_what_is_written(
    error: int, refusal: type[LogWriteError]
) -> None:
    storage = FaultyStorage(max_file_bytes=200)
    log = Log.create(storage)
    for n in range(5):
        log.append([bytes([n]) * 32])
    storage.fail("create", error)

    with pytest.raises(refusal, match="begin a segment"):
        log.write()

    assert log.written == 3
    assert log.write() == 5
    assert _contents(storage.kill()) == [bytes([n]) * 32 for n in range(5)]


def test_an_index_that_may_not_grow_keeps_nothing_from_being_written() -> None:
    storage = FaultyStorage()
    log = Log.create(storage, LogOptions(index_interval=1))
    storage.fail("write", errno.EFBIG, name=index_name(0), times=99)

    _fill(log, *[bytes(32)] * 600)
    log.close()

    assert list_segments(storage) == [0]
    assert len(_contents(storage)) == 600


@pytest.mark.parametrize("error", FAILURES)
def test_what_could_not_be_written_nor_cut_is_overwritten(error: int) -> None:
    storage = FaultyStorage(max_per_write=10)
    log = Log.create(storage)
    storage.fail("write", error, after=2)
    storage.fail("truncate", error)
    log.append([b"a" * 74])

    with pytest.raises(LogWriteError) as caught:
        log.write()
    assert len(storage.read(segment_name(0))) == 30
    assert _contents(storage) == []
    log.write()

    assert isinstance(caught.value, LogFullError) == (error != errno.EIO)
    assert _contents(storage) == [b"a" * 74]


def test_append_fails_cleanly_once_the_memory_for_what_cannot_be_written_is_full() -> None:
    storage = FaultyStorage()
    log = Log.create(storage, LogOptions(kept_bytes=1000))
    storage.capacity = 10

    for _ in range(7):
        log.append([bytes(100)])
    with pytest.raises(LogFullError):
        log.append([bytes(100)])

    assert log.appended == 7
    storage.heal()
    log.append([bytes(100)])
    assert log.write() == 8
    assert len(_contents(storage)) == 8


def test_a_segment_that_cannot_begin_is_the_next_writes_trouble() -> None:
    storage = FaultyStorage()
    log = Log.create(storage, LogOptions(segment_bytes=100))
    storage.fail("create", errno.ENOSPC, times=2)

    _fill(log, bytes(80))
    assert (log.written, list_segments(storage)) == (1, [0])
    log.append([b"b"])
    with pytest.raises(LogFullError, match="begin a segment"):
        log.write()
    assert log.write() == 2

    assert list_segments(storage) == [0, 1]
    assert _contents(storage) == [bytes(80), b"b"]


def test_nothing_more_is_written_to_a_full_segment_whose_successor_was_made_but_not_opened() -> None:
    storage = FaultyStorage()
    log = Log.create(storage, LogOptions(segment_bytes=100))
    storage.fail("open", errno.EMFILE, name=segment_name(1))
    for value in (bytes(80), b"b", b"c"):
        log.append([value])

    with pytest.raises(LogWriteError, match="begin a segment"):
        log.write()
    assert log.write() == 3

    assert list_segments(storage) == [0, 1]
    assert _contents(storage) == [bytes(80), b"b", b"c"]


def test_a_new_segment_whose_name_could_not_be_synced_is_made_again() -> None:
    storage = FaultyStorage()
    log = Log.create(storage, LogOptions(segment_bytes=100))
    storage.fail("sync_directory")

    _fill(log, bytes(80), b"b")
    log.sync()

    assert _contents(storage.crash(keep=0)) == [bytes(80), b"b"]


def test_somebody_elses_segment_is_not_written_over() -> None:
    storage = FaultyStorage()
    log = Log.create(storage, LogOptions(segment_bytes=100))
    storage.put(segment_name(1), b"theirs, and not empty")

    with pytest.raises(LogError, match="not empty"):
        _fill(log, bytes(80))

    assert storage.read(segment_name(1)) == b"theirs, and not empty"


@pytest.mark.parametrize("operation", ["list", "create", "write", "sync", "replace", "sync_directory", "open"])
def test_a_log_that_cannot_be_created_says_so(operation: str) -> None:
    storage = FaultyStorage()
    storage.fail(operation, errno.ENOSPC)

    with pytest.raises(LogFullError, match="create a log: No space"):
        Log.create(storage)


def test_close_raises_what_is_not_safe_and_closes_all_the_same() -> None:
    storage = FaultyStorage(capacity=100)
    log = Log.create(storage)
    _fill(log, b"a")
    log.append([bytes(100)])

    with pytest.raises(LogFullError):
        log.close()

    log.close()
    assert log.synced == 1
    assert _contents(storage.crash(keep=0)) == [b"a"]


# -- syncing ---------------------------------------------------------------------------------------------------------


def test_after_a_failed_sync_the_kept_commits_are_safe_in_a_new_segment_and_the_old_file_is_cut() -> None:
    storage = FaultyStorage()
    log = Log.create(storage)
    _fill(log, b"a", b"b")
    log.sync()
    _fill(log, b"c", b"d")
    before = storage.read(segment_name(0))
    storage.fail("sync", name="00.stdb.log")

    assert log.sync() == 4

    assert list_segments(storage) == [0, 2]
    assert storage.read(segment_name(2))[10:] == before[10 + 2 * 27 :]
    assert storage.read(segment_name(0)) == before[: 10 + 2 * 27]
    assert (log.failed_syncs, log.synced) == (1, 4)
    for _ in range(20):
        assert _contents(storage.crash()) == [b"a", b"b", b"c", b"d"]


def test_a_file_whose_sync_failed_is_never_synced_again() -> None:
    storage = FaultyStorage()
    log = Log.create(storage)
    _fill(log, b"a")
    log.sync()
    _fill(log, b"b")
    storage.fail("sync", name=segment_name(0))
    log.sync()
    at = len(storage.calls)

    _fill(log, b"c")
    log.sync()
    log.close()

    assert ("sync", segment_name(0)) not in storage.calls[at:]
    assert _contents(storage.crash(keep=0)) == [b"a", b"b", b"c"]


def test_a_first_sync_that_fails_replaces_the_segment_by_a_new_file() -> None:
    storage = FaultyStorage()
    log = Log.create(storage)
    _fill(log, b"a", b"b")
    old = storage.open(segment_name(0), "read")
    storage.fail("sync", name=segment_name(0))

    log.sync()
    _fill(log, b"c")
    log.sync()

    assert list_segments(storage) == [0]
    assert old.size() == 10 + 2 * 27
    assert _contents(storage.crash(keep=0)) == [b"a", b"b", b"c"]


def test_the_new_segment_appears_only_when_it_is_whole_and_durable() -> None:
    storage = FaultyStorage()
    log = Log.create(storage)
    _fill(log, b"a")
    log.sync()
    _fill(log, b"b", b"c")
    storage.fail("sync", name=segment_name(0))
    at = len(storage.calls)

    log.sync()

    calls = [
        call for call in storage.calls[at:] if call[0] in {"write", "sync", "replace", "sync_directory", "truncate"}
    ]
    operations = [operation for operation, _ in calls]
    assert operations == ["sync", "write", "write", "sync", "replace", "sync_directory", "truncate"]
    assert calls[-1][1] == segment_name(0)
    assert calls[4][1] == segment_name(1)


@pytest.mark.parametrize("operation", ["create", "write", "sync", "replace", "sync_directory", "open"])
def test_a_failed_sync_that_cannot_be_mended_yet_shows_readers_only_what_is_synced(operation: str) -> None:
    storage = FaultyStorage()
    log = Log.create(storage)
    _fill(log, b"a")
    log.sync()
    _fill(log, b"b")
    reader = log.reader()
    storage.fail("sync", name=segment_name(0))
    storage.fail(operation, errno.ENOSPC, name=segment_name(1))
    if operation == "sync_directory":
        storage.fail(operation, errno.ENOSPC)

    with pytest.raises(LogFullError, match="could not be synced"):
        log.sync()
    assert [commit.content for commit in reader.commits()] == [b"a"]
    assert "failed" in repr(log)
    storage.evict()
    log.append([b"c"])
    assert log.write() == 3

    assert [commit.content for commit in reader.commits()] == [b"b", b"c"]
    assert (reader.gaps, log.synced) == (0, 2)
    assert log.sync() == 3
    assert _contents(storage.crash(keep=0)) == [b"a", b"b", b"c"]


def test_memory_pressure_and_a_kill_after_a_failed_sync_that_cannot_be_mended_lose_nothing_written() -> None:
    for seed in range(20):
        storage = FaultyStorage(seed)
        log = Log.create(storage)
        _fill(log, b"a")
        storage.fail("sync")
        storage.fail("create")
        with pytest.raises(LogWriteError):
            log.sync()

        storage.evict()
        left = storage.kill()

        assert Log.open(left).appended == log.written == 1
        assert _contents(left) == [b"a"]


def test_a_reader_that_was_ahead_of_a_failed_sync_goes_on_where_it_was() -> None:
    storage = FaultyStorage()
    log = Log.create(storage)
    _fill(log, b"a", b"b", b"c")
    reader = log.reader()
    seen = [commit.content for commit in reader.read(max_bytes=40)]
    storage.fail("sync", name=segment_name(0))
    storage.fail("create", errno.ENOSPC)
    with pytest.raises(LogFullError):
        log.sync()
    storage.evict()

    seen += [commit.content for commit in reader.commits()]
    storage.heal()
    _fill(log, b"d")
    seen += [commit.content for commit in reader.commits()]

    assert (seen, reader.gaps) == ([b"a", b"b", b"c", b"d"], 0)


def test_a_reader_holding_a_file_that_went_bad_in_the_cache_looks_again_before_it_believes() -> None:
    for seed in range(10):
        storage = FaultyStorage(seed)
        log = Log.create(storage)
        _fill(log, b"a" * 600, b"b" * 600, b"c" * 600, b"d" * 600)
        reader = log.reader()
        seen = [reader.read(max_bytes=1)[0].content[:1]]
        assert reader._walk is not None
        reader._walk._buffer = b""
        storage.fail("sync", name=segment_name(0))
        old = storage.open(segment_name(0), "read")
        log.sync()
        old._node.seen[:] = old._node.disk

        seen += [commit.content[:1] for commit in reader.commits()]

        assert (b"".join(seen), reader.gaps, reader.missing) == (b"abcd", 0, 0)


def test_a_cut_that_does_not_reach_the_disk_leaves_superseded_bytes() -> None:
    storage = FaultyStorage()
    log = Log.create(storage)
    _fill(log, b"a")
    log.sync()
    _fill(log, b"b")
    storage.fail("sync", name=segment_name(0))
    storage.fail("truncate")
    log.sync()
    _fill(log, b"c")

    assert len(storage.read(segment_name(0))) == 10 + 2 * 27
    assert _contents(storage) == [b"a", b"b", b"c"]
    assert list(verify(storage)) == []


def test_a_failed_sync_at_rotation_moves_and_goes_on() -> None:
    storage = FaultyStorage()
    log = Log.create(storage, LogOptions(segment_bytes=100))
    _fill(log, b"a" * 30)
    log.sync()
    storage.fail("sync", name=segment_name(0))

    _fill(log, b"b" * 30, b"c" * 30, b"d" * 30)
    log.sync()

    assert list_segments(storage) == [0, 1, 3]
    assert _contents(storage.crash(keep=0)) == [b"a" * 30, b"b" * 30, b"c" * 30, b"d" * 30]


def test_too_much_kept_while_nothing_can_be_synced_is_an_error_and_loses_nothing() -> None:
    storage = FaultyStorage()
    log = Log.create(storage, LogOptions(kept_bytes=300))
    storage.fail("sync", errno.EIO, times=10**6)

    with pytest.raises(LogWriteError):
        _fill(log, *[b"x" * 74] * 99)

    taken = log.appended
    storage.heal()
    log.write()
    assert log.sync() == taken
    assert len(_contents(storage.crash(keep=0))) == taken


def test_another_thread_that_mends_while_a_sync_waits_is_enough() -> None:
    storage = FaultyStorage()
    log = Log.create(storage)
    _fill(log, b"a")
    storage.fail("sync", name=segment_name(0))
    waiting = threading.Event()
    synced: list[int] = []

    def sync() -> None:
        waiting.set()
        synced.append(log.sync())

    with log._writing:
        thread = threading.Thread(target=sync)
        thread.start()
        waiting.wait()
        while log._failure is None:
            pass
        log.write()
        assert log.synced == 1
    thread.join()

    assert (synced, log.failed_syncs) == ([1], 1)


def test_a_sync_does_not_keep_append_and_write_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FaultyStorage()
    log = Log.create(storage)
    _fill(log, b"a")
    started, finish = threading.Event(), threading.Event()
    real: Callable[[], None] = log._head.sync

    def slow() -> None:
        started.set()
        finish.wait()
        real()

    monkeypatch.setattr(log._head, "sync", slow)
    thread = threading.Thread(target=log.sync)
    thread.start()
    started.wait()

    _fill(log, b"b")
    assert (log.written, log.synced) == (2, 0)
    finish.set()
    thread.join()

    assert log.synced == 1


def test_callers_at_once_share_one_sync() -> None:
    storage = FaultyStorage()
    log = Log.create(storage)
    _fill(log, b"a")
    before = storage.counts["sync"]

    threads = [threading.Thread(target=log.sync) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert storage.counts["sync"] == before + 1


def test_a_full_disk_that_took_some_of_many_commits_leaves_room_for_what_makes_room() -> None:
    """The last bytes of a disk are not the log's to fill: deleting needs some too."""
    storage = FaultyStorage()
    log = Log.create(storage)
    commit = len(encode_commit(0, bytes(1_000), 1))
    for _ in range(2 * SPARED // commit + 8):
        log.append([bytes(1_000)])
    room = HEADER_SIZE + 2 * SPARED + 3 * commit
    storage.capacity = room

    with pytest.raises(LogFullError):
        log.write()

    written = log.extent.position
    assert room - SPARED - commit < written <= room - SPARED
    storage.heal()
    assert log.write() == log.appended


def test_the_files_that_are_spared_are_not_used_for_a_segment_unless_it_makes_room() -> None:
    log = Log.create(FaultyStorage(), LogOptions(segment_bytes=200))
    _fill(log, bytes(200))
    log.limit(math.inf, may_begin=False)
    _fill(log, bytes(200))
    log.append([bytes(200)])

    with pytest.raises(LogFullError, match="files that are spared"):
        log.write()

    assert (log.written, log.sync()) == (2, 2)
    assert log.begin_segment()
    assert log.write() == 3
    log.close()


def test_a_directory_whose_new_segment_cannot_be_opened_leaves_the_log_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    storage, other = FaultyStorage(), FaultyStorage()
    log = Log.create(storage)
    _fill(log, b"a")

    with monkeypatch.context() as patch:
        patch.setattr(Log, "_head_at", refuse)
        with pytest.raises(LogWriteError, match="Too many open files"):
            log.move_to(other)
    _fill(log, b"b")
    log.sync()

    assert (log.synced, _contents(storage)) == (2, [b"a", b"b"])
    log.move_to(other)
    _fill(log, b"c")
    assert _contents(other, 2) == [b"c"]


@pytest.mark.parametrize("synced", [0, 1, 3])
@pytest.mark.parametrize("is_moved", [False, True])
def test_the_index_has_what_was_written_again_where_it_stands_now(synced: int, *, is_moved: bool) -> None:
    storage, other = FaultyStorage(), FaultyStorage()
    log = Log.create(storage, LogOptions(index_interval=60))
    for n in range(6):
        _fill(log, bytes([n]) * 20)
        if n == synced - 1:
            log.sync()
    storage.fail("sync")

    if is_moved:
        log.move_to(other)
    log.sync()
    log.close()

    written = other if is_moved else storage
    last = list_segments(written)[-1]
    index = written.read(index_name(last))
    assert list(verify(written)) == []
    assert rebuild_index(written, last, 60)
    assert index == written.read(index_name(last))
