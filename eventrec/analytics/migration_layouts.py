"""What changes in a table whose layout has changed: decided without a database. Nothing is dropped or retyped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventrec.errors import MigrationError

if TYPE_CHECKING:
    from eventrec.records.layout import Layout
    from eventrec.records.layout_columns import LayoutColumn
    from eventrec.records.layout_parts import LayoutIndex


@dataclass(frozen=True, slots=True)
class LayoutChanges:
    """What a table needs.

    Attributes:
        added: New columns.
        relaxed: Columns that have a value in every row so far, and need none any more.
        widened: Columns of text that hold more than before.
        defaults: Columns with another default, or none any more.
        indexes: New indexes.
    """

    added: tuple[LayoutColumn, ...] = ()
    relaxed: tuple[str, ...] = ()
    widened: tuple[LayoutColumn, ...] = ()
    defaults: tuple[LayoutColumn, ...] = ()
    indexes: tuple[LayoutIndex, ...] = ()


def layout_changes(before: Layout, after: Layout) -> LayoutChanges:
    """What makes a table of the layout `before` one of `after`. A column that is not declared any more stays.

    Raises:
        MigrationError: That cannot be done while rows are there: what an operator has to do instead.
    """
    if before.primary_key != after.primary_key or before.partition != after.partition:
        what = "primary key" if before.primary_key != after.primary_key else "partition"
        raise _refused(after, f"its {what} has changed: declare another table, and move the rows there")
    known = {column.name: column for column in before.columns}
    kept = [(known[column.name], column) for column in after.columns if column.name in known]
    added = [column for column in after.columns if column.name not in known]
    declared = {column.name for column in after.columns}
    for column in added:
        if not column.nullable and column.default is None:
            raise _refused(after, f"the new column {column.name!r} needs a default, or to be nullable, for old rows")
    for old, new in kept:
        _check_kept(after, old, new)
    indexes = {index.name: index for index in before.indexes}
    for index in after.indexes:
        if indexes.get(index.name, index) != index:
            raise _refused(after, f"the index {index.name!r} is declared otherwise: give it another name")
    relaxed = [old.name for old, new in kept if new.nullable and not old.nullable]
    # Who writes does not name it any more.
    relaxed += [
        old.name for old in before.columns if old.name not in declared and not old.nullable and old.default is None
    ]
    return LayoutChanges(
        added=tuple(added),
        relaxed=tuple(name for name in relaxed if name not in before.primary_key),
        widened=tuple(new for old, new in kept if old.length != new.length),
        defaults=tuple(new for old, new in kept if old.default != new.default),
        indexes=tuple(index for index in after.indexes if index.name not in indexes),
    )


def _check_kept(layout: Layout, old: LayoutColumn, new: LayoutColumn) -> None:
    longer = old.length is not None and new.length is not None and new.length >= old.length
    if (old.type, old.source.kind == "generated") != (new.type, new.source.kind == "generated") or (
        old.length != new.length and not longer
    ):
        raise _refused(layout, f"the column {new.name!r} was {old}, and is {new} now: give it another name")
    if old.nullable and not new.nullable:
        raise _refused(layout, f"the column {new.name!r} may be without a value in old rows: it stays nullable")


def _refused(layout: Layout, why: str) -> MigrationError:
    return MigrationError(f"table {layout.table!r}: {why}")
