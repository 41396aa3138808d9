"""Which layout a table has: as this process declares it, else as its destination keeps it in `eventrec_layouts`.

Where neither knows one, as another process declared it whose records wait in the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec import Layout, LayoutError, PauseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

LAYOUTS: Final = "eventrec_layouts"
"""Our own table of them: table_name, layout."""


class KeptLayouts:
    """The layouts of one destination. `fold` maps names that the database takes for the same to one."""

    def __init__(self, declared: Mapping[str, Layout] | None = None, *, fold: Callable[[str], str] = str) -> None:
        self._fold = fold
        self._declared: dict[str, Layout] = {}
        self._assumed: dict[str, Layout] = {}
        self._kept: dict[str, str] = {}
        self._read: dict[str, Layout | LayoutError] = {}
        self._pending: dict[str, Layout] = {}
        self.declare(declared or {})

    def declare(self, layouts: Mapping[str, Layout]) -> None:
        """What this process declares, beside what it has declared before. From any thread."""
        self._declared = {**self._declared, **{self._fold(table): layout for table, layout in layouts.items()}}

    def assume(self, layouts: Mapping[str, Layout]) -> None:
        """What another process declares: it counts where nothing else is known of a table. From any thread."""
        self._assumed = {**self._assumed, **{self._fold(table): layout for table, layout in layouts.items()}}

    @property
    def declared(self) -> Mapping[str, Layout]:
        """What was declared, by the folded names of tables."""
        return self._declared

    @property
    def has_any(self) -> bool:
        """Whether any table has one."""
        return bool(self._declared or self._read or self._assumed)

    def of(self, table: str) -> Layout | None:
        """The layout of `table`; None: it has none.

        Raises:
            LayoutError: The one that is kept cannot be read.
        """
        name = self._fold(table)
        found = self._declared.get(name) or self._read.get(name) or self._assumed.get(name)
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

    def learn(self, kept: Mapping[str, str]) -> bool:
        """What the destination keeps: table to JSON. Whether that is something else than before."""
        before, self._kept = self._kept, {self._fold(table): text for table, text in kept.items()}
        if self._kept != before:
            self._read = {table: _layout(table, text) for table, text in self._kept.items()}
        return self._kept != before

    # -- keeping one

    def is_kept(self, layout: Layout) -> bool:
        """Whether the destination keeps `layout`, or will once a transaction is committed."""
        name = self._fold(layout.table)
        return name in self._pending or self._kept.get(name) == layout.to_json()

    def note_kept(self, layout: Layout) -> None:
        """The destination keeps `layout`, once the transaction is committed: see the two that follow."""
        self._pending[self._fold(layout.table)] = layout

    def note_committed(self) -> None:
        """It is."""
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
