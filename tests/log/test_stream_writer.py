"""What becomes of a stream: which files it makes, what of it is refused, and what is on the disk when."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.errors import (
    CorruptCommitError,
    Damage,
    DivergedError,
    LogClosedError,
    LogError,
    LogFullError,
    LogWriteError,
)
from eventrec.log.log import Log, LogOptions
from eventrec.log.maintenance import compress_below
from eventrec.log.mirror import LastCommit, OnTrailing, StreamReader, StreamWriter
from eventrec.log.reader import LogReader
from eventrec.log.repair import rebuild_index
from eventrec.log.segment import encode_header, index_name, list_segments, load_index, segment_name
from eventrec.testing.storage import FaultyStorage, MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.log.walk import Gap
    from eventrec.testing.storage import MemoryFile

HEADER = encode_header()


def _files(storage: MemoryStorage) -> dict[str, bytes]:
    return {name: storage.read(name) for name in storage.list()}


def _stream(storage: MemoryStorage, start: int = 0, end: int | None = None) -> bytes:
    with StreamReader(storage, start=start, end=end) as reader:
        return b"".join(iter(reader.read, b""))


def _copy(stream: bytes, target: MemoryStorage, *, on_trailing: OnTrailing = OnTrailing.ERROR) -> StreamWriter:
    with StreamWriter.create(target, on_trailing=on_trailing, index_interval=150) as writer:
        writer.write(stream)
        writer.finish()
    return writer


@pytest.fixture
def source() -> FaultyStorage:
    """A log of 100 records, in commits of one and two, in several segments."""
    storage = FaultyStorage()
    with Log.create(storage, LogOptions(segment_bytes=1000, index_interval=150)) as log:
        for n in [1, 2] * 33 + [1]:
            log.append([bytes([log.appended]) * 32] * n)
            log.write()
    return storage


@pytest.fixture
def mirror() -> FaultyStorage:
    return FaultyStorage()


def test_a_copy_of_a_log_has_identical_files(source: FaultyStorage, mirror: FaultyStorage) -> None:
    writer = _copy(_stream(source), mirror)

    assert len(list_segments(source)) > 3
    assert _files(mirror) == _files(source)
    assert (writer.next_offset, writer.synced) == (100, 100)


@given(data=st.data())
def test_how_a_stream_is_cut_does_not_matter(data: st.DataObject) -> None:
    source, mirror = MemoryStorage(), MemoryStorage()
    options = LogOptions(segment_bytes=data.draw(st.sampled_from([1, 200, 100_000])), index_interval=150)
    with Log.create(source, options, first=data.draw(st.sampled_from([0, 7, 1 << 40]))) as log:
        for n in data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=10)):
            log.append([b"0123456789"] * n)
            log.write()
    stream = _stream(source)
    seen: list[int] = []

    with StreamWriter.create(mirror, index_interval=150) as writer:
        while stream:
            size = data.draw(st.integers(1, 60))
            writer.write(stream[:size], seen.extend)
            stream = stream[size:]
        writer.finish()

    assert _stream(mirror) == _stream(source)
    assert {name: content for name, content in _files(source).items() if len(content) > len(HEADER)} == _files(mirror)
    assert seen == list(range(log.first, log.appended))


def test_ranges_after_each_other_make_the_whole(source: FaultyStorage, mirror: FaultyStorage) -> None:
    for start in range(0, 100, 25):
        # Ranges that part a commit both have it.
        _copy(_stream(source, start, start + 25), mirror)

    assert _files(mirror) == _files(source)


def test_a_range_that_does_not_follow_is_refused(source: FaultyStorage, mirror: FaultyStorage) -> None:
    _copy(_stream(source, 0, 50), mirror)
    before = _files(mirror)

    with pytest.raises(CorruptCommitError) as caught:
        _copy(_stream(source, 75), mirror)

    assert (caught.value.reason, caught.value.offset) == (Damage.HOLE, 51)
    assert _files(mirror) == before


def test_what_is_there_already_is_refused(source: FaultyStorage, mirror: FaultyStorage) -> None:
    _copy(_stream(source), mirror)

    for start in (0, 40, list_segments(source)[-1]):
        with pytest.raises(CorruptCommitError, match="out of order"):
            _copy(_stream(source, start), mirror)

    assert _files(mirror) == _files(source)


def test_an_empty_log_has_no_last_commit_and_begins_where_the_stream_does(mirror: FaultyStorage) -> None:
    source = FaultyStorage()
    with Log.create(source, first=4711) as log:
        log.append([b"x"])
    writer = StreamWriter.create(mirror)
    nothing = (writer.last, writer.segment, writer.next_offset, writer.synced, mirror.list())

    writer.write(_stream(source))

    assert nothing == (None, None, 0, 0, [])
    assert writer.last is not None
    assert writer.last == LastCommit(4711, 4711, 4712, writer.last.checksum)
    assert (writer.segment, writer.next_offset, writer.synced) == (4711, 4712, 0)
    assert writer.sync_all() == 4712
    writer.close()
    assert _files(mirror) == _files(source)


def test_an_empty_log_takes_no_commit_without_a_header(source: FaultyStorage, mirror: FaultyStorage) -> None:
    with pytest.raises(CorruptCommitError, match="segment header"):
        _copy(_stream(source)[len(HEADER) :], mirror)

    assert mirror.list() == []


def test_a_segment_is_synced_with_its_index_when_the_next_begins(source: FaultyStorage, mirror: FaultyStorage) -> None:
    writer = StreamWriter.create(mirror, index_interval=150)
    stream = _stream(source)

    writer.write(stream)
    after = mirror.crash(keep=0)

    firsts = list_segments(source)
    for first in firsts[:-1]:
        assert after.read(segment_name(first)) == source.read(segment_name(first))
        assert after.read(index_name(first)) == source.read(index_name(first))
    assert after.read(segment_name(firsts[-1])) == HEADER
    writer.sync_all()
    assert _files(mirror.crash(keep=0)) == _files(source)


def test_only_what_a_header_or_less_is_of_is_replaced(source: FaultyStorage, mirror: FaultyStorage) -> None:
    for content in (b"", HEADER[:7], HEADER):
        storage = FaultyStorage()
        writer = StreamWriter.create(storage, index_interval=150)
        storage.put(segment_name(0), content)
        writer.write(_stream(source))
        writer.close()
        assert _files(storage) == _files(source)

    writer = StreamWriter.create(mirror)
    mirror.put(segment_name(0), HEADER + b"x")

    with pytest.raises(LogError, match="is there and is not empty"):
        writer.write(_stream(source))

    assert mirror.read(segment_name(0)) == HEADER + b"x"


@pytest.mark.parametrize("has_index", [True, False])
@pytest.mark.parametrize("cut", [1, 21, 40, 128])
def test_a_torn_end_is_an_error_or_is_cut(
    source: FaultyStorage, mirror: FaultyStorage, *, cut: int, has_index: bool
) -> None:
    _copy(_stream(source), mirror)
    newest = list_segments(mirror)[-1]
    whole = mirror.read(segment_name(newest))
    mirror.put(segment_name(newest), whole[:-cut])
    if not has_index:
        mirror.delete(index_name(newest))
    before = _files(mirror)

    with pytest.raises(CorruptCommitError) as caught:
        StreamWriter.create(mirror)

    assert caught.value.segment == segment_name(newest)
    assert _files(mirror) == before
    writer = StreamWriter.create(mirror, on_trailing=OnTrailing.TRIM, index_interval=150)
    assert len(mirror.read(segment_name(newest))) == caught.value.position
    assert all(entry.position < caught.value.position for entry in load_index(mirror, newest))
    writer.write(_stream(source, writer.next_offset))
    writer.close()
    assert _files(mirror) == _files(source)


def test_a_newest_segment_without_a_commit_is_empty(source: FaultyStorage, mirror: FaultyStorage) -> None:
    _copy(_stream(source, 0, 50), mirror)
    for content in (b"", HEADER[:9], HEADER, HEADER + bytes(4000), bytes(100)):
        mirror.put(segment_name(51), content)

        with StreamWriter.create(mirror) as writer:
            assert writer.next_offset == 51

    assert 51 not in list_segments(mirror)
    _copy(_stream(source, 51), mirror)
    assert _files(mirror) == _files(source)


def test_after_an_error_the_writer_is_consumed(source: FaultyStorage, mirror: FaultyStorage) -> None:
    writer = StreamWriter.create(mirror, index_interval=150)
    stream = _stream(source)
    with pytest.raises(CorruptCommitError):
        writer.write(stream[:2000] + b"\xff" + stream[2001:])

    for call in (lambda: writer.write(b""), writer.finish, writer.sync_all):
        with pytest.raises(LogClosedError, match="make it again"):
            call()
    writer.close()

    again = StreamWriter.create(mirror, index_interval=150)
    assert again.next_offset > 0
    again.write(_stream(source, again.next_offset))
    again.close()
    assert _files(mirror) == _files(source)


def test_a_failing_sync_names_the_segment_and_consumes_the_writer(source: FaultyStorage, mirror: FaultyStorage) -> None:
    writer = StreamWriter.create(mirror, index_interval=150)
    writer.write(_stream(source))
    newest = segment_name(list_segments(source)[-1])
    mirror.fail("sync", errno.EIO, name=newest)

    with pytest.raises(LogWriteError, match=newest):
        writer.sync_all()

    with pytest.raises(LogClosedError):
        writer.sync_all()
    # What the disk dropped is written again before it is relied on.
    with StreamWriter.create(mirror, on_trailing=OnTrailing.TRIM, index_interval=150) as again:
        after = mirror.crash(keep=0)
        assert again.synced == 100
    assert after.read(newest) == source.read(newest)


def test_a_source_that_wrote_commits_again_elsewhere_has_its_mirror_do_so(mirror: FaultyStorage) -> None:
    source = FaultyStorage()
    log = Log.create(source, LogOptions(index_interval=40))
    for content in (b"first", b"second", b"third"):
        log.append([content])
        log.write()
        if content == b"first":
            log.sync()
    reader, writer = StreamReader(source), StreamWriter.create(mirror, index_interval=40)
    writer.write(reader.read())
    source.fail("sync")
    log.append([b"fourth"])
    log.write()
    log.sync()

    while piece := reader.read():
        writer.write(piece)
    writer.finish()
    writer.close()
    log.close()

    assert list_segments(source) == [0, 1]
    assert _files(mirror) == _files(source)


def test_a_repetition_with_other_content_is_refused(
    mirror: FaultyStorage, foreign_commit: Callable[..., bytes], foreign_segment: Callable[..., bytes]
) -> None:
    writer = StreamWriter.create(mirror)
    writer.write(foreign_segment([b"first", b"second", b"third"]))
    before = _files(mirror)

    with pytest.raises(DivergedError):
        writer.write(HEADER + foreign_commit(1, b"other") + foreign_commit(2, b"third"))

    assert _files(mirror) == before


def test_a_compressed_newest_segment_goes_on_as_it_does_at_the_source(
    source: FaultyStorage, mirror: FaultyStorage
) -> None:
    middle = list_segments(source)[1] + 3
    _copy(_stream(source, 0, middle), mirror)
    newest = list_segments(mirror)[-1]
    with Log.open(mirror) as log:
        log.begin_segment()
        log.compress_below(log.written)

    writer = StreamWriter.create(mirror, index_interval=150)
    assert writer.segment == newest
    writer.write(_stream(source, writer.next_offset))
    writer.close()

    assert {first: mirror.read(segment_name(first)) for first in list_segments(mirror)[1:]} == {
        first: source.read(segment_name(first)) for first in list_segments(source)[1:]
    }
    assert list(LogReader(mirror, strict=True).commits()) == list(LogReader(source, strict=True).commits())


# -- versions and headers ----------------------------------------------------------------------------------------------


def test_an_old_log_is_mirrored_and_gone_on_with(mirror: FaultyStorage, foreign_segment: Callable[..., bytes]) -> None:
    source = FaultyStorage()
    source.put(segment_name(0), foreign_segment([bytes(200)] * 30, version=0))
    source.put(segment_name(30), foreign_segment([bytes(20)] * 30, 30, version=0))

    for start, end in ((0, 10), (10, 45), (45, None)):
        _copy(_stream(source, start, end), mirror)

    for first in (0, 30):
        assert mirror.read(segment_name(first)) == source.read(segment_name(first))
    assert len(mirror.read(index_name(0))) == 16 * 29
    assert [commit.content for commit in LogReader(mirror, strict=True).commits()] == [bytes(200)] * 30 + [
        bytes(20)
    ] * 30


def test_an_old_log_with_a_torn_end_is_trimmed(mirror: FaultyStorage, foreign_segment: Callable[..., bytes]) -> None:
    whole = foreign_segment([b"first", b"second"], version=0)
    mirror.put(segment_name(0), whole[:-1])

    with StreamWriter.create(mirror, on_trailing=OnTrailing.TRIM) as writer:
        assert writer.next_offset == 1

    assert mirror.read(segment_name(0)) == whole[: 10 + 18 + 5]


def test_segments_of_both_versions_follow_each_other(
    mirror: FaultyStorage, foreign_segment: Callable[..., bytes]
) -> None:
    source = FaultyStorage()
    for first, version in ((0, 0), (2, 1), (4, 0)):
        source.put(segment_name(first), foreign_segment([b"x", b"y"], first, version=version))

    _copy(_stream(source), mirror)

    assert _files(mirror) == _files(source)


def test_reserved_bytes_of_a_header_are_mirrored(mirror: FaultyStorage, foreign_commit: Callable[..., bytes]) -> None:
    source = FaultyStorage()
    source.put(segment_name(0), HEADER[:8] + b"\x01\x02" + foreign_commit(0, b"x"))

    _copy(_stream(source), mirror)

    assert _files(mirror) == _files(source)


def test_a_source_whose_header_is_damaged_is_mirrored_behind_one_that_is_right(
    mirror: FaultyStorage, foreign_segment: Callable[..., bytes]
) -> None:
    for version in (0, 1):
        source, mirror = FaultyStorage(), FaultyStorage()
        whole = foreign_segment([b"x", b"y"], version=version)
        source.put(segment_name(0), b"?" + whole[1:])

        _copy(_stream(source), mirror)

        assert mirror.read(segment_name(0)) == whole


@pytest.mark.parametrize("version", [2, 9, 255])
def test_a_header_that_comes_inside_of_a_stream_is_refused_before_anything_is_written(
    mirror: FaultyStorage, foreign_segment: Callable[..., bytes], version: int
) -> None:
    writer = StreamWriter.create(mirror)
    good = foreign_segment([b"x", b"y"])

    with pytest.raises(CorruptCommitError, match="segment header"):
        writer.write(good + HEADER[:6] + bytes((version, 0, 0, 0)) + foreign_segment([b"z"], 2)[10:])

    assert _files(mirror) == {segment_name(0): good}


def test_a_local_header_that_is_damaged_is_an_error_or_written_again(
    mirror: FaultyStorage, foreign_segment: Callable[..., bytes]
) -> None:
    whole = foreign_segment([b"x", b"y"])
    mirror.put(segment_name(0), whole[:6] + b"\x00" + whole[7:])
    with pytest.raises(CorruptCommitError, match="segment header"):
        StreamWriter.create(mirror)

    with StreamWriter.create(mirror, on_trailing=OnTrailing.TRIM) as writer:
        assert writer.next_offset == 2

    assert mirror.read(segment_name(0)) == whole


def test_a_local_segment_of_a_version_that_is_not_known_is_refused_and_left(
    mirror: FaultyStorage, foreign_commit: Callable[..., bytes]
) -> None:
    mirror.put(segment_name(0), HEADER[:6] + bytes((9, 0, 0, 0)) + b"?" + foreign_commit(0, b"x"))
    before = _files(mirror)

    for on_trailing in OnTrailing:
        with pytest.raises(LogError, match="version 9"):
            StreamWriter.create(mirror, on_trailing=on_trailing)

    assert _files(mirror) == before


# -- what stands behind the last good commit ---------------------------------------------------------------------------


def test_commits_behind_damage_are_trimmed_and_their_bytes_kept(source: FaultyStorage, mirror: FaultyStorage) -> None:
    _copy(_stream(source), mirror)
    newest = list_segments(mirror)[-1]
    content = bytearray(whole := mirror.read(segment_name(newest)))
    content[30] ^= 1
    mirror.put(segment_name(newest), bytes(content))
    mirror.delete(index_name(newest))

    with pytest.raises(CorruptCommitError) as caught:
        StreamWriter.create(mirror)
    writer = StreamWriter.create(mirror, on_trailing=OnTrailing.TRIM, index_interval=150)

    # Nothing of the segment is left, so the one before is the last.
    assert (caught.value.position, caught.value.offset, writer.next_offset) == (10, newest, newest)
    assert writer.segment == list_segments(source)[-2]
    assert mirror.read(f"{newest:020d}.10.gap") == bytes(content[10:])
    writer.write(_stream(source, newest))
    writer.close()
    assert mirror.read(segment_name(newest)) == whole


def test_an_index_that_leads_past_damage_is_believed(source: FaultyStorage, mirror: FaultyStorage) -> None:
    """Only what comes after its last good entry is looked at: what is before was whole when it was written."""
    _copy(_stream(source), mirror)
    newest = list_segments(mirror)[-1]
    content = bytearray(mirror.read(segment_name(newest)))
    content[30] ^= 1
    mirror.put(segment_name(newest), bytes(content))

    assert StreamWriter.create(mirror).next_offset == 100


def test_reserved_space_is_cut(source: FaultyStorage, mirror: FaultyStorage) -> None:
    _copy(_stream(source, 0, 50), mirror)
    newest = segment_name(list_segments(mirror)[-1])
    mirror.put(newest, mirror.read(newest) + bytes(5000))

    _copy(_stream(source, 51), mirror)

    assert _files(mirror) == _files(source)


def test_what_a_writer_left_half_made_is_deleted(source: FaultyStorage, mirror: FaultyStorage) -> None:
    _copy(_stream(source), mirror)
    mirror.put(segment_name(100) + ".17.tmp", HEADER)
    mirror.put(index_name(100), bytes(16))

    StreamWriter.create(mirror).close()

    assert _files(mirror) == _files(source)


@pytest.mark.parametrize("operation", ["open", "read", "write", "sync", "list", "sync_directory"])
def test_a_disk_that_refuses_when_a_mirror_is_made_is_said(
    source: FaultyStorage, mirror: FaultyStorage, operation: str
) -> None:
    _copy(_stream(source), mirror)
    before = _files(mirror)
    mirror.fail(operation, errno.EACCES)

    with pytest.raises(LogWriteError, match="open a mirror"):
        StreamWriter.create(mirror)

    assert _files(mirror) == before
    assert StreamWriter.create(mirror).next_offset == 100


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_refuses_a_write_leaves_whole_commits(
    source: FaultyStorage, mirror: FaultyStorage, error: int
) -> None:
    mirror.max_per_write = 100
    writer = StreamWriter.create(mirror, index_interval=150)
    mirror.fail("write", error, after=25, name=".stdb.log")

    with pytest.raises(LogWriteError, match=r"write 0000000000\d+.stdb.log at byte \d+") as caught:
        writer.write(_stream(source))

    assert isinstance(caught.value, LogFullError) == (error != errno.EIO)
    writer.close()
    mirror.heal()
    again = StreamWriter.create(mirror, index_interval=150)
    assert again.next_offset == writer.next_offset > 0
    again.write(_stream(source, again.next_offset))
    again.close()
    assert _files(mirror) == _files(source)


def test_a_segment_that_is_taken_away_is_noticed(source: FaultyStorage, mirror: FaultyStorage) -> None:
    writer = StreamWriter.create(mirror)
    writer.write(_stream(source, 0, 50))
    mirror.delete(segment_name(list_segments(mirror)[-1]))

    with pytest.raises(LogWriteError):
        writer.write(_stream(source, 51))


# -- gaps --------------------------------------------------------------------------------------------------------------


def test_a_gap_that_is_allowed_parts_segments(source: FaultyStorage, mirror: FaultyStorage) -> None:
    later = list_segments(source)[3]
    with StreamWriter.create(mirror, allows_gaps=True) as writer:
        writer.write(_stream(source, 0, 20))
        writer.write(_stream(source, later))

    gaps: list[Gap] = []
    offsets = [commit.offset for commit in LogReader(mirror, on_gap=gaps.append).commits()]
    assert [offset for offset in offsets if 20 < offset < later] == []
    assert offsets[-1] == 99
    assert [(gap.offset, gap.missing) for gap in gaps] == [(21, later - 21)]


def test_damage_at_the_source_is_a_gap_at_the_mirror(source: FaultyStorage, mirror: FaultyStorage) -> None:
    damaged = list_segments(source)[1]
    content = bytearray(source.read(segment_name(damaged)))
    content[100] ^= 1
    source.put(segment_name(damaged), bytes(content))
    held = [commit.offset for commit in LogReader(source).commits()]

    with StreamReader(source, passes_damage=True) as reader, StreamWriter.create(mirror, allows_gaps=True) as writer:
        while piece := reader.read():
            writer.write(piece)

    assert [commit.offset for commit in LogReader(mirror).commits()] == held
    assert writer.next_offset == 100


# -- commits that were written again -----------------------------------------------------------------------------------


def _fail_sync(log: Log, storage: FaultyStorage) -> None:
    storage.fail("sync")
    log.sync()


@pytest.mark.parametrize("syncs", [(True, False, False), (True, True, False), (True, False, True, False)])
def test_segments_that_begin_again_one_after_the_other(mirror: FaultyStorage, syncs: tuple[bool, ...]) -> None:
    """The source's disk fails more than once while the mirror looks elsewhere, also after a sync that went well."""
    source = FaultyStorage()
    log = Log.create(source, LogOptions(index_interval=40))
    for n in range(6):
        log.append([bytes([n]) * 30])
        log.write()
        if n == 0:
            log.sync()
    reader, writer = StreamReader(source), StreamWriter.create(mirror, index_interval=40)
    writer.write(reader.read())
    for goes_well in syncs[1:]:
        if goes_well:
            log.append([b"more" * 9])
            log.write()
            log.sync()
        else:
            log.append([b"more" * 9])
            log.write()
            _fail_sync(log, source)

    while piece := reader.read(100):
        for at in range(0, len(piece), 7):
            writer.write(piece[at : at + 7])
    writer.finish()
    writer.close()
    log.close()

    assert _files(mirror) == _files(source)
    assert _index_is_whole(source)


def _index_is_whole(storage: FaultyStorage) -> bool:
    """Whether indexes made again from the commits are those that are there."""
    before = _files(storage)
    for first in list_segments(storage):
        rebuild_index(storage, first, 40)
    return {name: content for name, content in _files(storage).items() if content} == before


def test_only_the_newest_segment_can_begin_again(
    mirror: FaultyStorage, foreign_commit: Callable[..., bytes], foreign_segment: Callable[..., bytes]
) -> None:
    writer = StreamWriter.create(mirror)
    writer.write(foreign_segment([b"first", b"second", b"third"]))
    writer.write(HEADER + foreign_commit(2, b"third"))
    before = _files(mirror)

    with pytest.raises(CorruptCommitError, match="out of order"):
        writer.write(HEADER + foreign_commit(1, b"second") + foreign_commit(2, b"third"))

    assert list_segments(mirror) == [0, 2]
    assert _files(mirror) == before


def test_a_segment_cannot_begin_inside_of_a_repetition(
    mirror: FaultyStorage, foreign_commit: Callable[..., bytes], foreign_segment: Callable[..., bytes]
) -> None:
    writer = StreamWriter.create(mirror)
    writer.write(foreign_segment([b"first", b"second", b"third"]))
    before = _files(mirror)

    with pytest.raises(CorruptCommitError, match="segment header"):
        writer.write(HEADER + foreign_commit(1, b"second") + HEADER + foreign_commit(2, b"third"))

    assert _files(mirror) == before


def test_a_power_cut_while_a_segment_begins_again_loses_nothing_that_was_there(
    foreign_commit: Callable[..., bytes], foreign_segment: Callable[..., bytes]
) -> None:
    contents = [b"first", b"second", b"third", b"fourth"]
    again = HEADER + b"".join(foreign_commit(n, contents[n]) for n in (2, 3))
    expected = {
        segment_name(0): foreign_segment(contents[:2]),
        segment_name(2): foreign_segment(contents[2:], 2),
    }
    for keep in (0.0, 0.5, 1.0):
        for calls in range(100):
            mirror = FaultyStorage(calls)
            writer = StreamWriter.create(mirror)
            writer.write(foreign_segment(contents[:1]))
            writer.sync_all()
            writer.write(b"".join(foreign_commit(n, contents[n]) for n in (1, 2, 3)))
            mirror.cut_power_in(calls, keep=keep)
            writer.write(again)
            if mirror.wreck is None:
                break

            with StreamWriter.create(mirror.wreck, on_trailing=OnTrailing.TRIM) as goes_on:
                held = goes_on.next_offset
                assert held >= 1
                goes_on.write(b"".join(foreign_commit(n, contents[n]) for n in range(held, 4)))
                if goes_on.segment == 0:
                    goes_on.write(again)

            assert _files(mirror.wreck) == expected, (keep, calls)
        assert calls > 10


def test_an_index_is_the_same_however_often_the_mirror_begins_again(mirror: FaultyStorage) -> None:
    for sizes in ([20] * 60, [100, 20] * 20, [10, 300] * 10, [200, *[10] * 50]):
        source, mirror = FaultyStorage(), FaultyStorage()
        with Log.create(source, LogOptions(index_interval=150)) as log:
            for size in sizes:
                log.append([bytes(size)])
        for n in range(len(sizes)):
            _copy(_stream(source, n, n + 1), mirror)

        assert _files(mirror) == _files(source)


def test_a_mirror_that_was_away_when_commits_were_written_again_begins_the_segment_too(mirror: FaultyStorage) -> None:
    source = FaultyStorage()
    log = Log.create(source)
    for n in range(3):
        log.append([bytes([n]) * 30])
        log.write()
        if n == 0:
            log.sync()
    _copy(_stream(source), mirror)
    _fail_sync(log, source)
    log.close()

    with StreamWriter.create(mirror) as writer:
        assert writer.last is not None
        with StreamReader.resume(source, writer.last) as reader:
            while piece := reader.read():
                writer.write(piece)
        writer.finish()
        assert writer.last._replace(segment=0) == _last(source)

    assert list_segments(mirror) == [0, 1]
    assert _files(mirror) == _files(source)


def _last(storage: FaultyStorage) -> LastCommit:
    *_, last = LogReader(storage).commits()
    return LastCommit(0, last.offset, last.end, last.checksum)


def test_a_stream_that_ends_inside_of_a_repetition_is_incomplete_and_changes_nothing(
    mirror: FaultyStorage, foreign_commit: Callable[..., bytes], foreign_segment: Callable[..., bytes]
) -> None:
    writer = StreamWriter.create(mirror)
    writer.write(foreign_segment([b"first", b"second", b"third"]))
    before = _files(mirror)

    writer.write(HEADER + foreign_commit(1, b"second"))
    with pytest.raises(CorruptCommitError, match="incomplete"):
        writer.finish()

    assert _files(mirror) == before


def test_a_repetition_that_reaches_past_what_is_held_is_refused(
    mirror: FaultyStorage, foreign_commit: Callable[..., bytes], foreign_segment: Callable[..., bytes]
) -> None:
    writer = StreamWriter.create(mirror)
    writer.write(foreign_segment([b"first", b"second", b"third"]))

    with pytest.raises(CorruptCommitError, match="forked"):
        writer.write(HEADER + foreign_commit(1, b"second" * 2, 3))


# -- compressed --------------------------------------------------------------------------------------------------------


def test_what_is_compressed_at_the_source_is_mirrored_as_it_was(source: FaultyStorage, mirror: FaultyStorage) -> None:
    before = _files(source)
    with Log.open(source) as log:
        log.compress_below(90)

    _copy(_stream(source), mirror)

    assert _files(source)[segment_name(0)] != before[segment_name(0)]
    assert _files(mirror) == before


def test_a_compressed_newest_segment_stays_where_the_next_one_begins(
    source: FaultyStorage, mirror: FaultyStorage
) -> None:
    second = list_segments(source)[1]
    _copy(_stream(source, 0, second), mirror)
    with Log.open(mirror) as log:
        log.begin_segment()
        log.compress_below(log.written)
    compressed = mirror.read(segment_name(0))

    _copy(_stream(source, second), mirror)

    assert compressed[:4] == b"\x28\xb5\x2f\xfd"
    assert _files(mirror) == _files(source) | {segment_name(0): compressed}
    assert list(LogReader(mirror, strict=True).commits()) == list(LogReader(source, strict=True).commits())


def test_a_compressed_newest_segment_that_does_not_go_on_is_synced(mirror: FaultyStorage) -> None:
    with Log.create(mirror) as log:
        log.append([b"x"])
        log.begin_segment()
        log.compress_below(log.written)

    with StreamWriter.create(mirror) as writer:
        assert writer.sync_all() == 1


def test_a_compressed_newest_segment_that_is_damaged_goes_on_behind_what_is_good(
    source: FaultyStorage, mirror: FaultyStorage
) -> None:
    second = list_segments(source)[1]
    _copy(_stream(source, 0, second), mirror)
    content = bytearray(mirror.read(segment_name(0)))
    content[-30] ^= 1
    mirror.put(segment_name(0), bytes(content))
    mirror.delete(index_name(0))
    mirror.put(segment_name(second), HEADER)
    compress_below(mirror, second, head=second)

    with pytest.raises(CorruptCommitError):
        StreamWriter.create(mirror)
    writer = StreamWriter.create(mirror, on_trailing=OnTrailing.TRIM, index_interval=150)
    assert writer.next_offset == second - 2
    writer.write(_stream(source, writer.next_offset))
    writer.close()

    assert _files(mirror) == _files(source)


def test_closing_is_idempotent_and_the_end(source: FaultyStorage, mirror: FaultyStorage) -> None:
    writer = StreamWriter.create(mirror)
    writer.write(_stream(source))

    writer.close()
    writer.close()

    assert writer.synced == 100
    for call in (lambda: writer.write(b""), writer.finish, writer.sync_all):
        with pytest.raises(LogClosedError, match="is closed"):
            call()


def test_a_mirror_has_a_name(source: FaultyStorage, mirror: FaultyStorage) -> None:
    writer = StreamWriter.create(mirror)
    writer.write(_stream(source))
    names = [repr(writer)]
    writer.close()
    names.append(repr(writer))

    assert names == [
        "<StreamWriter next=100 synced=84 in <FaultyStorage 5 files>>",
        "<StreamWriter closed next=100 synced=100 in <FaultyStorage 5 files>>",
    ]


def test_a_segment_that_could_not_be_cut_is_cut_by_the_next_writer(
    mirror: FaultyStorage, foreign_commit: Callable[..., bytes], foreign_segment: Callable[..., bytes]
) -> None:
    writer = StreamWriter.create(mirror)
    writer.write(foreign_segment([b"first", b"second", b"third"]))
    mirror.fail("truncate")
    with pytest.raises(LogWriteError):
        writer.write(HEADER + foreign_commit(1, b"second") + foreign_commit(2, b"third"))
    left = mirror.read(segment_name(0))

    with StreamWriter.create(mirror) as again:
        assert (again.segment, again.next_offset) == (1, 3)

    assert left == foreign_segment([b"first", b"second", b"third"])
    assert _files(mirror) == {
        segment_name(0): foreign_segment([b"first"]),
        segment_name(1): foreign_segment([b"second", b"third"], 1),
    }


def test_a_cut_is_durable_before_the_next_one(
    mirror: FaultyStorage, foreign_commit: Callable[..., bytes], foreign_segment: Callable[..., bytes]
) -> None:
    """A writer looks at one segment before the last: were two uncut after a power cut, one would stay so."""
    contents = [b"first", b"second", b"third", b"fourth"]
    writer = StreamWriter.create(mirror)
    writer.write(foreign_segment(contents))
    for first in (1, 2, 3):
        writer.write(HEADER + b"".join(foreign_commit(n, contents[n]) for n in range(first, 4)))
    after = mirror.crash(keep=0)

    StreamWriter.create(after).close()

    assert _files(after) == {segment_name(n): foreign_segment([contents[n]], n) for n in range(4)}


class _SlowDisk(FaultyStorage):
    """Each sync of a segment says that it began, and waits until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.may_end = threading.Event(), threading.Event()
        self.is_slow = False

    def open(self, name: str, mode: Literal["read", "write", "create"]) -> MemoryFile:
        file = super().open(name, mode)
        if mode == "write" and name.endswith(".stdb.log"):
            sync = file.sync

            def slow() -> None:
                if self.is_slow:
                    self.began.set()
                    assert self.may_end.wait(30)
                sync()

            file.sync = slow  # type: ignore[method-assign]
        return file


def test_more_is_written_while_the_disk_syncs_what_came_before(source: FaultyStorage) -> None:
    disk, stream = _SlowDisk(), _stream(source, 0, 10)
    half = len(_stream(source, 0, 5))
    writer = StreamWriter.create(disk, index_interval=150)
    writer.write(stream[:half])
    before = writer.next_offset
    disk.is_slow = True

    with ThreadPoolExecutor(1) as threads:
        synced = threads.submit(writer.sync_beside)
        assert disk.began.wait(30)
        writer.write(stream[half:])
        written = writer.next_offset
        disk.may_end.set()

        assert synced.result(30) == before < written
    assert writer.sync_beside() == written
    writer.close()
    assert _stream(disk) == stream


def test_a_segment_that_is_synced_stays_open_until_the_disk_is_done(source: FaultyStorage) -> None:
    disk, stream = _SlowDisk(), _stream(source)
    writer = StreamWriter.create(disk, index_interval=150)
    writer.write(_stream(source, 0, 5))
    before = writer.next_offset
    disk.is_slow = True

    with ThreadPoolExecutor(2) as threads:
        synced = threads.submit(writer.sync_beside)
        assert disk.began.wait(30)
        written = threads.submit(writer.write, stream[len(_stream(source, 0, 5)) :])
        closed = threads.submit(writer.close)
        disk.may_end.set()

        assert synced.result(30) >= before
        for each in (written, closed):
            assert each.exception(30) is None or isinstance(each.exception(), LogClosedError)
    assert stream.startswith(_stream(disk))


def test_a_sync_beside_that_fails_consumes_the_writer_too(source: FaultyStorage, mirror: FaultyStorage) -> None:
    writer = StreamWriter.create(mirror, index_interval=150)
    writer.write(_stream(source))
    newest = segment_name(list_segments(source)[-1])
    mirror.fail("sync", errno.EIO, name=newest)

    with pytest.raises(LogWriteError, match=newest):
        writer.sync_beside()

    for call in (writer.sync_beside, writer.sync_all, lambda: writer.write(b"")):
        with pytest.raises(LogClosedError):
            call()
    writer.close()
