"""What each answer means, the ones that are not GreptimeDB's included: bounded, and never taken for success."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import anyio.to_thread
import grpc
import pytest

from eventrec import (
    Batch,
    BatchTooLargeError,
    Event,
    PauseError,
    PermanentError,
    TransientError,
)
from eventrec.testing.proxy import FaultProxy
from eventrec_handlers.greptimedb import UnknownStatusError
from eventrec_handlers.greptimedb.errors import meaning_of_call, meaning_of_status
from eventrec_handlers.greptimedb.options import CallOptions

pytestmark = pytest.mark.handlers

Batches = Callable[..., Batch]
Events = Callable[..., Event]

CODES: list[tuple[int, type[Exception]]] = [
    *(
        (code, TransientError)
        for code in (1003, 1005, 1007, 1008, 4000, 4007, 4008, 4009, 4010, 5000, 5001, 6000, 6001)
    ),
    *((code, PermanentError) for code in (1001, 1004, 4001, 4002)),
    *((code, PauseError) for code in (1009, 4004, *range(7000, 7007))),
    *((code, UnknownStatusError) for code in (1000, 1002, 1006, 4242)),
]

STATUSES: list[tuple[grpc.StatusCode, type[Exception]]] = [
    (grpc.StatusCode.UNAVAILABLE, TransientError),
    (grpc.StatusCode.CANCELLED, TransientError),
    (grpc.StatusCode.DEADLINE_EXCEEDED, TransientError),
    (grpc.StatusCode.ABORTED, TransientError),
    (grpc.StatusCode.INTERNAL, TransientError),
    (grpc.StatusCode.UNKNOWN, TransientError),
    (grpc.StatusCode.DATA_LOSS, TransientError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, TransientError),
    (grpc.StatusCode.UNAUTHENTICATED, PauseError),
    (grpc.StatusCode.PERMISSION_DENIED, PauseError),
    (grpc.StatusCode.UNIMPLEMENTED, PauseError),
    (grpc.StatusCode.INVALID_ARGUMENT, PermanentError),
    (grpc.StatusCode.NOT_FOUND, PermanentError),
    (grpc.StatusCode.ALREADY_EXISTS, PermanentError),
    (grpc.StatusCode.FAILED_PRECONDITION, PermanentError),
    (grpc.StatusCode.OUT_OF_RANGE, PermanentError),
]


async def failure_of(handler: Any, batch: Batch) -> Exception:
    """What `handle` raises, in a time that is bounded."""
    with anyio.fail_after(120), pytest.raises(Exception) as raised:  # noqa: PT011 - it is looked at
        await handler.handle(batch)
    return raised.value


@pytest.mark.parametrize(("code", "expected"), CODES)
def test_status_code_of_greptimedb_means(code: int, expected: type[Exception]) -> None:
    failure = meaning_of_status(code, "staged\nfor\x00the test", where="here")
    trailers = {"x-greptime-err-code": str(code), "x-greptime-err-msg": "from the trailers"}
    with_trailers = meaning_of_call(grpc.StatusCode.INTERNAL, "from grpc", trailers, where="here", request_bytes=10**6)

    assert type(failure) is type(with_trailers) is expected
    assert str(failure).endswith(f"({code}): staged for the test")
    assert str(with_trailers).endswith(f"({code}): from the trailers")


@pytest.mark.parametrize(("status", "expected"), STATUSES)
def test_status_of_grpc_means(status: grpc.StatusCode, expected: type[Exception]) -> None:
    failure = meaning_of_call(status, "staged", {}, where="here", request_bytes=10**6)

    assert type(failure) is expected
    assert str(failure) == f"here: {status.name}: staged"


@pytest.mark.parametrize("code", ["", "zero", "0", "-1", "9" * 30, "1004.5", "١٠٠٤"])
def test_code_that_is_none_is_left_aside(code: str) -> None:
    failure = meaning_of_call(
        grpc.StatusCode.INTERNAL, "staged", {"x-greptime-err-code": code}, where="here", request_bytes=1
    )

    assert type(failure) is TransientError


@pytest.mark.parametrize(
    ("code", "hint", "expected"),
    [
        (1004, "retryable", TransientError),
        (1000, "true", TransientError),
        (4001, "1", TransientError),
        (1003, "non-retryable", PermanentError),
        (6001, "false", PermanentError),
        (1004, "non_retryable", PermanentError),
        (1000, "0", UnknownStatusError),
        (7002, "retryable", PauseError),
        (1003, "perhaps", TransientError),
        (1004, None, PermanentError),
    ],
)
def test_hint_of_the_server_counts_but_not_for_what_an_operator_must_do(
    code: int, hint: str | None, expected: type[Exception]
) -> None:
    assert type(meaning_of_status(code, "", where="here", hint=hint)) is expected


@pytest.mark.parametrize(
    ("details", "request_bytes", "expected"),
    [
        ("SERVER: Received message larger than max (301200 vs. 200000)", 301_200, BatchTooLargeError),
        ("Received message larger than max (301200 vs. 200000)", 301_200, BatchTooLargeError),
        (
            "Error, decoded message length too large: found 301200 bytes, the limit is: 200000 bytes",
            301_200,
            BatchTooLargeError,
        ),
        ("Decompressed message larger than max", 301_200, BatchTooLargeError),
        ("Stream removed (CLIENT: Received message larger than max (3145729 vs. 1048576))", 301_200, TransientError),
        ("Decompressed message larger than max", 1_000, TransientError),
    ],
)
@pytest.mark.parametrize("status", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE])
def test_message_that_is_too_large_is_split_where_it_is_ours(
    status: grpc.StatusCode, details: str, request_bytes: int, expected: type[Exception]
) -> None:
    assert type(meaning_of_call(status, details, {}, where="here", request_bytes=request_bytes)) is expected


def test_long_message_of_the_server_is_cut() -> None:
    failure = meaning_of_status(1003, "x" * 100_000, where="here")

    assert str(failure) == f"here: internal (1003): {'x' * 300}…"


# -- from a server


async def test_code_in_the_answer_comes_out(server: Any, opened: Any, batch: Batches, event: Events) -> None:
    server.refuse_all(1004, "staged")

    failure = await failure_of(await opened(server), batch(event(), event()))

    assert type(failure) is PermanentError
    assert str(failure).endswith("invalid arguments (1004): staged")


async def test_code_message_and_hint_in_the_trailers_come_out(
    server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    """Trailers are all there is: no message came before them."""
    trailers = (
        ("x-greptime-err-code", "1004"),
        ("x-greptime-err-msg", "in the trailers"),
        ("x-greptime-err-retry-hint", "retryable"),
    )
    server.refuse_all(status=grpc.StatusCode.INVALID_ARGUMENT, trailers=trailers)

    failure = await failure_of(await opened(server), batch(event()))

    assert type(failure) is TransientError
    assert str(failure).endswith("(1004): in the trailers")


async def test_status_of_grpc_comes_out(server: Any, opened: Any, batch: Batches, event: Events) -> None:
    server.refuse_all(status=grpc.StatusCode.UNAVAILABLE, message="staged")

    failure = await failure_of(await opened(server), batch(event()))

    assert type(failure) is TransientError
    assert str(failure).endswith("UNAVAILABLE: staged")


# -- answers with a good status


@pytest.mark.parametrize(
    "content",
    [
        b"",  # nothing
        bytes.fromhex("0a00"),  # a header without a status
        bytes.fromhex("12020802"),  # rows without a header
        bytes.fromhex("0a020a00"),  # a status without rows
        b"<html><body>502 Bad Gateway</body></html>",
        bytes.fromhex("0a"),  # cut off
        bytes.fromhex("0a7f0a00"),
        b"\xff" * 1_000,
        b"\0" * 10_000,
    ],
)
async def test_answer_that_is_none_is_no_success(
    server: Any, opened: Any, batch: Batches, event: Events, content: bytes
) -> None:
    server.acts.append(server.then(content))

    failure = await failure_of(await opened(server), batch(event()))

    assert type(failure) is TransientError
    assert "an answer" in str(failure)


async def test_answer_that_counts_fewer_rows_is_no_success(
    server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    server.acts.append(server.half)

    failure = await failure_of(await opened(server), batch(*(event() for _ in range(10))))

    assert isinstance(failure, UnknownStatusError)
    assert "took 5 of 10 rows" in str(failure)


async def test_answer_with_fields_of_a_later_version_is_understood(
    server: Any, fake: Any, opened: Any, batch: Batches, event: Events
) -> None:
    server.acts.append(server.then(fake.answer(1) + bytes.fromhex("fa3f03616263")))

    await (await opened(server)).handle(batch(event()))

    assert len(server.rows) == 1


async def test_answer_that_is_too_large_is_no_success(server: Any, opened: Any, batch: Batches, event: Events) -> None:
    server.acts.append(server.then(b"\x1a" + b"x" * (2 << 20)))

    failure = await failure_of(await opened(server), batch(event("x" * 100_000)))

    assert type(failure) is TransientError


# -- no answer


async def test_server_that_hangs_is_given_up_in_time(server: Any, opened: Any, batch: Batches, event: Events) -> None:
    server.acts.append(server.hang)
    handler = await opened(server, timeout=0.3)

    failure = await failure_of(handler, batch(event()))
    handler._front_ends._options = CallOptions(timeout=20)  # the next answer may be slow, on a busy machine
    await handler.handle(batch(event()))

    assert type(failure) is TransientError
    assert "DEADLINE_EXCEEDED" in str(failure)
    assert len(server.rows) == 1


async def test_grpc_that_says_nothing_is_given_up(
    server: Any, opened: Any, batch: Batches, event: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a child of a fork, where its threads are gone."""
    monkeypatch.setattr("eventrec_handlers.greptimedb.channel.GRACE", 0.1)
    monkeypatch.setattr("eventrec_handlers.greptimedb.channel.from_any_thread", lambda: lambda _: None)
    handler = await opened(server, timeout=0.1)

    failure = await failure_of(handler, batch(event()))

    assert type(failure) is TransientError
    assert "no answer in time" in str(failure)


async def test_cancelled_call_ends_on_the_wire_too(server: Any, opened: Any, batch: Batches, event: Events) -> None:
    server.acts.append(server.hang)
    handler = await opened(server, timeout=60)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(handler.handle, batch(event()))
        await anyio.to_thread.run_sync(server.hangs.wait, 10)
        tasks.cancel_scope.cancel()

    assert await anyio.to_thread.run_sync(server.cancelled.wait, 10)


# -- what is not a GreptimeDB


@contextmanager
def port_that(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port on which `answer` is called with each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                held.append(connection)
                with suppress(OSError):
                    answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        for connection in held:
            connection.close()


HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"
SETTINGS = bytes.fromhex("000000040000000000")


def _html(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(HTML)


def _endless(connection: socket.socket) -> None:
    connection.settimeout(5)
    for _ in range(1_000):
        connection.sendall(b"\xff" * 65_536)


def _close_at_once(connection: socket.socket) -> None:
    connection.close()


def _goaway(connection: socket.socket) -> None:
    connection.sendall(SETTINGS + bytes.fromhex("000008070000000000") + bytes(8))


def _silent(_: socket.socket) -> None:
    pass


@pytest.mark.parametrize("answer", [_html, _endless, _close_at_once, _goaway, _silent])
async def test_port_that_speaks_something_else_is_transient_and_never_a_hang(
    opened: Any, batch: Batches, event: Events, answer: Callable[[socket.socket], None]
) -> None:
    with port_that(answer) as port:
        failure = await failure_of(await opened(port, timeout=1, connect_timeout=1), batch(event()))

    assert type(failure) is TransientError


async def test_port_of_another_grpc_service_pauses(opened: Any, batch: Batches, event: Events) -> None:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - of that service

    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    try:
        failure = await failure_of(await opened(port), batch(event()))
    finally:
        other.stop(0).wait(10)

    assert type(failure) is PauseError
    assert "UNIMPLEMENTED" in str(failure)


@pytest.mark.parametrize(("direction", "count"), [("to_server", 1_000), ("to_client", 20)])
async def test_reset_in_the_middle_of_a_request_or_of_an_answer_is_transient(
    proxy: FaultProxy, opened: Any, batch: Batches, event: Events, *, direction: Any, count: int
) -> None:
    handler = await opened(proxy)
    proxy.cut_after(count=count, direction=direction, passes=False)

    failure = await failure_of(handler, batch(event("x" * 5_000)))
    await handler.handle(batch(event()))

    assert type(failure) is TransientError
    assert proxy.cuts == 1


async def test_answer_that_swells_when_it_is_unpacked_is_transient(
    make_server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    """Twenty kilobytes on the wire, twenty megabytes here; a record must not become a dead letter of it."""
    server = make_server(compression=grpc.Compression.Gzip)
    server.acts.append(server.then(b"\x1a" + bytes(20 << 20)))

    failure = await failure_of(await opened(server), batch(event()))

    assert type(failure) is TransientError
