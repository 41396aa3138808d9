"""The envelope that the platform's client puts around an event: `{timestamp, event: {type, …}, hostname, environment}`.

    type, payload  `type` of `event`, and `event` itself, byte for byte
    timestamp      `timestamp`: text in ISO 8601, or a number by its magnitude
    context        `host` is `hostname`, `environment` is `environment`, as a recorder's own options are called there
    id             `id`, where the envelope has one: a UUID as it is, else a stable one that follows from it

An object is one where it has nothing else, and `event` is an object. Types are stored under one name, whichever of two
spellings a program has for them; then the payload says that name too.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from eventrec.events.event import DEFAULT_TABLE, ReceivedEvent
from eventrec.ingest.members import NULL, decode_members, encode_members, is_null, is_number, repeats_names, text_of
from eventrec.ingest.names import is_name
from eventrec.ingest.received import LineError, id_of, id_text
from eventrec.ingest.timestamps import nanoseconds

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES: Final = frozenset({"timestamp", "event", "hostname", "environment", "id"})

SPELLINGS: Final[Mapping[str, str]] = {
    "o_auth_flow_started": "oauth_flow_started",
    "o_auth_flow_completed": "oauth_flow_completed",
}
"""What programs derive from the names of two of the platform's types, each with the type."""

_MAX_KNOWN_BYTES: Final = 1_024
"""What is longer is looked at each time: it must not fill the memory."""
_LETTER: Final = re.compile(rb"\\u00[67]")
"""A letter that is written by its number, as the name `type` may be."""


class _Typed(msgspec.Struct, gc=False):
    type: str


_type_in: Final = msgspec.json.Decoder(_Typed).decode
_encode: Final = msgspec.json.Encoder().encode


def is_enriched(members: Mapping[str, msgspec.Raw]) -> bool:
    """Whether an object of these members is such an envelope."""
    event = members.get("event")
    return event is not None and bytes(event)[:1] == b"{" and members.keys() <= NAMES


def enriched_event(
    members: Mapping[str, msgspec.Raw],
    *,
    table: str | None,
    tables: Mapping[str, str],
    spellings: Mapping[str, str],
) -> ReceivedEvent:
    """The event in it. `table` is where it goes; None: to that of `tables`, by type. `spellings` add to `SPELLINGS`.

    Raises:
        LineError: Something is missing, or is not what it has to be.
    """
    payload = bytes(members["event"])
    said = _type_of(payload)
    kind = spellings.get(said) or SPELLINGS.get(said, said)
    if kind != said:
        payload = encode_members({**decode_members(payload), "type": msgspec.Raw(_encode(kind))})
    to = table or tables.get(kind, DEFAULT_TABLE)
    id_ = members.get("id", NULL)
    return ReceivedEvent(
        kind,
        payload,
        _time(members.get("timestamp", NULL)),
        to,
        None if is_null(id_) else id_of(id_text(id_, "id"), kind, to),
        context=_context_of(bytes(members.get("hostname", NULL)), bytes(members.get("environment", NULL))),
    )


def _type_of(payload: bytes) -> str:
    try:
        said = _type_in(payload).type
    except msgspec.ValidationError:
        raise LineError("its event has no text 'type'") from None
    if payload.count(b'"type"') > 1 or (b"\\u00" in payload and _LETTER.search(payload)):
        members = decode_members(payload)
        if repeats_names(payload, members):
            raise LineError("a name stands twice in its event")
    if not is_name(said):
        raise LineError("the 'type' of its event cannot be one: 1 to 255 bytes without NUL")
    return said


def _time(raw: msgspec.Raw) -> int:
    text = text_of(raw)
    if text is None and not is_number(raw):
        raise LineError("it has no 'timestamp', or one that is neither a text nor a number")
    try:
        return nanoseconds(bytes(raw).decode() if text is None else text, "auto")
    except ValueError as exc:
        raise LineError(f"the field 'timestamp': {exc}", without_values="its 'timestamp' is not a time") from exc


def _context_of(hostname: bytes, environment: bytes) -> bytes | None:
    is_short = len(hostname) + len(environment) <= _MAX_KNOWN_BYTES
    return _context(hostname, environment) if is_short else _context.__wrapped__(hostname, environment)


@lru_cache(maxsize=256)
def _context(hostname: bytes, environment: bytes) -> bytes | None:
    given = {"host": msgspec.Raw(hostname), "environment": msgspec.Raw(environment)}
    kept = {name: raw for name, raw in given.items() if not is_null(raw)}
    for name, raw in kept.items():
        if text_of(raw) is None:
            raise LineError(f"its {'hostname' if name == 'host' else name!r} is not a text")
    return encode_members(kept) if kept else None
