"""A bus on a real server, what producers do to it, and connections that are closed at the end."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import anyio.to_thread
import pytest

from eventrec import HandlerURL
from eventrec.bus import Entry, encode_take, make_entry
from eventrec.records.entry import EXPLICIT_ID
from eventrec.records.schema import Shape
from eventrec.testing.redis import Kind, RedisServer, installed
from eventrec_handlers.redis.bus import RedisBus, from_bus_url
from eventrec_handlers.redis.connection import Connection
from eventrec_handlers.redis.keys import ShardKeys, shard_keys
from eventrec_handlers.redis.options import Target
from eventrec_handlers.redis.scripts import script
from eventrec_handlers.redis.shard import RedisShard

APPEND, DROP, RESUME = map(script, ("append", "drop", "resume"))

SHAPE = Shape("events", "sample", ())


def sample(number: int, size: int = 0) -> Entry:
    """A record that says its number."""
    payload = b'{"number":%d,"fill":"%s"}' % (number, b"x" * size)
    return make_entry(SHAPE, 1_700_000_000_000_000_000 + number, payload, explicit_id=number.to_bytes(16))


def _samples(start: int, end: int, size: int = 0) -> list[Entry]:
    """Those of `[start, end)`."""
    return [sample(number, size) for number in range(start, end)]


def _numbers(entries: Sequence[Entry]) -> list[int]:
    """The numbers of `samples`."""
    return [int.from_bytes(entry[EXPLICIT_ID] or b"") for entry in entries]


class _Kept(logging.Handler):
    """The lines that it is given: the phrase of each as `event`, and its values."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert isinstance(record.args, tuple)
        self.said.append({"event": record.args[0], **getattr(record, "eventrec", {})})


@pytest.fixture
def capture_logs() -> Callable[[], AbstractContextManager[list[dict[str, Any]]]]:
    """Keeps what the handler says of Redis while it is entered."""

    @contextmanager
    def capture() -> Iterator[list[dict[str, Any]]]:
        kept, logger = _Kept(), logging.getLogger("eventrec.redis")
        logger.addHandler(kept)
        try:
            yield kept.said
        finally:
            logger.removeHandler(kept)

    return capture


@dataclass
class Place:
    """A buffer of its own on a server, and whoever is connected to it."""

    server: RedisServer
    name: str = field(default_factory=lambda: f"t{uuid4().hex[:12]}")
    options: dict[str, str] = field(default_factory=dict)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    connection: Connection | None = None

    @property
    def keys(self) -> ShardKeys:
        return shard_keys(self.name, 0, 1)

    def shard_keys(self, number: int, shards: int) -> ShardKeys:
        """The keys of one of several."""
        return shard_keys(self.name, number, shards)

    def url(self, **options: Any) -> str:
        return self.server.url(**{"stream": self.name, "timeout": 10, **self.options, **options})

    async def bus(self, **options: Any) -> RedisBus:
        """A connection, open until the test ends."""
        return await self.stack.enter_async_context(from_bus_url(self.url(**options)))

    async def shard(self, **options: Any) -> RedisShard:
        """The only shard, by a connection of its own."""
        return (await (await self.bus(**options)).shards())[0]

    async def append(
        self, entries: Sequence[Entry], *, keys: ShardKeys | None = None, context: bytes | None = None
    ) -> str:
        """Append as a producer does; the id of the log. `append_raw` takes contents that are none."""
        log = uuid4()
        contents: list[bytes | int] = []
        for content, count in encode_take(entries, log, written=1, static_context=context):
            contents += (count, content)
        return await self.append_raw(contents, keys=keys)

    async def append_raw(self, contents: list[Any], *, keys: ShardKeys | None = None) -> str:
        """Append commits: count, content, and so on."""
        keys = keys or self.keys
        if self.connection is None:
            self.connection = await self.stack.enter_async_context(Connection(Target.of(HandlerURL(self.url()))))
        origin, total = uuid4().hex, sum(contents[::2])
        await self.connection.run(RESUME, [keys.meta, keys.origins], [origin, 0])
        candidate = current = str(uuid4())
        while True:
            answer = await self.connection.run(
                APPEND,
                [keys.meta, keys.origins, keys.log(current), keys.log(candidate)],
                [current, candidate, origin, 0, total, 0, 0, total, 0, "", 0, 0, *contents],
            )
            if answer[0] == b"ok":
                return str(answer[1].decode())
            assert answer[0] == b"log", answer
            current = answer[1].decode()

    async def drop(self, log: str, end: int) -> None:
        """Remove the commits that end at `end` or before, as a producer does for whom there is no room."""
        assert self.connection is not None
        total = int(await self.do("HGET", self.keys.meta, f"{log}:end"))
        await self.connection.run(DROP, [self.keys.meta, self.keys.log(log)], [log, total, 0, end, 0, 1000])

    async def do(self, *command: str | bytes | float) -> Any:
        """What the server answers, past everything of ours."""
        return await anyio.to_thread.run_sync(self.server.execute, *command)


@pytest.fixture
def samples() -> Callable[..., list[Entry]]:
    """Makes records that say their number."""
    return _samples


@pytest.fixture
def numbers() -> Callable[[Sequence[Entry]], list[int]]:
    """Gives the numbers of records."""
    return _numbers


@pytest.fixture
def place_type() -> type[Place]:
    return Place


@pytest.fixture(scope="session", params=["valkey", "redis"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return installed(request.param)


@pytest.fixture(scope="session")
def server(kind: Kind) -> Iterator[RedisServer]:
    """One for the session; what it holds is gone when it is killed."""
    with RedisServer(kind) as server:
        yield server


@pytest.fixture(scope="session")
def durable_server(kind: Kind) -> Iterator[RedisServer]:
    """One that has after a kill what it had before."""
    with RedisServer(kind, persists=True, settings={"appendfsync": "always"}) as server:
        yield server


@pytest.fixture
async def place(server: RedisServer) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield Place(server, stack=stack)


@pytest.fixture
async def durable(durable_server: RedisServer) -> AsyncIterator[Place]:
    durable_server.start()
    async with AsyncExitStack() as stack:
        yield Place(durable_server, stack=stack)


@pytest.fixture
async def start_server(kind: Kind) -> AsyncIterator[Callable[..., Awaitable[RedisServer]]]:
    """Starts servers of the test's own, with the options of `RedisServer`."""
    made: list[RedisServer] = []

    async def start(**options: Any) -> RedisServer:
        made.append(RedisServer(kind, **options))
        return await anyio.to_thread.run_sync(made[-1].start)

    yield start
    for server in made:
        await anyio.to_thread.run_sync(server.stop)
