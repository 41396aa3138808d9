from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeVar
from uuid import UUID, uuid4

import pytest
from anyio import to_thread

from eventrec import EventHandler, Record
from eventrec.bus import ContentDecoder
from eventrec.records.batch import Batch
from eventrec.testing.conformance import Capability, Delivered, HandlerConformance, HandlerHarness
from eventrec.testing.proxy import FaultProxy
from eventrec.testing.redis import RedisServer
from eventrec_handlers.redis import from_url
from eventrec_handlers.redis.keys import shard_keys

pytestmark = pytest.mark.handlers

T = TypeVar("T")


class RedisHarness(HandlerHarness):
    """A buffer behind a proxy, with a user of its own."""

    lacks: ClassVar[dict[Capability, str]] = {
        "poison": "it takes every record: it looks into none",
        "replace": "a buffer is the same destination whatever becomes of its server: an emptied one gets all again",
        "too_large": "it takes a batch of any size",
    }
    shards: ClassVar[int] = 1
    options: ClassVar[dict[str, object]] = {}

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.name = f"user-{uuid4().hex[:12]}"

    async def start(self) -> None:
        self._proxy = FaultProxy(self.server.host, self.server.port)
        await self._execute("ACL", "SETUSER", self.name, "reset", "on", ">secret", "~*", "&*", "+@all")

    async def stop(self) -> None:
        await to_thread.run_sync(self._proxy.close)
        await self._execute("ACL", "DELUSER", self.name)
        for key in await self._keys():
            await self._execute("DEL", key)

    def handler(self) -> EventHandler:
        options = {"shards": self.shards, **self.options}
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return from_url(
            f"redis://{self.name}:secret@{self._proxy.host}:{self._proxy.port}/0?stream={self.name}&timeout=5&{query}"
        )

    async def delivered(self) -> Sequence[Delivered]:
        found: list[Delivered] = []
        decoder = ContentDecoder()
        for shard in range(self.shards):
            keys = shard_keys(self.name, shard, self.shards)
            for log in (await self._execute("HGET", keys.meta, "logs") or b"").decode().split():
                for _, fields in await self._execute("XRANGE", keys.log(log), "-", "+"):
                    content = decoder.decode(fields[3])
                    batch = Batch(
                        log_id=UUID(log),
                        subscription="",
                        start=0,
                        end=len(content.entries),
                        offsets=range(len(content.entries)),
                        entries=content.entries,
                    )
                    found += [row for record in batch.records for row in _delivered(record)]
        return found

    async def disconnect(self) -> None:
        self._proxy.cut()

    async def reconnect(self) -> None:
        self._proxy.mend()

    async def forbid(self) -> None:
        await self._execute("ACL", "SETUSER", self.name, "-@all")

    async def permit(self) -> None:
        await self._execute("ACL", "SETUSER", self.name, "+@all")

    async def lose_answer(self, *, late: float = 0.0) -> None:
        self._proxy.cut_after(b"event:received", late=late)

    async def backup(self) -> object:
        return {key: await self._execute("DUMP", key) for key in await self._keys()}

    async def restore(self, backup: dict[bytes, bytes]) -> None:
        for key in await self._keys():
            await self._execute("DEL", key)
        for key, held in backup.items():
            await self._execute("RESTORE", key, 0, held)
            if key.endswith(b":meta"):
                await self._execute("HSET", key, "run_id", "0" * 40)  # it is another life of the server

    async def _keys(self) -> list[bytes]:
        return list(await self._execute("KEYS", f"{{eventrec:{self.name}*"))

    async def _execute(self, *command: str | bytes | int) -> Any:
        return await to_thread.run_sync(lambda: self.server.execute(*command))


def _delivered(record: Record) -> Iterator[Delivered]:
    names = [column.name for column in record.columns]
    for values in record.rows:
        columns = dict(zip(names, values, strict=True))
        yield Delivered(record.id, record.type, record.timestamp, record.payload, record.table, columns)


class TestRedisHandlerOnValkey(HandlerConformance):
    @pytest.fixture
    def harness(self, valkey: RedisServer) -> HandlerHarness:
        return RedisHarness(valkey)


class TestRedisHandlerOnRedis(HandlerConformance):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def harness(self, redis8: RedisServer) -> HandlerHarness:
        return RedisHarness(redis8)


class ShardedHarness(RedisHarness):
    """Three shards, by a field that the events of the suite have, with notices and heartbeats."""

    lacks: ClassVar[dict[Capability, str]] = {**RedisHarness.lacks, "order": "shards have no order among them"}
    shards = 3
    options: ClassVar[dict[str, object]] = {
        "shard_by": "n",
        "notices": "true",
        "notice_by": "n",
        "heartbeat_by": "n",
        "max_records": 1_000_000,
        "max_bytes": 1_000_000_000,
    }


class TestShardedRedisHandler(HandlerConformance):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def harness(self, valkey: RedisServer) -> HandlerHarness:
        return ShardedHarness(valkey)
