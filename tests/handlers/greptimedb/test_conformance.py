"""The suite against a fake GreptimeDB, which the handler reaches through a proxy that fails on demand."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import grpc
import pytest
from anyio import to_thread

from eventrec import Event, EventHandler
from eventrec.testing.conformance import Capability, Delivered, HandlerConformance, HandlerHarness, Sample
from eventrec.testing.proxy import FaultProxy
from eventrec_handlers.greptimedb import GreptimeDBHandler

pytestmark = pytest.mark.handlers

BASE: Final = ("id", "type", "timestamp", "payload", "context")
LARGEST: Final = 4 << 20


class GreptimeDBHarness(HandlerHarness):
    """A server of its own behind a proxy."""

    lacks: ClassVar[Mapping[Capability, str]] = {
        "checkpoints": "GreptimeDB has no transactions: at least once, and a repeat carries the id of the first",
        "replace": "without checkpoints, one destination is like another",
        "restore": "without checkpoints, it makes no difference",
    }
    payloads = "value"

    def __init__(self, fake: Any) -> None:
        self.fake = fake
        self.server: Any = None
        self.proxy: FaultProxy | None = None
        self.is_forbidden = False

    async def start(self) -> None:
        self.server = await to_thread.run_sync(lambda: self.fake.FakeGreptimeDB(max_message=LARGEST))
        self.server.refuse = self._refuse
        self.proxy = await to_thread.run_sync(FaultProxy, "127.0.0.1", self.server.port)

    async def stop(self) -> None:
        if self.proxy is not None:
            await to_thread.run_sync(self.proxy.close)
        if self.server is not None:
            await to_thread.run_sync(self.server.close)

    @property
    def _proxy(self) -> FaultProxy:
        assert self.proxy is not None
        return self.proxy

    def handler(self) -> EventHandler:
        port = 1 if self.proxy is None else self.proxy.port
        return GreptimeDBHandler(f"greptimedb://127.0.0.1:{port}/")

    async def delivered(self) -> Sequence[Delivered]:
        return [
            Delivered(
                row["id"],
                row["type"],
                row["timestamp"],
                json.dumps(row["payload"]).encode(),
                table,
                {name: value for name, value in row.items() if name not in BASE},
            )
            for table, row in self.server.rows
        ]

    async def disconnect(self) -> None:
        self._proxy.cut()

    async def reconnect(self) -> None:
        self._proxy.mend()

    def poison(self) -> Event:
        return Sample({"n": -1}, kind="poison")

    def oversized(self) -> Sequence[Event]:
        return [Sample("x" * 1_000_000) for _ in range(5)]

    async def forbid(self) -> None:
        self.is_forbidden = True

    async def permit(self) -> None:
        self.is_forbidden = False

    async def lose_answer(self, *, late: float = 0.0) -> None:
        def act(request: Any) -> None:
            if not late:
                self.server.insert(request)
            self._proxy.drop()
            if late:
                time.sleep(late)
                self.server.insert(request)
            raise self.fake.RefusalError(status=grpc.StatusCode.UNAVAILABLE)

        self.server.acts.append(act)

    def _refuse(self, request: Any) -> None:
        """As GreptimeDB: what it refuses, it refuses whole."""
        if self.is_forbidden:
            raise self.fake.RefusalError(
                message="no rights",
                status=grpc.StatusCode.PERMISSION_DENIED,
                trailers=(("x-greptime-err-code", "7006"),),
            )
        if any("poison" in row for insert in request.inserts for row in insert.rows):
            raise self.fake.RefusalError(1004, "poison")


class TestGreptimeDBHandler(HandlerConformance):
    @pytest.fixture
    def harness(self, fake: Any) -> HandlerHarness:
        return GreptimeDBHarness(fake)
