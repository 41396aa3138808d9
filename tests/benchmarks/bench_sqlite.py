"""The SQLite handler beside a bare `executemany` of the same rows: same pragmas, same index, same sizes of transaction.

Prints rows per second of both (median of interleaved rounds, with the range), the median of the rounds' ratios, and, of
rounds of their own, how late a ticker of 1 ms comes while the handler delivers.
`python tests/benchmarks/bench_sqlite.py [ROUNDS]`.
"""

import asyncio
import gc
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from eventrec import Batch, ColumnSchema, ColumnType, Event, Row
from eventrec.events.encoder import Encoder
from eventrec_handlers.sqlite import SqliteHandler

BATCHES = 50
BATCH = 1_000
BASE = "id TEXT NOT NULL, type TEXT NOT NULL, timestamp INTEGER NOT NULL, payload TEXT NOT NULL"


class Bare(Event):
    """Base columns alone, a payload of 230 bytes."""

    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def payload(self) -> object:
        """What a page view looks like."""
        return {"n": self.number, "path": "/orders/new", "referrer": "https://example.org/", "text": "x" * 150}


class WithColumns(Bare):
    """Two extra columns, one of which is converted."""

    def extra_schema(self) -> Sequence[ColumnSchema]:
        """A number and a text."""
        return (ColumnSchema("amount", ColumnType.INT64), ColumnSchema("city", ColumnType.STRING))

    def extra_rows(self) -> Sequence[Row]:
        """Their values."""
        return ((self.number, "Lisbon"),)


KINDS = {Bare: "", WithColumns: ", amount INTEGER, city TEXT"}


def batches(kind: type[Bare], log_id: UUID) -> list[Batch]:
    """What a worker would hand over, one after the other."""
    encode = Encoder().encode
    made = []
    for number in range(BATCHES):
        offsets = range(number * BATCH, (number + 1) * BATCH)
        entries = [encode(kind(offset)) for offset in offsets]
        assert not any(isinstance(entry, str) for entry in entries)
        made.append(
            Batch(
                log_id=log_id,
                subscription="bench",
                start=offsets.start,
                end=offsets.stop,
                offsets=offsets,
                entries=entries,  # type: ignore[arg-type]
            )
        )
    return made


async def by_handler(path: Path, given: Sequence[Batch], late: list[float] | None = None) -> float:
    """Seconds of storing; `late` is given by how many milliseconds each tick came late meanwhile."""
    handler = SqliteHandler(path)
    await handler.open()
    await handler.resume(given[0].log_id, "bench", 0)
    ticker = asyncio.create_task(tick(late)) if late is not None else None
    await asyncio.sleep(0.01)
    start = time.perf_counter()
    for batch in given:
        await handler.handle(batch)
    seconds = time.perf_counter() - start
    if ticker is not None:
        ticker.cancel()
    await handler.close()
    return seconds


async def tick(late: list[float]) -> None:
    """Note how late each tick of 1 ms comes, in milliseconds."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        late.append((time.perf_counter() - before) * 1_000 - 1)


def by_hand(path: Path, columns: str, given: Sequence[list[tuple[Any, ...]]]) -> float:
    """Seconds of storing rows that are ready, with nothing around."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
        connection.execute(f"CREATE TABLE events ({BASE}{columns})")
        connection.execute("CREATE INDEX by_type ON events (type, timestamp DESC)")
        marks = ", ".join("?" * len(given[0][0]))
        start = time.perf_counter()
        for rows in given:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(f"INSERT INTO events VALUES ({marks})", rows)
            connection.execute("COMMIT")
        return time.perf_counter() - start


def main() -> None:
    """Measure both, in turns."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    for kind, columns in KINDS.items():
        given = batches(kind, uuid4())
        ready = [
            [tuple(v.decode() if isinstance(v, bytes) else v for v in row) for row in batch.row_inserts()[0].rows]
            for batch in given
        ]
        # A worker holds a few batches, not fifty: the collector would walk them all, and for the handler alone.
        gc.collect()
        gc.freeze()
        ours: list[float] = []
        bare: list[float] = []
        late: list[float] = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as directory:
                ours.append(BATCHES * BATCH / asyncio.run(by_handler(Path(directory) / "handler.db", given)))
                bare.append(BATCHES * BATCH / by_hand(Path(directory) / "bare.db", columns, ready))
                asyncio.run(by_handler(Path(directory) / "ticked.db", given, late))
        ratio = statistics.median(one / other for one, other in zip(ours, bare, strict=True))
        late.sort()
        print(
            f"{kind.__name__:12} handler {shown(ours)}, bare executemany {shown(bare)} rows/s, ratio {ratio:.2f};"
            f" late p50 {late[len(late) // 2]:.1f} p99 {late[len(late) * 99 // 100]:.1f} max {late[-1]:.1f} ms"
        )


def shown(rates: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})"


if __name__ == "__main__":
    main()
