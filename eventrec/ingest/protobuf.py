"""Protocol Buffers, read from any client's bytes: the fields of a message, in bounds.

    a varint            up to ten bytes, of which 64 bits count
    an unknown field    is the caller's to skip; so is one whose wire type is not the one that it should have
    a group             is skipped, with all in it: no message has had one for long
    what breaks off, a field without a number, an unknown wire type, a group that does not end, or ends another one:
                        `WireError`

No message is read in another by itself: how deep it goes is the caller's decision. Each field is spent of a `Budget`,
since a byte or two is enough for one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

VARINT: Final = 0
FIXED64: Final = 1
LENGTH: Final = 2
FIXED32: Final = 5

_GROUP: Final = 3
_END_GROUP: Final = 4
_FIRST_KEY: Final = 1 << 3
_LAST_KEY: Final = (1 << 32) - 1
_CONTINUED: Final = 0x80
_MAX_GROUPS: Final = 100
"""Groups in one another: as many as other readers allow."""

_MASK: Final = (1 << 64) - 1
_SIGN: Final = 1 << 63

_fixed64: Final = struct.Struct("<Q").unpack
_fixed32: Final = struct.Struct("<I").unpack
_double: Final = struct.Struct("<d").unpack


class WireError(ValueError):
    """Bytes that are not a message."""


class BudgetError(ValueError):
    """There is more to read than is allowed."""


class Budget:
    """How many fields, or values, may still be read."""

    __slots__ = ("_left", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._left = limit

    def spend(self) -> None:
        """Count one.

        Raises:
            BudgetError: There were `limit` before.
        """
        self._left -= 1
        if self._left < 0:
            raise BudgetError(f"more than {self.limit:,} values")


def fields(message: bytes, budget: Budget) -> Iterator[tuple[int, Any]]:
    """The key of each field of `message`, which is `key(number, kind)`, and its value, in the order they stand in.

    A varint is an integer without a sign, everything else bytes. Groups are left out.

    Raises:
        WireError: It is not a message. What was given before stands.
        BudgetError: It has more fields than are allowed.
    """
    at, end = 0, len(message)
    while at < end:
        budget.spend()
        key = message[at]
        # Most numbers are of one byte: written out, since half of all fields are a tag and a length.
        if key < _CONTINUED:
            at += 1
        else:
            key, at = _varint_at(message, at)
        if not _FIRST_KEY <= key <= _LAST_KEY:
            raise WireError("a field has a number that is not one")
        kind = key & 7
        if kind == LENGTH:
            if at < end and message[at] < _CONTINUED:
                size = message[at]
                at += 1
            else:
                size, at = _varint_at(message, at)
        elif kind == VARINT:
            value, at = _varint_at(message, at)
            yield key, value
            continue
        elif kind == _GROUP:
            at = _after_group(message, at, key >> 3, budget)
            continue
        else:
            size = _size_of(kind)
        if size > end - at:
            raise WireError("a field is longer than the message")
        yield key, message[at : at + size]
        at += size


def key(number: int, kind: int) -> int:
    """What stands before a field."""
    return number << 3 | kind


def signed(value: int) -> int:
    """A varint as an integer of 64 bits with a sign."""
    return value - (1 << 64) if value & _SIGN else value


def fixed64(value: bytes) -> int:
    """Eight bytes as an integer without a sign."""
    (number,) = _fixed64(value)
    return int(number)


def fixed32(value: bytes) -> int:
    """Four bytes as an integer without a sign."""
    (number,) = _fixed32(value)
    return int(number)


def double(value: bytes) -> float:
    """Eight bytes as a double."""
    (number,) = _double(value)
    return float(number)


def _key_at(message: bytes, at: int) -> tuple[int, int, int]:
    """Number and wire type of the field at `at`, and where it goes on."""
    found, at = _varint_at(message, at)
    if not _FIRST_KEY <= found <= _LAST_KEY:
        raise WireError("a field has a number that is not one")
    return found >> 3, found & 7, at


def _size_of(kind: int) -> int:
    if kind == FIXED64:
        return 8
    if kind == FIXED32:
        return 4
    raise WireError("a group ends that did not begin" if kind == _END_GROUP else f"a field is of the kind {kind}")


def _varint_at(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    end = len(message)
    for shift in range(0, 70, 7):
        if at >= end:
            raise WireError("the message breaks off")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < _CONTINUED:
            return value & _MASK, at
    raise WireError("a number has more than ten bytes")


def _after_group(message: bytes, at: int, number: int, budget: Budget) -> int:
    """Where the group `number`, which began before `at`, is over."""
    opened = [number]
    while opened:
        if at >= len(message):
            raise WireError("a group does not end")
        budget.spend()
        number, kind, at = _key_at(message, at)
        if kind == _GROUP:
            opened.append(number)
            if len(opened) > _MAX_GROUPS:
                raise WireError("groups are nested too deeply")
        elif kind == _END_GROUP:
            if opened.pop() != number:
                raise WireError("a group ends another one")
        elif kind == VARINT:
            _, at = _varint_at(message, at)
        else:
            size, at = _varint_at(message, at) if kind == LENGTH else (_size_of(kind), at)
            if size > len(message) - at:
                raise WireError("a field is longer than the message")
            at += size
    return at
