"""A batch as lines of JSON, one for each row, in the order of the log.

    {"id":"…","type":"order_placed","timestamp":1709208000123456789,"table":"orders","payload":…,"context":…,"columns":…}

    id          text; the same at every attempt
    timestamp   nanoseconds since the epoch, UTC: more digits than a double holds
    payload     the event's JSON, byte for byte, but for line breaks between its tokens, which become spaces
    context     left out where there is none
    columns     the extra columns, name to value, null where there is none; left out where the event has no columns

A column's value is the plain form that `eventrec.records.column_types` documents; BINARY is base64; JSON, LIST and
STRUCT are JSON as they are. An event of several rows is as many lines, which differ in `id` and `columns`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from eventrec_handlers._rows import BASE, columns_in, columns_of, fault_of, in_slices, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from eventrec import Batch, RowInsertRequest

_encode: Final = msgspec.json.Encoder().encode


def lines_of(batch: Batch) -> bytes:
    """The lines of `batch`, each with its line break.

    Raises:
        PermanentError: Payloads are not JSON; names each of those records.
    """
    refused: dict[int, str] = {}
    return _joined(list(_lines_in(batch, refused)), refused, batch)


async def lines_in_slices(batch: Batch) -> bytes:
    """As `lines_of`, for a caller on an event loop.

    Raises:
        PermanentError: As there.
    """
    refused: dict[int, str] = {}
    return _joined(await in_slices(_lines_in(batch, refused)), refused, batch)


def _lines_in(batch: Batch, refused: dict[int, str]) -> Iterator[tuple[int, bytes]]:
    return (line for request in batch.row_inserts() for line in _lines(request, refused))


def _joined(lines: list[tuple[int, bytes]], refused: Mapping[int, str], batch: Batch) -> bytes:
    refuse(refused, batch, what="lines of JSON")
    lines.sort(key=lambda line: line[0])  # they come shape by shape; rows of one record keep their order
    return b"".join(line for _, line in lines)


def _lines(request: RowInsertRequest, refused: dict[int, str]) -> Iterator[tuple[int, bytes]]:
    """Offset and line of each row that can be one; why others cannot goes into `refused`."""
    has_context, extra = columns_in(request)
    kind, table = _encode(request.type), _encode(request.table)
    for offset, row in zip(request.offsets, request.rows, strict=True):
        id_, _, timestamp, payload = row[:BASE]
        why = fault_of(payload)
        if why is not None:
            refused.setdefault(offset, why)
            continue
        context = row[BASE] if has_context else None
        parts = [
            b'{"id":"%b","type":%b,"timestamp":%d,"table":%b,"payload":%b'
            % (id_.encode(), kind, timestamp, table, payload)
        ]
        if context is not None:
            parts.append(b',"context":' + context)
        if extra:
            parts.append(b',"columns":' + _encode(columns_of(extra, row[BASE + has_context :])))
        line = b"".join(parts)
        if b"\n" in line or b"\r" in line:  # none can be inside a string, so they stand between tokens
            line = line.replace(b"\n", b" ").replace(b"\r", b" ")
        yield offset, line + b"}\n"
