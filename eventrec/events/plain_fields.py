"""Fields of classes of which nothing is recorded by itself: what is lost there is refused or said.

field of a plain subclass of `Event`         what becomes of the class
marked `Column()`, `Timestamp()`             refused, unless it overrides `extra_schema`, or `timestamp`
of a class that overrides nothing to read    recorded, and the recorder says once that these fields are not
it with
its name begins with an underscore           recorded, and nothing is said

Of other classes, an event is refused whose class marks a field, and that has no such column, or no time of its own.
"""

from __future__ import annotations

import inspect
import typing
from typing import TYPE_CHECKING, ClassVar, Final

from eventrec.events.event import Event
from eventrec.events.fields import Column, FieldMarker, Timestamp, refuse_nested_markers, spelled
from eventrec.records.annotations import all_added
from eventrec.records.marked import fields_of, hints_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from eventrec.records.schema import ColumnSchema

_READERS: Final = (
    (Column, "extra_schema", "extra_schema() and extra_rows()"),
    (Timestamp, "timestamp", "timestamp"),
)
"""For each marker the member that may read it, and what to override."""


def refuse_unread_markers(cls: type) -> None:
    """Raise TypeError where a field of `cls`, a subclass of `Event`, is marked, and nothing reads the marker."""
    for name, annotation in hints_of(cls).items():
        for added in all_added(annotation):
            for kind, member, members in _READERS:
                if isinstance(added, kind) and _is_inherited(cls, member):
                    raise TypeError(
                        f"{cls.__name__}.{name}: {spelled(added)} has no effect in a subclass of Event; "
                        f"derive from EventModel or EventStruct, or override {members}"
                    )
    if _is_inherited(cls, "extra_schema"):
        refuse_nested_markers(cls)


def field_markers(cls: type) -> list[tuple[str, FieldMarker]]:
    """The fields of `cls` that are marked as a column or as the time, with their markers."""
    return [
        (name, added)
        for name, annotation in hints_of(cls).items()
        for added in all_added(annotation)
        if isinstance(added, FieldMarker)
    ]


def refuse_unheeded(
    cls: type, markers: Sequence[tuple[str, FieldMarker]], columns: Iterable[ColumnSchema], timestamp: object
) -> None:
    """Raise TypeError where an event of `columns` and `timestamp` lacks what `markers` of `cls` ask for."""
    names = {column.name for column in columns}
    for name, mark in markers:
        if isinstance(mark, Column):
            column = name if mark.name is None else mark.name
            missing = None if column in names else f"column {column!r}"
        else:
            missing = "time of its own" if timestamp is None else None
        if missing is not None:
            raise TypeError(
                f"{cls.__name__}.{name}: {spelled(mark)} has no effect, the event has no {missing}; "
                "only EventModel and EventStruct read it"
            )


def unrecorded_fields(event: Event) -> list[str]:
    """Which fields of `event` nothing can read that its class says of it; [] where something may."""
    cls = type(event)
    if cls.__getattribute__ is not object.__getattribute__:
        return []
    if not all(_is_inherited(cls, name) or _is_constant(cls, name) for name in ("payload", "extra_rows")):
        return []
    names = _fields(event)
    others = [name for name in ("type", "table", "timestamp", "extra_schema") if name not in names]
    if not all(_is_inherited(cls, name) or _is_constant(cls, name) or _names_nothing(cls, name) for name in others):
        return []
    return [name for name in names if name not in vars(Event)]


def _fields(event: Event) -> list[str]:
    """What its class declares, and what it holds itself, in this order."""
    cls = type(event)
    of_class = {name for name, hint in hints_of(cls).items() if _is_of_class(hint)}
    names = [*(field.name for field in fields_of(cls) if field.name not in of_class), *getattr(event, "__dict__", ())]
    return [name for name in dict.fromkeys(names) if not name.startswith("_")]


def _is_of_class(hint: object) -> bool:
    return hint is ClassVar or typing.get_origin(hint) is ClassVar


def _is_inherited(cls: type, name: str) -> bool:
    return inspect.getattr_static(cls, name, None) is vars(Event)[name]


def _is_constant(cls: type, name: str) -> bool:
    return not hasattr(type(inspect.getattr_static(cls, name, None)), "__get__")


def _names_nothing(cls: type, name: str) -> bool:
    """Whether it is a property or a method of a function that gives the same whatever the instance holds."""
    member = inspect.getattr_static(cls, name)
    function: Callable[..., object] | None = member.fget if isinstance(member, property) else member
    code = getattr(function, "__code__", None)
    return code is not None and not (code.co_names or code.co_freevars)
