"""Whether the server is to be restarted, and whether it is to be sent anything."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from eventrec.runtime.decoding import decodable
from eventrec.server.refusals import json_response
from eventrec.server.routes import JSON, Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from eventrec.server.serving import Server
    from eventrec.status import Health


@decodable
class Alive(msgspec.Struct, frozen=True):
    """It answers.

    Attributes:
        status: Always "ok".
    """

    status: Literal["ok"] = "ok"


@decodable
class HealthAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `Status.health` says.

    Attributes:
        is_ok: Whether what was asked is so.
        reasons: What is not as it should be; told to those alone who may read.
    """

    is_ok: bool
    reasons: tuple[str, ...] = ()


async def _health(_request: Request, _server: Server) -> Response:
    return json_response(Alive())


async def _live(request: Request, server: Server) -> Response:
    health = server.recorder.status().health
    return _answer(request, server, health, is_ok=health.live)


async def _ready(request: Request, server: Server) -> Response:
    health = server.recorder.status().health
    return _answer(request, server, health, is_ok=health.ready)


def _answer(request: Request, server: Server, health: Health, *, is_ok: bool) -> Response:
    reasons: tuple[str, ...] = ()
    if server.access.may(request, "read"):
        reasons = (*health.reasons, *server.access.remarks)
    status = HTTPStatus.OK if is_ok else HTTPStatus.SERVICE_UNAVAILABLE
    return json_response(HealthAnswer(is_ok, reasons), status)


_UNWELL: Final[dict[int, Any]] = {HTTPStatus.SERVICE_UNAVAILABLE: HealthAnswer}

HEALTH: Final = (
    Route(
        method="GET",
        path="/health",
        endpoint=_health,
        scope=None,
        is_open=True,
        summary="It answers",
        tag="operations",
        answers={JSON: Alive},
    ),
    Route(
        method="GET",
        path="/health/live",
        endpoint=_live,
        scope=None,
        is_open=True,
        summary="503 where a restart may mend what it cannot mend itself",
        description="With a token for reading, or without tokens on this machine, it also says what is wrong.",
        tag="operations",
        answers={JSON: HealthAnswer},
        other_answers=_UNWELL,
    ),
    Route(
        method="GET",
        path="/health/ready",
        endpoint=_ready,
        scope=None,
        is_open=True,
        summary="503 where nothing should be sent to it: its log cannot be written, or it waits for an operator",
        description="With a token for reading, or without tokens on this machine, it also says what is wrong.",
        tag="operations",
        answers={JSON: HealthAnswer},
        other_answers=_UNWELL,
    ),
)
