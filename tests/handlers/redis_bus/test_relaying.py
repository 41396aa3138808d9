"""From recorders through Redis, by relays with a stage, into a database: each event once, whatever is killed."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventrec import Backoff, EventRecorder, EventRecorderOptions, EventStruct
from eventrec.testing import assert_conserved
from eventrec.testing.relays import ABOVE, QUICK, Doubling
from eventrec_handlers.redis.bus import from_bus_url

pytestmark = [pytest.mark.handlers, pytest.mark.anyio]

OPTIONS = EventRecorderOptions(
    retry=Backoff(jitter="none", first=0.02, max=0.2), flush_interval=0.01, close_timeout=20.0, retain=3_600.0
)


class Numbered(EventStruct):
    number: int


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def rows_of(path: Path) -> list[tuple[int, str]]:
    """Number and type of all that the database holds."""
    with closing(sqlite3.connect(path)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchall():
            return []
        return sorted(
            (json.loads(payload)["number"], kind)
            for payload, kind in database.execute("SELECT payload, type FROM events")
        )


@pytest.mark.parametrize("persists", [True, False], ids=["aof", "no persistence"])
async def test_each_event_arrives_once_though_redis_is_killed_and_two_relays_fight(
    start_server: Any, place_type: Any, tmp_path: Path, *, persists: bool, capture_logs: Any
) -> None:
    server = await start_server(persists=persists, settings={"appendfsync": "always"})
    place, database = place_type(server), tmp_path / "events.db"
    total, producers = 1_200, 2
    expected = {*range(total), *range(ABOVE, ABOVE + total)}

    async def produce(number: int) -> None:
        recorder = EventRecorder(log=tmp_path / f"producer-{number}", options=OPTIONS)
        recorder.register(place.url(), name="redis")
        async with recorder:
            # Whoever has nothing to send does not notice that what it had sent is gone: so the events never end.
            for n in count(number, producers):
                recorder.record(Numbered(number=n))
                if n >= total or n % 20 == number:
                    await anyio.sleep(0.005 if n < total else 0.05)
                if done.is_set():
                    break
        assert_conserved(recorder.status())

    async def relay(number: int) -> None:
        recorder = EventRecorder(
            log=tmp_path / f"relay-{number}",
            options=OPTIONS,
            bus=from_bus_url(place.url()),
            relay=QUICK,
            stages=[Doubling()],
        )
        recorder.register(f"sqlite:///{database}?unique_ids=true", name="sqlite")
        async with recorder:
            await done.wait()
        assert_conserved(recorder.status())

    done = anyio.Event()
    with capture_logs(), anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            for number in range(producers):
                tasks.start_soon(produce, number)
                tasks.start_soon(relay, number)
            for _ in range(2):
                await anyio.sleep(0.25)
                await anyio.to_thread.run_sync(server.restart)
            while not expected <= {number for number, _ in await anyio.to_thread.run_sync(rows_of, database)}:  # noqa: ASYNC110 - a database has no event
                await anyio.sleep(0.1)
            done.set()

    found = Counter(number for number, _ in await anyio.to_thread.run_sync(rows_of, database))
    assert expected <= found.keys()
    # Without its persistence Redis forgets what relays had delivered: what comes again has the id it had.
    assert set(found.values()) == {1}
