import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from eventrec import EventRecorder
from eventrec.server import Tokens, application, running
from eventrec.server.token_file import new_token, revoke_token
from eventrec.testing.asgi import Client
from eventrec.testing.scripted import Numbered


def test_application_is_mounted_in_another_one(serve: Any, tmp_path: Path) -> None:
    recorder = EventRecorder(f"sqlite:///{tmp_path}/events.db", log=tmp_path / "log")
    ours = application(recorder, log=tmp_path / "log")
    states: list[str] = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with running(ours):
            states.append(recorder.status().state)
            yield
        states.append(recorder.status().state)

    theirs = Starlette(
        routes=[Route("/hello", lambda _: PlainTextResponse("hello")), Mount("/events", ours)], lifespan=lifespan
    )
    started = serve(theirs)

    answers = [started.get(path) for path in ("/hello", "/events/status", "/events/nothing", "/status")]
    options = started.ask("OPTIONS", "/events/dead/replay")
    started.web.end()

    assert [answer.status for answer in answers] == [200, 200, 404, 404]
    assert answers[1].json()["status"]["state"] == "open"
    assert answers[2].headers["content-type"] == "application/problem+json"
    assert (options.status, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    assert states[0] == "open"


def test_live_tail_ends_with_the_server_and_does_not_hold_it(serve: Any, tmp_path: Path, over_socket: Any) -> None:
    url = f"sqlite:///{tmp_path}/events.db"

    async def make_table() -> None:
        async with EventRecorder(url) as recorder:
            recorder.record(Numbered(1))
            assert await recorder.flush(timeout=20)

    anyio.run(make_table)
    started = serve(application(EventRecorder(url), to=url), grace=20)

    with started.connection() as connection:
        connection.sendall(b"GET /events/follow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        while b"retry:" not in received:
            received += connection.recv(65_536)
        started.web.end()
        rest = over_socket[1](connection)

    assert b"event: end" in rest


async def test_recorder_that_is_open_already_is_left_open(tmp_path: Path) -> None:
    recorder = EventRecorder(f"sqlite:///{tmp_path}/events.db")
    app = application(recorder)

    async with recorder:
        async with running(app):
            pass
        state = recorder.status().state

    assert state == "open"


def test_tokens_are_rotated_while_it_runs(
    serve: Any, tmp_path: Path, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.server.tokens._LOOK_SECONDS", 0.05)
    path = tmp_path / "tokens.toml"
    old = new_token(path, "old", ["read"], created=datetime.now(UTC))
    started = serve(application(EventRecorder(f"sqlite:///{tmp_path}/events.db"), tokens=Tokens(path)))

    def status(token: str) -> int:
        answer: int = started.get("/status", Authorization=f"Bearer {token}").status
        return answer

    assert status(old) == 200
    new = new_token(path, "new", ["read"], created=datetime.now(UTC))
    until(lambda: status(new) == 200)
    revoke_token(path, "old")
    until(lambda: status(old) == 401)

    assert status(new) == 200


async def test_application_answers_on_asyncio_and_on_trio(tmp_path: Path) -> None:
    recorder = EventRecorder(f"sqlite:///{tmp_path}/events.db", log=tmp_path / "log")
    app = application(recorder, log=tmp_path / "log")

    client = Client(app)
    replay = gzip.compress(b'{"subscription":"sqlite"}' + b" " * 900_000)

    async with running(app):
        answers = [
            await client.get("/status"),
            await client.post("/dead/replay", replay, content_encoding="gzip"),
            await client.get("/nothing"),
            await client.head("/openapi.json"),
        ]

    assert [answer.status for answer in answers] == [200, 200, 404, 200]
    assert answers[1].json["is_done"] is True
    assert answers[3].body == b""
