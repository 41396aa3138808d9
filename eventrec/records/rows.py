"""Records to row-insert requests: grouped by type, one request per table and shape, base columns then extra ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from eventrec.errors import RowWidthError, SchemaMismatchError
from eventrec.records.context import merged_context
from eventrec.records.entry import SHAPE, Entry
from eventrec.records.extra_rows import decode_columns, decode_each_rows, encode_kept_rows
from eventrec.records.schema import BASE_COLUMNS, CONTEXT_COLUMN, ColumnSchema, Shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.records.extra_rows import EachRows
    from eventrec.records.ids import Ids

IdForm: TypeAlias = Literal["text", "bytes"]


@dataclass(frozen=True)
class RowInsertRequest:
    """Rows for one table.

    `schema` are the columns of every row: id, type, timestamp, payload, context where any record has one, then the
    extra columns. `columns[i]` are the values of `schema[i]`, one for each row, in the form that
    `eventrec.records.schema` documents; `id` is text or 16 bytes, as asked for.
    `offsets[i]` is the offset of the record that row `i` belongs to, `explicit_ids[i]` the id that it brought with it,
    16 bytes, or None; where no record brought one, it is empty.
    """

    table: str
    type: str
    schema: tuple[ColumnSchema, ...]
    columns: tuple[Sequence[Any], ...]
    offsets: Sequence[int]
    explicit_ids: Sequence[bytes | None] = ()

    @cached_property
    def rows(self) -> list[tuple[Any, ...]]:
        """The same row by row, each with a value for each of `schema`."""
        return list(zip(*self.columns, strict=True))


@dataclass(frozen=True, slots=True)
class Group:
    """The records of one shape, in the order of their offsets."""

    shape: Shape
    offsets: Sequence[int]
    entries: Sequence[Entry]


def group_events_by_type(offsets: Sequence[int], entries: Sequence[Entry]) -> list[Group]:
    """Split the records by table, type and extra columns; groups in the order of their first record."""
    if not entries:
        return []
    first = entries[0][SHAPE]
    if all(entry[SHAPE] is first for entry in entries):
        return [Group(first, offsets, entries)]
    parts: dict[Shape, tuple[list[int], list[Entry]]] = {}
    known: dict[int, tuple[list[int], list[Entry]]] = {}
    for offset, entry in zip(offsets, entries, strict=True):
        # Equal shapes are one object almost always; hashing all columns per record would cost more than the rest.
        part = known.get(id(entry[SHAPE]))
        if part is None:
            part = known[id(entry[SHAPE])] = parts.setdefault(entry[SHAPE], ([], []))
        part[0].append(offset)
        part[1].append(entry)
    return [Group(shape, *part) for shape, part in parts.items()]


def build_row_inserts_request(
    group: Group, ids: Ids, *, static_context: bytes | None = None, id_form: IdForm = "text"
) -> RowInsertRequest:
    """The request for the records of one shape: one row per extra row, a single one where there are none.

    Raises:
        SchemaMismatchError: A record's columns are not those of the group.
        RowWidthError: A row has more or fewer values than the columns.
    """
    shape, offsets, entries = group.shape, group.offsets, group.entries
    kind = shape.type
    # Column by column: a look at each field of each entry would cost as much as the rows.
    shapes, timestamps, payloads, contexts, extra_rows, explicits, _ = zip(*entries, strict=True)
    has_context = static_context is not None or contexts.count(None) != len(entries)
    schema = (*BASE_COLUMNS, *((CONTEXT_COLUMN,) if has_context else ()), *shape.columns)
    if shapes.count(shape) != len(entries):
        offset, own = next((offset, own) for offset, own in zip(offsets, shapes, strict=True) if own != shape)
        raise SchemaMismatchError(f"record {offset} of type {own.type!r}", _named(shape), _named(own))
    firsts = ids.first_texts(offsets, entries) if id_form == "text" else ids.first_bytes(offsets, entries)
    base: tuple[Sequence[Any], ...] = (firsts, (kind,) * len(entries), timestamps, payloads)
    if has_context:
        base = (*base, [merged_context(static_context, of_call) for of_call in contexts])
    row_ids = explicits if explicits.count(None) != len(entries) else ()
    if not shape.columns and extra_rows.count(None) == len(entries):
        return RowInsertRequest(shape.table, kind, schema, base, offsets, row_ids)
    width = len(shape.columns)
    encoded = [_NO_VALUES if extras is None else extras for extras in extra_rows]
    if (columns := decode_columns(encoded, width)) is not None:  # almost always
        return RowInsertRequest(shape.table, kind, schema, (*base, *columns), offsets, row_ids)
    rows = decode_each_rows(encoded)
    values = list(chain.from_iterable(rows))
    if values and set(map(len, values)) != {width}:
        wrong = ((at, len(row)) for at, own in zip(offsets, rows, strict=True) for row in own if len(row) != width)
        offset, found = next(wrong)
        raise RowWidthError(f"record {offset} of type {kind!r}", _named(shape), found)
    if set(map(len, rows)) == {1}:
        return RowInsertRequest(shape.table, kind, schema, (*base, *zip(*values, strict=True)), offsets, row_ids)
    return _several_rows(RowInsertRequest(shape.table, kind, schema, base, offsets, explicits), rows, ids, id_form)


def _several_rows(firsts: RowInsertRequest, rows: EachRows, ids: Ids, id_form: IdForm) -> RowInsertRequest:
    """The request for records of which some have several rows, or none; `firsts` has a row for each of them."""
    make_id = ids.as_text if id_form == "text" else ids.as_bytes
    made: list[tuple[Any, ...]] = []
    offsets: list[int] = []
    explicits: list[bytes | None] = []
    for offset, (id_, *base), explicit, own_rows in zip(
        firsts.offsets, firsts.rows, firsts.explicit_ids, rows, strict=True
    ):
        for number, values in enumerate(own_rows):
            made.append((make_id(offset, number, explicit) if number else id_, *base, *values))
            offsets.append(offset)
            explicits.append(explicit)
    return replace(
        firsts,
        columns=tuple(zip(*made, strict=True)) if made else ((),) * len(firsts.schema),
        offsets=offsets,
        explicit_ids=explicits if explicits.count(None) != len(made) else (),
    )


_NO_VALUES: Final = encode_kept_rows([()])
"""One row without extra columns, as msgpack."""


def _named(shape: Shape) -> list[str]:
    return [str(column) for column in shape.columns]
