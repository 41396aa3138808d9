"""A GreptimeDB as far as a client of its row inserts can tell: it makes tables, keeps rows, and fails as it is told.

Run as a program it only counts rows, prints its port, and ends with its standard input.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc


def _beside(name: str) -> Any:
    """The module in the file of that name: a program has no fixtures, and no package has either of the two."""
    spec = importlib.util.spec_from_file_location(f"greptimedb_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


decoding = _beside("decoding")

HANDLE = "/greptime.v1.GreptimeDatabase/Handle"

INVALID_ARGUMENTS = 1004
MISMATCH = 7002
NO_CREDENTIALS = 7003


@dataclass
class RefusalError(Exception):
    """A call fails: with a status code in the answer, or as gRPC's own status, with what comes along."""

    code: int = 0
    message: str = ""
    status: grpc.StatusCode | None = None
    trailers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Received:
    """A call as it came in."""

    request: Any
    metadata: dict[str, str]
    content: bytes


@dataclass
class Table:
    """What the first insert made of it."""

    columns: dict[str, Any]
    options: dict[str, str]
    rows: list[dict[str, Any]] = field(default_factory=list)


class FakeGreptimeDB:
    """Listens on a free port of 127.0.0.1, or on that `port`.

    Attributes:
        received: The calls that came in, also those that failed.
        rows: Table and row, in the order of their arrival.
        acts: What the next calls do in place of what they should: each is called with the request, may raise a
            RefusalError, and gives the bytes of the answer; None: as it should.
        refusals: Table to what inserts into it are answered with.
        refuse: Called with each request that no act answers; may raise a RefusalError.
    """

    def __init__(
        self,
        *,
        user: tuple[str, str] | None = None,
        credentials: grpc.ServerCredentials | None = None,
        max_message: int = -1,
        compression: grpc.Compression | None = None,
        port: int = 0,
    ) -> None:
        self.received: list[Received] = []
        self.tables: dict[str, Table] = {}
        self.rows: list[tuple[str, dict[str, Any]]] = []
        self.acts: deque[Callable[[Any], bytes | None]] = deque()
        self.refusals: dict[str, RefusalError] = {}
        self.refuse: Callable[[Any], None] = lambda _: None
        self.user = user
        self.ended = threading.Event()
        self.hangs = threading.Event()
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._server = grpc.server(
            ThreadPoolExecutor(8, thread_name_prefix="fake greptimedb"),
            options=[
                ("grpc.max_receive_message_length", max_message),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
            compression=compression,
        )
        self._server.add_generic_rpc_handlers((_Service(self),))
        address = f"127.0.0.1:{port}"
        self.port = (
            self._server.add_insecure_port(address)
            if credentials is None
            else self._server.add_secure_port(address, credentials)
        )
        self._server.start()

    def close(self) -> None:
        self.ended.set()
        self._server.stop(0).wait(10)

    # -- what the next calls do

    def hang(self, _: Any = None) -> None:
        """Give no answer before the end."""
        self.hangs.set()
        self.ended.wait(60)

    def refusal(self, code: int = 0, message: str = "staged", **given: Any) -> RefusalError:
        """What a call may be refused with."""
        return RefusalError(code, message, **given)

    def refuse_all(self, *given: Any, **named: Any) -> None:
        """Answer every call with such a refusal."""

        def refuse(_: Any) -> None:
            raise RefusalError(*given, **named)

        self.refuse = refuse

    def then(self, answer: bytes) -> Callable[[Any], bytes]:
        """Keep the rows, and answer something else."""

        def act(request: Any) -> bytes:
            self.insert(request)
            return answer

        return act

    def half(self, request: Any) -> bytes:
        """Keep only the first half of each insert, and say how many those are."""
        kept = [
            decoding.Insert(insert.table, insert.columns, insert.rows[: len(insert.rows) // 2])
            for insert in request.inserts
        ]
        return answer(self.insert(decoding.Request(request.header, kept)))

    # -- what it is

    def handle(self, content: bytes, metadata: dict[str, str]) -> bytes:
        request = decoding.decode_request(content)
        with self._lock:
            self.received.append(Received(request, metadata, content))
            act = self.acts.popleft() if self.acts else None
        if act is not None and (answered := act(request)) is not None:
            return answered
        if self.user is not None and (given := request.header.get("basic")) != self.user:
            code = NO_CREDENTIALS if given is None else MISMATCH
            raise RefusalError(
                message="wrong credentials",
                status=grpc.StatusCode.UNAUTHENTICATED,
                trailers=(("x-greptime-err-code", str(code)), ("x-greptime-err-msg", "wrong credentials")),
            )
        self.refuse(request)
        for insert in request.inserts:
            if (refusal := self.refusals.get(insert.table)) is not None:
                raise refusal
        return answer(self.insert(request, metadata))

    def insert(self, request: Any, metadata: dict[str, str] | None = None) -> int:
        """Make or complete the tables, and keep the rows, all of them or none."""
        hints = dict(
            part.partition("=")[::2] for part in (metadata or {}).get("x-greptime-hints", "").split(",") if part
        )
        with self._lock:
            for insert in request.inserts:
                known = self.tables.get(insert.table)
                for column in insert.columns:
                    there = known and known.columns.get(column.name)
                    if there and there.kind != column.kind:
                        raise RefusalError(INVALID_ARGUMENTS, f"column {column.name}: type conflict")
                times = [column for column in insert.columns if column.semantic == decoding.TIMESTAMP]
                if len(times) != 1:
                    raise RefusalError(INVALID_ARGUMENTS, f"{len(times)} time indexes")
            for insert in request.inserts:
                table = self.tables.setdefault(insert.table, Table({}, hints))
                for column in insert.columns:
                    table.columns.setdefault(column.name, column)
                for row in insert.named():
                    self._keep(insert.table, table, row)
        return sum(len(insert.rows) for insert in request.inserts)

    def _keep(self, name: str, table: Table, row: dict[str, Any]) -> None:
        if table.options.get("append_mode") == "false":
            key = [column.name for column in table.columns.values() if column.semantic != decoding.FIELD]
            same = [known for known in table.rows if all(known.get(part) == row.get(part) for part in key)]
            for known in same:
                table.rows.remove(known)
                self.rows.remove((name, known))
        table.rows.append(row)
        self.rows.append((name, row))


class _Service(grpc.GenericRpcHandler):
    def __init__(self, server: FakeGreptimeDB) -> None:
        self._server = server

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method == HANDLE:
            return grpc.unary_unary_rpc_method_handler(self._handle)
        return None

    def _handle(self, content: bytes, context: grpc.ServicerContext) -> bytes:
        metadata = {str(name): str(value) for name, value in context.invocation_metadata()}
        context.add_callback(lambda: None if context.is_active() else self._server.cancelled.set())
        try:
            return self._server.handle(content, metadata)
        except decoding.MalformedError as exc:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"malformed: {exc}")
        except RefusalError as exc:
            if exc.status is not None:
                context.set_trailing_metadata(exc.trailers)
                context.abort(exc.status, exc.message)
            return answer(code=exc.code, message=exc.message)


def answer(rows: int | None = None, *, code: int = 0, message: str = "") -> bytes:
    """A GreptimeResponse: a header with a status and, where `rows` is given, how many were written."""
    status = b"\x08" + _varint(code) + (b"\x12" + _varint(len(message.encode())) + message.encode() if message else b"")
    header = b"\x0a" + _varint(len(status)) + status
    written = b"" if rows is None else b"\x08" + _varint(rows)
    return (
        b"\x0a" + _varint(len(header)) + header + (b"" if rows is None else b"\x12" + _varint(len(written)) + written)
    )


def _varint(number: int) -> bytes:
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


class _Counter(grpc.GenericRpcHandler):
    """Counts rows and keeps nothing: for measuring clients."""

    rows = calls = size = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method != HANDLE:
            return None
        return grpc.unary_unary_rpc_method_handler(self._handle)

    def _handle(self, content: bytes, context: grpc.ServicerContext) -> bytes:
        (inserts,) = [value for number, value in decoding.fields(content) if number == 6]
        rows = sum(
            number == 2
            for _, insert in decoding.fields(inserts)
            for number, _ in decoding.fields(decoding.message(insert)[2])
        )
        self.rows, self.calls, self.size = self.rows + rows, self.calls + 1, self.size + len(content)
        return answer(rows)


def main() -> None:
    """Count, and say what for each line of standard input."""
    counter = _Counter()
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((counter,))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)  # noqa: T201 - its answer
    server.start()
    for _ in sys.stdin:
        print(counter.rows, counter.calls, counter.size, time.process_time(), flush=True)  # noqa: T201 - likewise
        counter.rows = counter.calls = counter.size = 0
    server.stop(0).wait(10)


if __name__ == "__main__":
    main()
