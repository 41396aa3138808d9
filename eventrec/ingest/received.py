"""A line of JSON to an event that was made elsewhere: pure functions of values.

    field      named by           else, in a CloudEvent  else
    type       `type_field`       `type`                 `type` where it is a string that can be one; else "event"
    timestamp  `timestamp_field`  `time`                 none: it is stamped when it is recorded
    id         `id_field`         `source` with `id`     none: it is numbered like any record

A line that we wrote ourselves, and what has its members (`own_lines.py`), is taken back as it was or refused, unless a
field is named.

A field that is named must be there. A CloudEvent's attribute that is null is not set.

An id that is a UUID is taken as it is. Any other one (a string or an integer) becomes a stable one, so that the same
line gives the same id again: UUIDv5 in `NAMESPACE` of the table, the type and the id, separated by NUL; a
CloudEvent's id stands for itself if it is a UUID, else for `source`, a space, and `id`.

The payload is the line without what became type, timestamp and id; an id that only led to another one stays. Values
keep their bytes; nothing is rounded.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID, uuid5

import msgspec

from eventrec.errors import InvalidEventError
from eventrec.events.event import DEFAULT_TABLE, ReceivedEvent, ReceivedJson
from eventrec.ingest.members import decode_members, encode_members, is_null, is_number, object_without, text_of
from eventrec.ingest.names import uuid_in
from eventrec.ingest.own_lines import OwnLineError, own_event
from eventrec.ingest.timestamps import Unit, nanoseconds
from eventrec.records.entry import OVERHEAD_BYTES, entry_size
from eventrec.records.schema import check_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAMESPACE: Final = UUID("8d0e7a55-7f3c-5b6e-9a51-2f0c6b1d94e7")
"""Of ids derived from other ids. A constant: changing it would give old lines new ids."""

DEFAULT_TYPE: Final = "event"
_MAX_KNOWN_BYTES: Final = 300
"""What is longer is looked at each time: it is hardly a type, and must not fill the memory."""
_CLOUD_EVENT: Final = ("specversion", "type", "source", "id")


class LineError(ValueError):
    """A line cannot become an event: says why, without the line's number.

    Attributes:
        without_values: The same, and nothing of the line's values in it: for who is not to see them.
    """

    def __init__(self, message: str, *, without_values: str | None = None) -> None:
        super().__init__(message)
        self.without_values = message if without_values is None else without_values


Received: TypeAlias = "ReceivedEvent | ReceivedJson | LineError"
"""An event that was made elsewhere, or why it is not one."""


class EventTooLargeError(LineError):
    """The event would have `size` bytes or more, of which `limit` are allowed."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"an event may have {limit:,} bytes, this one has at least {size:,}")
        self.size = size
        self.limit = limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How lines are read. `max_event_bytes` counts like the recorder's option."""

    type_field: str | None = None
    timestamp_field: str | None = None
    timestamp_unit: Unit = "auto"
    id_field: str | None = None
    table: str | None = None
    """Default: the one that a line of ours names, else "events"."""
    max_event_bytes: int = 1 << 20

    @property
    def names_fields(self) -> bool:
        """Whether the caller says in which field something stands: then no line is taken for one of ours."""
        return (self.type_field, self.timestamp_field, self.id_field) != (None, None, None)


def received_event(line: bytes, reading: Reading) -> ReceivedEvent:
    """The event that `line` describes.

    Raises:
        LineError: It is not a JSON object, a field is missing or of the wrong kind, or the event would be too large.
    """
    members = _decoded(line)
    event = (None if reading.names_fields else own_line(members, table=reading.table)) or _foreign(
        line, members, reading
    )
    size = entry_size(event.payload, event.context)
    if size > reading.max_event_bytes:
        raise EventTooLargeError(size, reading.max_event_bytes)
    return event


def received_events(lines: Sequence[bytes], reading: Reading) -> list[Received]:
    """What `received_event` gives of each of `lines`, or raises: in a quarter of the time where they are plain."""
    if reading.names_fields:
        return [_event_or_why_not(line, reading) for line in lines]
    try:
        decoded = list(map(decode_members, lines))
        for line in lines:
            if not line.isascii():
                line.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [_event_or_why_not(line, reading) for line in lines]
    table, longest = reading.table or DEFAULT_TABLE, reading.max_event_bytes - OVERHEAD_BYTES
    events: list[Received] = []
    for line, members in zip(lines, decoded, strict=True):
        # With others of its kind, the first makes it a line of ours, the second a CloudEvent.
        if "payload" in members or "specversion" in members:
            events.append(_event_or_why_not(line, reading))
            continue
        raw = members.get("type")
        kind = None if raw is None else kind_of(bytes(raw))
        if kind is None:
            kind, payload = DEFAULT_TYPE, line.strip()
        else:
            del members["type"]
            payload = encode_members(members)
        if len(payload) > longest:
            events.append(EventTooLargeError(entry_size(payload), reading.max_event_bytes))
        else:
            events.append(ReceivedJson(kind, table, payload))
    return events


def _event_or_why_not(line: bytes, reading: Reading) -> ReceivedEvent | LineError:
    try:
        return received_event(line, reading)
    except LineError as exc:
        return exc


def kind_of(raw: bytes) -> str | None:
    """The type that a member called `type` says, which is JSON; None where it says none."""
    return _known_kind(raw) if len(raw) <= _MAX_KNOWN_BYTES else _known_kind.__wrapped__(raw)


@lru_cache(maxsize=1_024)
def _known_kind(raw: bytes) -> str | None:
    kind = text_of(msgspec.Raw(raw))
    return None if not kind or _why_no_type(kind) else kind


def own_line(members: Mapping[str, msgspec.Raw], *, table: str | None) -> ReceivedEvent | None:
    """The event of a line of ours, for `table` where that is given; None where an object of these members is not one.

    Raises:
        LineError: It is one, and its values cannot be one event's.
    """
    try:
        event = own_event(members)
    except OwnLineError as exc:
        raise LineError(str(exc), without_values=exc.without_values) from exc
    return event if event is None or table is None else replace(event, table=table)


def _foreign(line: bytes, members: Mapping[str, msgspec.Raw], reading: Reading) -> ReceivedEvent:
    is_cloud_event = all(text_of(members.get(name)) for name in _CLOUD_EVENT)
    taken: list[str] = []
    kind = _type(members, reading, taken)
    timestamp = _timestamp(members, reading, taken, is_cloud_event=is_cloud_event)
    id_ = _id(members, reading, kind, taken, is_cloud_event=is_cloud_event)
    payload = object_without(members, taken) if taken else line.strip()
    return ReceivedEvent(kind, payload, timestamp, reading.table or DEFAULT_TABLE, id_)


def _decoded(line: bytes) -> dict[str, msgspec.Raw]:
    try:
        members = decode_members(line)
        line.decode()
    except UnicodeDecodeError as exc:
        raise LineError(f"not UTF-8: {exc.reason} at byte {exc.start}") from exc
    except RecursionError as exc:
        raise LineError("nested too deeply") from exc
    except msgspec.ValidationError as exc:
        raise LineError(f"not a JSON object: {exc}") from exc
    except msgspec.DecodeError as exc:
        raise LineError(_why_not_json(line, exc)) from exc
    return members


def _why_not_json(line: bytes, refused: msgspec.DecodeError) -> str:
    """The stdlib's parser names the place better, but accepts some text that is not JSON or not Unicode."""
    try:
        json.loads(line)
    except json.JSONDecodeError as exc:
        return f"not JSON: {exc.msg} at character {exc.pos + 1}"
    except (ValueError, RecursionError):
        return f"not JSON: {refused}"
    if re.search(rb"\\u[dD][89a-fA-F]", line):
        return "not Unicode: it holds half of a surrogate pair"
    return f"not JSON: {refused}"


def _type(members: Mapping[str, msgspec.Raw], reading: Reading, taken: list[str]) -> str:
    if reading.type_field is None:
        raw = members.get("type")
        kind = None if raw is None else kind_of(bytes(raw))
        if kind is None:
            return DEFAULT_TYPE
        taken.append("type")
        return kind
    kind = text_of(_named(members, reading.type_field))
    if kind is None:
        raise LineError(f"the field {reading.type_field!r} must be a text to be the type")
    if reason := _why_no_type(kind):
        raise LineError(reason, without_values=f"the field {reading.type_field!r} cannot be a type")
    taken.append(reading.type_field)
    return kind


def _why_no_type(kind: str) -> str | None:
    try:
        check_name("a type", kind)
    except InvalidEventError as exc:
        return str(exc)
    return None


def _timestamp(
    members: Mapping[str, msgspec.Raw], reading: Reading, taken: list[str], *, is_cloud_event: bool
) -> int | None:
    name, unit = reading.timestamp_field, reading.timestamp_unit
    if name is None:
        # A CloudEvent's attribute that is null is one that is not set.
        if not is_cloud_event or is_null(members.get("time")):
            return None
        name, unit = "time", "iso"
    raw = _named(members, name)
    text = text_of(raw)
    if text is None and not is_number(raw):
        raise LineError(f"the field {name!r} must be a number or a text to be a time")
    if text is None and unit == "iso":
        raise LineError(f"the field {name!r} must be a text to be a time in ISO 8601")
    try:
        when = nanoseconds(bytes(raw).decode() if text is None else text, unit)
    except ValueError as exc:
        raise LineError(f"the field {name!r}: {exc}", without_values=f"the field {name!r} is not a time") from exc
    taken.append(name)
    return when


def _id(
    members: Mapping[str, msgspec.Raw], reading: Reading, kind: str, taken: list[str], *, is_cloud_event: bool
) -> bytes | None:
    name = reading.id_field
    if name is None:
        if not is_cloud_event:
            return None
        name = "id"
    value = id_text(_named(members, name), name)
    if (found := uuid_in(value)) is not None:
        taken.append(name)
        return found
    if reading.id_field is None:
        value = f"{text_of(members['source'])} {value}"
    return id_of(value, kind, reading.table or DEFAULT_TABLE)


def id_text(raw: msgspec.Raw, name: str) -> str:
    """The id that the field `name` holds, as text.

    Raises:
        LineError: It is neither a text nor a whole number.
    """
    value = text_of(raw)
    if value is None and is_number(raw) and re.fullmatch(rb"-?\d+", bytes(raw)):
        value = bytes(raw).decode()
    if not value:
        raise LineError(f"the field {name!r} must be a text or a whole number to be an id")
    return value


def id_of(value: str, kind: str, table: str) -> bytes:
    """The id of an event that brings `value` as its id: itself where it is a UUID, else a stable one."""
    return uuid_in(value) or uuid5(NAMESPACE, f"{table}\0{kind}\0{value}").bytes


def _named(members: Mapping[str, msgspec.Raw], name: str) -> msgspec.Raw:
    raw = members.get(name)
    if raw is None:
        raise LineError(f"it has no field {name!r}")
    return raw
