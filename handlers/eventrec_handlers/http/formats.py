"""A batch as requests: CloudEvents 1.0 in its three modes of HTTP, or lines of JSON.

    cloudevents-batch        one request, a JSON array of CloudEvents; application/cloudevents-batch+json
    cloudevents-structured   a request for each, a JSON object; application/cloudevents+json
    cloudevents-binary       a request for each: the payload alone, the attributes in headers `ce-…`; application/json
    ndjson                   one request, a line for each as `_lines.py` writes it; application/x-ndjson

What an event says, as a CloudEvent:

    id          the row's id; the same at every attempt
    source      as the user says; else the field `service` of the context, percent-encoded; else `eventrec`
    type, time  the event's, the time with nine digits behind the second, in UTC
    data        the payload, byte for byte
    table       the event's table; an extension attribute, as the others
    context     the context, where there is any; a text that holds a JSON object, since attributes are texts
    columns     the extra columns, name to value, where the event has any; likewise
    columntypes what they are, likewise: name to `{"type":"DECIMAL128","precision":9,"scale":2}`, or what else a
                `ColumnSchema` says; with it eventrec's own server takes them back as they were

An event of several rows is as many CloudEvents, which differ in `id` and `columns`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, get_args
from urllib.parse import quote

import msgspec

from eventrec import SemanticType
from eventrec_handlers._lines import lines_in_slices
from eventrec_handlers._rows import BASE, columns_in, columns_of, fault_of, in_slices, refuse, second_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventrec import Batch, ColumnSchema

HTTPFormat: TypeAlias = Literal["cloudevents-batch", "cloudevents-structured", "cloudevents-binary", "ndjson"]
FORMATS: Final[tuple[HTTPFormat, ...]] = get_args(HTTPFormat)
DEFAULT_SOURCE: Final = "eventrec"

_encode: Final = msgspec.json.Encoder().encode
_fields_of: Final = msgspec.json.Decoder(dict[str, Any]).decode

_UNQUOTED: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""What a header of the binary mode holds as it is; the rest of Unicode is percent-encoded."""


@dataclass(frozen=True, slots=True)
class Message:
    """The body of a request, and the records that it holds: `offsets`, and the row's number where it holds one row.

    `element_offsets` are those of its elements, one by one; empty where that is not known.
    """

    offsets: Sequence[int]
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    row: int | None = None
    element_offsets: Sequence[int] = ()


async def messages_of(batch: Batch, *, format_: HTTPFormat, source: str | None = None) -> list[Message]:
    """The requests that deliver `batch`, in the order of the log.

    Raises:
        PermanentError: Payloads are not JSON; names each of those records.
    """
    if format_ == "ndjson":
        body, headers = await lines_in_slices(batch), {"Content-Type": "application/x-ndjson"}
        has_one_each = body.count(b"\n") == len(batch.offsets)
        return [Message(batch.offsets, body, headers, element_offsets=batch.offsets if has_one_each else ())]
    refused: dict[int, str] = {}
    rows = await in_slices(_rows(batch, source, refused))
    rows.sort(key=lambda row: row.offset)  # a stable order: rows of one stay
    refuse(refused, batch, what="CloudEvents")
    match format_:
        case "cloudevents-batch":
            body = b"[" + b",\n".join(await in_slices(map(_object, rows))) + b"]\n"
            headers = {"Content-Type": "application/cloudevents-batch+json; charset=utf-8"}
            return [Message(batch.offsets, body, headers, element_offsets=[row.offset for row in rows])]
        case "cloudevents-structured":
            headers = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
            return await in_slices(Message([row.offset], _object(row), headers, row.number) for row in rows)
        case "cloudevents-binary":
            return await in_slices(Message([row.offset], row.payload, _headers(row), row.number) for row in rows)


class _Row(NamedTuple):
    """One row of a record. `number` counts the rows of its record."""

    offset: int
    number: int
    id: str
    source: str
    type: str
    timestamp: int
    table: str
    payload: bytes
    context: bytes | None
    columns: bytes | None
    column_types: bytes | None


def _rows(batch: Batch, source: str | None, refused: dict[int, str]) -> Iterator[_Row]:
    """The rows of `batch`, shape by shape; why others cannot be sent goes into `refused`."""
    for request in batch.row_inserts():
        has_context, extra = columns_in(request)
        types = _encode({column.name: _said(column) for column in extra}) if extra else None
        before, number = -1, 0
        for offset, row in zip(request.offsets, request.rows, strict=True):
            id_, _, timestamp, payload = row[:BASE]
            context = row[BASE] if has_context else None
            why = fault_of(payload) or (None if context is None else _context_fault(context))
            if why is not None:
                refused.setdefault(offset, why)
                continue
            number = number + 1 if offset == before else 0
            before = offset
            columns = _encode(columns_of(extra, row[BASE + has_context :])) if extra else None
            origin = source or source_of(context)
            event = (request.type, timestamp, request.table, payload, context, columns, types)
            yield _Row(offset, number, id_, origin, *event)


def _said(column: ColumnSchema) -> dict[str, str | int]:
    """What `column` is, beside its name; what is as it mostly is, is left out."""
    parameters = {"precision": column.precision, "scale": column.scale, "dimensions": column.dimensions}
    said: dict[str, str | int] = {"type": column.type.name}
    if column.semantic is not SemanticType.FIELD:
        said["semantic"] = column.semantic.name
    return said | {name: value for name, value in parameters.items() if value is not None}


@lru_cache(maxsize=64)
def _context_fault(context: bytes) -> str | None:
    return fault_of(context, what="context")


@lru_cache(maxsize=64)
def source_of(context: bytes | None) -> str:
    """Where an event comes from, by its context."""
    service = None
    with suppress(msgspec.MsgspecError):  # a received context may be any JSON value
        service = _fields_of(context or b"{}").get("service")
    return quote(service, safe="/:@!$&'()*+,;=~") if isinstance(service, str) and service else DEFAULT_SOURCE


def _object(row: _Row) -> bytes:
    """The CloudEvent of `row` in the JSON format."""
    parts = [
        b'{"specversion":"1.0","id":"%b","source":%b,"type":%b,"time":"%b","datacontenttype":"application/json"'
        b',"table":%b'
        % (row.id.encode(), _encode(row.source), _encode(row.type), time_text(row.timestamp), _encode(row.table))
    ]
    if row.context is not None:
        parts.append(b',"context":' + _encode(row.context.decode()))
    if row.columns is not None:
        parts.append(b',"columns":' + _encode(row.columns.decode()))
    if row.column_types is not None:
        parts.append(b',"columntypes":' + _encode(row.column_types.decode()))
    return b"".join(parts) + b',"data":' + row.payload + b"}"


def _headers(row: _Row) -> dict[str, str]:
    """The CloudEvent's attributes in the binary mode."""
    attributes: dict[str, str] = {
        "specversion": "1.0",
        "id": row.id,
        "source": row.source,
        "type": row.type,
        "time": time_text(row.timestamp).decode(),
        "table": row.table,
    }
    if row.context is not None:
        attributes["context"] = row.context.decode()
    if row.columns is not None:
        attributes["columns"] = row.columns.decode()
    if row.column_types is not None:
        attributes["columntypes"] = row.column_types.decode()
    headers = {f"ce-{name}": quote(value, safe=_UNQUOTED) for name, value in attributes.items()}
    return {**headers, "Content-Type": "application/json"}


def time_text(timestamp: int) -> bytes:
    """Nanoseconds since the epoch as RFC 3339 has them, exact."""
    seconds, nanoseconds = divmod(timestamp, 1_000_000_000)
    return b"%b.%09dZ" % (second_text(seconds).encode(), nanoseconds)
