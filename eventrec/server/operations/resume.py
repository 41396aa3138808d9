"""Lets a paused subscription go on, as `eventrec resume` does."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal, get_args

import msgspec

from eventrec.errors import RecorderStateError
from eventrec.recorder import subscriptions_of
from eventrec.runs.followers import Followers
from eventrec.runs.holds import CHANGED, held_in
from eventrec.runs.requests import OperatorRequest, save_request
from eventrec.runs.survey import see_all
from eventrec.runtime.decoding import decodable
from eventrec.server.operations.letters import look
from eventrec.server.parameters import Parameters
from eventrec.server.refusals import RefusedError, json_response
from eventrec.server.routes import JSON, Query, Route

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from eventrec.server.serving import Server

_Start = Literal["earliest", "latest"]

_STARTS: Final[tuple[_Start, ...]] = get_args(_Start)
_PARAMETERS: Final = (
    Query(name="name", description="The subscription.", place="path"),
    Query(
        name="from",
        description=(
            'Where another destination answers than before: "earliest" sends it all that is kept, "latest" what'
            " was not delivered to the one before. There it is needed."
        ),
        type=_Start,
    ),
)


@decodable
class Resumed(msgspec.Struct, frozen=True):
    """A subscription goes on.

    Attributes:
        subscription: Its name.
        is_elsewhere: It is not one of this recorder's: the processes that deliver it from the log directory, if there
            are some, let it go on within seconds.
    """

    subscription: str
    is_elsewhere: bool


async def _resume(request: Request, server: Server) -> Response:
    name = request.path_params["name"]
    start = Parameters(request, _PARAMETERS).choice("from", _STARTS)
    is_ours = name in subscriptions_of(server.recorder).names
    if not is_ours and server.log is None:
        raise _unknown(name)

    if is_ours and start is None:
        _refuse_changed(name, {part.state for part in server.recorder.status().parts_of(name)})
    if server.log is not None:
        if not is_ours or start is None:
            is_known, state = await look(server, lambda directory: _seen(directory, name))
            if not is_ours and not is_known:
                raise _unknown(name)
            if start is None:
                _refuse_changed(name, {state})
        asked = OperatorRequest(subscription=name, asked=time.time(), start=start)
        await look(server, lambda directory: save_request(directory, asked))
    if is_ours:
        try:
            server.recorder.resume(name, start=start)
        except RecorderStateError as exc:
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "the recorder is not open") from exc
    return json_response(Resumed(name, not is_ours))


def _seen(directory: Path, name: str) -> tuple[bool, str]:
    """Whether the subscription is known there, and the pause that an operator ends; empty: none."""
    logs, followed = see_all(directory), {each.name for each in Followers(directory).by_file().values()}
    return name in followed or any(name in log.names for log in logs), held_in(logs).get(name, "")


def _refuse_changed(name: str, states: AbstractSet[str]) -> None:
    if CHANGED in states:
        raise RefusedError(
            HTTPStatus.CONFLICT,
            f"{name[:100]!r} is paused, since another destination answers than before: from=earliest sends it all that"
            " is kept, from=latest what was not delivered to the one before; where that one answers again, it goes on"
            " by itself",
        )


def _unknown(name: str) -> RefusedError:
    return RefusedError(HTTPStatus.NOT_FOUND, f"there is no subscription {name[:100]!r}")


RESUME: Final = (
    Route(
        method="POST",
        path="/resume/{name}",
        endpoint=_resume,
        scope="admin",
        summary="Let a paused subscription go on at once",
        tag="operations",
        parameters=_PARAMETERS,
        answers={JSON: Resumed},
        refusals=(404, 409),
    ),
)
