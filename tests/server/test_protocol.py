import contextlib
import socket
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from eventrec import EventRecorder
from eventrec.server import ServerOptions, application
from eventrec.server.application import _mounted
from eventrec.server.refusals import json_response
from eventrec.server.routes import Route
from eventrec.server.serving import Server

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def unread(request: Request, server: Server) -> Response:
    return json_response({"read": False})


async def large(request: Request, server: Server) -> Response:
    async def pieces() -> Any:
        for _ in range(2_000):
            yield bytes(65_536)

    return StreamingResponse(pieces())


def bounded_app(path: Path, endpoints: Any = None, **options: Any) -> Any:
    app = application(EventRecorder(f"sqlite:///{path}/events.db"), options=ServerOptions(**options))
    for place, endpoint in (endpoints or {"/unread": unread}).items():
        for method in ("GET", "POST"):
            route = Route(method=method, path=place, endpoint=endpoint, scope="read", summary="for tests")
            app.router.routes.append(_mounted(app.state.server, route))
    return app


@pytest.fixture(scope="module")
def plain(serve_all: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server for tests that change nothing about it."""
    return serve_all(bounded_app(tmp_path_factory.mktemp("plain")))


@pytest.mark.parametrize("sent", [b"", b"GE", b"GET /health HTTP/1.1\r\nHost: local", GET[:-2]])
def test_slow_headers_end_their_connection(serve: Any, tmp_path: Path, over_socket: Any, sent: bytes) -> None:
    app = bounded_app(tmp_path, header_timeout="100ms")

    with serve(app).connection() as connection:
        answer = over_socket[0](connection, sent)

    assert answer == b""
    assert app.state.server.measures.cut_off["headers"] == 1


def test_headers_that_trickle_do_not_get_more_time(serve: Any, tmp_path: Path) -> None:
    running = serve(bounded_app(tmp_path, header_timeout="200ms"))
    ended, pause = threading.Event(), threading.Event()

    with running.connection() as connection:
        connection.settimeout(0.02)
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        for _ in range(1_000):
            with contextlib.suppress(TimeoutError, ConnectionError):
                connection.sendall(b"a")
                if connection.recv(1) == b"":
                    ended.set()
            if ended.is_set():
                break
            pause.wait(0.01)

    assert ended.is_set()


def test_quiet_connection_ends(serve: Any, tmp_path: Path, over_socket: Any) -> None:
    with serve(bounded_app(tmp_path, idle_timeout="100ms", header_timeout="10s")).connection() as connection:
        answer = over_socket[0](connection, GET)

    assert answer.startswith(b"HTTP/1.1 200 ")


def test_second_request_of_a_connection_has_its_own_time(serve: Any, tmp_path: Path, over_socket: Any) -> None:
    app = bounded_app(tmp_path, header_timeout="1s")
    with serve(app).connection() as connection:
        connection.sendall(GET)
        assert over_socket[2](connection).startswith(b"HTTP/1.1 200 ")
        assert over_socket[0](connection, GET[:20]) == b""

    assert app.state.server.measures.cut_off["headers"] == 1


def test_requests_in_a_row_are_all_answered(serve: Any, tmp_path: Path, over_socket: Any) -> None:
    with serve(bounded_app(tmp_path)).connection() as connection:
        answer = over_socket[0](connection, GET * 20 + LAST)

    assert answer.count(b"HTTP/1.1 200 ") == 21


def test_request_that_is_being_answered_is_not_cut_off_for_the_next_one(
    serve: Any, tmp_path: Path, over_socket: Any
) -> None:
    go_on = threading.Event()

    async def waits(request: Request, server: Server) -> Response:
        await anyio.to_thread.run_sync(go_on.wait, 20, abandon_on_cancel=True)
        return json_response({})

    app = bounded_app(tmp_path, {"/waits": waits}, header_timeout="50ms")
    running = serve(app)
    with running.connection() as connection:
        connection.sendall(GET.replace(b"/health", b"/waits") + GET[:20])
        connection.sendall(GET[20:25])
        for _ in range(5):
            with running.connection() as other:  # each is cut off a little later than that one would be
                assert over_socket[1](other) == b""
        go_on.set()
        assert over_socket[1](connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"b" * 70_000 + b"\r\n\r\n",
    ],
)
def test_too_many_headers_are_431(serve: Any, tmp_path: Path, over_socket: Any, head: bytes) -> None:
    app = bounded_app(tmp_path)

    with serve(app).connection() as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(head)
        answer = over_socket[2](connection)

    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in answer
    assert app.state.server.measures.cut_off["headers"] == 1


def test_headers_without_end_are_not_kept(serve: Any, tmp_path: Path) -> None:
    with serve(bounded_app(tmp_path)).connection() as connection:
        sent = 0
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /health HTTP/1.1\r\nX-A: ")
            while sent < 100 << 20:
                connection.sendall(b"b" * 65_536)
                sent += 65_536

    assert sent < 20 << 20  # what the sockets of both ends hold


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n" * 50 + b"\0\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\n : x\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /unread HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_not_http_is_refused_and_nothing_is_logged(
    plain: Any, over_socket: Any, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with plain.connection() as connection:
        answer = over_socket[0](connection, sent)

    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 ", b"HTTP/1.1 200 ", b"HTTP/1.1 405 "))
    assert "Traceback" not in caplog.text
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert plain.get("/health").status == 200


def test_upgrade_is_not_taken(serve: Any, tmp_path: Path, over_socket: Any) -> None:
    asked = LAST.replace(b"Connection: close", b"Connection: Upgrade, close\r\nUpgrade: websocket")

    with serve(bounded_app(tmp_path, header_timeout="200ms", idle_timeout="200ms")).connection() as connection:
        answer = over_socket[0](connection, asked)

    assert answer.startswith(b"HTTP/1.1 200 ")


def test_connections_beyond_the_bound_are_closed(serve: Any, tmp_path: Path, over_socket: Any, until: Any) -> None:
    app = bounded_app(tmp_path, max_connections=2)
    running = serve(app)

    with running.connection() as first, running.connection() as second:
        for each in (first, second):
            each.sendall(GET)
            assert over_socket[2](each).startswith(b"HTTP/1.1 200 ")
        with running.connection() as third:
            assert over_socket[1](third) == b""

    assert app.state.server.measures.cut_off["connections"] == 1
    until(lambda: running.get("/health").status == 200 if _is_free(running) else False)


def _is_free(running: Any) -> bool:
    with running.connection() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(LAST)
        return bool(connection.recv(1))
    return False


def test_rest_of_a_body_that_was_answered_is_read_for_a_moment(
    serve: Any, tmp_path: Path, over_socket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.server.protocol._LINGER_SECONDS", 20)
    head = b"POST /unread HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n"

    with serve(bounded_app(tmp_path)).connection() as connection:
        connection.sendall(head + bytes(4_000_000))
        answer = over_socket[2](connection)
        connection.sendall(bytes(1_000_000) + LAST)
        second = over_socket[2](connection)
    monkeypatch.setattr("eventrec.server.protocol._LINGER_SECONDS", 0.2)
    with serve(bounded_app(tmp_path)).connection() as connection:
        connection.sendall(head + bytes(1_000))
        first = over_socket[2](connection)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert second.startswith(b"HTTP/1.1 200 ")
    assert first.startswith(b"HTTP/1.1 200 ")


def test_refusal_reaches_a_client_that_sends_all_of_a_large_body_first(
    serve: Any, tmp_path: Path, over_socket: Any
) -> None:
    head = b"POST /unread HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 8000000\r\n\r\n"

    with serve(bounded_app(tmp_path)).connection() as connection:
        connection.sendall(head + bytes(4_000_000))
        connection.sendall(bytes(4_000_000))
        answer = over_socket[1](connection)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'{"read":false}')


def test_client_that_does_not_read_is_cut_off(serve: Any, tmp_path: Path, until: Any) -> None:
    app = bounded_app(tmp_path, {"/large": large}, send_timeout="200ms")
    running = serve(app)

    with running.connection() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.sendall(GET.replace(b"/health", b"/large"))
        until(lambda: app.state.server.measures.in_progress == 0 and app.state.server.measures.requests.total() == 1)

    assert app.state.server.measures.requests["/large", "GET", 499] == 1
    assert app.state.server.measures.cut_off["unread"] == 1


def test_end_waits_for_requests_and_then_cancels_them(serve: Any, tmp_path: Path, over_socket: Any) -> None:
    entered, go_on = threading.Semaphore(0), threading.Event()

    async def waits(request: Request, server: Server) -> Response:
        entered.release()
        await anyio.to_thread.run_sync(go_on.wait, 20, abandon_on_cancel=True)
        return json_response({})

    asked = GET.replace(b"/health", b"/waits")
    running = serve(bounded_app(tmp_path, {"/waits": waits}), grace=20)
    with running.connection() as connection, running.connection() as idle:
        idle.sendall(GET)
        assert over_socket[2](idle)
        connection.sendall(asked)
        assert entered.acquire(timeout=20)
        running.web.end()
        assert over_socket[1](idle) == b""
        go_on.set()
        assert over_socket[1](connection).startswith(b"HTTP/1.1 200 ")

    go_on.clear()
    running = serve(bounded_app(tmp_path, {"/waits": waits}), grace=0.1)
    with running.connection() as connection:
        connection.sendall(asked)
        assert entered.acquire(timeout=20)
        running.web.end()
        assert not over_socket[1](connection).startswith(b"HTTP/1.1 200 ")
    go_on.set()
