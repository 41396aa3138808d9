"""A line of JSON to an event that was made elsewhere: pure functions of values.

    field      named by           else, in a CloudEvent  else
    type       `type_field`       `type`                 `type` where it is a string that can be one; else "event"
    timestamp  `timestamp_field`  `time`                 none: it is stamped when it is recorded
    id         `id_field`         `source` with `id`     none: it is numbered like any record

A field that is named must be there. An id that is a UUID is taken as it is. Any other one (a string or an integer)
becomes a stable one, so that the same line gives the same id again: UUIDv5 in `NAMESPACE` of the table, the type and
the id, separated by NUL; a CloudEvent's id stands for itself if it is a UUID, else for `source`, a space, and `id`.

The payload is the line without what became type, timestamp and id; an id that only led to another one stays. Values
keep their bytes; nothing is rounded.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid5

import msgspec

from eventrec.errors import InvalidEventError
from eventrec.events.event import DEFAULT_TABLE, ReceivedEvent
from eventrec.ingest.timestamps import Unit, nanoseconds
from eventrec.records.entry import entry_size
from eventrec.records.schema import check_name

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMESPACE: Final = UUID("8d0e7a55-7f3c-5b6e-9a51-2f0c6b1d94e7")
"""Of ids derived from other ids. A constant: changing it would give old lines new ids."""

DEFAULT_TYPE: Final = "event"
_CLOUD_EVENT: Final = ("specversion", "type", "source", "id")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)

_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text: Final = msgspec.json.Decoder(str).decode
_encode: Final = msgspec.json.Encoder().encode


class LineError(ValueError):
    """A line cannot become an event: says why, without the line's number."""


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
    table: str = DEFAULT_TABLE
    max_event_bytes: int = 1 << 20


def received_event(line: bytes, reading: Reading) -> ReceivedEvent:
    """The event that `line` describes.

    Raises:
        LineError: It is not a JSON object, a field is missing or of the wrong kind, or the event would be too large.
    """
    members = _decoded(line)
    is_cloud_event = all(_text_of(members.get(name)) for name in _CLOUD_EVENT)
    taken: list[str] = []
    kind = _type(members, reading, taken)
    timestamp = _timestamp(members, reading, taken, is_cloud_event=is_cloud_event)
    id_ = _id(members, reading, kind, taken, is_cloud_event=is_cloud_event)
    payload = _without(members, taken) if taken else line.strip()
    if entry_size(payload) > reading.max_event_bytes:
        raise EventTooLargeError(entry_size(payload), reading.max_event_bytes)
    return ReceivedEvent(kind, payload, timestamp, reading.table, id_)


def _decoded(line: bytes) -> Mapping[str, msgspec.Raw]:
    try:
        members = _members(line)
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
        kind = _text_of(members.get("type"))
        if not kind or _why_no_type(kind):
            return DEFAULT_TYPE
        taken.append("type")
        return kind
    kind = _text_of(_named(members, reading.type_field))
    if kind is None:
        raise LineError(f"the field {reading.type_field!r} must be a text to be the type")
    if reason := _why_no_type(kind):
        raise LineError(reason)
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
        if not is_cloud_event or "time" not in members:
            return None
        name, unit = "time", "iso"
    raw = _named(members, name)
    text = _text_of(raw)
    if text is None and not _is_number(raw):
        raise LineError(f"the field {name!r} must be a number or a text to be a time")
    if text is None and unit == "iso":
        raise LineError(f"the field {name!r} must be a text to be a time in ISO 8601")
    try:
        when = nanoseconds(bytes(raw).decode() if text is None else text, unit)
    except ValueError as exc:
        raise LineError(f"the field {name!r}: {exc}") from exc
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
    raw = _named(members, name)
    value = _text_of(raw)
    if value is None and _is_number(raw) and re.fullmatch(rb"-?\d+", bytes(raw)):
        value = bytes(raw).decode()
    if not value:
        raise LineError(f"the field {name!r} must be a text or a whole number to be an id")
    if _UUID.fullmatch(value):
        taken.append(name)
        return UUID(value).bytes
    if reading.id_field is None:
        value = f"{_text_of(members['source'])} {value}"
    return uuid5(NAMESPACE, f"{reading.table}\0{kind}\0{value}").bytes


def _named(members: Mapping[str, msgspec.Raw], name: str) -> msgspec.Raw:
    raw = members.get(name)
    if raw is None:
        raise LineError(f"it has no field {name!r}")
    return raw


def _text_of(raw: msgspec.Raw | None) -> str | None:
    """The string that `raw` is, or None where it is something else."""
    return _text(raw) if raw is not None and bytes(raw)[:1] == b'"' else None


def _is_number(raw: msgspec.Raw) -> bool:
    return bytes(raw)[:1] in b"-0123456789"


def _without(members: Mapping[str, msgspec.Raw], taken: list[str]) -> bytes:
    kept = [_encode(name) + b":" + bytes(raw) for name, raw in members.items() if name not in taken]
    return b"{" + b",".join(kept) + b"}"
