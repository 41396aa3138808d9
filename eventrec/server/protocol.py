"""uvicorn's protocol for HTTP/1.1, with bounds on headers, on idle and slow connections, and on how many there are.

connected        the headers of the first request have `header_timeout` to arrive
a request        answered as uvicorn does; where its answer comes before all of its body, the rest has a moment
between them     `idle_timeout`; from the first byte of the next one on `header_timeout` again
an answer        a client that does not read it for `send_timeout` is cut off
"""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from eventrec.durations import duration_seconds
from eventrec.server.guards import HEADERS
from eventrec.server.refusals import RefusedError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from eventrec.server.options import ServerOptions

_LINGER_SECONDS: Final = 5.0
"""So long the rest of a body is read and thrown away whose request is answered already: most clients send all of it
before they look for an answer, and would see a broken connection instead."""

_DEAD_PEER: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""The system notices within two minutes that the other end of a quiet connection is gone."""

_silent: Final = logging.Logger("eventrec.server.protocol", logging.CRITICAL + 1)  # noqa: LOG001 - of no tree
"""In the place of uvicorn's, which writes a line for each bad request, and tracebacks, which may quote events."""


def protocol_class(options: ServerOptions, count: Callable[[str], object] = lambda _: None) -> type[BoundedProtocol]:
    """The protocol with these limits, as `uvicorn.Config(http=…)` takes it.

    `count` is told of what is refused without a request: "connections", "headers", "malformed", "unread".
    """

    class Protocol(BoundedProtocol):
        header_timeout = duration_seconds(options.header_timeout)
        idle_timeout = duration_seconds(options.idle_timeout)
        send_timeout = duration_seconds(options.send_timeout)
        max_header_bytes = options.max_header_bytes
        max_connections = options.max_connections
        note = staticmethod(count)

    return Protocol


class BoundedProtocol(HttpToolsProtocol):
    """One connection. What makes it is `protocol_class`."""

    header_timeout: float
    idle_timeout: float
    send_timeout: float
    max_header_bytes: int
    max_connections: int
    note: Callable[[str], object]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = self.access_logger = _silent
        self.access_log = False
        self.timeout_keep_alive = cast("int", self.idle_timeout)  # what it is given to takes fractions
        self._is_refused = False
        self._has_headers = True
        self._has_body = True
        self._is_closing = False
        self._header_bytes = 0
        self._waiting_bytes = 0
        """Since the request began; the parser tells of a header once it is whole."""
        self._why: HTTPStatus | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # -- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or close it at once where there are too many."""
        if len(self.connections) >= self.max_connections:
            self._is_refused = True
            self.note("connections")
            transport.abort()  # type: ignore[attr-defined]
            return
        super().connection_made(transport)  # type: ignore[arg-type]
        _set_options(transport.get_extra_info("socket"))
        self._start("header", self.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whatever waits ends."""
        for name in list(self._timers):
            self._stop(name)
        if not self._is_refused:
            super().connection_lost(exc)
            self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Parse it, unless there is too much of headers."""
        if self._is_refused or self.transport.is_closing():
            return
        if not self._is_answering():
            self._start("header", self.header_timeout)
            self._waiting_bytes += len(data)
        super().data_received(data)
        if not self._has_headers and self._waiting_bytes > self.max_header_bytes:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _is_answering(self) -> bool:
        """Whether what arrives now is the body of a request, or behind it."""
        return self._has_headers and (self._is_open() or not self._has_body)

    def _is_open(self) -> bool:
        """Whether a request is being answered."""
        cycle: object = self.cycle  # None before the first
        return cycle is not None and not self.cycle.response_complete

    # -- a request

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._has_headers = self._has_body = False
        self._header_bytes = self._waiting_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A part of its path and query."""
        self._count_headers(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count_headers(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count_headers(self, count: int) -> None:
        self._header_bytes += count
        if self._header_bytes > self.max_header_bytes:
            self._why = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError("too many bytes of headers")  # which ends the parser

    def on_headers_complete(self) -> None:
        """All of them are here."""
        self._has_headers = True
        self._stop("header")
        before: object = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self.cycle.transport = cast("asyncio.Transport", _Lingering(self))

    def on_message_complete(self) -> None:
        """So is its body."""
        self._has_body = True
        self._stop("linger")
        super().on_message_complete()
        if self._is_closing:
            self.transport.close()

    def close_after_body(self) -> None:
        """Close once the rest of the body has come, or its moment is over."""
        if self._has_body or not self._has_headers:
            self.transport.close()
        else:
            self._is_closing = True
            self._start("linger", _LINGER_SECONDS)

    def on_response_complete(self) -> None:
        """It is answered. Where its body is still coming, that may go on for a moment."""
        super().on_response_complete()
        if (
            self._has_headers
            and not self._has_body
            and self.cycle.response_complete
            and not self.transport.is_closing()
        ):
            self._unset_keepalive_if_required()
            self._start("linger", _LINGER_SECONDS)
        if not self._has_headers:  # those of the next request
            self._start("header", self.header_timeout)

    # -- what is refused

    def send_400_response(self, msg: str) -> None:
        """The parser has ended: say why, and close."""
        del msg
        self._refuse(self._why or HTTPStatus.BAD_REQUEST)

    def _refuse(self, status: HTTPStatus) -> None:
        if self.transport.is_closing():
            return
        self.note("headers" if status is HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE else "malformed")
        if not self._is_open():  # else it would stand in the middle of another answer
            self.transport.write(_refusal(status))
        self._close()

    def timeout_keep_alive_handler(self) -> None:
        """No other request has come."""
        if not self.transport.is_closing():
            self._close()

    def shutdown(self) -> None:
        """The server ends: close it, once what is asked is answered."""
        if self._is_open():
            super().shutdown()
        else:
            self._close()

    def _close(self) -> None:
        """Once what is written has gone out, if the client reads it."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._start("send", self.send_timeout)

    def pause_writing(self) -> None:
        """The client does not read: it has some time to go on."""
        super().pause_writing()
        self._start("send", self.send_timeout)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        self._stop("send")

    # -- times

    def _start(self, name: str, seconds: float) -> None:
        """The connection is cut off after so long, unless this time is stopped; one that runs goes on."""
        if name not in self._timers:
            self._timers[name] = self.loop.call_later(seconds, self._cut, name)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _cut(self, name: str) -> None:
        self._timers.pop(name)
        if name == "header" and self._is_open():
            # The client has begun another request, and waits for the answer to this one.
            self._start(name, self.header_timeout)
            return
        self.note("headers" if name == "header" else "unread")
        self.transport.abort()


class _Lingering:
    """The transport as a cycle of request and response has it: it closes what is answered."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol.transport, name)

    def close(self) -> None:
        self._protocol.close_after_body()


def _set_options(connection: socket.socket | None) -> None:
    """Notice a dead peer, and send at once.

    asyncio does the latter only for sockets whose protocol is named, which `socket.create_server` does not do: an
    answer, which is its head and its body, then waits 40 ms for the client's acknowledgement.
    """
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _DEAD_PEER.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _refusal(status: HTTPStatus) -> bytes:
    """An answer of which the application knows nothing."""
    answer = RefusedError(status, "this is not a request of HTTP/1.1, or has more headers than are taken").response()
    headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in answer.raw_headers}
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    lines += [f"{key}: {value}" for key, value in (HEADERS | headers | {"connection": "close"}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + bytes(answer.body)
