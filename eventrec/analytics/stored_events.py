"""An event as a destination gives it back, made the record that its class is decoded from.

Each driver gives the extra columns in its own way: numbers, texts, dates. They become what a record keeps:

    column type                  taken from
    BOOLEAN                      bool, 0, 1
    BINARY                       bytes, base64
    whole numbers, DECIMAL128    int, Decimal, digits
    JSON, LIST, STRUCT           JSON text, or the value itself
    VECTOR                       a list, or its JSON text
    dates, times, moments        date, time, datetime, their text in ISO 8601, or a number in the unit of the column
    INTERVAL_…                   a number in that unit, months with days and nanoseconds, PostgreSQL's text

Where the table has a layout, a column may have another name there, or stand inside of the whole event.
"""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import replace
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventrec.errors import DecodeError, EncodeError
from eventrec.records.column_types import MOMENTS, WHOLE_NUMBERS, ColumnType
from eventrec.records.entry import Record
from eventrec.records.layout_columns import from_field, from_payload
from eventrec.records.normalizers import NORMALIZERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventrec.analytics.catalogued_event import CataloguedEvent
    from eventrec.events.event import EventModel, EventStruct
    from eventrec.reading import StoredEvent
    from eventrec.records.layout import Layout
    from eventrec.records.schema import ColumnSchema

NO_OFFSET: Final = -1
"""Of a record that is not out of a log: its errors name it by its id."""

_ABSENT: Final = object()
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def decode_stored(stored: StoredEvent, event: CataloguedEvent, layout: Layout | None) -> EventModel | EventStruct:
    """`stored`, whose table has `layout`, as the instance of the class of `event` that it was made of.

    A column without a value is None, or where the class does not take that, its default: the row may be older than the
    column is.

    Raises:
        DecodeError: It does not fit, or a column holds what is not a value of its type.
    """
    record = record_of(stored, event, layout)
    try:
        return record.decode(event.cls)
    except DecodeError:
        (row,) = record.rows
        there = [(column, value) for column, value in zip(record.columns, row, strict=True) if value is not None]
        if len(there) == len(row):
            raise
        columns, values = tuple(column for column, _ in there), tuple(value for _, value in there)
        return replace(record, columns=columns, rows=(values,)).decode(event.cls)


def record_of(stored: StoredEvent, event: CataloguedEvent, layout: Layout | None) -> Record:
    """`stored`, whose table has `layout`, as the record that an event of `event` made.

    Raises:
        DecodeError: A column holds what is not a value of its type.
    """
    record = _bare_record(stored, event.type)
    if not event.columns:
        return record
    try:
        members = dict(_members(record.payload))
    except (ValueError, RecursionError, msgspec.MsgspecError):
        members = {}  # Its class may take another value than an object.
    columns, values = [], []
    for column in event.columns:
        value = _value_of(column, stored, members, layout)
        if value is _ABSENT:
            continue
        try:
            kept = None if value is None else NORMALIZERS[column.type](column)(_plain(column.type, value))
        except (EncodeError, ValueError, InvalidOperation, msgspec.MsgspecError) as exc:
            where = "" if isinstance(exc, EncodeError) else f"column {column.name!r}: "
            raise DecodeError(f"event {stored.id} of table {stored.table!r}: {where}{exc}") from exc
        columns.append(column)
        values.append(kept)
    payload = msgspec.json.encode(members) if members else record.payload
    return replace(record, payload=payload, columns=tuple(columns), rows=(tuple(values),))


def _bare_record(stored: StoredEvent, kind: str) -> Record:
    """`stored` as a record of this type, without columns."""
    return Record(
        offset=NO_OFFSET,
        id=stored.id,
        type=kind,
        table=stored.table,
        timestamp=stored.timestamp,
        payload=stored.payload.encode(errors="surrogatepass"),
        context=None if stored.context is None else stored.context.encode(errors="surrogatepass"),
        columns=(),
        rows=((),),
    )


def holds_payload(layout: Layout, member: str) -> bool:
    """Whether a table of this layout says a member of the payload."""
    return layout.locate(from_payload(member)) is not None


def _value_of(
    column: ColumnSchema, stored: StoredEvent, members: dict[str, msgspec.Raw], layout: Layout | None
) -> object:
    """What the destination has of `column`; taken out of the `members` of the payload, where it stands there."""
    held = None if layout is None else layout.column_of(from_field(column.name))
    if held is not None and held.name in stored.columns:
        value = stored.columns[held.name]
        unit = MOMENTS.get(column.type)
        is_in_nanoseconds = held.word == "timestamptz" and isinstance(value, int)
        members.pop(column.name, None)
        return value // unit if unit is not None and is_in_nanoseconds else value
    if layout is None and column.name in stored.columns:
        return stored.columns[column.name]
    if layout is not None and column.name in members:
        return msgspec.json.decode(members.pop(column.name))
    return _ABSENT


def _plain(kind: ColumnType, value: Any) -> object:
    """The value of a driver as an application may have given it."""
    if isinstance(value, str) and kind in _OF_TEXT:
        return _OF_TEXT[kind](value)
    if isinstance(value, Decimal) and kind is not ColumnType.DECIMAL128:
        return int(value) if value == value.to_integral_value() else float(value)
    if kind is ColumnType.BOOLEAN and isinstance(value, int) and value in {0, 1}:
        return bool(value)
    return value


def _json(text: str) -> object:
    """The value of JSON text; of what is not JSON the text, which then is the value itself."""
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return text


_INTERVAL: Final = re.compile(
    r"(?:(?P<years>[+-]?\d+) years? ?)?(?:(?P<months>[+-]?\d+) mons? ?)?(?:(?P<days>[+-]?\d+) days? ?)?"
    r"(?:(?P<sign>[+-]?)(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d)(?:\.(?P<fraction>\d{1,9}))?)?"
)


def _interval(text: str) -> list[int]:
    """Months, days and nanoseconds of an interval as PostgreSQL writes it.

    https://www.postgresql.org/docs/current/datatype-datetime.html#DATATYPE-INTERVAL-OUTPUT, style `postgres`.
    """
    if text.startswith("["):
        parts: list[int] = msgspec.json.decode(text)
        return parts
    found = _INTERVAL.fullmatch(text)
    if not text or found is None:
        raise ValueError(f"{text!r:.60} is not an interval")
    said = {name: int(value) for name, value in found.groupdict("0").items() if name not in {"sign", "fraction"}}
    seconds = (said["hours"] * 60 + said["minutes"]) * 60 + said["seconds"]
    nanoseconds = seconds * 1_000_000_000 + int((found["fraction"] or "").ljust(9, "0"))
    sign = -1 if found["sign"] == "-" else 1
    return [12 * said["years"] + said["months"], said["days"], sign * nanoseconds]


def _milliseconds(text: str) -> int:
    _, days, nanoseconds = _interval(text)
    return days * 86_400_000 + nanoseconds // 1_000_000


_OF_TEXT: Final[Mapping[ColumnType, Callable[[str], object]]] = {
    **dict.fromkeys(WHOLE_NUMBERS, int),
    **dict.fromkeys(MOMENTS, datetime.fromisoformat),
    ColumnType.DATE: date.fromisoformat,
    ColumnType.TIME_SECOND: time.fromisoformat,
    ColumnType.TIME_MILLISECOND: time.fromisoformat,
    ColumnType.TIME_MICROSECOND: time.fromisoformat,
    ColumnType.TIME_NANOSECOND: time.fromisoformat,
    ColumnType.INTERVAL_YEAR_MONTH: lambda text: _interval(text)[0],
    ColumnType.INTERVAL_DAY_TIME: _milliseconds,
    ColumnType.INTERVAL_MONTH_DAY_NANO: _interval,
    ColumnType.BINARY: partial(b64decode, validate=True),
    ColumnType.DECIMAL128: Decimal,
    ColumnType.JSON: _json,
    ColumnType.LIST: _json,
    ColumnType.STRUCT: _json,
    ColumnType.VECTOR: msgspec.json.decode,
}
