"""The OpenAPI document (3.1) of the route table: every path, what may be sent, every answer, every refusal."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventrec.server.refusals import PROBLEM, Problem
from eventrec.server.routes import JSON

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventrec.server.routes import Query, Route

_REF: Final = "#/components/schemas/{name}"
_ALWAYS: Final = (400, 429, 500, 503)
_WITH_SCOPE: Final = (401, 403)
_WITH_BODY: Final = (408, 413, 415)


def openapi_of(routes: Iterable[Route], *, version: str) -> dict[str, Any]:
    """The document, as plain values."""
    table = list(routes)
    types = [kind for route in table for kind in _types_of(route)] + [Problem]
    unique = list({repr(kind): kind for kind in types}.values())
    schemas, components = msgspec.json.schema_components(unique, ref_template=_REF)
    known = {repr(kind): schema for kind, schema in zip(unique, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        path = route.path.replace(":path}", "}")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, known)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "eventrec",
            "version": version,
            "description": "Takes events, and tells what is stored. 200 means that the events are written.",
        },
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of `eventrec token new`. Without tokens this machine alone is answered.",
                }
            },
        },
    }


def _types_of(route: Route) -> list[Any]:
    kinds = [*route.bodies.values(), *route.answers.values(), *route.other_answers.values()]
    return [kind for kind in kinds if kind is not None] + [each.type for each in route.parameters]


def _operation(route: Route, known: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": _name_of(route),
        "responses": _responses(route, known),
    }
    if route.description:
        operation["description"] = route.description
    if route.tag:
        operation["tags"] = [route.tag]
    if route.scope is not None:
        operation["security"] = [{"token": []}]
        operation["description"] = f"{route.description} Needs the scope `{route.scope}`.".strip()
    if route.parameters:
        operation["parameters"] = [_parameter(each, known) for each in route.parameters]
    if route.bodies:
        operation["requestBody"] = {"required": True, "content": _content(route.bodies, known)}
    return operation


def _name_of(route: Route) -> str:
    words = "".join(char if char.isalnum() else " " for char in route.path).split()
    # Clients have paths that differ in the slash at their end alone.
    return "_".join([route.method.lower(), *words, *(("slash",) if route.path.endswith("/") and words else ())])


def _responses(route: Route, known: dict[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {
        str(route.status): {
            "description": HTTPStatus(route.status).phrase,
            **({"content": content} if (content := _content(route.answers, known)) else {}),
        }
    }
    for status, kind in route.other_answers.items():
        responses[str(int(status))] = {
            "description": HTTPStatus(status).phrase,
            "content": _content({JSON: kind}, known),
        }
    statuses = {*_ALWAYS, *route.refusals}
    statuses |= set(_WITH_SCOPE) if not route.is_open else set()
    statuses |= set(_WITH_BODY) if route.method == "POST" else set()
    for status in sorted(statuses):
        refused = responses.setdefault(str(status), {"description": HTTPStatus(status).phrase})
        refused.setdefault("content", {})[PROBLEM] = {"schema": known[repr(Problem)]}
    return dict(sorted(responses.items()))


def _content(kinds: Any, known: dict[str, Any]) -> dict[str, Any]:
    return {media: {"schema": known[repr(kind)]} if kind is not None else {} for media, kind in kinds.items()}


def _parameter(query: Query, known: dict[str, Any]) -> dict[str, Any]:
    schema = known[repr(query.type)]
    return {
        "name": query.name,
        "in": query.place,
        "required": query.place == "path",
        "description": query.description,
        "schema": {"type": "array", "items": schema} if query.is_repeated else schema,
    }
