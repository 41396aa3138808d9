"""The layouts that event classes have: declared once, on the class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec.errors import LayoutError
from eventrec.events.event import EventModel, EventStruct
from eventrec.records.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator


def layout_of(given: Layout | type) -> Layout:
    """`given`, or the layout of the class that it is.

    Raises:
        LayoutError: It is neither a layout nor a class with one.
    """
    said: object = given  # Not every application has a type checker.
    if isinstance(said, Layout):
        return said
    found = _of_class(said) if isinstance(said, type) else None
    if found is None:
        raise LayoutError(f"a layout is a Layout, or an event class that has one, got {given!r:.60}")
    return found


def class_layouts() -> Iterator[Layout]:
    """The layouts of all event classes that exist now, each once for every class that has it."""
    rest: list[type] = [EventModel, EventStruct]
    seen: set[type] = set()
    while rest:
        cls = rest.pop()
        if cls not in seen:
            seen.add(cls)
            rest += cls.__subclasses__()
            if (layout := _of_class(cls)) is not None:
                yield layout


def _of_class(cls: type) -> Layout | None:
    if issubclass(cls, EventModel):
        return cls.__eventrec_layout__
    layout = getattr(cls, "layout", None)
    return layout if isinstance(layout, Layout) else None
