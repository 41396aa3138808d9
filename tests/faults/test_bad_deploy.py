"""A deploy after which every record of one type, 40 % of the traffic, is refused for good; and how it is put right."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
import pytest

from eventrec import EventRecorder, EventRecorderOptions
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered
from eventrec.testing.servers import PostgresServer

pytestmark = pytest.mark.usefixtures("looking_often")

EVENTS = 10_000
BEFORE = 2_000
"""Events recorded before the deploy."""


class Database(NamedTuple):
    """A real one, told in SQL; `deploy` has it refuse the type `order`, `roll_back` ends that."""

    url: str
    deploy: str
    roll_back: str
    execute: Callable[[str], str]

    def numbers(self) -> list[int]:
        """The numbers in the table of events, in order."""
        payloads = self.execute("SELECT payload FROM events").splitlines()
        return sorted(json.loads(payload)["number"] for payload in payloads)


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":

        def execute(statement: str) -> str:
            with closing(sqlite3.connect(tmp_path / "events.db", timeout=20)) as connection:
                rows = connection.execute(statement).fetchall()
                connection.commit()
            return "\n".join(str(row[0]) for row in rows)

        refuse = "CREATE TRIGGER deployed BEFORE INSERT ON events WHEN NEW.type = 'order'"
        yield Database(
            f"sqlite:///{tmp_path}/events.db",
            f"{refuse} BEGIN SELECT RAISE(ABORT, 'no orders here'); END",
            "DROP TRIGGER deployed",
            execute,
        )
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = request.getfixturevalue("postgres_database")
    yield Database(
        server.url(name),
        "ALTER TABLE events ADD CONSTRAINT deployed CHECK (type <> 'order') NOT VALID",
        "ALTER TABLE events DROP CONSTRAINT deployed",
        partial(server.execute, database=name),
    )


def eventrec(*arguments: str | Path) -> str:
    """Run the command; what it says."""
    command = [sys.executable, "-W", "error", "-m", "eventrec.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=200, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers_in(lines: Path) -> list[int]:
    found = [json.loads(line) for path in lines.rglob("*.jsonl") for line in path.read_bytes().splitlines()]
    return sorted(line["payload"]["number"] for line in found)


async def eventually(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(200):  # beside others every bad record of hundreds takes a while to be found
        while not condition():  # noqa: ASYNC110 - a thread or a database changes it
            await anyio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("anyio_backend", "database"),
    [
        ("trio", "sqlite"),
        pytest.param("asyncio", "postgresql", marks=[pytest.mark.handlers, pytest.mark.faults]),
        pytest.param("asyncio", "sqlite", marks=pytest.mark.faults),
        pytest.param("trio", "postgresql", marks=[pytest.mark.handlers, pytest.mark.faults]),
    ],
    indirect=True,
)
async def test_it_holds_others_flow_and_a_replay_puts_each_event_where_it_belongs(
    database: Database, tmp_path: Path
) -> None:
    log, lines = tmp_path / "log", tmp_path / "lines"
    recorder = EventRecorder(log=log, options=EventRecorderOptions(flush_interval=0.1))
    recorder.register(database.url, name="bad")
    recorder.register(f"jsonl:///{lines}", name="fine")

    async def record(start: int, stop: int) -> None:
        for first in range(start, stop, 500):
            recorder.record_many(Numbered(n, kind="order" if n % 5 < 2 else "visit") for n in range(first, first + 500))
            await anyio.sleep(0.05)

    async with recorder:
        await record(0, BEFORE)
        assert await recorder.flush(timeout=20)
        await anyio.to_thread.run_sync(database.execute, database.deploy)
        await record(BEFORE, EVENTS)
        await eventually(lambda: recorder.status().subscriptions["bad"].state.startswith("paused"))
        await eventually(lambda: recorder.status().subscriptions["fine"].scanned == EVENTS)

        bad = recorder.status().subscriptions["bad"]
        assert "over half of the last 1,000 records of type 'order' were refused for good" in bad.state
        assert not recorder.status().health.ready
        waiting = await anyio.to_thread.run_sync(eventrec, "dead", "list", log, "--json")
        letters = [json.loads(line) for line in waiting.splitlines()]
        assert {letter["type"] for letter in letters} == {"order"}
        assert 500 < len(letters) == bad.dead <= 1_000

        await anyio.to_thread.run_sync(database.execute, database.roll_back)
        await anyio.to_thread.run_sync(eventrec, "resume", log, "bad")
        await eventually(lambda: recorder.status().subscriptions["bad"].scanned == EVENTS)
        assert recorder.status().health.ready

    told = await anyio.to_thread.run_sync(eventrec, "dead", "replay", log, "--to", database.url, "--name", "bad")
    assert told == f"{len(letters):,} delivered, 0 refused again, 0 wait\n"
    assert await anyio.to_thread.run_sync(eventrec, "dead", "list", log) == "0 dead letters wait\n"
    assert await anyio.to_thread.run_sync(database.numbers) == list(range(EVENTS))
    assert await anyio.to_thread.run_sync(numbers_in, lines) == list(range(EVENTS))
    assert recorder.status().subscriptions["bad"].dropped == {}
    assert_conserved(recorder.status(), offered=EVENTS)
