from __future__ import annotations

import enum
import hashlib
from uuid import UUID

import pytest

from eventrec import EncodeError
from eventrec.events.hashing import hashed

SALT = "d6d6bed3-028a-49ac-94dc-8c89cfb19379"


@pytest.mark.parametrize(
    ("value", "digest"),
    [
        ("rerun.io", "3d0563e28c9991e522fee0dab0ea1d7dcc1b446eccc76c1e6e70a8e74f8e7cb1"),
        (True, "d420305186f55789d751a1b2b6b068b5c000e4711d5a2427f26300e3c8e64100"),
        (42, "aaed55bf731d7e6867c5cfb52f0efb7f96182b1ddd3f8410d583539ec3f77841"),
        (1.5, "26fd0ea5c86987d8df549180c712a8f6865e8232a8cc76185678e72dcc297b55"),
    ],
)
def test_golden_hashes(value: object, digest: str) -> None:
    assert hashed(value, SALT) == digest
    assert hashed(value, SALT.encode()) == digest


def test_the_salt_decides() -> None:
    assert hashed("rerun.io", "one") != hashed("rerun.io", "two")


def test_an_integer_beyond_64_bit_takes_more_bytes() -> None:
    assert hashed(2**63, "") == hashlib.sha256((2**63).to_bytes(9, "little", signed=True)).hexdigest()
    assert hashed(-(2**63), "") == hashlib.sha256((-(2**63)).to_bytes(8, "little", signed=True)).hexdigest()
    assert len({hashed(value, "") for value in (2**63, 2**64, 2**200, -(2**63), -(2**63) - 1, -1)}) == 6


def test_a_lone_surrogate_is_hashed() -> None:
    assert hashed("\ud800", "") == hashlib.sha256(b"\xed\xa0\x80").hexdigest()


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"something else"


class Number(int):
    def __int__(self) -> int:
        return 7


class Level(enum.Enum):
    HIGH = "high"


class Size(enum.IntEnum):
    BIG = 3


def test_subclasses_and_members_count_by_what_they_hold() -> None:
    identifier = UUID("7b0c4f3e-4c8f-4c7f-9b52-0d0d3c3e2f11")

    assert hashed(Text("high"), SALT) == hashed(Level.HIGH, SALT) == hashed("high", SALT)
    assert hashed(Number(42), SALT) == hashed(42, SALT)
    assert hashed(Size.BIG, SALT) == hashed(3, SALT)
    assert hashed(bytearray(b"high"), SALT) == hashed(memoryview(b"high"), SALT) == hashed("high", SALT)
    assert hashed(identifier, SALT) == hashed(str(identifier), SALT)


@pytest.mark.parametrize("value", [None, ["a secret"], {"a": "a secret"}, object()])
def test_another_kind_is_refused_without_its_value(value: object) -> None:
    with pytest.raises(EncodeError, match="cannot be hashed") as caught:
        hashed(value, SALT)

    assert "a secret" not in str(caught.value)
