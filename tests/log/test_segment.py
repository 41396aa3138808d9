from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from eventrec.errors import CorruptCommitError, Damage, LogError, LogLockedError
from eventrec.log.segment import (
    Segment,
    create_segment,
    decode_header,
    encode_header,
    list_leftovers,
    list_segments,
    replace_file,
    segment_name,
)
from eventrec.log.storage import write_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.testing.storage import FaultyStorage


def test_header_roundtrip() -> None:
    for version in (0, 1):
        assert decode_header(encode_header(version)) == version


def test_a_header_is_the_ten_golden_bytes() -> None:
    assert encode_header().hex() == "286473295e3201000000"


def test_reserved_bytes_are_ignored_on_read() -> None:
    assert decode_header(encode_header()[:8] + b"\xff\xff") == 1


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"", Damage.SHORT),
        (encode_header()[:9], Damage.SHORT),
        (b"x" + encode_header()[1:], Damage.HEADER),
        (encode_header(2), Damage.HEADER),
        (encode_header(ord("1")), Damage.HEADER),
        (b"(ds)^2\x01\x01\0\0", Damage.HEADER),
        (bytes(10), Damage.HEADER),
    ],
)
def test_what_is_no_header_is_said_so(header: bytes, reason: Damage) -> None:
    with pytest.raises(CorruptCommitError) as caught:
        decode_header(header)

    assert caught.value.reason is reason


def test_segments_are_listed_in_order_and_nothing_else_is_looked_at(storage: FaultyStorage) -> None:
    for name in (
        "00000000000000000010.stdb.log",
        "00000000000000000002.stdb.log",
        "18446744073709551615.stdb.log",
        "18446744073709551616.stdb.log",
        "00000000000000000005.stdb.ofs",
        "00000000000000000002.stdb.ofs",
        "00000000000000000003.stdb.lock",
        "5.stdb.log",
        "0000000000000000000x.stdb.log",
        "²0000000000000000000.stdb.log",
        "00000000000000000010.stdb.log.1-2.tmp",
        "notes.txt",
    ):
        storage.put(name, b"")

    assert list_segments(storage) == [2, 10, 2**64 - 1]
    assert list_leftovers(storage) == ["00000000000000000005.stdb.ofs", "00000000000000000010.stdb.log.1-2.tmp"]


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("at", range(8))
def test_a_damaged_header_costs_no_commit(
    storage: FaultyStorage, foreign_segment: Callable[..., bytes], version: int, at: int
) -> None:
    for bit in range(8):
        raw = bytearray(foreign_segment([b"a", b"b"], version=version))
        raw[at] ^= 1 << bit
        storage.put(segment_name(0), bytes(raw))

        segment = Segment.open(storage, 0)

        assert (segment.version, segment.damage) == (version, Damage.HEADER)


def test_an_undamaged_header_is_believed_when_the_first_commit_is_bad(
    storage: FaultyStorage, foreign_segment: Callable[..., bytes]
) -> None:
    for version in (0, 1):
        storage.put(segment_name(0), foreign_segment([b"a"], version=version)[:-1])

        segment = Segment.open(storage, 0)

        assert (segment.version, segment.damage) == (version, None)


def test_a_segment_that_cannot_be_read_leaves_no_descriptor(storage: FaultyStorage) -> None:
    storage.put(segment_name(0), encode_header())
    storage.fail("read")

    with pytest.raises(OSError, match="Input/output"):
        Segment.open(storage, 0)


def test_a_new_segment_is_durable_before_it_is_used(storage: FaultyStorage) -> None:
    create_segment(storage, 7, [b"abc"])

    calls = [operation for operation, _ in storage.calls]
    assert calls.index("sync") < calls.index("replace") < calls.index("sync_directory")
    assert storage.crash(keep=0).read(segment_name(7)) == encode_header() + b"abc"


def test_a_segment_with_content_is_not_replaced_but_an_empty_one_is(storage: FaultyStorage) -> None:
    storage.put(segment_name(7), encode_header())
    create_segment(storage, 7, [b"abc"])

    with pytest.raises(LogError, match="not empty"):
        create_segment(storage, 7)
    create_segment(storage, 7, [b"x"], is_ours=True)

    assert storage.read(segment_name(7)) == encode_header() + b"x"


def test_two_that_make_the_same_segment_do_not_meet(storage: FaultyStorage) -> None:
    lock = storage.lock("00000000000000000007.stdb.lock")

    with pytest.raises(LogLockedError):
        create_segment(storage, 7)
    lock.release()
    create_segment(storage, 7)

    assert list_segments(storage) == [7]


@pytest.mark.parametrize("operation", ["create", "write", "sync", "replace", "sync_directory"])
def test_a_segment_that_cannot_be_made_harms_nothing_and_can_be_made_later(
    storage: FaultyStorage, operation: str
) -> None:
    storage.put("other", b"kept")
    storage.fail(operation, errno.ENOSPC)

    with pytest.raises(OSError, match="No space"):
        create_segment(storage, 7)
    leftovers = list_leftovers(storage)
    create_segment(storage, 7, [b"abc"])

    assert leftovers == []
    assert (storage.read("other"), storage.read(segment_name(7))) == (b"kept", encode_header() + b"abc")


def test_a_half_made_file_of_a_writer_that_died_is_replaced(storage: FaultyStorage) -> None:
    storage.fail("sync")
    storage.fail("delete", after=0)
    with pytest.raises(OSError, match="Input/output"):
        replace_file(storage, "f", lambda file: write_all(file, b"old", 0))
    assert len(storage.list()) == 1

    replace_file(storage, "f", lambda file: write_all(file, b"new", 0))

    assert (storage.list(), storage.read("f")) == (["f"], b"new")
