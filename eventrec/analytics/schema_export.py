"""A catalogue as a document for other programs: JSON Schema, AsyncAPI 3.0, or a JSON Schema of CloudEvents.

format        describes                                     who reads it
json-schema   every event with its columns, and the         `eventrec catalogue check`, code generators, reviewers
              layouts and rollups: all that is declared
asyncapi      a channel for each table, a message for       tools that document or generate consumers
              each type and version, its payload
cloudevents   the events that the handler `http` sends      receivers that validate them

The same catalogue gives the same bytes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args
from urllib.parse import quote

import msgspec

from eventrec.analytics.event_schema import DEFINITIONS, Schema, event_schemas, key_of, payload_schema
from eventrec.analytics.rollup import plan_of
from eventrec.records.column_types import ColumnType

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.analytics.catalogue import Catalogue
    from eventrec.analytics.catalogued_event import CataloguedEvent

Format: TypeAlias = Literal["json-schema", "asyncapi", "cloudevents"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

ABOUT: Final = "x-eventrec"
TYPE: Final = "x-eventrec-type"
VERSION: Final = "x-eventrec-version"
TABLE: Final = "x-eventrec-table"
DOCUMENT_VERSION: Final = 1

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_COMPONENTS: Final = "#/components/schemas/"


def export(catalogue: Catalogue, format_: Format = "json-schema") -> dict[str, Any]:
    """`catalogue` as a document of `format_`, in JSON values.

    Raises:
        CatalogueError: An event class has no JSON Schema.
        ValueError: There is no such format.
    """
    match format_:
        case "json-schema":
            return _json_schema(catalogue)
        case "asyncapi":
            return _asyncapi(catalogue)
        case "cloudevents":
            return _cloudevents(catalogue)
        case unknown:
            raise ValueError(f"a format is one of {', '.join(FORMATS)}, got {unknown!r}")


def encoded(document: dict[str, Any]) -> bytes:
    """A document as text for people and for version control: indented, with a line end."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


# -- JSON Schema ------------------------------------------------------------------------------------------------------


def _json_schema(catalogue: Catalogue) -> dict[str, Any]:
    definitions: dict[str, Schema] = {}
    for event in catalogue.events:
        definitions |= _described(event)
    return {
        "$schema": _DIALECT,
        "$id": _urn(catalogue),
        "title": catalogue.name,
        **_description(catalogue),
        ABOUT: {
            "document": DOCUMENT_VERSION,
            "release": catalogue.release,
            "version_field": catalogue.version_field,
            "aliases": dict(sorted(catalogue.aliases.items())),
            "retired": dict(sorted(catalogue.retired.items())),
            "upgrades": sorted(
                [_version_key(catalogue, upgrade.before), _version_key(catalogue, upgrade.after)]
                for upgrade in catalogue.upgrades
            ),
            "layouts": [msgspec.json.decode(layout.to_json()) for layout in catalogue.layouts],
            "rollups": [_plain(plan_of(rollup)) for rollup in catalogue.rollups],
        },
        **({"oneOf": [{"$ref": DEFINITIONS + _key(event)} for event in catalogue.events]} if catalogue.events else {}),
        "$defs": definitions,
    }


def _described(event: CataloguedEvent) -> dict[str, Schema]:
    schemas = event_schemas(event)
    schemas[_key(event)] |= {TYPE: event.type, VERSION: event.version, TABLE: event.table}
    return schemas


def _key(event: CataloguedEvent) -> str:
    return key_of(event.type, f"v{event.version}")


def _version_key(catalogue: Catalogue, cls: type) -> str:
    return next(_key(event) for event in catalogue.events if event.cls is cls)


def _urn(catalogue: Catalogue) -> str:
    return f"urn:eventrec:catalogue:{quote(catalogue.name, safe='')}"


def _description(catalogue: Catalogue) -> dict[str, str]:
    return {} if catalogue.description is None else {"description": catalogue.description}


def _plain(value: Any) -> Any:
    """A plan in JSON values: a dataclass says its kind."""
    if dataclasses.is_dataclass(value):
        members = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind_of": type(value).__name__, **members}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, ColumnType):
        return value.name
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


# -- AsyncAPI ---------------------------------------------------------------------------------------------------------


def _asyncapi(catalogue: Catalogue) -> dict[str, Any]:
    schemas: dict[str, Schema] = {}
    messages: dict[str, Any] = {}
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for event in catalogue.events:
        key, channel = _key(event), key_of(event.table)
        described = event_schemas(event)
        described[key] = payload_schema(described[key])
        schemas |= {name: _draft_7(schema) for name, schema in described.items()}
        messages[key] = {
            "name": event.type,
            "title": f"{event.type}, version {event.version}",
            "contentType": "application/json",
            "payload": {"$ref": _COMPONENTS + key},
            VERSION: event.version,
        }
        channels.setdefault(channel, {"address": event.table, "messages": {}})["messages"][key] = {
            "$ref": f"#/components/messages/{key}"
        }
        operations.setdefault(
            f"record.{channel}", {"action": "send", "channel": {"$ref": f"#/channels/{channel}"}, "messages": []}
        )["messages"].append({"$ref": f"#/channels/{channel}/messages/{key}"})
    return {
        "asyncapi": "3.0.0",
        "id": _urn(catalogue),
        "info": {"title": catalogue.name, "version": catalogue.release, **_description(catalogue)},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


def _draft_7(schema: Any) -> Any:
    """A schema as AsyncAPI has it, draft 7: what stands beside a `$ref` would not count there."""
    if isinstance(schema, list):
        return [_draft_7(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    rest = dict(schema)
    said: Schema = {}
    if "$ref" in rest:
        target = {"$ref": _COMPONENTS + rest.pop("$ref").removeprefix(DEFINITIONS)}
        said = {"allOf": [target]} if rest else target
    if "prefixItems" in rest:
        beyond = rest.pop("items", True)
        said |= {"items": _draft_7(rest.pop("prefixItems")), "additionalItems": _draft_7(beyond)}
    return {**said, **_each(rest, _draft_7)}


def _each(schema: Schema, convert: Callable[[Any], Any]) -> Schema:
    """`schema`, with what is a schema in it converted: not values of the application that look like one."""
    return {
        name: {key: convert(each) for key, each in value.items()}
        if name in _SCHEMAS_BY_NAME and isinstance(value, dict)
        else convert(value)
        if name in _SCHEMAS
        else value
        for name, value in schema.items()
    }


_SCHEMAS_BY_NAME: Final = frozenset({"properties", "patternProperties", "dependentSchemas"})
_SCHEMAS: Final = frozenset(
    {
        *("items", "prefixItems", "additionalItems", "additionalProperties", "unevaluatedProperties", "propertyNames"),
        *("contains", "anyOf", "oneOf", "allOf", "not", "if", "then", "else"),
    }
)


# -- CloudEvents ------------------------------------------------------------------------------------------------------


def _cloudevents(catalogue: Catalogue) -> dict[str, Any]:
    definitions: dict[str, Schema] = {}
    for event in catalogue.events:
        described = event_schemas(event)
        key = _key(event)
        described[key] = payload_schema(described[key])
        definitions |= described
        definitions[f"{key}.cloudevent"] = _envelope(event, key)
    references = [{"$ref": f"{DEFINITIONS}{_key(event)}.cloudevent"} for event in catalogue.events]
    return {
        "$schema": _DIALECT,
        "$id": f"{_urn(catalogue)}:cloudevents",
        "title": f"{catalogue.name}, as CloudEvents 1.0",
        **_description(catalogue),
        **({"oneOf": references} if references else {}),
        "$defs": definitions,
    }


def _envelope(event: CataloguedEvent, key: str) -> Schema:
    required = ["specversion", "id", "source", "type", "time", "datacontenttype", "table", "data"]
    text = {"type": "string", "minLength": 1}
    properties: dict[str, Schema] = {
        "specversion": {"const": "1.0"},
        "id": text,
        "source": {**text, "format": "uri-reference"},
        "type": {"const": event.type},
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"const": "application/json"},
        "table": {"const": event.table},
        "context": {"type": "string", "contentMediaType": "application/json"},
        "data": {"$ref": DEFINITIONS + key},
    }
    if event.columns:
        properties["columns"] = {"type": "string", "contentMediaType": "application/json"}
        required.append("columns")
    return {
        "title": f"{event.type}, version {event.version}",
        "type": "object",
        "properties": properties,
        "required": required,
        VERSION: event.version,
    }
