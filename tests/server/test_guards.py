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


class Gate:
    """An endpoint that answers once it is let."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.is_open = threading.Event()
        self.cancelled = threading.Semaphore(0)

    async def __call__(self, request: Request, server: Server) -> Response:
        self.entered.release()
        try:
            await anyio.to_thread.run_sync(self.is_open.wait, 20, abandon_on_cancel=True)
        except anyio.get_cancelled_exc_class():
            self.cancelled.release()
            raise
        return json_response({"secret": "payload"})


async def failing(request: Request, server: Server) -> Response:
    raise ValueError("the payload says quux")


async def endless(request: Request, server: Server) -> Response:
    async def pieces() -> Any:
        while True:
            yield b"x" * 1_000
            await anyio.sleep(0.001)

    return StreamingResponse(pieces())


async def broken_off(request: Request, server: Server) -> Response:
    async def pieces() -> Any:
        yield b"x"
        raise ValueError("the payload says quux")

    return StreamingResponse(pieces())


def guarded_app(path: Path, gate: Any = failing, **options: Any) -> Any:
    app = application(EventRecorder(f"sqlite:///{path}/events.db"), options=ServerOptions(**options))
    endpoints = {"/gate": gate, "/failing": failing, "/endless": endless, "/broken": broken_off}
    for place, endpoint in endpoints.items():
        route = Route(method="GET", path=place, endpoint=endpoint, scope="read", summary="for tests")
        app.router.routes.append(_mounted(app.state.server, route))
    return app


@pytest.fixture(scope="module")
def plain(serve_all: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server for tests that change nothing about it."""
    return serve_all(guarded_app(tmp_path_factory.mktemp("plain")))


def test_every_answer_has_an_id_and_the_headers_that_guard_it(plain: Any) -> None:
    answers = [plain.get("/health"), plain.get("/nothing"), plain.get("/failing"), plain.get("/a", Host="x.y")]

    for answer in answers:
        assert len(answer.headers["x-request-id"]) == 32
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


def test_request_id_of_the_client_is_kept_where_it_can_be_written(plain: Any) -> None:
    given = ["abc-1:2.3_4", "a b", "x" * 129, "x" * 128]

    answered = [plain.get("/health", X_Request_Id=each).headers["x-request-id"] for each in given]

    assert [id_ == each for id_, each in zip(answered, given, strict=True)] == [True, False, False, True]


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "//health",
        "/health/",
        "/health/../status",
        "/%2e%2e/etc/passwd",
        "/a%00b",
        "/dead/%2F",
        "/" + "a" * 5_000,
    ],
)
def test_path_that_is_none_of_ours_is_a_problem(plain: Any, path: str) -> None:
    answer = plain.get(path)

    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "location" not in answer.headers


def test_method_that_is_not_taken_is_a_problem_that_names_those_that_are(plain: Any) -> None:
    refused, options = plain.ask("PUT", "/dead/replay"), plain.ask("OPTIONS", "/dead/replay")

    assert refused.status == 405
    assert refused.json()["title"] == "Method Not Allowed"
    assert refused.headers["allow"] == options.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert (options.status, options.content) == (204, b"")
    assert plain.ask("OPTIONS", "/nothing").status == 404


def test_head_is_what_get_is_without_its_body(plain: Any) -> None:
    got, head = plain.get("/health"), plain.ask("HEAD", "/health")

    ours = {"date", "x-request-id"}
    assert (head.status, head.content) == (200, b"")
    assert {k: v for k, v in head.headers.items() if k not in ours} == {
        k: v for k, v in got.headers.items() if k not in ours
    }
    assert plain.ask("HEAD", "/endless").status == 200
    assert plain.ask("HEAD", "/nothing").status == 404


def test_failure_is_500_and_one_line_without_what_it_says(
    serve: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer = serve(guarded_app(tmp_path)).get("/failing")

    assert answer.status == 500
    assert "quux" not in answer.content.decode() + caplog.text
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 1
    assert "error=ValueError" in lines[0]
    assert "test_guards.py:" in lines[0]


def test_answer_that_breaks_off_ends_its_connection(
    serve: Any, tmp_path: Path, over_socket: Any, caplog: pytest.LogCaptureFixture
) -> None:
    running = serve(guarded_app(tmp_path))

    with running.connection() as connection:
        answer = over_socket[0](connection, b"GET /broken HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert not answer.endswith(b"0\r\n\r\n")
    assert "quux" not in caplog.text
    assert running.get("/health").status == 200


def access_lines(caplog: pytest.LogCaptureFixture, path: str) -> list[str]:
    """What the access log tells of `path`: a server that tests share may still tell of a request before this test."""
    messages = [record.getMessage() for record in caplog.records if record.name == "eventrec.server.access"]
    return [message for message in messages if f" path={path} " in message]


def test_access_log_tells_of_a_request_and_nothing_of_what_is_in_it(
    serve: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, until: Any
) -> None:
    caplog.set_level("INFO", "eventrec.server.access")
    running = serve(guarded_app(tmp_path))

    running.post("/dead/replay?key=quux", b'{"a":"quux"}', Authorization="Bearer quux", Content_Type="application/json")

    until(lambda: access_lines(caplog, "/dead/replay"))
    (line,) = access_lines(caplog, "/dead/replay")
    assert "method=POST path=/dead/replay status=422 bytes_in=12" in line
    assert "token=local" in line
    assert "quux" not in line


def test_access_log_is_left_out_where_it_is_not_wanted(
    serve: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "eventrec.server.access")

    serve(guarded_app(tmp_path, access_log=False)).get("/not-told")

    assert access_lines(caplog, "/not-told") == []


def test_requests_beyond_the_bound_are_503_and_health_is_answered(serve: Any, tmp_path: Path) -> None:
    gate = Gate()
    running = serve(guarded_app(tmp_path, gate, max_requests=2))
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(running.get("/gate").status)) for _ in range(2)]
    for each in threads:
        each.start()
        assert gate.entered.acquire(timeout=20)

    refused, health = running.get("/status"), running.get("/health/live")
    gate.is_open.set()
    for each in threads:
        each.join()

    assert (refused.status, health.status, answers) == (503, 200, [200, 200])
    assert refused.headers["retry-after"] == "1"
    assert running.get("/status").status == 200


def test_client_that_goes_cancels_what_it_asked_for(serve: Any, tmp_path: Path, until: Any) -> None:
    gate = Gate()
    app = guarded_app(tmp_path, gate)
    running = serve(app)

    with running.connection() as connection:
        connection.sendall(b"GET /gate HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert gate.entered.acquire(timeout=20)

    assert gate.cancelled.acquire(timeout=20)
    until(lambda: app.state.server.measures.requests["/gate", "GET", 499] == 1)
    assert app.state.server.measures.in_progress == 0


@pytest.mark.parametrize(
    ("host", "status"), [("ours.example", 200), ("OURS.example:99", 200), ("other", 400), ("[::1]", 200)]
)
def test_host_that_is_not_named_is_refused(serve: Any, tmp_path: Path, host: str, status: int) -> None:
    running = serve(guarded_app(tmp_path, hosts=("ours.example", "::1")))

    assert running.get("/health", Host=host).status == status


def test_pages_of_other_origins_are_told_nothing(plain: Any) -> None:
    asked = {"Origin": "https://shop.example", "Access_Control_Request_Method": "POST"}

    answers = [plain.get("/health", **asked), plain.ask("OPTIONS", "/dead/replay", **asked)]

    assert not [key for answer in answers for key in answer.headers if key.startswith("access-control")]


def test_pages_of_named_origins_may_ask(serve: Any, tmp_path: Path) -> None:
    running = serve(guarded_app(tmp_path, cors_origins=("https://shop.example",)))
    asked = {
        "Origin": "https://shop.example",
        "Access_Control_Request_Method": "POST",
        "Access_Control_Request_Headers": "authorization",
    }

    preflight = running.ask("OPTIONS", "/dead/replay", **asked)
    simple = running.get("/status", Origin="https://shop.example")
    other = running.ask("OPTIONS", "/dead/replay", **{**asked, "Origin": "https://evil.example"})
    refused = running.get("/nothing", Origin="https://shop.example")

    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert simple.headers["access-control-allow-origin"] == "https://shop.example"
    assert refused.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-origin" not in other.headers
    assert all("Origin" in answer.headers["vary"] for answer in (preflight, simple, other, running.get("/health")))
