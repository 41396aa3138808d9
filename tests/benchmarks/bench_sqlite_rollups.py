"""Rollups on SQLite: answers of a refreshed one beside the same SQL on the events, and what refreshing costs writers.

    python tests/benchmarks/bench_sqlite_rollups.py [ROUNDS]

EVENTREC_BENCH_EVENTS events (300,000) over 30 days, in a temporary directory: some 100 MB of disk. What it must come
to: ingestion ≥ 0.9 × where the handler refreshes two rollups; where none is refreshed, the statements are the same as
without any of this.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Final
from uuid import uuid4

from eventrec import Batch, EventStruct
from eventrec.analytics import (
    Catalogue,
    Question,
    Refresh,
    Rollup,
    avg,
    bucket,
    count,
    distinct,
    group,
    payload,
    plan_of,
)
from eventrec.events.encoder import Encoder
from eventrec_handlers.sqlite import SqliteHandler
from eventrec_handlers.sqlite.rollups import SqliteRollups

EVENTS: Final = int(os.environ.get("EVENTREC_BENCH_EVENTS", "300000"))
DAYS: Final = 30
DAY: Final = 86_400_000_000_000
BATCHES: Final = 40
BATCH: Final = 1_000


class Request(EventStruct, frozen=True):
    """What a service records of each request."""

    endpoint: str
    duration_ms: int
    user: int
    text: str = "x" * 120


class Users(Rollup, name="daily_users", table="events", events=["request"]):
    """Of each day."""

    day = bucket("day")
    users = distinct(payload("user", kind="integer"))
    refresh = Refresh(window="3 days", lag=0, every="1 second")


class Latency(Rollup, name="hourly_latency", table="events", events=["request"]):
    """Of each hour and endpoint."""

    hour = bucket("1 hour")
    endpoint = group(payload("endpoint", kind="text"))
    requests = count()
    duration = avg(payload("duration_ms", kind="integer"))
    refresh = Refresh(window="3 days", lag=0, every="1 second")


SHOP: Final = Catalogue(name="shop", rollups=[Users, Latency])
PLANS: Final = (plan_of(Users), plan_of(Latency))
SQL: Final = {
    "daily_users": (
        f"SELECT timestamp / {DAY}, count(DISTINCT json_extract(payload, '$.user')) FROM events"
        " WHERE type = 'request' GROUP BY 1"
    ),
    "hourly_latency": (
        f"SELECT timestamp / {DAY // 24}, json_extract(payload, '$.endpoint'), count(*),"
        " avg(json_extract(payload, '$.duration_ms')) FROM events WHERE type = 'request' GROUP BY 1, 2"
    ),
}


def fill(path: Path, now: int) -> None:
    """The events of the days before `now`."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO events (id, type, timestamp, payload) WITH RECURSIVE n (n) AS"
            " (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < ? - 1)"
            " SELECT 'id' || n, CASE n % 4 WHEN 0 THEN 'other' ELSE 'request' END, ? + n * ?,"
            " json_object('endpoint', '/v1/' || n % 7, 'duration_ms', n % 997, 'user', n % 5003) FROM n",
            (EVENTS, now - DAYS * DAY, DAYS * DAY // EVENTS),
        )


def timed(path: Path, sql: str) -> float:
    """Seconds that the statement takes on a connection of its own."""
    with closing(sqlite3.connect(path)) as connection:
        begun = time.perf_counter()
        connection.execute(sql).fetchall()
        return time.perf_counter() - begun


async def answers(directory: Path, rounds: int) -> None:
    """Print how long answers take beside the same SQL, and how long refreshing."""
    path, now = directory / "answers.db", time.time_ns()
    handler = SqliteHandler(path)
    await handler.open()
    log_id = uuid4()
    await handler.resume(log_id, "bench", 0)
    await handler.handle(batch(log_id, 0, now))
    await asyncio.to_thread(fill, path, now - DAY)
    async with SqliteRollups(path, busy_timeout=30) as store:
        begun = time.perf_counter()
        done = await store.refresh(PLANS, now=now)
        print(f"filled: {done.buckets} buckets of {EVENTS:,} events in {time.perf_counter() - begun:.2f} s")
        for rollup, plan in ((Users, PLANS[0]), (Latency, PLANS[1])):
            ratios, took = [], []
            for _ in range(rounds):
                raw = await asyncio.to_thread(timed, path, SQL[plan.name])
                begun = time.perf_counter()
                answer = await store.answer(Question(rollup))
                took.append(time.perf_counter() - begun)
                ratios.append(raw / took[-1])
            print(
                f"{plan.name}: {len(answer.rows)} rows in {statistics.median(took) * 1e3:.1f} ms,"
                f" {statistics.median(ratios):.0f} times as fast as its SQL on the events"
            )
        await handler.handle(batch(log_id, BATCH, now - 5 * DAY, number=1))
        begun = time.perf_counter()
        late = await store.refresh(PLANS, now=now)
        print(f"one late event: {late.buckets} buckets in {(time.perf_counter() - begun) * 1e3:.1f} ms")
    await handler.close()


def batch(log_id: object, start: int, now: int, *, number: int = BATCH) -> Batch:
    """What a worker would hand over."""
    encode = Encoder(now=lambda: now).encode
    entries = [encode(Request(f"/v1/{n % 7}", n % 997, n % 5003)) for n in range(start, start + number)]
    kept = [entry for entry in entries if not isinstance(entry, str)]
    end = start + number
    return Batch(
        log_id=log_id,  # type: ignore[arg-type]
        subscription="bench",
        start=start,
        end=end,
        offsets=range(start, end),
        entries=kept,
    )


async def ingest(directory: Path, *, refresh: bool) -> float:
    """Seconds for all batches."""
    path, log_id, now = directory / f"{uuid4().hex}.db", uuid4(), time.time_ns()
    handler = SqliteHandler(path, refresh=refresh, catalogue=SHOP if refresh else None)
    await handler.open()
    await handler.resume(log_id, "bench", 0)
    batches = [batch(log_id, n * BATCH, now + n * DAY // 48) for n in range(BATCHES)]
    await handler.handle(batches[0])
    if refresh:
        async with handler.rollups() as store:
            await store.refresh(PLANS)
    begun = time.perf_counter()
    for each in batches[1:]:
        await handler.handle(each)
    took = time.perf_counter() - begun
    await handler.close()
    path.unlink()
    return took


async def main(rounds: int) -> None:
    """Both."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        await answers(directory, rounds)
        plain, refreshed = [], []
        for _ in range(rounds):
            plain.append(await ingest(directory, refresh=False))
            refreshed.append(await ingest(directory, refresh=True))
        rows = (BATCHES - 1) * BATCH
        ratio = statistics.median(one / other for one, other in zip(plain, refreshed, strict=True))
        print(
            f"ingestion: {rows / statistics.median(plain):,.0f} rows/s,"
            f" refreshing {rows / statistics.median(refreshed):,.0f}:"
            f" {ratio:.2f} (range {min(plain) / max(refreshed):.2f} to {max(plain) / min(refreshed):.2f})"
        )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
