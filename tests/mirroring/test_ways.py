"""What the way between a source and its mirror does to them: cut, stalled, slow, half open, and all over again."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync as in_thread

from eventrec.mirroring.addresses import Address
from eventrec.testing.proxy import FaultProxy


@asynccontextmanager
async def mirrored(tmp_path: Path, kit: Any, **options: Any) -> AsyncIterator[SimpleNamespace]:
    """A log that is written, and mirrored through a proxy. At its end all of it arrives, whatever was staged."""
    here, there = tmp_path / "here", tmp_path / "there"
    source = await in_thread(kit.source, here)
    await in_thread(source.write, 50)
    async with kit.serving(here, **options) as served:
        proxy = await in_thread(FaultProxy, "127.0.0.1", served.port)
        async with kit.mirroring(Address(proxy.host, proxy.port), there, **options) as mirror:
            await kit.until(lambda: kit.acknowledged(here, source.run.id) == 150)
            yield SimpleNamespace(source=source, proxy=proxy, mirror=mirror, here=here, there=there, served=served)
            end = await in_thread(source.write, 20)
            await kit.until(lambda: kit.acknowledged(here, source.run.id) == end)
            await in_thread(source.end)
            await kit.until(lambda: kit.are_alike(here, there))
        await in_thread(proxy.close)


async def test_after_a_partition_it_goes_on_where_it_was(tmp_path: Path, kit: Any) -> None:
    async with mirrored(tmp_path, kit) as case:
        case.proxy.cut()
        await in_thread(case.source.write, 50)
        await kit.until(lambda: case.mirror.state.startswith("waiting"))
        before = case.mirror.counts.bytes
        case.proxy.mend()

    assert case.mirror.counts.bytes - before < 70 * 800 * 1.2


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
async def test_a_way_that_hangs_is_noticed_by_its_silence(tmp_path: Path, kit: Any, direction: Any) -> None:
    async with mirrored(tmp_path, kit, heartbeat=0.2) as case:
        case.proxy.stall(direction)
        await in_thread(case.source.write, 50)
        before = case.mirror.connections
        # Those that connect meanwhile hang too: each is given up, and the next one tried.
        await kit.until(lambda: not case.served.server.mirrors or case.mirror.state != "connected")
        case.proxy.mend()
        await kit.until(lambda: case.mirror.connections > before)


async def test_a_slow_way_is_slow_and_nothing_else(tmp_path: Path, kit: Any) -> None:
    async with mirrored(tmp_path, kit) as case:
        case.proxy.delay(0.05)
        await in_thread(case.source.write, 100)

    assert case.mirror.connections == 1


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
async def test_a_connection_may_end_at_any_byte(tmp_path: Path, kit: Any, direction: Any) -> None:
    chance = random.Random(7)
    async with mirrored(tmp_path, kit) as case:
        for _ in range(10):
            case.proxy.cut_after(
                count=chance.randrange(1, 40_000 if direction == "to_client" else 800), direction=direction
            )
            before = case.mirror.connections
            await in_thread(case.source.write, 20)
            case.proxy.drop()
            await kit.until(lambda before=before: case.mirror.connections > before)


async def test_a_storm_of_reconnects_ends_with_one_mirror(tmp_path: Path, kit: Any) -> None:
    async with mirrored(tmp_path, kit) as case:
        for _ in range(30):
            case.proxy.drop()
            await anyio.sleep(0.01)
        await kit.until(lambda: len(case.served.server.mirrors) == 1)


async def test_a_source_that_is_away_for_long_is_found_again(tmp_path: Path, kit: Any) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    source = await in_thread(kit.source, here)
    await in_thread(source.write, 50)
    async with kit.serving(here) as served:
        port = served.port
    async with kit.mirroring(Address("127.0.0.1", port), there) as mirror:
        await kit.until(lambda: mirror.state.startswith("waiting"))
        async with kit.serving(here, port):
            await kit.until(lambda: kit.acknowledged(here, source.run.id) == 150)
    await in_thread(source.end)

    assert mirror.connections == 1
