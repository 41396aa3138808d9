"""Records to the rows of a table by its layout: a sequence of values for each column, and which records do not fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from eventrec.errors import RowWidthError
from eventrec.records.context import merged_context
from eventrec.records.entry import CONTEXT as CONTEXT_FIELD
from eventrec.records.entry import EXPLICIT_ID, EXTRA_ROWS, TIMESTAMP
from eventrec.records.entry import PAYLOAD as PAYLOAD_FIELD
from eventrec.records.extra_rows import decode_rows
from eventrec.records.layout_columns import EVENT, GENERATED, TYPE, LayoutColumn, from_field
from eventrec.records.layout_values import fit_field, fit_json, fit_text
from eventrec.records.rows import group_events_by_type
from eventrec.records.whole_event import WholeEvent, read_members

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import msgspec

    from eventrec.records.entry import Entry
    from eventrec.records.ids import Ids
    from eventrec.records.layout import Layout
    from eventrec.records.rows import Group
    from eventrec.records.schema import Shape


@dataclass(frozen=True, slots=True)
class LayoutRows:
    """Rows of one table, in the order of their records.

    Attributes:
        layout: How the table is made.
        columns: Those that are written: all but the generated one.
        values: For each of them the value of every row, as `eventrec.records.layout_values` documents it, or None.
        offsets: For each row the offset of its record.
        types: For each row the type of its event.
        explicit_ids: For each row the id that its record brought with it, 16 bytes, or None where it brought none.
        refused: Why records do not fit, by their offset. Their rows are there, and mean nothing.
    """

    layout: Layout
    columns: tuple[LayoutColumn, ...]
    values: list[Sequence[Any]]
    offsets: Sequence[int]
    types: Sequence[str]
    explicit_ids: Sequence[bytes | None]
    refused: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets)

    def only(self, kept: Sequence[bool]) -> LayoutRows:
        """Those rows for which `kept` is true."""
        return LayoutRows(
            self.layout,
            self.columns,
            [list(compress(values, kept)) for values in self.values],
            list(compress(self.offsets, kept)),
            list(compress(self.types, kept)),
            list(compress(self.explicit_ids, kept)),
            self.refused,
        )


def lay_out(
    layout: Layout, offsets: Sequence[int], entries: Sequence[Entry], ids: Ids, *, static_context: bytes | None
) -> LayoutRows:
    """The rows of `entries`, whose table has this layout: one for each extra row, a single one where there are none.

    Raises:
        RowWidthError: An extra row has more or fewer values than its event declares columns.
    """
    columns = tuple(column for column in layout.columns if column.source != GENERATED)
    parts = [
        _Part(layout, columns, group, ids, static_context).rows() for group in group_events_by_type(offsets, entries)
    ]
    if len(parts) == 1:
        return parts[0]
    rows = LayoutRows(
        layout,
        columns,
        [[value for part in parts for value in part.values[i]] for i in range(len(columns))],
        [offset for part in parts for offset in part.offsets],
        [kind for part in parts for kind in part.types],
        [id_ for part in parts for id_ in part.explicit_ids],
        {offset: why for part in parts for offset, why in part.refused.items()},
    )
    # A database that numbers the rows numbers them in the order of their records.
    order = sorted(range(len(rows)), key=rows.offsets.__getitem__)
    return LayoutRows(
        layout,
        columns,
        [[values[i] for i in order] for values in rows.values],
        [rows.offsets[i] for i in order],
        [rows.types[i] for i in order],
        [rows.explicit_ids[i] for i in order],
        rows.refused,
    )


class _Part:
    """The records of one shape, and the values of their rows."""

    def __init__(
        self,
        layout: Layout,
        columns: tuple[LayoutColumn, ...],
        group: Group,
        ids: Ids,
        static_context: bytes | None,
    ) -> None:
        self._layout = layout
        self._columns = columns
        self._shape: Shape = group.shape
        self._ids = ids
        self._entries = group.entries
        self._record_offsets = group.offsets
        self._static_context = static_context
        self._refused: dict[int, str] = {}
        self._at: list[int] = []
        """For each row, which record it belongs to."""
        self._extras: list[Sequence[Any]] = []
        """For each row, its values of the event's extra columns."""
        self._numbers: list[int] = []
        """For each row, its number among those of its record."""
        self._members: list[_Members] | None = None
        self._context_members: list[_Members] | None = None
        self._contexts: list[bytes | None] | None = None
        self._spread()

    def rows(self) -> LayoutRows:
        """All of it."""
        values = [self._filled(column, self._values(column)) for column in self._columns]
        self._refuse_lost()
        return LayoutRows(
            self._layout,
            self._columns,
            [*values],
            [self._record_offsets[at] for at in self._at],
            [self._shape.type] * len(self._at),
            [self._entries[at][EXPLICIT_ID] for at in self._at],
            self._refused,
        )

    def _spread(self) -> None:
        width = len(self._shape.columns)
        for at, entry in enumerate(self._entries):
            extras = entry[EXTRA_ROWS]
            for number, row in enumerate(_ONE_ROW if extras is None else decode_rows(extras)):
                if len(row) != width:
                    columns = [str(column) for column in self._shape.columns]
                    subject = f"record {self._record_offsets[at]} of type {self._shape.type!r}"
                    raise RowWidthError(subject, columns, len(row))
                self._at.append(at)
                self._numbers.append(number)
                self._extras.append(row)

    def _values(self, column: LayoutColumn) -> list[Any]:
        source = column.source
        if source.kind in {"payload", "context"}:
            return self._texts(column) if not source.path else self._picked(column)
        by_source: dict[str, Callable[[LayoutColumn], list[Any]]] = {
            "id": self._id_values,
            "type": self._types,
            "timestamp": lambda _: [self._entries[at][TIMESTAMP] for at in self._at],
            "event": self._events,
            "field": self._fields,
            "default": lambda column: [column.default] * len(self._at),
        }
        return by_source[source.kind](column)

    def _filled(self, column: LayoutColumn, values: list[Any]) -> list[Any]:
        """`values` with the column's default where there is none."""
        if (column.nullable and column.default is None) or column.source.kind == "timestamp" or None not in values:
            return values
        if column.default is not None:
            return [column.default if value is None else value for value in values]
        for row, value in enumerate(values):
            if value is None:
                self._refuse(row, column, "it has no value, and the column takes no NULL")
        return values

    # -- by source

    def _id_values(self, column: LayoutColumn) -> list[Any]:
        make = self._ids.as_bytes if column.word == "uuid" else self._ids.as_text
        return [
            make(self._record_offsets[at], number, self._entries[at][EXPLICIT_ID])
            for at, number in zip(self._at, self._numbers, strict=True)
        ]

    def _types(self, column: LayoutColumn) -> list[Any]:
        kind = self._shape.type
        try:
            fit_text(column)(kind)
        except ValueError as exc:
            for row in range(len(self._at)):
                self._refuse(row, column, f"of the type {kind!r:.40}: {exc}")
        return [kind] * len(self._at)

    def _texts(self, column: LayoutColumn) -> list[Any]:
        texts: Sequence[bytes | None] = (
            [entry[PAYLOAD_FIELD] for entry in self._entries]
            if column.source.kind == "payload"
            else self._merged_contexts()
        )
        values = [texts[at] for at in self._at]
        return [self._stored(row, column, text) for row, text in enumerate(values)] if column.word == "text" else values

    def _stored(self, row: int, column: LayoutColumn, text: bytes | None) -> str | None:
        """JSON as a text."""
        try:
            return None if text is None else text.decode()
        except UnicodeDecodeError as exc:
            self._refuse(row, column, f"it is not UTF-8 at byte {exc.start}")
            return None

    def _events(self, column: LayoutColumn) -> list[Any]:
        whole = WholeEvent(self._shape, keeps_own_type=self._layout.column_of(TYPE) is not None)
        made: list[Any] = []
        for row, at in enumerate(self._at):
            try:
                made.append(whole.encoded(self._entries[at][PAYLOAD_FIELD], self._extras[row]))
            except ValueError as exc:
                self._refuse(row, column, str(exc))
                made.append(None)
        if column.word == "text":
            return [self._stored(row, column, text) for row, text in enumerate(made)]
        return made

    def _fields(self, column: LayoutColumn) -> list[Any]:
        i = next((i for i, given in enumerate(self._shape.columns) if given.name == column.source.path[0]), None)
        if i is None:
            return [None] * len(self._at)
        given = self._shape.columns[i]
        values = [extras[i] for extras in self._extras]
        try:
            fit = fit_field(column, given)
        except ValueError as exc:
            for row, value in enumerate(values):
                if value is not None:
                    self._refuse(row, column, str(exc))
            return [None] * len(values)
        return values if fit is None else self._fitted(column, values, fit)

    def _picked(self, column: LayoutColumn) -> list[Any]:
        path = column.source.path
        members = self._payload_members() if column.source.kind == "payload" else self._members_of_contexts()
        by_record: list[msgspec.Raw | None] = []
        unread: dict[int, str] = {}
        for at, those in enumerate(members):
            try:
                by_record.append(None if those is None else _walk(those, path))
            except ValueError as exc:
                by_record.append(None)
                unread[at] = str(exc)
        for row, at in enumerate(self._at if unread else ()):
            if at in unread:
                self._refuse(row, column, unread[at])
        return self._fitted(column, [by_record[at] for at in self._at], fit_json(column))

    def _fitted(self, column: LayoutColumn, values: Sequence[Any], fit: Callable[[Any], Any]) -> list[Any]:
        fitted: list[Any] = []
        for row, value in enumerate(values):
            try:
                fitted.append(None if value is None else fit(value))
            except ValueError as exc:
                self._refuse(row, column, str(exc))
                fitted.append(None)
        return fitted

    # -- what several columns need

    def _payload_members(self) -> Sequence[_Members]:
        if self._members is None:
            self._members = [_members_or_error(entry[PAYLOAD_FIELD]) for entry in self._entries]
        return self._members

    def _members_of_contexts(self) -> Sequence[_Members]:
        if self._context_members is None:
            contexts = self._merged_contexts()
            self._context_members = [None if text is None else _members_or_error(text) for text in contexts]
        return self._context_members

    def _merged_contexts(self) -> Sequence[bytes | None]:
        if self._contexts is None:
            self._contexts = [merged_context(self._static_context, entry[CONTEXT_FIELD]) for entry in self._entries]
        return self._contexts

    # -- refusals

    def _refuse_lost(self) -> None:
        """Refuse the records with a value of an extra column that no column of the layout holds."""
        if self._layout.column_of(EVENT) is not None:
            return
        for i, given in enumerate(self._shape.columns):
            if self._layout.column_of(from_field(given.name)) is None:
                for row, extras in enumerate(self._extras):
                    if extras[i] is not None:
                        why = f"the layout of table {self._layout.table!r} has no column for {given.name!r}"
                        self._refused.setdefault(self._record_offsets[self._at[row]], why)

    def _refuse(self, row: int, column: LayoutColumn, why: str) -> None:
        self._refused.setdefault(
            self._record_offsets[self._at[row]],
            f"column {column.name!r} of table {self._layout.table!r} cannot take {column.source}: {why}",
        )


_ONE_ROW: Final[tuple[tuple[Any, ...], ...]] = ((),)


_Members: TypeAlias = "dict[str, msgspec.Raw] | ValueError | None"
"""The members of an object; None: it is not an object; an error: it cannot be read."""


def _members_or_error(text: bytes) -> _Members:
    try:
        return read_members(text)
    except ValueError as exc:
        return exc


def _walk(members: dict[str, msgspec.Raw] | ValueError, path: Sequence[str]) -> msgspec.Raw | None:
    """What stands at `path`; None: nothing does. Raises ValueError where it cannot be read."""
    if isinstance(members, ValueError):
        raise members
    found = members.get(path[0])
    for part in path[1:]:
        inner = None if found is None else read_members(found)
        found = None if inner is None else inner.get(part)
    return found
