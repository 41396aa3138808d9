"""The layouts that event classes have, declared once, on the class; and those of what a recorder takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec.errors import LayoutError
from eventrec.events.event import EventModel, EventStruct
from eventrec.records.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping


def layout_of(given: Layout | type) -> Layout:
    """`given`, or the layout of the class that it is.

    Raises:
        LayoutError: It is neither a layout nor a class with one.
    """
    said: object = given  # Not every application has a type checker.
    if isinstance(said, Layout):
        return said
    found = class_layout(said) if isinstance(said, type) else None
    if found is None:
        raise LayoutError(f"a layout is a Layout, or an event class that has one, got {given!r:.60}")
    return found


def class_layouts() -> Iterator[Layout]:
    """The layouts of all event classes that exist now, each once for every class that has it.

    Of a table, and classes of one name in one module, only the newest counts: a module that is loaded again, or a cell
    of a notebook that is run again, has made it again.
    """
    known: dict[object, Layout] = {}
    rest: list[type] = [EventModel, EventStruct]
    seen: set[type] = set(rest)
    for cls in rest:  # which grows: those of one parent in the order in which they were made
        if (layout := class_layout(cls)) is not None:
            is_local = "<locals>" in cls.__qualname__  # One function makes several.
            known[cls if is_local else (cls.__module__, cls.__qualname__, layout.table)] = layout
        below: list[type] = cls.__subclasses__()
        new = [each for each in below if each not in seen]
        seen.update(new)
        rest += new
    yield from known.values()


class RecordedLayouts:
    """The layouts of what one life of a recorder takes: those `given`, and those of the `classes` recorded so far."""

    def __init__(self, given: Mapping[str, Layout], classes: Collection[type]) -> None:
        self._by_table = dict(given)
        self._classes = classes
        self._looked_at = 0

    def all(self) -> list[Layout]:
        """All of them."""
        self.new()
        return list(self._by_table.values())

    def new(self) -> list[Layout]:
        """Those of classes that were recorded for the first time since this, or `all`, was called."""
        if len(self._classes) == self._looked_at:
            return []
        self._looked_at = len(self._classes)
        ours = [cls for cls in list(self._classes) if issubclass(cls, (EventModel, EventStruct))]
        found = [layout for cls in ours if (layout := class_layout(cls)) is not None]
        new = {layout.table: layout for layout in found if layout.table not in self._by_table}
        self._by_table |= new
        return list(new.values())


def class_layout(cls: type) -> Layout | None:
    """The layout of an event class, or None."""
    # A class that was refused for what it called a layout is there until it is collected.
    layout: object = cls.__eventrec_layout__ if issubclass(cls, EventModel) else getattr(cls, "layout", None)
    return layout if isinstance(layout, Layout) else None
