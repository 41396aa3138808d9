"""What a log gives out as a stream: which bytes, for which range, of which segments."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.errors import CorruptCommitError, Damage, DivergedError, TrimmedError
from eventrec.log.log import Log, LogOptions
from eventrec.log.mirror import LastCommit, StreamReader
from eventrec.log.reader import LogReader
from eventrec.log.segment import encode_header, index_name, list_segments, segment_name
from eventrec.testing.storage import FaultyStorage, MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = encode_header()


def _stream(storage: MemoryStorage, start: int = 0, end: int | None = None, *, max_bytes: int = 1 << 20) -> bytes:
    with StreamReader(storage, start=start, end=end) as reader:
        return b"".join(iter(lambda: reader.read(max_bytes), b""))


def _commits(storage: MemoryStorage, first: int) -> bytes:
    return storage.read(segment_name(first))[len(HEADER) :]


@pytest.fixture
def tens(storage: FaultyStorage, foreign_commit: Callable[..., bytes]) -> FaultyStorage:
    """One segment of ten commits of ten records each."""
    commits = [foreign_commit(offset, bytes([offset]) * 20, 10) for offset in range(0, 100, 10)]
    storage.put(segment_name(0), HEADER + b"".join(commits))
    return storage


def _tens(foreign_commit: Callable[..., bytes], *offsets: int) -> bytes:
    return b"".join(foreign_commit(offset, bytes([offset]) * 20, 10) for offset in offsets)


@pytest.mark.parametrize(
    ("start", "end", "offsets"),
    [
        (0, None, range(0, 100, 10)),
        (0, 100, range(0, 100, 10)),
        (0, 1, [0]),
        (0, 10, [0]),
        (0, 11, [0, 10]),
        (10, 30, [10, 20]),
        (11, 30, [10, 20]),
        (19, 20, [10]),
        (19, 21, [10, 20]),
        (20, 21, [20]),
        (95, None, [90]),
        (99, 1000, [90]),
        (100, None, []),
        (1000, 2000, []),
        (0, 0, []),
        (50, 50, []),
        (50, 20, []),
    ],
)
def test_a_range_gives_the_commits_that_hold_a_record_of_it(
    tens: FaultyStorage, foreign_commit: Callable[..., bytes], start: int, end: int | None, offsets: list[int]
) -> None:
    header = HEADER if start == 0 and offsets else b""

    assert _stream(tens, start, end) == header + _tens(foreign_commit, *offsets)


@given(data=st.data())
def test_any_range_gives_whole_commits_and_the_fewest_that_hold_it(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=20))
    storage = MemoryStorage()
    log = Log.create(storage, LogOptions(segment_bytes=data.draw(st.sampled_from([50, 200, 10_000]))))
    for n in counts:
        log.append([b"abc"] * n)
        log.write()
    total = sum(counts)
    start, end = data.draw(st.integers(0, total + 2)), data.draw(st.integers(0, total + 2))
    expected = [
        commit for commit in log.reader().commits() if start < end and commit.offset < end and start < commit.end
    ]

    stream = _stream(storage, start, end, max_bytes=data.draw(st.integers(1, 300)))

    copy = MemoryStorage()
    first = expected[0].offset if expected else 0
    copy.put(segment_name(first), HEADER + stream.replace(HEADER, b""))
    assert list(LogReader(copy, strict=True).commits()) == expected


def test_a_segment_begins_with_its_header_only_where_its_first_commit_is_given_out(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=80))
    for _ in range(6):
        log.append([bytes(32)])
        log.write()
    commits = {first: _commits(storage, first) for first in (0, 2, 4)}

    assert _stream(storage, 1, 5) == commits[0][58:] + HEADER + commits[2] + HEADER + commits[4][:58]
    assert _stream(storage, 2, 4) == HEADER + commits[2]
    assert _stream(storage, 4) == HEADER + commits[4]
    assert _stream(storage, 6) == b""


def test_a_segment_of_no_commit_gives_nothing_until_it_has_one(storage: FaultyStorage) -> None:
    log = Log.create(storage)
    reader = StreamReader(storage)

    before = reader.read()
    log.append([b"x"])
    log.write()

    assert before == b""
    assert reader.read() == storage.read(segment_name(0))
    assert (reader.read(), reader.next_offset, reader.reached_end) == (b"", 1, False)


def test_a_reader_may_be_made_before_there_is_a_log(storage: FaultyStorage) -> None:
    reader = StreamReader(storage)
    assert reader.read() == b""

    with Log.create(storage, first=7) as log:
        log.append([b"x"])

    assert reader.read() == storage.read(segment_name(7))


def test_pieces_are_whole_headers_and_commits(tens: FaultyStorage) -> None:
    reader = StreamReader(tens, end=30)

    sizes = [len(reader.read(1)), len(reader.read(47)), len(reader.read(1))]

    assert sizes == [10 + 46, 92, 0]
    assert (reader.next_offset, reader.reached_end) == (30, True)


def test_the_end_is_reached_also_where_it_lies_inside_of_a_commit_or_nothing_is_there(tens: FaultyStorage) -> None:
    inside, empty, beyond = (StreamReader(tens, start=0, end=end) for end in (15, 0, 200))

    for reader in (inside, empty, beyond):
        while reader.read():
            pass

    assert [(reader.next_offset, reader.reached_end) for reader in (inside, empty, beyond)] == [
        (20, True),
        (0, True),
        (100, False),
    ]


def test_an_index_is_used_where_it_is_right_and_does_no_harm_where_it_is_not(storage: FaultyStorage) -> None:
    with Log.create(storage, LogOptions(index_interval=4096)) as log:
        for _ in range(2000):
            log.append([bytes(200)])
    whole = _stream(storage, 1990)
    storage.bytes_read = 0
    assert _stream(storage, 1990) == whole
    with_index = storage.bytes_read
    storage.put(index_name(0), bytes(15) + storage.read(index_name(0)))

    assert _stream(storage, 1990) == whole
    assert with_index < storage.bytes_read / 4


def test_a_log_that_was_trimmed_is_given_out_from_where_it_begins(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=50))
    for _ in range(6):
        log.append([bytes(32)])
        log.write()
    log.delete_below(4)

    assert _stream(storage) == b"".join(storage.read(segment_name(first)) for first in (4, 5))
    with pytest.raises(TrimmedError) as caught:
        StreamReader(storage, start=3).read()
    assert (caught.value.next_offset, caught.value.first) == (3, 4)


def test_what_is_deleted_behind_a_reader_does_not_matter_and_before_it_is_said(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=50))
    for _ in range(4):
        log.append([bytes(32)])
        log.write()
    reader = StreamReader(storage)
    reader.read(1)
    reader.read(1)
    log.delete_below(2)
    reader.read(1)

    log.append([bytes(32)])
    log.append([bytes(32)])
    log.write()
    log.delete_below(5)

    for _ in range(2):
        with pytest.raises(TrimmedError, match="records 3 to 4 are deleted: the log begins at 5") as caught:
            reader.read()
    assert (caught.value.next_offset, caught.value.first) == (3, 5)


def test_a_torn_tail_and_reserved_space_are_not_given_out(tens: FaultyStorage) -> None:
    whole = tens.read(segment_name(0))
    for tail in (bytes(5000), b"\x64", b"\x64" + bytes(7) + b"garbage", whole[10:50]):
        tens.put(segment_name(0), whole + tail)

        assert _stream(tens) == whole


def test_damage_is_not_given_out_but_said_with_its_place(tens: FaultyStorage) -> None:
    content = bytearray(tens.read(segment_name(0)))
    content[10 + 46 * 3 + 30] ^= 1
    tens.put(segment_name(0), bytes(content))
    reader = StreamReader(tens)

    assert reader.read() == bytes(content[: 10 + 46 * 3])
    for _ in range(2):
        with pytest.raises(CorruptCommitError) as caught:
            reader.read()
    assert (caught.value.reason, caught.value.segment) == (Damage.CHECKSUM, segment_name(0))
    assert (caught.value.position, caught.value.offset) == (10 + 46 * 3, 30)


def test_damage_is_passed_with_a_header_where_that_is_asked_for(tens: FaultyStorage) -> None:
    content = bytearray(tens.read(segment_name(0)))
    content[10 + 46 * 3 + 30] ^= 1
    tens.put(segment_name(0), bytes(content))

    reader = StreamReader(tens, passes_damage=True)

    assert reader.read() == bytes(content[: 10 + 46 * 3]) + HEADER + bytes(content[10 + 46 * 4 :])
    assert reader.next_offset == 100


def test_only_what_is_synced_is_given_out(storage: FaultyStorage) -> None:
    log = Log.create(storage)
    reader = StreamReader(storage, sync=True)
    for first in range(3):
        for content in (b"x", b"yy"):
            log.append([content])
            log.write()
            reader.read()
            assert storage.crash(keep=0).read(segment_name(first * 2)) == storage.read(segment_name(first * 2))
        log.begin_segment()


def test_a_segment_that_is_followed_by_another_needs_no_sync(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=50))
    for _ in range(3):
        log.append([bytes(32)])
        log.write()
    before = storage.counts["sync"]

    reader = StreamReader(storage, sync=True)
    while reader.read():
        pass

    assert storage.counts["sync"] == before


def test_nothing_of_a_segment_that_could_not_be_synced_is_given_out_until_its_owner_wrote_it_again(
    storage: FaultyStorage,
) -> None:
    log = Log.create(storage)
    log.append([b"first"])
    log.write()
    log.sync()
    reader = StreamReader(storage, sync=True)
    given = reader.read()
    log.append([b"second"])
    log.write()
    storage.fail("sync", errno.EIO, times=2)

    held_back = [reader.read(), reader.read()]
    log.sync()

    assert held_back == [b"", b""]
    assert log.failed_syncs == 1
    assert given + reader.read() == storage.read(segment_name(0)) + storage.read(segment_name(1))


def written_again(storage: FaultyStorage) -> tuple[Log, StreamReader]:
    """A log of three records that has written the last two again, and a reader that gave out all three before."""
    log = Log.create(storage)
    for content in (b"first", b"second", b"third"):
        log.append([content])
        log.write()
        if content == b"first":
            log.sync()
    reader = StreamReader(storage)
    reader.read()
    storage.fail("sync")
    log.sync()
    return log, reader


def test_a_segment_that_begins_inside_of_what_was_given_out_is_given_out_from_its_beginning(
    storage: FaultyStorage,
) -> None:
    _, reader = written_again(storage)

    assert reader.read() == storage.read(segment_name(1))
    assert (reader.read(), reader.next_offset) == (b"", 3)


@pytest.mark.parametrize("has_begun", [False, True])
def test_what_is_to_be_given_out_again_and_is_deleted_meanwhile_is_not_missed(
    storage: FaultyStorage, *, has_begun: bool
) -> None:
    log, reader = written_again(storage)
    if has_begun:
        assert reader.read(1) == storage.read(segment_name(1))[: 10 + 26 + 6]
        reader.close()
    log.begin_segment()
    log.append([b"fourth"])
    log.write()
    log.delete_below(3)

    assert reader.read() == storage.read(segment_name(3))


def test_a_mirror_goes_on_where_its_source_has_its_last_commit(tens: FaultyStorage) -> None:
    checksum = int.from_bytes(tens.read(segment_name(0))[10 + 46 * 5 - 4 : 10 + 46 * 5], "little")

    reader = StreamReader.resume(tens, LastCommit(0, 40, 50, checksum))

    assert reader.read() == tens.read(segment_name(0))[10 + 46 * 5 :]


@pytest.mark.parametrize(
    ("offset", "next_offset", "change", "message"),
    [
        (40, 50, 1, "is not its source's"),
        (40, 49, 0, "is not its source's"),
        (41, 50, 0, "is not its source's"),
        (100, 110, 0, "more than its source does"),
        (40, 5000, 0, "is not its source's"),
    ],
)
def test_a_mirror_that_holds_something_else_or_more_has_diverged(
    tens: FaultyStorage, offset: int, next_offset: int, change: int, message: str
) -> None:
    checksum = int.from_bytes(tens.read(segment_name(0))[10 + 46 * 5 - 4 : 10 + 46 * 5], "little")

    with pytest.raises(DivergedError, match=message) as caught:
        StreamReader.resume(tens, LastCommit(0, offset, next_offset, checksum ^ change))

    assert caught.value.offset == offset


def test_that_records_are_deleted_is_no_damage(storage: FaultyStorage, caplog: pytest.LogCaptureFixture) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=50))
    readers = [StreamReader(storage), StreamReader(storage, passes_damage=True)]
    for n in range(4):
        log.append([bytes(32)])
        log.write()
        if n == 0:
            assert all(reader.read() for reader in readers)
    log.delete_below(3)

    for reader in readers:
        with pytest.raises(TrimmedError, match="begins at 3"):
            reader.read()

    assert [record for record in caplog.records if record.name.startswith("eventrec.log")] == []


def test_a_middle_segment_that_is_gone_is_damage(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=50))
    for _ in range(4):
        log.append([bytes(32)])
        log.write()
    storage.delete(segment_name(1))
    reader, passing = StreamReader(storage), StreamReader(storage, passes_damage=True)

    assert reader.read() == storage.read(segment_name(0))
    with pytest.raises(CorruptCommitError, match="records missing"):
        reader.read()
    pieces = [storage.read(segment_name(first)) for first in (0, 2, 3)]
    assert [passing.read() for _ in range(4)] == [*pieces, b""]


def test_a_mirror_goes_on_where_its_last_commit_is_deleted_at_the_source_and_the_next_is_not(
    storage: FaultyStorage,
) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=50))
    for _ in range(4):
        log.append([bytes(32)])
        log.write()
    log.delete_below(2)

    assert StreamReader.resume(storage, LastCommit(1, 1, 2, 4711)).read() == storage.read(segment_name(2))
    with pytest.raises(TrimmedError) as caught:
        StreamReader.resume(storage, LastCommit(0, 0, 1, 4711))
    assert (caught.value.next_offset, caught.value.first) == (1, 2)
    log.delete_below(4)
    assert StreamReader.resume(storage, LastCommit(3, 3, 4, 4711)).read() == b""


def test_a_source_without_any_segment_is_behind_its_mirror(storage: FaultyStorage) -> None:
    with pytest.raises(DivergedError):
        StreamReader.resume(storage, LastCommit(0, 0, 1, 4711))


def test_a_commit_that_is_damaged_at_the_source_cannot_be_compared(tens: FaultyStorage) -> None:
    content = bytearray(tens.read(segment_name(0)))
    content[10 + 46 * 4 + 30] ^= 1
    tens.put(segment_name(0), bytes(content))

    with pytest.raises(CorruptCommitError):
        StreamReader.resume(tens, LastCommit(0, 40, 50, 4711))
    passing = StreamReader.resume(tens, LastCommit(0, 40, 50, 4711), passes_damage=True)

    assert passing.read() == bytes(content[10 + 46 * 5 :])


def test_a_disk_that_cannot_be_read_is_said_and_nothing_is_skipped(storage: FaultyStorage) -> None:
    log = Log.create(storage, LogOptions(segment_bytes=100))
    for _ in range(4):
        log.append([bytes(32)])
        log.write()
    whole = _stream(storage)
    for sync in (False, True):
        for operation in ("list", "open", "read", "size"):
            for after in range(12):
                reader = StreamReader(storage, sync=sync)
                found = []
                storage.fail(operation, errno.EIO, after=after)
                for _ in range(9):
                    try:
                        found.append(reader.read(60))
                    except OSError:
                        continue
                storage.heal()
                reader.close()

                assert b"".join(found) == whole, (sync, operation, after)


def test_a_reader_has_a_name(tens: FaultyStorage, foreign_commit: Callable[..., bytes]) -> None:
    reader, failed = StreamReader(tens), StreamReader(tens, start=50)
    reader.read(1)
    tens.put(segment_name(100), HEADER + foreign_commit(100, b"x"))
    tens.delete(segment_name(0))
    with pytest.raises(TrimmedError):
        failed.read()

    assert [repr(reader), repr(failed)] == [
        "<StreamReader next=10 in <FaultyStorage 1 files>>",
        "<StreamReader failed: records 50 to 99 are deleted: the log begins at 100 next=50 in <FaultyStorage 1 files>>",
    ]


@given(data=st.data())
def test_much_at_once_gives_what_one_commit_after_the_other_gives_over_damage_too(data: st.DataObject) -> None:
    storage = MemoryStorage()
    with Log.create(storage, LogOptions(segment_bytes=data.draw(st.sampled_from([300, 10_000])))) as log:
        for n in data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=30)):
            log.append([b"content"] * n)
            log.write()
    name = data.draw(st.sampled_from([each for each in storage.list() if each.endswith(".stdb.log")]))
    content = bytearray(storage.read(name))
    for _ in range(data.draw(st.integers(0, 2)) if len(content) > len(HEADER) else 0):
        content[data.draw(st.integers(len(HEADER), len(content) - 1))] ^= data.draw(st.integers(1, 255))
    twice = data.draw(st.integers(0, len(content)))
    storage.put(name, bytes(content[: data.draw(st.integers(len(HEADER), len(content)))] + content[twice:]))

    def stream(end: int | None, max_bytes: int) -> bytes:
        with StreamReader(storage, end=end, passes_damage=True) as reader:
            return b"".join(iter(lambda: reader.read(max_bytes), b""))

    one_by_one = stream(1 << 40, 1)

    assert stream(None, data.draw(st.sampled_from([1, 50, 200, 1 << 20]))) == one_by_one


def test_what_was_written_again_elsewhere_meanwhile_is_given_out_from_there_alone() -> None:
    storage = FaultyStorage()
    log = Log.create(storage)
    log.append([b"first"])
    log.write()
    log.begin_segment()
    log.append([b"second"])
    log.write()
    log.sync()
    log.append([b"third"])
    log.write()
    reader = StreamReader(storage, sync=True)
    given = [reader.read()]  # the first segment; what comes next is read already

    storage.fail("sync")
    log.sync()  # the third goes into a segment of its own
    while piece := reader.read():
        given.append(piece)
        assert reader.next_offset == len(given)

    log.close()
    assert list_segments(storage) == [0, 1, 2]
    assert b"".join(given) == b"".join(storage.read(segment_name(first)) for first in list_segments(storage))
