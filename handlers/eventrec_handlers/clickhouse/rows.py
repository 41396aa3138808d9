"""A batch as the rows of its tables, a column at a time, and these in chunks: equal batches give equal chunks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, pairwise, repeat
from typing import TYPE_CHECKING, Any, Final

from eventrec import Layout, LayoutColumn, LayoutError, default_layout, from_field

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from eventrec import Batch, ColumnSchema, LayoutRows, RowInsertRequest
    from eventrec_handlers._sql import Refusals

BASE: Final = ("id", "type", "timestamp", "payload", "context")
REQUIRED: Final = BASE[:4]
VIRTUAL: Final = frozenset(
    {
        *("_part", "_part_index", "_part_uuid", "_part_offset", "_part_starting_offset", "_part_granule_offset"),
        *("_part_data_version", "_partition_id", "_partition_value", "_sample_factor", "_row_exists", "_distance"),
        *("_block_number", "_block_offset", "_table", "_database", "_disk_name"),
    }
)
"""Columns that each table of the MergeTree family has by itself; some names it refuses, others hide them."""


@dataclass(frozen=True, slots=True)
class Column:
    """The values of one column, as a record keeps them, or None; `schema` is what the event declares of it."""

    layout: LayoutColumn
    values: Sequence[Any]
    schema: ColumnSchema | None = None

    @property
    def name(self) -> str:
        """Its name. Two columns of one name are those of events that declare it in two ways."""
        return self.layout.name

    @property
    def is_empty(self) -> bool:
        """Whether no row has a value."""
        return self.values.count(None) == len(self.values)


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a batch for one table.

    Attributes:
        layout: How the table is made, where there is none.
        is_laid_out: Whether that is the application's; else it is how tables of events are made.
        columns: Their values.
        offsets: For each row the offset of its record; those of one record stand together.
        explicit_ids: For each row the id that its record brought with it, or None; empty where none did.
    """

    layout: Layout
    is_laid_out: bool
    columns: tuple[Column, ...]
    offsets: Sequence[int]
    explicit_ids: Sequence[bytes | None]

    @property
    def table(self) -> str:
        """Its name."""
        return self.layout.table

    @property
    def schemas(self) -> Mapping[str, ColumnSchema]:
        """What events declare of columns, by name."""
        return {column.name: column.schema for column in reversed(self.columns) if column.schema is not None}

    def sizes(self, *, beyond: int) -> Sequence[int] | None:
        """About how many bytes each row has, those of its texts; None: all together they are not `beyond`."""
        texts = [
            column.values
            for column in self.columns
            if not column.is_empty and isinstance(next(value for value in column.values if value is not None), _TEXT)
        ]
        if sum(sum(map(len, filter(None, values))) for values in texts) <= beyond:
            return None
        return [sum(map(len, filter(None, row))) for row in zip(*texts, strict=True)]


_TEXT: Final = (bytes, str)


def parts_of(batch: Batch, layouts: Mapping[str, Layout], refusals: Refusals) -> list[Part]:
    """The rows of `batch`; tables in `layouts` by these. What does not fit there is noted in `refusals`."""
    requests: dict[str, list[RowInsertRequest]] = {}
    for request in batch.row_inserts(id_form="bytes", excluding=layouts):
        if request.offsets:
            requests.setdefault(request.table, []).append(request)
    parts = []
    for table, found in requests.items():
        try:
            parts.append(_of_events(table, found))
        except LayoutError as exc:  # its name
            for offset in chain.from_iterable(request.offsets for request in found):
                refusals.add(offset, str(exc))
    for rows in batch.layout_rows(layouts) if layouts else ():
        for offset, why in rows.refused.items():
            refusals.add(offset, why)
        parts.append(_of_layout(rows))
    return parts


def _of_events(table: str, requests: Sequence[RowInsertRequest]) -> Part:
    """The rows of events without a layout: those of all their types are one."""
    schemas: dict[tuple[object, ...], ColumnSchema] = {}
    for request in requests:
        for column in request.schema:
            schemas.setdefault(_key(column), column)
    layout = default_layout(table, told_apart(schemas.values()))
    by_name = {column.name: column for column in layout.columns}
    columns = []
    if len({request.schema for request in requests}) == 1:  # almost always
        whole = zip(*(request.columns for request in requests), strict=True)
        by_key = {key: tuple(chain.from_iterable(parts)) for key, parts in zip(schemas, whole, strict=True)}
    else:
        by_key = {key: tuple(_values(requests, key)) for key in schemas}
    for key, schema in schemas.items():
        values = by_key[key]
        if schema.name in BASE:
            columns.append(Column(by_name[schema.name], values))
        else:
            own = by_name.get(schema.name)
            if own is None or own.type != schema.type:
                own = LayoutColumn(schema.name, from_field(schema.name), schema.type)
            columns.append(Column(own, values, schema))
    brought = any(request.explicit_ids for request in requests)
    return Part(
        layout,
        False,  # noqa: FBT003 - of the field's name
        tuple(columns),
        list(chain.from_iterable(request.offsets for request in requests)),
        list(chain.from_iterable(request.explicit_ids or repeat(None, len(request.offsets)) for request in requests))
        if brought
        else (),
    )


def told_apart(columns: Iterable[ColumnSchema]) -> list[ColumnSchema]:
    """Those that a layout can have: the first of each name, also of names that differ in case alone."""
    found: dict[str, ColumnSchema] = {}
    for column in columns:
        found.setdefault(column.name.lower(), column)
    return [column for name, column in found.items() if name not in BASE and name not in VIRTUAL]


def _key(column: ColumnSchema) -> tuple[object, ...]:
    return column.name, column.type, column.precision, column.scale


def _values(requests: Sequence[RowInsertRequest], key: tuple[object, ...]) -> Sequence[Any]:
    found: list[Any] = []
    for request in requests:
        at = next((i for i, column in enumerate(request.schema) if _key(column) == key), None)
        found.extend(repeat(None, len(request.offsets)) if at is None else request.columns[at])
    return found


def _of_layout(rows: LayoutRows) -> Part:
    return Part(
        rows.layout,
        True,  # noqa: FBT003 - of the field's name
        tuple(Column(column, values) for column, values in zip(rows.columns, rows.values, strict=True)),
        rows.offsets,
        rows.explicit_ids if any(rows.explicit_ids) else (),
    )


@dataclass(frozen=True, slots=True)
class Chunk:
    """The rows [`start`, `end`) of a part: inserted as one block, or divided where one of them is at fault."""

    part: Part
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def __repr__(self) -> str:
        return f"<Chunk {self.key}>"

    @property
    def key(self) -> str:
        """What tells it apart in its batch, also where chunks are cut in another way next time."""
        return f"{self.part.table}:{self.start}-{self.end}"

    @property
    def offsets(self) -> Sequence[int]:
        """For each row the offset of its record."""
        return self.part.offsets[self.start : self.end]

    @property
    def is_one_record(self) -> bool:
        """Whether it cannot be divided: a record is stored whole."""
        return self.part.offsets[self.start] == self.part.offsets[self.end - 1]

    def record_at(self, row: int) -> Chunk:
        """The rows of the record that has `row`, counted from 0 on."""
        offsets, at = self.part.offsets, self.start + row
        low = high = at
        while low > self.start and offsets[low - 1] == offsets[at]:
            low -= 1
        while high < self.end and offsets[high] == offsets[at]:
            high += 1
        return Chunk(self.part, low, high)

    def divided(self, row: int | None) -> list[Chunk]:
        """Its halves; where `row` is known, from 0 on: what is before its record, that, and the halves of the rest."""
        if row is None:
            return self._between(self.start, self.end)
        named = self.record_at(row)
        before = [Chunk(self.part, self.start, named.start)] if self.start < named.start else []
        return [*before, named, *self._between(named.end, self.end)]

    def _between(self, start: int, end: int) -> list[Chunk]:
        """The halves of [`start`, `end`), parted at a record."""
        if start == end:
            return []
        whole = Chunk(self.part, start, end)
        middle = whole.record_at((end - start) // 2)
        mark = middle.start if middle.start > start else middle.end
        return [Chunk(self.part, one, two) for one, two in pairwise((start, mark, end)) if one < two]


def chunks_of(part: Part, *, rows: int, size: int) -> Iterator[Chunk]:
    """`part` in chunks of at most so many `rows`, and about `size` bytes; more only where one record has more."""
    sizes, offsets = part.sizes(beyond=size), part.offsets
    if sizes is None:
        start = 0
        while start < len(offsets):
            end = _at_record(offsets, start, min(start + rows, len(offsets)))
            yield Chunk(part, start, end)
            start = end
        return
    start, held = 0, 0
    for row, offset in enumerate(offsets):
        is_full = row - start >= rows or (held + sizes[row] > size and row > start)
        if is_full and offset != offsets[row - 1]:
            yield Chunk(part, start, row)
            start, held = row, 0
        held += sizes[row]
    if start < len(offsets):
        yield Chunk(part, start, len(offsets))


def _at_record(offsets: Sequence[int], start: int, end: int) -> int:
    """Where a record begins, at `end` or before; behind it where `start` is the same record's."""
    at = end
    while start < at < len(offsets) and offsets[at] == offsets[at - 1]:
        at -= 1
    if at > start:
        return at
    while end < len(offsets) and offsets[end] == offsets[end - 1]:
        end += 1
    return end
