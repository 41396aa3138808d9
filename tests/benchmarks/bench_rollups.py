"""Rollups on PostgreSQL: answers beside the same SQL on the events, one dirty hour, and what refreshing costs writers.

    python tests/benchmarks/bench_rollups.py [ROUNDS]

EVENTREC_BENCH_EVENTS events (10,000,000) over 90 days, in daily partitions, made inside the server: about 4 GB of disk
and some minutes. What it must come to: an answer ≤ 1/100 of the SQL on the events; the refresh of one dirty hour reads
≤ 1.2 × the rows of that hour, however large the table; ingestion with refreshing on ≥ 0.9 × without, whether another
process refreshes or the handler itself.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import uuid4

import asyncpg

from eventrec import (
    EVENT,
    GENERATED,
    TIMESTAMP,
    TYPE,
    Batch,
    EventStruct,
    Layout,
    LayoutColumn,
    LayoutIndex,
    from_payload,
)
from eventrec.analytics import (
    Catalogue,
    Question,
    Refresh,
    Rollup,
    avg,
    bucket,
    column,
    count,
    distinct,
    group,
    payload,
    percentile,
)
from eventrec.events.encoder import Encoder
from eventrec.testing.servers import THROW_AWAY, PostgresServer
from eventrec_handlers.postgres import PostgresHandler, PostgresRollups
from eventrec_handlers.postgres.options import Options
from eventrec_handlers.postgres.target import Target

EVENTS: Final = int(os.environ.get("EVENTREC_BENCH_EVENTS", "10000000"))
DAYS: Final = 90
FEW_DAYS: Final = 9
"""How many of them are there when the small table is measured."""

INGESTED: Final = 40_000
BATCH: Final = 1_000

TABLE: Final = (
    "CREATE TABLE analytics_events (id bigserial, timestamp timestamptz NOT NULL DEFAULT now(), event_type varchar(100)"
    " NOT NULL, service varchar(100) NOT NULL DEFAULT 'unknown', user_id uuid, data jsonb NOT NULL,"
    " PRIMARY KEY (timestamp, id)) PARTITION BY RANGE (timestamp);"
    " CREATE INDEX ON analytics_events (event_type, timestamp DESC);"
    " CREATE TABLE analytics_events_default PARTITION OF analytics_events DEFAULT"
)
LAYOUT: Final = Layout(
    "analytics_events",
    (
        LayoutColumn("id", GENERATED, "bigint"),
        LayoutColumn("timestamp", TIMESTAMP, "timestamptz"),
        LayoutColumn("event_type", TYPE, "varchar", length=100),
        LayoutColumn("service", from_payload("service"), "varchar", length=100, nullable=False, default="unknown"),
        LayoutColumn("user_id", from_payload("user_id"), "uuid"),
        LayoutColumn("data", EVENT, "jsonb"),
    ),
    primary_key=("timestamp", "id"),
    indexes=(LayoutIndex("by_type", ("event_type", "timestamp"), ("timestamp",)),),
    partition="day",
)


class Users(Rollup, name="analytics_daily_active_users", table="analytics_events"):
    """Of each day."""

    day = bucket("day")
    active_users = distinct(column("user_id", kind="uuid"))
    total_events = count()


class Latency(Rollup, name="analytics_api_latency_hourly", table="analytics_events", events=["api_request"]):
    """Of each hour, service and endpoint."""

    hour = bucket("1 hour")
    service = group(column("service", kind="text"))
    endpoint = group(payload("endpoint", kind="text"))
    request_count = count()
    avg_duration_ms = avg(payload("duration_ms", kind="integer"))
    p95_duration_ms = percentile(payload("duration_ms", kind="integer"), 0.95)
    error_5xx_count = count(where=payload("status_code", kind="integer") >= 500)
    refresh = Refresh(window="3 days", lag=0)


PLANS: Final = (Users.rollup_plan, Latency.rollup_plan)
USERS_SQL: Final = (
    "SELECT date_trunc('day', timestamp, 'UTC'), count(DISTINCT user_id), count(*) FROM analytics_events GROUP BY 1"
)
LATENCY_SQL: Final = (
    "SELECT date_trunc('hour', timestamp, 'UTC'), service, data ->> 'endpoint', count(*),"
    " avg((data ->> 'duration_ms')::bigint)::float8,"
    " percentile_cont(0.95) WITHIN GROUP (ORDER BY (data ->> 'duration_ms')::bigint),"
    " count(*) FILTER (WHERE (data ->> 'status_code')::int >= 500)"
    " FROM analytics_events WHERE event_type = 'api_request' GROUP BY 1, 2, 3"
)


def filled(first: int, last: int) -> str:
    """The events of the days from `first` to `last`, counted back from today, as SQL: skewed users, three types."""
    a_day = EVENTS // DAYS
    return (
        "INSERT INTO analytics_events (timestamp, event_type, service, user_id, data)"
        " SELECT date_trunc('day', now(), 'UTC') - day * interval '1 day' + n * interval '1 day' / "
        f"{a_day}, kind, 'service' || n % 3, md5((power(n % 10007, 1.3)::int)::text)::uuid,"
        " jsonb_build_object('type', kind, 'endpoint', '/v1/' || n % 7, 'duration_ms', n % 997, 'status_code',"
        " CASE n % 50 WHEN 0 THEN 500 ELSE 200 END, 'method', 'GET')"
        f" FROM generate_series({first}, {last}) AS day, generate_series(0, {a_day - 1}) AS n,"
        " LATERAL (SELECT (ARRAY['api_request', 'api_request', 'task_created', 'auth_login_attempt'])[1 + n % 4]) AS k"
        " (kind)"
    )


def store_of(server: PostgresServer) -> PostgresRollups:
    """What answers and refreshes."""
    return PostgresRollups(Target(server.url()), Options(timeout=600), layouts={"analytics_events": LAYOUT})


async def timed(work: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    begun = time.perf_counter()
    done = await work()
    return time.perf_counter() - begun, done


async def answers(server: PostgresServer, rounds: int) -> None:
    """The same question to the rollup and to the events, in turns."""
    connection = await asyncpg.connect(server.url())
    week = (time.time_ns() // 86_400_000_000_000 - 7) * 86_400_000_000_000
    asked = {
        "daily users, 90 days": (Question(Users), USERS_SQL),
        "hourly latency by service and endpoint, 7 days": (
            Question(Latency, start=week),
            LATENCY_SQL.replace(
                "GROUP BY", "AND timestamp >= date_trunc('day', now(), 'UTC') - interval '7 days' GROUP BY"
            ),
        ),
        "hourly latency by service and endpoint, 90 days": (Question(Latency), LATENCY_SQL),
        "its newest 100 rows": (
            Question(Latency, newest_first=True, limit=100),
            f"{LATENCY_SQL} ORDER BY 1 DESC, 2 NULLS FIRST, 3 NULLS FIRST LIMIT 100",
        ),
    }
    async with store_of(server) as store:
        await store.refresh(PLANS)
        for name, (question, sql) in asked.items():
            ours, theirs = [], []
            for number in range(rounds):
                seconds, answer = await timed(lambda asked=question: store.answer(asked))  # type: ignore[misc]
                ours.append(seconds)
                if number < 3:
                    seconds, rows = await timed(lambda said=sql: connection.fetch(said))  # type: ignore[misc]
                    theirs.append(seconds)
                    assert len(rows) == len(answer.rows)
            mine, other = statistics.median(ours), statistics.median(theirs)
            print(
                f"{name:48} {mine * 1e3:9.1f} ms, {len(answer.rows):>7,} rows; on the events {other * 1e3:9,.0f} ms:"
                f" 1/{other / mine:,.0f}   must ≤ 1/100"
            )
    await connection.close()


async def dirty_hour(server: PostgresServer, rounds: int, name: str) -> None:
    """One late event, and the refresh of its hour: rows read, and seconds."""
    connection = await asyncpg.connect(server.url())
    hour = "date_trunc('day', now(), 'UTC') - interval '5 days' + interval '7 hours'"
    plans = [Latency.rollup_plan]
    read = (
        "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables"
        " WHERE relname LIKE 'events\\_day\\_%'"
    )
    seconds, shares = [], []
    async with store_of(server) as store:
        await store.refresh(plans)
        for number in range(rounds):
            await connection.execute(
                "INSERT INTO analytics_events (timestamp, event_type, service, data)"
                f" VALUES ({hour} + interval '{number} seconds', 'api_request', 'late', '{{}}')"
            )
            await connection.execute("SELECT pg_stat_force_next_flush()")
            inside = await connection.fetchval(
                f"SELECT count(*) FROM analytics_events WHERE timestamp >= {hour}"
                f" AND timestamp < {hour} + interval '1 hour'"
            )
            await connection.execute("SELECT pg_stat_force_next_flush()")
            before = await connection.fetchval(read)
            took, done = await timed(lambda: store.refresh(plans))
            assert done.buckets == 1
            assert store._single._connection is not None
            await store._single._connection.execute("SELECT pg_stat_force_next_flush()")
            await store._single._connection.execute("SELECT 1")
            await connection.execute("SELECT pg_stat_clear_snapshot()")
            shares.append((await connection.fetchval(read) - before) / inside)
            seconds.append(took)
    await connection.close()
    print(
        f"one dirty hour of {name:28} {statistics.median(seconds) * 1e3:9.1f} ms; rows read / rows of the hour"
        f" {statistics.median(shares):.2f}   must ≤ 1.2"
    )


# -- ingestion


AGENT: Final = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Firefox/131.0"


class Request(EventStruct):
    """An event of about 200 bytes."""

    service: str
    endpoint: str
    method: str
    status_code: int
    duration_ms: int
    user_agent: str


def batches() -> list[Batch]:
    """What a worker would hand over, one after the other."""
    encode, log_id, made = Encoder().encode, uuid4(), []
    for start in range(0, INGESTED, BATCH):
        entries: Any = [
            encode(
                Request(f"s{n % 3}", f"/v1/{n % 7}", "GET", 200, n % 997, "Mozilla/5.0 (X11; Linux x86_64) Gecko" * 2)
            )
            for n in range(start, start + BATCH)
        ]
        offsets = range(start, start + BATCH)
        made.append(
            Batch(log_id=log_id, subscription="b", start=start, end=start + BATCH, offsets=offsets, entries=entries)
        )
    return made


EVENTS_TABLE: Final = (
    "DROP TABLE IF EXISTS events, eventrec_checkpoints, requests, eventrec_dirty, eventrec_pending, eventrec_rollups,"
    " eventrec_floors CASCADE; CREATE TABLE events (id uuid NOT NULL, type text NOT NULL, timestamp timestamptz NOT"
    " NULL, payload jsonb NOT NULL) PARTITION BY RANGE (timestamp); CREATE TABLE events_default PARTITION OF events"
    " DEFAULT; CREATE INDEX ON events (type, timestamp DESC); CREATE INDEX ON events (id)"
)


class Requests(Rollup, name="requests", table="events", events=["request"]):
    """Of each minute."""

    minute = bucket("1 minute")
    endpoint = group(payload("endpoint", kind="text"))
    happened = count()
    p95 = percentile(payload("duration_ms", kind="integer"), 0.95)
    refresh = Refresh(window="3 days", lag=0, every="1 second")


REFRESHED: Final = Catalogue(name="bench", rollups=[Requests])


async def ingest(url: str, given: list[Batch], *, refresh: bool) -> float:
    """Events a second; with `refresh` the handler refreshes every second."""
    handler = PostgresHandler(url, refresh=refresh, catalogue=REFRESHED)
    await handler.open()
    await handler.resume(given[0].log_id, "b", 0)
    gc.collect()
    begun = time.perf_counter()
    for batch in given:
        await handler.handle(batch)
    rate = INGESTED / (time.perf_counter() - begun)
    await handler.close()
    return rate


async def refresh_for_ever(url: str) -> None:
    """What another process does meanwhile: refresh every second."""
    async with PostgresHandler(url).rollups() as store:
        await store.refresh([Requests.rollup_plan])
        print("refreshing", flush=True)
        while True:
            await asyncio.sleep(1)
            await store.refresh([Requests.rollup_plan])


def ingestion(rounds: int) -> None:
    """Without rollups, with a process that refreshes, with a handler that does: in turns; default settings."""
    given = batches()
    ways = ["without", "a process", "the handler"]
    rates: dict[str, list[float]] = {way: [] for way in ways}
    with PostgresServer(settings={}) as server:
        url = server.url()
        for number in range(rounds):
            for way in (*ways[number % 3 :], *ways[: number % 3]):
                server.execute(f"{EVENTS_TABLE}; CHECKPOINT")
                process = None
                if way == "a process":
                    process = subprocess.Popen(  # ourselves
                        [sys.executable, __file__, "refresh", url], stdout=subprocess.PIPE
                    )
                    assert process.stdout is not None
                    process.stdout.readline()
                if way == "the handler":
                    asyncio.run(refreshed(url))
                rates[way].append(asyncio.run(ingest(url, given, refresh=way == "the handler")))
                if process is not None:
                    process.kill()
                    process.communicate()
    for way in ways[1:]:
        shares = [on / off for on, off in zip(rates[way], rates["without"], strict=True)]
        print(
            f"ingestion while {way:11} refreshes {statistics.median(rates[way]):,.0f} events/s; with / without"
            f" {statistics.median(shares):.2f} ({min(shares):.2f}-{max(shares):.2f})   must ≥ 0.9",
            flush=True,
        )


async def refreshed(url: str) -> None:
    """The rollup has its tables."""
    async with PostgresHandler(url).rollups() as store:
        await store.refresh([Requests.rollup_plan])


def main(rounds: int) -> None:
    """Measure, and print."""
    ingestion(2 * rounds)
    settings = {**THROW_AWAY, "shared_buffers": "512MB", "max_wal_size": "2GB", "work_mem": "64MB"}
    with PostgresServer(settings=settings) as server:
        server.execute(TABLE)
        asyncio.run(_loaded(server, rounds))


async def _loaded(server: PostgresServer, rounds: int) -> None:
    connection = await asyncpg.connect(server.url())
    for first, last, name in ((1, FEW_DAYS, f"{FEW_DAYS} days"), (FEW_DAYS + 1, DAYS, f"{DAYS} days")):
        for day in range(first, last + 1):
            if day % 10 == 1 or day == first:
                async with store_of(server) as store:
                    await store.refresh([])
            date = f"date_trunc('day', now(), 'UTC') - {day} * interval '1 day'"
            bounds = f"{date}, {date} + interval '1 day'"
            made = f"CREATE TABLE events_day_{day} PARTITION OF analytics_events FOR VALUES FROM (%L) TO (%L)"
            await connection.execute(f"DO $$BEGIN EXECUTE format('{made}', {bounds}); END$$")
            await connection.execute(filled(day, day))
        await connection.execute("ANALYZE analytics_events")
        total = await connection.fetchval("SELECT count(*) FROM analytics_events")
        async with store_of(server) as store:
            seconds, done = await timed(lambda: store.refresh(PLANS))
        print(f"{total:,} events; {done.buckets:,} buckets computed in {seconds:.1f} s")
        await dirty_hour(server, rounds, f"{total:,} events, {name}")
    size = await connection.fetchval(
        "SELECT pg_size_pretty(sum(pg_total_relation_size(inhrelid))) FROM pg_inherits"
        " WHERE inhparent = 'analytics_events'::regclass"
    )
    await connection.close()
    print(f"size of the events: {size}")
    await answers(server, rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["refresh"]:
        asyncio.run(refresh_for_ever(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
