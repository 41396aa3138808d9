"""`GET /openapi.json`: what this server answers to."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from eventrec.runtime.backend import in_thread
from eventrec.server.openapi import openapi_of
from eventrec.server.refusals import json_response
from eventrec.server.routes import JSON, Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from eventrec.server.serving import Server


async def _document(request: Request, _server: Server) -> Response:
    state = request.app.state
    if getattr(state, "document", None) is None:
        state.document = await in_thread(_made, state.table)
    return json_response(state.document)


def _made(table: list[Route]) -> dict[str, Any]:
    try:
        said = version("eventrec")
    except PackageNotFoundError:
        said = "0"
    return openapi_of(table, version=said)


DOCUMENT: Final = (
    Route(
        method="GET",
        path="/openapi.json",
        endpoint=_document,
        scope=None,
        summary="This document",
        tag="operations",
        answers={JSON: dict[str, Any]},
    ),
)
