"""A stored event as JSON: its payload as it is stored, and as a text where that is not JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventrec.ingest.moments import moment_text
from eventrec.runtime.decoding import decodable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec.reading import StoredEvent

_encode: Final = msgspec.json.Encoder().encode


@decodable
class EventAnswer(msgspec.Struct, omit_defaults=True):
    """One event.

    Attributes:
        table: Where it is stored.
        id: The id of its row.
        type: What kind of thing happened.
        timestamp: When, in UTC, as exact as it is stored.
        payload: What it says.
        context: What its recorder says of where it was recorded.
        columns: The extra columns of its row.
    """

    table: str
    id: str
    type: str
    timestamp: str
    payload: Any
    context: Any = None
    columns: dict[str, Any] = {}


def answered(event: StoredEvent) -> EventAnswer:
    """`event` as an answer holds it."""
    return EventAnswer(
        table=_text(event.table),
        id=_text(event.id),
        type=_text(event.type),
        timestamp=moment_text(event.timestamp),
        payload=_json_or_text(event.payload),
        context=None if event.context is None else _json_or_text(event.context),
        columns=_columns(event.columns),
    )


def encoded_event(event: StoredEvent) -> bytes:
    """`event` as one line of JSON."""
    return _encode(answered(event))


def _columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON can say them; as a text what it cannot: a value of a driver's own class."""
    said: dict[str, Any] = {}
    for name, value in columns.items():
        try:
            encoded = _encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError):
            encoded = _encode(_text(str(value)))
        said[_text(name)] = msgspec.Raw(encoded)
    return said


def _json_or_text(stored: str) -> Any:
    raw = stored.encode(errors="replace")
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return raw.decode()
    # On one line: there are no line breaks inside of its texts.
    return msgspec.Raw(raw.replace(b"\r", b" ").replace(b"\n", b" ") if b"\n" in raw or b"\r" in raw else raw)


def _text(value: str) -> str:
    """`value` without what is not a character."""
    return value.encode(errors="replace").decode()
