"""CloudEvents 1.0: those that our handler for HTTP sent, back to the events they are about, and headers to an object.

What it sent has its table as an attribute, and nothing that it does not send:

    type, time, id     the event's; the id is a UUID
    data               the payload, byte for byte
    table              the table
    context            a text that holds a JSON object
    columns            a text that holds a JSON object: name to value
    columntypes        a text that holds a JSON object: name to what the column is; else types follow from the values

All of that comes back exactly. `source` follows from the context, and is not kept.

Source: cloudevents.io, "CloudEvents 1.0.2", "JSON Event Format", "HTTP Protocol Binding".
"""

from __future__ import annotations

import re
from base64 import b64encode
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

import msgspec

from eventrec.errors import InvalidEventError
from eventrec.events.event import ONE_ROW, ReceivedEvent
from eventrec.ingest.members import NULL, decode_members, is_null, text_of
from eventrec.ingest.names import is_name, uuid_in
from eventrec.ingest.own_lines import columns_with_types, columns_without_types
from eventrec.ingest.received import LineError
from eventrec.ingest.timestamps import nanoseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from eventrec.records.schema import ColumnSchema, Row

REQUIRED: Final = ("id", "source", "type")
OURS: Final = frozenset(
    {*REQUIRED, "specversion", "time", "datacontenttype", "table", "context", "columns", "columntypes", "data"}
)
VERSION: Final = "1.0"
PREFIX: Final = "ce-"

_MAX_KNOWN_BYTES: Final = 4_096
"""What is longer is looked at each time: it must not fill the memory."""
_JSON: Final = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json", re.IGNORECASE)
_ATTRIBUTE: Final = re.compile(r"[a-z0-9]{1,64}")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_encode: Final = msgspec.json.Encoder().encode
_check_json: Final = msgspec.json.Decoder(msgspec.Raw).decode


def check_cloud_event(members: Mapping[str, msgspec.Raw]) -> None:
    """Raise LineError where an object of these members is not a CloudEvent 1.0."""
    if text_of(members.get("specversion")) != VERSION:
        raise LineError(f"not a CloudEvent: its 'specversion' is not {VERSION!r}")
    for name in REQUIRED:
        if not text_of(members.get(name)):
            raise LineError(f"not a CloudEvent: it has no text {name!r}")


def own_cloud_event(members: Mapping[str, msgspec.Raw], *, table: str | None) -> ReceivedEvent | None:
    """The event of a CloudEvent that our handler sent, for `table` where that is given; None where it is another's.

    Raises:
        LineError: It is ours, and what it says of context or columns cannot be one event's.
    """
    if "table" not in members or not members.keys() <= OURS or text_of(members.get("specversion")) != VERSION:
        return None
    kind, time, to = text_of(members.get("type")), text_of(members.get("time")), text_of(members["table"])
    id_ = uuid_in(text_of(members.get("id")) or "")
    if kind is None or time is None or to is None or id_ is None or not (is_name(kind) and is_name(to)):
        return None
    try:
        timestamp = nanoseconds(time, "iso")
    except ValueError:
        return None
    columns, rows = _columns(members.get("columns"), members.get("columntypes"))
    return ReceivedEvent(
        kind,
        bytes(members.get("data", NULL)),
        timestamp,
        table or to,
        id_,
        context=_context(members.get("context")),
        columns=columns,
        rows=rows,
    )


def _context(raw: msgspec.Raw | None) -> bytes | None:
    if raw is None or is_null(raw):
        return None
    given = bytes(raw)
    return _context_in(given) if len(given) <= _MAX_KNOWN_BYTES else _context_in.__wrapped__(given)


@lru_cache(maxsize=256)
def _context_in(given: bytes) -> bytes:
    encoded = (text_of(msgspec.Raw(given)) or "").encode()
    try:
        decode_members(encoded)
    except (msgspec.DecodeError, RecursionError):
        raise LineError("its 'context' is not a text that holds a JSON object") from None
    return encoded


def _columns(values: msgspec.Raw | None, types: msgspec.Raw | None) -> tuple[Sequence[ColumnSchema], Sequence[Row]]:
    if values is None or is_null(values):
        return (), ONE_ROW
    try:
        given = decode_members((text_of(values) or "").encode())
        if types is None or is_null(types):
            return columns_without_types(given)
        columns, row = columns_with_types((text_of(types) or "").encode(), given)
    except (InvalidEventError, msgspec.DecodeError, RecursionError) as exc:
        raise LineError(f"its columns cannot be read: {exc}", without_values="its columns cannot be read") from exc
    return columns, (row,)


# -- the binary mode


def members_of_headers(headers: Iterable[tuple[str, str]], body: bytes) -> dict[str, msgspec.Raw]:
    """The members that a CloudEvent in the binary mode would have as an object: its attributes, and `body` as its data.

    Names of `headers` are in lower case. Data that is not JSON becomes a text where Content-Type says so, else base64.

    Raises:
        LineError: An attribute stands twice, or cannot be one; or the body is not what Content-Type says.
    """
    attributes: dict[str, str] = {}
    content_type: str | None = None
    for name, value in headers:
        if name == "content-type":
            content_type = value.strip()
        elif name.startswith(PREFIX):
            attribute = name.removeprefix(PREFIX)
            if attribute in attributes:
                raise LineError(f"the attribute {attribute!r:.70} stands twice")
            if _ATTRIBUTE.fullmatch(attribute) is None or attribute in {"data", "datacontenttype"}:
                raise LineError(f"{attribute!r:.70} cannot be an attribute")
            attributes[attribute] = _value(attribute, value)
    members = {name: msgspec.Raw(_encode(value)) for name, value in attributes.items()}
    if content_type:
        members["datacontenttype"] = msgspec.Raw(_encode(content_type))
    if body:
        name, data = _data(body, (content_type or "application/json").partition(";")[0].strip())
        members[name] = msgspec.Raw(data)
    return members


def _value(name: str, given: str) -> str:
    """An attribute's value in a header: percent-encoded UTF-8, perhaps in quotes."""
    quoted = _QUOTED.fullmatch(given.strip())
    plain = given if quoted is None else re.sub(r"\\(.)", r"\1", quoted[1])
    try:
        return unquote_to_bytes(plain.encode("latin-1")).decode()
    except UnicodeError:
        raise LineError(f"the attribute {name!r} is not percent-encoded UTF-8") from None


def _data(body: bytes, media_type: str) -> tuple[str, bytes]:
    if _JSON.fullmatch(media_type):
        try:
            body.decode()
            _check_json(body)
        except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
            raise LineError("its data is not JSON") from None
        return "data", body
    if media_type.lower().startswith("text/"):
        try:
            return "data", _encode(body.decode())
        except UnicodeDecodeError:
            pass
    return "data_base64", _encode(b64encode(body).decode())
