"""Reading a buffer back: over lives of its server, after trimming, and by `eventrec tail`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import pytest
from anyio import to_thread

from eventrec import Batch, Event, EventReader, PauseError
from eventrec_handlers.redis import RedisHandler, from_url

pytestmark = [pytest.mark.anyio, pytest.mark.handlers]

Events = Callable[..., Event]
Batches = Callable[..., Batch]
LOG = UUID("01990000-0000-7000-8000-000000000001")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def handler(buffer: Any) -> AsyncIterator[RedisHandler]:
    handler = from_url(buffer.server.url(stream=buffer.stream, max_records=20, overflow="drop_oldest"))
    await handler.open()
    await handler.resume(LOG, "tested", 0)
    yield handler
    await handler.close()


@pytest.fixture
async def reader(handler: RedisHandler) -> AsyncIterator[EventReader]:
    async with handler.reader() as reader:
        yield reader


@pytest.fixture
def numbered(event: Events, batch: Batches) -> Callable[[int, int], Batch]:
    """A batch of the events with the numbers from one to before another."""
    return lambda start, end: batch(
        *(event({"n": n}, at=1_700_000_000_000_000_000 + n) for n in range(start, end)), start=start
    )


def numbers(page: Any) -> list[int]:
    return [json.loads(event.payload)["n"] for event in page.events]


async def test_reader_goes_on_in_the_log_of_another_life(
    handler: RedisHandler, reader: EventReader, numbered: Any, buffer: Any
) -> None:
    await handler.handle(numbered(0, 5))
    latest = await reader.latest(limit=2)
    await handler.handle(numbered(5, 7))
    await buffer.execute("HSET", buffer.keys.meta, "run_id", "another")
    await handler.handle(numbered(7, 10))

    first = await reader.follow(latest.cursor, limit=3)
    second = await reader.follow(first.cursor, limit=3)

    assert (numbers(latest), numbers(first), numbers(second)) == ([3, 4], [5, 6, 7], [8, 9])
    assert numbers(await reader.latest(limit=4)) == [6, 7, 8, 9]
    assert numbers(await reader.range(limit=100)) == list(range(10))


async def test_reader_passes_over_what_was_dropped(handler: RedisHandler, reader: EventReader, numbered: Any) -> None:
    await handler.handle(numbered(0, 5))
    latest = await reader.latest(limit=0)
    for start in range(5, 50, 5):
        await handler.handle(numbered(start, start + 5))

    assert numbers(await reader.follow(latest.cursor, limit=100)) == list(range(30, 50))


async def test_buffer_that_is_not_there_is_named_unless_a_writer_is_known(buffer: Any) -> None:
    reader = from_url(buffer.server.url(stream=buffer.stream)).reader()

    with pytest.raises(PauseError, match="there is no such buffer"):
        await reader.open()
    reader.is_awaited = True
    async with reader:
        assert (await reader.latest(limit=3)).events == ()


async def test_tail_shows_the_newest(handler: RedisHandler, numbered: Any, buffer: Any) -> None:
    await handler.handle(numbered(0, 9))
    command = [sys.executable, "-W", "error", "-m", "eventrec.cli", "tail", buffer.server.url(stream=buffer.stream)]

    done = await to_thread.run_sync(
        lambda: subprocess.run(
            [*command, "-n", "2", "--json"], capture_output=True, text=True, check=False, timeout=200
        )
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["payload"] for line in done.stdout.splitlines()] == [{"n": 7}, {"n": 8}]
