"""One event class of a catalogue, as its type, version, table and columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventrec.analytics.versions import named, version_of
from eventrec.errors import CatalogueError
from eventrec.events.event import EventModel, EventStruct, model_plan, struct_plan

if TYPE_CHECKING:
    from eventrec.events.plans import ClassPlan
    from eventrec.records.schema import ColumnSchema


@dataclass(frozen=True, slots=True)
class CataloguedEvent:
    """One event class of a catalogue.

    Attributes:
        cls: The class.
        type: The type of its events.
        version: Its version: several classes of one type have different ones.
        table: Where its rows go.
        columns: Its extra columns.
        column_fields: The fields that these columns come from, in the same order.
        timestamp_field: The field that says when it happened, or None.
    """

    cls: type[EventModel | EventStruct]
    type: str
    version: int
    table: str
    columns: tuple[ColumnSchema, ...]
    column_fields: tuple[str, ...]
    timestamp_field: str | None

    def __str__(self) -> str:
        return f"{self.type} version {self.version}"


def catalogued(cls: type[EventModel | EventStruct], version_field: str) -> CataloguedEvent:
    """The event class `cls`, which says its version with `version_field`.

    Raises:
        CatalogueError: It is not an event class of an application, or not complete.
    """
    given: object = cls
    if (
        not isinstance(given, type)
        or not issubclass(given, (EventModel, EventStruct))
        or given in (EventModel, EventStruct)
    ):
        raise CatalogueError(f"{named(given)} is not an EventModel or EventStruct class of an application")
    try:
        plan = _plan_of(cls)
    except TypeError as exc:
        raise CatalogueError(f"{named(cls)}: {exc}") from exc
    return CataloguedEvent(
        cls=cls,
        type=plan.type,
        version=version_of(cls, plan, version_field),
        table=plan.table,
        columns=plan.fields.columns,
        column_fields=plan.fields.column_fields,
        timestamp_field=plan.fields.timestamp_field,
    )


def _plan_of(cls: type[EventModel | EventStruct]) -> ClassPlan:
    if issubclass(cls, EventStruct):
        return struct_plan(cls)
    if cls.__pydantic_generic_metadata__["parameters"]:
        raise TypeError("has type parameters: give it with its arguments")
    if not cls.__pydantic_complete__ and not cls.model_rebuild(raise_errors=False):
        raise TypeError("names what does not exist yet")
    return model_plan(cls)
