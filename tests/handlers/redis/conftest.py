"""Servers for tests of Redis: one of each kind for the whole session, a buffer of its own for each test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
from anyio import to_thread

from eventrec import HandlerURL
from eventrec.bus import ContentDecoder
from eventrec.records.entry import PAYLOAD
from eventrec.testing.redis import Kind, RedisServer, installed, redis8, valkey  # noqa: F401 - fixtures
from eventrec.testing.servers import ServerError
from eventrec_handlers.redis.keys import ShardKeys, shard_keys
from eventrec_handlers.redis.options import Target

_NUMBERS = count(1)


@pytest.fixture(params=["valkey", "redis8"])
def server(request: pytest.FixtureRequest) -> RedisServer:
    """Both servers, one after the other."""
    return cast("RedisServer", request.getfixturevalue(request.param))


@pytest.fixture
def stream() -> str:
    """The name of a buffer that no other test uses."""
    return f"test-{next(_NUMBERS)}"


@pytest.fixture
def keys(stream: str) -> ShardKeys:
    """The keys of its only shard."""
    return shard_keys(stream, 0, 1)


@pytest.fixture
def target(server: RedisServer, stream: str) -> Target:
    """It, on both servers."""
    return Target.of(HandlerURL(server.url(stream=stream)))


@pytest.fixture
def make_server() -> Iterator[Callable[..., RedisServer]]:
    """Makes servers that are killed, restarted, or set up in another way, and ends them."""
    made: list[RedisServer] = []

    def make(kind: Kind = "valkey", **options: Any) -> RedisServer:
        made.append(RedisServer(installed(kind), **options).start())
        return made[-1]

    yield make
    for one in made:
        one.stop()


@dataclass
class Read:
    """What a buffer holds: the numbers of `Numbered` events by shard, and the ids of all its logs."""

    numbers: list[list[int]] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[int]:
        return sorted(number for shard in self.numbers for number in shard)


@pytest.fixture
def read_buffer(stream: str) -> Callable[..., Read]:
    """Reads it from a server, without any handler."""

    def read(*servers: RedisServer, shards: int = 1) -> Read:
        found, decoder = Read(), ContentDecoder()
        for shard in range(shards):
            keys = shard_keys(stream, shard, shards)
            numbers: list[int] = []
            for server in servers:
                with suppress(ServerError):  # MOVED: another node has it
                    for log in (server.execute("HGET", keys.meta, "logs") or b"").decode().split():
                        found.logs.append(log)
                        for _, fields in server.execute("XRANGE", keys.log(log), "-", "+"):
                            entries = decoder.decode(fields[3]).entries
                            numbers += [json.loads(entry[PAYLOAD])["n"] for entry in entries]
            found.numbers.append(numbers)
        return found

    return read


@dataclass
class Buffer:
    """The buffer of a test: its server, read and changed by another program."""

    server: RedisServer
    stream: str
    keys: ShardKeys
    _read: Callable[..., Read]

    async def execute(self, *command: str | bytes | float) -> Any:
        return await to_thread.run_sync(lambda: self.server.execute(*command))

    async def read(self, *, shards: int = 1) -> Read:
        return await to_thread.run_sync(lambda: self._read(self.server, shards=shards))


@pytest.fixture
def buffer(server: RedisServer, stream: str, keys: ShardKeys, read_buffer: Callable[..., Read]) -> Buffer:
    return Buffer(server, stream, keys, read_buffer)


@pytest.fixture
def tls_front(make_front: Callable[..., Any], certificate: tuple[Path, Path], request: pytest.FixtureRequest) -> Any:
    """TLS in front of Valkey: the wheels are built without."""
    server = request.getfixturevalue("valkey")
    return make_front(server.host, server.port, certificate)
