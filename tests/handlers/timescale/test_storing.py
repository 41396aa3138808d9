"""Storing in a TimescaleDB: the platform's events, whole and once, by INSERT where the server takes no COPY."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio.to_thread
import msgspec
import pytest

from eventrec import Batch, EventRecorder, FencedError, reader_from_url
from eventrec.testing import assert_conserved
from eventrec_handlers.timescale import from_url

pytestmark = [pytest.mark.handlers, pytest.mark.xdist_group("timescale"), pytest.mark.timeout(300)]  # it is fetched

NUMBER = 600
KILLED = Path(__file__).with_name("killed_writer.py")


def arrivals(platform_analytics: Any, *, number: int = NUMBER, doubled: float = 0.05) -> list[Any]:
    start = datetime(2025, 3, 1, tzinfo=UTC)
    return list(platform_analytics.generate.arrivals(start=start, days=4, number=number, users=20, doubled=doubled))


def stored(schema: Any) -> list[tuple[Any, ...]]:
    return [
        (kind, at, str(user) if user else None, msgspec.json.decode(data))
        for kind, at, user, data in schema.rows(
            "SELECT event_type::text, (extract(epoch FROM timestamp) * 1000000)::bigint, user_id, data::text"
            " FROM analytics_events ORDER BY id"
        )
    ]


def expected(events: list[Any]) -> list[tuple[Any, ...]]:
    """What the table holds of `events`: each once, in the order in which it arrived first."""
    rows = []
    for event in {event.id: event for event in events}.values():
        payload = msgspec.json.decode(event.payload)
        rows.append((event.type, event.timestamp // 1_000, payload.get("user_id"), {"type": event.type, **payload}))
    return rows


async def test_the_platforms_events_are_stored_whole_and_once(
    schema: Any, platform_analytics: Any, tmp_path: Path
) -> None:
    events = arrivals(platform_analytics)
    handler = from_url(schema.url())
    layout = platform_analytics.layout.ANALYTICS_EVENTS
    assert len({event.id for event in events}) < len(events)

    async with EventRecorder(handler, log=tmp_path, layouts=[layout]) as recorder:
        for event in events:
            assert recorder.record(event)
        assert await recorder.flush(timeout=100)
        status = await recorder.close()

    assert_conserved(status, offered=len(events))
    assert sorted(stored(schema), key=str) == sorted(expected(events), key=str)
    async with reader_from_url(schema.url()) as reader:
        latest = await reader.latest(limit=len(events))
    assert sorted(event.timestamp for event in latest.events) == sorted(at * 1_000 for _, at, *_ in expected(events))


async def test_a_batch_that_is_sent_again_is_not_stored_again(
    schema: Any, platform_analytics: Any, batch: Callable[..., Batch], log_id: UUID
) -> None:
    events = arrivals(platform_analytics, number=60)
    handler = from_url(schema.url())
    layout = platform_analytics.layout.ANALYTICS_EVENTS
    handler.use_layouts({layout.table: layout})
    await handler.open()
    try:
        await handler.resume(log_id, "tested", 0)
        await handler.handle(batch(*events))
        with pytest.raises(FencedError):
            await handler.handle(batch(*events))
        assert await handler.resume(log_id, "tested", 0) == len(events)
        # The same events from another log: they have ids.
        other = UUID(int=5)
        await handler.resume(other, "tested", 0)
        await handler.handle(batch(*events, log_id=other))
    finally:
        await handler.close()

    assert stored(schema) == expected(events)


def run_until_killed(schema: Any, log: Path, example: str) -> list[str]:
    """Run the writer until it has stored a part; what it said."""
    command = [sys.executable, str(KILLED), schema.url(), str(log), example, str(NUMBER)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline().split()
        wait_for_rows(schema, 1)
        process.kill()
    return said


def wait_for_rows(schema: Any, number: int) -> None:
    while not is_there(schema) or schema.rows("SELECT count(*) FROM analytics_events") < [(number,)]:
        time.sleep(0.01)


def is_there(schema: Any) -> bool:
    return bool(schema.rows("SELECT to_regclass('analytics_events') IS NOT NULL") == [(True,)])


async def test_every_event_of_a_killed_process_is_stored_once(
    schema: Any, platform_analytics: Any, tmp_path: Path
) -> None:
    events = arrivals(platform_analytics, doubled=0)
    example = str(Path(platform_analytics.layout.__file__).parent)

    said = await anyio.to_thread.run_sync(run_until_killed, schema, tmp_path, example)
    left = len(events) - len(stored(schema))
    async with EventRecorder(schema.url(), log=tmp_path) as recorder:  # which delivers what others have left
        await anyio.to_thread.run_sync(wait_for_rows, schema, len(events))
        status = await recorder.close()

    assert said == ["WRITTEN", str(len(events))]
    assert left > 0
    assert_conserved(status, offered=0)
    assert sorted(stored(schema), key=str) == sorted(expected(events), key=str)
