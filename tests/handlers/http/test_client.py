"""No answer can hurt the client: each is bounded in time and size, and has one meaning."""

from __future__ import annotations

import gc
import gzip
import logging
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import anyio
import pytest
from anyio.streams.tls import TLSListener

from eventrec import BatchTooLargeError, DeliveryError, PauseError, PermanentError, TransientError
from eventrec_handlers._http.client import Answer, HTTPClient
from eventrec_handlers._http.options import HTTPOptions
from eventrec_handlers._http.origin import Origin, origin_of

Peer: TypeAlias = Any  # of conftest.py, which cannot be imported
Server: TypeAlias = Any
Served: TypeAlias = Callable[..., AbstractAsyncContextManager[Server]]

SECRET = "s3cr3t/=token"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 5\r\n\r\nhello"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
OF_GZIP = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n"


@asynccontextmanager
async def opened(
    origin: Origin, *, credentials: dict[str, str] | None = None, **options: Any
) -> AsyncIterator[HTTPClient]:
    client = HTTPClient(origin, credentials=credentials, options=HTTPOptions(**{"timeout": 20, **options}))
    await client.open()
    try:
        yield client
    finally:
        await client.close()


def sized(content: bytes, head: bytes = OF_GZIP) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(content) + content


def packed(content: bytes) -> bytes:
    """Without the time, so that every process that collects the tests has the same."""
    return gzip.compress(content, mtime=0)


def playing(*pieces: bytes) -> Callable[[Peer], Any]:
    """Answers every request of a connection with `pieces`."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(*pieces)

    return script


def playing_once(*pieces: bytes) -> Callable[[Peer], Any]:
    """Answers with `pieces`, and closes."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*pieces)

    return script


async def failure_of(client: HTTPClient, **arguments: Any) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        await client.send("POST", "/in", body=b"{}", **arguments)
    return caught.value


# -- what goes well


async def test_request_and_answer_are_whole(served: Served) -> None:
    async with served(playing(ANSWER)) as server, opened(server.origin, credentials={"X-Key": SECRET}) as client:
        answer = await client.send("POST", "/a%20b?c=d", body=b"\0\xff", headers={"Content-Type": "x/y"})

    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.media_type == "text/html"
    (request,) = server.requests
    assert (request.method, request.target, request.body) == ("POST", "/a%20b?c=d", b"\0\xff")
    assert request.headers["content-type"] == "x/y"
    assert request.headers["x-key"] == SECRET
    assert request.headers["host"] == f"127.0.0.1:{server.port}"


async def test_connection_is_kept_and_closed_with_the_client(served: Served) -> None:
    async with served(playing(ANSWER)) as server:
        async with opened(server.origin) as client:
            for _ in range(5):
                await client.send("POST", "/")
            assert server.connections == 1
        await server.idle()


@pytest.mark.parametrize("more", [ANSWER, b"HTTP/1.1 ", b"garbage", b"\r\n"])
async def test_what_comes_behind_an_answer_is_not_the_next_one(served: Served, more: bytes) -> None:
    """Else a request that the server refuses would count as delivered."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n" + more)
        await peer.request()
        await peer.send(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")

    async with served(script) as server, opened(server.origin) as client:
        first = await client.send("POST", "/")
        second = await client.send("POST", "/")

    assert (first.status, second.status) == (202, 202)
    assert server.connections == 2


async def test_error_that_a_caller_handles_is_not_taken_for_a_cause(served: Served) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()

    async with served(script) as server, opened(server.origin) as client:
        try:
            raise ssl.SSLCertVerificationError(1, "of something else")  # noqa: TRY301
        except ssl.SSLCertVerificationError:
            failure = await failure_of(client)

    assert type(failure) is TransientError
    assert "something else" not in str(failure)


async def test_several_requests_go_side_by_side(served: Served) -> None:
    everyone = anyio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if len(server.requests) == 5:
            everyone.set()
        await everyone.wait()
        await peer.send(ANSWER)

    async with served(script) as server, opened(server.origin) as client, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(client.send, "POST", "/")

    assert len(server.requests) == 5


@pytest.mark.parametrize(
    "raw",
    [
        sized(packed(b"hello")),
        sized(packed(b"he") + packed(b"") + packed(b"llo")),
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200\r\nConnection: close\r\n\r\nhello",
        CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ANSWER,
    ],
    ids=["gzip", "gzip of several members", "HTTP/1.0", "without a length", "chunked", "after informational ones"],
)
async def test_each_form_of_an_answer_is_read(served: Served, raw: bytes) -> None:
    async with served(playing_once(raw)) as server, opened(server.origin) as client:
        answer = await client.send("POST", "/")

    assert answer.body == b"hello"


async def test_answer_in_single_bytes_is_read(served: Served) -> None:
    pieces = [bytes([byte]) for byte in sized(packed(b"hello"))]
    async with served(playing_once(*pieces)) as server, opened(server.origin) as client:
        answer = await client.send("POST", "/")

    assert answer.body == b"hello"


# -- what is not the protocol

BROKEN = {
    "nothing": b"",
    "garbage": b"\x16\x03\x01\x00\xa5\x01\0\0\xa1\x03\x03 no HTTP at all\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n",
    "half a status line": b"HTTP/1.",
    "half of the headers": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a length that is not one": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n..",
    "shorter than its length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
    "half a chunk": CHUNKED + b"a\r\nhello",
    "a chunk without a length": CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
    "truncated gzip": sized(packed(b"hello" * 100)[:-12]),
    "not gzip": sized(b"hello"),
    "gzip with a wrong checksum": sized(packed(b"hello")[:-8] + b"\0" * 8),
    "an encoding that was not asked for": sized(b"hello", b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n"),
    "headers beyond any bound": b"HTTP/1.1 200 OK\r\n" + b"X-Y: %b\r\n" % (b"z" * 1_000) * 300,
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
async def test_what_is_not_an_answer_is_transient_and_the_client_goes_on(served: Served, raw: bytes) -> None:
    async def script(peer: Peer) -> None:
        await (playing_once(raw) if server.connections == 1 else playing(ANSWER))(peer)

    async with served(script) as server, opened(server.origin) as client:
        failure = await failure_of(client)
        answer = await client.send("POST", "/")

    assert type(failure) is TransientError
    assert answer.body == b"hello"


@pytest.mark.parametrize(
    "raw",
    [BROKEN["shorter than its length"], BROKEN["truncated gzip"], BROKEN["half a chunk"], BROKEN["not gzip"]],
    ids=["shorter than its length", "truncated gzip", "half a chunk", "not gzip"],
)
async def test_body_that_is_not_needed_may_be_broken(served: Served, raw: bytes) -> None:
    async with served(playing_once(raw)) as server, opened(server.origin) as client:
        answer = await client.send("POST", "/", needs_body=False)

    assert answer.status == 200


async def test_any_answer_is_an_answer_or_one_of_our_errors(served: Served) -> None:
    """Answers of every kind, with bytes changed, put in, taken out, and parts of others put in."""
    chance, current = Random(7), b""
    whole = [
        ANSWER,
        sized(gzip.compress(b"hello" * 9, mtime=0)),
        CHUNKED + b"5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 307 -\r\nLocation: /a?b=c\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 -\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    ]

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(current)

    async with served(script) as server, opened(server.origin, max_answer=10_000) as client:
        for _ in range(200):
            raw = bytearray(chance.choice(whole))
            for _ in range(chance.randrange(5)):
                at = chance.randrange(len(raw) + 1)
                other = chance.choice(whole)[chance.randrange(40) :]
                raw[at : at + chance.randrange(6)] = chance.choice([b"", chance.randbytes(3), other])
            current = bytes(raw)
            try:
                answer = await client.send("POST", "/", body=b"{}", needs_body=chance.random() < 0.7)
            except DeliveryError:
                continue
            assert 200 <= answer.status < 300
            assert len(answer.body) <= 10_000


async def test_reset_in_mid_body_is_transient(served: Served) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        raw = peer.stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610 - of a socket
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets

    async with served(script) as server, opened(server.origin) as client:
        assert type(await failure_of(client)) is TransientError


async def test_body_beyond_the_bound_pauses_and_is_not_kept(served: Served) -> None:
    bomb = packed(b"\0" * 50_000_000)
    endless = CHUNKED + b"1000\r\n%b\r\n" % (b"x" * 0x1000) * 100

    for raw in (sized(bomb), endless, b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 200_000):
        async with served(playing_once(raw)) as server, opened(server.origin, max_answer=100_000) as client:
            failure = await failure_of(client)
            unneeded = await client.send("POST", "/", needs_body=False)

        assert type(failure) is PauseError
        assert "longer than 100,000 bytes" in str(failure)
        assert len(unneeded.body) <= 100_000


async def test_body_without_an_end_is_cut_off(served: Served) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.send_endlessly(b"1000\r\n%b\r\n" % (b"x" * 0x1000))

    async with served(script) as server:
        async with opened(server.origin) as client:
            assert type(await failure_of(client)) is PauseError
        await server.idle()


async def test_members_of_gzip_without_content_have_an_end(served: Served) -> None:
    raw = sized(packed(b"") * 20_000)
    async with served(playing_once(raw)) as server, opened(server.origin, max_answer=100_000) as client:
        assert type(await failure_of(client)) is PauseError


@pytest.mark.parametrize(
    "endless", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 Processing\r\nA: b\r\n\r\n"], ids=["100", "102"]
)
async def test_informational_answers_without_an_end_are_bounded_in_time(served: Served, endless: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send_endlessly(endless)

    async with served(script) as server, opened(server.origin, timeout=0.2) as client:
        failure = await failure_of(client)

    assert type(failure) is TransientError
    assert "no answer within 0.2 s" in str(failure)


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\n", CHUNKED + b"ffff\r\n"], ids=["start", "head", "body"])
async def test_trickle_is_bounded_in_time(served: Served, begin: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(begin)
        while True:
            await peer.send(b"x")
            await anyio.sleep(0.01)

    async with served(script) as server, opened(server.origin, timeout=0.3) as client:
        failure = await failure_of(client)

    assert type(failure) is TransientError


async def test_peer_that_does_not_read_is_bounded_in_time(served: Served) -> None:
    async def script(peer: Peer) -> None:
        await anyio.sleep_forever()

    async with served(script) as server, opened(server.origin, timeout=0.2) as client:
        with pytest.raises(TransientError, match=r"no answer within 0\.2 s"):
            await client.send("POST", "/", body=b"x" * 20_000_000)


async def test_status_counts_where_the_body_has_no_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventrec_handlers._http.client.DRAIN_SECONDS", 0.1)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwrong\r\n")
        await anyio.sleep_forever()

    async with served(script) as server, opened(server.origin) as client:
        failure = await failure_of(client)

    assert type(failure) is PermanentError


@pytest.mark.parametrize(
    ("status", "expected"), [(400, PermanentError), (401, PauseError), (413, BatchTooLargeError), (503, TransientError)]
)
@pytest.mark.parametrize(
    "body",
    [BROKEN["truncated gzip"], BROKEN["half a chunk"], BROKEN["two lengths"][-2:]],
    ids=["truncated gzip", "half a chunk", "two lengths"],
)
async def test_status_counts_where_the_body_is_broken(
    served: Served, status: int, expected: type[DeliveryError], body: bytes
) -> None:
    raw = b"HTTP/1.1 %d No\r\n" % status + (body.partition(b"\r\n")[2] or b"Connection: close\r\n\r\n..")
    async with served(playing_once(raw)) as server, opened(server.origin) as client:
        failure = await failure_of(client)

    assert type(failure) is expected


async def test_demand_to_wait_comes_along(served: Served) -> None:
    raw = b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nslow"
    async with served(playing(raw)) as server, opened(server.origin) as client:
        failure = await failure_of(client)

    assert isinstance(failure, TransientError)
    assert failure.retry_after == 7
    assert str(failure) == f"http://127.0.0.1:{server.port}: HTTP 429: slow"


async def test_status_that_no_record_is_to_blame_for_pauses(served: Served) -> None:
    raw = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    async with served(playing(raw)) as server, opened(server.origin) as client:
        assert type(await failure_of(client)) is PermanentError
        assert type(await failure_of(client, pauses={404})) is PauseError


async def test_switch_of_protocols_pauses(served: Served) -> None:
    raw = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    async with served(playing(raw)) as server, opened(server.origin, timeout=10) as client:
        assert isinstance(await failure_of(client), (PauseError, TransientError))


# -- redirects


def redirecting(status: int, location: str) -> Callable[[Peer], Any]:
    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            to = location.replace("PORT", str(peer._server.port))
            is_there = request.target == "/there?x=1"
            await peer.send(
                ANSWER if is_there else f"HTTP/1.1 {status} -\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()
            )

    return script


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("location", ["/there?x=1", "there?x=1", "http://127.0.0.1:PORT/there?x=1", "HTTP:/there?x=1"])
async def test_redirect_to_the_same_place_is_followed_with_the_body(served: Served, status: int, location: str) -> None:
    async with served(redirecting(status, location)) as server, opened(server.origin) as client:
        answer = await client.send("POST", "/here", body=b"body")

    assert answer.body == b"hello"
    assert [(request.target, request.body) for request in server.requests] == [
        ("/here", b"body"),
        ("/there?x=1", b"body"),
    ]


@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.1:PORT/",
        "http://localhost:PORT/",
        "//evil.test/",
        "http://127.0.0.1:1/",
        "http://user:pw@evil.test/",
        "http://s3cr3t.evil.test/",
        "ftp://127.0.0.1:PORT/",
        "http://[::1/",
        "http://127.0.0.1:99999/",
        "file:///etc/passwd",
        "/with a space",
        "",
    ],
)
async def test_redirect_elsewhere_pauses_and_nothing_is_sent_there(served: Served, location: str) -> None:
    key = {"X-Key": "s3cr3t"}
    async with served(redirecting(307, location)) as server, opened(server.origin, credentials=key) as client:
        failure = await failure_of(client)

    assert type(failure) is PauseError
    assert "pw" not in str(failure)
    assert "s3cr3t" not in str(failure)
    assert len(server.requests) == 1 + (location == "") * 5


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304])
async def test_redirect_that_would_drop_the_body_pauses(served: Served, status: int) -> None:
    async with served(redirecting(status, "/there?x=1")) as server, opened(server.origin) as client:
        failure = await failure_of(client)

    assert type(failure) is PauseError
    assert len(server.requests) == 1


async def test_redirects_in_a_circle_have_an_end(served: Served) -> None:
    async with served(redirecting(308, "/here")) as server, opened(server.origin) as client:
        failure = await failure_of(client)

    assert type(failure) is PauseError
    assert len(server.requests) == 6


# -- secrets


@pytest.mark.parametrize("spelled", [SECRET, "s3cr3t%2F%3Dtoken", f"Bearer {SECRET}", "in the body", "in/the/path"])
async def test_no_secret_is_in_an_error(served: Served, spelled: str) -> None:
    for raw in (
        sized(f"you said {spelled} ...".encode(), b"HTTP/1.1 400 Bad\r\n"),
        f"HTTP/1.1 {spelled}\r\n\r\n".encode(),
        f"{spelled}\r\n\r\n".encode(),
    ):
        async with served(playing_once(raw)) as server:
            client = HTTPClient(
                server.origin,
                credentials={"Authorization": f"Bearer {SECRET}"},
                secrets=["in the body", "in/the/path"],
                options=HTTPOptions(timeout=20),
            )
            await client.open()
            failure = await failure_of(client)
            await client.close()

        shown = f"{failure} {failure!r} {failure.__cause__!r} {failure.__cause__}"
        assert spelled not in shown


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\0", "ü", "", " a", "a ", "a\x7f"])
def test_header_that_cannot_be_one_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(ValueError, match="'X-Key'") as caught:
        HTTPClient(Origin("http", "h", 1), credentials={"X-Key": value.replace("a", "hidden")})

    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("target", ["", "x", "/a b", "/a\r\nX: y", "/ü", "/a#b", "http://h/"])
async def test_target_that_cannot_be_one_is_refused_and_not_shown(served: Served, target: str) -> None:
    async with served(playing(ANSWER)) as server, opened(server.origin) as client:
        with pytest.raises(ValueError, match="a path begins with /") as caught:
            await client.send("POST", target)

    assert server.requests == []
    assert not target or target not in str(caught.value)


async def test_nothing_is_logged_at_the_level_of_info(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with served(playing(ANSWER)) as server, opened(server.origin) as client:
            await client.send("POST", "/secret/path")

    assert [record.name for record in caplog.records if record.name != "asyncio"] == []


# -- connecting


async def test_port_without_a_server_is_transient_in_the_words_of_the_system(served: Served) -> None:
    async with served(playing(ANSWER)) as server:
        pass
    async with opened(server.origin) as client:
        failure = await failure_of(client)

    assert type(failure) is TransientError
    assert "refused" in str(failure)


async def test_host_without_an_address_is_transient() -> None:
    async with opened(Origin("http", "nowhere.invalid", 80)) as client:
        assert type(await failure_of(client)) is TransientError


async def test_client_that_is_not_open_says_so(served: Served) -> None:
    client = HTTPClient(Origin("http", "127.0.0.1", 1))

    with pytest.raises(RuntimeError, match="is not open"):
        await client.send("POST", "/")

    await client.close()


async def test_cancelled_request_leaves_no_connection(served: Served) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await anyio.sleep(0.02)
        await peer.send(ANSWER[:-3])
        await peer.request()  # which does not come

    async with served(script) as server, opened(server.origin) as client:
        for delay in (0, 0.0005, 0.002, 0.01, 0.03):
            with anyio.move_on_after(delay):
                await client.send("POST", "/")
        await server.idle()


async def test_closing_does_not_wait_for_the_peer(served: Served) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(ANSWER)
        await anyio.sleep_forever()

    async with served(script) as server:
        client = HTTPClient(server.origin)
        await client.open()
        await client.send("POST", "/")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await client.close()
        assert not client.is_open


def test_client_of_a_loop_that_is_gone_may_be_opened_in_another() -> None:
    client = HTTPClient(Origin("http", "127.0.0.1", 1))

    async def use() -> None:
        await client.open()
        with pytest.raises(TransientError):
            await client.send("POST", "/")

    for backend in ("asyncio", "trio", "asyncio"):
        anyio.run(use, backend=backend)
    gc.collect()


# -- TLS


@asynccontextmanager
async def served_with_tls(certificate: tuple[Path, Path], *, wants: Path | None = None) -> AsyncIterator[Origin]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=wants)
    context.verify_mode = ssl.CERT_NONE if wants is None else ssl.CERT_REQUIRED
    context.load_cert_chain(*certificate)

    async def answer(stream: Any) -> None:
        async with stream:
            await stream.receive()
            await stream.send(ANSWER)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as plain, anyio.create_task_group() as tasks:
        listener = TLSListener(plain, context, standard_compatible=False)
        tasks.start_soon(listener.serve, answer)
        try:
            yield Origin("https", "127.0.0.1", plain.extra(anyio.abc.SocketAttribute.local_port))  # noqa: S610
        finally:
            tasks.cancel_scope.cancel()


async def test_certificate_that_is_not_trusted_pauses(certificate: tuple[Path, Path]) -> None:
    async with served_with_tls(certificate) as origin, opened(origin) as client:
        failure = await failure_of(client)

    assert type(failure) is PauseError
    assert "certificate" in str(failure)


async def test_certificate_that_the_user_trusts_is_taken(certificate: tuple[Path, Path]) -> None:
    async with served_with_tls(certificate) as origin:
        async with opened(origin, tls_ca=str(certificate[0])) as client:
            assert (await client.send("POST", "/")).body == b"hello"
        async with opened(origin, tls_verify=False) as client:
            assert (await client.send("POST", "/")).body == b"hello"


async def test_clients_own_certificate_is_shown(certificate: tuple[Path, Path]) -> None:
    own, key = map(str, certificate)
    async with (
        served_with_tls(certificate, wants=certificate[0]) as origin,
        opened(origin, tls_ca=own, tls_cert=own, tls_key=key) as client,
    ):
        assert (await client.send("POST", "/")).body == b"hello"


async def test_tls_to_a_server_without_it_is_transient(served: Served) -> None:
    async with (
        served(playing(ANSWER)) as server,
        opened(origin_of("https", "127.0.0.1", server.port), connect_timeout=0.2) as client,
    ):
        assert type(await failure_of(client)) is TransientError


@pytest.mark.parametrize("option", ["tls_ca", "tls_cert"])
async def test_file_of_certificates_that_cannot_be_read_pauses_at_open(tmp_path: Path, option: str) -> None:
    (tmp_path / "garbage").write_text("garbage")

    for name in ("missing", "garbage"):
        client = HTTPClient(Origin("https", "h", 1), options=HTTPOptions(**{option: str(tmp_path / name)}))  # type: ignore[arg-type]
        with pytest.raises(PauseError, match=name):
            await client.open()
        assert not client.is_open


# -- proxies


def proxying(*, status: int = 200) -> Callable[[Peer], Any]:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 %d who is s3cr3t?\r\nContent-Length: 0\r\n\r\n" % status)

    return script


async def test_environments_proxy_is_used_but_not_for_this_machine(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(proxying()) as proxy, served(playing(ANSWER)) as server:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with opened(server.origin) as client:
            await client.send("POST", "/near")
        async with opened(Origin("http", "far.invalid", 80)) as client:
            await client.send("POST", "/far")
        monkeypatch.setenv("NO_PROXY", "far.invalid")
        monkeypatch.setenv("no_proxy", "far.invalid")
        async with opened(Origin("http", "far.invalid", 80)) as client:
            assert type(await failure_of(client)) is TransientError
        async with opened(Origin("http", "other.invalid", 80), proxy="none") as client:
            assert type(await failure_of(client)) is TransientError

    assert [request.target for request in server.requests] == ["/near"]
    assert [request.target for request in proxy.requests] == ["http://far.invalid/far"]


async def test_proxy_that_refuses_pauses_and_one_that_fails_does_not(served: Served) -> None:
    for status, expected in ((407, PauseError), (403, PauseError), (502, TransientError)):
        async with served(proxying(status=status)) as proxy:
            url = f"http://name:{SECRET}@127.0.0.1:{proxy.port}".replace(SECRET, "s3cr3t")
            for scheme in ("http", "https"):
                async with opened(origin_of(scheme, "far.invalid"), proxy=url) as client:
                    failure = await failure_of(client)
                assert type(failure) is expected
                assert "s3cr3t" not in str(failure)


@pytest.mark.parametrize("url", ["far.invalid:80", "ftp://h", "http://", "http://h:port", "socks5://h:1"])
async def test_proxy_that_cannot_be_one_pauses_at_open(url: str) -> None:
    client = HTTPClient(Origin("http", "h", 1), options=HTTPOptions(proxy=url))

    with pytest.raises(PauseError, match="proxy"):
        await client.open()


async def test_quick_enough_for_small_batches(served: Served) -> None:
    """A hundred requests one after the other: a pause between head and body (Nagle) would take four seconds."""
    async with served(playing(ANSWER)) as server, opened(server.origin) as client:
        begin = time.perf_counter()
        for _ in range(100):
            await client.send("POST", "/", body=b"x" * 2_000)

    assert time.perf_counter() - begin < 10


def test_answer_says_its_media_type() -> None:
    assert Answer(200, {"content-type": " Application/JSON ;charset=x"}).media_type == "application/json"
    assert Answer(200).media_type == ""
