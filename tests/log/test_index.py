from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from eventrec.log.index import Entry, IndexPlan, OffsetIndex, encode_entries
from eventrec.log.log import Log, LogOptions
from eventrec.log.repair import rebuild_index
from eventrec.log.segment import index_name, load_index, segment_name

if TYPE_CHECKING:
    from eventrec.testing.storage import FaultyStorage


def _index(*offsets: int) -> OffsetIndex:
    return OffsetIndex(encode_entries([Entry(offset, offset * 100) for offset in offsets]))


def test_an_entry_is_sixteen_bytes_offset_then_position() -> None:
    raw = encode_entries([Entry(1, 292), Entry(2, 574)])

    assert raw == struct.pack("<QQQQ", 1, 292, 2, 574)


def test_a_lookup_in_an_empty_index_fails() -> None:
    with pytest.raises(KeyError):
        OffsetIndex().lookup(5)


@pytest.mark.parametrize(("offset", "found"), [(1, 1), (3, 3), (4, 3), (9, 7), (2**64 - 1, 7)])
def test_a_lookup_finds_the_nearest_entry_at_or_below(offset: int, found: int) -> None:
    entry = _index(1, 3, 7).lookup(offset)

    assert entry == Entry(found, found * 100)


def test_a_lookup_below_the_first_entry_fails() -> None:
    with pytest.raises(KeyError):
        _index(3, 7).lookup(2)


def test_append_takes_rising_offsets_only() -> None:
    index = OffsetIndex()
    index.append(Entry(2, 10))

    for offset in (0, 1, 2):
        with pytest.raises(ValueError, match=str(offset)):
            index.append(Entry(offset, 99))
    index.append(Entry(3, 30))

    assert list(index) == [Entry(2, 10), Entry(3, 30)]
    assert OffsetIndex(index.encode()).lookup(3) == Entry(3, 30)


@pytest.mark.parametrize(
    ("offset", "left"), [(7, [1, 3]), (6, [1, 3]), (3, [1]), (2, [1]), (1, []), (0, []), (99, [1, 3, 7])]
)
def test_truncating_forgets_every_entry_at_or_above(offset: int, left: list[int]) -> None:
    index = _index(1, 3, 7)

    index.truncate(offset)
    index.truncate(offset)

    assert [entry.offset for entry in index] == left
    assert len(index) == len(left)


def test_truncating_an_empty_index_leaves_it_empty() -> None:
    index = OffsetIndex()

    index.truncate(0)

    assert len(index) == 0


def test_offset_index_writer_truncates_to_offset() -> None:
    for offset in range(10, 1, -1):
        index = _index(*range(1, 11))
        index.truncate(offset)
        again = OffsetIndex(index.encode() + bytes(160))
        assert len(again) == offset - 1
    index.truncate(1)
    with pytest.raises(KeyError):
        index.lookup(1)


@pytest.mark.parametrize(
    "junk",
    [b"", bytes(64), struct.pack("<QQ", 7, 900), struct.pack("<QQ", 8, 700), struct.pack("<QQ", 2, 2)],
)
def test_an_index_ends_at_an_entry_that_is_unused_cut_or_does_not_rise(junk: bytes) -> None:
    index = OffsetIndex(_index(1, 3, 7).encode() + junk + _index(20).encode())

    kept = [entry.offset for entry in index]

    assert kept == ([1, 3, 7, 20] if not junk else [1, 3, 7])


def test_half_an_entry_is_none() -> None:
    assert len(OffsetIndex(_index(1, 3).encode() + b"\x01" * 15)) == 2


def test_entries_are_tried_nearest_first() -> None:
    tried = list(_index(1, 3, 7, 9).candidates(8))

    assert [entry.offset for entry in tried] == [7, 3, 1]


def test_the_first_commit_of_every_interval_is_indexed_but_not_offset_zero() -> None:
    plan = IndexPlan(256)

    entries = [plan.note(i, 10 + 282 * i, 282) for i in range(4)]

    assert entries == [None, Entry(1, 292), Entry(2, 574), Entry(3, 856)]


def test_small_commits_share_an_entry() -> None:
    plan = IndexPlan(100)

    entries = [plan.note(i, 10 + 40 * i, 40) for i in range(1, 8)]

    assert entries == [None, None, Entry(1, 50), None, None, Entry(4, 170), None]


def test_a_log_indexes_what_it_syncs_and_rebuilding_gives_the_same(storage: FaultyStorage) -> None:
    with Log.create(storage, LogOptions(index_interval=256)) as log:
        for _ in range(6):
            log.append([bytes(256)])
            log.write()
        log.sync()
    written = storage.read(index_name(0))

    rebuild_index(storage, 0, 256)

    assert [tuple(entry) for entry in load_index(storage, 0)] == [(i, 10 + 282 * i) for i in range(1, 6)]
    assert storage.read(index_name(0)) == written


def test_an_index_is_begun_at_once_then_written_a_page_at_a_time_and_the_rest_at_the_end(
    storage: FaultyStorage,
) -> None:
    writes = []
    with Log.create(storage, LogOptions(index_interval=1)) as log:
        for _ in range(601):
            log.append([b"x"])
            log.write()
            log.sync()
        writes = [name for operation, name in storage.calls if operation == "write" and name == index_name(0)]

    assert len(writes) == 3
    assert len(load_index(storage, 0)) == 600


def test_an_index_of_an_earlier_life_is_cut_to_what_can_be_right(storage: FaultyStorage) -> None:
    with Log.create(storage, LogOptions(index_interval=1)) as log:
        for _ in range(20):
            log.append([b"x"])
        log.write()
    storage.put(index_name(0), encode_entries([Entry(1, 37), Entry(2, 64), Entry(30, 5000)]))
    for fault in (True, False):
        if fault:
            storage.fail("truncate", name="stdb.ofs", times=2)
        with Log.open(storage, LogOptions(index_interval=1)) as log:
            log.append([b"x"])

    assert [entry.offset for entry in load_index(storage, 0)] == [1, 2, 21]


def test_an_index_that_cannot_be_written_or_read_is_gone_without_and_the_log_goes_on(storage: FaultyStorage) -> None:
    with Log.create(storage, LogOptions(index_interval=64)) as log:
        log.append([b"a" * 99])
        storage.fail("create", name="stdb.ofs")
        for value in (b"b", b"c", b"d"):
            log.append([value * 99])
            log.write()
            log.sync()
            storage.fail("write", name="stdb.ofs")
        found = [commit.content for commit in log.reader(2).commits()]

    assert found == [b"c" * 99, b"d" * 99]
    storage.fail("open", name="stdb.ofs")
    assert len(load_index(storage, 0)) == 0
    storage.fail("open", name="stdb.log")
    assert not rebuild_index(storage, 0)


def test_reading_does_not_believe_an_index(storage: FaultyStorage) -> None:
    with Log.create(storage, LogOptions(index_interval=64)) as log:
        for i in range(20):
            log.append([b"%03d" % i * 20])
        log.write()
    true = list(load_index(storage, 0))
    lies = [
        [Entry(5, 10)],
        [Entry(5, 2**40)],
        [Entry(5, 11), Entry(15, true[14].position + 1)],
        [Entry(entry.offset + 1, entry.position) for entry in true],
        [Entry(1 + i, 11 + i) for i in range(200)],
    ]

    for lie in lies:
        storage.put(index_name(0), encode_entries(lie))
        with Log.open(storage) as log:
            assert (log.appended, next(log.reader(15).commits()).content) == (20, b"015" * 20)


def test_an_entry_at_a_commit_that_went_bad_is_passed_over(storage: FaultyStorage) -> None:
    with Log.create(storage, LogOptions(index_interval=1)) as log:
        for i in range(5):
            log.append([b"%03d" % i])
        log.write()
    raw = bytearray(storage.read(segment_name(0)))
    raw[-5] ^= 1
    storage.put(segment_name(0), bytes(raw))

    with Log.open(storage) as log:
        end = log.appended

    assert end == 4
