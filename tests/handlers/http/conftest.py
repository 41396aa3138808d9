"""A server that plays any answer, byte for byte, in the loop of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import NamedTuple

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream, TaskStatus

from eventrec_handlers._http.origin import Origin


class Request(NamedTuple):
    """What a client sent."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Peer:
    """One connection from the server's side."""

    def __init__(self, stream: SocketStream, server: Server) -> None:
        self.stream = stream
        self._server = server
        self._received = b""

    async def request(self) -> Request:
        """The next request, whole."""
        head, body = await self._until_blank_line()
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += await self.stream.receive()
        method, target, _ = first.split(" ")
        request = Request(method, target, headers, body)
        self._server.requests.append(request)
        return request

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            await self.stream.send(piece)

    async def send_endlessly(self, piece: bytes) -> None:
        while True:
            await self.stream.send(piece)

    async def _until_blank_line(self) -> tuple[bytes, bytes]:
        while b"\r\n\r\n" not in self._received:
            self._received += await self.stream.receive()
        head, _, body = self._received.partition(b"\r\n\r\n")
        self._received = b""
        return head, body


Script = Callable[[Peer], Awaitable[None]]


class Server:
    """Where it listens, and what it was sent so far. `connections` were opened, `open` are open."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.open = 0
        self.port = 0
        self.origin = Origin("http", "127.0.0.1", 1)

    async def idle(self) -> None:
        """Wait until no connection is open."""
        with anyio.fail_after(120):
            while self.open:  # noqa: ASYNC110 - what closes them is the client, which sets no event
                await anyio.sleep(0.001)


@asynccontextmanager
async def served(script: Script) -> AsyncIterator[Server]:
    """A server that plays `script` on each connection, then closes it; all are cut at the end."""
    server = Server()

    async def serve(*, task_status: TaskStatus[None]) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            server.port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - of a socket
            server.origin = Origin("http", "127.0.0.1", server.port)
            task_status.started()
            await listener.serve(connection)

    async def connection(stream: SocketStream) -> None:
        server.connections += 1
        server.open += 1
        try:
            async with stream:
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    await script(Peer(stream, server))
        finally:
            server.open -= 1

    async with anyio.create_task_group() as tasks:
        await tasks.start(serve)
        try:
            yield server
        finally:
            tasks.cancel_scope.cancel()


@pytest.fixture(name="served")
def _served() -> Callable[[Script], AbstractAsyncContextManager[Server]]:
    return served
