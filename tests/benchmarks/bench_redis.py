"""Batches into Redis by the handler, against bare pipelined XADD by the same driver: the same bytes, in turns.

    python tests/benchmarks/bench_redis.py [ROUNDS] [RECORDS]

Each round runs every way once, on Valkey and on Redis; ratios are taken inside a round.

    handler           batches of 1,000 records: ids, encoding, one script a batch that appends once; 1, 2 and 4 shards
    xadd, records     one XADD for each record's payload, 1,000 to a pipeline
    xadd, commits     one XADD for each commit's content, which is encoded just before, too
    xadd, bytes       the same, encoded long before: what the server and the socket cost alone

What it must come to: the handler ≥ 0.7 × XADD of the records' bytes.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import count
from uuid import uuid4

from redis.asyncio import Redis

from eventrec import Batch
from eventrec.bus import encode_take, make_entry
from eventrec.events.encoder import Encoder
from eventrec.records.entry import PAYLOAD
from eventrec.testing.conformance.log import Sample
from eventrec.testing.redis import Kind, RedisServer
from eventrec_handlers.redis import from_url

ROWS = 1_000
NAMES = count(1)


def batches_of(records: int) -> list[Batch]:
    """Events like those of a web page, in batches."""
    encode, log = Encoder().encode, uuid4()
    made = []
    for start in range(0, records, ROWS):
        entries = []
        for n in range(start, start + ROWS):
            event = Sample({"path": f"/articles/{n % 997}", "device_id": f"device-{n % 5_003}", "n": n, "width": 1_440})
            entry = encode(event)
            assert not isinstance(entry, str)
            entries.append(make_entry(*entry[:6]))
        made.append(
            Batch(
                log_id=log,
                subscription="bench",
                start=start,
                end=start + ROWS,
                offsets=range(start, start + ROWS),
                entries=entries,
            )
        )
    return made


def contents_of(batches: list[Batch]) -> Iterator[bytes]:
    """What their commits hold."""
    for batch in batches:
        for content, _ in encode_take(batch.entries, batch.log_id, written=1):
            yield content


async def by_handler(server: RedisServer, batches: list[Batch], shards: int) -> None:
    handler = from_url(server.url(stream=f"bench-{next(NAMES)}", shards=shards, shard_by="device_id"))
    await handler.open()
    await handler.resume(batches[0].log_id, "bench", 0)
    for batch in batches:
        await handler.handle(batch)
    await handler.close()


async def by_records(server: RedisServer, batches: list[Batch]) -> None:
    async with Redis(host=server.host, port=server.port, protocol=2) as client:
        key = f"bare-{next(NAMES)}"
        for batch in batches:
            pipeline = client.pipeline(transaction=False)
            for entry in batch.entries:
                pipeline.xadd(key, {"c": entry[PAYLOAD]})
            await pipeline.execute()


async def by_commits(server: RedisServer, contents: Iterable[bytes]) -> None:
    async with Redis(host=server.host, port=server.port, protocol=2) as client:
        key = f"bare-{next(NAMES)}"
        for content in contents:
            pipeline = client.pipeline(transaction=False)
            pipeline.xadd(key, {"c": content})
            await pipeline.execute()


async def rates(server: RedisServer, batches: list[Batch], contents: list[bytes]) -> dict[str, float]:
    """Records per second, by the way they went."""
    ways: dict[str, Callable[[], Awaitable[None]]] = {
        "handler": lambda: by_handler(server, batches, 1),
        "handler, 2 shards": lambda: by_handler(server, batches, 2),
        "handler, 4 shards": lambda: by_handler(server, batches, 4),
        "xadd, records": lambda: by_records(server, batches),
        "xadd, commits": lambda: by_commits(server, contents_of(batches)),
        "xadd, bytes": lambda: by_commits(server, contents),
    }
    found = {}
    for name, run in ways.items():
        begin = time.perf_counter()
        await run()
        found[name] = len(batches) * ROWS / (time.perf_counter() - begin)
    server.execute("FLUSHALL")
    return found


def main(rounds: int, records: int) -> None:
    batches = batches_of(records)
    contents = list(contents_of(batches))
    kinds: tuple[Kind, ...] = ("valkey", "redis")
    for kind in kinds:
        with RedisServer(kind) as server:
            measured = [asyncio.run(rates(server, batches, contents)) for _ in range(rounds)]
        print(f"{kind}, {records} records, batches of {ROWS}, median of {rounds} rounds")
        for name in measured[0]:
            rate = statistics.median(each[name] for each in measured)
            ratio = statistics.median(each[name] / each["xadd, records"] for each in measured)
            print(f"  {name:20} {rate:12,.0f} records/s   {ratio:6.2f} x xadd of records")


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:]]
    main(*numbers, *(3, 100_000)[len(numbers) :])
