"""What most rows are, as bytes: an id, a type, a moment and a document; and how a row begins."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final

from eventrec_handlers.greptimedb.columns import varint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ID: Final = b"\x0a\x26\x6a\x24"
"""What stands before the 36 characters of an id."""

_ID_SIZE: Final = 36
_MAX_SIZES: Final = 2_048
"""Remembered at once, of each of a few kinds of rows: some megabytes in all."""


LOW_BITS: Final = 28
_LOW_SIZE: Final = 4
_LOW_PART: Final = (1 << 14) - 1


def plain_rows(
    ids: Iterable[str],
    kind: bytes,
    timestamps: Iterable[int],
    documents: Iterable[bytes],
    head: Callable[[int], bytes],
) -> bytes:
    """What most rows are: nothing but base columns, in half of the time. `kind` is a value of a row."""
    pairs = _pairs()
    known, before, after = -1, b"", b""
    heads: _Heads = _heads(0, head)
    pieces: list[bytes] = []
    for id_, moment, document in zip(ids, timestamps, documents, strict=True):
        high = moment >> LOW_BITS
        if high != known:
            known, before, after = high, *_around(high)
            before = kind + before
            heads = _heads(len(ID) + _ID_SIZE + len(before) + _LOW_SIZE + len(after), head)
        start, last = heads[len(document)]
        low, middle = pairs[moment & _LOW_PART], pairs[moment >> 14 & _LOW_PART]
        pieces += (start, id_.encode(), before, low, middle, after, last, document)
    return b"".join(pieces)


class _Heads(dict[int, tuple[bytes, bytes]]):
    """What a row begins with, and what stands before its document, by the size of that.

    `others` is what all but these two and the document have, `head` makes the second.
    """

    def __init__(self, others: int, head: Callable[[int], bytes]) -> None:
        super().__init__()
        self._others = others
        self._head = head

    def __missing__(self, size: int) -> tuple[bytes, bytes]:
        if len(self) >= _MAX_SIZES:
            self.clear()
        last = self._head(size)
        made = self[size] = (row_head(self._others + len(last) + size) + ID, last)
        return made


@lru_cache(maxsize=16)
def _heads(others: int, head: Callable[[int], bytes]) -> _Heads:
    return _Heads(others, head)


def _around(high: int) -> tuple[bytes, bytes]:
    """What stands before, and after, the lower bits of a moment with these higher ones, as a value of a row."""
    after = varint(high)
    return b"\x0a" + varint(2 + _LOW_SIZE + len(after)) + b"\x98\x01", after


def timestamp_values(timestamps: Iterable[int]) -> list[bytes]:
    """Moments in nanoseconds, as values of rows. Their high bits are the same for a quarter of a second and more."""
    pairs = _pairs()
    known, head, tail = -1, b"", b""
    made = []
    for moment in timestamps:
        high = moment >> LOW_BITS
        if high != known:
            known, head, tail = high, *_around(max(high, 0))
        if high > 0:
            made.append(head + pairs[moment & _LOW_PART] + pairs[moment >> 14 & _LOW_PART] + tail)
        else:  # before, or within a quarter of a second of, 1970
            whole = b"\x98\x01" + varint(moment & (1 << 64) - 1)
            made.append(b"\x0a" + varint(len(whole)) + whole)
    return made


@cache
def _pairs() -> list[bytes]:
    """Two groups of seven bits, more to come, by the number that they are."""
    return [bytes((number & 0x7F | 0x80, number >> 7 | 0x80)) for number in range(_LOW_PART + 1)]


@lru_cache(maxsize=4_096)
def row_head(size: int) -> bytes:
    """What stands before a row of so many bytes, as a field of Rows."""
    return b"\x12" + varint(size)
