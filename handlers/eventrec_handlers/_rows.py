"""What handlers share that write the rows of a batch one by one: in slices, the rows' parts, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from anyio.lowlevel import checkpoint

from eventrec import ColumnType, PermanentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from eventrec import Batch, ColumnSchema, RowInsertRequest

T = TypeVar("T")

SLICE: Final = 50
"""Rows that are encoded in one go: half a millisecond or so; others wait for two or three of them."""

BASE: Final = 4
"""Id, type, timestamp, payload: the values that every row begins with."""

_JSON_TYPES: Final = frozenset({ColumnType.JSON, ColumnType.LIST, ColumnType.STRUCT})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_check_json: Final = msgspec.json.Decoder(msgspec.Raw).decode


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


def columns_in(request: RowInsertRequest) -> tuple[bool, tuple[ColumnSchema, ...]]:
    """Whether the rows of `request` have a context, as their value `BASE`, and the extra columns behind it."""
    has_context = len(request.schema) > BASE and request.schema[BASE].name == "context"
    return has_context, request.schema[BASE + has_context :]


def columns_of(schema: tuple[ColumnSchema, ...], values: tuple[Any, ...]) -> dict[str, Any]:
    """Names to values, to be encoded by msgspec."""
    return {
        column.name: msgspec.Raw(value) if value is not None and column.type in _JSON_TYPES else value
        for column, value in zip(schema, values, strict=True)
    }


@lru_cache(maxsize=4_096)
def second_text(seconds: int) -> str:
    """The second, so many after the epoch, as RFC 3339 has it, without the zone, which is UTC."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]


def fault_of(text: bytes, *, what: str = "payload") -> str | None:
    """Why `text` is not a JSON text in UTF-8; None where it is. Nothing has looked at a received one before."""
    try:
        decoded = text.decode()
        try:
            _check_json(text)
        except msgspec.DecodeError:
            # It refuses half of a surrogate pair where it is escaped, which JSON does not.
            json.loads(decoded, parse_constant=_refuse_constant, parse_int=str, parse_float=str)
    except RecursionError:
        return f"its {what} is nested too deeply for a reader of JSON"
    except ValueError as exc:
        return f"its {what} is not JSON: {exc}"
    return None


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")


def refuse(refused: Mapping[int, str], batch: Batch, *, what: str) -> None:
    """Raise PermanentError for the records of `batch` that are `refused`, offset to reason, if any is."""
    if refused:
        offset, reason = next(iter(refused.items()))
        raise PermanentError(
            f"{len(refused)} of {len(batch)} records cannot be {what}; at offset {offset}: {reason}",
            records=refused,
        )
