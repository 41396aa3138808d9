"""A salted hash in place of a value: the same value and salt give the same text, in every process and for ever."""

from __future__ import annotations

import enum
import hashlib
import struct
from typing import Final
from uuid import UUID

from eventrec.errors import EncodeError

_I64_BYTES: Final = 8


def hashed(value: object, salt: str | bytes) -> str:
    """SHA-256 of the bytes of `salt` and then those of `value`, as 64 lowercase hexadecimal digits.

    value                bytes
    text                 UTF-8; lone surrogates as three bytes each
    bool                 one: 1 or 0
    int                  eight, little endian, signed; as many as it takes where they are too few
    float                eight, little endian, as IEEE 754
    bytes-like           as they are
    UUID                 its text, with hyphens
    member of an Enum    those of its value

    Subclasses count by what they hold. A short or guessable value can be found by trying: a salt that stays secret
    prevents it. A format of others (Rerun's analytics), so it never changes.

    Raises:
        EncodeError: `value` is of another kind.
    """
    prefix = salt.encode() if isinstance(salt, str) else salt
    return hashlib.sha256(prefix + _bytes_of(value)).hexdigest()


def _bytes_of(value: object) -> bytes:
    if isinstance(value, enum.Enum):
        value = value.value
    match value:
        case str():
            encoded = str.encode(value, "utf-8", "surrogatepass")
        case bool():
            encoded = b"\1" if value else b"\0"
        case int():
            exact = int.__int__(value)
            digits = (exact if exact >= 0 else ~exact).bit_length()
            encoded = exact.to_bytes(max(_I64_BYTES, digits // 8 + 1), "little", signed=True)
        case float():
            encoded = struct.pack("<d", float.__float__(value))
        case bytes() | bytearray() | memoryview():
            encoded = bytes(value)
        case UUID():
            encoded = str(UUID(int=value.int)).encode()
        case _:
            raise EncodeError(f"a value of kind {type(value).__name__} cannot be hashed")
    return encoded
