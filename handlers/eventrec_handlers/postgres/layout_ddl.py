"""Tables with a layout in PostgreSQL: the statements that make them and what changes in them.

    column of a layout     declared
    uuid, text, varchar    uuid, text, character varying(length)
    boolean                boolean
    smallint … bigint      smallint, integer, bigint
    real, double           real, double precision
    timestamptz            timestamp with time zone
    json, jsonb            json, jsonb
    a ColumnType           as `columns.py` says
    GENERATED              smallserial, serial, bigserial

Names stand without a schema: see `ddl.py`. A table with partitions begins with the one for what has no other; those of
days, weeks and months are made by `time_partitions.py` as time goes by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec import GENERATED, TIMESTAMP, ColumnType
from eventrec.analytics import Statement, Steps, layout_changes
from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.checkpoints import Namespace, literal
from eventrec_handlers.postgres.columns import STORED
from eventrec_handlers.postgres.time_partitions import default_partition

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from eventrec import Layout, LayoutColumn, LayoutIndex, LayoutType

_WORDS: Final[Mapping[LayoutType, str]] = {
    "double": "double precision",
    "timestamptz": "timestamp with time zone",
    "varchar": "character varying",
}
_SERIAL: Final = {"smallint": "smallserial", "integer": "serial", "bigint": "bigserial"}


class Unqualified(Namespace):
    """The names of a migration: its search path begins with the schema."""

    __slots__ = ()

    def named(self, table: str) -> str:
        return quoted(table)


UNQUALIFIED: Final = Unqualified("", 63, 0)


def declared_as(column: LayoutColumn) -> str:
    """The type of `column`, spelled as `format_type` spells it."""
    if isinstance(column.type, ColumnType):
        return STORED[column.type][0]
    declared = _WORDS.get(column.type, column.type)
    return declared if column.length is None else f"{declared}({column.length})"


def spelled(column: LayoutColumn) -> str:
    """How the type of `column` is read back: without a length, which widens, and without how it is filled."""
    return "text" if column.type == "varchar" else declared_as(column)


def layout_steps(layout: Layout, before: Layout | None) -> Steps:
    """What makes the table of `layout`, or changes it from `before`. Nothing undoes that: it would delete events.

    Raises:
        MigrationError: The change cannot be made.
    """
    return Steps(tuple(_made(layout) if before is None else _changed(layout, before)))


def _made(layout: Layout) -> Iterator[Statement]:
    yield Statement(create_table(layout))
    if layout.partition is not None:
        yield Statement(default_partition(UNQUALIFIED, layout.table))
    for index in layout.indexes:
        yield create_index(layout, index)


def _changed(layout: Layout, before: Layout) -> Iterator[Statement]:
    changes = layout_changes(before, layout)
    table = f"ALTER TABLE {quoted(layout.table)}"
    for column in changes.added:
        yield Statement(f"{table} ADD COLUMN IF NOT EXISTS {_definition(column)}")
    for name in changes.relaxed:
        yield Statement(f"{table} ALTER COLUMN {quoted(name)} DROP NOT NULL")
    for column in changes.widened:
        yield Statement(f"{table} ALTER COLUMN {quoted(column.name)} TYPE {declared_as(column)}")
    for column in changes.defaults:
        default = "DROP DEFAULT" if column.default is None else f"SET DEFAULT {_default(column)}"
        yield Statement(f"{table} ALTER COLUMN {quoted(column.name)} {default}")
    for index in changes.indexes:
        yield create_index(layout, index)


def create_table(layout: Layout) -> str:
    """The statement that makes the table, where there is none."""
    parts = [_definition(column) for column in layout.columns]
    if layout.primary_key:
        parts.append(f"PRIMARY KEY ({', '.join(map(quoted, layout.primary_key))})")
    time = layout.column_of(TIMESTAMP)
    by = "" if layout.partition is None or time is None else f" PARTITION BY RANGE ({quoted(time.name)})"
    return f"CREATE TABLE IF NOT EXISTS {quoted(layout.table)} ({', '.join(parts)}){by}"


def create_index(layout: Layout, index: LayoutIndex) -> Statement:
    """The statement that makes `index`: without holding up writers, where the table has no partitions."""
    columns = ", ".join(f"{quoted(name)}{' DESC' * (name in index.descending)}" for name in index.columns)
    where = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in index.where_not_null)
    using = " USING gin" if index.kind == "json" else ""
    has_partitions = layout.partition is not None
    return Statement(
        f"CREATE INDEX {'' if has_partitions else 'CONCURRENTLY '}IF NOT EXISTS {quoted(index.name)}"
        f" ON {quoted(layout.table)}{using} ({columns}){where and f' WHERE {where}'}",
        in_transaction=has_partitions,
    )


def _definition(column: LayoutColumn) -> str:
    name = quoted(column.name)
    if column.source == GENERATED:
        return f"{name} {_SERIAL[column.word or 'bigint']}"
    default = "" if column.default is None else f" DEFAULT {_default(column)}"
    return f"{name} {declared_as(column)}{' NOT NULL' * (not column.nullable)}{default}"


def _default(column: LayoutColumn) -> str:
    value = column.default
    if column.source == TIMESTAMP:
        return "now()"
    if isinstance(value, bool):
        return str(value).lower()
    return literal(value) if isinstance(value, str) else repr(value)
