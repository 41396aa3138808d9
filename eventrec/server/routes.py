"""The route table: what the server answers to. Starlette's routes, and the OpenAPI document, are made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from eventrec.server.scopes import Scope
    from eventrec.server.serving import Server

Endpoint: TypeAlias = "Callable[[Request, Server], Awaitable[Response]]"
"""Answers one request; raises `RefusedError` where it does not."""

JSON: Final = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A parameter of the query, or of the path.

    Attributes:
        name: What it is called.
        description: What it says, and what holds without it.
        type: What its text means, as a type that a JSON schema is made of.
        place: Where it stands.
        is_repeated: Whether it may stand several times.
    """

    name: str
    description: str
    type: Any = str
    place: Literal["query", "path"] = "query"
    is_repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path.

    Attributes:
        method: GET or POST.
        path: As Starlette writes it: `/rollups/{name}`.
        endpoint: What answers.
        scope: The scope that a token needs; None: none is needed.
        summary: What it is for, in one line.
        description: More of it.
        tag: The part of the document it stands in.
        is_checked_inside: The token is in the body: the endpoint itself asks `Server.access`.
        is_open: It is answered to any client, also where there are no tokens, and it is not this machine that asks.
        parameters: Of path and query.
        bodies: What may be sent: media type to the type of it, None where it is not JSON.
        answers: What comes back when it goes well: media type to the type of it, None where it is not JSON.
        refusals: The statuses of refusals, beside 400 and those that every route may have (401, 403, 429, 503).
        status: That of the answer.
        other_answers: Other statuses that an answer of JSON may have, which are not refusals: the type of each.
    """

    method: Literal["GET", "POST"]
    path: str
    endpoint: Endpoint
    scope: Scope | None
    summary: str
    description: str = ""
    tag: str = ""
    is_checked_inside: bool = False
    is_open: bool = False
    parameters: tuple[Query, ...] = ()
    bodies: Mapping[str, Any] = field(default_factory=dict)
    answers: Mapping[str, Any] = field(default_factory=lambda: {JSON: Any})
    refusals: tuple[int, ...] = ()
    status: int = 200
    other_answers: Mapping[int, Any] = field(default_factory=dict)
