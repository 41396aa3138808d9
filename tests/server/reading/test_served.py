"""Reading over a real connection: what only a server and a socket show."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from eventrec import EventRecorder
from eventrec.analytics import Catalogue
from eventrec.server import ServerOptions, application


@pytest.fixture
def app(shop: str, catalogue: Catalogue) -> Any:
    options = ServerOptions(follow_interval=0.02)
    return application(EventRecorder("memory:"), to=shop, catalogue=catalogue, options=options)


def sent(connection: socket.socket, path: str) -> None:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())


def read_until(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while end not in received:
        part = connection.recv(65_536)
        assert part, received
        received += part
    return received


def test_a_rollup_is_answered(serve: Callable[..., Any], app: Any) -> None:
    found = serve(app).get("/rollups/orders_per_day?limit=3")

    assert found.status == 200
    assert len(found.json()["rows"]) == 3


def test_an_answer_does_not_wait_for_the_client_to_acknowledge_its_head(serve: Callable[..., Any], app: Any) -> None:
    running = serve(app)

    with running.connection() as connection:
        sent(connection, "/rollups")
        read_until(connection, b"}")
        (protocol,) = running.web._server.server_state.connections
        ours = protocol.transport.get_extra_info("socket")
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_client_that_goes_in_the_middle_of_a_stream_leaves_nothing(
    serve: Callable[..., Any], app: Any, until: Callable[..., None]
) -> None:
    running = serve(app)
    tails = app.state.server.pool.tails

    for _ in range(5):
        with running.connection() as connection:
            sent(connection, "/events/follow?last=5")
            assert b"text/event-stream" in read_until(connection, b"id: ")
    until(lambda: len(tails) == 0)

    assert running.get("/rollups").status == 200
