from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eventrec.errors import Damage
from eventrec.log.disk import DiskStorage
from eventrec.log.index import Entry, encode_entries
from eventrec.log.log import Log, LogOptions
from eventrec.log.reader import LogReader
from eventrec.log.segment import encode_header, index_name, segment_name
from eventrec.log.verify import Fault, describe, verify
from eventrec.log.walk import Tail
from eventrec.testing.storage import FaultyStorage

if TYPE_CHECKING:
    from collections.abc import Callable


def _brief(storage: FaultyStorage) -> list[tuple[str, int, Damage, int]]:
    return [(fault.file[-3:], fault.position, fault.reason, fault.missing) for fault in verify(storage)]


@pytest.fixture
def independent(load_module: Callable[[Path], Any]) -> Any:
    return load_module(Path(__file__).with_name("independent_reader.py"))


def test_an_independent_reader_reads_our_logs(independent: Any, tmp_path: Path) -> None:
    expected = []
    with Log.create(DiskStorage(tmp_path), LogOptions(segment_bytes=500), epoch=5) as log:
        for i in range(50):
            records = [b"%d.%d" % (i, k) for k in range(i % 4 + 1)]
            expected.append((log.append(records)[0], 5, len(records), b"".join(records)))
            log.write()

    assert list(independent.read(tmp_path)) == expected
    assert len(list(tmp_path.glob("*.stdb.log"))) > 3


def test_the_independent_reader_is_short_and_shares_nothing_with_the_log(independent: Any) -> None:
    source = Path(independent.__file__).read_text(encoding="utf-8")

    assert len(source.splitlines()) < 60
    assert "eventrec" not in source
    assert "crc32c" not in {name.partition("google_")[2] for name in sys.modules if name in source}


@pytest.mark.parametrize("version", [0, 1])
def test_what_another_encoder_made_is_verified(
    storage: FaultyStorage, foreign_segment: Callable[..., bytes], version: int
) -> None:
    storage.put(segment_name(0), foreign_segment([b"a", b"b" * 300], version=version))
    storage.put(segment_name(2), foreign_segment([b"c"], 2, version=version) + bytes(5000))

    assert _brief(storage) == []
    assert [commit.content for commit in LogReader(storage, strict=True).commits()] == [b"a", b"b" * 300, b"c"]


@pytest.mark.parametrize("version", [0, 1])
def test_a_torn_tail_of_another_encoder_is_named(
    storage: FaultyStorage, foreign_segment: Callable[..., bytes], version: int
) -> None:
    whole = foreign_segment([b"a", b"b"], version=version)
    size = (len(whole) - 10) // 2

    for cut in range(1, size):
        storage.put(segment_name(0), whole[:-cut])
        ((file, position, reason, missing),) = _brief(storage)
        assert (file, position, missing) == ("log", 10 + size, 0)
        assert reason in {Damage.SHORT, Damage.TOO_LONG}


@pytest.mark.parametrize("version", [0, 1])
def test_every_flipped_byte_of_another_encoder_is_named_with_its_commit(
    storage: FaultyStorage, foreign_segment: Callable[..., bytes], version: int
) -> None:
    whole = foreign_segment([b"aaa", b"bbb", b"ccc"], version=version)
    size = (len(whole) - 10) // 3

    for byte in [*range(8), *range(10, len(whole))]:
        raw = bytearray(whole)
        raw[byte] ^= 0xFF
        storage.put(segment_name(0), bytes(raw))
        faults = list(verify(storage))
        expected = 0 if byte < 10 else 10 + (byte - 10) // size * size
        assert [fault.position for fault in faults] == [expected]
        assert segment_name(0) in str(faults[0])


def test_reserved_space_and_superseded_bytes_are_no_fault(
    storage: FaultyStorage, foreign_segment: Callable[..., bytes]
) -> None:
    storage.put(segment_name(0), foreign_segment([b"a", b"b"])[:-3])
    storage.put(segment_name(1), foreign_segment([b"c", b"d"], 1))
    storage.put(segment_name(2), foreign_segment([b"e"], 2) + bytes(99))
    storage.put(segment_name(3), encode_header())

    assert _brief(storage) == []


def test_missing_records_are_named_where_they_should_be(
    storage: FaultyStorage, foreign_segment: Callable[..., bytes], foreign_commit: Callable[..., bytes]
) -> None:
    storage.put(segment_name(0), foreign_segment([b"a"]) + foreign_commit(4, b"e"))
    storage.put(segment_name(9), foreign_segment([b"j"], 9) + foreign_commit(10, b"k")[:-1])
    storage.put(segment_name(12), foreign_segment([b"m"], 12))

    assert list(verify(storage)) == [
        Fault(segment_name(0), 37, 0, 1, 3, Damage.HOLE),
        Fault(segment_name(0), 64, 0, 5, 4, Damage.HOLE),
        Fault(segment_name(9), 37, 26, 10, 2, Damage.TOO_LONG),
    ]


def test_a_damaged_header_is_named(storage: FaultyStorage, foreign_segment: Callable[..., bytes]) -> None:
    storage.put(segment_name(0), b"X" + foreign_segment([b"a"])[1:])

    assert _brief(storage) == [("log", 0, Damage.HEADER, 0)]


def test_an_index_that_lies_is_named_but_a_missing_one_is_none(
    storage: FaultyStorage, foreign_segment: Callable[..., bytes]
) -> None:
    storage.put(segment_name(0), foreign_segment([b"a", b"b", b"c"]))
    assert _brief(storage) == []

    right, wrong, falling = Entry(1, 37), Entry(2, 65), Entry(2, 30)
    for entries, faults in (
        ([right], []),
        ([right, wrong], [("ofs", 16, Damage.INDEX, 0)]),
        ([right, falling], [("ofs", 16, Damage.INDEX, 0)]),
    ):
        storage.put(index_name(0), encode_entries(entries) + bytes(64))
        assert _brief(storage) == faults


def test_an_index_that_names_a_commit_gone_bad_is_no_second_fault(
    storage: FaultyStorage, foreign_segment: Callable[..., bytes]
) -> None:
    raw = bytearray(foreign_segment([b"a", b"b", b"c"]))
    raw[40] ^= 1
    storage.put(segment_name(0), bytes(raw))
    storage.put(index_name(0), encode_entries([Entry(1, 37)]))

    assert [fault.position for fault in verify(storage)] == [37]


def test_metadata(storage: FaultyStorage) -> None:
    log = Log.create(storage)
    for n in (2, 1, 2):
        log.append([bytes(32)] * n)
    log.write()

    described = describe(storage)

    assert described is not None
    assert described[:4] == (0, 10 + 5 * 32 + 3 * 26, 5, 0)
    assert described.last is not None
    assert (described.last.offset, described.last.end) == (3, 5)
    assert (described.tail, described.damage) == (Tail.CLEAN, None)


def test_a_log_is_described_by_its_last_segment_with_content(
    storage: FaultyStorage, foreign_segment: Callable[..., bytes], foreign_commit: Callable[..., bytes]
) -> None:
    assert describe(storage) is None
    storage.put(segment_name(9), encode_header())
    assert describe(storage) is None
    storage.put(segment_name(0), foreign_segment([b"a"]) + foreign_commit(1, b"b", epoch=7) + b"?" * 30)

    described = describe(storage)

    assert described is not None
    assert (described.first, described.position, described.end, described.epoch) == (0, 64, 2, 7)
    assert (described.tail, described.damage) == (Tail.TORN, Damage.TOO_LONG)
    storage.put(segment_name(2), encode_header() + b"?" * 9)
    torn = describe(storage)
    assert torn is not None
    assert (torn.first, torn.end, torn.last) == (2, 2, None)


def test_a_gap_in_the_last_segment_does_not_hide_what_is_behind_it(
    storage: FaultyStorage, foreign_segment: Callable[..., bytes]
) -> None:
    raw = bytearray(foreign_segment([b"a", b"b", b"c"]))
    raw[60] ^= 1
    storage.put(segment_name(0), bytes(raw))

    described = describe(storage)

    assert described is not None
    assert (described.end, described.tail) == (3, Tail.CLEAN)


def test_verifying_changes_nothing(storage: FaultyStorage, foreign_segment: Callable[..., bytes]) -> None:
    storage.put(segment_name(0), foreign_segment([b"a", b"b"])[:-1])
    storage.calls.clear()

    list(verify(storage))

    assert set(storage.counts) <= {"list", "open", "read", "size"}


def test_a_directory_without_segments_has_no_fault(storage: FaultyStorage) -> None:
    assert list(verify(storage)) == []
    assert describe(storage) is None


def test_what_a_writer_has_not_finished_is_no_fault_of_a_log_that_is_live(
    storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Log.create(storage) as log:
        log.append([b"a" * 100])
        log.write()
    raw = storage.read(segment_name(0))
    storage.put(segment_name(0), raw[:-30])
    looks = []

    def write_on(_: float) -> None:
        looks.append(True)
        if len(looks) == 3:
            storage.open(segment_name(0), "write").write(raw, 0)

    monkeypatch.setattr("eventrec.log.verify.time.sleep", write_on)

    assert [fault.reason for fault in verify(storage)] == [Damage.TOO_LONG]
    assert list(verify(storage, is_live=True)) == []


def test_a_torn_tail_that_stays_is_a_fault_of_a_live_log_too(
    storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Log.create(storage) as log:
        log.append([b"a" * 100])
        log.write()
    storage.put(segment_name(0), storage.read(segment_name(0))[:-30])
    monkeypatch.setattr("eventrec.log.verify.time.sleep", lambda _: None)

    assert [fault.reason for fault in verify(storage, is_live=True)] == [Damage.TOO_LONG]


def test_what_is_called_like_a_segment_and_is_not_a_file_is_named(tmp_path: Path) -> None:
    with Log.create(DiskStorage(tmp_path)) as log:
        log.append([b"a"])
    (tmp_path / segment_name(1)).mkdir()

    assert list(verify(DiskStorage(tmp_path))) == [Fault(segment_name(1), 0, 0, 1, 0, Damage.NOT_A_FILE)]


def test_a_segment_that_its_owner_deletes_meanwhile_is_no_fault_of_a_log_that_is_live(
    foreign_segment: Callable[..., bytes],
) -> None:
    class Deleting(FaultyStorage):
        """Its first segment goes between being listed and being opened."""

        def list(self) -> list[str]:
            return [segment_name(0), *super().list()]

    storage = Deleting()
    storage.put(segment_name(1), foreign_segment([b"b"], first=1))

    assert list(verify(storage, is_live=True)) == []
    with pytest.raises(FileNotFoundError):
        list(verify(storage))


def test_a_segment_that_is_listed_and_never_there_ends_the_look(storage: FaultyStorage) -> None:
    Log.create(storage).close()
    storage.fail("open", errno.ENOENT, times=1_000)

    with pytest.raises(FileNotFoundError):
        describe(storage)
