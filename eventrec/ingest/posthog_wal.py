"""A line of a session file of Rerun's analytics to an event: pure functions of values.

    {"time_utc":"2025-04-03T01:20:10.557958200Z","kind":"Append","name":"…","props":{"k":{"String":"v"},"n":{"Integer":1}}}

    line                           event
    `time_utc`                     its timestamp, to the nanosecond
    kind Append                    type: the line's `name`
    kind Identify                  type: "$identify"
    kind SetPersonProperties       type: "$set"
    `props`                        its payload: each value without its tag; a Float that is null (what the writer made
                                   of NaN and infinity) is null
    the file's name                `session_id` in its context
    what the operator says         `distinct_id` in its context

That is how the handler for PostHog tells the kinds apart, and what it sends each as. An Append whose name would be
taken for another kind says so in its context, as `posthog_kind`.

A line gets the same id whenever it is read: UUIDv5 in `NAMESPACE` of session, line, and the number of equal lines
before it in the file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import sha1
from typing import Final, Literal
from uuid import UUID

import msgspec

from eventrec.errors import InvalidEventError
from eventrec.events.event import ReceivedEvent
from eventrec.ingest.received import EventTooLargeError, LineError
from eventrec.ingest.timestamps import nanoseconds
from eventrec.records.context import encoded_fields
from eventrec.records.entry import entry_size
from eventrec.records.schema import check_name

NAMESPACE: Final = UUID("5b0c1f0e-6a52-5d9b-8f6e-0b7b5a1c2d93")
"""Of the ids of lines. A constant: changing it would give old lines new ids."""

TYPES: Final = {"Identify": "$identify", "SetPersonProperties": "$set"}
"""What is not an Append, by its kind."""

_NAME: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.json", re.ASCII)
_INTEGER: Final = re.compile(rb"-?[0-9]{1,19}")
_I64: Final = range(-(2**63), 2**63)
_BEGIN: Final = b'{"time_utc":'
"""What every line begins with. Inside of a text its quotes would be escaped."""


class HalfWrittenLineError(LineError):
    """A line that is not JSON: its writer died, or its disk was full, before all of it was written."""


class _Line(msgspec.Struct):
    time_utc: str
    kind: Literal["Append", "Identify", "SetPersonProperties"]
    name: str
    props: dict[str, dict[str, msgspec.Raw]]


_decode: Final = msgspec.json.Decoder(_Line).decode
_encode: Final = msgspec.json.Encoder().encode


def session_of(name: str) -> UUID | None:
    """The session that a file called `name` holds; None where it is not the name of a session file."""
    match = _NAME.fullmatch(name)
    return None if match is None else UUID(match[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionReading:
    """How the lines of one session file are read. `max_event_bytes` counts like the recorder's option."""

    session: UUID
    distinct_id: str | None = None
    """Who the person is: the file does not say. None: the handler's own default."""
    table: str = "events"
    max_event_bytes: int = 1 << 20

    def event(self, line: bytes, *, repeat: int = 0) -> ReceivedEvent:
        """The event of `line`, of which `repeat` equal ones stand before it in the file.

        Raises:
            HalfWrittenLineError: It is not JSON.
            LineError: It is JSON, and not a line of a session file; or the event would be too large.
        """
        found = _decoded(line)
        kind = TYPES.get(found.kind, found.name)
        try:
            check_name("a name", kind)
            when = nanoseconds(found.time_utc, "iso")
        except (InvalidEventError, ValueError) as exc:
            raise LineError(str(exc)) from exc
        is_odd = found.kind == "Append" and kind in TYPES.values()
        event = ReceivedEvent(
            kind,
            b"{%b}" % b",".join(_encode(name) + b":" + _plain(name, tagged) for name, tagged in found.props.items()),
            when,
            self.table,
            id_of(self.session, line, repeat),
            context=encoded_fields(
                session_id=str(self.session),
                distinct_id=self.distinct_id,
                posthog_kind=found.kind if is_odd else None,
            ),
        )
        size = entry_size(event.payload, event.context)
        if size > self.max_event_bytes:
            raise EventTooLargeError(size, self.max_event_bytes)
        return event


def pieces(line: bytes) -> list[bytes]:
    """The lines that `line` is made of, where a writer could not end one before the next began; mostly itself alone."""
    if line.count(_BEGIN) == (line[: len(_BEGIN)] == _BEGIN):
        return [line]
    before, *others = line.split(_BEGIN)
    return [*filter(None, [before.rstrip()]), *(_BEGIN + each for each in others)]


def id_of(session: UUID, line: bytes, repeat: int) -> bytes:
    """The id of a line: 16 bytes, the same whenever it is read."""
    digest = sha1(NAMESPACE.bytes + b"%b\0%d\0%b" % (session.bytes, repeat, line), usedforsecurity=False).digest()
    return UUID(bytes=digest[:16], version=5).bytes


def _decoded(line: bytes) -> _Line:
    try:
        line.decode()
        return _decode(line)
    except UnicodeDecodeError as exc:
        raise HalfWrittenLineError(f"half-written: not UTF-8 at byte {exc.start}") from exc
    except RecursionError as exc:
        raise LineError("nested too deeply") from exc
    except msgspec.DecodeError as exc:
        raise _refusal(line, exc) from exc


def _refusal(line: bytes, exc: msgspec.DecodeError) -> LineError:
    """Half-written, or not: what is wrong may be seen before the place where the line breaks off."""
    try:
        json.loads(line)
    except RecursionError:
        return LineError("nested too deeply")
    except ValueError:
        return HalfWrittenLineError(f"half-written: {exc}")
    return LineError(f"not a line of a session file: {exc}")


def _plain(name: str, tagged: dict[str, msgspec.Raw]) -> bytes:
    """A value without its tag, in its own bytes."""
    if len(tagged) == 1:
        ((tag, raw),) = tagged.items()
        value = bytes(raw)
        if _fits(tag, value):
            return value
    raise LineError(f"its property {name!r:.60} is not a tagged Bool, Integer, Float or String")


def _fits(tag: str, value: bytes) -> bool:
    match tag:
        case "Bool":
            return value in {b"true", b"false"}
        case "Integer":
            return _INTEGER.fullmatch(value) is not None and int(value) in _I64
        case "Float":
            return value == b"null" or value[:1] in b"-0123456789"
        case _:
            return tag == "String" and value[:1] == b'"'
