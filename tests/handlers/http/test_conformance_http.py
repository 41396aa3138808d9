"""The claims of the conformance suite, about each format, against a server that checks what it is sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import unquote

import pytest
from anyio import to_thread

from eventrec import Event, EventHandler
from eventrec.testing.conformance import Capability, Delivered, HandlerConformance, HandlerHarness, Sample
from eventrec.testing.proxy import FaultProxy
from eventrec_handlers.http import HTTPHandler
from eventrec_handlers.http.formats import HTTPFormat

pytestmark = pytest.mark.handlers

LARGEST = 4_000_000


class WebhookHarness(HandlerHarness):
    """An endpoint that keeps what it is sent, behind a proxy that can be cut."""

    lacks: ClassVar[Mapping[Capability, str]] = {
        "checkpoints": "an endpoint keeps none: at least once",
        "replace": "without checkpoints, one endpoint is like another",
        "restore": "without checkpoints, it makes no difference",
    }
    format: HTTPFormat

    def __init__(self, endpoint_of: Callable[..., Any]) -> None:
        self.kept: list[Delivered] = []
        self.is_forbidden = False
        self.endpoint_of = endpoint_of

    async def start(self) -> None:
        self.endpoint = self.endpoint_of(self.answer)
        self.proxy = FaultProxy("127.0.0.1", self.endpoint.port)

    async def stop(self) -> None:
        await to_thread.run_sync(self.proxy.close)

    def handler(self) -> EventHandler:
        return HTTPHandler(f"http://{self.proxy.host}:{self.proxy.port}/in", format=self.format)

    async def delivered(self) -> Sequence[Delivered]:
        return list(self.kept)

    async def disconnect(self) -> None:
        self.proxy.cut()

    async def reconnect(self) -> None:
        self.proxy.mend()

    def poison(self) -> Event:
        return Sample({"what": "the endpoint refuses for good"}, kind="poison")

    def oversized(self) -> Sequence[Event]:
        return [Sample("x" * 1_000_000) for _ in range(5)]

    async def forbid(self) -> None:
        self.is_forbidden = True

    async def permit(self) -> None:
        self.is_forbidden = False

    async def lose_answer(self, *, late: float = 0.0) -> None:
        self.proxy.cut_after(self.last_bytes, late=late)

    def answer(self, posted: Any) -> tuple[int, Mapping[str, str], bytes]:
        """The status; what is sent is kept before it is told."""
        if self.is_forbidden:
            return 403, {}, b""
        if len(posted.body) > LARGEST:
            return 413, {}, b""
        rows = self.rows(posted.headers, posted.body)
        if any(row.type == "poison" for row in rows):
            return 422, {}, b"poison"
        self.kept += rows
        return 204, {}, b""

    last_bytes: bytes = b"]\n"

    def rows(self, headers: Mapping[str, str], body: bytes) -> list[Delivered]:
        raise NotImplementedError


class BatchHarness(WebhookHarness):
    format = "cloudevents-batch"

    def rows(self, headers: Mapping[str, str], body: bytes) -> list[Delivered]:
        assert headers["content-type"].startswith("application/cloudevents-batch+json")
        whole = json.loads(body)
        assert body.startswith(b"[")
        assert body.endswith(b"]\n")
        rows = [of_structured(line) for line in body[1:-2].split(b",\n")]
        assert len(rows) == len(whole)
        return rows


class StructuredHarness(WebhookHarness):
    format = "cloudevents-structured"
    lacks: ClassVar = {**WebhookHarness.lacks, "too_large": "each record is a request of its own"}
    largest_batch = 100
    last_bytes = b'"data":'

    def rows(self, headers: Mapping[str, str], body: bytes) -> list[Delivered]:
        assert headers["content-type"].startswith("application/cloudevents+json")
        return [of_structured(body)]


class BinaryHarness(WebhookHarness):
    format = "cloudevents-binary"
    lacks: ClassVar = {**WebhookHarness.lacks, "too_large": "each record is a request of its own"}
    largest_batch = 100
    last_bytes = b"\r\n\r\n"

    def rows(self, headers: Mapping[str, str], body: bytes) -> list[Delivered]:
        said = {name.removeprefix("ce-"): unquote(value, errors="strict") for name, value in headers.items()}
        assert headers["content-type"] == "application/json"
        return [of_attributes(said, body)]


class LinesHarness(WebhookHarness):
    format = "ndjson"
    last_bytes = b"}\n"

    def rows(self, headers: Mapping[str, str], body: bytes) -> list[Delivered]:
        assert headers["content-type"] == "application/x-ndjson"
        rows = []
        for line in body.split(b"\n")[:-1]:
            said = json.loads(line)
            payload = line.partition(b',"payload":')[2].removesuffix(b"}")
            for behind in ("columns", "context"):
                if behind in said:
                    payload = payload.partition(f',"{behind}":'.encode())[0]
            columns = said.get("columns", {})
            rows.append(Delivered(said["id"], said["type"], said["timestamp"], payload, said["table"], columns))
        return rows


def of_structured(content: bytes) -> Delivered:
    payload = content.partition(b',"data":')[2][:-1]
    said = json.loads(content)
    assert json.loads(payload) == said.pop("data")
    assert said["datacontenttype"] == "application/json"
    assert all(isinstance(value, str) and name.isalnum() and name.islower() for name, value in said.items())
    return of_attributes(said, payload)


def of_attributes(said: Mapping[str, str], payload: bytes) -> Delivered:
    assert said["specversion"] == "1.0"
    assert said["source"]
    second, _, fraction = said["time"].removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{second}+00:00").timestamp())
    columns = json.loads(said.get("columns", "{}"))
    return Delivered(said["id"], said["type"], seconds * 10**9 + int(fraction), payload, said["table"], columns)


class TestBatches(HandlerConformance):
    @pytest.fixture
    def harness(self, endpoint_of: Callable[..., Any]) -> HandlerHarness:
        return BatchHarness(endpoint_of)


class TestBinary(HandlerConformance):
    @pytest.fixture
    def harness(self, endpoint_of: Callable[..., Any]) -> HandlerHarness:
        return BinaryHarness(endpoint_of)


class TestOthers(HandlerConformance):
    """Two formats that differ from these in how a record is encoded alone: one backend for each will do."""

    @pytest.fixture
    def harness(self, endpoint_of: Callable[..., Any], anyio_backend: str) -> HandlerHarness:
        return (LinesHarness if anyio_backend == "asyncio" else StructuredHarness)(endpoint_of)
