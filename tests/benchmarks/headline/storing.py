"""Rows about the log: appending, waiting for the disk, opening beside old logs, and reading back."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import bench_log_append
import bench_outage
from eventrec import Batch, EventHandler, EventRecorder, EventRecorderOptions
from eventrec.events.encoder import Encoder
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log
from eventrec.records.content import ContentDecoder, encode_take
from eventrec.testing.scripted import Numbered
from measured import Plan, Ratio, Row, interleaved

PER_SYNC = 100
LITEQUEUE = "litequeue as it comes: a transaction each, no sync"
RECORD = b"x" * 250
TEXT = RECORD.decode()


def append(plan: Plan) -> Row:
    """Records that are on the disk, 100 a sync on each side."""
    bench_log_append.COMMITS = commits = plan.events(400, least=60)
    row = Row("append", f"append and sync records of 250 bytes, {PER_SYNC} a sync", "records/s", "higher")

    def rate(work: Callable[[Path], float]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return commits * PER_SYNC / work(Path(folder))

    def sqlite(folder: Path) -> float:
        with closing(sqlite3.connect(folder / "q.db", isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("CREATE TABLE q (data BLOB NOT NULL)")
            records = [(RECORD,)] * PER_SYNC
            start = time.perf_counter()
            for _ in range(commits):
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT INTO q VALUES (?)", records)
                connection.execute("COMMIT")
            return time.perf_counter() - start

    def litequeue(folder: Path, *, is_durable: bool) -> float:
        queue = import_module("litequeue").LiteQueue(folder / "q.db")
        if is_durable:
            queue.conn.execute("PRAGMA synchronous = FULL")
        start = time.perf_counter()
        for _ in range(commits):
            if is_durable:
                queue.conn.execute("BEGIN IMMEDIATE")
            for _ in range(PER_SYNC):
                queue.put(TEXT)
            if is_durable:
                queue.conn.execute("COMMIT")
        seconds = time.perf_counter() - start
        queue.close()
        return seconds

    ours, by_hand = "eventrec's log", "crc + write + fdatasync by hand"
    ways: dict[str, Callable[[Path], float]] = {
        by_hand: bench_log_append.by_hand,
        ours: bench_log_append.with_log,
        "SQLite WAL FULL": sqlite,
        LITEQUEUE: partial(litequeue, is_durable=False),
        "litequeue, FULL, 100 a transaction": partial(litequeue, is_durable=True),
    }
    interleaved(row, {name: partial(rate, work) for name, work in ways.items()}, [ours], plan.rounds)
    row.ask("log / SQLite WAL FULL", ours, "SQLite WAL FULL", at_least=1.5)
    row.ask("log / litequeue", ours, LITEQUEUE, at_least=10)
    row.ask("log / by hand", ours, by_hand, at_least=0.9, aim="the aim")
    return row


class Nowhere(EventHandler):
    """Takes everything."""

    async def handle(self, batch: Batch) -> None:
        """Do nothing."""


def durable(plan: Plan) -> Row:
    """Waiters that share a sync, beside one sync for each event."""
    waiters, alone = 1_000, plan.events(200, least=50)
    row = Row("durable", f"record_durable: {waiters:,} waiters at once, and one after the other", "events/s", "higher")
    options = EventRecorderOptions(queue_events=100_000)

    async def at_once(folder: Path) -> float:
        async with EventRecorder(Nowhere(), log=folder / "log", options=options) as recorder:
            await recorder.record_durable(Numbered(-1))
            start = time.perf_counter()
            await asyncio.gather(*(recorder.record_durable(Numbered(number)) for number in range(waiters)))
            return waiters / (time.perf_counter() - start)

    async def one_by_one(folder: Path) -> float:
        async with EventRecorder(Nowhere(), log=folder / "log", options=options) as recorder:
            await recorder.record_durable(Numbered(-1))
            start = time.perf_counter()
            for number in range(alone):
                await recorder.record_durable(Numbered(number))
            return alone / (time.perf_counter() - start)

    def by_hand(folder: Path) -> float:
        with (folder / "file").open("wb", buffering=0) as file:
            start = time.perf_counter()
            for _ in range(alone):
                file.write(RECORD)
                os.fdatasync(file.fileno())
            return alone / (time.perf_counter() - start)

    def fresh(work: Callable[[Path], float]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return work(Path(folder))

    ours = f"{waiters:,} at once"
    ways = {
        "write + fdatasync for each, by hand": lambda: fresh(by_hand),
        "record_durable, one after the other": lambda: fresh(lambda folder: asyncio.run(one_by_one(folder))),
        ours: lambda: fresh(lambda folder: asyncio.run(at_once(folder))),
    }
    interleaved(row, ways, list(ways)[1:], plan.rounds)
    row.ask("at once / one after the other", ours, "record_durable, one after the other", at_least=100, aim="the aim")
    row.ask("at once / a sync each by hand", ours, "write + fdatasync for each, by hand", at_least=1)
    return row


def opening(plan: Plan) -> Row:
    """`open` beside what earlier runs left."""
    mib = plan.events(1_024, least=256)
    row = Row("open", f"open beside old logs of {mib:,} MiB, and of one segment", "ms", "lower")
    with tempfile.TemporaryDirectory() as directory:
        for name, wanted in (("one", 64), ("many", mib)):
            while sum(file.stat().st_size for file in (Path(directory) / name).rglob("*.stdb.log")) < wanted * 2**20:
                bench_outage.orphan(Path(directory) / name, 64 * 2**20 // 40_000)

        def open_beside(name: str) -> float:
            return asyncio.run(bench_outage.opening(Path(directory) / name)) * 1e3

        one, many = "one segment of 64 MiB", f"{mib:,} MiB"
        ways = {one: partial(open_beside, "one"), many: partial(open_beside, "many")}
        interleaved(row, ways, list(ways), max(5, plan.rounds))
    row.ask("many / one", many, one, at_most=1.2)
    return row


def backlog(plan: Plan) -> list[Row]:
    """What waits when a destination comes back, and what runs that are gone have left."""
    events, orphans = plan.events(1_000_000, least=200_000), plan.events(10_000, least=1_000)
    drained = Row("drained", f"{events:,} events that wait in the log, to a handler that counts", "events/s", "higher")
    adopted = Row("adopted", f"{orphans:,} logs of one event that others left", "logs/s", "higher")

    def fresh(work: Callable[[Path], float]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return work(Path(folder) / "log")

    ways = {"eventrec": lambda: fresh(lambda log: asyncio.run(bench_outage.draining(log, events)))}
    interleaved(drained, ways, list(ways), min(3, plan.rounds))
    drained.ratios.append(ratio_to(drained, "eventrec", 250e3))
    ways = {"eventrec": lambda: fresh(lambda log: asyncio.run(bench_outage.adopting(log, orphans)))}
    interleaved(adopted, ways, list(ways), 1)
    adopted.ratios.append(Ratio("logs a second", adopted.way("eventrec").values, "at least", 1_000))
    return [drained, adopted]


def reading(plan: Plan) -> Row:
    """What was written, read back: every checksum verified, decoded, and grouped by type."""
    records, per_commit = plan.events(400_000, least=100_000), 1_000
    row = Row("read", "read a log back", "records/s", "higher")
    encoder = Encoder(types=None, context=lambda: None, now=time.time_ns)
    entries = [entry for n in range(per_commit) if isinstance(entry := encoder.encode(Numbered(n)), tuple)]
    log_id = uuid4()
    content, _ = next(iter(encode_take(entries, log_id, written=time.time_ns())))
    with tempfile.TemporaryDirectory() as folder, Log.create(DiskStorage(folder)) as log:
        for _ in range(records // per_commit):
            log.append_encoded(content, per_commit)
        log.write()

        def decoded() -> float:
            decode = ContentDecoder().decode
            start = time.perf_counter()
            count = sum(len(decode(commit.content).entries) for commit in log.reader().commits())
            seconds = time.perf_counter() - start
            assert count == records
            return records / seconds

        def grouped() -> float:
            decode = ContentDecoder().decode
            start, count = time.perf_counter(), 0
            for commit in log.reader().commits():
                batch = Batch(
                    log_id=log_id,
                    subscription="bench",
                    start=commit.offset,
                    end=commit.end,
                    offsets=range(commit.offset, commit.end),
                    entries=decode(commit.content).entries,
                )
                count += sum(len(request.rows) for request in batch.row_inserts())
            seconds = time.perf_counter() - start
            assert count == records
            return records / seconds

        ways = {"decoded": decoded, "grouped into rows": grouped}
        interleaved(row, ways, list(ways), plan.rounds)
    row.ratios += [
        ratio_to(row, "decoded", 3e6),
        ratio_to(row, "grouped into rows", 1e6),
    ]
    return row


def ratio_to(row: Row, name: str, bound: float) -> Ratio:
    """That way beside a number, in millions a second."""
    return Ratio(f"{name}, million records/s", [each / 1e6 for each in row.way(name).values], "at least", bound / 1e6)
