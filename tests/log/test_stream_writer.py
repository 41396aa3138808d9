"""What becomes of a stream: which files it makes, what of it is refused, and what is on the disk when."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.errors import CorruptCommitError, Damage, DivergedError, LogClosedError, LogError, LogWriteError
from eventrec.log.log import Log, LogOptions
from eventrec.log.mirror import LastCommit, OnTrailing, StreamReader, StreamWriter
from eventrec.log.reader import LogReader
from eventrec.log.segment import encode_header, index_name, list_segments, segment_name
from eventrec.testing.storage import FaultyStorage, MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Callable

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
