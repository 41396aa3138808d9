"""Writing, rotating, reading what is written: on storage that does not fail."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from eventrec.errors import LogClosedError, LogError
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log, LogOptions
from eventrec.log.reader import LogReader
from eventrec.log.segment import encode_header, list_segments, segment_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eventrec.testing.storage import FaultyStorage


def _fill(log: Log, *sizes: int, record: bytes = bytes(32)) -> None:
    """Write commits of so many records each."""
    for n in sizes:
        log.append([record] * n)
        log.write()


def _offsets(log: Log, start: int = 0) -> list[int]:
    return [commit.offset for commit in log.reader(start, strict=True).commits()]


def test_write_read_roundtrip(storage: FaultyStorage) -> None:
    with Log.create(storage) as log:
        taken = log.append([b"a" * 32, b"b" * 32, b"c" * 32])

        log.write()

        (commit,) = log.reader().read()
        assert (list(taken), commit.offset, commit.n, commit.content) == (
            [0, 1, 2],
            0,
            3,
            b"a" * 32 + b"b" * 32 + b"c" * 32,
        )
        assert storage.read(segment_name(0))[:10] == encode_header()


def test_taken_written_and_synced_are_three_promises(storage: FaultyStorage) -> None:
    log = Log.create(storage)

    log.append([b"x", b"y"])
    assert (log.appended, log.written, log.synced, len(storage.read(segment_name(0)))) == (2, 0, 0, 10)
    assert log.write() == 2
    assert (log.appended, log.written, log.synced) == (2, 2, 0)
    assert (storage.crash(keep=0).read(segment_name(0))) == encode_header()
    assert log.unsynced_bytes == 28
    assert log.sync() == 2
    assert (log.appended, log.written, log.synced, log.unsynced_bytes) == (2, 2, 2, 0)
    assert len(storage.crash(keep=0).read(segment_name(0))) == 10 + 28


def test_nothing_is_read_that_is_not_written(storage: FaultyStorage) -> None:
    log = Log.create(storage)

    log.append([b"x"])
    before = log.reader().read()
    log.write()

    assert (before, len(log.reader().read())) == ([], 1)


def test_next_offset_counts_records(storage: FaultyStorage) -> None:
    log = Log.create(storage)
    seen = [log.appended]

    _fill(log, 1, 2)
    seen.append(log.appended)
    log.append([])

    assert (seen, log.appended, log.append([]), len(_offsets(log))) == ([0, 3], 3, range(3, 3), 2)


@pytest.mark.parametrize("n", [0, 65536])
def test_a_commit_of_no_or_too_many_records_is_refused_before_anything_changes(storage: FaultyStorage, n: int) -> None:
    log = Log.create(storage)

    with pytest.raises(ValueError, match=str(n)):
        log.append_encoded(b"x", n)

    assert (log.appended, log.write()) == (0, 0)


def test_a_commit_holds_65535_records(storage: FaultyStorage) -> None:
    log = Log.create(storage)

    assert log.append([b""] * 65535) == range(65535)
    log.write()

    assert log.reader().read()[0].n == 65535


def test_rotate_segments_simple(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=128))

    _fill(log, 1, 1, 1, 1)

    assert list_segments(storage) == [0, 3]


def test_a_segment_is_full_when_it_holds_just_as_much(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=10 + 58))

    _fill(log, 1, 1)

    assert list_segments(storage) == [0, 1, 2]


def test_rotation_does_not_depend_on_how_commits_are_written_together(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=128))

    for _ in range(10):
        log.append([bytes(32)])
    log.write()

    assert list_segments(storage) == [0, 3, 6, 9]
    assert _offsets(log) == list(range(10))


def test_huge_commit(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=32))

    _fill(log, 2)
    assert list_segments(storage) == [0, 2]
    _fill(log, 1)
    assert list_segments(storage) == [0, 2, 3]


def test_a_sealed_segment_is_synced_before_the_next_begins(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=128))

    _fill(log, 1, 1, 1)

    assert log.synced == 3
    after = storage.crash(keep=0)
    assert list_segments(after) == [0, 3]
    assert after.read(segment_name(0)) == storage.read(segment_name(0))


def test_traverse_commits(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=64))

    _fill(log, *[1] * 10)

    assert _offsets(log) == list(range(10))


def test_traverse_commits_with_offset(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=64))
    _fill(log, *[1] * 10)

    for start in range(10):
        assert _offsets(log, start) == list(range(start, 10))
    assert _offsets(log, 10) == []


def test_the_first_commit_contains_the_offset_and_may_begin_before(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=300))
    _fill(log, *[4] * 10)

    for start in range(40):
        assert _offsets(log, start) == list(range(start // 4 * 4, 40, 4))


def _lines(content: bytes) -> list[bytes]:
    return content.split(b"\n")[:-1]


@pytest.mark.parametrize("segment_bytes", [50, 1000])
def test_traverse_transactions(storage: FaultyStorage, segment_bytes: int) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=segment_bytes))
    for i in range(12):
        log.append([b"%d.%d\n" % (i, k) for k in range(i % 3 + 1)])
    log.write()
    everything = [b"%d.%d" % (i, k) for i in range(12) for k in range(i % 3 + 1)]

    for start in range(25):
        found = list(log.reader(start).records(_lines))
        assert found == list(enumerate(everything))[start:]


def test_a_range_of_records_is_half_open(storage: FaultyStorage) -> None:
    log = Log.create(storage)
    _fill(log, 4, 4, record=b"x\n")

    ranges = [(0, 0), (0, 1), (3, 5), (5, 5), (6, 3), (7, 99)]

    found = [[offset for offset, _ in log.reader(a).records(_lines, stop=b)] for a, b in ranges]
    assert found == [list(range(a, min(b, 8))) for a, b in ranges]


def test_into_transactions_can_skip_txs(storage: FaultyStorage) -> None:
    log = Log.create(storage)
    _fill(log, 4, record=b"x\n")

    assert [offset for offset, _ in log.reader(2).records(_lines)] == [2, 3]


def test_a_decoder_that_finds_another_number_of_records_is_told(storage: FaultyStorage) -> None:
    log = Log.create(storage)
    _fill(log, 2, record=b"x\ny\n")

    with pytest.raises(ValueError, match="decoded 4 records"):
        list(log.reader().records(_lines))


@pytest.mark.parametrize("start", [0, 42])
def test_traverse_empty(storage: FaultyStorage, start: int) -> None:
    log = Log.create(storage)

    assert _offsets(log, start) == []


def test_smoke(storage: FaultyStorage) -> None:
    with Log.create(storage, LogOptions(segment_bytes=8192)) as log:
        _fill(log, *[1] * 500, record=bytes(256))

        assert (log.appended, len(_offsets(log))) == (500, 500)
        assert len(list_segments(storage)) == 500 // 30 + 1


def test_reopen(storage: FaultyStorage) -> None:
    options = LogOptions(segment_bytes=200)
    with Log.create(storage, options) as log:
        _fill(log, *[1] * 10)

    for end in (13, 16):
        with Log.open(storage, options) as log:
            _fill(log, 1, 1, 1)
            assert (_offsets(log), log.appended) == (list(range(end)), end)


def test_a_reader_follows_the_log_over_segments(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=100))
    reader = log.reader()

    seen = []
    for _ in range(20):
        _fill(log, 1)
        seen += [commit.offset for commit in reader.read()]
        assert reader.read() == []

    assert (seen, reader.next_offset, reader.gaps) == (list(range(20)), 20, 0)


def test_a_reader_made_of_the_directory_alone_follows_too(storage: FaultyStorage) -> None:
    reader = LogReader(storage)
    assert reader.read() == []
    log = Log.create(storage, LogOptions(segment_bytes=100))

    seen = []
    for _ in range(20):
        _fill(log, 1)
        seen += [commit.offset for commit in reader.read()]

    assert (seen, reader.read(), reader.gaps) == (list(range(20)), [], 0)


def test_a_read_ends_once_it_holds_enough(storage: FaultyStorage) -> None:
    log = Log.create(storage)
    _fill(log, *[1] * 10)
    reader = log.reader()

    sizes = [len(reader.read(max_bytes=100)) for _ in range(5)]

    assert sizes == [2, 2, 2, 2, 2]


def test_epochs_are_carried_and_never_fall(storage: FaultyStorage) -> None:
    log = Log.create(storage, epoch=3)
    _fill(log, 1)

    log.set_epoch(42)
    log.set_epoch(42)
    _fill(log, 1)

    assert [commit.epoch for commit in log.reader().commits()] == [3, 42]
    log.close()
    assert Log.open(storage).epoch == 42


def test_set_new_epoch_survives_rotation(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=50))
    _fill(log, 1)

    log.set_epoch(42)
    _fill(log, 1, 1)

    assert [commit.epoch for commit in log.reader().commits()] == [0, 42, 42]


def test_set_lower_epoch_returns_error(storage: FaultyStorage) -> None:
    log = Log.create(storage, epoch=42)

    with pytest.raises(ValueError, match="lower"):
        log.set_epoch(7)

    assert log.epoch == 42


def test_a_log_is_created_once(storage: FaultyStorage) -> None:
    Log.create(storage).close()

    with pytest.raises(LogError, match="already"):
        Log.create(storage)


def test_a_log_may_begin_anywhere(storage: FaultyStorage) -> None:
    with Log.create(storage, first=1000) as log:
        _fill(log, 2)

    assert list_segments(storage) == [1000]
    with Log.open(storage) as log:
        assert (log.appended, _offsets(log, 0)) == (1002, [1000])


def test_a_closed_log_is_closed(storage: FaultyStorage) -> None:
    log = Log.create(storage)
    log.append([b"x"])
    log.close()
    log.close()

    for use in (lambda: log.append([b"x"]), log.write, log.sync):
        with pytest.raises(LogClosedError):
            use()
    assert "closed" in repr(log)
    assert storage.crash(keep=0).read(segment_name(0)) == storage.read(segment_name(0))
    assert _offsets(log) == [0]


def test_the_memory_for_what_is_not_written_is_bounded(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(kept_bytes=1000))

    for _ in range(100):
        log.append([bytes(100)])
        assert log.appended - log.written <= 8
    log.append([bytes(5000)])

    assert log.unsynced_bytes <= 2000 + 5026
    assert log.write() == 101


def test_the_memory_for_what_is_not_synced_is_bounded_by_syncing(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(kept_bytes=1000))

    for _ in range(100):
        _fill(log, 1)
        assert log.unsynced_bytes <= 1000

    assert 0 < storage.counts["sync"] < 20


def test_a_sync_with_nothing_new_costs_nothing(storage: FaultyStorage) -> None:
    log = Log.create(storage)
    _fill(log, 1)
    log.sync()
    before = storage.counts["sync"]

    log.sync()

    assert storage.counts["sync"] == before


def test_one_write_takes_many_commits(storage: FaultyStorage) -> None:
    log = Log.create(storage)
    for _ in range(50):
        log.append([b"x"])
    before = storage.counts["write"]

    log.write()

    assert storage.counts["write"] == before + 1


def test_threads_append_write_sync_and_read_at_once(tmp_path: Path) -> None:  # noqa: C901  four threads, each a few lines
    log = Log.create(DiskStorage(tmp_path), LogOptions(segment_bytes=4000, kept_bytes=3000))
    errors: list[BaseException] = []
    done = threading.Event()

    def run(act: Callable[[], object]) -> threading.Thread:
        def loop() -> None:
            try:
                act()
            except BaseException as error:  # noqa: BLE001  shown by the assertion
                errors.append(error)

        thread = threading.Thread(target=loop)
        thread.start()
        return thread

    def produce() -> None:
        for i in range(300):
            log.append([b"%06d" % i] * 3)
            if not i % 7:
                log.write()

    def sync() -> None:
        while not done.is_set():
            assert log.sync() <= log.written <= log.appended

    seen: list[int] = []

    def read() -> None:
        reader = log.reader(strict=True)
        while not done.is_set() or reader.next_offset < log.written:
            seen.extend(commit.offset for commit in reader.read(max_bytes=200))

    producers = [run(produce) for _ in range(3)]
    others = [run(sync), run(read)]
    for thread in producers:
        thread.join()
    log.write()
    done.set()
    for thread in others:
        thread.join()
    log.close()

    assert errors == []
    assert seen == list(range(0, 2700, 3))


def test_size_counts_every_file_and_survives_one_that_goes(
    storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log.create(storage)
    _fill(log, 1)
    monkeypatch.setattr(storage, "list", lambda: [segment_name(0), "gone"])

    assert log.size()[:2] == (68, 512)


def test_a_forked_child_abandons_a_log_without_a_trace(storage: FaultyStorage) -> None:
    log = Log.create(storage)
    log.append([b"x"])
    before = len(storage.calls)

    log.abandon()

    assert {operation for operation, _ in storage.calls[before:]} <= set()
    with pytest.raises(LogClosedError):
        log.write()


def test_logs_say_what_they_are(storage: FaultyStorage) -> None:
    log = Log.create(storage)
    _fill(log, 2)

    assert repr(log) == "<Log appended=2 written=2 synced=0 in <FaultyStorage 1 files>>"
    assert repr(log.reader()) == "<LogReader next=0 gaps=0 missing=0 tail=clean>"
