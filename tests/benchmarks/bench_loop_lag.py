"""How late a 1 ms ticker comes on the loop while 100,000 events are recorded and delivered to SQLite.

    python tests/benchmarks/bench_loop_lag.py [ROUNDS]

Beside it, in the same run: the ticker alone, and with a thread that does the same amount of bare `executemany`.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from eventrec import Event, EventRecorder, EventRecorderOptions

EVENTS = 100_000
PAYLOAD = {"order_id": "ord_000000000000002a", "amount": 25.54, "currency": "EUR", "text": "x" * 160}


class Checkout(Event):
    @property
    def payload(self) -> object:
        return PAYLOAD


async def lags_during(work: Callable[[], Awaitable[object]]) -> tuple[list[float], float]:
    """Milliseconds by which each tick was late, sorted; and the seconds of `work`."""
    late: list[float] = []

    async def tick() -> None:
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            late.append((time.perf_counter() - due) * 1e3)

    ticker = asyncio.create_task(tick())
    start = time.perf_counter()
    await work()
    seconds = time.perf_counter() - start
    ticker.cancel()
    return sorted(late), seconds


async def eventrec(folder: Path) -> None:
    options = EventRecorderOptions(queue_events=2 * EVENTS, queue_bytes=1 << 30)
    event = Checkout()
    async with EventRecorder(f"sqlite:///{folder}/events.db", options=options) as recorder:
        for _ in range(EVENTS // 100):
            for _ in range(100):
                recorder.record(event)
            await asyncio.sleep(0)
        assert await recorder.flush(timeout=120)
    assert recorder.status().subscriptions["sqlite"].delivered == EVENTS


async def bare(folder: Path) -> None:
    rows = [("id", "checkout", n, msgspec.json.encode(PAYLOAD).decode()) for n in range(EVENTS)]

    def insert() -> None:
        connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA synchronous = full")
        connection.execute("CREATE TABLE events (id TEXT, type TEXT, timestamp INTEGER, payload TEXT)")
        connection.execute("CREATE INDEX by_type ON events (type, timestamp DESC)")
        for start in range(0, EVENTS, 1_000):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows[start : start + 1_000])
            connection.execute("COMMIT")
        connection.close()

    await asyncio.to_thread(insert)


async def idle(_: Path) -> None:
    await asyncio.sleep(2)


def main(rounds: int) -> None:
    """Print medians over the rounds."""
    ways = {"idle": idle, "bare executemany in a thread": bare, "eventrec to SQLite": eventrec}
    got: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                late, seconds = asyncio.run(lags_during(lambda way=way, folder=folder: way(Path(folder))))  # type: ignore[misc]
            got[name].append((late[len(late) // 2], late[int(len(late) * 0.99)], late[-1], seconds))
    print(f"{'way':30} {'p50 ms':>7} {'p99 ms':>7} {'max ms':>7} {'seconds':>8}   medians of {rounds} rounds")
    for name, values in got.items():
        p50, p99, worst, seconds = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{name:30} {p50:7.2f} {p99:7.2f} {worst:7.2f} {seconds:8.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
