"""How a record becomes a row of a table that is made in another way than ours: declared once for the table.

    ANALYTICS = Layout(
        "analytics_events",
        [
            LayoutColumn("id", GENERATED, "bigint"),
            LayoutColumn("timestamp", TIMESTAMP, "timestamptz"),
            LayoutColumn("event_type", TYPE, "varchar", length=100),
            LayoutColumn("service", from_payload("service"), "varchar", length=100, nullable=False, default="unknown"),
            LayoutColumn("data", EVENT, "jsonb"),
        ],
        primary_key=("timestamp", "id"),
    )

Without one, a table is as `default_layout` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from eventrec.durations import duration_seconds
from eventrec.errors import LayoutError
from eventrec.records.layout_columns import (
    CONTEXT,
    EVENT,
    ID,
    PAYLOAD,
    TIMESTAMP,
    TYPE,
    LayoutColumn,
    LayoutSource,
    from_field,
)
from eventrec.records.layout_json import arguments_of, text_of
from eventrec.records.layout_parts import LayoutCompression, LayoutIndex, PartitionUnit, named, names, span
from eventrec.records.schema import MAX_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventrec.durations import Duration
    from eventrec.records.schema import ColumnSchema

_RESERVED: Final = ("eventrec_", "sqlite_")
_ONCE: Final = ("id", "type", "timestamp", "payload", "context", "event", "generated")


class Location(NamedTuple):
    """Where a value stands in a table: a column, and the path inside its JSON; an empty path is all of it."""

    column: LayoutColumn
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """How the records of one table become its rows, and how the table is made where there is none. Immutable.

    `columns` are exactly those that are written and read; one of the source `GENERATED` is filled by the database.
    `partition` divides the table by its timestamp; rows older than `retention` may go. Durations are kept in seconds.

    A column for each source is not needed. What no column holds is not stored; but a value of an event's extra column
    that would be lost so is refused with its record.

    Raises:
        LayoutError: It names what is wrong: a name that is used twice, a column that does not exist, a source that two
            columns have, a key or partition that cannot be.
    """

    table: str
    columns: Sequence[LayoutColumn]
    primary_key: Sequence[str] = ()
    indexes: Sequence[LayoutIndex] = ()
    partition: PartitionUnit | None = None
    retention: Duration | None = None
    compression: LayoutCompression | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", named("the table of a layout", self.table))
        if self.table.lower().startswith(_RESERVED):
            raise self._refused(f"names that start with {' or '.join(_RESERVED)} are reserved")
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "indexes", tuple(self.indexes))
        object.__setattr__(self, "primary_key", names(f"the primary key of {self.table!r}", self.primary_key))
        if self.retention is not None:
            object.__setattr__(self, "retention", span(f"the retention of {self.table!r}", self.retention))
        self._check_columns()
        self._check_key()
        self._check_time()
        self._check_event()
        self._check_references()

    def __repr__(self) -> str:
        return f"<Layout {self.table!r}: {', '.join(map(str, self.columns))}>"

    def __str__(self) -> str:
        return self.table

    def column(self, name: str) -> LayoutColumn:
        """The column `name`; LayoutError where there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise self._refused(f"it has no column {name!r}")

    def column_of(self, source: LayoutSource) -> LayoutColumn | None:
        """The first column of this very source."""
        return next((column for column in self.columns if column.source == source), None)

    @property
    def retention_seconds(self) -> float | None:
        """`retention`, in seconds."""
        return None if self.retention is None else duration_seconds(self.retention)

    def locate(self, source: LayoutSource) -> Location | None:
        """Where the value of `source` is found in a row; None: it is not stored.

        A column of its own is preferred to JSON, unless it has a default: there what stands in it may not be the
        record's. Such a column is given where nothing else holds the value.
        """
        own = self.column_of(source)
        if own is not None and (own.default is None or own.source.kind == "default" or own.source == TIMESTAMP):
            return Location(own)
        held = self._in_json(source)
        if held is not None:
            return held
        return None if own is None else Location(own)

    def _in_json(self, source: LayoutSource) -> Location | None:
        event = self.column_of(EVENT)
        match source.kind:
            case "payload" if source.path:
                whole = self.column_of(PAYLOAD)
                if whole is not None:
                    return Location(whole, source.path)
                is_hidden = source.path[0] == "type"
                return None if event is None or is_hidden else Location(event, source.path)
            case "context" if source.path:
                whole = self.column_of(CONTEXT)
                return None if whole is None else Location(whole, source.path)
            case "field":
                return None if event is None else Location(event, source.path)
            case "type":
                return None if event is None else Location(event, ("type",))
            case _:
                return None

    def check_type(self, kind: str) -> None:
        """Raise LayoutError if events of type `kind` cannot be stored: the column of the type is too short."""
        column = self.column_of(TYPE)
        if column is not None and column.length is not None and len(kind) > column.length:
            raise self._refused(
                f"its column {column.name!r} holds {column.length} characters, and the type {kind!r:.120} has"
                f" {len(kind)}"
            )

    def to_json(self) -> str:
        """It as JSON text: the same text for equal layouts."""
        return text_of(
            table=self.table,
            columns=self.columns,
            primary_key=self.primary_key,
            indexes=self.indexes,
            partition=self.partition,
            retention=self.retention_seconds,
            compression=self.compression,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Layout:
        """What `to_json` gave; LayoutError where it is not that."""
        return cls(**arguments_of(text))

    # -- checks

    def _check_columns(self) -> None:
        given: Sequence[Any] = self.columns
        if any(not isinstance(column, LayoutColumn) for column in given):
            raise self._refused("its columns are LayoutColumns")
        if not 1 <= len(self.columns) <= MAX_COLUMNS:
            raise self._refused(f"it has 1 to {MAX_COLUMNS} columns, got {len(self.columns)}")
        seen: dict[str, str] = {}
        for column in self.columns:
            folded = column.name.encode().lower().decode()
            if folded in seen:
                other = "twice" if seen[folded] == column.name else f"as {seen[folded]!r} too: only the case differs"
                raise self._refused(f"column {column.name!r} is declared {other}")
            seen[folded] = column.name
        for kind in _ONCE:
            same = [column.name for column in self.columns if column.source == LayoutSource(kind)]
            if len(same) > 1:
                raise self._refused(f"columns {', '.join(map(repr, same))} have one source, {kind.upper()}")
        if all(column.source.kind in {"generated", "default"} for column in self.columns):
            raise self._refused("no column holds anything of a record")

    def _check_key(self) -> None:
        for name in self.primary_key:
            if self.column(name).nullable:
                raise self._refused(f"column {name!r} is part of the primary key: declare it nullable=False")

    def _check_time(self) -> None:
        time = self.column_of(TIMESTAMP)
        for what, wanted in (("partition", self.partition), ("retention", self.retention)):
            if wanted is not None and time is None:
                raise self._refused(f"a {what} needs a column of the source TIMESTAMP")
        if self.partition is None or time is None:
            return
        if self.partition not in {"day", "week", "month"}:
            raise self._refused(f"a partition is a day, week or month, got {self.partition!r}")
        if self.primary_key and time.name not in self.primary_key:
            raise self._refused(f"divided by {time.name!r}, its primary key must include that column")

    def _check_event(self) -> None:
        event = self.column_of(EVENT)
        if event is not None and event.word == "text" and self.column_of(TYPE) is None:
            raise self._refused(f"column {event.name!r} is a text: the type needs a column of its own, or it be jsonb")

    def _check_references(self) -> None:
        called = [index.name for index in self.indexes]
        if len(set(called)) != len(called):
            raise self._refused("two of its indexes have one name")
        for index in self.indexes:
            self._check_names(*index.columns, *index.where_not_null)
        if self.compression is not None:
            self._check_names(*self.compression.segment_by, *self.compression.order_by)

    def _check_names(self, *columns: str) -> None:
        for name in columns:
            self.column(name)

    def _refused(self, why: str) -> LayoutError:
        return LayoutError(f"the layout of table {self.table!r}: {why}")


def default_layout(table: str, columns: Iterable[ColumnSchema] = ()) -> Layout:
    """How a table is made without a layout: id, type, timestamp, payload, context, then an event's extra columns.

    Raises:
        LayoutError: The table or a column has a name that cannot be.
    """
    return Layout(
        table,
        (
            LayoutColumn("id", ID, "uuid"),
            LayoutColumn("type", TYPE, "text"),
            LayoutColumn("timestamp", TIMESTAMP, "timestamptz"),
            LayoutColumn("payload", PAYLOAD, "jsonb"),
            LayoutColumn("context", CONTEXT, "jsonb"),
            *(LayoutColumn(column.name, from_field(column.name), column.type) for column in columns),
        ),
    )


def layouts_by_table(layouts: Iterable[Layout]) -> dict[str, Layout]:
    """`layouts` by their tables.

    Raises:
        LayoutError: One table has two that differ.
    """
    known: dict[str, Layout] = {}
    for layout in layouts:
        given: object = layout
        if not isinstance(given, Layout):
            raise LayoutError(f"layouts are Layouts, got {given!r:.60}")
        if known.setdefault(layout.table, layout) != layout:
            raise LayoutError(f"two layouts for table {layout.table!r}")
    return known
