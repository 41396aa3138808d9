"""The layouts that a file keeps, in `eventrec_layouts`: read, and written in the transaction of the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec_handlers._sql import LAYOUTS, fold_ascii
from eventrec_handlers.sqlite.file import read_table
from eventrec_handlers.sqlite.own_tables import make_own_table

if TYPE_CHECKING:
    import sqlite3

    from eventrec import Layout
    from eventrec_handlers._sql import KeptLayouts


def read_layouts(connection: sqlite3.Connection) -> dict[str, str]:
    """What is kept: table to JSON."""
    if read_table(connection, LAYOUTS).kind is None:
        return {}
    rows = connection.execute(f"SELECT table_name, layout FROM {LAYOUTS}")  # noqa: S608 - constant
    return {str(table): str(layout) for table, layout in rows}


def keep_layout(connection: sqlite3.Connection, layouts: KeptLayouts, layout: Layout) -> None:
    """Keep `layout` in the file, if another one or none is; in a transaction."""
    if not layouts.is_kept(layout):
        make_own_table(connection, LAYOUTS)
        name = fold_ascii(layout.table)
        connection.execute(f"DELETE FROM {LAYOUTS} WHERE lower(table_name) = ?", (name,))  # noqa: S608 - constant
        connection.execute(
            f"INSERT INTO {LAYOUTS} (table_name, layout) VALUES (?, ?)",  # noqa: S608 - constant
            (layout.table, layout.to_json()),
        )
        layouts.note_kept(layout)
