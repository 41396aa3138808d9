"""A recorder and a PostHog: what the original pipeline lost, doubled or stopped at."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from anyio import to_thread

from eventrec import Backoff, EventRecorder, EventRecorderOptions
from eventrec.testing.conformance.log import numbered
from eventrec.testing.posthog import FakePostHog, Said
from eventrec_handlers.posthog import from_url

pytestmark = pytest.mark.handlers


def options(**changed: object) -> EventRecorderOptions:
    given: dict[str, object] = {
        "retry": Backoff(first=0.01, max=0.05, attempts=None),
        "flush_interval": 0.01,
        **changed,
    }
    return EventRecorderOptions.model_validate(given)


def numbers(posthog: FakePostHog) -> list[int]:
    return [event["properties"]["n"] for event in posthog.events]


async def test_request_that_fails_loses_nothing_and_stops_nothing(posthog: FakePostHog) -> None:
    posthog.answer_with(Said(500), b"", Said(200, b"<html>"), Said(429, headers=(("Retry-After", "0"),)))

    async with EventRecorder(posthog.url(), options=options()) as recorder:
        recorder.record_many(numbered(0, 3))
        assert await recorder.flush(20)
        recorder.record_many(numbered(3, 5))
        assert await recorder.flush(20)
        status = recorder.status()

    assert numbers(posthog) == [0, 1, 2, 3, 4]
    assert status.is_balanced
    assert status.subscriptions["posthog"].delivered == 5


async def test_batch_that_is_sent_again_has_the_uuids_and_times_it_had(posthog: FakePostHog, tmp_path: Path) -> None:
    """In this process, and in the next one."""
    posthog.answer_with(*[Said(503)] * 100)
    async with EventRecorder(posthog.url(), log=tmp_path, options=options()) as recorder:
        recorder.record_many(numbered(0, 3))
        await to_thread.run_sync(posthog.wait_for_requests, 3)
        await recorder.close(0)
    first, again = (posthog.requests[n].body["batch"] for n in (0, 2))
    posthog.answer_normally()

    async with EventRecorder(posthog.url(), log=tmp_path, options=options()):
        await to_thread.run_sync(posthog.wait_for_requests, len(posthog.requests) + 1)

    def identity(events: list[dict[str, object]]) -> list[tuple[object, object]]:
        return [(event["uuid"], event["timestamp"]) for event in events]

    assert identity(first) == identity(again) == identity(posthog.events)
    assert numbers(posthog) == [0, 1, 2]


async def test_flush_returns_only_after_the_answer(posthog: FakePostHog) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def slow(exchange: BaseHTTPRequestHandler) -> None:
        asked.set()
        may_answer.wait(20)
        exchange.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"status":1}')

    posthog.answer_with(slow)

    async with EventRecorder(posthog.url(), options=options()) as recorder:
        recorder.record_many(numbered(0, 1))
        await to_thread.run_sync(asked.wait, 20)
        is_done_before = await recorder.flush(0.05)
        may_answer.set()
        is_done_after = await recorder.flush(20)

    assert (is_done_before, is_done_after) == (False, True)


async def test_close_without_patience_does_not_wait_for_a_server_that_hangs(
    posthog: FakePostHog, tmp_path: Path
) -> None:
    asked, is_over = threading.Event(), threading.Event()

    def hang(_: BaseHTTPRequestHandler) -> None:
        asked.set()
        is_over.wait(20)

    posthog.answer_with(hang)
    async with EventRecorder(posthog.url(), log=tmp_path, options=options()) as recorder:
        recorder.record_many(numbered(0, 1))
        await to_thread.run_sync(asked.wait, 20)

        status = await recorder.close(0)

    is_over.set()
    assert status.subscriptions["posthog"].pending == 1


async def test_used_up_quota_and_wrong_key_hold_and_are_said(posthog: FakePostHog) -> None:
    posthog.answer_with(*[Said(200, b'{"status":1,"quota_limited":["events"]}')] * 1_000)

    async with EventRecorder(posthog.url(), options=options()) as recorder:
        recorder.record_many(numbered(0, 2))
        await to_thread.run_sync(posthog.wait_for_requests, 1)
        assert not await recorder.flush(5)
        part = recorder.status().subscriptions["posthog"]
        await recorder.close(0)

    assert part.held
    assert "quota is used up" in part.state
    assert part.pending == 2


@pytest.mark.parametrize("protocol", ["v0", "v1"])
async def test_event_at_fault_goes_alone(posthog: FakePostHog, tmp_path: Path, protocol: str) -> None:
    posthog.verdict = lambda event: {"result": "drop" if event["properties"].get("n") == 3 else "ok"}
    handler = from_url(posthog.url(protocol=protocol))
    if protocol == "v0":
        refuse = posthog._whole
        posthog._whole = lambda events: (  # type: ignore[method-assign]
            Said(400, "no") if any(event["properties"]["n"] == 3 for event in events) else refuse(events)
        )

    async with EventRecorder(handler, options=options(dead_letters=tmp_path / "dead")) as recorder:
        recorder.record_many(numbered(0, 8))
        assert await recorder.flush(20)
        (part,) = recorder.status().subscriptions.values()

    assert numbers(posthog) == [0, 1, 2, 4, 5, 6, 7]
    assert (part.delivered, part.dead) == (7, 1)
    assert (tmp_path / "dead").read_text(encoding="utf-8").count("\n") == 1


async def test_batch_beyond_the_servers_bound_arrives_in_parts(posthog: FakePostHog) -> None:
    posthog.max_bytes = 2_000

    async with EventRecorder(posthog.url(gzip="false"), options=options()) as recorder:
        recorder.record_many(numbered(0, 100))
        assert await recorder.flush(20)

    assert numbers(posthog) == list(range(100))
    assert len(posthog.requests) > 10


def test_blocking_recorder_delivers_too(posthog: FakePostHog) -> None:
    with EventRecorder(posthog.url(), options=options()).sync() as recorder:
        recorder.record_many(numbered(0, 10))
        assert recorder.flush(timeout=20)

    assert numbers(posthog) == list(range(10))


async def test_handler_may_be_closed_at_any_time_and_opened_again(
    posthog: FakePostHog, batch: Callable[..., object]
) -> None:
    handler = from_url(posthog.url())
    await handler.close()
    for n in range(2):
        await handler.open()
        await handler.handle(batch(*numbered(n, n + 1), start=n))  # type: ignore[arg-type]
        await handler.close()
        await handler.close()

    assert numbers(posthog) == [0, 1]
