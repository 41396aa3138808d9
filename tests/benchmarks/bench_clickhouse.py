"""The ClickHouse handler beside the official client, clickhouse-connect: the same rows into one server, in turns.

    python tests/benchmarks/bench_clickhouse.py [ROUNDS]

The server is ClickHouse's engine from the wheel `chdb-core`, in a process of its own. Both insert the same chunks into
one table, as many at once, each under a token. The client is given columns that are ready; the handler makes them of
records, those of the next batch while one is under way, as a worker has it do. They take turns batch by batch, and the
ratio is that of the medians of a round.

What it must come to: ≥ 0.8 × the client's rate.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from clickhouse_connect import get_async_client

from eventrec import Batch, Event
from eventrec.events.encoder import Encoder
from eventrec.testing.clickhouse_http import ClickHouseServer, new_database
from eventrec_handlers.clickhouse import ClickHouseHandler

EVENTS = 80_000
BATCH = 4_000
CHUNK = 1_000
AT_ONCE = 5
NAMES = ["id", "type", "timestamp", "payload"]
TYPES = ["UUID", "LowCardinality(String)", "DateTime64(9, 'UTC')", "String"]


class Placed(Event):
    """An event of one of ten types, with about 230 bytes of JSON."""

    def __init__(self, n: int) -> None:
        self._n = n

    @property
    def type(self) -> str:
        return f"kind_{self._n % 10}"

    @property
    def payload(self) -> object:
        n = self._n
        return {
            "order_id": f"ord_{n:016x}",
            "amount": round(10 + n % 1_000 * 0.37, 2),
            "items": n % 9 + 1,
            "url": f"/shop/checkout/step/{n % 7}?utm_source=newsletter&utm_campaign=winter",
            "user_agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Firefox/131.0",
        }


def batches() -> list[Batch]:
    """New ones: no token was seen before."""
    encode = Encoder().encode
    entries = [encode(Placed(n)) for n in range(EVENTS)]
    log_id = uuid4()
    return [
        Batch(
            log_id=log_id,
            subscription="bench",
            start=start,
            end=start + BATCH,
            offsets=range(start, start + BATCH),
            entries=[entry for entry in entries[start : start + BATCH] if not isinstance(entry, str)],
        )
        for start in range(0, EVENTS, BATCH)
    ]


def columns_of(batch: Batch) -> list[list[Sequence[Any]]]:
    """Its chunks as columns that are ready."""
    rows = [row for request in batch.row_inserts(id_form="bytes") for row in request.rows]
    return [
        [[row[i] for row in rows[start : start + CHUNK]] for i in range(len(NAMES))]
        for start in range(0, len(rows), CHUNK)
    ]


class Client:
    """The client alone: chunks of columns that are ready."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def insert(self, chunks: Sequence[Sequence[Sequence[Any]]]) -> None:
        """One batch."""
        waiting = iter(chunks)

        async def work() -> None:
            for chunk in waiting:
                await self._client.insert(
                    "events",
                    chunk,
                    column_names=NAMES,
                    column_type_names=TYPES,
                    column_oriented=True,
                    settings={"insert_deduplication_token": uuid4().hex, "async_insert": 0},
                )

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def handle(handler: ClickHouseHandler, batch: Batch, following: Batch) -> None:
    """One batch, and the next one made ready, as a worker has it done."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(handler.handle(batch))
        tasks.create_task(handler.prepare(following))


async def measure(server: ClickHouseServer) -> tuple[float, float]:
    """Seconds of a batch with the client, and with the handler: the medians, taken in turns."""
    database = new_database(server)
    handler = ClickHouseHandler(database.url(), chunk_rows=CHUNK, concurrency=AT_ONCE)
    await handler.open()
    driver = await get_async_client(
        host="127.0.0.1",
        port=server.port,
        username="default",
        database=database.name,
        compress="lz4",
        autogenerate_session_id=False,
    )
    client, ready = Client(driver), batches()
    columns = [columns_of(batch) for batch in ready]
    await handle(handler, ready[0], ready[1])  # makes the table, for both
    gc.collect()
    gc.freeze()  # what is ready is not looked at again while something else is measured
    spent: tuple[list[float], list[float]] = ([], [])
    for number in range(1, len(ready) - 1):
        jobs: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (0, partial(client.insert, columns[number])),
            (1, partial(handle, handler, ready[number], ready[number + 1])),
        ]
        for way, job in jobs if number % 2 else reversed(jobs):
            start = time.perf_counter()
            await job()
            spent[way].append(time.perf_counter() - start)
    gc.unfreeze()
    await handler.close()
    await driver.close()
    return statistics.median(spent[0]), statistics.median(spent[1])


async def main(rounds: int) -> None:
    """Measure in turns."""
    ratios = []
    with ClickHouseServer() as server:
        for _ in range(rounds):
            by_client, by_handler = await measure(server)
            ratios.append(by_client / by_handler)
            print(f"client {BATCH / by_client:,.0f}/s  handler {BATCH / by_handler:,.0f}/s  ratio {ratios[-1]:.2f}")
    print(f"handler: {statistics.median(ratios):.2f} × the client's own insert of ready columns (must be >= 0.8)")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
