import gzip
import random
import socket
import threading
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from eventrec import EventRecorder
from eventrec.log.compressed import load_zstd
from eventrec.server import ServerOptions, application
from eventrec.server.application import _mounted
from eventrec.server.bodies import body_of
from eventrec.server.refusals import RefusedError, json_response
from eventrec.server.routes import Route
from eventrec.server.serving import Server, shared_state
from eventrec.server.unpacking import MAX_MEMBERS, Unpacking

ZSTD = load_zstd()
HOST = b"Host: localhost\r\n"


def server_with(path: Path, **options: Any) -> Any:
    """An application with a route that reads a body, and says what it was."""

    async def endpoint(request: Request, server: Server) -> Response:
        body = await body_of(request, server)
        return json_response(
            {"bytes": len(body), "sha256": sha256(body).hexdigest(), "taken": shared_state(server).memory.taken}
        )

    app = application(EventRecorder(f"sqlite:///{path}/events.db"), options=ServerOptions(**options))
    route = Route(method="POST", path="/body", endpoint=endpoint, scope="ingest", summary="reads")
    app.router.routes.append(_mounted(app.state.server, route))
    return app


@pytest.fixture(scope="module")
def plain(serve_all: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server for tests that change nothing about it."""
    return serve_all(server_with(tmp_path_factory.mktemp("plain")))


def packed_in(coding: str, data: bytes) -> bytes:
    raw = zlib.compressobj(wbits=-15)
    ways: Mapping[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "x-gzip": gzip.compress,
        "deflate": zlib.compress,
        "zstd": ZSTD.compress,
        "DEFLATE": lambda data: raw.compress(data) + raw.flush(),
    }
    return ways[coding](data)


def unpack(coding: str, packed: bytes, room: int = 1 << 30, grown: Callable[[int], object] = lambda _: None) -> bytes:
    unpacking = Unpacking(coding, packed, room=room, grown=grown)
    assert unpacking.run()
    return unpacking.result()


def noise(size: int) -> bytes:
    """Bytes that do not pack, after some that do."""
    return bytes(size // 2) + random.Random(size).randbytes(size - size // 2)


@pytest.mark.parametrize("size", [0, 1, 4_095, 65_535, 65_536, 65_537, 700_001])
@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "DEFLATE", "zstd"])
def test_what_was_packed_is_unpacked(coding: str, size: int) -> None:
    data = noise(size)

    assert unpack(coding.lower(), packed_in(coding, data)) == data


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_several_members_are_one_body(coding: str) -> None:
    parts = [noise(size) for size in (10, 0, 70_000, 1)]

    assert unpack(coding, b"".join(packed_in(coding, part) for part in parts)) == b"".join(parts)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "DEFLATE", "zstd"])
def test_body_that_ends_anywhere_too_early_is_refused(coding: str) -> None:
    packed = packed_in(coding, noise(300))

    for end in range(len(packed)):
        with pytest.raises(RefusedError) as caught:
            unpack(coding.lower(), packed[:end])
        assert caught.value.status == 400, end


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_flipped_bytes_are_refused_or_change_nothing_else(coding: str) -> None:
    data = noise(200)
    packed = bytearray(packed_in(coding, data))

    for place in range(len(packed)):
        packed[place] ^= 0x55
        with suppress(RefusedError):
            unpack(coding, bytes(packed), room=1 << 20)
        packed[place] ^= 0x55

    assert unpack(coding, bytes(packed)) == data


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_bomb_is_refused_before_it_is_there(coding: str) -> None:
    kept = 0

    def grown(count: int) -> None:
        nonlocal kept
        kept += count

    with pytest.raises(RefusedError) as caught:
        unpack(coding, packed_in(coding, bytes(50_000_000)), room=1_000_000, grown=grown)

    assert caught.value.status == 413
    assert kept <= 1_000_000


def test_body_as_large_as_is_allowed_is_taken() -> None:
    assert len(unpack("gzip", gzip.compress(bytes(1_000_000)), room=1_000_000)) == 1_000_000


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_endless_empty_members_are_refused(coding: str) -> None:
    with pytest.raises(RefusedError, match="parts") as caught:
        unpack(coding, packed_in(coding, b"") * (MAX_MEMBERS + 1))

    assert caught.value.status == 400


def test_zeros_behind_the_end_are_padding_and_anything_else_is_not() -> None:
    assert unpack("gzip", gzip.compress(b"abc") + bytes(100_000)) == b"abc"
    with pytest.raises(RefusedError):
        unpack("gzip", gzip.compress(b"abc") + bytes(100_000) + b"x")
    with pytest.raises(RefusedError):
        unpack("gzip", gzip.compress(b"abc") + b"rest")


def test_window_of_zstd_is_bounded() -> None:
    options = {ZSTD.CompressionParameter.window_log: 27, ZSTD.CompressionParameter.content_size_flag: 0}
    packer = ZSTD.ZstdCompressor(options=options)

    with pytest.raises(RefusedError) as caught:
        unpack("zstd", packer.compress(bytes(1 << 16)) + packer.flush())

    assert caught.value.status == 400


@pytest.mark.parametrize("size", [10, 3_000_000])
@pytest.mark.parametrize("coding", ["", "identity", "gzip", "GZIP", "zstd"])
def test_body_arrives_whole(plain: Any, coding: str, size: int) -> None:
    data = noise(size)
    sent = data if coding in ("", "identity") else packed_in(coding.lower(), data)

    answer = plain.post("/body", sent, **({"Content_Encoding": coding} if coding else {}))

    assert answer.status == 200
    assert answer.json()["sha256"] == sha256(data).hexdigest()
    assert answer.json()["taken"] >= size


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Encoding": "br"}, 415),
        ({"Content-Encoding": "gzip, gzip"}, 415),
        ({"Content-Encoding": "gzip"}, 400),
        ({"Content-Length": "99999999999"}, 413),
        ({"Content-Length": "99999999999999999999999999"}, 400),
    ],
)
def test_body_that_is_not_taken_is_refused(
    plain: Any, over_socket: Any, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], status: int
) -> None:
    monkeypatch.setattr("eventrec.server.protocol._LINGER_SECONDS", 0.1)
    length = {} if "Content-Length" in headers else {"Content-Length": "3"}
    lines = "".join(f"{key}: {value}\r\n" for key, value in {**headers, **length, "Connection": "close"}.items())

    with plain.connection() as connection:
        answer = over_socket[0](connection, b"POST /body HTTP/1.1\r\n" + HOST + lines.encode() + b"\r\nabc")

    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert plain.get("/health").status == 200


def test_more_bytes_than_allowed_are_refused_as_they_come(serve: Any, tmp_path: Path) -> None:
    running = serve(server_with(tmp_path, max_body_bytes=1_000, max_unpacked_bytes=2_000))
    piece = b"3e8\r\n" + b"x" * 1_000 + b"\r\n"

    with running.connection() as connection:
        connection.sendall(b"POST /body HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + piece * 2)
        assert connection.recv(1_000).startswith(b"HTTP/1.1 413 ")

    assert running.post("/body", b"x" * 1_000).status == 200
    assert running.post("/body", gzip.compress(bytes(2_001)), Content_Encoding="gzip").status == 413
    assert running.post("/body", gzip.compress(bytes(2_000)), Content_Encoding="gzip").status == 200


def test_ten_thousand_tiny_chunks_are_a_body(serve: Any, tmp_path: Path, over_socket: Any) -> None:
    running = serve(server_with(tmp_path))
    head = b"POST /body HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"

    with running.connection() as connection:
        answer = over_socket[0](connection, head + b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n")

    assert b'"bytes":10000' in answer


def test_slow_body_is_408(serve: Any, tmp_path: Path, over_socket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventrec.server.protocol._LINGER_SECONDS", 0.1)
    running = serve(server_with(tmp_path, body_timeout="100ms"))

    with running.connection() as connection:
        answer = over_socket[0](connection, b"POST /body HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\na")

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer


def test_body_that_breaks_off_is_no_answer_and_no_memory(serve: Any, tmp_path: Path, until: Any) -> None:
    app = server_with(tmp_path)
    running = serve(app)

    with running.connection() as connection:
        connection.sendall(b"POST /body HTTP/1.1\r\n" + HOST + b"Content-Length: 300000\r\n\r\n" + b"a" * 100_000)
        connection.shutdown(socket.SHUT_RDWR)

    until(lambda: app.state.server.measures.requests["/body", "POST", 499] == 1)
    assert shared_state(app.state.server).memory.taken == 0


def test_bodies_of_all_requests_have_one_bound(serve: Any, tmp_path: Path, until: Any) -> None:
    app = server_with(tmp_path, max_body_memory=100_000)
    running = serve(app)

    with running.connection() as connection:
        connection.sendall(b"POST /body HTTP/1.1\r\n" + HOST + b"Content-Length: 90000\r\n\r\n" + b"a")
        until(lambda: shared_state(app.state.server).memory.taken == 90_000)
        refused = running.post("/body", b"x" * 10_001)
        bomb = running.post("/body", gzip.compress(bytes(10_001)), Content_Encoding="gzip")
        taken = running.post("/body", b"x" * 10_000)

    assert (refused.status, bomb.status, taken.status) == (503, 503, 200)
    assert int(refused.headers["retry-after"]) >= 1
    until(lambda: shared_state(app.state.server).memory.taken == 0)


@pytest.mark.parametrize("count", [1, 8])
def test_large_bodies_are_unpacked_beside_the_loop(serve: Any, tmp_path: Path, count: int) -> None:
    running = serve(server_with(tmp_path))
    data = noise(2_000_000)
    statuses: list[int] = []

    def post() -> None:
        statuses.append(running.post("/body", gzip.compress(data, 1), Content_Encoding="gzip").status)

    threads = [threading.Thread(target=post) for _ in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert statuses == [200] * count


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_body_that_never_fits_is_not_to_be_sent_again(serve: Any, tmp_path: Path, coding: str) -> None:
    running = serve(server_with(tmp_path, max_body_memory=100_000))
    body = b" " * 200_000

    given = packed_in(coding, body) if coding else body
    answer = running.post("/body", given, **({"Content_Encoding": coding} if coding else {}))

    assert answer.status == 413
    assert "retry-after" not in answer.headers
