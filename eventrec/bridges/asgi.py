"""A recorder in an ASGI application: it opens and closes with the server, and every request becomes an event.

    app = Starlette(
        routes=[...],
        lifespan=recorder_lifespan(recorder),
        middleware=[Middleware(RecordRequests, recorder=recorder)],
    )

Nothing here needs a framework: `lifespan=` is what Starlette and FastAPI take, `RecordRequests(app, recorder)` wraps
any ASGI application.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from eventrec.bridges.requests import RequestServed, error_name, request_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from eventrec.recorder import EventRecorder

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["ASGIApp", "Message", "Receive", "RecordRequests", "RequestServed", "Scope", "Send", "recorder_lifespan"]


def recorder_lifespan(recorder: EventRecorder) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """Open `recorder` when the application starts, close it when it ends; handlers find it as `request.state.recorder`.

    Startup does not wait for any destination. Shutdown delivers for at most the recorder's `close_timeout`.
    """

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[Mapping[str, Any]]:
        async with recorder:
            yield {"recorder": recorder}

    return lifespan


class RecordRequests:
    """ASGI middleware: records a `RequestServed` for each HTTP request that `wants` says yes to.

    Whatever the application records meanwhile carries `request_id` in its context, as the request's event does: the
    value of the header `id_header`, or a new one.
    """

    def __init__(
        self,
        app: ASGIApp,
        recorder: EventRecorder,
        *,
        wants: Callable[[Scope], bool] = lambda _: True,
        id_header: str = "x-request-id",
    ) -> None:
        self._app = app
        self._recorder = recorder
        self._wants = wants
        self._id_header = id_header.lower().encode("latin-1")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve; everything but HTTP passes untouched."""
        if scope["type"] != "http" or not self._wants(scope):
            await self._app(scope, receive, send)
            return
        response = _Response()

        async def observed(message: Message) -> None:
            response.observe(message)
            await send(message)

        start = time.perf_counter()
        with self._recorder.context(request_id=self._request_id(scope)):
            error: str | None = None
            try:
                await self._app(scope, receive, observed)
            except BaseException as exc:
                error = error_name(exc)
                raise
            finally:
                self._recorder.record(
                    RequestServed(
                        method=scope["method"],
                        path=scope["path"],
                        route=_route(scope),
                        status=response.status,
                        milliseconds=round((time.perf_counter() - start) * 1_000, 3),
                        response_bytes=response.bytes,
                        error=error,
                    )
                )

    def _request_id(self, scope: Scope) -> str:
        for name, value in scope.get("headers", ()):
            if name.lower() == self._id_header:
                return request_id(value.decode("latin-1"))
        return request_id(None)


class _Response:
    """What was sent."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.bytes = 0

    def observe(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start":
                self.status = message["status"]
            case "http.response.body":
                self.bytes += len(message.get("body", b""))
            case _:
                pass


def _route(scope: Scope) -> str | None:
    """The template of the path, which FastAPI leaves in the scope; Starlette does not."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else None
