"""An entry: a record as it waits, a plain tuple, since the queue holds many and a tuple is the cheapest to make.

This module alone names its fields, and computes the size that counts against a bound.
"""

from __future__ import annotations

import builtins  # noqa: TC003 - `type` is a field of the class below
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from eventrec.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventrec.records.schema import ColumnSchema, Shape

Entry: TypeAlias = "tuple[Shape, int, bytes, bytes | None, bytes | None, bytes | None, int]"
"""Shape, timestamp (ns), payload (JSON), context of the call (JSON), extra rows (msgpack), explicit id, size.

A field is read as `entry[SIZE]`: an accessor's call would cost more than the field.
"""

T = TypeVar("T")


class KeptEntry(tuple[Any, ...]):
    """An entry that newer ones do not push out of a full intake: one of several that are taken together."""

    __slots__ = ()


SHAPE: Final = 0
TIMESTAMP: Final = 1
PAYLOAD: Final = 2
CONTEXT: Final = 3
EXTRA_ROWS: Final = 4
EXPLICIT_ID: Final = 5
SIZE: Final = 6

OVERHEAD_BYTES: Final = 200
"""What an entry counts beyond its encoded length."""

size_of: Final = itemgetter(SIZE)
"""The size of an entry, for `map` and its like."""


def entry_size(payload: bytes, context: bytes | None = None, extra_rows: bytes | None = None) -> int:
    """What a record counts against a bound, in bytes. The functions that make most entries write its first line out."""
    size = len(payload) + OVERHEAD_BYTES
    if extra_rows is not None:
        size += len(extra_rows)
    if context is not None:
        size += len(context)
    return size


def total_size(entries: Iterable[Entry]) -> int:
    """What `entries` count against a bound together, in bytes."""
    return sum(map(size_of, entries))


def make_entry(  # noqa: PLR0917 - the fields of the tuple, in its order
    shape: Shape,
    timestamp: int,
    payload: bytes,
    context: bytes | None = None,
    extra_rows: bytes | None = None,
    explicit_id: bytes | None = None,
) -> Entry:
    """The entry of these values, with its size."""
    return (shape, timestamp, payload, context, extra_rows, explicit_id, entry_size(payload, context, extra_rows))


def with_payload(entry: Entry, payload: bytes) -> Entry:
    """`entry` with another payload; itself where it is the same one."""
    shape, timestamp, before, context, extra_rows, explicit_id, size = entry
    if payload is before:
        return entry
    return (shape, timestamp, payload, context, extra_rows, explicit_id, size - len(before) + len(payload))


def with_context(entry: Entry, context: bytes | None) -> Entry:
    """`entry` with another context of its call."""
    shape, timestamp, payload, before, extra_rows, explicit_id, size = entry
    return (
        shape,
        timestamp,
        payload,
        context,
        extra_rows,
        explicit_id,
        size - len(before or b"") + len(context or b""),
    )


@dataclass(frozen=True, slots=True)
class Record:
    """One record as a handler may look at it.

    `payload` is JSON. Fields that are declared as `Column()` are not in it: `columns` are their names and types, and
    `rows` their values, each row with one for each of `columns`; most events have one row.
    """

    offset: int
    id: str
    type: str
    table: str
    timestamp: int
    payload: bytes
    context: bytes | None
    columns: tuple[ColumnSchema, ...]
    rows: tuple[tuple[Any, ...], ...]

    def decode(self, cls: builtins.type[T]) -> T:
        """This record as an instance of `cls`, the `EventModel` or `EventStruct` class that it was made of.

        Columns and timestamp are fields again; what a serializer masked stays masked.

        Raises:
            DecodeError: It is of another type, does not fit the fields of `cls`, or `cls` is neither of the two kinds.
        """
        decode = getattr(cls, "__eventrec_decode__", None)
        if decode is None:
            raise DecodeError(f"{cls.__name__} cannot be decoded: only EventModel and EventStruct classes can")
        decoded: T = decode(self)
        return decoded
