"""Who may connect, and what a peer costs that is not one of ours."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest
from anyio.abc import ByteStream, SocketStream
from anyio.to_thread import run_sync as in_thread

from eventrec.errors import MirrorError
from eventrec.mirroring.addresses import Address, client_context, server_context
from eventrec.mirroring.frames import FROM_SOURCE, Frame, FrameParser, Kind, encode_frame
from eventrec.mirroring.messages import Claim, Hello, Refused, Runs, decode, encode
from eventrec.mirroring.mirror import Mirror
from eventrec.mirroring.server import MirrorServer


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


def hello(**options: Any) -> bytes:
    return encode(Hello(**{"name": "standby", "instance": uuid4(), **options}))


async def answer(stream: ByteStream) -> list[tuple[Kind, bytes]]:
    """The frames that come before the peer ends the connection, or for a moment after the first of them."""
    parser, found = FrameParser(FROM_SOURCE), list[Frame]()
    with anyio.move_on_after(10):
        try:
            while not found:
                found += parser.feed(await stream.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
    return [(frame.kind, bytes(frame.body)) for frame in found]


async def is_dropped(stream: ByteStream, seconds: float = 20) -> bool:
    """Whether the peer ends the connection."""
    with anyio.move_on_after(seconds):
        try:
            while True:
                await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return True
    return False


async def goes_on(kit: Any, served: Any, here: Path, there: Path, **options: Any) -> None:
    """The server still serves a mirror."""
    source = await in_thread(kit.source, here)
    end = await in_thread(source.write, 3)
    async with kit.mirroring(served.address, there, **options):
        name = options.get("name", "standby")
        await kit.until(lambda: kit.acknowledged(here, source.run.id, name) == end)
    await in_thread(source.end)


GARBAGE = {
    "text": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": bytes(100),
    "noise": bytes(range(1, 256)) * 10,
    "huge": encode_frame(Kind.HELLO)[:1] + b"\xff\xff\xff\xff" + b"x" * 1_000,
    "not first": encode_frame(Kind.RUNS, b"{}"),
    "data": encode_frame(Kind.DATA, b"x" * 100),
    "no message": encode_frame(Kind.HELLO, b"{}"),
    "deep": encode_frame(Kind.HELLO, b"[" * 60_000),
    "no name": encode_frame(Kind.HELLO, b'{"name":"","instance":"' + str(uuid4()).encode() + b'"}'),
    "hello twice": hello() + hello(),
    "acknowledges what it may not": hello() + encode_frame(Kind.ACK, b'{"stream":1,"next_offset":-1}'),
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_ends_that_connection_and_no_other(here: Path, there: Path, kit: Any, content: bytes) -> None:
    here.mkdir()
    async with kit.serving(here) as served:
        async with await anyio.connect_tcp("127.0.0.1", served.port) as stream:
            await stream.send(content)
            assert await is_dropped(stream)
        await goes_on(kit, served, here, there, name="other")


async def test_a_peer_that_says_nothing_or_too_slowly_is_dropped(here: Path, there: Path, kit: Any) -> None:
    here.mkdir()
    async with (
        kit.serving(here, handshake=0.3) as served,
        await anyio.connect_tcp("127.0.0.1", served.port) as silent,
        await anyio.connect_tcp("127.0.0.1", served.port) as slow,
    ):

        async def trickle() -> None:
            for byte in hello():
                try:
                    await slow.send(bytes([byte]))
                except anyio.BrokenResourceError:
                    return
                await anyio.sleep(0.05)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(trickle)
            assert await is_dropped(silent)
            assert await is_dropped(slow)
            tasks.cancel_scope.cancel()


async def test_a_mirror_that_trickles_after_its_handshake_is_dropped(here: Path, kit: Any) -> None:
    here.mkdir()
    async with kit.serving(here, heartbeat=0.1) as served, await anyio.connect_tcp("127.0.0.1", served.port) as stream:

        async def trickle() -> None:
            await stream.send(hello() + encode_frame(Kind.RUNS)[:1] + (60_000).to_bytes(4))
            try:
                while True:
                    await anyio.sleep(0.02)
                    await stream.send(b" ")
            except anyio.BrokenResourceError:
                pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(trickle)
            assert await is_dropped(stream)
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def many(port: int, count: int) -> AsyncIterator[list[SocketStream]]:
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port)) for _ in range(count)]
        yield streams
        for stream in streams:
            await anyio.aclose_forcefully(stream)


async def test_hundreds_of_connections_cost_a_few_and_a_mirror_gets_through(here: Path, there: Path, kit: Any) -> None:
    here.mkdir()
    async with kit.serving(here) as served, many(served.port, 200) as streams:
        for stream in streams:
            try:
                await stream.send(encode_frame(Kind.HELLO)[:1] + (60_000).to_bytes(4) + b"x" * 100)
            except anyio.BrokenResourceError:
                continue
        await kit.until(lambda: len(served.server._handshakes) <= 16)
        await goes_on(kit, served, here, there)


async def test_more_mirrors_than_there_is_room_for_are_told_so(here: Path, kit: Any) -> None:
    here.mkdir()
    async with kit.serving(here, max_mirrors=2) as served, many(served.port, 3) as streams:
        answers = []
        for number, stream in enumerate(streams):
            await stream.send(hello(name=str(number)))
            answers.append((await answer(stream))[0])

    assert [kind for kind, _ in answers] == [Kind.WELCOME, Kind.WELCOME, Kind.REFUSED]
    assert b"no room" in answers[2][1]


@pytest.mark.parametrize(
    ("said", "reason"), [({"token": "wrong"}, "token"), ({}, "token"), ({"token": "secret", "version": 9}, "version 9")]
)
async def test_a_mirror_without_the_token_or_of_another_version_is_refused(
    here: Path, kit: Any, said: dict[str, Any], reason: str
) -> None:
    here.mkdir()
    async with (
        kit.serving(here, token="secret") as served,  # noqa: S106 - the test's own
        await anyio.connect_tcp("127.0.0.1", served.port) as stream,
    ):
        await stream.send(hello(**said))
        ((kind, body),) = await answer(stream)
        assert await is_dropped(stream)

    assert kind is Kind.REFUSED
    assert reason in decode(FrameParser(FROM_SOURCE).feed(encode_frame(kind, body))[0], Refused).reason
    assert b"secret" not in body
    assert not (here / "mirrors").exists()


async def test_a_mirror_that_is_refused_says_why_and_tries_again(here: Path, there: Path, kit: Any) -> None:
    here.mkdir()
    async with kit.serving(here, token="secret") as served:  # noqa: S106 - likewise
        async with kit.mirroring(served.address, there) as mirror:
            await kit.until(lambda: "the token is not right" in mirror.state)
        await goes_on(kit, served, here, there, token="secret")  # noqa: S106 - likewise


async def test_two_mirrors_of_one_name_are_told_apart_and_a_process_may_come_back(here: Path, kit: Any) -> None:
    here.mkdir()
    instance = uuid4()
    async with kit.serving(here) as served, many(served.port, 3) as (first, second, third):
        await first.send(hello(instance=instance))
        welcome = await answer(first)
        await second.send(hello())
        refused = await answer(second)
        await third.send(hello(instance=instance))
        again = await answer(third)
        assert await is_dropped(first)

    assert (welcome[0][0], refused[0][0], again[0][0]) == (Kind.WELCOME, Kind.REFUSED, Kind.WELCOME)
    assert b"another mirror" in refused[0][1]


async def test_a_mirror_that_says_it_has_too_many_logs_is_dropped(here: Path, kit: Any) -> None:
    here.mkdir()
    async with kit.serving(here) as served, await anyio.connect_tcp("127.0.0.1", served.port) as stream:
        await stream.send(hello(more=True))
        part = encode(Runs(runs=[Claim(run=uuid4()) for _ in range(500)], more=True))
        with pytest.raises(anyio.BrokenResourceError):  # noqa: PT012 - which of them is the first to fail is the system's
            for _ in range(1_000):
                await stream.send(part)


async def test_a_source_that_sends_garbage_or_nothing_is_tried_again(there: Path, kit: Any) -> None:
    contents = [b"HTTP/1.1 400\r\n\r\n", encode_frame(Kind.DATA, b"x"), b"", encode_frame(Kind.WELCOME, b"{")]
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django's

    async def send(stream: SocketStream) -> None:
        async with stream:
            await stream.send(contents.pop() if contents else b"\xff" * 9)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, send)
        async with kit.mirroring(Address("127.0.0.1", port), there) as mirror:
            await kit.until(lambda: not contents and mirror.state.startswith("waiting"))
        tasks.cancel_scope.cancel()

    assert mirror.connections == 0


@pytest.mark.parametrize("tls", [False, True])
async def test_what_other_machines_reach_takes_tls_and_a_token(
    here: Path, certificate: tuple[Path, Path], *, tls: bool
) -> None:
    here.mkdir()
    server = MirrorServer(here, tls=server_context(*certificate) if tls else None)

    with pytest.raises(MirrorError, match="token" if tls else "TLS"):
        await server.serve(Address("0.0.0.0", 0))  # noqa: S104 - that is what is refused


async def test_a_port_that_is_taken_is_an_error_of_the_system(here: Path) -> None:
    here.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await MirrorServer(here).serve(Address("127.0.0.1", taken.getsockname()[1]))


async def test_a_host_that_no_name_can_be_is_an_error_of_the_system(here: Path) -> None:
    here.mkdir()
    with pytest.raises(OSError, match="cannot be a host"):
        await MirrorServer(here).serve(Address("\u201c127.0.0.1\u201d", 0))


async def test_tls_with_a_token(here: Path, there: Path, kit: Any, certificate: tuple[Path, Path]) -> None:
    here.mkdir()
    async with kit.serving(here, tls=server_context(*certificate), token="t") as served:  # noqa: S106 - the test's own
        await goes_on(kit, served, here, there, tls=client_context(ca=certificate[0]), token="t")  # noqa: S106 - likewise


async def test_a_mirrors_own_certificate_takes_the_place_of_a_token(
    here: Path, there: Path, kit: Any, certificate: tuple[Path, Path]
) -> None:
    here.mkdir()
    async with kit.serving(here, tls=server_context(*certificate, client_ca=certificate[0])) as served:
        async with kit.mirroring(served.address, there, tls=client_context(ca=certificate[0])) as bare:
            await kit.until(lambda: bare.state.startswith("waiting"))
        context = client_context(ca=certificate[0], certificate=certificate[0], key=certificate[1])
        await goes_on(kit, served, here, there, tls=context)


async def test_a_source_that_is_not_who_it_says_is_not_believed(
    here: Path, there: Path, kit: Any, certificate: tuple[Path, Path]
) -> None:
    here.mkdir()
    async with (
        kit.serving(here, tls=server_context(*certificate)) as served,
        kit.mirroring(served.address, there, tls=ssl.create_default_context()) as mirror,
    ):
        await kit.until(lambda: mirror.state.startswith("waiting") and "ertificate" in mirror.state)

    assert mirror.connections == 0


async def test_a_mirror_is_made_where_it_can_be_and_says_so_where_not(there: Path) -> None:
    there.write_bytes(b"a file")

    with pytest.raises(OSError, match="there"):
        await Mirror(Address("127.0.0.1", 1), there, name="standby").run()
