"""A client of an ASGI application, without a socket: one request, and its answer, whole or part by part."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import anyio
import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

_HOST: Final = "127.0.0.1"
_PATIENCE: Final = 20.0
"""Seconds that an answer, or a part of one, may take."""


@dataclass
class ClientAnswer:
    """What a client got. The names of `headers` are in small letters."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        """The body, out of JSON."""
        return msgspec.json.decode(self.body)

    @property
    def detail(self) -> str:
        """The one line of a refusal, which has to be one."""
        assert self.headers["content-type"] == "application/problem+json"
        said: str = self.json["detail"]
        assert "\n" not in said
        return said


class Client:
    """Calls `app` as a server would."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def get(
        self,
        path: str,
        parameters: Sequence[tuple[str, object]] = (),
        /,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> ClientAnswer:
        """What is answered to the question with these `parameters`, and `more` of them: a final "_" is left out."""
        async with self.stream(path, parameters, headers=headers, **more) as stream:
            return await stream.answer()

    async def head(self, path: str, /, **headers: str) -> ClientAnswer:
        """What is answered to the question what `get` would be answered."""
        async with self._asked("HEAD", path, b"", headers, b"", takes=None) as stream:
            return await stream.answer()

    async def post(
        self, path: str, body: object, *, content_type: str | None = "application/json", **headers: str
    ) -> ClientAnswer:
        """What is answered to `body`: bytes, text, or what becomes JSON. `path` may have a query."""
        text = body.encode() if isinstance(body, str) else body
        sent = text if isinstance(text, bytes) else msgspec.json.encode(text)
        given = {"content-length": str(len(sent)), **headers}
        if content_type is not None:
            given["content-type"] = content_type
        target, _, query = path.partition("?")
        async with self._asked("POST", target, query.encode(), given, sent, takes=None) as stream:
            return await stream.answer()

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        parameters: Sequence[tuple[str, object]] = (),
        /,
        headers: Mapping[str, str] | None = None,
        takes: Callable[[], Any] | None = None,
        **more: Any,
    ) -> AsyncIterator[Stream]:
        """While it is entered the client is there; `takes` is awaited before each part that it takes."""
        query = urlencode([*parameters, *((name.rstrip("_"), value) for name, value in more.items())])
        async with self._asked("GET", path, query.encode(), headers or {}, b"", takes=takes) as stream:
            yield stream

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: Mapping[str, str],
        body: bytes,
        *,
        takes: Callable[[], Any] | None,
    ) -> AsyncIterator[Stream]:
        named = {"host": _HOST, **{name.replace("_", "-").lower(): value for name, value in headers.items()}}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": quote(path).encode(),
            "query_string": query,
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in named.items()],
            "client": (_HOST, 40_000),
            "server": (_HOST, 80),
            "state": {},
        }
        stream = Stream(body, takes)
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                try:
                    await self.app(scope, stream.receive, stream.send)
                finally:
                    stream.end()

            tasks.start_soon(run)
            try:
                yield stream
            finally:
                stream.gone.set()
                stream.close()


class Stream:
    """One request, and what comes back.

    Attributes:
        gone: Set once the client is not there any more.
        ended: Set once the answer is whole, or the application has ended without one.
    """

    def __init__(self, body: bytes, takes: Callable[[], Any] | None) -> None:
        self.gone = anyio.Event()
        self.ended = anyio.Event()
        self._body: bytes | None = body
        self._takes = takes
        self._give, self._parts = anyio.create_memory_object_stream[bytes](1_000)
        self._started = anyio.Event()
        self._head: tuple[int, dict[str, str]] = (0, {})

    async def receive(self) -> dict[str, Any]:
        """For the application."""
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """Likewise."""
        if message["type"] == "http.response.start":
            headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            self._head = message["status"], headers
            self._started.set()
            return
        if self._takes is not None:
            await self._takes()
        if message.get("body"):
            with suppress(anyio.BrokenResourceError):
                await self._give.send(message["body"])
        if not message.get("more_body"):
            self.end()

    def end(self) -> None:
        """Nothing more comes."""
        self._give.close()
        self._started.set()
        self.ended.set()

    def close(self) -> None:
        """Nothing more is taken."""
        self._parts.close()

    async def started(self) -> tuple[int, dict[str, str]]:
        """Status and headers, as soon as they are there."""
        with anyio.fail_after(_PATIENCE):
            await self._started.wait()
        return self._head

    async def answer(self) -> ClientAnswer:
        """All of it."""
        status, headers = await self.started()
        return ClientAnswer(status, headers, b"".join([part async for part in self.parts()]))

    async def parts(self) -> AsyncIterator[bytes]:
        """The parts of its body."""
        with anyio.fail_after(_PATIENCE):
            async for part in self._parts:
                yield part

    async def part(self) -> bytes:
        """The next part."""
        with anyio.fail_after(_PATIENCE):
            return await self._parts.receive()
