"""The account of the recorder, its health, and what its log directory holds."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventrec.runs.followers import Followers
from eventrec.runs.summary import follower_summary, log_summary, total
from eventrec.runs.survey import see_all
from eventrec.runtime.decoding import decodable
from eventrec.server.operations.letters import look
from eventrec.server.refusals import json_response
from eventrec.server.routes import JSON, Route
from eventrec.server.serving import shared_state

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from eventrec.delivery.letters.counts import LetterCounter
    from eventrec.server.serving import Server

MAX_LOGS: Final = 1_000
"""Logs that one answer tells of, each; the total is of all."""


@decodable
class HealthTold(msgspec.Struct, frozen=True):
    """What `Status.health` says, with what is wrong with the server."""

    live: bool
    ready: bool
    reasons: list[str]


@decodable
class StatusAnswer(msgspec.Struct, frozen=True):
    """What is told of the recorder.

    Attributes:
        status: Its account, as `Status.to_dict` gives it.
        health: What a health check asks.
        log: What its log directory holds, as `eventrec status --json` tells it, of 1,000 logs at most; null: none.
    """

    status: dict[str, Any]
    health: HealthTold
    log: dict[str, Any] | None


async def _status(_request: Request, server: Server) -> Response:
    status = server.recorder.status()
    health = status.health
    log = None if server.log is None else await look(server, partial(_told, shared_state(server).letters))
    told = HealthTold(health.live, health.ready, [*health.reasons, *server.access.remarks])
    return json_response(StatusAnswer(status.to_dict(), told, log))


def _told(counter: LetterCounter, directory: Path) -> dict[str, Any]:
    logs, followers = see_all(directory), Followers(directory).by_file().values()
    letters = counter.of(directory)
    return {
        "logs": [log_summary(log) for log in logs[:MAX_LOGS]],
        "total": total(logs),
        "dead_letters": letters.waiting,
        "followed": {each.name: follower_summary(each, logs) for each in followers},
        "unreadable_dead_letters": letters.unreadable,
    }


STATUS: Final = (
    Route(
        method="GET",
        path="/status",
        endpoint=_status,
        scope="read",
        summary="The account of the recorder, and what its log directory holds",
        tag="operations",
        answers={JSON: StatusAnswer},
    ),
)
