"""Markers in annotations: which fields of a model or struct are columns, and which one is the timestamp."""

from __future__ import annotations

import dataclasses
import enum
import typing
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeAlias, get_args, get_origin
from uuid import UUID

import msgspec

from eventrec.errors import EncodeError, InvalidEventError
from eventrec.records.annotations import Marker, all_added, alternatives, shown, unwrapped
from eventrec.records.column_types import TEXTUAL, ColumnType, SemanticType
from eventrec.records.mark_rules import Leaf
from eventrec.records.marked import fields_of, marked_fields
from eventrec.records.marks import Hashed, Truncated
from eventrec.records.model_marks import check_model_marks, named_classes
from eventrec.records.schema import ColumnSchema, check_columns
from eventrec.records.times import nanoseconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel

    from eventrec.records.mark_rules import Rule


@dataclass(frozen=True, slots=True)
class Column(Marker):
    """Marks a field as a column of its own.

    Without a `type` it follows from the annotation; `name` defaults to the field's. `tag=True` marks it as part of a
    series' identity, for databases that ask. `precision` and `scale` are for DECIMAL128, `dimensions` is for VECTOR.
    """

    type: ColumnType | None = None
    name: str | None = None
    tag: bool = False
    precision: int | None = None
    scale: int | None = None
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class Timestamp(Marker):
    """Marks the field that says when the event happened: a datetime with a zone, or nanoseconds since the epoch."""


FieldMarker: TypeAlias = Column | Timestamp


@dataclass(frozen=True, slots=True)
class FieldPlan:
    """Which fields leave the payload, and where they go."""

    columns: tuple[ColumnSchema, ...] = ()
    column_fields: tuple[str, ...] = ()
    timestamp_field: str | None = None
    excluded: frozenset[str] = field(default_factory=frozenset)
    """Names of the fields that are not in the payload."""
    rules: Mapping[str, Rule] = field(default_factory=dict)
    """Of the fields that are marked for privacy, or hold something that is: what happens to them."""

    def rules_of_columns(self, rules: Mapping[str, Rule] | None = None) -> dict[str, Rule]:
        """Of `rules`, by default its own, those of fields that are columns, by the names of these."""
        given = self.rules if rules is None else rules
        pairs = zip(self.column_fields, self.columns, strict=True)
        return {column.name: given[name] for name, column in pairs if name in given}


def model_fields_plan(cls: type[BaseModel]) -> FieldPlan:
    """Read the markers of a pydantic model class.

    Raises:
        TypeError: A marker stands where pydantic drops it, is given twice, or marks what a serializer leaves out or
            writes by itself; or no column type fits its field.
    """
    plan = _plan(cls, {name: (info.annotation, info.metadata) for name, info in cls.model_fields.items()})
    check_model_marks(cls)
    for name, computed in cls.model_computed_fields.items():
        _, metadata = unwrapped(computed.return_type)
        if any(isinstance(mark, FieldMarker) for mark in metadata):
            raise TypeError(f"{cls.__name__}.{name}: a computed field cannot be marked")
    if plan.columns and cls.__pydantic_decorators__.model_serializers:
        raise TypeError(f"{cls.__name__}: has a model_serializer, so its fields cannot be columns")
    for name in plan.column_fields:
        if cls.model_fields[name].exclude:
            raise TypeError(
                f"{cls.__name__}.{name}: Column() takes it out of the payload already; leave out exclude=True"
            )
    return plan


def struct_fields_plan(cls: type[msgspec.Struct]) -> FieldPlan:
    """Read the markers of a struct class.

    Raises:
        TypeError: As `model_fields_plan`; or an annotation names what does not exist when the program runs.
    """
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as exc:
        raise TypeError(f"{cls.__name__}: an annotation cannot be read when the program runs: {exc}") from exc
    return _plan(cls, {name: (hints[name], []) for name in cls.__struct_fields__})


def annotated_types(cls: type[BaseModel | msgspec.Struct]) -> dict[str, frozenset[object]]:
    """The types that each field of a model or struct class may have, None and markers aside."""
    if issubclass(cls, msgspec.Struct):
        hints = typing.get_type_hints(cls, include_extras=True)
        found = {name: hints[name] for name in cls.__struct_fields__}
    else:
        found = {name: info.annotation for name, info in cls.model_fields.items()}
    return {name: frozenset(alternatives(annotation)) for name, annotation in found.items()}


def timestamp_value(name: str, value: object) -> int | None:
    """The value of the marked field `name` in nanoseconds since the epoch; None where it is None.

    Raises:
        EncodeError: It is a datetime without a zone, or neither a datetime nor an int.
    """
    match value:
        case datetime() as moment:
            try:
                return nanoseconds(moment)
            except EncodeError as exc:
                raise EncodeError(f"timestamp field {name!r}: {exc}") from exc
        case None:
            return None
        case int() if not isinstance(value, bool):
            return int.__int__(value)
        case other:
            raise EncodeError(f"timestamp field {name!r}: a value of kind {type(other).__name__} is not a timestamp")


def _plan(cls: type, found: Mapping[str, tuple[object, list[Any]]]) -> FieldPlan:
    columns: dict[str, ColumnSchema] = {}
    timestamp: str | None = None
    rules = marked_fields(cls)
    refuse_nested_markers(cls)
    for name, (annotation, given) in found.items():
        plain, metadata = unwrapped(annotation)
        _refuse_hidden_markers(cls, name, plain)
        match [mark for mark in (*given, *metadata) if isinstance(mark, FieldMarker)]:
            case []:
                continue
            case [Column() as column]:
                columns[name] = _column_schema(cls, name, plain, column, rules.get(name))
            case [Timestamp()] if timestamp is None:
                if name in rules:
                    raise TypeError(f"{cls.__name__}.{name}: the timestamp of an event is recorded as it is")
                if not set(alternatives(plain)) <= {datetime, int}:
                    raise TypeError(
                        f"{cls.__name__}.{name}: Timestamp() marks a datetime or an int, not {shown(plain)}"
                    )
                timestamp = name
            case _:
                raise TypeError(f"{cls.__name__}.{name}: one marker a field, and one Timestamp() a class")
    try:
        check_columns(tuple(columns.values()))
    except InvalidEventError as exc:
        raise TypeError(f"{cls.__name__}: {exc}") from exc
    return FieldPlan(
        columns=tuple(columns.values()),
        column_fields=tuple(columns),
        timestamp_field=timestamp,
        excluded=frozenset({*columns, *([timestamp] if timestamp else [])}),
        rules=rules,
    )


def _column_schema(cls: type, name: str, annotation: object, column: Column, rule: Rule | None) -> ColumnSchema:
    mark = rule.mark if isinstance(rule, Leaf) else None
    kind = column.type if column.type is not None else _column_type(annotation)
    if isinstance(mark, Hashed) and column.type is None:
        kind = ColumnType.STRING
    if isinstance(mark, (Hashed, Truncated)) and kind not in TEXTUAL:
        raise TypeError(f"{cls.__name__}.{name}: what {type(mark).__name__}() leaves is text: its column is a STRING")
    if kind is None:
        raise TypeError(
            f"{cls.__name__}.{name}: no column type fits {shown(annotation)}; say which, "
            "for example Annotated[…, Column(ColumnType.JSON)]"
        )
    try:
        return ColumnSchema(
            name if column.name is None else column.name,
            kind,
            SemanticType.TAG if column.tag else SemanticType.FIELD,
            precision=column.precision,
            scale=column.scale,
            dimensions=column.dimensions,
        )
    except InvalidEventError as exc:
        raise TypeError(f"{cls.__name__}.{name}: {exc}") from exc


# -- what an annotation says ------------------------------------------------------------------------------------------

_TYPES: Final[dict[type, ColumnType]] = {
    bool: ColumnType.BOOLEAN,
    int: ColumnType.INT64,
    float: ColumnType.FLOAT64,
    str: ColumnType.STRING,
    bytes: ColumnType.BINARY,
    UUID: ColumnType.STRING,
    datetime: ColumnType.TIMESTAMP_NANOSECOND,
    date: ColumnType.DATE,
    time: ColumnType.TIME_MICROSECOND,
    timedelta: ColumnType.INTERVAL_MONTH_DAY_NANO,
    Decimal: ColumnType.DECIMAL128,
    dict: ColumnType.JSON,
    list: ColumnType.JSON,
    tuple: ColumnType.JSON,
    set: ColumnType.JSON,
    frozenset: ColumnType.JSON,
}


def _column_type(annotation: object) -> ColumnType | None:
    kinds = {_column_type_of_one(part) for part in alternatives(annotation)}
    return kinds.pop() if len(kinds) == 1 else None


def _column_type_of_one(annotation: object) -> ColumnType | None:
    plain = get_origin(annotation) or annotation
    if not isinstance(plain, type):
        return None
    if issubclass(plain, enum.Enum) and not issubclass(plain, int):
        return ColumnType.STRING if all(isinstance(member.value, str) for member in plain) else None
    return next((kind for known, kind in _TYPES.items() if issubclass(plain, known)), None)


def _refuse_hidden_markers(cls: type, name: str, annotation: object) -> None:
    for mark in _hidden_markers(annotation):
        raise TypeError(
            f"{cls.__name__}.{name}: {spelled(mark)} stands inside a larger annotation and would be dropped; "
            f"write Annotated[{shown(annotation)}, {spelled(mark)}]"
        )


def refuse_nested_markers(cls: type) -> None:
    """Raise TypeError where a class that `cls` names in its annotations, and that is no event itself, marks a field."""
    for each in named_classes(cls):
        if each is cls or hasattr(each, "to_event") or hasattr(each, "extra_schema"):
            continue
        for inner in fields_of(each):
            for mark in inner.others:
                if isinstance(mark, FieldMarker):
                    raise TypeError(
                        f"{each.__name__}.{inner.name}: {spelled(mark)} has no effect inside of {cls.__name__}; "
                        f"mark a field of {cls.__name__}"
                    )


def _hidden_markers(annotation: object) -> Iterator[FieldMarker]:
    return (mark for part in get_args(annotation) for mark in all_added(part) if isinstance(mark, FieldMarker))


def spelled(mark: FieldMarker) -> str:
    """`mark` as a program writes it."""
    said = ((entry.name, getattr(mark, entry.name), entry.default) for entry in dataclasses.fields(mark))
    changed = ((name, value) for name, value, default in said if value != default)
    given = (
        f"{name}={f'ColumnType.{value.name}' if isinstance(value, ColumnType) else repr(value)}"
        for name, value in changed
    )
    return f"{type(mark).__name__}({', '.join(given)})"
