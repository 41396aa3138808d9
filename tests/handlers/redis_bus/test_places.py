"""A producer and a relay whose bus moves, or changes its locks, under both: each event arrives once, or it is said."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventrec import Backoff, EventRecorder, EventRecorderOptions, EventStruct
from eventrec.relay import RelayOptions
from eventrec.testing import assert_conserved
from eventrec.testing.redis import Kind, RedisCluster, RedisServer, installed
from eventrec.testing.relays import ABOVE, Doubling
from eventrec_handlers.redis.bus import from_bus_url
from eventrec_handlers.redis.keys import shard_keys

pytestmark = [pytest.mark.handlers, pytest.mark.anyio]

OPTIONS = EventRecorderOptions(
    retry=Backoff(jitter="none", first=0.02, max=0.2), flush_interval=0.01, close_timeout=20.0, retain=3_600.0
)
RELAY = RelayOptions(lease_seconds=1.0, save_seconds=0.01, due_seconds=0.02)
NOW = {"repl-diskless-sync-delay": "0"}
"""A master does not wait for more replicas before it sends its data."""


class Numbered(EventStruct):
    number: int


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["valkey", pytest.param("redis", marks=pytest.mark.faults)])
def kind(request: pytest.FixtureRequest) -> Kind:
    """The other one in the long form: what they differ in has other tests."""
    return installed(request.param)


async def until(is_true: Callable[[], object]) -> None:
    """Wait until a look in a thread is true."""
    with anyio.fail_after(40):
        while not await anyio.to_thread.run_sync(is_true):  # noqa: ASYNC110 - another process changes it
            await anyio.sleep(0.02)


@dataclass
class Line:
    """A producer, the bus, a relay with a stage, and a database."""

    producer: EventRecorder
    relay: EventRecorder
    database: Path
    count: int = 0

    def record(self, count: int = 50) -> None:
        for number in range(self.count, self.count + count):
            self.producer.record(Numbered(number=number))
        self.count += count

    def rows(self) -> list[int]:
        with closing(sqlite3.connect(self.database)) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchall():
                return []
            return sorted(
                json.loads(payload)["number"] for (payload,) in database.execute("SELECT payload FROM events")
            )

    def is_there(self) -> bool:
        """Whether all that was recorded is in the database, with what the stage made of it."""
        return {*self.rows()} >= {*range(self.count), *range(ABOVE, ABOVE + self.count)}

    @property
    def rewound(self) -> int:
        return self.producer.status().subscriptions["redis"].rewound

    def errors(self) -> list[str]:
        """The last ones of both ends."""
        parts = [self.producer.status().subscriptions["redis"].last_error]
        return [error for error in [*parts, *(part.last_error for part in self.relay.status().relay)] if error]

    def resume(self) -> None:
        """An operator acted."""
        self.producer.resume("redis")
        self.relay.resume("sqlite")


@pytest.fixture
def line(tmp_path: Path) -> Any:
    @asynccontextmanager
    async def made(url: str, **options: Any) -> Any:
        producer = EventRecorder(log=tmp_path / "producer", options=OPTIONS)
        query = "".join(f"&{name}={value}" for name, value in options.items())
        producer.register(url + query, name="redis")
        relay = EventRecorder(
            log=tmp_path / "relay", options=OPTIONS, bus=from_bus_url(url), relay=RELAY, stages=[Doubling()]
        )
        relay.register(f"sqlite:///{tmp_path}/events.db?unique_ids=true", name="sqlite")
        async with producer, relay:
            one = Line(producer, relay, tmp_path / "events.db")
            one.record()
            await until(one.is_there)
            yield one
            await until(one.is_there)
            assert len(one.rows()) == 2 * one.count
        for recorder in (producer, relay):
            assert_conserved(recorder.status())

    return made


@pytest.fixture
def make_server(kind: Kind) -> Iterator[Callable[..., RedisServer]]:
    made: list[RedisServer] = []

    def make(**options: Any) -> RedisServer:
        made.append(RedisServer(kind, **options).start())
        return made[-1]

    yield make
    for server in made:
        server.stop()


async def test_sentinels_promote_a_replica_that_lacks_what_was_acknowledged(make_server: Any, line: Any) -> None:
    master = await anyio.to_thread.run_sync(partial(make_server, settings=NOW))
    replica = await anyio.to_thread.run_sync(
        partial(make_server, persists=True, settings={**NOW, "replicaof": f"{master.host} {master.port}"})
    )
    sentinel = await anyio.to_thread.run_sync(
        partial(
            make_server,
            settings={
                "sentinel monitor": f"main {master.host} {master.port} 1",
                "sentinel down-after-milliseconds": "main 300",
                "sentinel failover-timeout": "main 3000",
            },
        )
    )
    await until(lambda: sentinel.execute("SENTINEL", "REPLICAS", "main"))
    async with line(sentinel.url(sentinel="main", stream="s", timeout="5s")) as one:
        keys = shard_keys("s", 0, 1)
        await until(lambda: replica.execute("HLEN", keys.meta))
        await anyio.to_thread.run_sync(replica.kill)
        one.record()
        # Acknowledged by the master alone, and delivered, before it dies.
        await until(one.is_there)
        await anyio.to_thread.run_sync(master.kill)
        await anyio.to_thread.run_sync(replica.start)
        one.record()
        await until(one.is_there)

        assert one.rewound > 0


async def test_file_that_lost_its_end_with_the_server_is_completed_from_the_logs(make_server: Any, line: Any) -> None:
    settings = {"appendfsync": "always", "aof-load-truncated": "yes"}
    server = await anyio.to_thread.run_sync(partial(make_server, persists=True, settings=settings))

    def cut() -> None:
        directory = Path(server.execute("CONFIG", "GET", "dir")[1].decode())
        server.kill()
        file = max(directory.glob("appendonlydir/*.incr.aof"))
        content = file.read_bytes()
        # Behind the first batch, in the middle of a command.
        file.write_bytes(content[: content.rindex(b"XADD") + 20])
        server.start()

    async with line(server.url(stream="s", timeout="5s")) as one:
        one.record()
        await until(one.is_there)
        await anyio.to_thread.run_sync(cut)
        one.record()
        await until(one.is_there)


async def test_slots_move_between_nodes_under_a_producer_and_a_relay(kind: Kind, line: Any) -> None:
    cluster = RedisCluster(kind)
    await anyio.to_thread.run_sync(cluster.start)
    try:
        async with line(cluster.url(stream="s", timeout="5s"), shards=3, shard_by="number") as one:
            for shard in range(3):
                await anyio.to_thread.run_sync(partial(move, cluster, shard_keys("s", shard, 3).meta, one.record))
            one.record()
            await until(one.is_there)
    finally:
        await anyio.to_thread.run_sync(cluster.stop)


def move(cluster: RedisCluster, key: str, record: Callable[[], None]) -> None:
    """Move the slot of `key` to another node, while `record` is called: with half of its keys here and half there."""
    slot = cluster.nodes[0].execute("CLUSTER", "KEYSLOT", key)
    source = cluster.owner(slot)
    target = next(node for node in cluster.nodes if node is not source)
    ids = {node.port: cluster.node_id(node) for node in (source, target)}
    target.execute("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
    source.execute("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
    is_first = True
    while keys := source.execute("CLUSTER", "GETKEYSINSLOT", slot, 3 if is_first else 100):
        source.execute("MIGRATE", target.host, target.port, "", 0, 5_000, "KEYS", *keys)
        if is_first:
            record()
        is_first = False
    for node in (target, source):
        node.execute("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
    record()


async def test_password_that_is_changed_under_both_is_for_an_operator_and_nothing_is_lost(
    make_server: Any, line: Any
) -> None:
    server = await anyio.to_thread.run_sync(make_server)

    async def do(*command: str) -> None:
        await anyio.to_thread.run_sync(partial(server.execute, *command))

    await do("ACL", "SETUSER", "app", "on", ">first", "~*", "&*", "+@all")
    async with line(server.url(user="app:first", stream="s", timeout="5s")) as one:
        await do("ACL", "SETUSER", "app", "resetpass", ">second")
        await do("CLIENT", "KILL", "USER", "app")
        one.record()
        await until(lambda: len([error for error in one.errors() if "WRONGPASS" in error]) >= 2)
        assert not [error for error in one.errors() if "first" in error]
        await until(lambda: one.producer.status().subscriptions["redis"].held)

        await do("ACL", "SETUSER", "app", ">first")
        one.resume()
        await until(one.is_there)


async def test_certificate_that_ran_out_is_for_an_operator_and_a_new_one_is_taken_without_a_restart(
    make_server: Any, line: Any, make_front: Any, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    server = await anyio.to_thread.run_sync(make_server)
    front = make_front(server.host, server.port, certificate)
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(certificate[0].read_bytes())
    old = await anyio.to_thread.run_sync(expired, tmp_path)
    trusted.write_bytes(trusted.read_bytes() + old[0].read_bytes())
    async with line(f"rediss://127.0.0.1:{front.port}/0?tls_ca={trusted}&stream=s&timeout=5s") as one:
        await anyio.to_thread.run_sync(front.show, old)
        one.record()
        await until(lambda: len([error for error in one.errors() if "certificate has expired" in error]) >= 2)
        await until(lambda: one.producer.status().subscriptions["redis"].held)

        await anyio.to_thread.run_sync(front.show, certificate)
        one.resume()
        await until(one.is_there)


def expired(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that was good until years ago, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    key, request, made = (directory / name for name in ("old.key", "old.csr", "old.pem"))
    (directory / "index.txt").touch()
    (directory / "serial").write_text("01")
    settings = directory / "ca.cnf"
    settings.write_text(
        f"[ca]\ndefault_ca=d\n[d]\ndir={directory}\ndatabase=$dir/index.txt\nserial=$dir/serial\nnew_certs_dir=$dir\n"
        "policy=p\ndefault_md=sha256\nx509_extensions=e\n[p]\ncommonName=supplied\n[e]\nsubjectAltName=IP:127.0.0.1\n"
        "basicConstraints=critical,CA:true\n"
    )
    run = partial(subprocess.run, check=True, capture_output=True)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run([openssl, "req", "-new", *curve, "-subj", "/CN=old", "-keyout", key, "-out", request])
    dates = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"]
    signed = ["-selfsign", "-keyfile", key, "-in", request, "-out", made, "-notext"]
    run([openssl, "ca", "-batch", "-config", settings, *dates, *signed])
    return made, key


async def test_producer_with_nothing_to_send_notices_that_what_it_sent_is_gone(
    make_server: Any, line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec_handlers.redis.handler._IDLE_CHECK_SECONDS", 0.1)
    server = await anyio.to_thread.run_sync(make_server)
    async with line(server.url(stream="s", timeout="5s")) as one:
        await anyio.to_thread.run_sync(server.restart)
        keys = shard_keys("s", 0, 1)
        await until(lambda: server.execute("HLEN", keys.meta))

        assert one.rewound == one.count
