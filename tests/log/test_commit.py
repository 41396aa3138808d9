from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.errors import CorruptCommitError, Damage
from eventrec.log import commit as commit_module
from eventrec.log.commit import Commit, decode_commit, encode_commit, read_header, warn_if_slow
from eventrec.log.segment import HEADER_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = [
    (1, 0, 0, 1, b"hello", "0000000000000000000000000000000001000500000068656c6c6fb4f02784"),
    (1, 1, 7, 2, b"abcdef", "0100000000000000070000000000000002000600000061626364656649454f07"),
    (0, 0, 0, 1, b"hello", "000000000000000001000500000068656c6c6f9e4110d7"),
]


@pytest.mark.parametrize(("version", "offset", "epoch", "n", "content", "encoded"), GOLDEN)
def test_golden_bytes_are_read_for_ever(  # noqa: PLR0917  a vector has six parts
    version: int, offset: int, epoch: int, n: int, content: bytes, encoded: str
) -> None:
    raw = bytes.fromhex(encoded)

    decoded = decode_commit(raw, version=version)

    assert decoded == Commit(offset, epoch, n, content, int.from_bytes(raw[-4:], "little"), len(raw))


@pytest.mark.parametrize(("version", "offset", "epoch", "n", "content", "encoded"), GOLDEN)
def test_golden_bytes_are_written_in_version_1(  # noqa: PLR0917  a vector has six parts
    version: int, offset: int, epoch: int, n: int, content: bytes, encoded: str
) -> None:
    raw = encode_commit(offset, content, n, epoch=epoch)

    assert (raw == bytes.fromhex(encoded)) == (version == 1)


def test_the_worked_example_of_the_format_document_is_a_segment() -> None:
    document = commit_module.__doc__ or ""
    lines = re.findall(r"^ {4}(\d+) +((?:[0-9a-f]{2} )+)", document, re.MULTILINE)

    raw = b"".join(bytes.fromhex(piece) for _, piece in lines)

    positions = [0]
    for _, piece in lines:
        positions.append(positions[-1] + len(bytes.fromhex(piece)))
    assert [int(position) for position, _ in lines] == positions[:-1]
    assert decode_commit(raw, HEADER_SIZE)[:4] == (1, 7, 2, b"abcdef")


def test_checksum_is_crc_32c() -> None:
    check = google_crc32c.value(b"123456789")

    assert check == 0xE3069283


@given(
    offset=st.integers(0, 2**64 - 65536), epoch=st.integers(0, 2**64 - 1), n=st.integers(1, 65535), content=st.binary()
)
def test_commit_roundtrip(offset: int, epoch: int, n: int, content: bytes) -> None:
    raw = encode_commit(offset, content, n, epoch=epoch)

    decoded = decode_commit(b"xx" + raw + b"yy", 2)

    assert decoded[:4] == (offset, epoch, n, content)
    assert decoded.end == offset + n
    assert decoded.size == len(raw) == len(content) + 26


@given(at=st.integers(22, 511), mask=st.integers(1, 255))
def test_bitflip_in_the_records_is_a_wrong_checksum(at: int, mask: int) -> None:
    raw = bytearray(encode_commit(3, bytes(range(256)) * 2, 16))
    raw[at] ^= mask

    with pytest.raises(CorruptCommitError) as caught:
        decode_commit(bytes(raw))

    assert caught.value.reason is Damage.CHECKSUM


@pytest.mark.parametrize("bit", range(27 * 8))
def test_no_flipped_bit_makes_another_commit(bit: int) -> None:
    raw = bytearray(encode_commit(3, b"x", 1))
    raw[bit // 8] ^= 1 << bit % 8

    with pytest.raises(CorruptCommitError):
        decode_commit(bytes(raw))


@pytest.mark.parametrize(("version", "size"), [(1, 22), (0, 14)])
def test_zeros_are_the_end_in_both_versions(version: int, size: int) -> None:
    for more in (0, 4, 100):
        with pytest.raises(CorruptCommitError) as caught:
            decode_commit(bytes(size + more), version=version)
        assert caught.value.reason is Damage.ZEROS


def test_a_valid_checksum_over_no_records_is_no_commit() -> None:
    body = struct.pack("<QQHI", 5, 0, 0, 0)

    with pytest.raises(CorruptCommitError) as caught:
        decode_commit(body + struct.pack("<I", google_crc32c.value(body)))

    assert caught.value.reason is Damage.NO_RECORDS


def test_a_length_beyond_what_remains_is_refused_before_anything_is_read() -> None:
    raw = struct.pack("<QQHI", 0, 0, 1, 0xFFFFFFFF)

    with pytest.raises(CorruptCommitError) as caught:
        read_header(raw, 0, 1000, 1)

    assert caught.value.reason is Damage.TOO_LONG
    assert caught.value.offset == 0


@pytest.mark.parametrize("size", [0, 1, 21])
def test_less_than_a_header_is_incomplete(size: int) -> None:
    with pytest.raises(CorruptCommitError) as caught:
        decode_commit(encode_commit(0, b"x", 1)[:size])

    assert caught.value.reason is Damage.SHORT
    assert "incomplete" in str(caught.value)


class _Huge(bytes):
    def __len__(self) -> int:
        return 2**32


@pytest.mark.parametrize(
    ("offset", "content", "n", "epoch"),
    [(0, b"", 0, 0), (0, b"", 65536, 0), (-1, b"", 1, 0), (2**64 - 1, b"", 1, 0), (0, b"", 1, 2**64), (0, b"", 1, -1)],
)
def test_what_does_not_fit_a_field_is_not_encoded(offset: int, content: bytes, n: int, epoch: int) -> None:
    with pytest.raises(ValueError, match="not"):
        encode_commit(offset, content, n, epoch=epoch)


def test_content_of_4_gib_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="4294967296"):
        encode_commit(0, _Huge(), 1)


def test_records_may_be_empty() -> None:
    decoded = decode_commit(encode_commit(9, b"", 3))

    assert decoded[:4] == (9, 0, 3, b"")


@pytest.mark.parametrize(("implementation", "lines"), [("c", 0), ("python", 1)])
def test_slow_checksums_are_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, implementation: str, lines: int
) -> None:
    monkeypatch.setattr(google_crc32c, "implementation", implementation)
    warn_if_slow.cache_clear()

    warn_if_slow()
    warn_if_slow()

    warn_if_slow.cache_clear()
    assert [record.levelname for record in caplog.records if "checksums" in record.getMessage()] == ["WARNING"] * lines


def test_foreign_commits_are_read(foreign_commit: Callable[..., bytes]) -> None:
    for version in (0, 1):
        decoded = decode_commit(foreign_commit(7, b"abc", 2, version=version), version=version)
        assert decoded[:4] == (7, 0, 2, b"abc")
