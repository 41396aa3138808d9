"""Which layout a table of the file has: as this process declares it, else as it is kept in `eventrec_layouts`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec import Layout, LayoutError, PauseError
from eventrec_handlers._sql import fold_ascii
from eventrec_handlers.sqlite.file import read_table
from eventrec_handlers.sqlite.own_tables import LAYOUTS, make_layouts_table

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping


class KeptLayouts:
    """The layouts of one file. SQLite takes names that differ in the case of A to Z for one, and so does this."""

    def __init__(self, declared: Mapping[str, Layout] | None = None) -> None:
        self._declared: dict[str, Layout] = {}
        self._kept: dict[str, str] = {}
        self._read: dict[str, Layout | LayoutError] = {}
        self._pending: dict[str, Layout] = {}
        self.declare(declared or {})

    def declare(self, layouts: Mapping[str, Layout]) -> None:
        """What this process declares, beside what it has declared before. From any thread."""
        self._declared = {**self._declared, **{fold_ascii(table): layout for table, layout in layouts.items()}}

    @property
    def declared(self) -> Mapping[str, Layout]:
        """What was declared, by tables as SQLite compares them."""
        return self._declared

    @property
    def has_any(self) -> bool:
        """Whether any table has one."""
        return bool(self._declared or self._read)

    def of(self, table: str) -> Layout | None:
        """The layout of `table`; None: it has none.

        Raises:
            LayoutError: The one that is kept cannot be read.
        """
        name = fold_ascii(table)
        found = self._declared.get(name) or self._read.get(name)
        if isinstance(found, LayoutError):
            raise found
        return found

    def among(self, tables: Iterable[str]) -> dict[str, Layout]:
        """Those of `tables` that have a layout.

        Raises:
            PauseError: One that is kept cannot be read.
        """
        try:
            found = {table: self.of(table) for table in tables}
        except LayoutError as exc:
            raise PauseError(str(exc)) from exc
        return {table: layout for table, layout in found.items() if layout is not None}

    def read(self, connection: sqlite3.Connection) -> bool:
        """Read what the file keeps; whether that is something else than before."""
        before = self._kept
        self._kept = {}
        if read_table(connection, LAYOUTS).kind is not None:
            rows = connection.execute(f"SELECT table_name, layout FROM {LAYOUTS}")  # noqa: S608 - constant
            self._kept = {fold_ascii(str(table)): str(layout) for table, layout in rows}
        if self._kept != before:
            self._read = {table: _layout(table, text) for table, text in self._kept.items()}
        return self._kept != before

    def keep(self, connection: sqlite3.Connection, layout: Layout) -> None:
        """Keep `layout` in the file, if another one or none is; in a transaction."""
        name, text = fold_ascii(layout.table), layout.to_json()
        if self._kept.get(name) != text and name not in self._pending:
            make_layouts_table(connection)
            connection.execute(f"DELETE FROM {LAYOUTS} WHERE lower(table_name) = ?", (name,))  # noqa: S608 - constant
            connection.execute(f"INSERT INTO {LAYOUTS} (table_name, layout) VALUES (?, ?)", (layout.table, text))  # noqa: S608 - constant
            self._pending[name] = layout

    def note_committed(self) -> None:
        """What was kept since `read` is in the file for good."""
        if self._pending:
            self._kept |= {name: layout.to_json() for name, layout in self._pending.items()}
            self._read |= self._pending
            self._pending = {}

    def note_rolled_back(self) -> None:
        """It is not."""
        self._pending = {}


def _layout(table: str, text: str) -> Layout | LayoutError:
    try:
        return Layout.from_json(text)
    except LayoutError as exc:
        return LayoutError(f"{LAYOUTS} holds what is not a layout of table {table!r}: {exc}")
