"""Servers that are killed, promoted, moved; producers that are killed: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import anyio
import pytest
from anyio import to_thread

from eventrec import Batch, Event, EventRecorder, TransientError
from eventrec.bus import ContentDecoder
from eventrec.records.entry import PAYLOAD
from eventrec.testing import assert_conserved
from eventrec.testing.proxy import FaultProxy
from eventrec.testing.redis import Kind, RedisCluster, RedisServer, installed
from eventrec.testing.servers import STARTING
from eventrec_handlers.redis import from_url
from eventrec_handlers.redis.keys import shard_keys

pytestmark = [pytest.mark.anyio, pytest.mark.handlers]

Events = Callable[..., Event]
Batches = Callable[..., Batch]
Delivering = Callable[..., Any]
MakeServer = Callable[..., RedisServer]
MakeProxy = Callable[[RedisServer], FaultProxy]
NOW = {"repl-diskless-sync-delay": "0"}
"""A master does not wait for more replicas before it sends its data."""

LOG = UUID("01990000-0000-7000-8000-000000000001")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["valkey", pytest.param("redis", marks=pytest.mark.faults)])
def kind(request: pytest.FixtureRequest) -> Kind:
    return installed(cast("Kind", request.param))


def held(server: RedisServer, stream: str = "events", shard: int = 0, shards: int = 1) -> dict[str, list[int]]:
    """The numbers in each log of a shard, the oldest first."""
    keys, decoder = shard_keys(stream, shard, shards), ContentDecoder()
    return {
        log: [
            next(iter(json.loads(entry[PAYLOAD]).values()))
            for _, fields in server.execute("XRANGE", keys.log(log), "-", "+")
            for entry in decoder.decode(fields[3]).entries
        ]
        for log in (server.execute("HGET", keys.meta, "logs") or b"").decode().split()
    }


def everything(logs: dict[str, list[int]]) -> list[int]:
    return sorted(number for numbers in logs.values() for number in numbers)


async def until(condition: Callable[[], object]) -> None:
    """Wait until a look in a thread is true."""
    with anyio.fail_after(STARTING):
        while not await to_thread.run_sync(condition):  # noqa: ASYNC110 - another process changes it
            await anyio.sleep(0.02)


@pytest.fixture
def make_proxy() -> Iterator[Callable[[RedisServer], FaultProxy]]:
    """Puts proxies before servers, and ends them."""
    made: list[FaultProxy] = []

    def make(server: RedisServer) -> FaultProxy:
        made.append(FaultProxy(server.host, server.port))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


# -- a server that is killed


async def test_killed_server_that_persists_loses_and_doubles_nothing(
    kind: Kind, make_server: MakeServer, delivering: Delivering, tmp_path: Path
) -> None:
    server = await to_thread.run_sync(lambda: make_server(kind, persists=True))
    async with delivering(from_url(server.url(timeout="5s")), tmp_path, name="redis") as trial:
        for _ in range(2):
            trial.record()
            await to_thread.run_sync(server.kill)
            trial.record()
            await to_thread.run_sync(server.start)
            await trial.settled()

    logs = await to_thread.run_sync(held, server)
    assert everything(logs) == list(range(trial.count))
    assert len(logs) == 3  # each life of the server has a log of its own
    assert all(numbers == sorted(numbers) for numbers in logs.values())


async def test_killed_server_without_persistence_is_sent_again_what_the_log_holds(
    kind: Kind, make_server: MakeServer, delivering: Delivering, tmp_path: Path
) -> None:
    server = await to_thread.run_sync(lambda: make_server(kind))
    async with delivering(from_url(server.url(timeout="5s")), tmp_path, name="redis") as trial:
        (first,) = await to_thread.run_sync(held, server)
        await to_thread.run_sync(server.restart)
        assert await to_thread.run_sync(held, server) == {}
        trial.record()
        await trial.settled()

        assert trial.part.rewound == 50

    logs = await to_thread.run_sync(held, server)
    assert everything(logs) == list(range(trial.count))
    assert first not in logs
    assert len(logs) == 1


async def test_retired_logs_of_earlier_runs_are_not_asked_for_again(
    make_server: MakeServer, delivering: Delivering, tmp_path: Path
) -> None:
    server = await to_thread.run_sync(make_server)
    async with delivering(from_url(server.url()), tmp_path, name="redis"):
        pass

    origins = await to_thread.run_sync(lambda: server.execute("HGETALL", shard_keys("events", 0, 1).origins))

    pairs = dict(zip(origins[::2], origins[1::2], strict=True))
    assert [value.split()[0] for key, value in pairs.items() if key.endswith(b":redis")] == [b"50"]
    assert [len(value.split()) for key, value in pairs.items() if key.endswith(b":redis")] == [2]


async def test_log_that_the_server_lost_after_the_last_batch_is_not_retired_but_sent_again(
    make_server: MakeServer, delivering: Delivering, tmp_path: Path
) -> None:
    server = await to_thread.run_sync(make_server)
    async with delivering(from_url(server.url(timeout="5s")), tmp_path, name="redis"):
        await to_thread.run_sync(server.restart)
    assert await to_thread.run_sync(held, server) == {}

    recorder = EventRecorder(log=tmp_path)
    recorder.register(from_url(server.url(timeout="5s")), name="redis")
    async with recorder:
        await until(lambda: everything(held(server)) == list(range(50)))

    assert_conserved(recorder.status(), offered=0)
    assert everything(await to_thread.run_sync(held, server)) == list(range(50))


# -- replicas


async def test_promoted_replica_that_lacks_the_last_records_gets_them_again(
    kind: Kind, make_server: MakeServer, make_proxy: MakeProxy, delivering: Delivering, tmp_path: Path
) -> None:
    master = await to_thread.run_sync(lambda: make_server(kind, settings=NOW))
    replica = await to_thread.run_sync(
        lambda: make_server(kind, settings={"replicaof": f"{master.host} {master.port}"})
    )
    proxy = await to_thread.run_sync(make_proxy, master)
    url = f"redis://{proxy.host}:{proxy.port}?timeout=5s"
    async with delivering(from_url(url), tmp_path, name="redis") as trial:
        await until(lambda: everything(held(replica)) == list(range(50)))
        (first,) = await to_thread.run_sync(held, replica)
        await to_thread.run_sync(lambda: replica.execute("REPLICAOF", "NO", "ONE"))
        trial.record()
        await trial.settled()
        assert everything(await to_thread.run_sync(held, master)) == list(range(100))

        proxy._target = (replica.host, replica.port)
        await to_thread.run_sync(master.kill)
        proxy.drop()
        trial.record()
        await trial.settled()

    logs = await to_thread.run_sync(held, replica)
    assert everything(logs) == list(range(trial.count))
    assert list(logs) == [first, next(log for log in logs if log != first)]
    assert await to_thread.run_sync(
        lambda: replica.execute("HGET", shard_keys("events", 0, 1).meta, f"{first}:end")
    ) == (b"50")


async def test_master_that_comes_back_with_the_data_of_a_replica_uses_no_offset_twice(
    make_server: MakeServer, batch: Batches, event: Events
) -> None:
    master = await to_thread.run_sync(lambda: make_server(settings=NOW))
    replica = await to_thread.run_sync(
        lambda: make_server(settings={"replicaof": f"{master.host} {master.port}", **NOW})
    )
    handler = from_url(master.url())
    await handler.open()
    await handler.resume(LOG, "tested", 0)
    await handler.handle(batch(*(event({"n": n}) for n in range(5))))
    await until(lambda: everything(held(replica)) == list(range(5)))
    (first,) = await to_thread.run_sync(held, master)

    await to_thread.run_sync(lambda: replica.execute("REPLICAOF", "NO", "ONE"))
    await handler.handle(batch(*(event({"n": n}) for n in range(5, 8)), start=5))
    await to_thread.run_sync(lambda: master.execute("REPLICAOF", replica.host, replica.port))
    await until(lambda: everything(held(master)) == list(range(5)))
    await to_thread.run_sync(lambda: master.execute("REPLICAOF", "NO", "ONE"))
    assert await handler.resume(LOG, "tested", 0) == 5
    await handler.handle(batch(*(event({"n": n}) for n in range(5, 9)), start=5))

    logs = await to_thread.run_sync(held, master)
    assert logs[first] == list(range(5))
    assert [numbers for log, numbers in logs.items() if log != first] == [list(range(5, 9))]
    await handler.close()


async def test_master_that_became_a_replica_is_transient_until_it_is_one_again(
    make_server: MakeServer, batch: Batches, event: Events
) -> None:
    server, other = await to_thread.run_sync(make_server), await to_thread.run_sync(make_server)
    handler = from_url(server.url())
    await handler.open()
    await handler.resume(LOG, "tested", 0)
    settings = ("replica-read-only", "yes")
    await to_thread.run_sync(lambda: server.execute("CONFIG", "SET", *settings))
    await to_thread.run_sync(lambda: server.execute("REPLICAOF", other.host, 1))

    with pytest.raises(TransientError, match=r"READONLY|MASTERDOWN"):
        await handler.handle(batch(event({"n": 1})))
    await to_thread.run_sync(lambda: server.execute("REPLICAOF", "NO", "ONE"))
    await handler.handle(batch(event({"n": 1})))

    assert everything(await to_thread.run_sync(held, server)) == [1]
    await handler.close()


@pytest.mark.faults
async def test_sentinels_name_the_new_master(
    kind: Kind, make_server: MakeServer, delivering: Delivering, tmp_path: Path
) -> None:
    master = await to_thread.run_sync(lambda: make_server(kind, settings=NOW))
    replica = await to_thread.run_sync(
        lambda: make_server(
            kind, settings={"replicaof": f"{master.host} {master.port}", "repl-diskless-sync-delay": "0"}
        )
    )
    sentinel = await to_thread.run_sync(
        lambda: make_server(
            kind,
            settings={
                "sentinel monitor": f"main {master.host} {master.port} 1",
                "sentinel down-after-milliseconds": "main 300",
                "sentinel failover-timeout": "main 3000",
            },
        )
    )
    await until(lambda: sentinel.execute("SENTINEL", "REPLICAS", "main"))
    async with delivering(from_url(sentinel.url(sentinel="main", timeout="5s")), tmp_path, name="redis") as trial:
        await until(lambda: everything(held(replica)) == list(range(50)))
        await to_thread.run_sync(master.kill)
        trial.record()
        await trial.settled()

    assert everything(await to_thread.run_sync(held, replica)) == list(range(trial.count))


# -- a cluster


@pytest.fixture
def cluster(kind: Kind) -> Iterator[RedisCluster]:
    with RedisCluster(kind) as cluster:
        yield cluster


def in_cluster(cluster: RedisCluster, shards: int) -> list[int]:
    found: list[int] = []
    for shard in range(shards):
        slot = cluster.nodes[0].execute("CLUSTER", "KEYSLOT", shard_keys("events", shard, shards).meta)
        found += everything(held(cluster.owner(slot), "events", shard, shards))
    return sorted(found)


async def test_cluster_moves_shards_under_a_producer(
    cluster: RedisCluster, delivering: Delivering, tmp_path: Path
) -> None:
    handler = from_url(cluster.url(shards=4, shard_by="number", timeout="5s"))
    first = cluster.nodes[0]
    slot = await to_thread.run_sync(lambda: first.execute("CLUSTER", "KEYSLOT", shard_keys("events", 1, 4).meta))
    source = await to_thread.run_sync(cluster.owner, slot)
    target = next(node for node in cluster.nodes if node is not source)

    def migrate(keys: list[bytes]) -> None:
        source.execute("MIGRATE", target.host, target.port, "", 0, 5_000, "KEYS", *keys)

    async with delivering(handler, tmp_path, name="redis") as trial:
        ids = {node.port: await to_thread.run_sync(cluster.node_id, node) for node in (source, target)}
        await to_thread.run_sync(lambda: target.execute("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port]))
        await to_thread.run_sync(lambda: source.execute("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port]))
        keys = await to_thread.run_sync(lambda: source.execute("CLUSTER", "GETKEYSINSLOT", slot, 100))
        assert len(keys) > 1
        await to_thread.run_sync(migrate, keys[:1])
        trial.record()
        await trial.until(lambda part: part.last_error is not None)  # half of the shard's keys are elsewhere
        assert re.search("TRYAGAIN|is being moved", trial.part.last_error)
        await to_thread.run_sync(migrate, keys[1:])
        for node in (target, source):
            await to_thread.run_sync(partial(node.execute, "CLUSTER", "SETSLOT", slot, "NODE", ids[target.port]))
        trial.record()
        await trial.settled()

    assert await to_thread.run_sync(cluster.owner, slot) is target
    assert await to_thread.run_sync(in_cluster, cluster, 4) == list(range(trial.count))


async def test_cluster_that_misses_a_node_takes_what_is_for_the_others_once(
    cluster: RedisCluster, batch: Batches, event: Events
) -> None:
    handler = from_url(cluster.url(shards=4, shard_by="n", timeout="2s"))
    await handler.open()
    await handler.resume(LOG, "tested", 0)
    slot = await to_thread.run_sync(
        lambda: cluster.nodes[0].execute("CLUSTER", "KEYSLOT", shard_keys("events", 2, 4).meta)
    )
    gone = await to_thread.run_sync(cluster.owner, slot)
    gone.pause()

    with pytest.raises(TransientError):
        await handler.handle(batch(*(event({"n": n}) for n in range(40))))
    gone.resume()
    await to_thread.run_sync(cluster.wait)
    with anyio.fail_after(STARTING):
        while True:
            with suppress(TransientError):
                start = await handler.resume(LOG, "tested", 0)
                if start < 40:
                    await handler.handle(batch(*(event({"n": n}) for n in range(40))))
                break
            await anyio.sleep(0.1)

    assert await to_thread.run_sync(in_cluster, cluster, 4) == list(range(40))
    await handler.close()


# -- connections, and producers


async def test_connections_that_are_cut_all_the_time_double_nothing(
    server: RedisServer, stream: str, make_proxy: MakeProxy, delivering: Delivering, tmp_path: Path
) -> None:
    chance = random.Random(15)
    proxy = await to_thread.run_sync(make_proxy, server)
    url = f"redis://{proxy.host}:{proxy.port}?stream={stream}&shards=2&shard_by=number&timeout=5s"
    async with delivering(from_url(url), tmp_path, name="redis") as trial:
        for _ in range(12):
            proxy.cut_after(b"event:received", direction="to_server", passes=chance.random() < 0.7)
            trial.record(20)
            await anyio.sleep(0.01)
        proxy.mend()
        await trial.settled()

    found = [
        number for shard in range(2) for number in everything(await to_thread.run_sync(held, server, stream, shard, 2))
    ]
    assert sorted(found) == list(range(trial.count))


def produce(url: str, log: Path, count: int) -> subprocess.Popen[str]:
    writer = Path(__file__).with_name("redis_writer.py")
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(writer), url, str(log), str(count)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_producers_that_are_killed_lose_nothing_that_was_written_and_double_nothing(
    valkey: RedisServer, stream: str, tmp_path: Path
) -> None:
    url = valkey.url(stream=stream)
    written: set[int] = set()
    for turn in range(2):
        process = produce(url, tmp_path, turn * 1_000_000)
        assert process.stdout is not None
        for line in process.stdout:
            written.add(int(line))
            if len(written) > 100 * (turn + 1):
                break
        process.send_signal(signal.SIGKILL)
        written |= {int(line) for line in process.stdout.read().split()}
        process.stdout.close()
        process.wait()

    drained = subprocess.run(
        [sys.executable, "-W", "error", "-m", "eventrec.cli", "drain", str(tmp_path), "--to", url],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert drained.returncode == 0, drained.stderr + drained.stdout

    found = everything(held(valkey, stream))
    assert len(found) == len(set(found))
    assert written <= set(found)
