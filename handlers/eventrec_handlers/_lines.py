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

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from anyio.lowlevel import checkpoint

from eventrec import ColumnType, PermanentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from eventrec import Batch, ColumnSchema, RowInsertRequest

T = TypeVar("T")

SLICE: Final = 50
"""Rows that are encoded in one go: half a millisecond or so; others wait for two or three of them."""

_encode: Final = msgspec.json.Encoder().encode
_check_json: Final = msgspec.json.Decoder(msgspec.Raw).decode
_JSON_TYPES: Final = frozenset({ColumnType.JSON, ColumnType.LIST, ColumnType.STRUCT})


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


async def in_slices(items: Iterable[T]) -> list[T]:
    """All `items`, made in slices: in between, the event loop is others'.

    In a thread they would keep it for longer: one that waits for the interpreter does so for 5 ms, mostly.
    """
    made: list[T] = []
    for item in items:
        made.append(item)
        if not len(made) % SLICE:
            await checkpoint()
    return made


def _lines_in(batch: Batch, refused: dict[int, str]) -> Iterator[tuple[int, bytes]]:
    return (line for request in batch.row_inserts() for line in _lines(request, refused))


def _joined(lines: list[tuple[int, bytes]], refused: Mapping[int, str], batch: Batch) -> bytes:
    refuse(refused, batch)
    lines.sort(key=lambda line: line[0])  # they come shape by shape; rows of one record keep their order
    return b"".join(line for _, line in lines)


def refuse(refused: Mapping[int, str], batch: Batch, *, what: str = "lines of JSON") -> None:
    """Raise PermanentError for the records of `batch` that are `refused`, offset to reason, if any is."""
    if refused:
        offset, reason = next(iter(refused.items()))
        raise PermanentError(
            f"{len(refused)} of {len(batch)} records cannot be {what}; at offset {offset}: {reason}",
            records=refused,
        )


def _lines(request: RowInsertRequest, refused: dict[int, str]) -> Iterator[tuple[int, bytes]]:
    """Offset and line of each row that can be one; why others cannot goes into `refused`."""
    has_context = len(request.schema) > _BASE and request.schema[_BASE].name == "context"
    extra = request.schema[_BASE + has_context :]
    kind, table = _encode(request.type), _encode(request.table)
    for offset, row in zip(request.offsets, request.rows, strict=True):
        id_, _, timestamp, payload = row[:_BASE]
        why = fault_of(payload)
        if why is not None:
            refused.setdefault(offset, why)
            continue
        context = row[_BASE] if has_context else None
        parts = [
            b'{"id":"%b","type":%b,"timestamp":%d,"table":%b,"payload":%b'
            % (id_.encode(), kind, timestamp, table, payload)
        ]
        if context is not None:
            parts.append(b',"context":' + context)
        if extra:
            parts.append(b',"columns":' + _encode(columns_of(extra, row[_BASE + has_context :])))
        line = b"".join(parts)
        if b"\n" in line or b"\r" in line:  # none can be inside a string, so they stand between tokens
            line = line.replace(b"\n", b" ").replace(b"\r", b" ")
        yield offset, line + b"}\n"


_BASE: Final = 4
"""Id, type, timestamp, payload."""


def fault_of(payload: bytes) -> str | None:
    """Why `payload` is not a JSON text in UTF-8; None where it is. Nothing has looked at a received one before."""
    try:
        decoded = payload.decode()
        try:
            _check_json(payload)
        except msgspec.DecodeError:
            # It refuses half of a surrogate pair where it is escaped, which JSON does not.
            json.loads(decoded, parse_constant=_refuse, parse_int=str, parse_float=str)
    except RecursionError:
        return "its payload is nested too deeply for a reader of JSON"
    except ValueError as exc:
        return f"its payload is not JSON: {exc}"
    return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")


def columns_of(schema: tuple[ColumnSchema, ...], values: tuple[Any, ...]) -> dict[str, Any]:
    """Names to values, to be encoded by msgspec."""
    return {
        column.name: msgspec.Raw(value) if value is not None and column.type in _JSON_TYPES else value
        for column, value in zip(schema, values, strict=True)
    }
