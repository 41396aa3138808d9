"""`POST /dead/replay`: dead letters delivered after all, as `eventrec dead replay` does."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Final

import anyio
import msgspec

from eventrec.delivery.letters.kept import sweep_letters
from eventrec.delivery.letters.log import LetterLog
from eventrec.delivery.replay import Replayed, replay
from eventrec.errors import HandlerURLError, LogError, LogLockedError, SubscriptionError
from eventrec.recorder import subscriptions_of
from eventrec.runs.directory import DEAD
from eventrec.runs.layouts import kept_layouts
from eventrec.runs.run import new_run_id
from eventrec.runtime.backend import in_thread
from eventrec.runtime.decoding import decodable
from eventrec.server.bodies import json_of
from eventrec.server.operations.letters import log_of, look, waiting
from eventrec.server.refusals import RefusedError, json_response
from eventrec.server.routes import JSON, Route

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from eventrec.delivery.subscription import Subscription
    from eventrec.server.serving import Server

MAX_SECONDS: Final = 300.0


@decodable
class Replay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be delivered after all.

    Attributes:
        subscription: The subscription whose dead letters these are.
        timeout: Seconds after which it is answered, whatever is left.
    """

    subscription: str
    timeout: Annotated[float, msgspec.Meta(ge=0, le=MAX_SECONDS)] = 30.0


@decodable
class ReplayAnswer(msgspec.Struct, frozen=True):
    """What became of them.

    Attributes:
        delivered: How many were.
        refused_again: How many were refused again, and are dead letters again.
        waiting: How many of the subscription wait now.
        is_done: Whether all were tried.
        state: That of the delivery; where not all were, why.
    """

    delivered: int
    refused_again: int
    waiting: int
    is_done: bool
    state: str


async def _replay(request: Request, server: Server) -> Response:
    asked = await json_of(request, server, Replay)
    directory = log_of(server)
    try:
        subscription = subscriptions_of(server.recorder).another(asked.subscription)
    except SubscriptionError as exc:
        is_known = asked.subscription in subscriptions_of(server.recorder).names
        raise RefusedError(HTTPStatus.CONFLICT if is_known else HTTPStatus.NOT_FOUND, str(exc)) from exc
    except HandlerURLError as exc:
        raise RefusedError(HTTPStatus.CONFLICT, "its destination cannot be opened again by its URL") from exc
    try:
        done = await _deliver(directory, subscription, asked.timeout, server)
    except LogLockedError as exc:
        raise RefusedError(HTTPStatus.CONFLICT, "these letters are being replayed") from exc

    def left(directory: Path) -> int:
        sweep_letters(directory / DEAD)
        return sum(kept.letter.subscription == subscription.name for kept in waiting(directory))

    return json_response(ReplayAnswer(done.delivered, done.dead, await look(server, left), done.is_done, done.state))


async def _deliver(directory: Path, subscription: Subscription, seconds: float, server: Server) -> Replayed:
    """What became of the letters within `seconds`. Raises LogLockedError."""
    latest = Replayed()

    def note(progress: Replayed) -> None:
        nonlocal latest
        latest = progress

    try:
        subscription.handler.assume_layouts((await in_thread(kept_layouts, directory))[0])
    except (OSError, LogError) as exc:
        raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "the log directory cannot be read now") from exc
    letters = LetterLog(
        directory / DEAD, new_run_id, max_bytes=subscriptions_of(server.recorder).options.max_dead_bytes
    )
    try:
        with anyio.move_on_after(seconds) as limit:
            await replay(
                directory / DEAD,
                subscription.handler,
                name=subscription.name,
                settings=subscription.settings,
                letters=letters,
                on_progress=note,
            )
    finally:
        letters.close()
    if limit.cancelled_caught:
        latest.is_done = False
    return latest


REPLAY: Final = Route(
    method="POST",
    path="/dead/replay",
    endpoint=_replay,
    scope="admin",
    summary="Deliver dead letters after all, each with its own time and id",
    description="What is refused again is a dead letter again. The destination is that of the subscription.",
    tag="dead letters",
    bodies={JSON: Replay},
    answers={JSON: ReplayAnswer},
    refusals=(404, 409),
)
