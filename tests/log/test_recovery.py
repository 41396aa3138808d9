"""Opening what a crash, a bad disk or another program left."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
from typing import TYPE_CHECKING

import pytest

from eventrec.errors import CorruptCommitError, Damage, LogError, LogFullError, LogWriteError
from eventrec.log.commit import encode_commit
from eventrec.log.disk import DiskStorage
from eventrec.log.index import Entry, encode_entries
from eventrec.log.log import Log, LogOptions
from eventrec.log.reader import LogReader
from eventrec.log.segment import HEADER_SIZE, encode_header, index_name, list_segments, segment_name
from eventrec.log.walk import Gap
from eventrec.testing.storage import FaultyStorage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _log(storage: FaultyStorage, *contents: bytes, segment_bytes: int = 1 << 20) -> bytes:
    """Write a log of one record a commit. Returns the bytes of its first segment."""
    with Log.create(storage, LogOptions(segment_bytes=segment_bytes)) as log:
        for content in contents:
            log.append([content])
            log.write()
    return storage.read(segment_name(0))


def _write_until_full(log: Log) -> None:
    for _ in range(99):
        log.append([bytes(32)])
        log.write()


def _contents(storage: FaultyStorage, start: int = 0) -> list[bytes]:
    return [commit.content for commit in LogReader(storage, start).commits()]


def _only(content: bytes, first: int = 0) -> FaultyStorage:
    storage = FaultyStorage()
    storage.put(segment_name(first), content)
    return storage


VALUES = [b"first", b"second", b"", b"fourth", b"last"]


def test_a_log_cut_at_any_byte_holds_exactly_the_whole_commits_before(storage: FaultyStorage) -> None:
    raw = _log(storage, *VALUES)
    ends = [HEADER_SIZE + sum(26 + len(value) for value in VALUES[: i + 1]) for i in range(5)]

    for cut in range(len(raw) + 1):
        whole = VALUES[: sum(end <= cut for end in ends)]
        left = _only(raw[:cut])
        assert _contents(left) == whole
        with Log.open(left) as log:
            assert (log.appended, log.recovered.gaps) == (len(whole), ())
            log.append([b"new"])
        assert _contents(left) == [*whole, b"new"]


@pytest.mark.parametrize("version", [0, 1])
def test_a_flipped_bit_in_a_header_costs_no_commit_elsewhere_at_most_the_one_it_is_in(
    foreign_segment: Callable[..., bytes], version: int
) -> None:
    raw = foreign_segment(VALUES, version=version)
    overhead = 26 if version else 18
    ends = [HEADER_SIZE + sum(overhead + len(value) for value in VALUES[: i + 1]) for i in range(5)]

    for bit in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        hit = sum(end <= bit // 8 for end in ends) if bit >= HEADER_SIZE * 8 else None
        left = [value for i, value in enumerate(VALUES) if i != hit]
        storage = _only(bytes(flipped))
        assert _contents(storage) == left
        with Log.open(storage) as log:
            log.append([b"new"])
        assert _contents(storage) == [*left, b"new"]


@pytest.mark.parametrize("byte", range(110))
def test_a_flipped_byte_never_makes_a_wrong_record(storage: FaultyStorage, byte: int) -> None:
    raw = bytearray(_log(storage, *VALUES))
    for mask in (0xFF, 0x0F, 0x80):
        raw[byte] ^= mask

        assert [value for value in _contents(_only(bytes(raw))) if value not in VALUES] == []


def test_torn_tail_is_cut_on_open(storage: FaultyStorage) -> None:
    raw = _log(storage, b"a", b"b")
    storage.put(segment_name(0), raw[:-1])

    with Log.open(storage) as log:
        log.append([b"c"])

    assert (log.recovered.cut, log.recovered.end) == (26, 1)
    assert list_segments(storage) == [0]
    assert _contents(storage) == [b"a", b"c"]


def test_resume_small_trailing_garbage(storage: FaultyStorage) -> None:
    _log(storage, *[bytes(256)] * 62, segment_bytes=4096)
    before = list_segments(storage)
    last = segment_name(before[-1])
    storage.put(last, storage.read(last) + b"\x7f" * 21)

    with Log.open(storage) as log:
        for _ in range(4):
            log.append([bytes(256)])
            log.write()

    assert log.recovered.cut == 21
    assert list_segments(storage)[: len(before)] == before
    assert len(_contents(storage)) == 66


def test_what_was_cut_is_cut_for_good_before_the_log_goes_on(storage: FaultyStorage) -> None:
    raw = _log(storage, b"a", b"b")
    storage.put(segment_name(0), raw + b"torn" * 8)

    Log.open(storage)

    assert storage.crash(keep=0).read(segment_name(0)) == raw


def test_what_a_process_left_in_the_page_cache_is_synced_before_it_is_relied_on() -> None:
    storage = FaultyStorage()
    log = Log.create(storage)
    log.append([b"a"])
    log.write()
    assert _contents(storage.crash(keep=0)) == []

    again = Log.open(storage)

    assert again.synced == 1
    assert _contents(storage.crash(keep=0)) == [b"a"]


def test_what_a_failed_sync_left_in_the_cache_of_a_killed_process_is_on_the_disk_before_it_is_relied_on() -> None:
    for seed in range(20):
        storage = FaultyStorage(seed)
        log = Log.create(storage)
        log.append([b"a"])
        log.write()
        storage.fail("sync")
        storage.fail("create")
        with pytest.raises(LogWriteError):
            log.sync()
        log.abandon()

        again = Log.open(storage)

        assert again.synced == 1
        assert _contents(storage.crash(keep=0)) == [b"a"]
        storage.evict()
        assert [commit.content for commit in again.reader().commits()] == [b"a"]


def test_opening_again_does_not_believe_a_file_whose_sync_failed_while_opening() -> None:
    for seed in range(20):
        storage = FaultyStorage(seed)
        log = Log.create(storage)
        log.append([b"a"])
        log.write()
        log.abandon()
        storage.fail("sync")
        with pytest.raises(LogWriteError):
            Log.open(storage)

        again = Log.open(storage)

        assert again.synced == 1
        assert _contents(storage.crash(keep=0)) == [b"a"]


def test_the_name_a_process_left_in_the_cache_is_synced_before_it_is_relied_on() -> None:
    storage = FaultyStorage()
    log = Log.create(storage)
    for value in (b"a", b"b"):
        log.append([value])
        log.write()
        if value == b"a":
            log.sync()
    storage.fail("sync", name=segment_name(0))
    storage.fail("sync_directory")
    with pytest.raises(LogWriteError):
        log.sync()
    assert list_segments(storage) == [0, 1]
    log.abandon()
    storage.open(segment_name(0), "write").truncate(37)
    # What would sync the directory on its way.
    storage.fail("create", name=".ofs")

    again = Log.open(storage)

    assert again.synced == 2
    assert _contents(storage.crash(keep=0)) == [b"a", b"b"]


def test_reopen_with_corrupt_last_commit() -> None:
    storage = FaultyStorage(capacity=800)
    log = Log.create(storage)
    with pytest.raises(LogFullError):
        _write_until_full(log)
    raw = bytearray(storage.read(segment_name(0)))
    raw[-1] ^= 1
    storage.heal()
    storage.put(segment_name(0), bytes(raw))

    log = Log.open(storage)
    storage.capacity = sum(storage.size(name).length for name in storage.list()) + 13 * 58
    with pytest.raises(LogFullError):
        _write_until_full(log)

    assert len(_contents(storage)) == 2 * 13 - 1
    assert storage.read("00000000000000000000.706.gap") == bytes(raw[706:])


def test_a_tail_that_may_have_been_a_commit_is_kept_before_it_is_cut(storage: FaultyStorage) -> None:
    raw = _log(storage, b"a", b"b" * 50)
    storage.put(segment_name(0), raw[:-1])
    storage.calls.clear()

    Log.open(storage)

    assert storage.read("00000000000000000000.37.gap") == raw[37:-1]
    operations = [operation for operation, _ in storage.calls]
    assert operations.index("sync_directory") < operations.index("truncate")


def test_a_tail_that_cannot_be_kept_is_left_and_the_log_goes_on_in_a_new_segment(storage: FaultyStorage) -> None:
    raw = _log(storage, b"a", b"b")[:-1]
    storage.put(segment_name(0), raw)
    storage.fail("create", errno.ENOSPC, name=".gap")

    with Log.open(storage) as log:
        log.append([b"c"])

    assert list_segments(storage) == [0, 1]
    assert storage.read(segment_name(0)) == raw
    assert _contents(storage) == [b"a", b"c"]


def test_first_commit_in_last_segment_corrupt(storage: FaultyStorage) -> None:
    _log(storage, *[bytes(32)] * 4, segment_bytes=128)
    storage.put(segment_name(3), encode_header() + b"\1" + bytes(57))

    with Log.open(storage) as log:
        log.append([b"new"])

    assert (log.recovered.end, list_segments(storage)) == (3, [0, 3])
    assert _contents(storage) == [bytes(32)] * 3 + [b"new"]
    assert storage.read("00000000000000000003.10.gap") == b"\1" + bytes(57)


def test_a_segment_of_no_commit_that_cannot_be_kept_is_not_destroyed(storage: FaultyStorage) -> None:
    storage.put(segment_name(0), junk := encode_header() + b"?" * 99)
    storage.fail("create", errno.ENOSPC, name=".gap")

    with pytest.raises(LogWriteError, match="cannot be set aside"):
        Log.open(storage)

    assert storage.read(segment_name(0)) == junk


def test_a_bad_middle_is_skipped_counted_and_kept(storage: FaultyStorage) -> None:
    raw = bytearray(_log(storage, b"a" * 9, b"b" * 9, b"c" * 9))
    raw[10 + 35 + 24] ^= 1
    storage.put(segment_name(0), bytes(raw))

    with Log.open(storage) as log:
        log.append([b"d"])

    assert log.recovered.gaps == (Gap(0, 45, 35, 1, 1, Damage.CHECKSUM),)
    assert storage.read("00000000000000000000.45.gap") == bytes(raw[45:80])
    assert _contents(storage) == [b"a" * 9, b"c" * 9, b"d"]
    assert list_segments(storage) == [0, 3]


def test_a_bad_middle_whose_bytes_cannot_be_kept_does_not_keep_the_log_from_opening(storage: FaultyStorage) -> None:
    raw = bytearray(_log(storage, b"a", b"b", b"c"))
    raw[50] ^= 1
    storage.put(segment_name(0), bytes(raw))
    storage.fail("create", errno.ENOSPC, name=".gap")

    assert Log.open(storage).appended == 3


def test_strict_says_where_what_and_why_and_changes_nothing(storage: FaultyStorage) -> None:
    raw = bytearray(_log(storage, b"a", b"b", b"c"))
    cases: list[tuple[int, Damage, int, int | None]] = [
        (3, Damage.HEADER, 0, 0),
        (50, Damage.TOO_LONG, 37, 1),
        (60, Damage.CHECKSUM, 37, 1),
        (len(raw) - 1, Damage.CHECKSUM, 64, 2),
    ]
    for byte, reason, position, offset in cases:
        flipped = bytearray(raw)
        flipped[byte] ^= 0x40
        storage = _only(bytes(flipped))

        with pytest.raises(CorruptCommitError) as caught:
            Log.open(storage, strict=True)

        error = caught.value
        assert (error.segment, error.position, error.offset) == (segment_name(0), position, offset)
        assert error.reason in {reason, Damage.CHECKSUM}
        assert (storage.list(), storage.read(segment_name(0))) == ([segment_name(0)], bytes(flipped))


def test_strict_does_not_mind_a_torn_tail(storage: FaultyStorage) -> None:
    raw = _log(storage, b"a", b"b")
    storage.put(segment_name(0), raw[:-1])

    assert Log.open(storage, strict=True).appended == 1


def test_only_the_last_segment_is_read(storage: FaultyStorage) -> None:
    _log(storage, *[bytes(100)] * 50, segment_bytes=1000)
    storage.calls.clear()

    Log.open(storage)

    last = list_segments(storage)[-1]
    assert {name for operation, name in storage.calls if operation == "read"} <= {
        segment_name(first) for first in list_segments(storage)[-2:]
    } | {index_name(last), index_name(list_segments(storage)[-2])}
    assert storage.bytes_read < 100_000


def test_open_checks_from_the_last_good_entry_of_the_index_and_reads_the_rest_once(storage: FaultyStorage) -> None:
    with Log.create(storage, LogOptions(index_interval=100)) as log:
        for _ in range(2000):
            log.append([bytes(1000)])
        log.write()
    storage.bytes_read = 0

    Log.open(storage)

    # Once: to write it again.
    assert storage.bytes_read - storage.size(segment_name(0)).length < 100_000


@pytest.mark.parametrize("index", [None, b"", encode_entries([Entry(1, 11)])])
def test_a_missing_or_wrong_index_is_rebuilt(storage: FaultyStorage, index: bytes | None) -> None:
    _log(storage, *[bytes(1000)] * 50)
    true = storage.read(index_name(0))
    storage.delete(index_name(0))
    if index is not None:
        storage.put(index_name(0), index)

    Log.open(storage)

    assert storage.read(index_name(0)) == true


@pytest.mark.parametrize("version", [0, 1])
def test_reserved_zeros_are_cut(foreign_segment: Callable[..., bytes], version: int) -> None:
    storage = _only(foreign_segment([b"a", b"b"], version=version) + bytes(4000))

    with Log.open(storage) as log:
        log.append([b"c"])

    assert _contents(storage) == [b"a", b"b", b"c"]
    assert not [name for name in storage.list() if name.endswith(".gap")]


def test_a_log_of_version_0_goes_on_in_a_segment_of_version_1(foreign_segment: Callable[..., bytes]) -> None:
    raw = foreign_segment([b"a", b"b"], version=0)
    storage = _only(raw)

    with Log.open(storage) as log:
        log.append([b"c"])

    assert (storage.read(segment_name(0)), storage.read(segment_name(2))[6]) == (raw, 1)
    assert _contents(storage) == [b"a", b"b", b"c"]


def test_resume_empty_segment(storage: FaultyStorage) -> None:
    options = LogOptions(segment_bytes=100)
    _log(storage, *[bytes(80)] * 5, segment_bytes=100)
    Log.open(storage, options).close()

    for size in (0, 5, HEADER_SIZE, 0):
        before = list_segments(storage)
        storage.put(segment_name(before[-1]), encode_header()[:size])
        with Log.open(storage, options) as log:
            end = log.appended
        assert end == before[-1]
    while len(firsts := list_segments(storage)) > 1 or storage.size(segment_name(0)).length > HEADER_SIZE:
        storage.put(segment_name(firsts[-1]), b"")
        Log.open(storage, options).close()

    assert list_segments(storage) == [0]


@pytest.mark.parametrize("content", [b"", b"(ds)^2", encode_header(), bytes(5), bytes(4096)])
def test_an_empty_segment_proves_that_the_offsets_before_it_were_given_out(
    storage: FaultyStorage, content: bytes
) -> None:
    storage.put(segment_name(1000), content)
    storage.put(index_name(1000), bytes(16))

    with Log.open(storage) as log:
        log.append([b"a"])

    assert (log.appended, list_segments(storage)) == (1001, [1000])


def test_a_power_cut_while_an_empty_segment_is_opened_leaves_the_proof_that_offsets_were_given_out() -> None:
    for keep in (0, 1):
        for calls in range(40):
            storage = FaultyStorage()
            storage.put(segment_name(500), encode_header())
            storage.put(segment_name(1000), encode_header())
            storage.cut_power_in(calls, keep=keep)
            Log.open(storage).close()
            wreck = storage.wreck or storage.crash(keep=keep)

            with Log.open(wreck) as log:
                assert log.appended == 1000
            assert list_segments(wreck) == [1000]


def test_an_empty_segment_is_deleted_once_offsets_given_out_later_are_proved(storage: FaultyStorage) -> None:
    storage.put(segment_name(1000), encode_header())
    storage.fail("replace")
    with pytest.raises(LogWriteError):
        Log.open(storage, at_least=1010)
    assert list_segments(storage) == [1000]

    Log.open(storage, at_least=1010).close()

    assert list_segments(storage.crash(keep=0)) == [1010]


def test_a_tail_lost_before_an_empty_segment_is_a_hole_and_its_offsets_are_not_given_out_again(
    storage: FaultyStorage,
) -> None:
    raw = _log(storage, b"a", b"b")
    storage.put(segment_name(0), raw[:-27])
    storage.put(segment_name(2), encode_header())

    with Log.open(storage) as log:
        assert log.append([b"c"]) == range(2, 3)
        log.write()
        reader = log.reader()
        found = [(commit.offset, commit.content) for commit in reader.commits()]

    assert (found, reader.gaps, reader.missing) == ([(0, b"a"), (2, b"c")], 1, 1)


def test_offsets_below_at_least_are_not_given_out_again(storage: FaultyStorage) -> None:
    _log(storage, b"a", b"b")

    with Log.open(storage, at_least=10) as log:
        assert log.append([b"c"]) == range(10, 11)
    with Log.open(storage, at_least=10) as log:
        assert log.appended == 11

    assert list_segments(storage) == [0, 10]


def test_nothing_is_a_fresh_log(storage: FaultyStorage) -> None:
    log = Log.open(storage)

    assert (log.appended, log.epoch, list_segments(storage)) == (0, 0, [0])
    assert list_segments(storage.crash(keep=0)) == [0]


def test_what_a_writer_that_died_half_made_is_deleted(storage: FaultyStorage) -> None:
    _log(storage, b"a")
    storage.put(f"{segment_name(1)}.1-2.tmp", b"half")
    storage.put(index_name(77), bytes(16))
    storage.put("notes.txt", b"not ours")

    Log.open(storage)

    assert sorted(storage.list()) == sorted([segment_name(0), index_name(0), "notes.txt"])


def test_a_damaged_header_is_left_and_a_new_segment_begun(storage: FaultyStorage) -> None:
    raw = bytearray(_log(storage, b"a"))
    raw[0] ^= 1
    storage.put(segment_name(0), bytes(raw))

    with Log.open(storage) as log:
        log.append([b"b"])

    assert list_segments(storage) == [0, 1]
    assert _contents(storage) == [b"a", b"b"]


@pytest.mark.parametrize("operation", ["list", "open", "read", "sync", "truncate", "sync_directory", "create"])
def test_a_disk_that_refuses_says_so_and_opening_later_finds_everything(operation: str) -> None:
    storage = FaultyStorage()
    raw = _log(storage, b"a")
    storage.put(segment_name(0), raw + b"?" * 5)
    storage.fail(operation, errno.EIO)

    with contextlib.suppress(LogWriteError):
        # Some of it can be done without.
        Log.open(storage).close()
    storage.heal()

    with Log.open(storage) as log:
        assert log.appended == 1
    assert _contents(storage) == [b"a"]


def test_a_copy_of_an_older_commit_in_a_damaged_one_is_not_ours() -> None:
    inner = encode_commit(2, b"theirs", 1)
    damaged = bytearray(encode_commit(1, b"ours" + inner, 1))
    damaged[19] ^= 1
    content = encode_header() + encode_commit(0, b"ours", 1) + bytes(damaged) + encode_commit(2, b"ours too", 1)
    storage = _only(content)

    found = LogReader(storage, is_ours=lambda head: head.startswith(b"ours")).commits()
    opened = Log.open(storage, is_ours=lambda head: head.startswith(b"ours"))

    assert [commit.content for commit in found] == [b"ours", b"ours too"]
    assert [(gap.missing, gap.offset) for gap in opened.recovered.gaps] == [(1, 1)]
    assert opened.appended == 3


def test_opening_says_what_it_found(storage: FaultyStorage, said_by: Callable[[str], list[logging.LogRecord]]) -> None:
    storage.put(segment_name(0), _log(storage, b"a") + b"torn")

    Log.open(storage)
    Log.open(storage)

    assert [record.getMessage().split(" ")[:2] for record in said_by("eventrec.log.log")] == [["log", "recovered"]]


@pytest.mark.parametrize("byte", [*range(HEADER_SIZE, HEADER_SIZE + 26), 40, 41, 42])
def test_a_last_commit_that_went_bad_keeps_its_offsets_where_they_are_counted(byte: int) -> None:
    storage = _only(encode_header() + encode_commit(0, b"records", 5))
    raw = bytearray(storage.read(segment_name(0)))
    raw[byte] ^= 0x08
    storage.put(segment_name(0), bytes(raw))

    with Log.open(storage, counts_tail=True) as log:
        assert log.recovered.lost >= 1
        assert log.appended == log.recovered.lost
        if byte not in range(HEADER_SIZE, HEADER_SIZE + 8) and byte not in (HEADER_SIZE + 16, HEADER_SIZE + 17):
            assert log.recovered.lost == 5
        log.append([b"new"])
    with Log.open(storage, counts_tail=True) as log:
        assert log.recovered.lost == 0
        assert log.appended > 1


@pytest.mark.parametrize("keep", [None, 0.0, 0.5, 1.0])
def test_a_tail_that_is_counted_is_counted_though_the_first_to_open_it_is_killed(keep: float | None) -> None:
    raw = encode_header() + encode_commit(0, b"whole", 3) + encode_commit(3, b"records", 5)

    for calls in itertools.count():
        storage = _only(raw[:-1] + b"x")
        if keep is None:
            storage.kill_in(calls)
        else:
            storage.cut_power_in(calls, keep=keep)
        Log.open(storage, counts_tail=True).close()
        if storage.wreck is None:
            break

        with Log.open(storage.wreck, counts_tail=True) as log:
            assert log.appended == 8, f"killed before call {calls}: {storage.calls[calls]}"
    assert calls > 10


@pytest.mark.parametrize("operation", ["open", "create", "replace", "write", "truncate", "sync", "sync_directory"])
def test_a_tail_that_is_counted_is_counted_though_the_disk_refused_first(operation: str) -> None:
    raw = encode_header() + encode_commit(0, b"whole", 3) + encode_commit(3, b"records", 5)

    for after in range(8):
        storage = _only(raw[:-1] + b"x")
        storage.fail(operation, after=after)
        with contextlib.suppress(LogWriteError, OSError):
            Log.open(storage, counts_tail=True).close()
        storage.heal()

        with Log.open(storage, counts_tail=True) as log:
            assert log.appended == 8, f"{operation} failed after {after}: {storage.calls}"


def test_a_clean_end_and_reserved_space_hold_no_records() -> None:
    for rest in (b"", bytes(100)):
        storage = _only(encode_header() + encode_commit(0, b"records", 5) + rest)

        with Log.open(storage, counts_tail=True) as log:
            assert (log.recovered.lost, log.appended) == (0, 5)


@pytest.mark.parametrize("version", [2, 7, 255])
def test_a_segment_of_a_newer_version_is_refused_and_left_as_it_is(version: int) -> None:
    raw = bytes((*encode_header()[:6], version, *encode_header()[7:])) + b"what a later format makes of records"
    storage = _only(raw)

    with pytest.raises(LogError, match=f"version {version}"):
        Log.open(storage)
    with pytest.raises(LogError, match=f"version {version}"):
        list(LogReader(storage).commits())

    assert storage.list() == [segment_name(0)]
    assert storage.read(segment_name(0)) == raw


@pytest.mark.parametrize("position", [1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_an_index_whose_positions_no_file_can_have_is_passed_over(storage: FaultyStorage, position: int) -> None:
    _log(storage, *VALUES)
    storage.put(index_name(0), encode_entries([Entry(3, position)]))

    assert _contents(storage, 4) == [b"last"]
    with Log.open(storage) as log:
        assert log.appended == 5


def test_an_index_on_a_disk_whose_positions_no_file_can_have_is_passed_over(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    with Log.create(storage) as log:
        for value in VALUES:
            log.append([value])
    (tmp_path / index_name(0)).write_bytes(encode_entries([Entry(3, 1 << 63)]))

    with Log.open(storage) as log:
        assert log.appended == 5
    storage.close()


@pytest.mark.parametrize("after", range(6))
def test_what_an_opened_log_holds_survives_though_the_sync_of_a_cut_failed_before(after: int) -> None:
    storage = FaultyStorage()
    log = Log.create(storage)
    for _ in range(3):
        log.append([b"record"])
        log.sync()
    storage.fail("sync", after=after)
    with contextlib.suppress(LogWriteError):
        log.reset_to(0)
    log.abandon()
    storage.heal()

    opened = Log.open(storage)
    opened.abandon()

    left = [commit.offset for commit in LogReader(storage.crash(keep=0)).commits()]
    assert left == list(range(opened.appended))
