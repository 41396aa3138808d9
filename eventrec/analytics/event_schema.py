"""The JSON Schema (2020-12) of one event class, as its events are recorded: the libraries' own, and our marks.

keyword                where                    it says
x-eventrec-column      a property               it is not in the payload but in this column: name, type …
x-eventrec-timestamp   a property               it is not in the payload but is the time of the event
x-eventrec-privacy     a property, an event     what is recorded in place of the value: hashed, redacted, truncated;
                                                at an event for each path, `*` for every item or member

A property that is marked for privacy has the schema of what is recorded, not of what the application gives. Marked
fields of classes inside are named at the event alone.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from pydantic.json_schema import GenerateJsonSchema

from eventrec.errors import CatalogueError
from eventrec.events.event import EventModel, EventStruct
from eventrec.records.mark_rules import AnyOf, Each, Fields, Leaf, Members, Positions
from eventrec.records.marked import fields_of
from eventrec.records.marks import MASKS, REDACTED, Hashed, Redacted, Truncated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import core_schema

    from eventrec.analytics.catalogued_event import CataloguedEvent
    from eventrec.records.mark_rules import Rule
    from eventrec.records.marks import Mark
    from eventrec.records.schema import ColumnSchema

Schema = dict[str, Any]

COLUMN: Final = "x-eventrec-column"
TIMESTAMP: Final = "x-eventrec-timestamp"
PRIVACY: Final = "x-eventrec-privacy"
DEFINITIONS: Final = "#/$defs/"

_MEMBERS: Final = "*"
_NOT_IN_A_KEY: Final = re.compile(r"[^A-Za-z0-9._]")


def key_of(*parts: str) -> str:
    """A key for a definition: what no format refuses, and different for different parts."""
    return ".".join(_NOT_IN_A_KEY.sub(_escaped, part) for part in parts)


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"-{byte:02X}" for byte in found[0].encode(errors="surrogatepass"))


def event_schemas(event: CataloguedEvent) -> dict[str, Schema]:
    """The definitions that describe `event`, by their keys; the first one is its own.

    Raises:
        CatalogueError: Its class has no JSON Schema.
    """
    key = key_of(event.type, f"v{event.version}")
    try:
        cls = event.cls
        schema, others = _of_struct(cls, key) if issubclass(cls, EventStruct) else _of_model(cls, key)
    except (TypeError, ValueError, RuntimeError, RecursionError) as exc:
        raise CatalogueError(f"{event.cls.__qualname__} has no JSON Schema: {exc}") from exc
    _mark(event, schema)
    return {key: schema, **{name: others[name] for name in sorted(others)}}


def payload_schema(schema: Schema) -> Schema:
    """`schema` of an event without what is not in the payload."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return schema
    outside = {name for name, each in properties.items() if COLUMN in each or TIMESTAMP in each}
    rest = {**schema, "properties": {name: each for name, each in properties.items() if name not in outside}}
    if "required" in schema:
        rest["required"] = [name for name in schema["required"] if name not in outside]
    return rest


# -- as the libraries describe a class --------------------------------------------------------------------------------


class _Generator(GenerateJsonSchema):
    """What has no schema may be any JSON value: a serializer of the application writes it."""

    def handle_invalid_for_json_schema(self, schema: core_schema.CoreSchema, error_info: str) -> JsonSchemaValue:
        del schema, error_info
        return {}


def _of_model(cls: type[EventModel], key: str) -> tuple[Schema, dict[str, Schema]]:
    document = cls.model_json_schema(
        by_alias=bool(cls.model_config.get("serialize_by_alias")),
        ref_template=f"{DEFINITIONS}{key}.{{model}}",
        schema_generator=_Generator,
        mode="serialization",
    )
    return _parted(document, key)


def _of_struct(cls: type[EventStruct], key: str) -> tuple[Schema, dict[str, Schema]]:
    foreign: dict[str, Schema] = {}

    def hook(kind: type) -> Schema:
        """A class that msgspec has to be told how to write: as pydantic would, where it can."""
        try:
            document = TypeAdapter(kind).json_schema(
                ref_template=f"{DEFINITIONS}{key}.{{model}}", schema_generator=_Generator, mode="serialization"
            )
        except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema, TypeError):
            return {"title": kind.__name__}
        foreign.update(document.pop("$defs", {}))
        return document or {"title": kind.__name__}

    (reference,), components = msgspec.json.schema_components(
        [cls], schema_hook=hook, ref_template=f"{DEFINITIONS}{key}.{{name}}"
    )
    return _parted({**reference, "$defs": {**foreign, **components}}, key)


def _parted(document: Schema, key: str) -> tuple[Schema, dict[str, Schema]]:
    """The schema itself, and what it refers to by their keys; of a class that refers to itself a copy of its own."""
    definitions: dict[str, Schema] = document.pop("$defs", {})
    others = {f"{key}.{name}": schema for name, schema in definitions.items()}
    reference = document.get("$ref")
    if not isinstance(reference, str) or not reference.startswith(DEFINITIONS):
        return document, others
    target = reference.removeprefix(DEFINITIONS)
    own = {**others[target], **{name: value for name, value in document.items() if name != "$ref"}}
    rest = {name: schema for name, schema in others.items() if name != target}
    is_recursive = any(reference == found for schema in (own, *rest.values()) for found in references(schema))
    return copy.deepcopy(own), others if is_recursive else rest


def references(schema: object) -> Iterator[str]:
    """Every `$ref` in a schema."""
    match schema:
        case dict():
            for name, value in schema.items():
                if name == "$ref" and isinstance(value, str):
                    yield value
                else:
                    yield from references(value)
        case list():
            for each in schema:
                yield from references(each)


# -- what we know of it -----------------------------------------------------------------------------------------------


def _mark(event: CataloguedEvent, schema: Schema) -> None:
    properties = schema.get("properties", {})
    shown = property_names(event.cls)
    for name, column in zip(event.column_fields, event.columns, strict=True):
        if shown[name] in properties:
            properties[shown[name]][COLUMN] = column_json(column)
    if event.timestamp_field is not None and shown[event.timestamp_field] in properties:
        properties[shown[event.timestamp_field]][TIMESTAMP] = True
    private: dict[str, str] = {}
    for field in fields_of(event.cls):
        name = shown.get(field.name, field.name)
        if isinstance(field.rule, Leaf) and isinstance(field.rule.mark, MASKS) and name in properties:
            properties[name] = _recorded(properties[name], field.rule.mark, is_text=field.rule.is_text)
        private.update(_private(name, field.rule, ()))
    if private:
        schema[PRIVACY] = private


def property_names(cls: type[EventModel | EventStruct]) -> dict[str, str]:
    """The fields of a class, and what each is called in its payload."""
    if issubclass(cls, EventStruct):
        return dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    by_alias = bool(cls.model_config.get("serialize_by_alias"))
    return {
        name: info.serialization_alias if by_alias and info.serialization_alias else name
        for name, info in cls.model_fields.items()
    }


def column_json(column: ColumnSchema) -> dict[str, Any]:
    """A column as JSON: what is not its default."""
    said = {"precision": column.precision, "scale": column.scale, "dimensions": column.dimensions}
    return {
        "name": column.name,
        "type": column.type.name,
        **({"tag": True} if column.semantic.name == "TAG" else {}),
        **{name: value for name, value in said.items() if value is not None},
    }


def _recorded(schema: Schema, mark: Mark, *, is_text: bool) -> Schema:
    """The schema of what is recorded of a value that `mark` stands at."""
    kept = {name: value for name, value in schema.items() if name in _KEPT}
    match mark:
        case Hashed():
            text: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
            return {**kept, **_or_null(text, schema), PRIVACY: "hashed"}
        case Redacted():
            text = {"type": "string", "const": REDACTED}
            return {**kept, **(_or_null(text, schema) if is_text else {"type": "null"}), PRIVACY: "redacted"}
        case Truncated(length):
            shortest = min(length, schema.get("maxLength", length))
            return {**schema, "maxLength": shortest, PRIVACY: "truncated"}
    return schema


_KEPT: Final = frozenset({"title", "description", "deprecated", COLUMN})


def _or_null(schema: Schema, given: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]} if _may_be_null(given) else schema


def _may_be_null(schema: Schema) -> bool:
    kinds = schema.get("type", [])
    if kinds == "null" or "null" in (kinds if isinstance(kinds, list) else []):
        return True
    parts = [*schema.get("anyOf", []), *schema.get("oneOf", [])]
    return any(map(_may_be_null, parts)) if parts else not kinds and not {"$ref", "enum", "const"} & schema.keys()


def _private(path: str, rule: Rule | None, above: tuple[type, ...]) -> Iterator[tuple[str, str]]:
    """Every path at which a marker stands that replaces the value."""
    if isinstance(rule, Leaf) and isinstance(rule.mark, MASKS):
        yield path, type(rule.mark).__name__.lower()
    if isinstance(rule, Fields) and rule.cls not in above:
        above = (*above, rule.cls)
    elif isinstance(rule, Fields):
        return
    for step, part in _parts(rule):
        yield from _private(f"{path}{step}", part, above)


def _parts(rule: Rule | None) -> Iterator[tuple[str, Rule | None]]:
    """What a rule says of the parts of a value, and the step that leads to each."""
    match rule:
        case Each(inner):
            yield f".{_MEMBERS}", inner
        case Positions(rules):
            yield from ((f".{number}", part) for number, part in enumerate(rules))
        case AnyOf(rules):
            yield from (("", part) for part in rules)
        case Members(by_name):
            yield from ((f".{name}", part) for name, part in by_name.items())
        case Fields(cls):
            yield from ((f".{_shown(cls, field.encoded)}", field.rule) for field in fields_of(cls))


def _shown(cls: type, encoded: tuple[str, ...]) -> str:
    """The name of a field of a class inside an event, as the payload has it."""
    if issubclass(cls, BaseModel) and not cls.model_config.get("serialize_by_alias"):
        return encoded[0]
    return encoded[-1]
