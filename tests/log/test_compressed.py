from __future__ import annotations

import random
import struct
import sys
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from backports import zstd

from eventrec.errors import Damage, LogError
from eventrec.log import compressed
from eventrec.log.compressed import FRAME_SIZE, CompressedFile, compress, load_zstd
from eventrec.log.log import Log, LogOptions
from eventrec.log.reader import LogReader
from eventrec.log.segment import index_name, list_segments, segment_name
from eventrec.log.verify import verify
from eventrec.testing.storage import FaultyStorage

if TYPE_CHECKING:
    from collections.abc import Callable

RANDOM = random.Random(3)
TEXT = b"".join(b"%d is followed by %d\n" % (i, RANDOM.randrange(9999)) for i in range(2000))


def _compressed(storage: FaultyStorage, content: bytes = TEXT) -> bytes:
    storage.put("plain", content)
    compress(storage.open("plain", "read"), storage.open("packed", "create"))
    return storage.read("packed")


def _file(content: bytes) -> CompressedFile:
    storage = FaultyStorage()
    storage.put("f", content)
    return CompressedFile(storage.open("f", "read"))


def _log(storage: FaultyStorage, segments: int = 4) -> Log:
    log = Log.create(storage, LogOptions(segment_bytes=20_000))
    while len(list_segments(storage)) <= segments:
        log.append([b"%06d, and more that is always the same. " % i * 9 for i in range(log.appended, log.appended + 3)])
        log.write()
    return log


def test_any_zstd_decoder_reads_what_is_compressed(storage: FaultyStorage) -> None:
    raw = _compressed(storage)

    # The skippable frame at the end is part of the format.
    assert zstd.decompress(raw) == TEXT
    assert len(raw) < len(TEXT) / 2


def test_frames_hold_4096_bytes_and_are_listed_at_the_end(storage: FaultyStorage) -> None:
    raw = _compressed(storage)

    frames, descriptor, magic = struct.unpack("<IBI", raw[-9:])
    entries = [struct.unpack_from("<II", raw, len(raw) - 9 - 8 * (frames - i)) for i in range(frames)]
    start = len(raw) - 9 - 8 * frames - 8
    assert (magic, descriptor, struct.unpack_from("<II", raw, start)) == (0x8F92EAB1, 0, (0x184D2A5E, 8 * frames + 9))
    assert [size for _, size in entries] == [FRAME_SIZE] * (frames - 1) + [len(TEXT) % FRAME_SIZE]
    assert sum(size for size, _ in entries) == start


def test_any_stretch_is_read_without_reading_the_rest(storage: FaultyStorage) -> None:
    file = CompressedFile(storage.open("packed", "read")) if _compressed(storage) else None
    assert file is not None
    storage.bytes_read = 0

    for position in (0, 1, 4095, 4096, 20_000, len(TEXT) - 3, len(TEXT), len(TEXT) + 9):
        for size in (0, 1, 5000):
            assert file.read(position, size) == TEXT[position : position + size]

    assert file.size() == len(TEXT)
    assert storage.bytes_read < len(TEXT)
    file.sync()
    file.close()


def test_an_empty_file_is_compressed_too(storage: FaultyStorage) -> None:
    file = _file(_compressed(storage, b""))

    assert (file.size(), file.read(0, 9)) == (0, b"")


def test_a_compressed_segment_does_not_change(storage: FaultyStorage) -> None:
    file = _file(_compressed(storage))

    with pytest.raises(LogError):
        file.write(b"x", 0)
    with pytest.raises(LogError):
        file.truncate(0)


def test_without_its_table_a_file_is_read_frame_by_frame(storage: FaultyStorage) -> None:
    raw = _compressed(storage)
    frames = struct.unpack("<I", raw[-9:-5])[0]
    table = len(raw) - 9 - 8 * frames
    damaged = [
        raw[:-1],
        raw[: table - 8],
        raw[:table] + b"\xff" + raw[table + 1 :],
        raw[: table + 4] + b"\xff" + raw[table + 5 :],
        raw[:-9] + b"\xff\xff\xff\xff" + raw[-5:],
        raw[:-5] + b"\x80" + raw[-4:],
    ]

    for content in damaged:
        assert _file(content).read(0, len(TEXT)) == TEXT


def test_a_plain_zstd_file_is_one_frame() -> None:
    content = RANDOM.randbytes(1 << 18)

    file = _file(zstd.compress(content))

    assert (file.size(), file.read(99, 7)) == (len(content), content[99:106])


def test_a_file_cut_in_a_frame_is_read_up_to_it(storage: FaultyStorage) -> None:
    raw = _compressed(storage)

    file = _file(raw[:2000])

    assert 0 < file.size() < len(TEXT)
    assert file.read(0, 1 << 20) == TEXT[: file.size()]


def test_a_file_of_the_magic_alone_holds_nothing() -> None:
    assert _file(compressed.MAGIC).size() == 0


def test_a_table_with_checksums_is_read(storage: FaultyStorage) -> None:
    raw = _compressed(storage)
    frames = struct.unpack("<I", raw[-9:-5])[0]
    table = len(raw) - 9 - 8 * frames
    entries = b"".join(raw[table + 8 * i : table + 8 * i + 8] + b"XXXX" for i in range(frames))
    head = struct.pack("<II", 0x184D2A5E, 12 * frames + 9)

    file = _file(raw[: table - 8] + head + entries + struct.pack("<IBI", frames, 0x80, 0x8F92EAB1))

    assert file.read(0, len(TEXT)) == TEXT


def test_a_damaged_frame_reads_as_zeros_and_is_named(storage: FaultyStorage) -> None:
    raw = bytearray(_compressed(storage))
    raw[3] ^= 0xFF
    raw[:4] = b"????"

    file = _file(bytes(raw))

    assert file.read(0, len(TEXT)) == bytes(FRAME_SIZE) + TEXT[FRAME_SIZE:]
    assert [position for position, _ in file.bad_frames] == [0]


def test_a_frame_that_holds_more_than_it_says_is_not_believed(storage: FaultyStorage) -> None:
    storage.put("bomb", zstd.compress(bytes(10_000_000)))
    bomb = storage.read("bomb")
    entry = struct.pack("<II", len(bomb), 100)
    table = entry + struct.pack("<IBI", 1, 0, 0x8F92EAB1)

    file = _file(bomb + struct.pack("<II", 0x184D2A5E, len(table)) + table)

    assert (file.read(0, 999), len(file.bad_frames)) == (bytes(100), 1)


def test_compression_keeps_content_and_order(storage: FaultyStorage) -> None:
    log = _log(storage)
    before = [tuple(commit) for commit in log.reader(strict=True).commits()]
    firsts = list_segments(storage)

    read, written = log.compress_below(firsts[2])

    assert written < read / 2
    assert [storage.read(segment_name(first))[:4] == compressed.MAGIC for first in firsts] == [1, 1, 0, 0, 0]
    assert [tuple(commit) for commit in log.reader(strict=True).commits()] == before
    assert [tuple(commit) for commit in LogReader(storage, strict=True).commits()] == before
    assert log.compress_below(firsts[2]) == (0, 0)
    assert list(verify(storage)) == []


def test_the_segment_being_written_is_never_compressed(storage: FaultyStorage) -> None:
    log = _log(storage)
    log.append([b"x"])
    log.write()

    log.compress_below(2**63)

    head = list_segments(storage)[-1]
    assert storage.read(segment_name(head))[:4] != compressed.MAGIC
    log.append([b"y"])
    assert log.write() == log.appended


def test_a_compressed_segment_is_durable_before_the_original_goes(storage: FaultyStorage) -> None:
    log = _log(storage)
    log.sync()
    expected = [commit.content for commit in log.reader().commits()]
    storage.calls.clear()

    log.compress_below(list_segments(storage)[1])

    operations = [operation for operation, _ in storage.calls if operation in {"sync", "replace", "sync_directory"}]
    assert operations == ["sync", "replace", "sync_directory"]
    for _ in range(10):
        assert [commit.content for commit in LogReader(storage.crash()).commits()] == expected


@pytest.mark.parametrize("operation", ["create", "write", "sync", "replace", "sync_directory"])
def test_a_compression_that_fails_harms_nothing(storage: FaultyStorage, operation: str) -> None:
    log = _log(storage)
    expected = [commit.content for commit in log.reader().commits()]
    storage.fail(operation)

    with pytest.raises(LogError, match="compress segments"):
        log.compress_below(list_segments(storage)[1])

    assert [commit.content for commit in log.reader(strict=True).commits()] == expected
    assert not [name for name in storage.list() if name.endswith(".tmp")]


def test_reading_goes_on_while_a_segment_is_compressed(storage: FaultyStorage) -> None:
    log = _log(storage)
    expected = [commit.offset for commit in log.reader().commits()]
    reader = log.reader(strict=True)
    seen = [commit.offset for commit in reader.read(max_bytes=5000)]
    foreign = LogReader(storage)
    seen_too = [commit.offset for commit in foreign.read(max_bytes=5000)]
    foreign.close()

    log.compress_below(2**63)

    assert seen + [commit.offset for commit in reader.commits()] == expected
    assert seen_too + [commit.offset for commit in foreign.commits()] == expected


def test_an_index_serves_a_compressed_segment(storage: FaultyStorage) -> None:
    log = _log(storage, segments=1)
    log.compress_below(2**63)
    assert index_name(0) in storage.list()
    last = list_segments(storage)[1] - 3
    storage.bytes_read = 0

    first = next(LogReader(storage, last).commits())

    assert first.offset == last
    assert storage.bytes_read < storage.size(segment_name(0)).length


def test_all_segments_sealed(storage: FaultyStorage) -> None:
    log = _log(storage, segments=2)
    log.append([b"last"])
    log.close()
    firsts, end = list_segments(storage), log.appended
    for first in firsts:
        target = storage.open("packed", "create")
        compress(storage.open(segment_name(first), "read"), target)
        storage.replace("packed", segment_name(first))

    with Log.open(storage) as again:
        again.append([b"new"])

    assert list_segments(storage) == [*firsts, end]
    assert [commit.content for commit in LogReader(storage, end).commits()] == [b"new"]


def test_a_flipped_bit_in_a_compressed_segment_costs_at_most_its_frame(storage: FaultyStorage) -> None:
    log = _log(storage, segments=1)
    log.compress_below(2**63)
    whole = storage.read(segment_name(0))
    commits = [commit.content for commit in LogReader(storage).commits()]
    per_frame = FRAME_SIZE // len(commits[0]) + 2

    for byte in range(4, len(whole), 7):
        raw = bytearray(whole)
        raw[byte] ^= 0x20
        storage.put(segment_name(0), bytes(raw))
        found = [commit.content for commit in LogReader(storage).commits()]
        assert set(found) <= set(commits)
        assert len(found) >= len(commits) - per_frame


def test_verify_names_the_frame_that_is_damaged(storage: FaultyStorage) -> None:
    log = _log(storage, segments=1)
    log.compress_below(2**63)
    raw = bytearray(storage.read(segment_name(0)))
    raw[6] ^= 0xFF
    storage.put(segment_name(0), bytes(raw))

    reasons = [fault.reason for fault in verify(storage)]

    assert Damage.FRAME in reasons


@pytest.mark.parametrize("missing", ["all", "none"])
def test_without_zstd_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    names = ("no.such.module",) if missing == "all" else ("no.such.module", "backports.zstd")
    monkeypatch.setattr(compressed, "_MODULES", names)

    if missing == "none":
        assert load_zstd() is zstd
    else:
        with pytest.raises(LogError, match=r"eventrec\[zstd\]"):
            load_zstd()


def test_a_compressed_segment_without_zstd_is_an_error_not_a_gap(
    storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _log(storage, segments=1)
    log.compress_below(2**63)
    monkeypatch.setattr(compressed, "_MODULES", ())

    with pytest.raises(LogError, match="zstd"):
        LogReader(storage).read()


def test_the_module_of_the_standard_library_comes_first() -> None:
    expected = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"

    assert load_zstd().__name__.startswith(expected.split(".", maxsplit=1)[0])


def test_a_compressed_segment_is_never_cut_as_if_it_were_not(
    storage: FaultyStorage, foreign_segment: Callable[..., bytes]
) -> None:
    storage.put("plain", foreign_segment([b"a" * 5000, b"b" * 5000, b"c" * 5000]))
    compress(storage.open("plain", "read"), storage.open(segment_name(0), "create"))
    storage.delete("plain")
    log = Log.open(storage)

    log.reset_to(1)

    assert (log.appended, storage.read(segment_name(0))) == (2, foreign_segment([b"a" * 5000, b"b" * 5000]))


def _peak_of(read: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_frame_that_holds_a_gigabyte_of_nothing_takes_no_memory() -> None:
    packer = zstd.ZstdCompressor()
    pieces = [packer.compress(bytes(1 << 20)) for _ in range(300)]
    bomb = b"".join(pieces) + packer.flush()

    def read() -> None:
        file = _file(bomb)
        assert file.size() == 300 << 20
        assert file.read(200 << 20, 10) == bytes(10)
        assert file.read(5, 10) == bytes(10)

    assert len(bomb) < 100_000
    assert _peak_of(read) < 24 << 20


def test_a_large_frame_is_read_from_any_byte(storage: FaultyStorage) -> None:
    content = RANDOM.randbytes(6 << 20)
    file = _file(zstd.compress(content))

    assert file.size() == len(content)
    for position in (0, 5 << 20, 100, (6 << 20) - 5, 3 << 20):
        assert file.read(position, 1 << 20) == content[position : position + (1 << 20)]


def test_a_large_frame_that_is_damaged_reads_as_zeros_and_is_named() -> None:
    content = RANDOM.randbytes(6 << 20)
    frame = zstd.compress(content)
    sizes = struct.pack("<II", len(frame), len(content)) + struct.pack("<IBI", 1, 0, 0x8F92EAB1)
    whole = frame + struct.pack("<II", 0x184D2A5E, len(sizes)) + sizes
    broken = bytearray(whole)
    broken[4] ^= 0xFF

    assert _file(whole).read(5 << 20, 100) == content[5 << 20 : (5 << 20) + 100]
    file = _file(bytes(broken))
    assert file.read(5 << 20, 100) == bytes(100)
    assert file.bad_frames == [(0, len(frame))]


def test_a_table_that_claims_more_than_any_segment_holds_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "_MAX_SIZE", 10_000)
    frame = zstd.compress(bytes(4_000))

    assert _file(frame * 2).size() == 8_000
    assert _file(frame * 5).size() == 8_000
