"""What a stream may hold, byte by byte: everything else is refused before a byte of it is kept for long."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import google_crc32c
import pytest

from eventrec.errors import CorruptCommitError, Damage
from eventrec.log.segment import MAGIC, encode_header
from eventrec.log.stream_parser import Received, StreamParser

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = encode_header()
AMBIGUOUS = int.from_bytes(MAGIC + bytes((1, 0)), "little")
"""The offset whose bytes are those of a segment header."""


def _parser(next_offset: int | None = None, *, version: int | None = None, allows_gaps: bool = False) -> StreamParser:
    return StreamParser(
        next_offset=next_offset,
        version=version,
        segment=None if next_offset is None else 0,
        last=None,
        max_commit_bytes=1000,
        allows_gaps=allows_gaps,
    )


def _feed(parser: StreamParser, stream: bytes, size: int = 1 << 20) -> list[Received]:
    return [one for at in range(0, len(stream), size) for one in parser.feed(stream[at : at + size])]


@pytest.mark.parametrize("size", [1, 5, 6, 9, 10, 11, 31, 32, 33, 1000])
def test_headers_and_commits_may_be_cut_anywhere(
    foreign_segment: Callable[..., bytes], foreign_commit: Callable[..., bytes], size: int
) -> None:
    old = foreign_segment([b"a", b"", b"ccc"], 3, version=0)
    stream = foreign_segment([b"first", b"second", b"third"]) + old + HEADER + foreign_commit(6, b"last", 4)
    parser = _parser()

    found = _feed(parser, stream, size)
    parser.finish()

    assert [(one.offset, one.end) for one in found] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 10)]
    assert [one.header for one in found] == [HEADER, None, None, old[:10], None, None, HEADER]
    assert b"".join((one.header or b"") + one.raw for one in found) == stream


def test_a_header_keeps_its_reserved_bytes(foreign_commit: Callable[..., bytes]) -> None:
    header = HEADER[:8] + b"\x17\x2a"

    (found,) = _feed(_parser(), header + foreign_commit(0, b"x"))

    assert found.header == header


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (MAGIC + bytes((9, 0, 0, 0)), "a version that is not known"),
        (MAGIC + bytes((2, 0, 0, 0)), "the next one"),
        (MAGIC + bytes((1, 1, 0, 0)), "another checksum"),
        (MAGIC + bytes((0, 255, 0, 0)), "another checksum, old version"),
        (bytes(10), "nothing"),
        (b"(ds)^3" + bytes((1, 0, 0, 0)), "no magic"),
    ],
)
@pytest.mark.parametrize("next_offset", [None, 1])
def test_a_header_that_cannot_be_read_is_refused(
    foreign_commit: Callable[..., bytes], header: bytes, why: str, next_offset: int | None
) -> None:
    parser = _parser(next_offset, version=None if next_offset is None else 1)

    with pytest.raises(CorruptCommitError) as caught:
        _feed(parser, header + foreign_commit(1, b"x"))

    assert caught.value.position == 0


def _with_n_of_none(commit: bytes) -> bytes:
    """Records that number nothing, and a checksum that is right."""
    body = commit[:16] + b"\0\0" + commit[18:-4]
    return body + struct.pack("<I", google_crc32c.value(body))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda commit: bytes(len(commit)), Damage.ZEROS),
        (lambda commit: bytes(22) + b"garbage", Damage.ZEROS),
        (lambda commit: commit[:-1] + bytes((commit[-1] ^ 1,)), Damage.CHECKSUM),
        (lambda commit: commit[:25] + b"\xff" + commit[26:], Damage.CHECKSUM),
        (lambda commit: b"\x02" + commit[1:], Damage.HOLE),
        (_with_n_of_none, Damage.NO_RECORDS),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_commit_that_is_not_valid_is_refused_and_what_came_before_is_not(
    foreign_commit: Callable[..., bytes], change: Callable[[bytes], bytes], reason: Damage, size: int
) -> None:
    first, second = foreign_commit(0, b"first"), foreign_commit(1, b"second")
    stream = HEADER + first + change(second)
    parser = _parser()
    found: list[Received] = []

    with pytest.raises(CorruptCommitError, match="stream at byte") as caught:
        found.extend(one for at in range(0, len(stream), size) for one in parser.feed(stream[at : at + size]))

    assert (caught.value.reason, caught.value.position, caught.value.offset) == (reason, 10 + len(first), 1)
    assert [one.offset for one in found] == [0]


@pytest.mark.parametrize("version", [0, 1])
def test_a_huge_length_is_refused_before_there_is_memory_for_it(version: int) -> None:
    head = struct.pack("<QQHI", 0, 0, 1, 0xFFFF_FFFF) if version else struct.pack("<QHI", 0, 1, 0xFFFF_FFFF)
    parser = _parser()
    _feed(parser, encode_header(version))

    with pytest.raises(CorruptCommitError) as caught:
        _feed(parser, head, 1)

    assert (caught.value.reason, caught.value.position) == (Damage.TOO_LONG, 10)


def test_the_longest_commit_that_is_taken_is_taken(foreign_commit: Callable[..., bytes]) -> None:
    assert len(_feed(_parser(), HEADER + foreign_commit(0, bytes(1000 - 26)))) == 1
    with pytest.raises(CorruptCommitError, match="longer than"):
        _feed(_parser(), HEADER + foreign_commit(0, bytes(1001 - 26)))


@pytest.mark.parametrize("offset", [6, 8, 1 << 50])
def test_a_commit_out_of_its_place_is_refused(foreign_commit: Callable[..., bytes], offset: int) -> None:
    for stream in (foreign_commit(offset, b"x"), HEADER + foreign_commit(offset, b"x")):
        parser = StreamParser(next_offset=7, version=1, segment=6, last=(6, 1), max_commit_bytes=1000)

        with pytest.raises(CorruptCommitError) as caught:
            _feed(parser, stream)

        assert caught.value.offset == 7
        assert caught.value.reason in (Damage.HOLE, Damage.OUT_OF_ORDER, Damage.FORKED)


def test_a_gap_is_taken_where_a_segment_begins_behind_it_and_that_is_allowed(
    foreign_commit: Callable[..., bytes],
) -> None:
    assert [one.offset for one in _feed(_parser(7, version=1, allows_gaps=True), HEADER + foreign_commit(9, b"x"))] == [
        9
    ]
    for parser, stream in (
        (_parser(7, version=1), HEADER + foreign_commit(9, b"x")),
        (_parser(7, version=1, allows_gaps=True), foreign_commit(9, b"x")),
    ):
        with pytest.raises(CorruptCommitError, match="records missing"):
            _feed(parser, stream)


def test_the_last_commit_may_come_again_exactly(foreign_commit: Callable[..., bytes]) -> None:
    parser = _parser()
    first = foreign_commit(0, b"first")

    found = _feed(parser, HEADER + first + first + foreign_commit(1, b"second"))

    assert [one.offset for one in found] == [0, 1]
    with pytest.raises(CorruptCommitError, match="forked"):
        _feed(parser, foreign_commit(1, b"other!"))


def test_offsets_end_where_their_number_does(foreign_commit: Callable[..., bytes]) -> None:
    parser = _parser()
    last = (1 << 64) - 3

    found = _feed(parser, HEADER + foreign_commit(last, b"xx", 2))

    assert found[0].end == (1 << 64) - 1
    with pytest.raises(CorruptCommitError):
        _feed(parser, foreign_commit((1 << 64) - 1, b"x"))


@pytest.mark.parametrize("size", [1, 10, 17, 1000])
@pytest.mark.parametrize("version", [0, 1])
def test_an_offset_whose_bytes_are_those_of_a_header_is_not_one(
    foreign_commit: Callable[..., bytes], size: int, version: int
) -> None:
    """The next record's number, as bytes, is magic, version and algorithm."""
    number = int.from_bytes(encode_header(version)[:8], "little")
    before = foreign_commit(number - 1, b"x", version=version)
    at, behind = (foreign_commit(number + i, b"content", version=version) for i in range(2))

    inside = _feed(_parser(), encode_header(version) + before + at + behind, size)
    first = _feed(_parser(), encode_header(version) + at + behind, size)
    begins = _feed(_parser(), encode_header(version) + before + encode_header(version) + at + behind, size)

    assert [one.offset - number for one in inside] == [-1, 0, 1]
    assert [one.offset - number for one in first] == [0, 1]
    assert [(one.offset - number, one.header is None) for one in begins] == [(-1, False), (0, False), (1, True)]


@pytest.mark.parametrize("cut", [1, 5, 9, 10, 11, 31, 32, 36, 41])
def test_a_stream_that_ends_inside_of_something_is_incomplete(foreign_commit: Callable[..., bytes], cut: int) -> None:
    stream = foreign_commit(0, b"first") + HEADER + foreign_commit(1, b"second")
    parser = StreamParser(next_offset=0, version=1, segment=0, last=None)
    whole = len(foreign_commit(0, b"first"))

    found = _feed(parser, stream[: whole + cut])

    assert [one.offset for one in found] == [0]
    if cut == 10:
        # A header alone is nothing yet: the next stream may begin with its commit, or with it.
        parser.finish()
        assert [one.header for one in _feed(parser, stream[whole:])] == [HEADER]
        return
    with pytest.raises(CorruptCommitError, match="incomplete"):
        parser.finish()


def test_a_header_behind_a_header_is_refused(foreign_commit: Callable[..., bytes]) -> None:
    for parser in (_parser(), _parser(1, version=1)):
        with pytest.raises(CorruptCommitError):
            _feed(parser, HEADER + HEADER + foreign_commit(1, b"x") + bytes(1000))


def test_no_more_is_held_than_one_commit(foreign_commit: Callable[..., bytes]) -> None:
    """A peer that sends a byte at a time costs what it sent, and not its square."""
    parser = StreamParser(next_offset=0, version=1, segment=0, last=None)
    commit = foreign_commit(0, bytes(300_000))

    found = _feed(parser, commit, 16)

    assert [one.raw for one in found] == [commit]
