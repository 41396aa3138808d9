"""The server is killed, loses what it had, or another takes its place: nothing of a step is there without the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import anyio
import anyio.to_thread
import pytest

from eventrec import TransientError
from eventrec.bus import Lease, LeaseLostError, Output, Shard, Step
from eventrec.testing.redis import RedisServer

pytestmark = [pytest.mark.handlers, pytest.mark.anyio]

T = TypeVar("T")
ALL = 1 << 30
STAGE = "stage:count"


@pytest.fixture
def anyio_backend() -> str:
    """The claims about every bus run on trio too."""
    return "asyncio"


async def acquired(shard: Shard, subscription: str, holder: str = "here") -> Lease:
    lease = await patiently(lambda: shard.acquire(subscription, holder, seconds=60.0))
    assert lease is not None
    return lease


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """What `attempt` answers once the server is back."""
    with anyio.fail_after(120):
        while True:
            try:
                return await attempt()
            except TransientError:
                await anyio.sleep(0.02)


@pytest.fixture(params=[True, False], ids=["aof", "no persistence"])
async def mortal(request: pytest.FixtureRequest, start_server: Any, place_type: Any) -> AsyncIterator[Any]:
    """A buffer on a server that the test may kill."""
    async with AsyncExitStack() as stack:
        # With "everysec" a write may wait for a sync that is on its way, and be lost with the process.
        settings = {"appendfsync": "always"}
        yield place_type(await start_server(persists=request.param, settings=settings), stack=stack)


async def numbers_in(shard: Shard, numbers: Any) -> list[int]:
    """The numbers of all records of a shard."""
    found: list[int] = []
    for log in await shard.logs():
        at = log.oldest
        while (records := await shard.read(log.id, at, max_records=1_000, max_bytes=ALL)).end > at:
            assert len(records.entries) == records.end - records.start
            found += numbers(records.entries)
            at = records.end
    return found


async def test_server_killed_while_a_stage_commits_has_steps_as_a_whole(
    mortal: Any, samples: Any, numbers: Any
) -> None:
    place, rounds = mortal, 40
    shard = await place.shard()
    log = UUID(await place.append(samples(0, 100_000)[:rounds]))
    done = anyio.Event()

    async def commit() -> None:
        lease = await acquired(shard, STAGE)
        at = 0
        while at < rounds:
            state: dict[str, bytes | None] = {"n": b"%d" % (at + 1), f"k{at}": b"x"}
            output = Output(entries=samples(2 * at, 2 * at + 2), state=state, deadlines={f"k{at}": 600.0})
            try:
                await shard.commit(lease, Step(output, log, at, at + 1))
            except TransientError:
                lease = await acquired(shard, STAGE)
                at = dict(await patiently(partial(shard.progress, lease))).get(log, 0)
                if not await patiently(shard.logs):
                    break
                continue
            except LeaseLostError:
                assert not [each for each in await patiently(shard.logs) if each.id == log]
                break
            at += 1
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(commit)
        for _ in range(2):
            if done.is_set():
                break
            await anyio.sleep(0.03)  # somewhere in the middle of them
            await anyio.to_thread.run_sync(place.server.restart)

    lease = await acquired(shard, STAGE)
    at = (await patiently(lambda: shard.progress(lease))).get(log, 0)
    (count,) = await shard.state("count", ["n"])
    put_out = await numbers_in(shard.outlet("count"), numbers)
    assert at == int(count or 0) == len(put_out) / 2
    assert put_out == list(range(2 * at))
    assert await shard.size("count") == (at + 1 if at else 0)
    assert at == (rounds if place.server.settings["appendonly"] == "yes" else 0)


async def test_logs_after_a_kill_begin_anew_and_no_offset_comes_again(mortal: Any, samples: Any, numbers: Any) -> None:
    place = mortal
    shard = await place.shard()
    before = UUID(await place.append(samples(0, 5)))
    lease = await acquired(shard, "sqlite")
    await shard.save(lease, before, scanned=3, content=b"kept")

    await anyio.to_thread.run_sync(place.server.restart)
    place.connection = None
    between = await patiently(shard.logs)
    now = UUID(await patiently(lambda: place.append(samples(5, 7))))

    logs = await shard.logs()
    assert now != before
    if place.server.settings["appendonly"] == "yes":
        assert [(log.id, log.is_live, log.may_have_lost_tail) for log in between] == [(before, False, True)]
        assert [(log.id, log.end, log.is_live) for log in logs] == [(before, 5, False), (now, 2, True)]
        assert await shard.load(await acquired(shard, "sqlite")) == {before: b"kept"}
        assert await numbers_in(shard, numbers) == [0, 1, 2, 3, 4, 5, 6]
    else:
        assert list(between) == []
        assert [(log.id, log.end, log.is_live) for log in logs] == [(now, 2, True)]
        with pytest.raises(LeaseLostError):
            await shard.save(lease, now, scanned=2, content=b"")


async def test_sealed_logs_go_one_after_another_once_all_is_settled(mortal: Any, samples: Any) -> None:
    place = mortal
    if place.server.settings["appendonly"] == "no":
        pytest.skip("nothing is left of the logs before")
    shard = await place.shard()
    logs = []
    for _ in range(3):
        logs.append(UUID(await patiently(lambda: place.append(samples(0, 4)))))
        await anyio.to_thread.run_sync(place.server.restart)
        place.connection = None
    logs.append(UUID(await patiently(lambda: place.append(samples(0, 4)))))
    lease, other = await acquired(shard, "sqlite"), await acquired(shard, "other")

    for log in logs:
        await shard.save(lease, log, scanned=4, content=b"")
        await shard.save(other, log, scanned=4 if log != logs[1] else 3, content=b"")

    assert [log.id for log in await shard.logs()] == [logs[1], logs[3]]
    assert await shard.forget("other")
    assert [(log.id, log.oldest) for log in await shard.logs()] == [(logs[3], 4)]
    assert await place.do("KEYS", f"*{logs[1]}*") == []


async def caught_up(replica: RedisServer, master: RedisServer) -> None:
    """Return once the replica has all that its master has."""
    with anyio.fail_after(120):
        while True:
            infos = [
                await anyio.to_thread.run_sync(server.execute, "INFO", "replication") for server in (replica, master)
            ]
            offsets = [info.partition(b"master_repl_offset:")[2].split()[0] for info in infos]
            if b"master_link_status:up" in infos[0] and offsets[0] == offsets[1]:
                return
            await anyio.sleep(0.02)


async def test_replica_that_lacks_the_last_commits_begins_another_log(
    start_server: Any, place_type: Any, samples: Any, numbers: Any
) -> None:
    master = await start_server(settings={"repl-diskless-sync-delay": "0"})
    replica = await start_server(settings={"replicaof": f"127.0.0.1 {master.port}"})
    async with AsyncExitStack() as stack:
        place = place_type(master, stack=stack)
        shard = await place.shard()
        before = UUID(await place.append(samples(0, 5)))
        lease, stage = await acquired(shard, "sqlite"), await acquired(shard, STAGE)
        await shard.commit(stage, Step(Output(entries=samples(100, 102)), before, 0, 2))
        await caught_up(replica, master)
        await anyio.to_thread.run_sync(replica.execute, "REPLICAOF", "NO", "ONE")
        await place.append(samples(5, 9))
        await shard.commit(stage, Step(Output(entries=samples(102, 109)), before, 2, 9))
        await shard.save(lease, before, scanned=9, content=b"of the old master")
        await anyio.to_thread.run_sync(master.kill)

        taken = place_type(replica, name=place.name, stack=stack)
        other = await taken.shard()
        ended = await other.logs()
        now = UUID(await taken.append(samples(5, 9)))
        stage = await acquired(other, STAGE)
        stood_at = dict(await other.progress(stage))
        await other.commit(stage, Step(Output(entries=samples(102, 105)), before, 2, 5))
        outlet = await other.outlet("count").logs()

        assert [(log.id, log.end, log.is_live, log.may_have_lost_tail) for log in ended] == [(before, 5, False, True)]
        assert [log.id for log in await other.logs()] == [before, now]
        assert stood_at == {before: 2}
        assert [(log.end, log.is_live) for log in outlet] == [(2, False), (3, True)]
        assert await numbers_in(other.outlet("count"), numbers) == [100, 101, 102, 103, 104]
        assert await other.load(await acquired(other, "sqlite")) == {}


async def test_replica_takes_no_change_and_says_so(start_server: Any, place_type: Any, samples: Any) -> None:
    async with AsyncExitStack() as stack:
        place = place_type(await start_server(), stack=stack)
        shard = await place.shard()
        log = UUID(await place.append(samples(0, 5)))
        lease = await acquired(shard, "sqlite")
        await place.do("REPLICAOF", "127.0.0.1", 1)

        with pytest.raises(TransientError, match="READONLY"):
            await shard.save(lease, log, scanned=5, content=b"")

        await place.do("REPLICAOF", "NO", "ONE")
        await patiently(lambda: shard.save(lease, log, scanned=5, content=b""))
