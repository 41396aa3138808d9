"""The tables that the event classes of a catalogue need: those for which no layout is declared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec.errors import MigrationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec.analytics.migration_target import Declarations
    from eventrec.records.schema import ColumnSchema


def tables_of_events(catalogue: Declarations) -> dict[str, list[ColumnSchema]]:
    """The tables of the default layout, each with the extra columns of all classes whose events go there, in order.

    Raises:
        MigrationError: Two classes declare one column in two ways.
    """
    with_layout = {layout.table for layout in catalogue.layouts}
    tables: dict[str, dict[str, ColumnSchema]] = {}
    for event in catalogue.events:
        if event.table in with_layout:
            continue
        columns = tables.setdefault(event.table, {})
        for column in event.columns:
            known = columns.setdefault(column.name, column)
            if known != column:
                raise MigrationError(
                    f"table {event.table!r}: the column {column.name!r} is declared as {known.type.name} and, by"
                    f" {event.type}, as {column.type.name}"
                )
    return {table: list(columns.values()) for table, columns in tables.items()}


def added_columns(table: str, before: Sequence[tuple[str, str]], after: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """The columns (name, type) of `after` that `before` lacks; what is not declared any more is left as it is.

    Raises:
        MigrationError: A column has another type than before: no table is retyped.
    """
    known = dict(before)
    for name, declared in after:
        if known.get(name, declared) != declared:
            raise MigrationError(
                f"table {table!r}: the column {name!r} was declared {known[name]}, and is declared {declared} now:"
                " give it another name"
            )
    return {name: declared for name, declared in after if name not in known}
