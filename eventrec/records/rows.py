"""Records to row-insert requests: grouped by type, one request per table and shape, base columns then extra ones."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from eventrec.errors import RowWidthError, SchemaMismatchError
from eventrec.records.context import merged_context
from eventrec.records.entry import SHAPE, Entry
from eventrec.records.extra_rows import decode_rows
from eventrec.records.schema import BASE_COLUMNS, CONTEXT_COLUMN, ColumnSchema, Shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.records.ids import Ids

IdForm: TypeAlias = Literal["text", "bytes"]


@dataclass(frozen=True, slots=True)
class RowInsertRequest:
    """Rows for one table.

    `schema` are the columns of every row: id, type, timestamp, payload, context where any record has one, then the
    extra columns. Values are in the form that `eventrec.records.schema` documents; `id` is text or 16 bytes, as
    asked for.
    `offsets[i]` is the offset of the record that `rows[i]` belongs to, `explicit_ids[i]` the id that it brought with
    it, 16 bytes, or None; where no record brought one, it is empty.
    """

    table: str
    type: str
    schema: tuple[ColumnSchema, ...]
    rows: list[tuple[Any, ...]]
    offsets: Sequence[int]
    explicit_ids: Sequence[bytes | None] = ()


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
    if not (has_context or shape.columns or extra_rows.count(None) != len(entries)):
        # What most records are: nothing but base columns, one row each.
        plain = list(zip(firsts, repeat(kind, len(entries)), timestamps, payloads, strict=True))
        return RowInsertRequest(
            shape.table, kind, schema, plain, list(offsets), explicits if explicits.count(None) != len(entries) else ()
        )
    make_id = ids.as_text if id_form == "text" else ids.as_bytes
    width = len(shape.columns)
    rows: list[tuple[Any, ...]] = []
    row_offsets: list[int] = []
    row_ids: list[bytes | None] = []
    for offset, id_, (_, timestamp, payload, of_call, extras, explicit, _) in zip(
        offsets, firsts, entries, strict=True
    ):
        base: tuple[Any, ...] = (kind, timestamp, payload)
        if has_context:
            base = (*base, merged_context(static_context, of_call))
        many = decode_rows(extras) if extras is not None else _ONE_ROW
        for number, values in enumerate(many):
            if len(values) != width:
                raise RowWidthError(f"record {offset} of type {kind!r}", _named(shape), len(values))
            rows.append((id_ if not number else make_id(offset, number, explicit), *base, *values))
            row_offsets.append(offset)
            row_ids.append(explicit)
    return RowInsertRequest(
        shape.table, kind, schema, rows, row_offsets, row_ids if row_ids.count(None) != len(rows) else ()
    )


_ONE_ROW: Final[tuple[tuple[Any, ...], ...]] = ((),)


def _named(shape: Shape) -> list[str]:
    return [str(column) for column in shape.columns]
