"""Tables with a layout: what one lacks before rows fit, and what will never fit; decided without a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec import GENERATED
from eventrec_handlers._sql.plan import TablePlan, refused_growth

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from eventrec import Layout, LayoutColumn, LayoutRows
    from eventrec_handlers._sql.plan import SchemaMode
    from eventrec_handlers._sql.values import Refusals


def plan_layout(
    existing: Mapping[str, str] | None,
    layout: Layout,
    *,
    declared: Callable[[LayoutColumn], str],
    conflict: Callable[[LayoutColumn, str], str | None],
    schema: SchemaMode,
    max_columns: int,
    fold: Callable[[str], str] = str,
    computed: Collection[str] = (),
) -> TablePlan:
    """Compare the columns of a table (name to declared type; None: there is no table) with those of its layout.

    `declared` is what a column is made as, `conflict` why one that is declared so cannot hold it, or None. The others
    are as for `plan_table`. Columns that the layout does not name are left alone.
    """
    if existing is None:
        if schema == "strict":
            return TablePlan(refused_table="there is no such table, and schema is 'strict'")
        return TablePlan(create=tuple((column.name, declared(column)) for column in layout.columns))
    columns = [column for column in layout.columns if column.source != GENERATED]
    known = {fold(name): name for name in existing}
    missing = [column for column in columns if fold(column.name) not in known]
    if len(missing) == len(columns):
        return TablePlan(refused_table="it has none of the columns of its layout")
    refused: dict[str, str] = {}
    for column in columns:
        there = known.get(fold(column.name), column.name)
        if there != column.name:
            refused[column.name] = f"only the case of its name differs from that of column {there!r}"
        elif there in computed:
            refused[column.name] = "the table computes it itself"
        elif there in existing and (why := conflict(column, existing[there])) is not None:
            refused[column.name] = why
    if (why := refused_growth(len(existing), len(missing), schema=schema, max_columns=max_columns)) is not None:
        refused.update((column.name, why) for column in missing)
        missing = []
    if len(refused) == len(columns):
        name, why = next(iter(refused.items()))
        return TablePlan(refused_table=f"none of the columns of its layout can be written; {name!r}: {why}")
    return TablePlan(add=tuple((column.name, declared(column)) for column in missing), refused=refused)


def refuse_laid_out(
    rows: LayoutRows, refusals: Refusals, row: int, column: LayoutColumn, *, value: object, declared: str, why: str
) -> None:
    """Note the record of a row of `rows` whose `value` the column, which is `declared` so, cannot take."""
    refusals.add(
        rows.offsets[row],
        f"column {column.name!r} of table {rows.layout.table!r} cannot take {column.source}"
        f" ({type(value).__name__} as {declared}): {why}",
    )
