"""An event, turned into a record: stamped, encoded, and from then on only bytes and small values.

A record waits as a plain tuple (`Entry`): the queue holds many of them, and a tuple is the cheapest thing to make.
"""

from __future__ import annotations

import inspect
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from eventrec._json import encode_json
from eventrec.errors import EncodeError, InvalidEventError, RowWidthError
from eventrec.event import (
    DEFAULT_TABLE,
    ONE_ROW,
    Event,
    EventModel,
    EventStruct,
    ReceivedEvent,
    model_plan,
    struct_plan,
    type_name,
)
from eventrec.schema import ColumnSchema, Row, Shape

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from uuid import UUID

    from eventrec.plans import ClassPlan

Entry: TypeAlias = "tuple[Shape, int, bytes, bytes | None, bytes | None, bytes | None, int]"
"""Shape, timestamp (ns), payload (JSON), context of the call (JSON), extra rows (msgpack), explicit id, size."""

Reason: TypeAlias = Literal[
    "filtered", "declined", "not_encodable", "invalid", "too_large", "overflow", "closed", "forked", "no_writer"
]
"""Why an event was not taken.

`declined`: it said itself that there is nothing to record. `forked`: this is a forked child, where the recorder is not
open and has no log. `no_writer`: the system gives no thread to write the log, or the interpreter ends.
"""

OVERHEAD_BYTES: Final = 200
"""What an entry counts beyond its encoded length."""

MAX_ROWS: Final = 1 << 14
"""Rows of one event: what the row number in an id can tell apart."""

_I64_MIN, _I64_MAX = -(2**63), 2**63 - 1
_encode_msgpack: Final = msgspec.msgpack.Encoder().encode


class Encoder:
    """Turns events into entries by a plan compiled once per class.

    `types` are the event types to take (None: all), `context` gives the encoded fields of the call, `now` the time in
    nanoseconds since the epoch, UTC.
    """

    def __init__(
        self,
        *,
        types: Collection[str] | None = None,
        context: Callable[[], bytes | None] = lambda: None,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self._types = None if types is None else frozenset(types)
        self._context = context
        self._now = now
        self.plans: dict[type, Callable[[Any], Entry | Reason]] = {}
        """What `encode` does, by class; a class that is not here yet goes through `encode`."""
        self._shapes: dict[tuple[str, str, Sequence[ColumnSchema]], Shape] = {}

    def encode(self, event: object) -> Entry | Reason:
        """The entry of `event`, or why there is none ("filtered", "declined").

        Raises:
            EncodeError: The payload or a column value cannot be encoded.
            InvalidEventError: It is no event, or its type, table, timestamp, schema or row width is wrong.
            TypeError: The markers of its class contradict each other.
            Exception: Whatever the event's own code raises.
        """
        plan = self.plans.get(event.__class__)
        if plan is None:
            plan = self._compile(event.__class__, event)
            if len(self.plans) >= MAX_CLASSES:
                self.plans.clear()
            self.plans[event.__class__] = plan
        return plan(event)

    def _compile(self, cls: type, event: object) -> Callable[[Any], Entry | Reason]:
        if issubclass(cls, EventModel) and cls.to_event is EventModel.to_event:
            return self._plan_of_class(model_plan(cls))
        if issubclass(cls, EventStruct) and cls.to_event is EventStruct.to_event:
            return self._plan_of_class(struct_plan(cls))
        if issubclass(cls, ReceivedEvent):
            return self._entry_of_received
        if callable(getattr(cls, "to_event", None)):
            return self._entry_of_eventable
        if Event in cls.__mro__:  # a Protocol answers no issubclass
            return self._plan_of_subclass(cls)
        _refuse_what_is_no_event(cls, event)
        return self._entry_of_event

    # -- one plan per kind of class

    def _plan_of_subclass(self, cls: type) -> Callable[[Any], Entry | Reason]:
        """The short way for what is left at `Event`'s defaults; the general one for the rest."""
        inherited = {
            name for name, default in vars(Event).items() if inspect.getattr_static(cls, name, None) is default
        }
        if not {"type", "table", "extra_schema", "extra_rows"} <= inherited:
            return self._entry_of_event
        shape = self._shape(DEFAULT_TABLE, type_name(cls.__name__), ())
        if self._is_filtered(shape):
            return _filtered
        context_now, now, stamped_here = self._context, self._now, "timestamp" in inherited

        def encode(event: Any) -> Entry | Reason:
            payload = encode_json(event.payload)
            when = None if stamped_here else event.timestamp
            stamp = now() if when is None else _checked_time(when)
            context = context_now()
            if context is None:  # `_entry`, without the call: this is the way most events take
                return (shape, stamp, payload, None, None, None, len(payload) + OVERHEAD_BYTES)
            return _entry(shape, stamp, payload, context, None)

        return encode

    def _entry_of_event(self, event: Event) -> Entry | Reason:
        shape = self._shape(event.table, event.type, event.extra_schema())
        if self._is_filtered(shape):
            return "filtered"
        rows = event.extra_rows()
        if rows is not ONE_ROW:
            _check_sequence("extra_rows()", rows)
            if not rows:
                return "declined"
        extras = None if not shape.columns and rows in (ONE_ROW, [()]) else encode_rows(shape, rows)
        when = event.timestamp
        stamp = self._now() if when is None else _checked_time(when)
        return _entry(shape, stamp, encode_json(event.payload), self._context(), extras)

    def _entry_of_eventable(self, event: Any) -> Entry | Reason:
        said = event.to_event()
        return "declined" if said is None else self.encode(said)

    def _entry_of_received(self, event: ReceivedEvent) -> Entry | Reason:
        shape = self._shape(event.table, event.type, ())
        if self._is_filtered(shape):
            return "filtered"
        if not isinstance(event.payload, bytes):
            raise InvalidEventError(f"a received payload is JSON text as bytes, got {type(event.payload).__name__}")
        id_ = None if event.id is None else _checked_id(event.id)
        stamp = self._now() if event.timestamp is None else _checked_time(event.timestamp)
        return _entry(shape, stamp, event.payload, self._context(), None, id_=id_)

    def _plan_of_class(self, said: ClassPlan) -> Callable[[Any], Entry | Reason]:
        shape = self._shape(said.table, said.type, said.fields.columns)
        if self._is_filtered(shape):
            return _filtered
        context, now = self._context, self._now
        payload_of, columns_of, timestamp_of = said.payload, said.columns, said.timestamp

        def encode(event: Any) -> Entry | Reason:
            payload = payload_of(event)
            extras = None if columns_of is None else encode_rows(shape, (columns_of(event),))
            when = None if timestamp_of is None else timestamp_of(event)
            return _entry(shape, now() if when is None else _checked_time(when), payload, context(), extras)

        return encode

    # -- what they share

    def _shape(self, table: str, kind: str, columns: Sequence[ColumnSchema]) -> Shape:
        try:
            key = (table, kind, columns if columns.__class__ is tuple else tuple(columns))
            shape = self._shapes.get(key)
        except TypeError as exc:
            raise InvalidEventError(f"type, table or extra schema of an event is of the wrong kind: {exc}") from exc
        if shape is None:
            shape = Shape(table, kind, key[2])
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
            self._shapes[key] = shape
        return shape

    def _is_filtered(self, shape: Shape) -> bool:
        return self._types is not None and shape.type not in self._types


MAX_SHAPES: Final = 10_000
"""Shapes remembered at once: types made from user input must not fill the memory."""

MAX_CLASSES: Final = 10_000
"""Classes remembered at once, likewise."""


def _entry(
    shape: Shape,
    timestamp: int,
    payload: bytes,
    context: bytes | None,
    extras: bytes | None,
    *,
    id_: bytes | None = None,
) -> Entry:
    size = len(payload) + OVERHEAD_BYTES
    if extras is not None:
        size += len(extras)
    if context is not None:
        size += len(context)
    return (shape, timestamp, payload, context, extras, id_, size)


def _checked_time(when: object) -> int:
    if type(when) is not int or not _I64_MIN <= when <= _I64_MAX:
        raise InvalidEventError(f"a timestamp is nanoseconds since the epoch as int, within 64 bit, got {_brief(when)}")
    return when


def _checked_id(given: object) -> bytes:
    if not isinstance(given, bytes) or len(given) != 16:  # noqa: PLR2004 - as many as a UUID has
        raise InvalidEventError(f"an id is 16 bytes, got {_brief(given)}")
    return given


def _brief(value: object) -> str:
    """`value` in at most 60 characters; its kind, where it cannot be shown."""
    try:
        return f"{value!r:.60}"
    except Exception:  # noqa: BLE001 - user code, or an integer of too many digits
        return f"a {type(value).__name__}"


def _filtered(_: object) -> Reason:
    return "filtered"


_MEMBERS: Final = ("type", "table", "payload", "timestamp", "extra_schema", "extra_rows")


def _refuse_what_is_no_event(cls: type, event: object) -> None:
    missing = [name for name in _MEMBERS if inspect.getattr_static(event, name, event) is event]
    if missing and not hasattr(cls, "__getattr__"):
        raise InvalidEventError(
            f"{cls.__name__} is no event, it lacks {', '.join(missing)}: subclass Event, EventModel or EventStruct, "
            "or have all six members, or to_event()"
        )


def encode_rows(shape: Shape, rows: Sequence[Row]) -> bytes:
    """The extra rows as msgpack, each value in the form its column keeps.

    Raises:
        RowWidthError: A row is wider or narrower than the extra schema.
        EncodeError: A value does not fit its column.
        InvalidEventError: More than 16,384 rows, or a row that is no sequence.
    """
    if len(rows) > MAX_ROWS:
        raise InvalidEventError(f"an event has at most {MAX_ROWS} rows, got {len(rows)}")
    keep = shape.keep
    width = len(keep)
    kept = []
    for row in rows:
        if row.__class__ is not tuple:
            _check_sequence("a row", row)
        if len(row) != width:
            raise RowWidthError(f"a row of type {shape.type!r}", [str(column) for column in shape.columns], len(row))
        kept.append([None if value is None else fit(value) for fit, value in zip(keep, row, strict=False)])
    try:
        return _encode_msgpack(kept)
    except UnicodeEncodeError as exc:
        named = next((column for column, value in _cells(shape, kept) if _is_broken_text(value)), shape)
        raise EncodeError(f"column {named}: a value of kind str is not valid Unicode: {exc.reason}") from exc


def _check_sequence(what: str, value: object) -> None:
    if value.__class__ in (tuple, list):
        return
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)):
        raise InvalidEventError(f"{what} must be a sequence, got {type(value).__name__}")


def _cells(shape: Shape, kept: Sequence[Row]) -> Iterator[tuple[ColumnSchema, object]]:
    return (cell for row in kept for cell in zip(shape.columns, row, strict=True))


def _is_broken_text(value: object) -> bool:
    return isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value)


decode_rows: Final[Callable[[bytes], list[list[Any]]]] = msgspec.msgpack.Decoder(list[list[Any]]).decode
"""The rows that `encode_rows` encoded."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as a handler may look at it."""

    offset: int
    id: str
    type: str
    table: str
    timestamp: int
    payload: bytes
    context: bytes | None
    columns: tuple[ColumnSchema, ...]
    rows: tuple[tuple[Any, ...], ...]


class Ids:
    """The ids of one log's rows: UUIDv8 of 60 bits of a hash of the log id, 48 bits of offset, 14 bits of row number.

    An id that the record brought with it is the id of its first row; further rows take a hash of it and their number.
    """

    def __init__(self, log_id: UUID) -> None:
        bits = int.from_bytes(blake2b(log_id.bytes, digest_size=8).digest()) >> 4
        prefix = ((bits >> 12) << 16 | 0x8000 | (bits & 0xFFF)).to_bytes(8)
        self.prefix = prefix
        self.prefix_text = f"{prefix[:4].hex()}-{prefix[4:6].hex()}-{prefix[6:].hex()}-"

    def first_texts(self, offsets: Sequence[int], entries: Sequence[Entry]) -> list[str]:
        """The ids of the first rows of `entries`, in text form: all at once, which is twice as fast."""
        first, last = offsets[0], offsets[-1]
        if first >> 34 != last >> 34 or any(entry[5] is not None for entry in entries):
            return [self.as_text(offset, 0, entry[5]) for offset, entry in zip(offsets, entries, strict=True)]
        head = f"{self.prefix_text}{0x8000 | first >> 34:04x}-"
        low = (1 << 34) - 1
        return [head + "%012x" % ((offset & low) << 14) for offset in offsets]

    def as_bytes(self, offset: int, row: int, explicit: bytes | None) -> bytes:
        """The id as 16 bytes."""
        if explicit is None:
            return self.prefix + struct.pack(">Q", 0x8000_0000_0000_0000 | offset << 14 | row)
        return explicit if row == 0 else _further(explicit, row)

    def as_text(self, offset: int, row: int, explicit: bytes | None) -> str:
        """The id in the usual text form."""
        if explicit is None:
            low = "%016x" % (0x8000_0000_0000_0000 | offset << 14 | row)
            return f"{self.prefix_text}{low[:4]}-{low[4:]}"
        digits = self.as_bytes(offset, row, explicit).hex()
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _further(explicit: bytes, row: int) -> bytes:
    digest = bytearray(blake2b(explicit + row.to_bytes(2), digest_size=16).digest())
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return bytes(digest)
