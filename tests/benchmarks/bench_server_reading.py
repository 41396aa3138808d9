"""Rollups over HTTP on PostgreSQL: how long a request takes, of one client and of several.

    python tests/benchmarks/bench_server_reading.py [REQUESTS]

The events are those of `bench_rollups.py`: EVENTREC_BENCH_EVENTS of them (10,000,000) over 90 days. What it must come
to: 95 of 100 requests for a rollup are answered within 100 ms.
"""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import httpcore2

from eventrec import EventRecorder
from eventrec.analytics import Catalogue
from eventrec.server import ServerOptions, application
from eventrec.server.web_server import WebServer
from eventrec.testing.servers import THROW_AWAY, PostgresServer

LIMIT: Final = 0.1
CLIENTS: Final = 8
PATHS: Final = {
    "daily users, 90 days": "/rollups/analytics_daily_active_users",
    "hourly latency, newest 100 rows": "/rollups/analytics_api_latency_hourly?newest_first=true&limit=100",
    "hourly latency, 7 days, 1,000 rows": "/rollups/analytics_api_latency_hourly?from=-7d",
    "the same by hour alone": "/rollups/analytics_api_latency_hourly?from=-7d&group=",
    "the same as CSV, all rows": "/rollups/analytics_api_latency_hourly?from=-7d&format=csv&limit=10000",
}


def shared() -> Any:
    """`bench_rollups.py`, which makes the events."""
    path = Path(__file__).with_name("bench_rollups.py")
    spec = importlib.util.spec_from_file_location("bench_rollups", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def serving(url: str, catalogue: Catalogue) -> Iterator[int]:
    """A server of what is stored at `url`; its port."""
    options = ServerOptions(access_log=False)
    app = application(EventRecorder("memory:"), to=url, catalogue=catalogue, options=options)
    listening, started = socket.create_server(("127.0.0.1", 0)), threading.Event()
    web = WebServer(app, [listening], options, grace=2.0, on_started=started.set)
    port = listening.getsockname()[1]
    thread = threading.Thread(target=anyio.run, args=(web.run,))
    thread.start()
    started.wait()
    try:
        yield port
    finally:
        web.end()
        thread.join()


def seconds_of(url: str, requests: int) -> list[float]:
    """How long each of some requests takes, one after the other, on one connection."""
    found = []
    with httpcore2.ConnectionPool() as pool:
        for _ in range(requests):
            begun = time.perf_counter()
            answer = pool.request("GET", url)
            found.append(time.perf_counter() - begun)
            assert answer.status == 200, answer.content
    return found


def tell(name: str, seconds: list[float]) -> None:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    verdict = "" if cuts[94] <= LIMIT else f"   must ≤ {LIMIT * 1e3:.0f} ms"
    print(
        f"{name:52} p50 {cuts[49] * 1e3:7.1f} ms   p95 {cuts[94] * 1e3:7.1f} ms   p99 {cuts[98] * 1e3:7.1f} ms{verdict}"
    )


async def loaded(module: Any, server: PostgresServer) -> None:
    """The events, in a partition for each day, and their rollups up to date."""
    for day in range(module.DAYS):
        date = f"date_trunc('day', now(), 'UTC') - {day} * interval '1 day'"
        made = f"CREATE TABLE events_day_{day} PARTITION OF analytics_events FOR VALUES FROM (%L) TO (%L)"
        server.execute(f"DO $$BEGIN EXECUTE format('{made}', {date}, {date} + interval '1 day'); END$$")
        server.execute(module.filled(day, day))
    server.execute("ANALYZE analytics_events")
    async with module.store_of(server) as store:
        await store.refresh(module.PLANS)


def main() -> None:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    module = shared()
    catalogue = Catalogue(name="bench", layouts=[module.LAYOUT], rollups=module.PLANS)
    with PostgresServer(settings=THROW_AWAY) as server:
        server.execute(module.TABLE)
        asyncio.run(loaded(module, server))
        print(f"{module.EVENTS:,} events, {requests} requests each")
        with serving(server.url(), catalogue) as port:
            for name, path in PATHS.items():
                url = f"http://127.0.0.1:{port}{path}"
                seconds_of(url, 5)
                tell(name, seconds_of(url, requests))
                with ThreadPoolExecutor(CLIENTS) as threads:
                    several = threads.map(lambda each: seconds_of(each, requests // CLIENTS), [url] * CLIENTS)
                    tell(f"  {CLIENTS} clients at once", [each for one in several for each in one])


if __name__ == "__main__":
    main()
