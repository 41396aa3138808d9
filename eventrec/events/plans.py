"""How the instances of one model or struct class give their payload, columns and timestamp: read once per class."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from operator import attrgetter
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from eventrec.errors import EncodeError
from eventrec.events.fields import FieldPlan, annotated_types, timestamp_value
from eventrec.events.model_columns import SerializedColumns
from eventrec.events.nesting import Seen, refuse_repeats, refuse_unserializable
from eventrec.events.privacy import Masks
from eventrec.events.shortcuts import Checked, Shortcut
from eventrec.records.json import (
    KEPT_TYPES,
    as_builtin,
    encode_json,
    encode_struct_json,
    refuse_constants,
    refuse_non_json,
    refuse_repeated_keys,
)
from eventrec.records.marked import fields_of
from eventrec.records.marked_values import refuse_unseen
from eventrec.records.model_marks import is_closed, is_widened, may_be_widened
from eventrec.records.times import refuse_inexact_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pydantic import BaseModel

    from eventrec.records.schema import Row


@dataclass(frozen=True, slots=True)
class ClassPlan:
    """What a class says about its events, and how to take it from an instance.

    `columns` gives the extra columns' values in the order of `fields.columns`; None where there are none. `timestamp`
    gives nanoseconds since the epoch, or None; it is None itself where no field is marked. All three raise EncodeError.
    Values that are marked for privacy are given as a recorder's masker says; where the plan has none, as they are.
    """

    type: str
    table: str
    fields: FieldPlan
    payload: Callable[[Any], bytes]
    columns: Callable[[Any], Row] | None
    timestamp: Callable[[Any], int | None] | None
    masked_payload: Callable[[Any], bytes] | None = None
    """The payload where a field holds an instance whose class marks fields; None: the plan needs no other way."""
    shortcut: Shortcut | None = None
    """What code for this class can be made of, which takes the plan's place where values are plain; None: it cannot."""


# -- structs ----------------------------------------------------------------------------------------------------------


def struct_class_plan(
    cls: type[msgspec.Struct], type_: str, table: str, fields: FieldPlan, masks: Masks | None = None
) -> ClassPlan:
    """The plan of a struct class: every value as it stands in the instance."""
    columns = _attributes(fields.column_fields)
    # Without a recorder: declared values as they are, others hidden.
    unmarked = masks.unmarked if masks is not None else _plain if fields.rules else Masks().unmarked
    masked = _plain_payload(cls, fields, unmarked)
    rest = _rest_of_struct(cls, fields)
    payload = masked if fields.rules else _struct_payload(cls, fields, rest)
    columns = _masked_columns(fields, columns, masks)
    shortcut = _struct_shortcut(cls, fields, rest)
    return ClassPlan(type_, table, fields, payload, columns, _timestamp(fields), masked, shortcut)


def _masked_columns(
    fields: FieldPlan, columns: Callable[[Any], Row] | None, masks: Masks | None
) -> Callable[[Any], Row] | None:
    rules = fields.rules_of_columns()
    if columns is None or masks is None or not rules:
        return columns
    return lambda event: masks.row(fields.columns, columns(event), rules)


def _rest_of_struct(cls: type[msgspec.Struct], fields: FieldPlan) -> type[msgspec.Struct] | None:
    """A class of the fields that stay in the payload; None: all stay, or what leaves cannot be left out so simply."""
    config = cls.__struct_config__
    if not fields.excluded or config.array_like or config.omit_defaults:
        return None
    encoded = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    # A class of what is left: making one and encoding it costs half of a dict.
    return msgspec.defstruct(
        cls.__name__,
        [(name, Any) for name in encoded if name not in fields.excluded],
        rename=encoded,
        tag=config.tag,
        tag_field=config.tag_field,
        gc=False,
    )


def _struct_payload(
    cls: type[msgspec.Struct], fields: FieldPlan, rest: type[msgspec.Struct] | None
) -> Callable[[Any], bytes]:
    if not fields.excluded:
        return encode_struct_json
    if rest is None:
        return _plain_payload(cls, fields, _plain)
    values = _attributes(rest.__struct_fields__)
    if values is None:
        return lambda _: encode_struct_json(rest())
    return lambda event: encode_struct_json(rest(*values(event)))


def _struct_shortcut(
    cls: type[msgspec.Struct], fields: FieldPlan, rest: type[msgspec.Struct] | None
) -> Shortcut | None:
    is_whole = not fields.excluded
    if fields.rules or not (is_whole or rest) or cls.__getattribute__ is not msgspec.Struct.__getattribute__:
        return None
    names = cls.__struct_fields__ if rest is None else rest.__struct_fields__
    if is_whole and not all(isinstance(inspect.getattr_static(cls, name), MemberDescriptorType) for name in names):
        return None  # A property stands before a field, and what msgspec writes is the field.
    types = annotated_types(cls)
    checked = {name: _checked(types[name]) for name in names}
    return Shortcut(checked=checked, rest=rest, columns=fields.column_fields)


def _checked(types: frozenset[object]) -> Checked:
    """Python holds no one to an annotation, so it only says what to look for first."""
    return next((name for name, kind in _CHECKED.items() if types == {kind}), None)


_CHECKED: Final[dict[Checked, type]] = {"str": str, "int": int, "float": float, "bool": bool}


def _plain_payload(cls: type[msgspec.Struct], fields: FieldPlan, plain: Callable[[Any], Any]) -> Callable[[Any], bytes]:
    """By way of what `plain` makes of an event, in JSON values."""
    if fields.excluded and cls.__struct_config__.array_like:
        raise TypeError(f"{cls.__name__}: array_like leaves no names, so no field can leave the payload")
    encoded = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    excluded = [encoded[name] for name in fields.excluded]

    def payload_of(event: Any) -> bytes:
        members = plain(event)
        for name in excluded:
            members.pop(name, None)
        return encode_json(members)

    return payload_of


def _plain(event: Any) -> Any:
    try:
        return msgspec.to_builtins(event, builtin_types=KEPT_TYPES, enc_hook=as_builtin)
    except Exception as exc:
        raise EncodeError(f"not a JSON value: {type(exc).__name__}: {exc}") from exc


# -- pydantic models --------------------------------------------------------------------------------------------------


def model_class_plan(
    cls: type[BaseModel], type_: str, table: str, fields: FieldPlan, masks: Masks | None = None
) -> ClassPlan:
    """The plan of a complete model class.

    All comes from pydantic's own serializer, so that a serializer which masks a field masks it here. Attributes are
    read directly only where the class's core schema shows that no serializer is in the way.
    """
    schemas = _field_schemas(cls)
    columns = _model_columns(cls, fields, schemas, masks)
    return ClassPlan(
        type_,
        table,
        fields,
        _model_payload(cls, fields, schemas, masks),
        columns,
        _timestamp(fields),
        shortcut=_model_shortcut(cls, fields, schemas, columns),
    )


def _model_shortcut(
    cls: type[BaseModel],
    fields: FieldPlan,
    schemas: Mapping[str, Mapping[str, Any]] | None,
    columns: Callable[[Any], Row] | None,
) -> Shortcut | None:
    """Where nothing is looked for but NaN and infinity: see `_model_payload`."""
    if (
        fields.rules
        or isinstance(columns, SerializedColumns)
        or _hides_nan(cls, schemas)
        or _guard(cls, fields, schemas) is not None
    ):
        return None
    return Shortcut(to_json=cls.__pydantic_serializer__.to_json, excluded=fields.excluded, columns=fields.column_fields)


def _hides_nan(cls: type[BaseModel], schemas: Mapping[str, Mapping[str, Any]] | None) -> bool:
    # A model inside writes NaN by its own config, as null. Another choice than ours in this class is its author's.
    return cls.model_config.get("ser_json_inf_nan") == "constants" and (
        schemas is None or not all(_has_only(schema, _SCALARS | _CONTAINERS) for schema in schemas.values())
    )


def _model_payload(
    cls: type[BaseModel], fields: FieldPlan, schemas: Mapping[str, Mapping[str, Any]] | None, masks: Masks | None
) -> Callable[[Any], bytes]:
    serializer = cls.__pydantic_serializer__
    to_json = serializer.to_json
    excluded = set(fields.excluded) or None
    hides_nan = _hides_nan(cls, schemas)
    guard = _guard(cls, fields, schemas)
    # What is not of the kind that its field declares is written by its own kind, past the markers: so it is refused.
    warnings: Literal[False, "error"] = "error" if fields.rules else False
    # Marked models may stand wherever there is more than plain values; without a recorder they show nothing there.
    context = None if guard is None else masks if masks is not None or fields.rules else Masks()

    def payload_of(event: Any) -> bytes:
        may_repeat = guard is not None and guard(event)
        try:
            payload = to_json(event, exclude=excluded, warnings=warnings, context=context)
        except Exception as exc:
            raise EncodeError(f"not a JSON value: {type(exc).__name__}: {exc}") from exc
        refuse_constants(payload)
        if may_repeat:  # A serializer may have made something else of them.
            refuse_repeated_keys(payload)
        if hides_nan and b"null" in payload:
            refuse_non_json(
                serializer.to_python(event, mode="json", exclude=excluded, warnings=warnings, context=context)
            )
        return payload

    return payload_of


def _guard(  # noqa: C901 - one look for each kind of field
    cls: type[BaseModel], fields: FieldPlan, schemas: Mapping[str, Mapping[str, Any]] | None
) -> Callable[[Any], bool] | None:
    """What looks at an event before pydantic's serializer does; None where the schema leaves nothing to look for.

    It tells whether that may write two keys that are one key in JSON.
    """

    def beyond(kinds: frozenset[str], names: Iterable[str]) -> list[str]:
        return [name for name in names if schemas is None or not _has_only(schemas.get(name, {}), kinds)]

    settled, timed = _SETTLED | _CONTAINERS, _SETTLED | _TIMES
    shown = [name for name in (*cls.model_fields, *cls.model_computed_fields) if name not in fields.excluded]
    unsettled = beyond(settled, shown)
    any_ = beyond(timed, unsettled)
    times = _attributes(tuple(name for name in unsettled if name not in any_))
    columns = beyond(settled | _TIMES, fields.excluded)
    wide = [(field.name, field.rule) for field in fields_of(cls) if may_be_widened(field.rule)]
    is_open = not is_closed(cls.__pydantic_core_schema__)
    open_ = [
        (field.name, field.rule)
        for field in fields_of(cls)
        if is_open and field.name in (*any_, *columns) and not is_closed((schemas or {}).get(field.name, _UNKNOWN))
    ]
    has_extra = cls.model_config.get("extra") == "allow"
    foreign = ("__pydantic_extra__", *any_) if any_ or has_extra else ()

    def guard(event: Any) -> bool:
        if times is not None:
            for value in times(event):
                if value.__class__ is datetime and value.tzinfo in _WITHOUT_SECONDS:
                    continue
                if isinstance(value, (datetime, time, timedelta)):
                    refuse_inexact_time(value)
        has_marks, repeats = (
            refuse_unserializable([getattr(event, name, None) for name in foreign]) if foreign else _NOTHING
        )
        for name, rule in wide:
            if is_widened(getattr(event, name, None), rule):
                raise EncodeError(f"{cls.__name__}.{name}: an instance of a subclass that marks more than is declared")
        if columns:
            seen = refuse_unserializable([getattr(event, name, None) for name in columns], with_times=False)
            has_marks |= seen.may_have_marks
            refuse_repeats([getattr(event, name, None) for name in fields.column_fields] if seen.may_repeat else ())
        if has_marks:
            refuse_unseen(event.__pydantic_extra__)
            for name, rule in open_:
                refuse_unseen(getattr(event, name, None), rule)
        return repeats

    return guard if unsettled or columns or has_extra else None


def _model_columns(
    cls: type[BaseModel], fields: FieldPlan, schemas: Mapping[str, Mapping[str, Any]] | None, masks: Masks | None
) -> Callable[[Any], Row] | None:
    names = fields.column_fields
    plain = {name for name in names if schemas is not None and _has_only(schemas.get(name, {}), _SCALARS)}
    if len(plain) == len(names):
        return _attributes(names)
    return SerializedColumns(cls, fields, plain, masks if masks is not None or fields.rules else Masks())


_SETTLED: Final = frozenset(
    {
        *("str", "int", "float", "bool", "bytes", "uuid", "date", "decimal", "enum"),
        *("literal", "none", "nullable", "default", "union"),
    }
)
"""What pydantic writes as it is, whatever a valid model holds there."""

_UNKNOWN: Final = {"type": "unknown"}
_WITHOUT_SECONDS: Final = (UTC, None)
_TIMES: Final = frozenset({"datetime", "time", "timedelta"})
_SCALARS: Final = _SETTLED | _TIMES | {"function-before", "function-after", "function-wrap"}
_CONTENTS: Final = {
    **dict.fromkeys(("list", "set", "frozenset", "tuple"), ("items_schema",)),
    "dict": ("keys_schema", "values_schema"),
}
_CONTAINERS: Final = frozenset(_CONTENTS)
_KEYS: Final = frozenset({"str", "int", "bool", "uuid", "date"})
_NOTHING: Final = Seen(may_have_marks=False, may_repeat=False)
_WRAPPERS: Final = frozenset({"function-before", "function-after", "function-wrap", "model"})


def _field_schemas(cls: type[BaseModel]) -> Mapping[str, Mapping[str, Any]] | None:
    """Core schema of each field; None where it holds more than fields, or does not look as expected."""
    schema: Any = cls.__pydantic_core_schema__
    while isinstance(schema, dict) and schema.get("type") in _WRAPPERS and "serialization" not in schema:
        schema = schema.get("schema")
    if not isinstance(schema, dict) or schema.get("type") != "model-fields" or schema.get("computed_fields"):
        return None
    if cls.model_config.get("extra") == "allow":
        return None
    return {
        name: field.get("schema", {})
        if field.keys() <= {"type", "schema", "metadata", "validation_alias", "frozen"}
        else {}
        for name, field in schema["fields"].items()
    }


def _has_only(schema: Mapping[str, Any], kinds: frozenset[str]) -> bool:
    """Whether `schema` and all within is of `kinds`, and none of it has a serializer of its own."""
    if "serialization" in schema or schema.get("type") not in kinds:
        return False
    if any(key not in schema for key in _CONTENTS.get(schema["type"], ())):
        return False  # A bare list holds anything.
    if schema["type"] == "dict" and schema["keys_schema"].get("type") not in _KEYS:
        return False  # Of several kinds, two keys may be one in JSON.
    parts: list[Any] = [schema[key] for key in ("schema", "keys_schema", "values_schema") if key in schema]
    for key in ("items_schema", "choices"):
        inside = schema.get(key, [])
        parts += [
            part[0] if isinstance(part, tuple) else part for part in (inside if isinstance(inside, list) else [inside])
        ]
    return all(_has_only(part, kinds) for part in parts)


# -- what they share --------------------------------------------------------------------------------------------------


def _attributes(names: tuple[str, ...]) -> Callable[[Any], Row] | None:
    match names:
        case ():
            return None
        case (name,):
            return lambda event: (getattr(event, name),)
        case _:
            return attrgetter(*names)


def _timestamp(fields: FieldPlan) -> Callable[[Any], int | None] | None:
    name = fields.timestamp_field
    return None if name is None else lambda event: timestamp_value(name, getattr(event, name))
