"""Records to calls: the rows of one table and the same columns, as the bytes of their message, in short slices.

Bytes and not messages: a message for each value costs three and a half times as much as all of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio
from anyio.lowlevel import checkpoint

from eventrec import ColumnSchema, ColumnType, SemanticType
from eventrec_handlers._sql import Refusals, converted
from eventrec_handlers._thread import WorkThread
from eventrec_handlers.greptimedb.columns import (
    JSON_TYPES,
    NULL,
    binary_head,
    declared,
    encoder_of,
    text_head,
    text_value,
)
from eventrec_handlers.greptimedb.jsonb import JsonbEncoder
from eventrec_handlers.greptimedb.plain_rows import ID, LOW_BITS, plain_rows, row_head, timestamp_values
from eventrec_handlers.greptimedb.protocol import schema_of_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from eventrec import Batch, RowInsertRequest
    from eventrec_handlers.greptimedb.columns import JsonForm

SLICE: Final = 200
"""Rows encoded without giving the loop a turn: about a millisecond."""

LOOP_BYTES: Final = 128 << 10
"""Bytes of JSON in such a slice above which it is encoded in a thread: a megabyte may take a third of a second."""

_BASE: Final = 4
"""Columns that every row begins with: id, type, timestamp, payload."""


@dataclass(slots=True)
class Insert:
    """The rows of one call.

    Attributes:
        table: Where they go.
        schema: Their columns, as the bytes that Rows begin with.
        rows: Them, as bytes.
        offsets: The offset of the record that each row belongs to.
    """

    table: str
    schema: bytes
    rows: list[bytes] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the rows."""
        return sum(map(len, self.rows))


class _Step(NamedTuple):
    """A slice of rows to be encoded. `is_large`: in a thread."""

    insert: Insert
    encode: Callable[[], bytes]
    rows: int
    is_large: bool


class _Begun:
    """A batch that is being encoded, step by step."""

    def __init__(self, batch: Batch, steps: Callable[[_Begun], Iterator[_Step]]) -> None:
        self.batch = batch
        self.refusals = Refusals()
        self.made: dict[tuple[str, tuple[ColumnSchema, ...]], Insert] = {}
        self._steps = steps(self)
        self._step: _Step | None = None

    def next_step(self) -> _Step | None:
        """The next one; the same again until it is done. None: there is no more."""
        self._step = self._step or next(self._steps, None)
        return self._step

    def note_done(self) -> None:
        """The step is done."""
        self._step = None


class RowEncoder:
    """Turns batches into inserts. `id_is_tag`: the id is a part of the primary key, so that a repeat overwrites."""

    def __init__(self, *, id_is_tag: bool, json: JsonForm = "binary") -> None:
        self._id_is_tag = id_is_tag
        self._json: JsonForm = json
        self._jsonb = JsonbEncoder() if json == "binary" else None
        self._thread = WorkThread("eventrec-greptimedb-rows")
        self._begun: _Begun | None = None
        """What was cancelled."""

    async def inserts(self, batch: Batch) -> list[Insert]:
        """The rows of `batch`, parted by table and columns; types that differ in nothing else stay together.

        Where it is cancelled, the next call for that batch goes on with what is done.

        Raises:
            PermanentError: Records cannot be stored; it names them all.
        """
        begun, self._begun = self._begun, None
        if begun is None or begun.batch is not batch:
            begun = _Begun(batch, self._steps)
        try:
            await self._finish(begun)
        except anyio.get_cancelled_exc_class():
            self._begun = begun
            raise
        begun.refusals.raise_if_any(len(batch))
        return list(begun.made.values())

    async def _finish(self, begun: _Begun) -> None:
        rows = 0
        while (step := begun.next_step()) is not None:
            encoded = await self._thread.run(step.encode) if step.is_large else step.encode()
            step.insert.rows.append(encoded)
            begun.note_done()
            rows += step.rows
            if rows >= SLICE:
                rows = 0
                await checkpoint()
        await checkpoint()

    def _steps(self, begun: _Begun) -> Iterator[_Step]:
        for request in begun.batch.row_inserts():
            if not request.offsets:
                continue
            taken, columns = _declared(request)
            key = (request.table, columns)
            insert = begun.made.get(key)
            if insert is None:
                schema = _schema(columns, id_is_tag=self._id_is_tag, json=self._json)
                insert = begun.made[key] = Insert(request.table, schema)
            json = [i for i in taken if request.schema[i].type in JSON_TYPES]
            for start in range(0, len(request.offsets), SLICE):
                end = min(start + SLICE, len(request.offsets))
                encode = partial(self._slice, request, start, taken, columns, begun.refusals)
                documents = (request.columns[i][start:end] for i in json)
                is_large = self._jsonb is not None and sum(map(_bytes_of, documents)) > LOOP_BYTES
                yield _Step(insert, encode, end - start, is_large)
            insert.offsets.extend(request.offsets)

    def close(self) -> None:
        """Let the thread go. More may be encoded afterwards."""
        self._begun = None
        self._thread.end()

    def _slice(
        self,
        request: RowInsertRequest,
        start: int,
        taken: Sequence[int],
        columns: Sequence[ColumnSchema],
        refusals: Refusals,
    ) -> bytes:
        """The rows from `start` on as fields of Rows; what cannot be written is noted, and the bytes are then void."""
        values = [column[start : start + SLICE] for column in request.columns]
        ids, _, timestamps, payloads = values[:_BASE]
        documents: Sequence[bytes]
        if self._jsonb is None:
            head, documents = text_head, payloads
        else:
            head = binary_head
            documents = self._jsonb.encode_texts(payloads) or self._column(
                request, start, 3, payloads, encode=self._jsonb.encode_text, refusals=refusals
            )
        if len(taken) == _BASE and min(timestamps) >> LOW_BITS > 0:
            return plain_rows(ids, text_value(request.type), timestamps, documents, head)
        pieces: list[Iterable[bytes]] = [
            [ID + id_.encode() for id_ in ids],
            repeat(text_value(request.type), len(ids)),
            timestamp_values(timestamps),
            [head(len(document)) for document in documents],
            documents,
        ]
        for i, column in zip(taken[_BASE:], columns[_BASE:], strict=True):
            pieces.append(
                self._column(request, start, i, values[i], encode=encoder_of(column, self._jsonb), refusals=refusals)
            )
        bodies = map(b"".join, zip(*pieces, strict=True))
        return b"".join([row_head(len(body)) + body for body in bodies])

    def _column(
        self,
        request: RowInsertRequest,
        start: int,
        i: int,
        values: Sequence[Any],
        *,
        encode: Callable[[Any], bytes],
        refusals: Refusals,
    ) -> list[bytes]:
        kept, failed = converted(values, encode)
        column = request.schema[i]
        for row, (value, why) in failed.items():
            offset = request.offsets[start + row]
            refusals.add_value(offset, request.table, column, value, declared=declared(column), why=why)
        return [NULL if value is None else value for value in kept]


def _bytes_of(values: Sequence[bytes | None]) -> int:
    return sum(len(value) for value in values if value is not None)


def _declared(request: RowInsertRequest) -> tuple[list[int], tuple[ColumnSchema, ...]]:
    """The columns to write: their places, and what they are.

    A vector whose dimensions are not declared has those of its first value; where all are NULL, it is left out.
    """
    taken: list[int] = []
    columns: list[ColumnSchema] = []
    for i, column in enumerate(request.schema):
        if column.type is ColumnType.VECTOR and column.dimensions is None:
            sizes = [len(value) for value in request.columns[i] if value is not None]
            if not sizes:
                continue
            # An empty one is then refused, whatever the others are.
            column = replace(column, dimensions=next(filter(None, sizes), 1))  # noqa: PLW2901 - what it is after all
        taken.append(i)
        columns.append(column)
    return taken, tuple(columns)


@lru_cache(maxsize=1_024)
def _schema(columns: tuple[ColumnSchema, ...], *, id_is_tag: bool, json: JsonForm) -> bytes:
    """There is one time index, the event's timestamp; an extra column that calls itself one is a field."""
    known: list[tuple[ColumnSchema, int]] = []
    for place, column in enumerate(columns):
        semantic = column.semantic
        if place >= _BASE and semantic is SemanticType.TIMESTAMP:
            semantic = SemanticType.FIELD
        if place == 0 and id_is_tag:
            semantic = SemanticType.TAG
        known.append((column, int(semantic)))
    return schema_of_rows(known, json=json)
