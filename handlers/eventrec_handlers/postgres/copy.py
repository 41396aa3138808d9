"""Rows to the stream of a binary COPY, in slices small enough for an event loop.

The server works on one slice while the next is encoded: asyncpg writes each to the socket as it comes.
Format: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain, compress
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from eventrec_handlers._sql import Refusals
from eventrec_handlers.postgres.columns import (
    EPOCH_US,
    JSON_TYPES,
    NULL,
    STORED,
    declared,
    json_refusal,
    jsonb_field,
    text_field,
    text_pieces,
)
from eventrec_handlers.postgres.turns import SLICE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Self

    from eventrec import Layout, RowInsertRequest
    from eventrec_handlers._sql import TablePlan
    from eventrec_handlers.postgres.columns import Encode
    from eventrec_handlers.postgres.layouts import LaidOut
    from eventrec_handlers.postgres.turns import Turns

_CHUNK_BYTES: Final = 128 * 1024
"""Bytes that one message of a COPY need not exceed: about 400 rows."""

_START: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = b"\xff\xff"
_pack_row_and_id: Final = Struct(">hi").pack
_LENGTH_8: Final = b"\0\0\0\x08"

_BASE: Final = 4
"""Columns that every row begins with: id, type, timestamp, payload."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one request. `wanted` are its columns as (name, declared type).

    `kept_ids` are for each row the id that its record brought with it, where rows of one id are to be told apart.
    """

    request: RowInsertRequest
    wanted: tuple[tuple[str, str], ...]
    kept_ids: Sequence[bytes | None] = ()
    _ahead: dict[int, bytes] = field(default_factory=dict, repr=False)
    """Slices with all columns that were encoded before they were asked for, by their start."""

    @classmethod
    def of(cls, request: RowInsertRequest, *, tells_apart: bool = False) -> Self:
        wanted = tuple((column.name, declared(column)) for column in request.schema)
        return cls(request, wanted, request.explicit_ids if tells_apart else ())

    @property
    def layout(self) -> None:
        """Its table has none."""
        return None

    @property
    def table(self) -> str:
        return self.request.table

    @property
    def key(self) -> tuple[str, object]:
        """What tells the shapes of rows apart."""
        return self.request.table, self.request.schema

    @property
    def offsets(self) -> Sequence[int]:
        """For each row the offset of its record."""
        return self.request.offsets

    def only(self, kept: Sequence[bool]) -> Rows:
        """Those rows for which `kept` is true."""
        if all(kept):
            return self
        request = replace(
            self.request,
            columns=tuple(list(compress(values, kept)) for values in self.request.columns),
            offsets=list(compress(self.request.offsets, kept)),
            explicit_ids=(),
        )
        return Rows(request, self.wanted)

    def kind_of(self, row: int) -> str:  # noqa: ARG002 - as of rows that are of several types
        """The type of the event that a row belongs to."""
        return self.request.type

    def refuse(self, plan: TablePlan, refusals: Refusals) -> None:
        """Note the records for which `plan` has no room."""
        if plan.refused_table is not None:
            for offset in self.request.offsets:
                refusals.add(offset, f"table {self.table!r}: {plan.refused_table}")
        for i, (name, _) in enumerate(self.wanted if plan.refused else ()):
            if (why := plan.refused.get(name)) is not None:
                for row, value in enumerate(self.request.columns[i]):
                    if value is not None:
                        self.refuse_value(refusals, row, i, value, why)

    def refuse_cut(self, limits: Mapping[str, int], refusals: Refusals) -> None:
        """Note the records with a text whose last blanks a column of `limits` would cut off, and say nothing."""
        for i, (name, declared_type) in enumerate(self.wanted if limits else ()):
            if (most := limits.get(name)) is not None and declared_type == "text":
                for row, value in enumerate(self.request.columns[i]):
                    if isinstance(value, str) and len(value) > most and not value[most:].strip(" "):
                        why = f"the table declares it character varying({most}), and would cut off blanks at its end"
                        self.refuse_value(refusals, row, i, value, why)

    def refuse_value(self, refusals: Refusals, row: int, i: int, value: object, why: str) -> None:
        """Note that the column `i` cannot take the `value` of a row."""
        request = self.request
        refusals.add_value(
            request.offsets[row], self.table, request.schema[i], value, declared=self.wanted[i][1], why=why
        )

    def taken(self, plan: TablePlan) -> tuple[int, ...]:
        """The columns to write. One that `plan` refuses holds nothing but NULL, and is left out."""
        return tuple(i for i, (name, _) in enumerate(self.wanted) if name not in plan.refused)

    async def encode_ahead(self, turns: Turns) -> None:
        """Encode all slices now; one that holds what PostgreSQL cannot is left to be refused in its turn."""
        every = tuple(range(len(self.wanted)))
        for start in range(0, len(self.request.offsets), SLICE):
            refusals = Refusals()
            data = self.encoded(start, every, refusals)
            if not refusals.reasons:
                self._ahead[start] = data
            await turns.after(min(SLICE, len(self.request.offsets) - start))

    def is_ahead(self, start: int, taken: Sequence[int]) -> bool:
        """Whether the slice from `start` on is encoded with these columns."""
        return len(taken) == len(self.wanted) and start in self._ahead

    def encoded(self, start: int, taken: Sequence[int], refusals: Refusals) -> bytes:
        """The slice of rows from `start` on; a value that PostgreSQL cannot hold is noted in `refusals`."""
        if len(taken) == len(self.wanted) and (ahead := self._ahead.pop(start, None)) is not None:
            return ahead
        columns = [values[start : start + SLICE] for values in self.request.columns]
        ids, _, timestamps, payloads = columns[:_BASE]
        # A piece is a field or several that stand side by side: the fewer, the faster they are joined.
        head = _pack_row_and_id(len(taken), 16)
        before_timestamp = text_field(self.request.type) + _LENGTH_8
        pack = _row_beginning(len(before_timestamp))
        pieces: list[Iterable[bytes]] = [
            [
                pack(head, id_, before_timestamp, when // 1_000 - EPOCH_US, len(payload) + 1, 1)
                for id_, when, payload in zip(ids, timestamps, payloads, strict=True)
            ],
            payloads,
        ]
        for i in taken[_BASE:]:
            pieces += self._fields(start, i, columns[i], refusals)
        data = b"".join(chain.from_iterable(zip(*pieces, strict=True)))
        # One byte is found eighty times as fast as two, and most rows have no backslash.
        if b"\\" in data and b"\\u" in data:
            self._refuse_escapes(start, columns, taken, refusals)
        return data

    def _fields(self, start: int, i: int, values: Sequence[Any], refusals: Refusals) -> Sequence[Iterable[bytes]]:
        """The pieces of one column."""
        kind = self.request.schema[i].type
        encode = jsonb_field if kind in JSON_TYPES else STORED[kind][1]
        try:
            return text_pieces(values) if encode is text_field else [_encoded(values, encode)]
        except ValueError:
            pass  # which is rare, so only now one by one
        for row, value in enumerate(values, start):
            try:
                if value is not None:
                    encode(value)
            except ValueError as exc:
                self.refuse_value(refusals, row, i, value, str(exc))
        return [[NULL] * len(values)]  # never read: the batch is refused

    def _refuse_escapes(
        self, start: int, columns: Sequence[Sequence[Any]], taken: Sequence[int], refusals: Refusals
    ) -> None:
        schema = self.request.schema
        for i in taken:
            if schema[i].type in JSON_TYPES:
                for row, value in enumerate(columns[i], start):
                    if value is not None and b"\\u" in value and (why := json_refusal(value)) is not None:
                        self.refuse_value(refusals, row, i, value, why)


@cache
def _row_beginning(before_timestamp: int) -> Callable[..., bytes]:
    """What packs the fields of a row up to its payload: of so many bytes are type and length of the timestamp.

    Given head, id, type and length, timestamp, length of the payload's field, version of jsonb.
    """
    return Struct(f">6s16s{before_timestamp}sqiB").pack


def _encoded(values: Sequence[Any], encode: Encode) -> list[bytes]:
    return [NULL if value is None else encode(value) for value in values]


Part: TypeAlias = "Rows | LaidOut"
"""Rows of one table that have the same columns."""


class Copy:
    """What one COPY writes: rows of one table and the same columns, perhaps of several types.

    An asynchronous iterable of bytes. Once it has met a value that PostgreSQL cannot hold it writes no more, but goes
    on to look for others: ask `refusals` before committing.
    """

    def __init__(self, part: Part, taken: Sequence[int], refusals: Refusals) -> None:
        self.table = part.table
        self.columns = tuple(part.wanted[i][0] for i in taken)
        self._refusals = refusals
        self._parts: list[tuple[Part, Sequence[int]]] = [(part, taken)]

    def join(self, part: Part, taken: Sequence[int]) -> None:
        """Let this COPY write `part` too, which has the same table and columns."""
        self._parts.append((part, taken))

    def type_at(self, line: int | None) -> str:
        """The type of the row at `line`, counted from 1; where that is not known, of the first row."""
        part, row = self._at(line or 1) or (self._parts[0][0], 0)
        return part.kind_of(row)

    def offset(self, line: int) -> int | None:
        """The offset of the record that the row at `line` belongs to, counted from 1; None where there is none."""
        found = self._at(line)
        return None if found is None else found[0].offsets[found[1]]

    def _at(self, line: int) -> tuple[Part, int] | None:
        """The part that the row at `line` is in, and which of its rows it is."""
        for part, _ in self._parts:
            if 1 <= line <= len(part.offsets):
                return part, line - 1
            line -= len(part.offsets)
        return None

    @property
    def layout(self) -> Layout | None:
        """The layout of its table; None: it has none."""
        return self._parts[0][0].layout

    async def look_through(self) -> None:
        """Note every value that PostgreSQL cannot hold, and write nothing."""
        async for _ in self:
            pass

    def __aiter__(self) -> _Chunks:
        slices = [(part, start, taken) for part, taken in self._parts for start in range(0, len(part.offsets), SLICE)]
        return _Chunks(slices, self._refusals)


class _Chunks:
    """Slices together, since each chunk costs a message, a write to the socket and a turn of the loop.

    Not a generator: one that is left half-way would be closed by the loop, some time later.
    """

    def __init__(self, slices: Sequence[tuple[Part, int, Sequence[int]]], refusals: Refusals) -> None:
        self._slices = slices
        self._refusals = refusals
        self._next = 0

    async def __anext__(self) -> bytes:
        while self._next < len(self._slices):
            is_first = not self._next
            if not is_first:
                await asyncio.sleep(0)
            chunk = self._chunk()
            if not self._refusals.reasons:
                is_last = self._next == len(self._slices)
                return (_START if is_first else b"") + chunk + (_END if is_last else b"")
        raise StopAsyncIteration

    def _chunk(self) -> bytes:
        """The next slices: as many as are encoded already and small enough, or as may be encoded in one turn."""
        pieces: list[bytes] = []
        size = rows = 0
        while self._next < len(self._slices) and size < _CHUNK_BYTES and rows < SLICE:
            part, start, taken = self._slices[self._next]
            if not part.is_ahead(start, taken):
                rows += min(SLICE, len(part.offsets) - start)
            piece = part.encoded(start, taken, self._refusals)
            self._next += 1
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)
