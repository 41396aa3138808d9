"""Makes the ASGI application: the routes of all rooms behind one way of checking, answering and refusing.

    guards        bounds, hosts, CORS, the access log (guards.py)
    check         the token's scope (access.py)
    endpoint      of a room; it reads the body (bodies.py) where it wants one
    refusal       what it raises becomes an answer; never a traceback

It may be mounted in another application. That one's lifespan then enters `running(app)`, since Starlette runs no
lifespan of what is mounted.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match
from starlette.routing import Route as StarletteRoute

from eventrec.recorder import subscriptions_of
from eventrec.server.access import Access
from eventrec.server.failures import say_failed
from eventrec.server.guards import ROUTE, guarded
from eventrec.server.options import ServerOptions
from eventrec.server.reading.pool import Pool
from eventrec.server.refusals import RefusedError
from eventrec.server.rooms import routes_of
from eventrec.server.serving import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from starlette.requests import Request

    from eventrec.analytics import Catalogue
    from eventrec.recorder import EventRecorder
    from eventrec.server.routes import Route
    from eventrec.server.tokens import Tokens


def application(
    recorder: EventRecorder,
    *,
    to: str | None = None,
    catalogue: Catalogue | None = None,
    log: Path | None = None,
    tokens: Tokens | None = None,
    options: ServerOptions | None = None,
    takes_events: bool = True,
    routes: Sequence[Route] = (),
) -> Starlette:
    """The ASGI application that takes events for `recorder`, and tells what is stored in the destination `to`.

    `to` is the URL of a destination that can be read; without one, nothing is told of what is stored. `catalogue` names
    the rollups. `log` is the recorder's log directory, where its dead letters are. Without `tokens` only this machine
    is answered. `takes_events=False` is for a relay: what it took would pass its stages by. Its lifespan opens the
    recorder where it is new, and closes it then. `routes` are the application's own, checked, refused and documented
    as the others are.

    Raises:
        HandlerURLError: `to` names an unknown scheme or option, or cannot be read.
        ValueError: One of `routes` is a route of the server's already.
    """
    given = options or ServerOptions()
    server = Server(
        recorder=recorder,
        options=given,
        access=Access(tokens, origins=given.cors_origins),
        pool=None if to is None else Pool(to, catalogue, given, is_awaited=subscriptions_of(recorder).has_url(to)),
        catalogue=catalogue,
        log=log,
        takes_events=takes_events,
    )
    if server.pool is not None:
        server.endings.append(server.pool.tails.end)
    table = routes_of(server, routes)
    app = Starlette(
        routes=[_mounted(server, route) for route in table],
        exception_handlers={HTTPException: _answer_unrouted},
        lifespan=running,
    )
    app.router.redirect_slashes = False  # a redirect would be of the host that the request names
    app.state.server = server
    app.state.table = table
    return guarded(app, server)


@asynccontextmanager
async def running(app: Starlette) -> AsyncIterator[None]:
    """While it is entered, the application that `application` made takes and answers."""
    server = cast("Server", app.state.server)
    async with AsyncExitStack() as stack:
        if server.recorder.status().state == "new":
            await stack.enter_async_context(server.recorder)
        if server.pool is not None:
            await stack.enter_async_context(server.pool)
        yield


def _mounted(server: Server, route: Route) -> StarletteRoute:
    return StarletteRoute(route.path, partial(_answer, server, route), methods=[route.method])


async def _answer(server: Server, route: Route, request: Request) -> Response:
    """What `route` answers to `request`; a refusal where it refuses, 500 where it fails."""
    request.scope[ROUTE] = route.path
    try:
        await server.access.refresh()
        if not route.is_open:
            server.access.admit(request)
        if route.scope is not None and not route.is_checked_inside:
            server.access.check(request, route.scope)
        if route.method == "GET":
            return await _answer_while_wanted(server, route, request)
        return await route.endpoint(request, server)
    except RefusedError as exc:
        return exc.response()
    except ClientDisconnect:
        raise  # the guards know what it means
    except Exception as exc:  # noqa: BLE001 - said once in the log, and not to who has asked
        say_failed(route.path, exc)
        return RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; its log says why").response()


async def _answer_unrouted(request: Request, exc: Exception) -> Response:
    """404 and 405, and what OPTIONS asks."""
    status = HTTPStatus(cast("HTTPException", exc).status_code)
    if status is not HTTPStatus.METHOD_NOT_ALLOWED:
        return RefusedError(
            status, "there is nothing here" if status == HTTPStatus.NOT_FOUND else status.phrase
        ).response()
    methods = {"OPTIONS"}
    for each in cast("Starlette", request.app).routes:
        if isinstance(each, StarletteRoute) and each.matches(request.scope)[0] is not Match.NONE:
            methods |= each.methods or set()
    allowed = ", ".join(sorted(methods))
    if request.method == "OPTIONS":
        return Response(status_code=int(HTTPStatus.NO_CONTENT), headers={"Allow": allowed})
    return RefusedError(status, f"this takes {allowed}", headers={"Allow": allowed}).response()


async def _answer_while_wanted(server: Server, route: Route, request: Request) -> Response:
    """The answer to a request without a body; the question is cancelled once its client has gone."""
    answer: Response | None = None
    error: Exception | None = None

    async def watch(scope: anyio.CancelScope) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch, tasks.cancel_scope)
        try:
            answer = await route.endpoint(request, server)
        except Exception as exc:  # noqa: BLE001 - out of the group as it is
            error = exc
        tasks.cancel_scope.cancel()
    if error is not None:
        raise error
    if answer is None:
        return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "the client has gone").response()
    return answer
