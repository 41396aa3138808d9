"""What stands before every route, from the outside in: pure ASGI, each of them one thing.

Observed    a request id, headers of every answer, the access log, the measures; nothing that fails gets out
CORS        Starlette's, where origins are named
Bounded     the header Host, and how many requests are answered at once
"""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import anyio
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request

from eventrec.durations import duration_seconds
from eventrec.runtime.logging import get_logger
from eventrec.server.access import TOKEN_NAME, host_of
from eventrec.server.bodies import BYTES_IN
from eventrec.server.failures import say_failed
from eventrec.server.measures import UNKNOWN
from eventrec.server.refusals import RefusedError, wait_header
from eventrec.server.serving import shared_state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from eventrec.server.serving import Server

ROUTE: Final = "eventrec.route"
"""The key of an ASGI scope: the path of the route that answers."""

REQUEST_ID: Final = "x-request-id"
GONE: Final = 499
"""What is logged and counted of a request whose client did not wait for the answer."""

ALWAYS_ANSWERED: Final = "/health"
"""Paths that begin so are answered however many requests are: a server that has much to do is not to be restarted."""

HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""Of every answer that does not say otherwise itself."""

_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MAX_PATH: Final = 300
_PREFLIGHT_SECONDS: Final = 600

_logger = get_logger("eventrec.server.access")


def guarded(app: Starlette, server: Server) -> Starlette:
    """`app` with all of them."""
    app.add_middleware(Bounded, server=server)
    if server.options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=server.options.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("Retry-After", "X-Request-Id"),
            max_age=_PREFLIGHT_SECONDS,
        )
    app.add_middleware(Observed, server=server)
    return app


class Observed:
    """Says of each request what became of it, and contains what fails."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve; what is not HTTP passes untouched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, has_origins=bool(self._server.options.cors_origins))
        measures, start = self._server.measures, time.perf_counter()
        measures.in_progress += 1
        try:
            await self._answer(exchange)
        finally:
            measures.in_progress -= 1
            shared_state(self._server).memory.release(scope)
            seconds = time.perf_counter() - start
            measures.count_request(
                scope.get(ROUTE, UNKNOWN),
                scope["method"],
                exchange.outcome,
                seconds=seconds,
                bytes_in=scope.get(BYTES_IN, 0),
                bytes_out=exchange.bytes_out,
            )
            if self._server.options.access_log:
                _say(exchange, seconds)

    async def _answer(self, exchange: _Exchange) -> None:
        """What is raised becomes an answer, or, where one has begun, the end of the connection."""
        with anyio.CancelScope() as exchange.all_of_it:
            try:
                await self._app(exchange.scope, exchange.receive, exchange.send)
            except ClientDisconnect:
                exchange.is_gone = True
            except Exception as exc:  # noqa: BLE001 - said in the log; who has asked is told nothing of it
                if exchange.is_gone:
                    return
                say_failed(exchange.scope.get(ROUTE, UNKNOWN), exc)
                if exchange.status is not None:
                    raise BrokenOffError from None
                failed = RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; its log says why")
                await failed.response()(exchange.scope, exchange.receive, exchange.send)


class BrokenOffError(Exception):
    """An answer had begun, and cannot be finished: the connection has to be closed. The log says why."""


class _Exchange:
    """One request and its answer, as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, has_origins: bool) -> None:
        self.scope = scope
        self.status: int | None = None
        self.bytes_out = 0
        self.is_gone = False
        self.all_of_it: anyio.CancelScope | None = None
        self.id = _request_id(scope)
        self._receive = receive
        self._send = send
        self._has_origins = has_origins
        self._is_complete = False

    @property
    def outcome(self) -> int:
        """The status; GONE where the client did not wait."""
        return GONE if self.is_gone or self.status is None else self.status

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._is_complete:
            self.is_gone = True
        return message

    async def send(self, message: Message) -> None:
        if self._is_complete and self.scope["method"] == "HEAD":
            return
        is_start = message["type"] == "http.response.start"
        if is_start:
            self.status = message["status"]
            message = {**message, "headers": self._with_headers(message.get("headers", ()))}
        elif message["type"] == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)
        try:
            await self._send(message)
            if is_start and self.scope["method"] == "HEAD":
                # What answers may have no end, as a live tail.
                self._is_complete = True
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                if self.all_of_it is not None:
                    self.all_of_it.cancel()
        except OSError:
            self.is_gone = True
            raise

    def _with_headers(self, given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        headers = list(given)
        named = {name.lower() for name, _ in headers}
        ours = HEADERS | {REQUEST_ID: self.id}
        headers += [(key.encode(), value.encode()) for key, value in ours.items() if key.encode() not in named]
        if self._has_origins and not any(key.lower() == b"vary" and b"rigin" in value for key, value in headers):
            headers.append((b"vary", b"Origin"))
        return headers


class Bounded:
    """Refuses before anything is looked at: hosts that are not ours, and requests beyond the bound."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server
        self._hosts = frozenset(host.lower() for host in server.options.hosts)
        self._answered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        if self._hosts and not self._is_ours(request):
            refusal = RefusedError(HTTPStatus.BAD_REQUEST, "the header Host names no host of this server")
            await refusal.response()(scope, receive, send)
            return
        if self._answered >= self._server.options.max_requests and not _is_always_answered(scope):
            refusal = RefusedError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "as many requests are being answered as may be at once",
                headers=wait_header(duration_seconds(self._server.options.retry_after)),
            )
            await refusal.response()(scope, receive, send)
            return
        self._answered += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._answered -= 1

    def _is_ours(self, request: Request) -> bool:
        hosts = request.headers.getlist("host")
        return len(hosts) == 1 and host_of(hosts[0]) in self._hosts


def _is_always_answered(scope: Scope) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.startswith(ALWAYS_ANSWERED)


def _request_id(scope: Scope) -> str:
    """The id that the client gave, where it can be written anywhere; else a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID.encode():
            text: str = value.decode("latin-1")
            if _ID.fullmatch(text):
                return text
    return uuid4().hex


def _say(exchange: _Exchange, seconds: float) -> None:
    scope = exchange.scope
    said: dict[str, Any] = {
        "method": scope["method"][:20],
        "path": scope["path"][:_MAX_PATH],
        "status": exchange.outcome,
        "bytes_in": scope.get(BYTES_IN, 0),
        "bytes_out": exchange.bytes_out,
        "milliseconds": round(seconds * 1_000, 1),
        "request": exchange.id,
    }
    if TOKEN_NAME in scope:
        said["token"] = scope[TOKEN_NAME]
    _logger.info("request", **said)
