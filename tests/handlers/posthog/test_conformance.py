"""The claims of the conformance suite, against a PostHog that refuses as the real one does, behind a proxy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from uuid import UUID

import pytest
from anyio import to_thread

from eventrec import Event, EventHandler, ReceivedEvent
from eventrec.ingest.timestamps import nanoseconds
from eventrec.testing.conformance import Capability, Delivered, HandlerConformance, HandlerHarness
from eventrec.testing.conformance.log import Sample
from eventrec.testing.posthog import FakePostHog
from eventrec.testing.proxy import FaultProxy
from eventrec_handlers.posthog import PostHogHandler

pytestmark = pytest.mark.handlers


class PostHogHarness(HandlerHarness):
    """A PostHog of the claim's own, behind a proxy; requests are not compressed, so that the proxy sees their end."""

    lacks: ClassVar[Mapping[Capability, str]] = {
        "checkpoints": "PostHog keeps none: it tells repeats by their uuid, by and by",
        "columns": "a column is a property like any other, and is not told from the payload when it is read back",
        "replace": "without checkpoints, one project is like another",
        "restore": "without checkpoints, it makes no difference",
    }
    payloads = "value"

    async def start(self) -> None:
        self.posthog = FakePostHog()
        self.proxy = FaultProxy(self.posthog.host, self.posthog.port)

    async def stop(self) -> None:
        await to_thread.run_sync(self.proxy.close)
        await to_thread.run_sync(self.posthog.close)

    def handler(self) -> EventHandler:
        return PostHogHandler(
            self.posthog.key, host=self.proxy.host, port=self.proxy.port, tls=False, gzip=False, distinct_id="tester"
        )

    async def delivered(self) -> Sequence[Delivered]:
        return [_delivered(event) for event in self.posthog.events]

    async def disconnect(self) -> None:
        self.proxy.cut()

    async def reconnect(self) -> None:
        self.proxy.mend()

    def poison(self) -> Event | ReceivedEvent:
        return ReceivedEvent("poison", b'{"a_number_that_no_double_holds":1e999}')

    def oversized(self) -> Sequence[Event]:
        self.posthog.max_bytes = 4_000_000
        return [Sample("x" * 1_000_000) for _ in range(5)]

    async def forbid(self) -> None:
        self.posthog.is_forbidden = True

    async def permit(self) -> None:
        self.posthog.is_forbidden = False

    async def lose_answer(self, *, late: float = 0.0) -> None:
        self.proxy.cut_after(b'Z"}\n', late=late)


def _delivered(event: dict[str, Any]) -> Delivered:
    properties = dict(event["properties"])
    table = properties.pop("table", "events")
    payload = properties["payload"] if properties.keys() == {"payload"} else properties
    return Delivered(
        id=str(UUID(event["uuid"])),
        type=event["event"],
        timestamp=nanoseconds(event["timestamp"], "iso"),
        payload=json.dumps(payload).encode(),
        table=table,
    )


class TestPostHogHandler(HandlerConformance):
    @pytest.fixture
    def harness(self) -> HandlerHarness:
        return PostHogHarness()
