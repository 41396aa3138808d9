"""A destination that is restored from a backup gets again what it lost, while a recorder runs or while none does."""

from __future__ import annotations

import json
import shutil
import sqlite3
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

SAVED = 400
"""Events that the backup has; twice as many are there when it is restored."""


class Destination(NamedTuple):
    """A real one, with a backup of itself."""

    url: str
    back_up: Callable[[], None]
    restore: Callable[[], None]
    numbers: Callable[[], list[int]]


def in_sqlite(home: Path) -> Destination:
    path, backup = home / "events.db", home / "backup.db"

    def copy(source: Path, target: Path) -> None:
        with closing(sqlite3.connect(source, timeout=20)) as of, closing(sqlite3.connect(target, timeout=20)) as to:
            of.backup(to)

    def numbers() -> list[int]:
        with closing(sqlite3.connect(path)) as connection:
            return [n for (n,) in connection.execute("SELECT payload ->> 'number' FROM events ORDER BY 1")]

    return Destination(f"sqlite:///{path}", lambda: copy(path, backup), lambda: copy(backup, path), numbers)


def in_jsonl(home: Path) -> Destination:
    path, backup = home / "lines", home / "backup"

    def back_up() -> None:
        shutil.copytree(path, backup)

    def restore() -> None:
        shutil.rmtree(path)
        shutil.copytree(backup, path)

    def numbers() -> list[int]:
        found = (line for file in path.rglob("*.jsonl") for line in file.read_bytes().splitlines())
        return sorted(json.loads(line)["payload"]["number"] for line in found)

    return Destination(f"jsonl:///{path}", back_up, restore, numbers)


def in_postgres(server: PostgresServer, name: str) -> Destination:
    execute = partial(server.execute, database=name)
    tables = ("events", "eventrec_checkpoints")

    def back_up() -> None:
        for table in tables:
            execute(f"CREATE TABLE backup_{table} AS TABLE {table}")

    def restore() -> None:
        put_back = "".join(f"DELETE FROM {each}; INSERT INTO {each} TABLE backup_{each};" for each in tables)
        execute(f"BEGIN; LOCK {', '.join(tables)}; {put_back} COMMIT")

    def numbers() -> list[int]:
        return sorted(int(line) for line in execute("SELECT payload->'number' FROM events").split())

    return Destination(server.url(name), back_up, restore, numbers)


@pytest.fixture(params=["sqlite", "jsonl", pytest.param("postgres", marks=pytest.mark.handlers)])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Destination]:
    if request.param != "postgres":
        yield in_sqlite(tmp_path) if request.param == "sqlite" else in_jsonl(tmp_path)
        return
    yield in_postgres(request.getfixturevalue("postgres_server"), request.getfixturevalue("postgres_database"))


def recorder_of(destination: Destination, log: Path) -> EventRecorder:
    options = EventRecorderOptions(flush_interval=0.05, retain="1h", batch_rows=50)
    return EventRecorder(destination.url, log=log, options=options)


async def record(recorder: EventRecorder, start: int, stop: int) -> None:
    recorder.record_many(Numbered(n) for n in range(start, stop))
    assert await recorder.flush(timeout=20)


async def eventually_holds(destination: Destination, events: int) -> None:
    found: list[int] = []
    with anyio.move_on_after(20):
        while found != list(range(events)):
            await anyio.sleep(0.1)
            found = await anyio.to_thread.run_sync(destination.numbers)
    assert len(found) == len(set(found))
    assert sorted(set(range(events)) - set(found)) == []


@pytest.mark.slow
async def test_what_a_restored_destination_lost_of_a_running_log_comes_again(
    destination: Destination, tmp_path: Path
) -> None:
    async with recorder_of(destination, tmp_path / "log") as recorder:
        await record(recorder, 0, SAVED)
        await anyio.to_thread.run_sync(destination.back_up)
        await record(recorder, SAVED, 2 * SAVED)
        await anyio.to_thread.run_sync(destination.restore)
        await record(recorder, 2 * SAVED, 2 * SAVED + 100)
        await eventually_holds(destination, 2 * SAVED + 100)
        status = recorder.status()

    (part,) = status.subscriptions.values()
    assert (part.rewound, part.dropped) == (SAVED, {})
    assert_conserved(status, offered=2 * SAVED + 100)


@pytest.mark.slow
async def test_what_it_lost_of_logs_that_were_done_comes_again_when_somebody_runs(
    destination: Destination, tmp_path: Path
) -> None:
    for first in range(0, SAVED, 100):
        async with recorder_of(destination, tmp_path / "log") as recorder:
            await record(recorder, first, first + 100)
    await anyio.to_thread.run_sync(destination.back_up)
    for first in range(SAVED, 2 * SAVED, 100):
        async with recorder_of(destination, tmp_path / "log") as recorder:
            await record(recorder, first, first + 100)
    await anyio.to_thread.run_sync(destination.restore)

    async with recorder_of(destination, tmp_path / "log") as recorder:
        await record(recorder, 2 * SAVED, 2 * SAVED + 100)
        await eventually_holds(destination, 2 * SAVED + 100)
    assert_conserved(recorder.status(), offered=100)
