"""The PostgreSQL handler beside what else there is: the same rows, 4 indexes, batches of 1,000, one server, in turns.

    python tests/benchmarks/bench_postgres.py [ROUNDS]

Each round measures every way once, and ratios are taken inside a round. Lag is that of every other round, CPU that of
the rounds between, since the ticker costs more than some ways do. The server has its default settings, so that a
commit waits for the disk. Recorders (the last three) start with events, the others with rows that are ready; CPU is
that of this process alone, all its threads. Those of ours have their default options.

What it must come to: handler ≥ 0.8 × psql; recorder with a log ≥ 0.75 × psql, at ≤ 5 us of CPU per event, and late by
≤ 3.5 ms; recorder ≥ 4 × the one by hand, at ≤ 1/4 of its CPU per event.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import asyncpg
import msgspec

from eventrec import Batch, Column, EventRecorder, EventRecorderOptions, EventStruct
from eventrec.events.encoder import Encoder
from eventrec.testing.servers import PostgresServer
from eventrec_handlers._sql import Refusals
from eventrec_handlers.postgres import PostgresHandler
from eventrec_handlers.postgres.copy import Copy, Rows

EVENTS = 40_000
BATCH = 1_000
BY_HAND = 100
KINDS = 10
"""Types of events, mixed; all have the same columns."""

TABLE = (
    "DROP TABLE IF EXISTS events; CREATE TABLE events (id uuid NOT NULL, type text NOT NULL,"
    " timestamp timestamptz NOT NULL, payload jsonb NOT NULL, user_id text, service text);"
    " CREATE INDEX ON events (type, timestamp DESC); CREATE INDEX ON events (id); CREATE INDEX ON events (user_id);"
    " CREATE INDEX ON events (service)"
)
COLUMNS = ("id", "type", "timestamp", "payload", "user_id", "service")
INSERT = "INSERT INTO events (id, type, timestamp, payload, user_id, service) VALUES ($1, $2, $3, $4, $5, $6)"


class _Seen(EventStruct):
    order_id: str
    amount: float
    currency: str
    items: int
    url: str
    user_agent: str
    user_id: Annotated[str, Column()]
    service: Annotated[str, Column()]


CLASSES = [type(f"Kind{n}", (_Seen,), {"__module__": __name__}) for n in range(KINDS)]
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Firefox/131.0"


def payload(n: int) -> dict[str, Any]:
    """About 230 bytes of JSON."""
    return {
        "order_id": f"ord_{n:016x}",
        "amount": round(10 + n % 1_000 * 0.37, 2),
        "currency": "EUR",
        "items": n % 9 + 1,
        "url": f"/shop/checkout/step/{n % 7}?utm_source=newsletter&utm_campaign=winter",
        "user_agent": AGENT,
    }


def user(n: int) -> str:
    """One of a thousand."""
    return str(UUID(int=n % 1_000 * 0x9E3779B97F4A7C15F39CC0605CEDC834 % 2**128))


def event(n: int) -> Any:
    """The `n`-th event."""
    return CLASSES[n % KINDS](**payload(n), user_id=user(n), service="shop")


@dataclass
class Measured:
    """Events a second, microseconds of this process' CPU per event, and the 99th percentile of a 1 ms ticker's lag."""

    rate: float
    cpu: float
    lag: float | None


is_ticking = True
"""Whether a ticker runs beside what is measured."""


@contextmanager
def measuring(late: list[float]) -> Iterator[list[Measured]]:
    """Measure what happens inside; the result is in the list afterwards."""
    measured: list[Measured] = []
    gc.collect()
    cpu, start = time.process_time(), time.perf_counter()
    yield measured
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    lag = sorted(late)[int(len(late) * 0.99)] if late else None
    measured.append(Measured(EVENTS / seconds, used / EVENTS * 1e6, lag))


async def ticked(work: Callable[[], Awaitable[None]]) -> Measured:
    """Measure `work`, perhaps with a ticker of 1 ms beside it."""
    late: list[float] = []
    if not is_ticking:
        with measuring(late) as measured:
            await work()
        return measured[0]

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append((time.perf_counter() - before) * 1e3 - 1)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    with measuring(late) as measured:
        await work()
    ticker.cancel()
    return measured[0]


# -- rows that are ready


def batches(log_id: UUID) -> list[Batch]:
    """What a worker would hand over, one after the other."""
    encode = Encoder().encode
    made = []
    for start in range(0, EVENTS, BATCH):
        entries: Any = [encode(event(n)) for n in range(start, start + BATCH)]
        offsets = range(start, start + BATCH)
        made.append(
            Batch(log_id=log_id, subscription="bench", start=start, end=start + BATCH, offsets=offsets, entries=entries)
        )
    return made


def rows() -> list[list[tuple[Any, ...]]]:
    """What asyncpg wants to be given."""
    when = datetime.now(UTC)
    return [
        [
            (uuid4(), f"kind{n % KINDS}", when, msgspec.json.encode(payload(n)).decode(), user(n), "shop")
            for n in range(start, start + BATCH)
        ]
        for start in range(0, EVENTS, BATCH)
    ]


async def by_handler(url: str, given: Sequence[Batch]) -> Measured:
    """Batches through our handler: encoded, copied, and fenced."""
    handler = PostgresHandler(url)
    await handler.open()
    await handler.resume(given[0].log_id, "bench", 0)

    async def work() -> None:
        for batch in given:
            await handler.handle(batch)

    measured = await ticked(work)
    await handler.close()
    return measured


async def by_driver(url: str, given: Sequence[Any], send: Callable[[Any, Any], Awaitable[Any]]) -> Measured:
    """Rows through the driver alone, a batch in a transaction."""
    connection = await asyncpg.connect(url)

    async def work() -> None:
        for batch in given:
            await send(connection, batch)

    measured = await ticked(work)
    await connection.close()
    return measured


async def copy_records(connection: Any, batch: Any) -> None:
    """The driver's own binary COPY."""
    await connection.copy_records_to_table("events", records=batch, columns=COLUMNS)


async def executemany(connection: Any, batch: Any) -> None:
    """One prepared INSERT."""
    await connection.executemany(INSERT, batch)


def psql_file(path: Path, given: Sequence[Batch]) -> None:
    """The same rows as a file of binary COPY, by our own encoder."""

    async def stream() -> bytes:
        refusals = Refusals()
        parts = [Rows.of(request) for batch in given for request in batch.row_inserts(id_form="bytes")]
        copy = Copy(parts[0], range(len(parts[0].wanted)), refusals)
        for part in parts[1:]:
            copy.join(part, range(len(part.wanted)))
        return b"".join([chunk async for chunk in copy])

    path.write_bytes(asyncio.run(stream()))


def by_psql(server: PostgresServer, path: Path) -> Measured:
    """Psql's COPY of all rows in one transaction: what the server takes with no Python in the way."""
    command = f"\\copy events ({', '.join(COLUMNS)}) FROM '{path}' (FORMAT binary)"
    with measuring([]) as measured:
        subprocess.run([server.psql, "-Xq", server.url(), "-c", command], check=True)
    return measured[0]


# -- recorders


async def by_recorder(url: str, events: Sequence[Any], log: Path | None = None) -> Measured:
    """From `record()` to the database, through a log in the directory `log` where there is one.

    The first event is there before the clock starts: by then the handler is connected, as those by hand are.
    """
    options = EventRecorderOptions(queue_events=2 * EVENTS, queue_bytes=1 << 30)

    async with EventRecorder(PostgresHandler(url), log=log, options=options) as recorder:
        recorder.record(events[0])
        assert await recorder.flush(timeout=120)

        async def work() -> None:
            for one in events[1:100]:
                recorder.record(one)
            for start in range(100, EVENTS, 100):
                for one in events[start : start + 100]:
                    recorder.record(one)
                await asyncio.sleep(0)
            assert await recorder.flush(timeout=120)

        return await ticked(work)


class ByHand:
    """What people write: a queue, a task that takes a hundred, executemany."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.queue: asyncio.Queue[tuple[str, dict[str, Any], str, str]] = asyncio.Queue()

    def record(self, kind: str, said: dict[str, Any], user_id: str, service: str) -> None:
        """Queue one event."""
        self.queue.put_nowait((kind, {**said, "timestamp": datetime.now(UTC)}, user_id, service))

    async def run(self) -> None:
        """Write a hundred at a time, for ever."""
        while True:
            taken = [await self.queue.get()]
            while len(taken) < BY_HAND and not self.queue.empty():
                taken.append(self.queue.get_nowait())
            rows = []
            for kind, said, user_id, service in taken:
                when = said.pop("timestamp")
                rows.append((uuid4(), kind, when, json.dumps(said), user_id, service))
            await self._connection.executemany(INSERT, rows)
            for _ in taken:
                self.queue.task_done()


async def by_hand(url: str, said: Sequence[tuple[dict[str, Any], str]]) -> Measured:
    """From a dict to the database, by hand."""
    connection = await asyncpg.connect(url)
    recorder = ByHand(connection)
    task = asyncio.create_task(recorder.run())

    async def work() -> None:
        for start in range(0, EVENTS, 100):
            for n, (one, user_id) in enumerate(said[start : start + 100], start):
                recorder.record(f"kind{n % KINDS}", one, user_id, "shop")
            await asyncio.sleep(0)
        await recorder.queue.join()

    measured = await ticked(work)
    task.cancel()
    await connection.close()
    return measured


# -- all of it

PSQL, HANDLER = "psql \\copy, binary, one transaction", "PostgresHandler"
RECORDS, MANY = "copy_records_to_table", "executemany"
RECORDER, LOGGED, HAND = "EventRecorder", "EventRecorder with a log", "recorder by hand (100, executemany)"


def main(rounds: int) -> None:
    """Measure every way in turns, and print medians and ratios."""
    global is_ticking  # noqa: PLW0603 - of this script
    given, ready = batches(uuid4()), rows()
    events, said = [event(n) for n in range(EVENTS)], [(payload(n), user(n)) for n in range(EVENTS)]
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory() as folder, PostgresServer(settings={}) as server:
        path = Path(folder) / "rows"
        psql_file(path, given)
        url = server.url()
        ways: dict[str, Callable[[], Measured]] = {
            PSQL: lambda: by_psql(server, path),
            HANDLER: lambda: asyncio.run(by_handler(url, given)),
            RECORDS: lambda: asyncio.run(by_driver(url, ready, copy_records)),
            MANY: lambda: asyncio.run(by_driver(url, ready, executemany)),
            RECORDER: lambda: asyncio.run(by_recorder(url, events)),
            LOGGED: lambda: asyncio.run(by_recorder(url, events, Path(folder) / "log")),
            HAND: lambda: asyncio.run(by_hand(url, said)),
        }
        got: dict[str, list[Measured]] = {name: [] for name in ways}
        for number in range(rounds):
            is_ticking = number % 2 == 1
            for name in list(ways) if number % 2 else reversed(ways):
                server.execute(f"{TABLE}; DROP TABLE IF EXISTS eventrec_checkpoints; CHECKPOINT")
                got[name].append(ways[name]())
                assert server.execute("SELECT count(*) FROM events") == str(EVENTS)
        synced = server.execute("SHOW fsync")
    print(f"{EVENTS:,} events, batches of {BATCH:,}, 4 indexes, fsync {synced}; medians of {rounds} rounds (range)\n")
    print(f"{'':38} {'events/s':>24} {'CPU us/event':>13} {'lag p99 ms':>11}")
    for name, all_ in got.items():
        rates = [one.rate for one in all_]
        shown = f"{statistics.median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})"
        cpu = statistics.median(one.cpu for one in all_ if one.lag is None or name == PSQL)
        lags = [one.lag for one in all_ if one.lag is not None]
        print(f"{name:38} {shown:>24} {cpu:13.1f} {statistics.median(lags) if lags else math.nan:11.1f}")
    print()
    ratio("handler / psql", got[HANDLER], got[PSQL], "rate", "≥ 0.8, aim ≥ 0.95")
    ratio("handler / copy_records_to_table", got[HANDLER], got[RECORDS], "rate", "")
    ratio("handler / executemany", got[HANDLER], got[MANY], "rate", "")
    ratio("recorder with a log / psql", got[LOGGED], got[PSQL], "rate", "≥ 0.75")
    ratio("recorder / psql", got[RECORDER], got[PSQL], "rate", "")
    ratio("recorder / by hand", got[RECORDER], got[HAND], "rate", "≥ 4")
    ratio("recorder's CPU / by hand", got[RECORDER], got[HAND], "cpu", "≤ 0.25")


def ratio(name: str, ours: Sequence[Measured], base: Sequence[Measured], what: str, must: str) -> None:
    """Print the median of the ratios of each round, and their range."""
    each = [getattr(one, what) / getattr(other, what) for one, other in zip(ours, base, strict=True)]
    print(f"{name:38} {statistics.median(each):6.2f} ({min(each):.2f}-{max(each):.2f})  {must}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
