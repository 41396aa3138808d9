"""Protocol Buffers, as far as OTLP's logs need them: values to the wire, and the fields of an answer.

Written out, since it is small, and so asks for no version of protobuf, of which a process can have one alone; it also
takes a fifth less time than to fill the library's messages. Field numbers are those of opentelemetry-proto 1.x:
`common.proto`, `resource.proto`, `logs.proto`, `logs_service.proto`.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

VARINT: Final = 0
FIXED64: Final = 1
LENGTH: Final = 2
FIXED32: Final = 5

MAX_DEPTH: Final = 24
"""Levels of lists and objects in a value. Readers of Protocol Buffers refuse 100 messages in one another; a level is up
to three."""

_I64_MIN: Final = -(1 << 63)
_I64_MAX: Final = (1 << 63) - 1
_MASK: Final = (1 << 64) - 1
_SHORT: Final = [bytes([size]) for size in range(0x80)]
_double: Final = struct.Struct("<d").pack


class InexactError(ValueError):
    """A value cannot be said exactly: an integer of more than 64 bit, a number no double is equal to, too deep."""


class WireError(ValueError):
    """Bytes that are not a message."""


def varint(value: int) -> bytes:
    """A number of 64 bit; a negative one as its two's complement."""
    value &= _MASK
    if value < 0x80:  # noqa: PLR2004 - seven bits a byte
        return _SHORT[value]
    if value < 0x4000:  # noqa: PLR2004
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value >= 0x80:  # noqa: PLR2004
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(tag: bytes, content: bytes) -> bytes:
    """A field of a length: `tag` is its number and wire type."""
    size = len(content)
    return tag + (_SHORT[size] if size < 0x80 else varint(size)) + content  # noqa: PLR2004


def int64(value: int) -> int:
    """`value` itself.

    Raises:
        InexactError: It has more than 64 bit.
    """
    if not _I64_MIN <= value <= _I64_MAX:
        raise InexactError("an integer has more than 64 bit")
    return value


def any_value(value: Any, depth: int = 0) -> bytes:  # noqa: PLR0911 - one for each kind
    """An AnyValue's content: of a JSON value, or of bytes.

    Raises:
        InexactError: It cannot be one.
    """
    kind = type(value)
    if kind is str:
        text: bytes = value.encode()
        size = len(text)
        return b"\x0a" + (_SHORT[size] if size < 0x80 else varint(size)) + text  # noqa: PLR2004
    if kind is int:
        return b"\x18" + varint(int64(value))
    if kind is bool:
        return b"\x10\x01" if value else b"\x10\x00"
    if kind is float:
        return b"\x21" + _double(value)
    if value is None:
        return b""
    if kind is bytes:
        return delimited(b"\x3a", value)
    if depth >= MAX_DEPTH:
        raise InexactError("it is nested too deeply")
    if kind is dict:
        return delimited(b"\x32", b"".join([key_value(name, each, depth + 1) for name, each in value.items()]))
    return delimited(b"\x2a", b"".join([delimited(b"\x0a", any_value(each, depth + 1)) for each in value]))


def key_value(name: str, value: Any, depth: int = 0, *, tag: bytes = b"\x0a") -> bytes:
    """A KeyValue as the field `tag` of what it stands in."""
    key, content = _key(name), any_value(value, depth)
    size = len(content)
    # `delimited`, written out: half of all fields are these.
    length = _SHORT[size] if size < 0x80 else varint(size)  # noqa: PLR2004
    size += len(key) + len(length)
    return tag + (_SHORT[size] if size < 0x80 else varint(size)) + key + length + content  # noqa: PLR2004


@lru_cache(maxsize=4_096)
def _key(name: str) -> bytes:
    """The key of a KeyValue, and the tag of its value: names come again and again."""
    return (delimited(b"\x0a", name.encode()) if name else b"") + b"\x12"


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of `message`, known or not, in the order they stand in.

    Raises:
        WireError: It is not a message.
    """
    at = 0
    while at < len(message):
        key, at = _varint_at(message, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise WireError("a field has no number")
        if kind == VARINT:
            value, at = _varint_at(message, at)
            yield number, value
            continue
        if kind == LENGTH:
            size, at = _varint_at(message, at)
        elif kind in {FIXED64, FIXED32}:
            size = 8 if kind == FIXED64 else 4
        else:
            raise WireError(f"a field is of the kind {kind}")
        if size > len(message) - at:
            raise WireError("a field is longer than the message")
        yield number, message[at : at + size]
        at += size


def _varint_at(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise WireError("the message breaks off")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004
            return value & _MASK, at
    raise WireError("a number has more than ten bytes")
