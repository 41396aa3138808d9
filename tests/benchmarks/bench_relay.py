"""Relays of a Redis bus: what they move, with and without sessions, and by how many shards and processes.

    python tests/benchmarks/bench_relay.py [ROUNDS] [EVENTS]

Each round moves EVENTS events (200,000) out of Valkey in every way once, into handlers that count and discard:

    1 shard, no stage         one relay
    1 shard, sessions         the same with `sessions`; 300 devices send all events
    1 shard, sessions, new    the same; each event is of another device, so opens a session
    2 and 4 shards, sessions  as many relays as shards, a process each; shards by device

The rate is that of the events between the first that each relay delivered and the last of all. Relays are processes of
this machine: with more of them than cores they share these. What more cores would give is computed, and called so: by
as many relays as shards on cores of their own, until the one server of the bus, whose own time for each event is
measured, is the limit.

What it must come to: sessions ≥ 50,000 events/s, or ≥ 0.5 × without a stage.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from typing import Any, Final
from uuid import uuid4

import anyio

from eventrec import Batch, EventHandler, EventRecorder
from eventrec.bus import make_entry
from eventrec.events.encoder import Encoder
from eventrec.records.entry import SHAPE
from eventrec.relay import RelayOptions
from eventrec.testing.conformance.log import Sample
from eventrec.testing.redis import RedisServer
from eventrec_handlers.redis import from_url

ROWS: Final = 1_000
DEVICES: Final = 300
NAMES: Final = count(1)
PATIENCE: Final = 300.0
"""Seconds that one way may take."""

SIMULATED: Final = (1, 2, 4, 8, 16, 32, 64)


class Count(EventHandler):
    """Counts the events that were recorded; those that a stage makes are of another type."""

    def __init__(self, delivered: Any) -> None:
        self.delivered = delivered

    async def handle(self, batch: Batch) -> None:
        self.delivered.value += sum(entry[SHAPE].type == "sample" for entry in batch.entries)


def relay(url: str, stages: list[str], delivered: Any, is_over: Any) -> None:
    """One relay, until `is_over`."""

    async def run() -> None:
        with tempfile.TemporaryDirectory() as directory:
            recorder = EventRecorder(log=directory, bus=url, stages=stages, relay=RelayOptions(max_shards=1))
            recorder.register(Count(delivered), name="bench")
            async with recorder:
                while not is_over.is_set():  # noqa: ASYNC110 - another process sets it
                    await anyio.sleep(0.05)

    anyio.run(run)


def batches_of(events: int, devices: int) -> Iterator[Batch]:
    """Events as web pages send them; those of a device are of one session."""
    encode, log = Encoder().encode, uuid4()
    now = time.time_ns() // 1_000_000
    for start in range(0, events, ROWS):
        entries = []
        for n in range(start, start + ROWS):
            device = n % devices
            payload = {
                "project_id": "shop",
                "device_id": f"device-{device}",
                "session_id": f"device-{device}",
                "path": f"/articles/{n % 997}",
                "created_at": now + n // 100,
                "properties": {"n": n},
            }
            entry = encode(Sample(payload))
            assert not isinstance(entry, str)
            entries.append(make_entry(*entry[:6]))
        end = start + ROWS
        yield Batch(log_id=log, subscription="fill", start=start, end=end, offsets=range(start, end), entries=entries)


async def fill(url: str, events: int, devices: int) -> None:
    handler = from_url(url)
    await handler.open()
    resumed = False
    for batch in batches_of(events, devices):
        if not resumed:
            await handler.resume(batch.log_id, batch.subscription, 0)
            resumed = True
        await handler.handle(batch)
    await handler.close()


def seconds_of(server: RedisServer) -> float:
    """What the server has taken of the processor so far."""
    told = dict(
        line.split(":", 1) for line in server.execute("INFO", "cpu").decode().splitlines() if line.count(":") == 1
    )
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


def moved(server: RedisServer, events: int, *, shards: int, stages: list[str], devices: int) -> tuple[float, float]:
    """Events a second, and the server's seconds for one of them."""
    url = server.url(stream=f"bench-{next(NAMES)}", shards=shards, shard_by="device_id")
    asyncio.run(fill(url, events, devices))
    processes = multiprocessing.get_context("spawn")
    counts = [processes.Value("q", 0, lock=False) for _ in range(shards)]
    is_over = processes.Event()
    running = [processes.Process(target=relay, args=(url, stages, each, is_over)) for each in counts]
    taken = seconds_of(server)
    for each in running:
        each.start()
    try:
        until = time.monotonic() + PATIENCE
        begin, before = 0.0, 0
        while (done := sum(each.value for each in counts)) < events:
            if time.monotonic() > until or not all(each.is_alive() for each in running):
                raise SystemExit(f"{done} of {events} events were moved, then nothing more")
            if not begin and all(each.value for each in counts):
                begin, before = time.perf_counter(), done
            time.sleep(0.005)
        elapsed = time.perf_counter() - begin
        taken = seconds_of(server) - taken
    finally:
        is_over.set()
        for each in running:
            each.join(PATIENCE)
        server.execute("FLUSHALL")
    return (events - before) / elapsed, taken / events


def main(rounds: int, events: int) -> None:
    """Print the tables."""
    ways: dict[str, dict[str, Any]] = {
        "1 shard, no stage": {"shards": 1, "stages": [], "devices": DEVICES},
        "1 shard, sessions": {"shards": 1, "stages": ["sessions"], "devices": DEVICES},
        "1 shard, sessions, new": {"shards": 1, "stages": ["sessions"], "devices": events},
        "2 shards, sessions": {"shards": 2, "stages": ["sessions"], "devices": DEVICES},
        "4 shards, sessions": {"shards": 4, "stages": ["sessions"], "devices": DEVICES},
    }
    with RedisServer("valkey") as server:
        found = [{name: moved(server, events, **way) for name, way in ways.items()} for _ in range(rounds)]
    print(f"{events} events, median of {rounds} rounds")
    for name in ways:
        rate = statistics.median(each[name][0] for each in found)
        ratio = statistics.median(each[name][0] / each["1 shard, no stage"][0] for each in found)
        print(f"  {name:24} {rate:10,.0f} events/s   {ratio:5.2f} x one relay without a stage")
    one = statistics.median(each["1 shard, sessions"][0] for each in found)
    server_takes = statistics.median(each["1 shard, sessions"][1] for each in found)
    print("\ncomputed, not measured: sessions, a core for each relay and one for the server,", end=" ")
    print(f"which takes {server_takes * 1e6:.2f} µs an event")
    for shards in SIMULATED:
        print(f"  {shards:3} shards {min(shards * one, 1 / server_takes):12,.0f} events/s")


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:]]
    main(*numbers, *(3, 200_000)[len(numbers) :])
