from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventrec.bus import Entry
from eventrec.testing.bus_conformance import BusConformance, BusHarness
from eventrec.testing.proxy import FaultProxy
from eventrec.testing.redis import Kind, RedisServer
from eventrec_handlers.redis.bus import RedisBus, from_bus_url
from eventrec_handlers.redis.relay_scripts import relay_scripts

pytestmark = pytest.mark.handlers

SCRIPTS = {name: relay_scripts()[name].text for name in ("commit", "save")}


class RedisHarness(BusHarness):
    """A buffer on a server that keeps what it has been told, behind a proxy."""

    tick = 0.2

    def __init__(self, server: RedisServer, make_place: type) -> None:
        self._server = server
        self._place = make_place(server)
        self._sizes: list[int] = []
        self._proxy = FaultProxy(server.host, server.port)

    async def _do(self, *command: str) -> Any:
        return await anyio.to_thread.run_sync(self._server.execute, *command)

    async def start(self) -> None:
        await self._do("FLUSHALL")

    async def stop(self) -> None:
        await self._place.stack.aclose()
        await anyio.to_thread.run_sync(self._proxy.close)
        await self.permit()

    def bus(self) -> RedisBus:
        return from_bus_url(f"redis://127.0.0.1:{self._proxy.port}/0?stream={self._place.name}&timeout=5")

    async def append(self, entries: Sequence[Entry], context: bytes | None = None) -> None:
        self._sizes += [(await anyio.Path(await self._file()).stat()).st_size] * len(entries)
        await self._place.append(entries, context=context)

    async def disconnect(self) -> None:
        self._proxy.cut()

    async def reconnect(self) -> None:
        self._proxy.mend()

    async def forbid(self) -> None:
        await self._do("ACL", "SETUSER", "default", "-evalsha", "-eval")

    async def permit(self) -> None:
        await self._do("ACL", "SETUSER", "default", "+@all")

    async def lose_answer(self) -> None:
        # The first answer to a script is else that it has to be sent whole.
        for name in ("commit", "save"):
            await self._do("SCRIPT", "LOAD", SCRIPTS[name])
        self._proxy.cut_after(count=1, direction="to_client", passes=False)

    async def lose_head(self, count: int) -> None:
        keys = self._place.keys
        log = (await self._do("HGET", keys.meta, "live")).decode()
        first = await self._do("XRANGE", keys.log(log), "-", "+")
        last = next(int(id_.split(b"-")[0]) for id_, _ in first if int(id_.split(b"-")[0]) >= count)
        await self._place.drop(log, last)

    async def lose_tail(self, count: int) -> None:
        file, size = await self._file(), self._sizes[-count]
        await self._place.stack.aclose()
        await anyio.to_thread.run_sync(self._server.kill)
        await anyio.to_thread.run_sync(os.truncate, file, size)
        await anyio.to_thread.run_sync(self._server.start)
        self._place.connection = None

    async def lose_all(self) -> None:
        await self._do("FLUSHALL")

    async def _file(self) -> Path:
        """Where the server writes what it was told."""
        directory = Path((await self._do("CONFIG", "GET", "dir"))[1].decode())
        return await anyio.to_thread.run_sync(lambda: max(directory.glob("appendonlydir/*.incr.aof")))


class TestRedisBus(BusConformance):
    @pytest.fixture
    def anyio_backend(self, kind: Kind) -> str:
        """One for each server: what the two backends differ in is the way to the driver, which has its own tests."""
        return "trio" if kind == "redis" else "asyncio"

    @pytest.fixture
    def harness(self, durable_server: RedisServer, place_type: type) -> RedisHarness:
        return RedisHarness(durable_server.start(), place_type)
