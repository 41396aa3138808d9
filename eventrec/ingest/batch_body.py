"""The body of a request that brings events, in one of four forms, to its elements, and these to events.

    json               an array of objects, or one object
    ndjson             an object on each line that is not blank
    cloudevent         one CloudEvent, an object
    cloudevents        an array of them

Each object is read as what it is: a line of ours (`own_lines.py`), a CloudEvent of ours (`cloud_events.py`), an
envelope of the platform (`enriched.py`), else as `eventrec record` reads it (`received.py`). Exact, or refused: an
object in which a name stands twice is refused. One that cannot be read is refused alone; a body that is not JSON is
refused as a whole.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from uuid import UUID

import msgspec

from eventrec.events.event import ReceivedEvent, ReceivedJson
from eventrec.ingest.cloud_events import check_cloud_event, own_cloud_event
from eventrec.ingest.elements import (
    BodyError,
    BodyTooLargeError,
    elements_of,
    is_deeper,
    members_of,
    stable_id,
)
from eventrec.ingest.enriched import enriched_event, is_enriched
from eventrec.ingest.members import decode_members, repeats_names
from eventrec.ingest.received import EventTooLargeError, LineError, Reading, own_line, received_events
from eventrec.records.entry import entry_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec.ingest.received import Received

Form: TypeAlias = Literal["json", "ndjson", "cloudevent", "cloudevents"]

NAMESPACE: Final = UUID("5c1d0d0e-3d0b-5a57-8c0f-6a2f4b7e9d13")
"""Of ids that follow from a request's key. A constant: changing it would give a request that is repeated new ids."""

_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = b" \t\r\n"
_MAX_SPLIT: Final = 4 * 1024 * 1024
"""Bytes of an array that is taken apart token by token, to find which of its elements it fails at."""
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)
_HALF_PAIR: Final = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchReading:
    """How bodies are read.

    Attributes:
        form: What the request says it is.
        table: Where all events go; None: where each says, or by its type, else to "events".
        max_event_bytes: As the recorder's option.
        max_elements: Events of one body at most.
        max_depth: How deep an object may be nested.
        tables: By type: where events go that name no table.
        spellings: Other names of types, each with the type.
        key: What a client sends again with the same request: events without an id get one that follows from it.
    """

    form: Form = "json"
    table: str | None = None
    max_event_bytes: int = 1 << 20
    max_elements: int = 50_000
    max_depth: int = 200
    tables: Mapping[str, str] = field(default_factory=dict)
    spellings: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None

    @property
    def reading(self) -> Reading:
        """How objects are read that are not ours."""
        return Reading(table=self.table, max_event_bytes=self.max_event_bytes)


def elements_in(body: bytes, reading: BatchReading) -> list[bytes]:
    """The elements of `body`, each the bytes of what should be an object.

    Raises:
        BodyError: It is not JSON, or neither an array nor an object.
        BodyTooLargeError: It has too many.
    """
    body = body.removeprefix(_BOM)
    if reading.form == "ndjson":
        return _lines(body, reading.max_elements)
    first = body.lstrip(_BLANK)[:1]
    if reading.form == "cloudevents" and first == b"{":
        raise BodyShapeError("an array of CloudEvents is expected")
    if first == b"{":
        _check_json(body)
        return [body]
    if first != b"[":
        _check_json(body)
        raise BodyShapeError("neither an array nor an object")
    if reading.form == "cloudevent":
        _check_json(body)
        raise BodyShapeError("one CloudEvent is expected")
    try:
        return elements_of(body, limit=reading.max_elements)
    except BodyTooLargeError:
        raise
    except BodyError:
        return _elements_one_by_one(body, reading)


class BodyShapeError(BodyError):
    """A body is JSON, and another value than is expected."""


def events_of(elements: Sequence[bytes], reading: BatchReading, *, first: int = 0) -> list[Received]:
    """The event of each of `elements`, or why it is not one; `first` is the index of the first of them in the body."""
    found: list[Received | None] = [_known_or_why_not(element, reading) for element in elements]
    left = [index for index, event in enumerate(found) if event is None]
    if left:
        for index, event in zip(left, received_events([elements[i] for i in left], reading.reading), strict=True):
            found[index] = _placed(event, reading)
    events = [event for event in found if event is not None]
    if reading.key is not None:
        return [
            _with_id(event, reading.key, index, element)
            for index, (event, element) in enumerate(zip(events, elements, strict=True), first)
        ]
    return events


def _known_or_why_not(element: bytes, reading: BatchReading) -> ReceivedEvent | LineError | None:
    """The event of an element that we know the form of, or why it is not one; None: it is as others make them."""
    try:
        members = members_of(element, max_bytes=reading.max_event_bytes, max_depth=reading.max_depth)
        if repeats_names(element, members):
            return LineError("a name stands twice in it")
        event = _known(members, reading)
    except LineError as exc:
        return exc.with_traceback(None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return LineError("it cannot be read")
    if event is not None:
        size = entry_size(event.payload, event.context)
        if size > reading.max_event_bytes:
            return EventTooLargeError(size, reading.max_event_bytes)
    return event


def _known(members: Mapping[str, msgspec.Raw], reading: BatchReading) -> ReceivedEvent | None:
    if reading.form in {"cloudevent", "cloudevents"}:
        check_cloud_event(members)
    if "specversion" in members:
        return own_cloud_event(members, table=reading.table)
    if "payload" in members:
        return own_line(members, table=reading.table)
    if is_enriched(members):
        return enriched_event(members, table=reading.table, tables=reading.tables, spellings=reading.spellings)
    return None


def _placed(event: Received, reading: BatchReading) -> Received:
    """`event`, which names no table, in that of its type."""
    if reading.table is not None or not reading.tables or isinstance(event, LineError):
        return event
    table = reading.tables.get(event.type)
    if table is None:
        return event
    if isinstance(event, ReceivedJson):
        return ReceivedJson(event.type, table, event.payload)
    return replace(event, table=table)


def _with_id(event: Received, key: str, index: int, element: bytes) -> Received:
    if isinstance(event, LineError) or (isinstance(event, ReceivedEvent) and event.id is not None):
        return event
    id_ = stable_id(NAMESPACE, key.encode(), b"%d" % index, element)
    if isinstance(event, ReceivedJson):
        return ReceivedEvent(event.type, event.payload, table=event.table, id=id_)
    return replace(event, id=id_)


# -- taking bodies apart


def _lines(body: bytes, limit: int) -> list[bytes]:
    if body.count(b"\n") > 2 * limit:
        raise BodyTooLargeError(f"more than {limit:,} lines")
    lines = [line for line in body.split(b"\n") if line and not line.isspace()]
    if len(lines) > limit:
        raise BodyTooLargeError(f"more than {limit:,} lines")
    return lines


def _check_json(body: bytes) -> None:
    """Raise BodyError where `body` is not JSON; what is only nested too deeply, or half of a pair, is told later."""
    try:
        _skip(body)
    except RecursionError:
        return
    except msgspec.DecodeError as exc:
        if not _is_half_pair(body):
            raise BodyError(f"not JSON: {exc}") from exc


_skip: Final = msgspec.json.Decoder(msgspec.Raw).decode
_stdlib: Final = json.JSONDecoder(object_pairs_hook=len, parse_int=len, parse_float=len).decode


def _is_half_pair(text: bytes) -> bool:
    """Whether `text` is JSON, but that half of a surrogate pair is in it."""
    if len(text) > _MAX_SPLIT or _HALF_PAIR.search(text) is None:
        return False
    try:
        _stdlib(text.decode(errors="replace"))
    except (ValueError, RecursionError):
        return False
    return True


def _elements_one_by_one(body: bytes, reading: BatchReading) -> list[bytes]:
    """The elements of an array that cannot be read as a whole, where that is the fault of single ones.

    Raises:
        BodyError: It is not JSON.
    """
    if len(body) > _MAX_SPLIT:
        raise BodyError("it cannot be read as JSON")
    elements = _split(body, reading.max_elements)
    for element in elements:
        try:
            decode_members(element)
        except msgspec.ValidationError:
            continue  # It is JSON, and is told later that it is not an object.
        except (RecursionError, UnicodeDecodeError):
            continue
        except msgspec.DecodeError as exc:
            if not (_is_half_pair(element) or is_deeper(element, reading.max_depth)):
                raise BodyError(f"not JSON: {exc}") from None
    return elements


def _split(array: bytes, limit: int) -> list[bytes]:
    """The elements of a JSON array, by its brackets and commas alone."""
    text = array.strip(_BLANK)
    elements: list[bytes] = []
    depth, start = 0, 1
    for match in _TOKEN.finditer(text):
        token, at = text[match.start()], match.start()
        if token in b"[{":
            depth += 1
        elif token in b"]}":
            depth -= 1
            if depth == 0:
                if text[at:] != b"]":
                    break
                elements.append(text[start:at].strip(_BLANK))
                return _checked(elements)
        elif token in b"," and depth == 1:
            elements.append(text[start:at].strip(_BLANK))
            start = at + 1
            if len(elements) >= limit:
                raise BodyTooLargeError(f"more than {limit:,} elements")
    raise BodyError("not JSON: the array does not end where the body does")


def _checked(elements: list[bytes]) -> list[bytes]:
    if elements == [b""]:
        return []
    if b"" in elements:
        raise BodyError("not JSON: an element is missing between commas")
    return elements
