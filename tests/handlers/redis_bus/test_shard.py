"""What a shard on Redis does beyond what every bus must do."""

from __future__ import annotations

import re
import time
from typing import Any
from uuid import UUID

import anyio
import anyio.to_thread
import pytest
from redis.asyncio import Redis

import eventrec_handlers.redis
from eventrec import PauseError, TransientError
from eventrec.bus import Lease, Output, Published, Seen, Shard, ShardsChangedError, Step
from eventrec.testing.servers import free_port
from eventrec_handlers.redis.bus import from_bus_url
from eventrec_handlers.redis.keys import shards_key

pytestmark = [pytest.mark.handlers, pytest.mark.anyio]

ALL = 1 << 30
STAGE = "stage:count"


@pytest.fixture
def anyio_backend() -> str:
    """The claims about every bus run on trio too."""
    return "asyncio"


async def acquired(shard: Shard, subscription: str) -> Lease:
    lease = await shard.acquire(subscription, "here", seconds=60.0)
    assert lease is not None
    return lease


async def ranges(shard: Shard, log: UUID) -> list[tuple[int, int, int]]:
    """Each read of a log: where it begins and ends, and how many records it has."""
    at, found = 0, []
    while (records := await shard.read(log, at, max_records=1_000, max_bytes=ALL)).end > at:
        found.append((records.start, records.end, len(records.entries)))
        at = records.end
    return found


# -- what is in the stream and is not ours


async def test_damaged_commit_is_told_once_and_passed(place: Any, samples: Any, capture_logs: Any) -> None:
    shard = await place.shard()
    await place.append(samples(0, 3))
    await place.append_raw([4, b"\x01\x92damaged", 2, b"\xffnoise"])
    log = UUID(await place.append(samples(9, 12)))

    with capture_logs() as said:
        found = await ranges(shard, log)
        again = await ranges(shard, log)

    assert found == again == [(0, 3, 3), (9, 12, 3)]
    assert [(each["entry"], each["records"]) for each in said] == [("7-4", 4), ("9-2", 2)]


async def test_damaged_commits_at_the_end_are_passed(place: Any, samples: Any, capture_logs: Any) -> None:
    shard = await place.shard()
    await place.append(samples(0, 3))
    log = UUID(await place.append_raw([4, b""]))

    with capture_logs() as said:
        found = await ranges(shard, log)

    assert found == [(0, 3, 3), (7, 7, 0)]
    assert len(said) == 1


async def test_commit_with_another_number_of_records_than_it_says_is_damaged(
    place: Any, samples: Any, capture_logs: Any
) -> None:
    shard = await place.shard()
    log = UUID(await place.append(samples(0, 3)))
    ((_, fields),) = await place.do("XRANGE", place.keys.log(log), "-", "+")
    await place.append_raw([5, fields[3]])
    await place.append(samples(8, 9))

    with capture_logs() as said:
        found = await ranges(shard, log)

    assert found == [(0, 3, 3), (8, 9, 1)]
    assert "it holds 3 records" in said[0]["error"]


async def test_content_of_a_later_version_is_for_an_operator(place: Any, samples: Any) -> None:
    shard = await place.shard()
    await place.append(samples(0, 3))
    log = UUID(await place.append_raw([4, b"\x02of the future"]))

    assert (await shard.read(log, 0, max_records=2, max_bytes=ALL)).end == 2
    with pytest.raises(PauseError, match="later eventrec"):
        await ranges(shard, log)


async def test_entry_of_another_program_is_not_read_and_wakes_no_one_for_ever(place: Any, samples: Any) -> None:
    shard = await place.shard()
    log = UUID(await place.append(samples(0, 3)))
    await place.do("XADD", place.keys.log(log), "*", "hello", "world")
    await place.do("CONFIG", "RESETSTAT")

    before = time.monotonic()
    await shard.wait(log, 3, seconds=0.5)

    assert time.monotonic() - before >= 0.45
    assert await ranges(shard, log) == [(0, 3, 3)]
    assert (await calls(place))["xread"] <= 4


@pytest.mark.parametrize("count", [1, 6])
async def test_entries_of_another_program_between_ours_cost_none_of_ours(place: Any, samples: Any, count: int) -> None:
    shard = await place.shard()
    lease = await acquired(shard, "sqlite")
    log = UUID(await place.append(samples(0, 3)))
    for number in range(count):
        await place.do("XADD", place.keys.log(log), f"5-{number + 1}", "hello", "world")
    await place.append(samples(3, 9))

    found = await ranges(shard, log)
    after = await shard.read(log, 3, max_records=1_000, max_bytes=ALL)
    await shard.save(lease, log, scanned=3, content=b"")
    oldest = (await shard.logs())[0].oldest
    await place.drop(str(log), 6)

    assert sum(records for _, _, records in found) == 9
    assert (after.start, len(after.entries)) == (3, 6)
    assert (oldest, (await shard.sizes()).records) == (3, 0)


# -- sizes, and work that is bounded


async def calls(place: Any) -> dict[str, int]:
    """How often the server was given each command, by scripts too."""
    stats = (await place.do("INFO", "commandstats")).decode()
    found = {}
    for line in stats.splitlines():
        if line.startswith("cmdstat_"):
            name, _, rest = line.partition(":")
            found[name.removeprefix("cmdstat_")] = int(rest.split(",")[0].partition("=")[2])
    return found


@pytest.mark.parametrize("keys", [20_000, pytest.param(1_000_000, marks=pytest.mark.faults)])
async def test_open_keys_are_never_looked_through(place: Any, samples: Any, keys: int) -> None:
    shard = await place.shard()
    log = UUID(await place.append(samples(0, 5)))
    lease = await acquired(shard, STAGE)
    await shard.commit(lease, Step(Output(state={"due": b"1"}, deadlines={"due": 0.0}), log, 0, 1))
    await place.do(
        "EVAL",
        "for i = 1, ARGV[1] do redis.call('HSET', KEYS[1], i, 'x') redis.call('ZADD', KEYS[2], 1e14 + i, i) end",
        2,
        place.keys.stage_state("count"),
        place.keys.stage_due("count"),
        keys,
    )
    await place.do("CONFIG", "RESETSTAT")

    due = await shard.due("count", limit=100)
    size = await shard.size("count")
    await shard.commit(lease, Step(Output(state={"due": None, "7": b"y"}), log, 1, 2))
    await shard.progress(lease)
    await shard.subscriptions()

    assert (due, size) == ([("due", b"1")], keys + 1)
    assert await shard.size("count") == keys
    looked = await calls(place)
    assert not {"hscan", "hgetall", "hkeys", "hvals", "zscan", "scan", "keys"} & looked.keys() - {"hgetall", "hkeys"}
    assert looked["hgetall"] + looked["hkeys"] <= 8  # of the few logs and subscriptions
    assert "zrangebyscore" in looked


async def test_sizes_are_those_of_what_is_there_before_and_after_trimming(place: Any, samples: Any) -> None:
    shard = await place.shard()
    lease = await acquired(shard, "sqlite")
    for start in range(0, 100, 10):
        log = UUID(await place.append(samples(start, start + 10)))

    for scanned, left in ((0, 100), (9, 100), (10, 90), (55, 50), (99, 10), (100, 0)):
        await shard.save(lease, log, scanned=scanned, content=b"")
        sizes, entries = await shard.sizes(), await place.do("XRANGE", place.keys.log(log), "-", "+")

        assert sizes.records == left == 10 * len(entries)
        assert sizes.content_bytes == sum(len(fields[3]) for _, fields in entries)


async def test_trimming_takes_no_more_than_a_thousand_commits_at_once(place: Any, samples: Any) -> None:
    shard = await place.shard()
    await acquired(shard, "slow")
    busy = await acquired(shard, "busy")
    for _ in range(5):
        content = [*([1, b"x"] * 700)]
        log = UUID(await place.append_raw(content))
    await shard.save(busy, log, scanned=3_400, content=b"")
    await place.do("CONFIG", "RESETSTAT")

    forgotten = await shard.forget("slow")

    assert forgotten
    assert [(each.oldest, each.end) for each in await shard.logs()] == [(3_400, 3_500)]
    assert (await place.do("XLEN", place.keys.log(log)), (await shard.sizes()).records) == (100, 100)
    assert (await calls(place))["evalsha"] >= 4


async def test_slowest_of_many_subscriptions_says_what_is_trimmed(place: Any, samples: Any) -> None:
    shard = await place.shard()
    leases = [await acquired(shard, f"s{number}") for number in range(120)]
    for start in range(0, 200, 2):
        log = UUID(await place.append(samples(start, start + 2)))

    for number, lease in enumerate(leases):
        await shard.save(lease, log, scanned=200 - number, content=b"")
        assert (await shard.logs())[0].oldest == (0 if number < 119 else 80)

    held = await shard.subscriptions()
    assert sorted(each.scanned[log] for each in held) == list(range(81, 201))
    assert {(each.holder, each.lease_seconds > 30) for each in held} == {("here", True)}


async def test_look_at_a_buffer_that_is_not_there_leaves_nothing_behind(place: Any) -> None:
    bus = await place.bus()

    for shard in await bus.shards():
        assert not await shard.logs()
        assert not await shard.subscriptions()
    found = await place.do("KEYS", f"*{place.name}*")
    await place.do("SET", shards_key(place.name), "3")

    assert found == []
    assert len(await bus.shards()) == 3


async def test_no_lease_is_given_of_other_shards_than_the_buffer_has_by_now(place: Any) -> None:
    shard = await place.shard()
    await acquired(shard, "sqlite")
    first = await place.do("GET", shards_key(place.name))
    await place.do("SET", shards_key(place.name), "2")

    with pytest.raises(ShardsChangedError, match="has 2 shards by now, not 1"):
        await shard.acquire("sqlite", "me", seconds=1)

    assert first is None  # for producers to say


async def test_buffer_of_several_shards_has_them_all_apart(place: Any, samples: Any) -> None:
    await place.do("SET", f"{{eventrec:{place.name}}}:shards", "3")
    bus = await place.bus()
    shards = await bus.shards()

    for number, shard in enumerate(shards):
        log = UUID(await place.append(samples(0, number + 1), keys=place.shard_keys(number, 3)))
        lease = await acquired(shard, "sqlite")
        await shard.save(lease, log, scanned=1, content=b"%d" % number)

    assert [shard.name for shard in shards] == [f"{place.name}:{number}" for number in range(3)]
    assert [(await shard.sizes()).records for shard in shards] == [0, 2, 3]
    async with from_bus_url(place.url(shards=3)) as again:
        assert len(await again.shards()) == 3
    with pytest.raises(PauseError, match="has 3 shards, the URL says 2"):
        await from_bus_url(place.url(shards=2)).open()
    await place.do("DEL", f"{{eventrec:{place.name}}}:shards")
    with pytest.raises(PauseError, match="say in the URL how many"):
        await from_bus_url(place.url()).open()
    async with from_bus_url(place.url(shards=3)) as told:
        assert [(await shard.sizes()).records for shard in await told.shards()] == [0, 2, 3]
    assert len(await (await place.bus()).shards()) == 3


async def test_relay_that_comes_first_says_how_many_shards_there_are(place: Any) -> None:
    async with from_bus_url(place.url(shards=4)):
        assert await place.do("GET", f"{{eventrec:{place.name}}}:shards") == b"4"

    assert len(await (await place.bus()).shards()) == 4


# -- stages


async def test_step_with_thousands_of_everything_is_one_call(place: Any, samples: Any) -> None:
    shard = await place.shard()
    log = UUID(await place.append(samples(0, 5)))
    lease = await acquired(shard, STAGE)
    many = [f"k{number}" for number in range(12_000)]
    output = Output(
        entries=samples(0, 12_000),
        state=dict.fromkeys(many, b"v"),
        deadlines=dict.fromkeys(many, 0.0),
        published=[Published(key, b"v", 60.0) for key in many[:3_000]],
        seen=[Seen("visitors", key, 60.0) for key in many],
    )
    await shard.commit(lease, Step(Output(), log, 0, 1))
    await place.do("CONFIG", "RESETSTAT")

    await shard.commit(lease, Step(output, log, 1, 4))
    stats = await calls(place)

    assert stats["evalsha"] == 1
    assert await shard.size("count") == await shard.count_seen("count", "visitors", seconds=60.0) == 12_000
    assert len(await shard.due("count", limit=20_000)) == 12_000
    assert list(await shard.state("count", [many[0], many[-1]])) == [b"v", b"v"]
    assert await shard.view("count", many[2_999]) == b"v"
    assert (await shard.outlet("count").logs())[0].end == 12_000
    await shard.commit(lease, Step(Output(state=dict.fromkeys(many)), log, 4, 5))
    assert (await shard.size("count"), await shard.due("count", limit=9)) == (0, [])


async def test_commit_that_the_driver_sends_twice_is_made_once(place: Any, samples: Any) -> None:
    shard = await place.shard()
    log = UUID(await place.append(samples(0, 5)))
    lease = await acquired(shard, STAGE)
    run = shard._calls.connection.run

    async def twice(*args: Any, **options: Any) -> Any:
        await run(*args, **options)
        return await run(*args, **options)

    shard._calls.connection.run = twice
    await shard.commit(lease, Step(Output(entries=samples(100, 101)), log, 0, 2))
    await shard.commit(lease, Step(Output(entries=samples(101, 102))))

    assert (await shard.outlet("count").logs())[0].end == 2


async def test_stage_waits_while_its_outlet_is_full(place: Any, samples: Any) -> None:
    shard = await place.shard(max_records=3)
    log = UUID(await place.append(samples(0, 5)))
    lease = await acquired(shard, STAGE)
    await shard.commit(lease, Step(Output(entries=samples(100, 104)), log, 0, 2))

    with pytest.raises(TransientError, match="full"):
        await shard.commit(lease, Step(Output(entries=samples(104, 105), state={"a": b"1"}), log, 2, 3))

    assert (await shard.progress(lease), await shard.size("count")) == ({log: 2}, 0)
    outlet = shard.outlet("count")
    await outlet.save(await acquired(outlet, "sqlite"), (await outlet.logs())[0].id, scanned=4, content=b"")
    await shard.commit(lease, Step(Output(entries=samples(104, 105), state={"a": b"1"}), log, 2, 3))
    assert (await shard.progress(lease), await shard.size("count")) == ({log: 3}, 1)


async def test_clock_of_a_client_says_nothing(place: Any, samples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shard, other = await place.shard(), await place.shard()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3_600)
    first = await shard.acquire("sqlite", "slow clock", seconds=30.0)
    monkeypatch.setattr(time, "time", lambda: real() + 3_600)

    second = await other.acquire("sqlite", "fast clock", seconds=30.0)

    assert first is not None
    assert second is None
    assert abs(await other.time() - real()) < 60
    await shard.renew(first, seconds=30.0)


async def test_notices_reach_who_listens(place: Any) -> None:
    shard = await place.shard()
    async with Redis(host="127.0.0.1", port=place.server.port, protocol=2) as client, client.pubsub() as listener:
        await listener.subscribe(f"eventrec:{place.name}:event:saved")
        with anyio.fail_after(120):
            await listener.get_message(timeout=10)
            await shard.notify("event:saved", [b"one", b"two"])
            heard = [(await listener.get_message(timeout=10) or {}).get("data") for _ in range(2)]

    assert heard == [b"one", b"two"]


# -- rights, room, and clusters


async def full_circle(place: Any, shard: Any, samples: Any) -> None:
    """Every call once."""
    log = UUID(await place.append(samples(0, 5)))
    lease, stage = await acquired(shard, "sqlite"), await acquired(shard, STAGE)
    await shard.renew(lease, seconds=60.0)
    output = Output(
        entries=samples(100, 103),
        state={"a": b"1"},
        deadlines={"a": 0.0},
        published=[Published("latest", b"1", 60.0)],
        seen=[Seen("visitors", "one", 60.0)],
    )
    await shard.commit(stage, Step(output, log, 0, 5))
    await shard.progress(stage)
    await shard.save(lease, log, scanned=5, content=b"kept")
    assert await shard.load(lease) == {log: b"kept"}
    assert await shard.state("count", ["a"]) == [b"1"]
    assert await shard.due("count", limit=5) == [("a", b"1")]
    assert await shard.view("count", "latest") == b"1"
    assert await shard.count_seen("count", "visitors", seconds=60.0) == 1
    assert await ranges(shard.outlet("count"), (await shard.outlet("count").logs())[0].id) == [(0, 3, 3)]
    assert len(await shard.subscriptions()) == 2
    await place.do("DEL", place.keys.stage_due("count"))
    await shard.progress(stage)
    await shard.logs()
    await place.do("DEL", place.keys.meta)
    await place.append(samples(5, 6))
    await shard.logs()
    await shard.notify("event:saved", [b"1"])
    await shard.release(lease)
    assert await shard.forget(STAGE)
    assert await shard.forget("sqlite")
    assert not await shard.forget("sqlite")


async def test_scripts_touch_no_key_that_they_were_not_told(place: Any, samples: Any, capture_logs: Any) -> None:
    shard = await place.shard()
    told: set[str] = set()
    strays = []
    async with Redis(host="127.0.0.1", port=place.server.port, protocol=2) as client, client.monitor() as monitor:
        with capture_logs(), anyio.fail_after(120):
            await full_circle(place, shard, samples)
            await place.do("ECHO", "over")
            while (heard := await monitor.next_command())["command"].upper() != "ECHO OVER":
                words = heard["command"].split(" ")
                if words[0].upper() in {"EVALSHA", "EVAL"} and heard["client_type"] != "lua":
                    told = set(heard["command"].split(" "))
                elif heard["client_type"] == "lua" and len(words) > 1 and words[1].startswith("{"):
                    strays += [words[1]] * (words[1] not in told)

    assert told
    assert strays == []


async def test_user_with_the_rights_that_are_documented_can_do_all(place: Any, samples: Any, capture_logs: Any) -> None:
    of_both = re.findall(r"`([a-z\s]+)`", (eventrec_handlers.redis.__doc__ or "").partition("A producer needs")[2])
    commands = [f"+{name}" for name in " ".join(of_both).split()]
    rights = (f"~{{eventrec:{place.name}*", f"&eventrec:{place.name}:*", "-@all", *commands)
    await place.do("ACL", "SETUSER", f"u{place.name}", "on", ">secret", *rights)
    bus = from_bus_url(place.url(user=f"u{place.name}:secret"))
    async with bus:
        with capture_logs():
            await full_circle(place, (await bus.shards())[0], samples)


async def test_relay_works_in_a_cluster(start_server: Any, place_type: Any, samples: Any, capture_logs: Any) -> None:
    # Else it takes the port that is 10,000 higher, which there may not be.
    bus_port = str(await anyio.to_thread.run_sync(free_port, "127.0.0.1"))
    server = await start_server(settings={"cluster-enabled": "yes", "cluster-port": bus_port})
    place = place_type(server, options={"cluster": "true"})
    await place.do("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
    with anyio.fail_after(120):
        while b"cluster_state:ok" not in await place.do("CLUSTER", "INFO"):  # noqa: ASYNC110 - of another process
            await anyio.sleep(0.02)

    async with place.stack:
        with capture_logs():
            await full_circle(place, await place.shard(), samples)


async def test_server_without_room_is_emptied_all_the_same(start_server: Any, place_type: Any, samples: Any) -> None:
    place = place_type(await start_server())
    async with place.stack:
        shard = await place.shard()
        lease, stage = await acquired(shard, "sqlite"), await acquired(shard, STAGE)
        used = int((await place.do("INFO", "memory")).split(b"used_memory:")[1].split()[0])
        await place.do("CONFIG", "SET", "maxmemory", used + (4 << 20))
        start = 0
        with pytest.raises(TransientError):  # noqa: PT012 - sooner or later
            while True:
                log = UUID(await place.append(samples(start, start + 1_000, 500)))
                start += 1_000
        end = (await shard.logs())[0].end

        await shard.renew(lease, seconds=60.0)
        await shard.commit(stage, Step(Output(entries=samples(0, 1_000), state={"a": b"1"}), log, 0, end))
        await shard.save(lease, log, scanned=end, content=b"kept")

        assert (await shard.sizes()).records == 0
        assert UUID(await place.append(samples(end, end + 1_000))) == log
