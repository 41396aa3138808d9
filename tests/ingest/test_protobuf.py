from __future__ import annotations

import struct

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from eventrec.ingest.protobuf import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    Budget,
    BudgetError,
    WireError,
    double,
    fields,
    fixed32,
    fixed64,
    key,
    signed,
)


def read(message: bytes) -> list[tuple[int, int | bytes]]:
    return list(fields(message, Budget(1_000)))


def test_fields_are_numbers_with_values() -> None:
    message = b"\x08\x96\x01" + b"\x12\x02hi" + b"\x1d\x01\0\0\0" + b"\x21" + struct.pack("<d", 1.5)

    number, text, short, long = read(message)

    assert (number, text) == ((key(1, VARINT), 150), (key(2, LENGTH), b"hi"))
    assert (short[0], fixed32(short[1])) == (key(3, FIXED32), 1)  # type: ignore[arg-type]
    assert (long[0], double(long[1])) == (key(4, FIXED64), 1.5)  # type: ignore[arg-type]
    assert fixed64(b"\xff" * 8) == 2**64 - 1
    assert signed(2**64 - 1) == -1


def test_groups_are_skipped_with_all_in_them() -> None:
    inner = b"\x2b" + b"\x08\x01" + b"\x12\x01x" + b"\x1d\0\0\0\0" + b"\x21" + bytes(8) + b"\x2c"

    assert read(b"\x23" + inner + b"\x24" + b"\x08\x07") == [(key(1, VARINT), 7)]


@pytest.mark.parametrize(
    "message",
    [
        b"\x08",  # breaks off
        b"\x80",
        b"\x12\x05hi",
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x1d\0\0\0",
        b"\x21" + bytes(7),
        b"\x08" + b"\x80" * 10 + b"\x01",  # over-long
        b"\0\0",  # no number
        b"\x80\x80\x80\x80\x80\x01\x01",  # a number beyond all
        b"\x0e",  # no kind
        b"\x0f",
        b"\x0c",  # a group's end alone
        b"\x0b",  # a group without an end
        b"\x0b\x14",  # another's end
        b"\x0b\x12\x05x\x0c",
        b"\x0b\x0e\x0c",
        b"\x0b" * 5_000,
    ],
)
def test_what_is_not_a_message_is_refused(message: bytes) -> None:
    with pytest.raises(WireError):
        read(message)


def test_fields_are_so_many_at_most() -> None:
    for message in (b"\x08\x01" * 1_001, b"\x0b" + b"\x08\x01" * 1_001 + b"\x0c"):
        with pytest.raises(BudgetError):
            read(message)


@given(st.binary(max_size=200) | st.lists(st.sampled_from([b"\x0b", b"\x0c", b"\x0a\x01a", b"\x12\0", b"\x08\x01"])))
def test_what_is_read_is_what_protobuf_reads(drawn: bytes | list[bytes]) -> None:
    message = drawn if isinstance(drawn, bytes) else b"".join(drawn)
    try:
        KeyValue.FromString(message)
    except DecodeError:
        return  # it looks into the fields too
    read(message)
