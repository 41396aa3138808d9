"""Our content: the records of one commit, as bytes.

    content = 0x01 value            version 1, then one msgpack value and nothing behind it
    value   = [head, [record, …]]
    head    = [log id, written, static context, [shape, …]]
              16 bytes; ns since the epoch, UTC; JSON as bytes, or nil; the shapes that occur
    shape   = [table, type, [column, …]]
    column  = [name, type number, semantic number, precision, scale, dimensions]       the last three may be nil
    record  = [shape number, timestamp, payload, context, extra rows, id]
              from 0; ns since the epoch, UTC; JSON as bytes; JSON as bytes, or nil; msgpack of an array of arrays as
              bytes, or nil; 16 bytes, or nil where the id follows from log id and offset

The log id stands in bytes 5 to 20. One record, type "a" of table "t", payload `{}`, log id 00…0f, both times 1:

    01 92 94 c4 10 000102030405060708090a0b0c0d0e0f 01 c0 91 93 a1 74 a1 61 90   91 96 00 01 c4 02 7b 7d c0 c0 c0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias
from uuid import UUID

import msgspec

from eventrec.errors import ContentError
from eventrec.records.column_types import ColumnType, SemanticType
from eventrec.records.entry import OVERHEAD_BYTES, SIZE, entry_size
from eventrec.records.schema import ColumnSchema, Shape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventrec.records.entry import Entry

VERSION: Final = b"\x01"
LATER_VERSIONS: Final = range(2, 32)
"""What a content of a later version may begin with. Anything else in its place is another program's, or damage."""

MAX_RECORDS: Final = 4_096
MAX_BYTES: Final = 1 << 20

_ID_OPENING: Final = VERSION + b"\x92\x94\xc4\x10"
_ID_END: Final = len(_ID_OPENING) + 16
_MAX_SHAPES: Final = 10_000

_Id: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_Time: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_Column: TypeAlias = tuple[str, int, int, int | None, int | None, int | None]
PlainShape: TypeAlias = tuple[str, str, tuple[_Column, ...]]
"""Table, type, columns."""

_Head: TypeAlias = tuple[_Id, _Time, bytes | None, list[PlainShape]]
_Record: TypeAlias = tuple[_Number, _Time, bytes, bytes | None, bytes | None, _Id | None]

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[_Head, list[_Record]]).decode


@dataclass(frozen=True, slots=True)
class Content:
    """What a commit holds. `written` is in nanoseconds since the epoch, UTC."""

    log_id: UUID
    written: int
    static_context: bytes | None
    entries: list[Entry]


def is_ours(opening: bytes, log_id: UUID) -> bool:
    """Whether a content that begins with `opening` (21 bytes are enough) is one of this log."""
    return opening[:_ID_END] == _ID_OPENING + log_id.bytes


def encode_take(
    entries: Sequence[Entry], log_id: UUID, *, written: int, static_context: bytes | None = None
) -> Iterator[tuple[bytes, int]]:
    """The contents of the commits that hold `entries`, each with its number of records, in order.

    A commit holds at most 4,096 records, and at most 1 MiB by the size that entries count, unless one alone is larger.
    """
    start = size = 0
    for end, entry in enumerate(entries):
        if end > start and (end - start >= MAX_RECORDS or size + entry[SIZE] > MAX_BYTES):
            yield _encoded(entries[start:end], log_id, written, static_context), end - start
            start, size = end, 0
        size += entry[SIZE]
    if start < len(entries):
        yield _encoded(entries[start:], log_id, written, static_context), len(entries) - start


UNWRITABLE: Final = (TypeError, ValueError, OverflowError)
"""What `encode_take` raises where an entry holds what msgpack does not know: a defect of what made the entry."""


def unwritable(entries: Sequence[Entry], log_id: UUID) -> list[Entry]:
    """Those of `entries` that no commit can hold."""

    def is_writable(entry: Entry) -> bool:
        try:
            _encoded([entry], log_id, 0, None)
        except UNWRITABLE:
            return False
        return True

    return [entry for entry in entries if not is_writable(entry)]


def _encoded(entries: Sequence[Entry], log_id: UUID, written: int, static_context: bytes | None) -> bytes:
    numbers: dict[int, int] = {}
    shapes: list[Shape] = []
    records = []
    for shape, timestamp, payload, context, extras, id_, _ in entries:
        number = numbers.get(id(shape))
        if number is None:
            number = numbers[id(shape)] = len(shapes)
            shapes.append(shape)
        records.append((number, timestamp, payload, context, extras, id_))
    head = (log_id.bytes, written, static_context, [plain_shape(shape) for shape in shapes])
    return VERSION + _encode((head, records))


def plain_shape(shape: Shape) -> PlainShape:
    """`shape` in values that msgpack knows."""
    columns = (
        (column.name, int(column.type), int(column.semantic), column.precision, column.scale, column.dimensions)
        for column in shape.columns
    )
    return shape.table, shape.type, tuple(columns)


class Shapes:
    """Shapes of their plain forms; equal ones become one object, so that grouping is a comparison of identities."""

    def __init__(self) -> None:
        self._shapes: dict[PlainShape, Shape] = {}

    def of(self, plain: PlainShape) -> Shape:
        """The shape. InvalidEventError or ValueError where there is none like it."""
        shape = self._shapes.get(plain)
        if shape is None:
            table, kind, columns = plain
            shape = Shape(table, kind, tuple(_column(column) for column in columns))
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            self._shapes[plain] = shape
        return shape


class LaterContentError(ContentError):
    """A commit of a version that this eventrec does not read: a later one does."""


class ContentDecoder:
    """Decodes the contents of commits; equal shapes become one object. Use by one thread at a time."""

    def __init__(self) -> None:
        self._shapes = Shapes()

    def decode(self, content: bytes) -> Content:
        """The records of one commit.

        Raises:
            LaterContentError: It is of a later version.
            ContentError: The version is unknown, or the bytes are not content of ours.
        """
        if content[:1] != VERSION:
            found = content[:1].hex() or "nothing"
            error = LaterContentError if content and content[0] in LATER_VERSIONS else ContentError
            raise error(f"content version 0x{found} is unknown: this eventrec reads 0x{VERSION.hex()}")
        try:
            head, records = _decode(memoryview(content)[1:])
            shapes = [self._shapes.of(plain) for plain in head[3]]
            entries = [
                (
                    shapes[number],
                    timestamp,
                    payload,
                    context,
                    extras,
                    id_,
                    len(payload) + OVERHEAD_BYTES
                    if context is None and extras is None
                    else entry_size(payload, context, extras),
                )
                for number, timestamp, payload, context, extras, id_ in records
            ]
        except Exception as exc:
            # Whatever odd bytes make of a decoder: OverflowError, UnicodeDecodeError, RecursionError among them.
            raise ContentError(f"{len(content)} bytes are not content of ours: {exc}") from exc
        return Content(UUID(bytes=head[0]), head[1], head[2], entries)


def _column(plain: _Column) -> ColumnSchema:
    name, type_, semantic, precision, scale, dimensions = plain
    return ColumnSchema(name, ColumnType(type_), SemanticType(semantic), precision, scale, dimensions)
