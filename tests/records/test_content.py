"""Our content format: golden bytes, round trips, and what is no content of ours."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.errors import ContentError
from eventrec.log.resync import PEEK
from eventrec.records.column_types import ColumnType, SemanticType
from eventrec.records.content import MAX_BYTES, MAX_RECORDS, Content, ContentDecoder, encode_take, is_ours
from eventrec.records.entry import OVERHEAD_BYTES, SHAPE, Entry
from eventrec.records.schema import ColumnSchema, Shape

LOG = UUID(bytes=bytes(range(16)))
PLAIN = Shape("t", "a")
DECIMAL = ColumnSchema("d", ColumnType.DECIMAL128, SemanticType.TAG, precision=9, scale=2)
WIDE = Shape("t", "b", (DECIMAL, ColumnSchema("v", ColumnType.VECTOR, dimensions=3)))

GOLDEN = bytes.fromhex(
    "01 92 94 c410000102030405060708090a0b0c0d0e0f 01 c0 91 93a174a16190 91 96 00 01 c4027b7d c0 c0 c0"
)
GOLDEN_FULL = bytes.fromhex(
    "01 92 94 c410000102030405060708090a0b0c0d0e0f cf 1865abaf8b230000 c4 02 7b7d 92"
    "93 a174 a161 90"
    "93 a174 a162 92 96 a164 1e 00 09 02 c0 96 a176 20 01 c0 c0 03"
    "92 96 00 ff c4 01 31 c0 c0 c0"
    "96 01 d3 8000000000000000 c4 02 7b7d c4 02 7b7d c4 04 9192c0c0 c410 ffffffffffffffffffffffffffffffff"
)


def entry(  # noqa: PLR0917 - in the order of an entry
    shape: Shape = PLAIN,
    timestamp: int = 1,
    payload: bytes = b"{}",
    context: bytes | None = None,
    extras: bytes | None = None,
    id_: bytes | None = None,
) -> Entry:
    size = OVERHEAD_BYTES + len(payload) + len(context or b"") + len(extras or b"")
    return (shape, timestamp, payload, context, extras, id_, size)


FULL = [entry(payload=b"1", timestamp=-1), entry(WIDE, -(2**63), b"{}", b"{}", bytes.fromhex("9192c0c0"), b"\xff" * 16)]


def encoded(entries: list[Entry], *, written: int = 1, static_context: bytes | None = None) -> bytes:
    ((content, _),) = encode_take(entries, LOG, written=written, static_context=static_context)
    return content


def test_golden_bytes_are_what_is_written() -> None:
    assert encoded([entry()]) == GOLDEN
    assert encoded(FULL, written=1_758_000_000_000_000_000, static_context=b"{}") == GOLDEN_FULL


def test_golden_bytes_are_readable_for_ever() -> None:
    assert ContentDecoder().decode(GOLDEN) == Content(LOG, 1, None, [entry()])
    assert ContentDecoder().decode(GOLDEN_FULL) == Content(LOG, 1_758_000_000_000_000_000, b"{}", FULL)


def test_the_log_id_stands_where_resynchronising_looks() -> None:
    content = encoded([entry()])

    assert is_ours(content[:PEEK], LOG)
    assert not is_ours(content[:PEEK], UUID(int=1))
    assert not is_ours(b"", LOG)
    assert not is_ours(b"\x02" + content[1:PEEK], LOG)


def test_a_take_is_split_by_records_and_bytes_and_keeps_its_order() -> None:
    many = [entry(timestamp=n) for n in range(MAX_RECORDS * 2 + 1)]
    large = [entry(payload=b"x" * (MAX_BYTES // 3), timestamp=n) for n in range(5)]
    huge = [entry(payload=b"x" * (MAX_BYTES * 2)), entry()]

    parts = {name: list(encode_take(take, LOG, written=1)) for name, take in (("m", many), ("l", large), ("h", huge))}

    assert [n for _, n in parts["m"]] == [MAX_RECORDS, MAX_RECORDS, 1]
    assert [n for _, n in parts["l"]] == [2, 2, 1]
    assert [n for _, n in parts["h"]] == [1, 1]
    assert all(len(content) <= MAX_BYTES for content, _ in parts["m"] + parts["l"])
    decode = ContentDecoder().decode
    assert [each for content, _ in parts["m"] for each in decode(content).entries] == many
    assert list(encode_take([], LOG, written=1)) == []


def test_equal_shapes_become_one_object() -> None:
    decoder = ContentDecoder()

    first, second = (decoder.decode(encoded([entry(Shape("t", "a"))])) for _ in range(2))

    assert first.entries[0][SHAPE] is second.entries[0][SHAPE]


columns = st.lists(
    st.builds(
        ColumnSchema,
        st.text("abcxyz", min_size=1, max_size=8).map("c_{}".format),
        st.sampled_from([kind for kind in ColumnType if kind is not ColumnType.VECTOR]),
        st.sampled_from(SemanticType),
    ),
    max_size=4,
    unique_by=lambda column: column.name,
)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
shapes = st.tuples(names, names, columns.map(tuple)).map(lambda given: Shape(*given))
optional = st.none() | st.binary(max_size=30)
entries = st.builds(
    entry,
    shapes,
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=40),
    optional,
    optional,
    st.none() | st.binary(min_size=16, max_size=16),
)


@given(st.lists(entries, min_size=1, max_size=20), st.uuids(), st.integers(0, 2**63 - 1), optional)
def test_what_is_encoded_is_decoded(take: list[Entry], log_id: UUID, written: int, static: bytes | None) -> None:
    ((content, n),) = encode_take(take, log_id, written=written, static_context=static)

    assert n == len(take)
    assert ContentDecoder().decode(content) == Content(log_id, written, static, take)
    assert is_ours(content, log_id)


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x02\x92"], ids=["nothing", "zero", "next"])
def test_an_unknown_version_is_named(content: bytes) -> None:
    with pytest.raises(ContentError, match="version 0x"):
        ContentDecoder().decode(content)


@pytest.mark.parametrize(
    "content",
    [
        GOLDEN[:-1],
        GOLDEN + b"\xc0",
        b"\x01\xc0",
        GOLDEN.replace(b"\x91\x96\x00", b"\x91\x96\x01"),
        GOLDEN.replace(b"\x91\x96\x00", b"\x91\x96\xff"),
        GOLDEN.replace(b"\xa1t", b"\xa1\0"),
        GOLDEN_FULL.replace(b"\xa1d\x1e", b"\xa1d\x7f"),
        GOLDEN_FULL.replace(b"\xc4\x10" + b"\xff" * 16, b"\xc4\x0f" + b"\xff" * 15),
    ],
    ids=["cut", "more", "nil", "no such shape", "shape -1", "bad table", "bad column type", "short id"],
)
def test_what_is_no_content_of_ours_is_refused(content: bytes) -> None:
    with pytest.raises(ContentError, match="not content of ours"):
        ContentDecoder().decode(content)


@given(st.binary(max_size=200))
def test_garbage_never_raises_anything_else(garbage: bytes) -> None:
    for content in (garbage, b"\x01" + garbage, GOLDEN[:21] + garbage):
        try:
            ContentDecoder().decode(content)
        except ContentError:
            continue


@given(st.integers(0, len(GOLDEN_FULL) - 1), st.integers(1, 255))
def test_a_changed_byte_never_raises_anything_else(at: int, change: int) -> None:
    content = bytearray(GOLDEN_FULL)
    content[at] ^= change

    try:
        ContentDecoder().decode(bytes(content))
    except ContentError:
        return
