"""Reading what somebody else writes, has written, moved, cut, compressed, deleted or damaged."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Literal

import pytest

from eventrec.errors import CorruptCommitError, Damage
from eventrec.log.commit import encode_commit
from eventrec.log.log import Log, LogOptions
from eventrec.log.reader import Extent, LogReader
from eventrec.log.segment import encode_header, index_name, list_segments, segment_name
from eventrec.log.walk import Gap, Tail

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.testing.storage import FaultyStorage


def _segment(storage: FaultyStorage, first: int, *commits: bytes) -> bytes:
    raw = encode_header() + b"".join(commits)
    storage.put(segment_name(first), raw)
    return raw


def _commit(offset: int, content: bytes = b"x", n: int = 1) -> bytes:
    return encode_commit(offset, content, n)


def _bad(commit: bytes) -> bytes:
    return commit[:-1] + bytes((commit[-1] ^ 1,))


def _offsets(storage: FaultyStorage, start: int = 0) -> list[int]:
    return [commit.offset for commit in LogReader(storage, start).commits()]


def _first_error(storage: FaultyStorage) -> CorruptCommitError:
    reader = LogReader(storage, strict=True)
    with pytest.raises(CorruptCommitError) as caught:
        list(reader.commits())
    with pytest.raises(CorruptCommitError) as again:
        reader.read()
    assert (again.value.position, again.value.reason) == (caught.value.position, caught.value.reason)
    return caught.value


def test_traverse_commits_ignores_duplicates(storage: FaultyStorage) -> None:
    _segment(storage, 0, _commit(0), _commit(0), _commit(1), _commit(1))

    assert [commit.offset for commit in LogReader(storage, strict=True).commits()] == [0, 1]


def test_traverse_commits_errors_when_forked(storage: FaultyStorage) -> None:
    _segment(storage, 0, _commit(0, b"a"), _commit(0, b"b"))

    error = _first_error(storage)

    assert (error.reason, error.position, error.segment) == (Damage.FORKED, 37, segment_name(0))


def test_traverse_commits_errors_when_offset_not_contiguous(storage: FaultyStorage) -> None:
    _segment(storage, 0, _commit(0), _commit(18))

    error = _first_error(storage)

    assert (error.reason, error.offset, error.position) == (Damage.HOLE, 1, 37)


def test_what_was_read_before_damage_is_returned_before_it_is_raised(storage: FaultyStorage) -> None:
    _segment(storage, 0, _commit(0), _bad(_commit(1)), _commit(2))
    reader = LogReader(storage, strict=True)

    first = reader.read()

    assert [commit.offset for commit in first] == [0]
    for _ in range(2):
        with pytest.raises(CorruptCommitError, match=r"byte 37: checksum \(record 1 expected") as caught:
            reader.read()
        assert caught.value.offset == 1


def test_detect_bitflip_during_traversal(storage: FaultyStorage) -> None:
    with Log.create(storage, LogOptions(segment_bytes=1024)) as log:
        for _ in range(30):
            log.append([bytes(32)] * 10)
            log.write()
    for first in list_segments(storage)[:3]:
        whole = storage.read(segment_name(first))
        for byte in range(32, len(whole) - 1, 97):
            raw = bytearray(whole)
            raw[byte] ^= 0x10
            storage.put(segment_name(first), bytes(raw))
            reader = LogReader(storage, strict=True)
            with pytest.raises(CorruptCommitError) as caught:
                list(reader.commits())
            assert caught.value.segment == segment_name(first)
            assert caught.value.position <= byte
        storage.put(segment_name(first), whole)


def test_a_wrong_last_commit_is_strictly_an_error_and_otherwise_the_end(storage: FaultyStorage) -> None:
    _segment(storage, 0, _commit(0), _bad(_commit(1)))

    error = _first_error(storage)
    reader = LogReader(storage)

    assert (error.reason, error.position, error.offset) == (Damage.CHECKSUM, 37, 1)
    assert ([commit.offset for commit in reader.commits()], reader.tail, reader.gaps) == ([0], Tail.DAMAGED, 0)


def test_a_torn_tail_followed_by_the_next_segment_is_superseded(storage: FaultyStorage) -> None:
    for tail in (_commit(1)[:9], _commit(1)[:-1], _bad(_commit(1)), b"?" * 60, bytes(60)):
        _segment(storage, 0, _commit(0), tail)
        _segment(storage, 1, _commit(1, b"again"))

        assert [commit.content for commit in LogReader(storage, strict=True).commits()] == [b"x", b"again"]


def test_records_lost_at_the_end_of_a_segment_are_a_gap(storage: FaultyStorage) -> None:
    gaps: list[Gap] = []
    _segment(storage, 0, _commit(0), _bad(_commit(1)))
    _segment(storage, 2, _commit(2))
    reader = LogReader(storage, on_gap=gaps.append)

    found = [commit.offset for commit in reader.commits()]

    assert (found, gaps) == ([0, 2], [Gap(0, 37, 27, 1, 1, Damage.CHECKSUM)])
    assert (reader.gaps, reader.missing, reader.skipped) == (1, 1, 27)
    assert _first_error(storage).offset == 1


def test_a_segment_that_is_missing_is_a_gap_without_bytes(storage: FaultyStorage) -> None:
    gaps: list[Gap] = []
    _segment(storage, 0, _commit(0))
    _segment(storage, 5, _commit(5))

    found = [commit.offset for commit in LogReader(storage, on_gap=gaps.append).commits()]

    assert (found, gaps) == ([0, 5], [Gap(0, 37, 0, 1, 4, Damage.HOLE)])


def test_damage_before_the_start_is_not_the_readers(storage: FaultyStorage) -> None:
    _segment(storage, 0, _commit(0), _bad(_commit(1)), _commit(2), _commit(3))
    reader = LogReader(storage, 3, strict=True)

    assert [commit.offset for commit in reader.commits()] == [3]


def test_reading_begins_with_the_first_segment_where_the_start_is_deleted(storage: FaultyStorage) -> None:
    _segment(storage, 100, _commit(100), _commit(101))
    reader = LogReader(storage, 7)

    assert ([commit.offset for commit in reader.commits()], reader.gaps) == ([100, 101], 0)


def test_a_segment_deleted_under_a_reader_is_a_gap(storage: FaultyStorage) -> None:
    _segment(storage, 0, _commit(0))
    for strict in (False, True):
        _segment(storage, 0, _commit(0))
        gaps: list[Gap] = []
        reader = LogReader(storage, on_gap=gaps.append, strict=strict)
        assert [commit.offset for commit in reader.commits()] == [0]
        storage.delete(segment_name(0))
        _segment(storage, 4, _commit(4))

        if strict:
            for _ in range(2):
                with pytest.raises(CorruptCommitError):
                    reader.read()
        else:
            assert [commit.offset for commit in reader.commits()] == [4]
            assert gaps == [Gap(4, 10, 0, 1, 3, Damage.HOLE)]
        storage.delete(segment_name(4))


def test_a_segment_deleted_while_it_is_opened_is_looked_for_again(
    storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _segment(storage, 0, _commit(0))
    _segment(storage, 1, _commit(1))
    real = storage.open

    def open_late(name: str, mode: Literal["read", "write", "create"]) -> object:
        if name == segment_name(0) and name in storage._names:
            storage.delete(name)
        return real(name, mode)

    monkeypatch.setattr(storage, "open", open_late)

    assert _offsets(storage) == [1]


def test_an_empty_last_segment_supersedes_nothing(storage: FaultyStorage) -> None:
    _segment(storage, 0, _commit(0), _commit(1))
    _segment(storage, 1)

    assert _offsets(storage) == [0, 1]


def test_an_empty_last_segment_that_goes_while_it_is_looked_at_is_empty(
    storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _segment(storage, 0, _commit(0))
    monkeypatch.setattr(storage, "list", lambda: [segment_name(0), segment_name(1)])

    assert _offsets(storage) == [0]


def test_a_reader_sees_a_commit_when_its_last_byte_is_there(storage: FaultyStorage) -> None:
    raw = _segment(storage, 0, _commit(0, b"abc"), _commit(1, b"def"))
    reader = LogReader(storage)

    seen = []
    for size in range(len(raw) + 1):
        storage.put(segment_name(0), raw[:size])
        seen += [(commit.offset, size) for commit in reader.read()]

    assert seen == [(0, 39), (1, 68)]
    assert (reader.gaps, reader.tail) == (0, Tail.CLEAN)


def test_a_torn_tail_is_searched_once_however_often_it_is_asked(storage: FaultyStorage) -> None:
    _segment(storage, 0, _commit(0), b"?" * 500_000)
    reader = LogReader(storage)
    reader.read()
    reader.read()
    before = storage.bytes_read

    for _ in range(50):
        assert reader.read() == []

    assert storage.bytes_read - before < 50 * 200
    assert (reader.tail, reader.gaps) == (Tail.TORN, 0)


def test_a_torn_tail_with_a_commit_behind_it_becomes_a_gap(storage: FaultyStorage) -> None:
    raw = _segment(storage, 0, _commit(0), b"?" * 50)
    reader = LogReader(storage)
    reader.read()
    reader.read()

    storage.put(segment_name(0), raw + _commit(3))

    assert [commit.offset for commit in reader.read()] == [3]
    assert (reader.gaps, reader.missing, reader.skipped) == (1, 2, 50)


def test_the_owners_reader_keeps_what_it_passes_over_and_others_change_nothing(storage: FaultyStorage) -> None:
    with Log.create(storage, LogOptions(segment_bytes=100)) as log:
        for value in (b"a" * 40, b"b" * 40, b"c" * 40):
            log.append([value])
            log.write()
        raw = bytearray(storage.read(segment_name(0)))
        raw[40] ^= 1
        storage.put(segment_name(0), bytes(raw))
        names = storage.list()

        foreign = LogReader(storage)
        assert len(list(foreign.commits())) == 2
        assert storage.list() == names
        for _ in range(2):
            assert len(list(log.reader().commits())) == 2
        assert storage.read("00000000000000000000.10.gap") == bytes(raw[10:76])


def test_the_owners_reader_rebuilds_a_missing_index(storage: FaultyStorage) -> None:
    with Log.create(storage, LogOptions(segment_bytes=50_000)) as log:
        for _ in range(100):
            log.append([bytes(1000)])
            log.write()
        storage.delete(index_name(0))

        list(LogReader(storage, 40).commits())
        assert index_name(0) not in storage.list()
        next(log.reader(40).commits())
        assert index_name(0) in storage.list()
        storage.bytes_read = 0
        LogReader(storage, 48).read(max_bytes=1)

    assert storage.bytes_read < 30_000


def test_an_index_that_cannot_be_rebuilt_is_done_without(storage: FaultyStorage) -> None:
    with Log.create(storage, LogOptions(segment_bytes=50_000)) as log:
        for _ in range(100):
            log.append([bytes(1000)])
            log.write()
        storage.delete(index_name(0))
        storage.fail("create", errno.ENOSPC, times=99)

        assert next(log.reader(40).commits()).offset == 40


def test_a_disk_that_cannot_be_read_is_an_error_and_reading_goes_on_later(storage: FaultyStorage) -> None:
    _segment(storage, 0, _commit(0), _commit(1))
    reader = LogReader(storage)
    storage.fail("read", after=6)

    seen = []
    for _ in range(4):
        try:
            seen += [commit.offset for commit in reader.read()]
        except OSError as error:
            assert error.errno == errno.EIO  # noqa: PT017  it may or may not come, but only this
    reader.close()

    assert seen == [0, 1]


def test_version_0_is_read_to_the_end_and_in_the_middle(
    storage: FaultyStorage, foreign_segment: Callable[..., bytes]
) -> None:
    storage.put(segment_name(0), foreign_segment([b"a", b"b"], version=0))
    storage.put(segment_name(2), foreign_segment([b"c", b"d"], 2, version=1))

    for start in range(5):
        assert _offsets(storage, start) == list(range(start, 4))


def test_version_0_is_followed_while_it_grows(storage: FaultyStorage, foreign_segment: Callable[..., bytes]) -> None:
    raw = foreign_segment([b"a", b"b", b"c", b"d"], version=0)
    reader = LogReader(storage)

    seen = []
    for size in range(10, len(raw) + 1):
        storage.put(segment_name(0), raw[:size])
        seen += [commit.content for commit in reader.read()]

    assert (seen, reader.gaps) == ([b"a", b"b", b"c", b"d"], 0)


def test_a_reader_closes_and_goes_on(storage: FaultyStorage) -> None:
    _segment(storage, 0, *[_commit(i) for i in range(10)])

    with LogReader(storage) as reader:
        first = [commit.offset for commit in reader.read(max_bytes=1)]
    rest = [commit.offset for commit in reader.commits()]

    assert (first, rest) == ([0], list(range(1, 10)))


def test_a_reader_that_seeks_and_closes_before_its_start_goes_on_there(storage: FaultyStorage) -> None:
    _segment(storage, 0, *[_commit(i) for i in range(5)])
    reader = LogReader(storage, 9)
    assert reader.read() == []

    _segment(storage, 0, *[_commit(i) for i in range(12)])

    assert ([commit.offset for commit in reader.commits()], reader.gaps) == ([9, 10, 11], 0)


def test_a_gap_that_turns_out_to_be_a_new_segment_is_none(storage: FaultyStorage) -> None:
    raw = _segment(storage, 0, _commit(0), _bad(_commit(1)), _commit(2))
    reader = LogReader(storage)
    reader.read(max_bytes=1)
    assert raw
    _segment(storage, 1, _commit(1), _commit(2))

    assert ([commit.offset for commit in reader.commits()], reader.gaps) == ([1, 2], 0)


def test_a_lost_end_that_turns_out_to_be_a_new_segment_is_none(storage: FaultyStorage) -> None:
    _segment(storage, 0, _commit(0), _bad(_commit(1)))
    _segment(storage, 2, _commit(2))
    reader = LogReader(storage)
    reader.read(max_bytes=1)
    _segment(storage, 1, _commit(1))

    assert ([commit.offset for commit in reader.commits()], reader.gaps) == ([1, 2], 0)


def test_a_segment_filled_and_followed_while_it_is_opened_is_read_whole(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=100))
    log.append([b"a"])
    log.write()
    asked = 0

    def extent() -> Extent:
        nonlocal asked
        now = log._readable()
        asked += 1
        if asked == 2:
            for _ in range(4):
                log.append([b"x" * 60])
                log.write()
        return now

    reader = LogReader(storage, extent=extent)

    assert [commit.offset for commit in reader.commits()] == [0, 1, 2, 3, 4]
    assert (reader.gaps, reader.missing) == (0, 0)
