"""A real server for tests: uvicorn with our protocol, in a thread, on a free port of 127.0.0.1."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpcore2
import msgspec
import pytest
from starlette.applications import Starlette

from eventrec.server import ServerOptions
from eventrec.server.web_server import WebServer

START_SECONDS = 30.0


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.content)


@dataclass
class Running:
    """A server that runs, and what is asked of it over one connection for each request."""

    port: int
    web: WebServer
    table: list[Any]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, content: bytes = b"", **headers: str) -> Answer:
        named: dict[bytes | str, bytes | str] = {key.replace("_", "-"): value for key, value in headers.items()}
        with httpcore2.ConnectionPool() as pool:
            answer = pool.request(
                method, f"{self.url}{path}", headers={"Host": f"127.0.0.1:{self.port}", **named}, content=content
            )
        return Answer(answer.status, _texts(answer.headers), answer.content)

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, b"", **headers)

    def post(self, path: str, content: bytes | Any = b"", **headers: str) -> Answer:
        if not isinstance(content, bytes):
            content, headers = msgspec.json.encode(content), {"Content_Type": "application/json", **headers}
        return self.ask("POST", path, content, **headers)

    @contextmanager
    def connection(self, seconds: float = 120) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            yield connection


def _texts(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in headers}


def exchange(connection: socket.socket, sent: bytes) -> bytes:
    """What comes back until the server closes, or `connection` times out."""
    connection.sendall(sent)
    return rest_of(connection)


def rest_of(connection: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65_536):
            received += piece
    return bytes(received)


@contextmanager
def running_server(app: Starlette, options: ServerOptions | None = None, *, grace: float = 2.0) -> Iterator[Running]:
    """`app` on a port of its own, until the end of the block."""
    listening = socket.create_server(("127.0.0.1", 0))
    started = threading.Event()
    server = app.state.server if hasattr(app.state, "server") else None
    web = WebServer(
        app,
        [listening],
        options or (server.options if server is not None else ServerOptions()),
        grace=grace,
        on_started=started.set,
        on_ending=server.end if server is not None else lambda: None,
        count=server.measures.count_cut_off if server is not None else lambda _: None,
    )
    port = listening.getsockname()[1]
    thread = threading.Thread(target=anyio.run, args=(web.run,))
    thread.start()
    try:
        assert started.wait(START_SECONDS)
        yield Running(port, web, getattr(app.state, "table", []))
    finally:
        web.end()
        thread.join(START_SECONDS)
        assert not thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """Starts servers, which end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda app, **options: stack.enter_context(running_server(app, **options))


@pytest.fixture(scope="module")
def serve_all() -> Iterator[Callable[..., Running]]:
    """Starts servers that all tests of a module ask."""
    with contextlib.ExitStack() as stack:
        yield lambda app, **options: stack.enter_context(running_server(app, **options))


def more_from(connection: socket.socket, before: bytes) -> bytes:
    """What comes next: an answer that ends in the middle is none."""
    more = connection.recv(65_536)
    assert more, before
    return more


def answer_on(connection: socket.socket) -> bytes:
    """One answer, whose length its head says, on a connection that stays open."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += more_from(connection, received)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += more_from(connection, body)
    return head + b"\r\n\r\n" + body


def wait_until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for a thread of the server."""
    pause, waited = threading.Event(), 0.0
    while not is_so():
        assert waited < seconds
        waited += 0.005
        pause.wait(0.005)


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """`wait_until`."""
    return wait_until


@pytest.fixture(scope="session")
def over_socket() -> Any:
    """`exchange`, `rest_of` and `answer_on`."""
    return exchange, rest_of, answer_on
