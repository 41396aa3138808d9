"""The claims of the conformance suite, against a receiver that decodes with OpenTelemetry's own messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
from anyio import to_thread

from eventrec import Event, EventHandler
from eventrec.testing.conformance import Capability, Delivered, HandlerConformance, HandlerHarness, Sample
from eventrec.testing.proxy import FaultProxy
from eventrec_handlers.otlp import OTLPHandler

pytestmark = pytest.mark.handlers

LARGEST = 4_000_000
FIXED = {"log.record.uid", "eventrec.table", "eventrec.time_unix_nano", "eventrec.body"}


class ReceiverHarness(HandlerHarness):
    """A receiver that keeps what it is sent, behind a proxy that can be cut."""

    lacks: ClassVar[Mapping[Capability, str]] = {
        "checkpoints": "a receiver keeps none: at least once",
        "replace": "without checkpoints, one receiver is like another",
        "restore": "without checkpoints, it makes no difference",
    }
    payloads = "value"

    def __init__(self, endpoint_of: Callable[..., Any], logs_in: Callable[..., Any], **options: Any) -> None:
        self.kept: list[Delivered] = []
        self.is_forbidden = False
        self.endpoint_of, self.logs_in, self.options = endpoint_of, logs_in, options

    async def start(self) -> None:
        self.endpoint = self.endpoint_of(self.answer)
        self.proxy = FaultProxy("127.0.0.1", self.endpoint.port)

    async def stop(self) -> None:
        await to_thread.run_sync(self.proxy.close)

    def handler(self) -> EventHandler:
        return OTLPHandler(f"http://{self.proxy.host}:{self.proxy.port}", **self.options)

    async def delivered(self) -> Sequence[Delivered]:
        return list(self.kept)

    async def disconnect(self) -> None:
        self.proxy.cut()

    async def reconnect(self) -> None:
        self.proxy.mend()

    def poison(self) -> Event:
        return Sample({"what": "the receiver refuses for good"}, kind="poison")

    def oversized(self) -> Sequence[Event]:
        return [Sample("x" * 1_000_000) for _ in range(5)]

    async def forbid(self) -> None:
        self.is_forbidden = True

    async def permit(self) -> None:
        self.is_forbidden = False

    async def lose_answer(self, *, late: float = 0.0) -> None:
        # The body ends with bytes that no pattern tells: so the answer is cut off, which has been given by then.
        self.proxy.cut_after(b"HTTP/1.1 ", direction="to_client", passes=False, late=late)

    def answer(self, posted: Any) -> tuple[int, Mapping[str, str], bytes]:
        if self.is_forbidden:
            return 401, {}, b""
        logs = self.logs_in(posted.headers, posted.body)
        if sum(log.message.ByteSize() for log in logs) > LARGEST:
            return 413, {}, b""
        rows = [self.row(log) for log in logs]
        if any(row.type == "poison" for row in rows):
            return 400, {"Content-Type": "application/x-protobuf"}, b"\x12\x06poison"
        self.kept += rows
        return (
            200,
            {"Content-Type": posted.headers["content-type"]},
            b"{}" if "json" in posted.headers["content-type"] else b"",
        )

    @staticmethod
    def row(log: Any) -> Delivered:
        said = log.attributes
        body = log.body if said.get("eventrec.body") == "json" else json.dumps(log.body)
        at = said.get("eventrec.time_unix_nano", log.message.time_unix_nano)
        columns = {name: value for name, value in said.items() if name not in FIXED}
        kind = log.message.event_name
        return Delivered(said["log.record.uid"], kind, at, body.encode(), said["eventrec.table"], columns)


class TestProtobuf(HandlerConformance):
    @pytest.fixture
    def harness(self, endpoint_of: Callable[..., Any], logs_in: Callable[..., Any]) -> HandlerHarness:
        return ReceiverHarness(endpoint_of, logs_in)


class TestOthers(HandlerConformance):
    """What differs from that in how a record is encoded alone: one backend for each will do."""

    @pytest.fixture
    def harness(
        self, endpoint_of: Callable[..., Any], logs_in: Callable[..., Any], anyio_backend: str
    ) -> HandlerHarness:
        if anyio_backend == "asyncio":
            return ReceiverHarness(endpoint_of, logs_in, encoding="json", compression="none")
        return ReceiverHarness(endpoint_of, logs_in, body="json", compression="none")
