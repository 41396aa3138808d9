"""Markers in pydantic models: whether something stands before them, in the class or in an instance of another one."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from eventrec.records.mark_rules import AnyOf, Each, Fields, Positions, has_fields
from eventrec.records.marked import fields_of, is_marked_here, marked_fields, rules_of
from eventrec.records.marks import MarkedSerializer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel

    from eventrec.records.mark_rules import Rule


def check_model_marks(cls: type[BaseModel]) -> None:
    """Check that nothing of a complete model class, or of a class that it names, stands before a marker.

    Raises:
        TypeError: A serializer writes a marked value, or what holds one, so the marker has no effect.
    """
    named = [(each, marked_fields(each)) for each in named_classes(cls)]
    for each, marked in named:
        _check_decorators(each, marked)
    for each, marked in named:
        schemas = _Schemas(getattr(each, "__pydantic_core_schema__", None))
        for name in marked.keys() & schemas.fields.keys():
            own = f"{each.__name__}.{name}", marked[name], schemas.fields[name]
            for where, rule, schema in (own, *schemas.inner(name)):
                if (is_marked_here(rule) and not schemas.has_marker(schema)) or schemas.is_shadowed(schema):
                    raise TypeError(f"{where}: something else writes it, so it cannot be marked")


def _check_decorators(cls: type, marked: Mapping[str, Rule]) -> None:
    decorators = getattr(cls, "__pydantic_decorators__", None)
    if decorators is None or not marked:
        return
    if decorators.model_serializers:
        raise TypeError(f"{cls.__name__}: has a model_serializer, so its fields cannot be marked")
    for serializer in decorators.field_serializers.values():
        for name in marked.keys() & set(serializer.info.fields):
            raise TypeError(f"{cls.__name__}.{name}: has a serializer, so it cannot be marked")
        if "*" in serializer.info.fields:
            raise TypeError(f"{cls.__name__}: has a serializer of all fields, so none can be marked")


class _Schemas:
    """The core schema of a class: `fields` are those of its fields, {} where it does not look as expected."""

    def __init__(self, schema: Any) -> None:
        self._definitions: dict[str, Any] = {}
        while isinstance(schema, dict) and schema.get("type") in _AROUND_FIELDS:
            self._definitions |= {each["ref"]: each for each in schema.get("definitions", ())}
            schema = self._definitions.get(schema["schema_ref"]) if "schema_ref" in schema else schema.get("schema")
        self.fields: dict[str, Any] = {}
        if isinstance(schema, dict) and schema.get("type") == "model-fields":
            computed = {each["property_name"]: each for each in schema.get("computed_fields", ())}
            self.fields = {**schema["fields"], **computed}

    def inner(self, name: str) -> Iterator[tuple[str, Rule, object]]:
        """The marked fields of dataclasses and TypedDicts in the field `name`: which, their rule, their schema."""
        for each in self._all(self.fields[name], set()):
            cls, kind = each.get("cls"), each.get("type")
            if not isinstance(cls, type) or kind not in {"dataclass", "typed-dict"}:
                continue
            inside = each["schema"].get("fields", ()) if kind == "dataclass" else each["fields"].items()
            schemas = {part["name"]: part for part in inside} if kind == "dataclass" else dict(inside)
            for field, rule in marked_fields(cls).items():
                if field in schemas:
                    yield f"{cls.__name__}.{field}", rule, schemas[field]

    def has_marker(self, schema: object) -> bool:
        """Whether a marker stands in `schema`, so that pydantic's serializer asks it."""
        return any(isinstance(_writer(each), MarkedSerializer) for each in self._all(schema, set()))

    def is_shadowed(self, schema: object) -> bool:
        """Whether a serializer of the application stands over a marker in `schema`."""
        return any(
            self.has_marker({name: part for name, part in each.items() if name != "serialization"})
            for each in self._all(schema, set())
            if _is_foreign(_writer(each))
        )

    def _all(self, schema: object, seen: set[str]) -> Iterator[dict[str, Any]]:
        if isinstance(schema, (list, tuple)):
            for part in schema:
                yield from self._all(part, seen)
        if not isinstance(schema, dict):
            return
        yield schema
        ref = schema.get("schema_ref")
        if isinstance(ref, str) and ref not in seen:
            seen.add(ref)
            yield from self._all(self._definitions.get(ref), seen)
        for name, part in schema.items():
            if name != "metadata":
                yield from self._all(part, seen)


_AROUND_FIELDS: Final = frozenset(
    {"definitions", "definition-ref", "function-before", "function-after", "function-wrap", "model"}
)


def _writer(schema: dict[str, Any]) -> object:
    said = schema.get("serialization")
    return said.get("function") if isinstance(said, dict) else None


def _is_foreign(function: object) -> bool:
    """Whether it is an application's: pydantic has some of its own, which pass on what is inside."""
    if function is None or isinstance(function, MarkedSerializer):
        return False
    return not str(getattr(function, "__module__", "")).startswith("pydantic.")


def named_classes(cls: type) -> Iterator[type]:
    """`cls`, and the classes that it names in its annotations, at any depth."""
    return _named(cls, set())


def _named(cls: type, seen: set[type]) -> Iterator[type]:
    if cls in seen:
        return
    seen.add(cls)
    yield cls
    for field in fields_of(cls):
        for inner in _classes(field.rule):
            yield from _named(inner, seen)


def _classes(rule: Rule | None) -> Iterator[type]:
    match rule:
        case Fields(cls):
            yield cls
        case Each(inner):
            yield from _classes(inner)
        case Positions(rules) | AnyOf(rules):
            for part in rules:
                yield from _classes(part)


def is_closed(schema: object) -> bool:
    """Whether pydantic writes all of a valid value of a core schema, definitions included, as the schema says.

    Else the class of an instance may say what is written of it.
    """
    if isinstance(schema, (list, tuple)):
        return all(map(is_closed, schema))
    if not isinstance(schema, dict):
        return True
    kind = schema.get("type")
    if not isinstance(kind, str):  # the fields of a class, by their names
        return all(map(is_closed, schema.values()))
    if (
        kind not in _CLOSED
        or any(name not in schema for name in _CONTENTS.get(kind, ()))
        or _is_open_to_more(schema)
        or not isinstance(_writer(schema), MarkedSerializer | None)
        or ("serialization" in schema and _writer(schema) is None)
    ):
        return False
    return all(is_closed(part) for name, part in schema.items() if name not in _BESIDE)


def _is_open_to_more(schema: dict[str, Any]) -> bool:
    config = getattr(schema.get("cls"), "model_config", {})
    return "allow" in (schema.get("extra_behavior"), config.get("extra") if isinstance(config, dict) else None)


_CONTENTS: Final = {
    **dict.fromkeys(("list", "set", "frozenset", "tuple", "generator"), ("items_schema",)),
    "dict": ("keys_schema", "values_schema"),
    "computed-field": ("return_schema",),
}
_CLOSED: Final = frozenset(
    {
        *("str", "int", "float", "bool", "bytes", "uuid", "date", "datetime", "time", "timedelta", "decimal", "enum"),
        *("literal", "none", "nullable", "default", "union", "tagged-union", *_CONTENTS),
        *("function-before", "function-after", "function-wrap", "model", "model-fields", "model-field"),
        *("dataclass", "dataclass-args", "dataclass-field", "typed-dict", "typed-dict-field"),
        *("definitions", "definition-ref"),
    }
)
_BESIDE: Final = frozenset({"metadata", "serialization", "config", "default", "expected", "members"})
"""What is not a schema in a schema."""


# -- instances --------------------------------------------------------------------------------------------------------


def writes_marks(cls: type, declared: Rule | None) -> bool:
    """Whether pydantic, where `declared` stands, sees to the marked fields of an instance of `cls`.

    Of its own classes it does wherever they are, of others where they are named; but for a serializer in the way.
    """
    return ("__pydantic_serializer__" in vars(cls) and _writes_own_marks(cls)) or cls in _classes(declared)


@lru_cache(maxsize=4_096)
def _writes_own_marks(cls: type) -> bool:
    try:
        check_model_marks(cls)
    except TypeError:
        return False
    return True


def may_be_widened(rule: Rule | None) -> bool:
    """Whether a class that `rule` names has a subclass, by now, that marks one of its fields otherwise.

    pydantic writes an instance of it as the named class says.
    """
    return any(
        _marks_otherwise(sub, named)
        for cls in _classes(rule)
        for named in named_classes(cls)
        for sub in _subclasses(named)
    )


def _subclasses(cls: type) -> Iterator[type]:
    below: list[type] = type.__subclasses__(cls)
    for sub in below:
        yield sub
        yield from _subclasses(sub)


def _marks_otherwise(sub: type, named: type) -> bool:
    declared = rules_of(named)
    shared = {name for field in fields_of(named) for name in field.encoded}
    return any(declared.get(name) != rule for name, rule in rules_of(sub).items() if name in shared)


def is_widened(value: Any, rule: Rule | None) -> bool:
    """Whether an instance in `value` is of such a subclass of what `rule` names where it stands."""
    kind: Any = type(value)
    if issubclass(kind, dict):
        return any(is_widened(part, rule) for part in value.values())
    if not has_fields(kind):
        return issubclass(kind, (list, tuple, set, frozenset)) and any(is_widened(part, rule) for part in value)
    named = list(_classes(rule))
    if kind not in named and any(issubclass(kind, cls) and _marks_otherwise(kind, cls) for cls in named):
        return True
    return any(is_widened(getattr(value, field.name, None), field.rule) for field in fields_of(kind) if field.rule)
