"""Tables with a layout in PostgreSQL: the statements that make them and what changes in them.

Names stand without a schema: see `ddl.py`. A table with partitions begins with the one for what has no other, and
those of the next days, weeks or months; more are made by `time_partitions.py` as time goes by.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Final

from eventrec.analytics import Statement, Steps, layout_changes
from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.checkpoints import Namespace, literal
from eventrec_handlers.postgres.divided import default_partition, partitions_ahead
from eventrec_handlers.postgres.layouts import create_table, declared_as, default_of, definition, indexed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventrec import Layout, LayoutIndex


class Unqualified(Namespace):
    """The names of a migration: its search path begins with the schema."""

    __slots__ = ()

    def named(self, table: str) -> str:
        return quoted(table)


UNQUALIFIED: Final = Unqualified("", 63, 0)


def layout_steps(layout: Layout, before: Layout | None) -> Steps:
    """What makes the table of `layout`, or changes it from `before`. Nothing undoes that: it would delete events.

    Raises:
        MigrationError: The change cannot be made.
    """
    return Steps(tuple(_made(layout) if before is None else _changed(layout, before)))


def _made(layout: Layout) -> Iterator[Statement]:
    yield Statement(create_table(layout, quoted(layout.table)))
    if layout.partition is not None:
        # A table that is adopted may not be divided.
        is_divided = f"SELECT relkind = 'p' FROM pg_class WHERE oid = {literal(quoted(layout.table))}::regclass"  # noqa: S608 - quoted
        for made in (
            default_partition(UNQUALIFIED, layout.table),
            partitions_ahead(UNQUALIFIED, layout.table, layout.partition),
        ):
            yield Statement(in_block(f"IF ({is_divided}) THEN {made}; END IF;"))
    for index in layout.indexes:
        yield create_index(layout, index)


def in_block(body: str) -> str:
    """`body` as a block of PL/pgSQL, between marks that it does not hold."""
    mark = next(mark for number in count() if (mark := f"$do{number or ''}$") not in body)
    return f"DO {mark}BEGIN {body} END{mark}"


def _changed(layout: Layout, before: Layout) -> Iterator[Statement]:
    changes = layout_changes(before, layout)
    table = f"ALTER TABLE {quoted(layout.table)}"
    for column in changes.added:
        yield Statement(f"{table} ADD COLUMN IF NOT EXISTS {definition(column)}")
    for name in changes.relaxed:
        yield Statement(f"{table} ALTER COLUMN {quoted(name)} DROP NOT NULL")
    for column in changes.widened:
        yield Statement(f"{table} ALTER COLUMN {quoted(column.name)} TYPE {declared_as(column)}")
    for column in changes.defaults:
        default = "DROP DEFAULT" if column.default is None else f"SET DEFAULT {default_of(column)}"
        yield Statement(f"{table} ALTER COLUMN {quoted(column.name)} {default}")
    for index in changes.indexes:
        yield create_index(layout, index)


def create_index(layout: Layout, index: LayoutIndex) -> Statement:
    """The statement that makes `index`: without holding up writers, where the table has no partitions."""
    has_partitions = layout.partition is not None
    return Statement(
        f"CREATE INDEX {'' if has_partitions else 'CONCURRENTLY '}IF NOT EXISTS {quoted(index.name)}"
        f" {indexed(index, quoted(layout.table))}",
        in_transaction=has_partitions,
    )
