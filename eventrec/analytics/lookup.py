"""Fields and types by name, in the event classes that a rollup names: where a value is stored, and of what kind.

in an annotation                     kind
str, its enums and literals          text
bool; int; float                     boolean; integer; float
UUID                                 uuid
datetime, date, time, Decimal …      text in the payload, as JSON has them; in a column only whether it is there
`Hashed()`, `Truncated()`            text
anything else                        json: only whether it is there can be asked
"""

from __future__ import annotations

import dataclasses
import enum
import typing
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, cast, get_args, get_origin
from uuid import UUID

import msgspec
from pydantic import BaseModel

from eventrec.analytics.expressions import OWN, check_reference
from eventrec.analytics.fields import KINDS, Field, place
from eventrec.errors import CatalogueError
from eventrec.events.event import DEFAULT_TABLE, EventModel, EventStruct, model_plan, struct_plan, type_name
from eventrec.events.fields import FieldPlan, struct_fields_plan
from eventrec.records.annotations import alternatives, unwrapped
from eventrec.records.column_types import TEXTUAL, WHOLE_NUMBERS, ColumnType
from eventrec.records.marks import Hashed, Redacted, Truncated
from eventrec.records.schema import check_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventrec.analytics.expressions import Reference
    from eventrec.analytics.fields import Kind
    from eventrec.records.schema import ColumnSchema

_OF_COLUMNS: Final[Mapping[ColumnType, Kind]] = {
    ColumnType.BOOLEAN: "boolean",
    **dict.fromkeys(WHOLE_NUMBERS, "integer"),
    ColumnType.FLOAT32: "float",
    ColumnType.FLOAT64: "float",
    **dict.fromkeys(TEXTUAL, "text"),
}

_OF_TYPES: Final[tuple[tuple[type | tuple[type, ...], Kind], ...]] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "float"),
    (str, "text"),
    (UUID, "uuid"),
    ((date, time, Decimal), "text"),
)


class ClassFields:
    """Finds what a rollup names in its event classes; names of types tell nothing of their fields."""

    def __init__(self, events: Sequence[type | str]) -> None:
        self._classes: Final = tuple(event for event in events if isinstance(event, type))

    def field(self, reference: Reference) -> Field:
        """The field that `reference` means.

        Raises:
            CatalogueError: It is not found, or not of one kind or place, or of another kind than was said.
        """
        check_reference(reference)
        if reference.kind is not None and reference.kind not in KINDS:
            raise CatalogueError(f"{reference!r}: kinds are {', '.join(KINDS)}, got {reference.kind!r}")
        if reference.source in OWN:
            return OWN[reference.source]
        if reference.kind == "timestamp":
            raise CatalogueError(f"{reference!r}: a timestamp is the event's own; other moments are texts")
        if reference.source == "context":
            return Field("context", reference.path, reference.kind or "text")
        found = {field for cls in self._classes if (field := _field_of(cls, reference)) is not None}
        match sorted(found, key=str):
            case []:
                return self._as_said(reference)
            case [field] if field.kind is None and reference.kind is None:
                raise CatalogueError(
                    f"{reference!r} may be of several kinds, or a serializer has a say: say which, kind="
                )
            case [field] if reference.kind is None or field.kind in {None, reference.kind}:
                return Field(field.source, field.path, cast("Kind", reference.kind or field.kind))
            case [field] if (field.kind, reference.kind) == ("integer", "float") or reference.kind == "json":
                return Field(field.source, field.path, cast("Kind", reference.kind))
            case [field]:
                raise CatalogueError(f"{reference!r} is of kind {field.kind} in its event, not {reference.kind}")
            case several:
                said = ", ".join(str(field) for field in several)
                raise CatalogueError(f"{reference!r} is not the same in all events: {said}; say which, with kind=")

    def type(self, event: type | str) -> str:
        """The type name of an event class, or the name itself."""
        return type_of(event)

    def _as_said(self, reference: Reference) -> Field:
        if reference.source is not None and reference.kind is not None and not self._classes:
            return Field(reference.source, reference.path, reference.kind)
        if reference.source == "column" and reference.kind is not None:  # of a layout, say
            return Field("column", reference.path, reference.kind)
        if self._classes and not any(_is_open(cls) for cls in self._classes):
            names = ", ".join(cls.__name__ for cls in self._classes)
            raise CatalogueError(f"{reference!r} is not a field of {names}")
        if reference.source is None:
            raise CatalogueError(f"{reference!r} cannot be looked up: say payload(…, kind=…) or column(…, kind=…)")
        if reference.kind is None:
            raise CatalogueError(f"{reference!r} cannot be looked up: say its kind=, one of {', '.join(KINDS)}")
        return Field(reference.source, reference.path, reference.kind)


def type_of(event: object) -> str:
    """The type name of an event class, or the name itself.

    Raises:
        CatalogueError: It is neither, or each instance says its type.
    """
    match event:
        case str():
            name: object = event
        case type() if issubclass(event, EventModel):
            name = event.__eventrec_type__
        case type() if issubclass(event, EventStruct):
            name = struct_plan(event).type
        case type():
            said = getattr(event, "type", None)
            name = type_name(event.__name__) if said is None or _is_default(event, "type") else said
        case _:
            raise CatalogueError(f"an event is a class, or the name of a type, got {event!r}")
    if not isinstance(name, str):
        raise CatalogueError(f"{event!r}: each instance says its type: give the names of the types instead")
    _check_name("type", name)
    return name


def table_of(event: type) -> str | None:
    """The table of an event class; None where each instance says it."""
    if issubclass(event, EventModel):
        return event.__eventrec_table__
    if issubclass(event, EventStruct):
        return struct_plan(event).table
    said = getattr(event, "table", None)
    if said is None or _is_default(event, "table"):
        return DEFAULT_TABLE
    return said if isinstance(said, str) else None


def _is_default(event: type, name: str) -> bool:
    found = getattr(event, name, None)
    return isinstance(found, property) and getattr(found.fget, "__module__", None) == EventModel.__module__


def _check_name(what: str, name: str) -> None:
    try:
        check_name(what, name)
    except Exception as exc:
        raise CatalogueError(str(exc)) from exc


# -- one class --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """A field in one class; `kind` is None where its annotation does not tell."""

    source: Any
    path: tuple[str, ...]
    kind: Kind | None

    def __str__(self) -> str:
        return f"{place(self.source, self.path)} of kind {self.kind or 'unknown'}"


def _is_open(cls: type) -> bool:
    """Whether its events may hold more than it declares."""
    if issubclass(cls, BaseModel):
        return cls.model_config.get("extra") == "allow"
    return not issubclass(cls, msgspec.Struct)


def _field_of(cls: type, reference: Reference) -> _Found | None:
    if issubclass(cls, EventModel):
        plan = model_plan(cls).fields
    elif issubclass(cls, EventStruct):
        plan = struct_fields_plan(cls)
    else:
        return None
    name, *rest = reference.path
    if reference.source != "payload" and not rest:
        for field, column in zip(plan.column_fields, plan.columns, strict=True):
            if name in {field, column.name}:
                return _Found("column", (column.name,), _kind_of_column(cls, field, column))
    if reference.source == "column":
        return None
    for field, written, annotation, is_plain in _payload_fields(cls, plan):
        # Looked up, a field goes by its own name; at a path, by the one that is written.
        if name == (field if reference.source is None else written):
            kind, path = _inside(annotation, rest) if is_plain else (None, tuple(rest))
            return None if path is None else _Found("payload", (written, *path), kind)
    return None


def _kind_of_column(cls: type, field: str, column: ColumnSchema) -> Kind:
    annotation = cls.model_fields[field].annotation if issubclass(cls, BaseModel) else None
    if issubclass(cls, msgspec.Struct):
        annotation = _hints(cls).get(field)
    kind = _OF_COLUMNS.get(column.type, "json")
    return "uuid" if kind == "text" and set(alternatives(annotation)) == {UUID} else kind


def _payload_fields(cls: type, plan: FieldPlan | None) -> Iterator[tuple[str, str, Any, bool]]:
    """The fields in the JSON of `cls`: name, as it is written, annotation, and whether no serializer has a say."""
    excluded = frozenset() if plan is None else plan.excluded
    if issubclass(cls, BaseModel):
        by_alias = bool(cls.model_config.get("serialize_by_alias"))
        decorators = cls.__pydantic_decorators__
        serialized = {name for each in decorators.field_serializers.values() for name in each.info.fields}
        is_free = not decorators.model_serializers and "*" not in serialized
        for name, info in cls.model_fields.items():
            if name not in excluded and not info.exclude:
                written = (info.serialization_alias or name) if by_alias else name
                annotation: Any = info.annotation
                for mark in info.metadata:
                    annotation = _marked(annotation, mark)
                yield name, written, annotation, is_free and name not in serialized
        for name, computed in cls.model_computed_fields.items():
            yield name, (computed.alias or name) if by_alias else name, computed.return_type, is_free
    elif issubclass(cls, msgspec.Struct):
        hints = _hints(cls)
        for name, written in zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True):
            if name not in excluded:
                yield name, written, hints[name], not cls.__struct_config__.array_like


def _inside(annotation: Any, path: Sequence[str]) -> tuple[Kind | None, tuple[str, ...] | None]:
    """The kind of what lies at `path` in a value; the path is None where there is no such field."""
    if not path:
        return _kind(annotation), ()
    kinds = list(alternatives(annotation))
    if len(kinds) != 1:
        return None, tuple(path)
    (part,) = kinds
    if get_origin(part) is dict:
        kind, inner = _inside(get_args(part)[1], path[1:])
        return kind, None if inner is None else (path[0], *inner)
    if isinstance(part, type) and issubclass(part, (BaseModel, msgspec.Struct)):
        for _, written, inside, is_plain in _payload_fields(part, None):
            if written == path[0]:
                kind, inner = _inside(inside, path[1:]) if is_plain else (None, tuple(path[1:]))
                return kind, None if inner is None else (path[0], *inner)
        return None, tuple(path) if _is_open(part) else None
    return None, tuple(path)


def _kind(annotation: Any) -> Kind | None:
    """What JSON makes of a value; None: it may be of several kinds."""
    _, metadata = unwrapped(annotation)
    if any(isinstance(mark, (Hashed, Truncated, Redacted)) for mark in metadata):
        return "text"
    kinds = {kind for part in alternatives(annotation) for kind in _kinds_of_one(part)}
    if kinds == {"integer", "float"}:
        return "float"
    if kinds == {"uuid", "text"}:
        return "text"
    return kinds.pop() if len(kinds) == 1 else None


def _kinds_of_one(part: object) -> set[Kind]:
    plain = get_origin(part) or part
    if not isinstance(plain, type) or plain in (Any, object):
        return set(KINDS)
    if issubclass(plain, enum.Enum):
        return {kind for member in plain for kind in _kinds_of_one(type(member.value))}
    return {next((kind for known, kind in _OF_TYPES if issubclass(plain, known)), "json")}


def _marked(annotation: Any, mark: object) -> Any:
    return str if isinstance(mark, (Hashed, Truncated, Redacted)) else annotation


def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)
