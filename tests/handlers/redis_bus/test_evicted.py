"""A single key is gone: that is said, nothing hangs, and nothing is given twice without a word."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import anyio
import pytest

from eventrec import HandlerURL, PauseError, TransientError
from eventrec.bus import Lease, LeaseLostError, Output, Shard, Step
from eventrec_handlers.redis.commits import Part
from eventrec_handlers.redis.handler import RedisHandler
from eventrec_handlers.redis.options import Target
from eventrec_handlers.redis.shard import RedisShard, Sizes
from eventrec_handlers.redis.shard_writer import ShardWriter

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


async def everything(shard: Shard, numbers: Any) -> list[int]:
    """The numbers of all that can be read, log by log, with nothing said of what cannot."""
    found: list[int] = []
    for log in await shard.logs():
        at = log.oldest
        while (records := await shard.read(log.id, at, max_records=100, max_bytes=ALL)).end > at:
            found += numbers(records.entries)
            at = records.end
    return found


async def test_meta_is_gone_and_its_logs_are_read_on_as_sealed_ones(
    place: Any, samples: Any, numbers: Any, capture_logs: Any
) -> None:
    shard = await place.shard()
    log = UUID(await place.append(samples(0, 5)))
    lease = await acquired(shard, "sqlite")
    await shard.logs()
    await place.do("DEL", place.keys.meta)

    with capture_logs() as said:
        now = UUID(await place.append(samples(5, 8)))
        records = await shard.read(log, 2, max_records=100, max_bytes=ALL)

    assert numbers(records.entries) == [2, 3, 4]
    assert [each["log"] for each in said] == [str(log)]
    logs = await shard.logs()
    assert [(each.id, each.oldest, each.end, each.is_live) for each in logs] == [(log, 0, 5, False), (now, 0, 3, True)]
    await shard.save(lease, log, scanned=5, content=b"")
    assert [each.id for each in await shard.logs()] == [now]
    assert await place.do("EXISTS", place.keys.log(log)) == 0


async def test_meta_is_gone_and_the_next_holder_finds_the_logs_by_its_checkpoint(
    place: Any, samples: Any, numbers: Any
) -> None:
    first = await place.shard()
    log = UUID(await place.append(samples(0, 5)))
    lease = await acquired(first, "sqlite")
    await first.save(lease, log, scanned=0, content=b"kept")
    await place.do("DEL", place.keys.meta)

    shard = await place.shard()
    saved = await shard.load(await acquired(shard, "sqlite"))

    assert saved == {log: b"kept"}
    assert await everything(shard, numbers) == [0, 1, 2, 3, 4]


async def test_stream_is_gone_and_what_it_held_is_lost_and_numbers_go_on(
    place: Any, samples: Any, numbers: Any
) -> None:
    shard = await place.shard()
    log = UUID(await place.append(samples(0, 5)))
    await place.do("DEL", place.keys.log(log))

    lost = await shard.read(log, 2, max_records=100, max_bytes=ALL)
    await place.append(samples(5, 8))
    records = await shard.read(log, 2, max_records=100, max_bytes=ALL)

    assert (lost.start, lost.end, list(lost.entries)) == (5, 5, [])
    assert (records.start, records.end, numbers(records.entries)) == (5, 8, [5, 6, 7])


async def test_commits_in_the_middle_are_gone_and_what_is_behind_them_is_read(
    place: Any, samples: Any, numbers: Any
) -> None:
    shard = await place.shard()
    for start in range(0, 12, 3):
        log = UUID(await place.append(samples(start, start + 3)))
    await place.do("XDEL", place.keys.log(log), "6-3", "9-3")

    before = await shard.read(log, 0, max_records=100, max_bytes=ALL)
    behind = await shard.read(log, before.end, max_records=100, max_bytes=ALL)

    assert (before.start, before.end, numbers(before.entries)) == (0, 3, [0, 1, 2])
    assert (behind.start, behind.end, numbers(behind.entries)) == (9, 12, [9, 10, 11])


async def test_places_are_gone_and_nothing_is_trimmed_before_all_have_saved_again(place: Any, samples: Any) -> None:
    shard = await place.shard()
    log = UUID(await place.append(samples(0, 5)))
    one, other = await acquired(shard, "one"), await acquired(shard, "other")
    await shard.save(one, log, scanned=2, content=b"")
    await shard.save(other, log, scanned=2, content=b"")
    await place.do("DEL", place.keys.scanned(log))

    await shard.save(one, log, scanned=5, content=b"")

    assert [each.oldest for each in await shard.logs()] == [0]
    await shard.save(other, log, scanned=5, content=b"")
    assert [each.oldest for each in await shard.logs()] == [5]


async def test_list_of_subscriptions_is_gone_and_nothing_is_trimmed_from_under_one_that_rests(
    place: Any, samples: Any, capture_logs: Any
) -> None:
    shard = await place.shard()
    for start in range(0, 6, 2):
        log = UUID(await place.append(samples(start, start + 2)))
    busy, resting = await acquired(shard, "busy"), await acquired(shard, "resting")
    await shard.save(resting, log, scanned=2, content=b"")
    await place.do("DEL", place.keys.subscriptions)

    with capture_logs() as said:
        await shard.save(busy, log, scanned=4, content=b"")
        await shard.save(busy, log, scanned=6, content=b"")

    assert len(said) == 1
    assert [each.oldest for each in await shard.logs()] == [2]
    assert sorted(held.subscription for held in await shard.subscriptions()) == ["busy", "resting"]


async def test_checkpoint_is_gone_and_that_is_said(place: Any, samples: Any, capture_logs: Any) -> None:
    shard = await place.shard()
    log = UUID(await place.append(samples(0, 5)))
    lease = await acquired(shard, "sqlite")
    await shard.save(lease, log, scanned=3, content=b"kept")
    await place.do("DEL", place.keys.saved("sqlite"))

    with capture_logs() as said:
        saved = await shard.load(lease)

    assert saved == {}
    assert [(each["subscription"], each["settled"]) for each in said] == [("sqlite", 3)]


async def test_lease_is_gone_and_its_holder_changes_nothing_more(place: Any, samples: Any) -> None:
    shard = await place.shard()
    log = UUID(await place.append(samples(0, 5)))
    lease = await acquired(shard, "sqlite")
    await place.do("DEL", place.keys.lease("sqlite"))

    with pytest.raises(LeaseLostError):
        await shard.save(lease, log, scanned=5, content=b"")

    assert [dict(held.scanned) for held in await shard.subscriptions()] == [{}]
    await shard.save(await acquired(shard, "sqlite"), log, scanned=5, content=b"")


async def counted(place: Any, shard: RedisShard, samples: Any) -> tuple[Lease, UUID]:
    """A stage that has read three of five records, and keeps two keys."""
    log = UUID(await place.append(samples(0, 5)))
    lease = await acquired(shard, STAGE)
    output = Output(entries=samples(100, 102), state={"a": b"1", "b": b"2"}, deadlines={"a": 600.0, "b": 600.0})
    await shard.commit(lease, Step(output, log, 0, 3))
    return lease, log


async def test_place_of_a_stage_is_gone_and_known_all_the_same(
    place: Any, samples: Any, numbers: Any, capture_logs: Any
) -> None:
    shard = await place.shard()
    lease, log = await counted(place, shard, samples)
    await place.do("DEL", place.keys.stage_progress("count"))

    with pytest.raises(LeaseLostError):
        await shard.commit(lease, Step(Output(entries=samples(100, 102)), log, 0, 3))
    with capture_logs() as said:
        progress = await shard.progress(lease)

    assert progress == {log: 3}
    assert len(said) == 1
    assert await everything(shard.outlet("count"), numbers) == [100, 101]


async def test_other_place_of_a_stage_is_gone_and_known_all_the_same(place: Any, samples: Any) -> None:
    shard = await place.shard()
    lease, log = await counted(place, shard, samples)
    await place.do("DEL", place.keys.scanned(log))

    progress = await shard.progress(lease)

    assert progress == {log: 3}
    assert [dict(held.scanned) for held in await shard.subscriptions()] == [{log: 3}]


@pytest.mark.parametrize("by", ["progress", "commit"])
async def test_state_of_a_stage_is_gone_and_that_is_said_once(
    place: Any, samples: Any, by: str, capture_logs: Any
) -> None:
    shard = await place.shard()
    lease, log = await counted(place, shard, samples)
    await place.do("DEL", place.keys.stage_state("count"))

    with capture_logs() as said:
        if by == "progress":
            await shard.progress(lease)
        await shard.commit(lease, Step(Output(state={"c": b"3"}), log, 3, 4))
        await shard.commit(lease, Step(Output(), log, 4, 5))

    assert [each["event"] for each in said] == ["Redis lost the state of a stage: what was open in it is gone"]
    assert await shard.size("count") == 1
    assert await shard.due("count", limit=10) == []


@pytest.mark.parametrize("by", ["progress", "commit"])
async def test_deadlines_of_a_stage_are_gone_and_it_is_asked_about_all_its_keys(
    place: Any, samples: Any, by: str, capture_logs: Any
) -> None:
    shard = await place.shard()
    lease, log = await counted(place, shard, samples)
    await place.do("DEL", place.keys.stage_due("count"))

    with capture_logs() as said:
        if by == "progress":
            await shard.progress(lease)
        await shard.commit(lease, Step(Output(state={"c": b"3"}, deadlines={"c": 600.0}), log, 3, 4))
        await shard.commit(lease, Step(Output(), log, 4, 5))

    assert len(said) == 1
    assert sorted(await shard.due("count", limit=10)) == [("a", b"1"), ("b", b"2")]


async def test_meta_of_an_outlet_is_gone_and_its_log_is_taken_back(place: Any, samples: Any, numbers: Any) -> None:
    shard = await place.shard()
    lease, log = await counted(place, shard, samples)
    outlet = shard.outlet("count")
    await outlet.logs()
    await place.do("DEL", place.keys.outlet("count").meta)

    await shard.commit(lease, Step(Output(entries=samples(102, 104)), log, 3, 5))

    assert await everything(outlet, numbers) == [100, 101, 102, 103]
    assert [each.is_live for each in await outlet.logs()] == [False, True]


async def test_everything_is_gone_under_a_reader_that_waits(place: Any, samples: Any, capture_logs: Any) -> None:
    shard = await place.shard()
    log = UUID(await place.append(samples(0, 5)))
    lease = await acquired(shard, "sqlite")
    await shard.logs()

    with capture_logs() as said, anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: shard.wait(log, 5, seconds=15.0))
            await place.do("DEL", *await place.do("KEYS", f"*{place.name}*"))
        records = await shard.read(log, 5, max_records=9, max_bytes=ALL)
        logs = await shard.logs()

    assert (records.start, records.end, list(logs)) == (5, 5, [])
    assert len(said) == 1
    with pytest.raises(LeaseLostError):
        await shard.renew(lease, seconds=5.0)
    now = UUID(await place.append(samples(5, 6)))
    assert [(each.id, each.end) for each in await shard.logs()] == [(now, 1)]


KEYS = ("meta", "log", "at", "subs", "saved", "lease", "places", "state", "due")


@pytest.mark.parametrize("which", KEYS)
async def test_key_of_another_type_is_for_an_operator_and_stays_as_it_is(place: Any, samples: Any, which: str) -> None:
    shard, keys = await place.shard(), place.keys
    lease, log = await counted(place, shard, samples)
    names = (
        keys.meta,
        keys.log(log),
        keys.scanned(log),
        keys.subscriptions,
        keys.saved(STAGE),
        keys.lease(STAGE),
        keys.stage_progress("count"),
        keys.stage_state("count"),
        keys.stage_due("count"),
    )
    key = dict(zip(KEYS, names, strict=True))[which]
    before = {name: await place.do("DUMP", name) for name in names if name != key}
    await place.do("DEL", key)
    await place.do("SET", key, "another program's")

    with pytest.raises(PauseError):  # noqa: PT012 - one of the two touches the key
        await shard.save(lease, log, scanned=5, content=b"")
        await shard.commit(lease, Step(Output(entries=samples(102, 103), state={"c": b"3"}), log, 3, 5))

    assert await place.do("GET", key) == b"another program's"
    if which not in {"places", "state", "due"}:
        assert {name: await place.do("DUMP", name) for name in names if name != key} == before
    assert (await place.do("HGET", keys.outlet("count").meta, "logs")).count(b" ") == 0


async def test_shard_of_another_version_is_for_an_operator(place: Any, samples: Any) -> None:
    shard = await place.shard()
    lease, log = await counted(place, shard, samples)
    await place.do("HSET", place.keys.meta, "version", "2")

    for attempt in (
        shard.logs,
        lambda: shard.acquire("sqlite", "here", seconds=1.0),
        lambda: shard.save(lease, log, scanned=5, content=b""),
        lambda: shard.commit(lease, Step(Output(), log, 3, 5)),
        lambda: shard.progress(lease),
    ):
        with pytest.raises(PauseError, match="version 2"):
            await attempt()


async def test_stream_that_was_evicted_is_not_among_what_the_shard_holds(place: Any, samples: Any) -> None:
    shard = await place.shard()
    log = await place.append(samples(0, 5))
    before = await shard.sizes()

    await place.do("DEL", place.keys.log(log))

    assert before.records == 5
    assert await shard.sizes() == Sizes(0, 0)


@pytest.mark.parametrize(("removed", "reason"), [("dropped", "overflow"), ("trimmed", "lost"), ("damaged", "corrupt")])
async def test_what_is_gone_says_why(place: Any, samples: Any, numbers: Any, removed: str, reason: str) -> None:
    shard = await place.shard()
    for start in range(0, 9, 3):
        log = UUID(await place.append(samples(start, start + 3)))
    stream = place.keys.log(log)
    match removed:
        case "dropped":
            await place.drop(str(log), 6)
        case "trimmed":
            await place.do("XTRIM", stream, "MINID", "7-0")
        case _:
            await place.do("DEL", stream)
            for end, content in ((3, b"\x01bad"), (6, b"\x01bad")):
                await place.do("XADD", stream, f"{end}-3", "b", 0, "c", content)
            await place.do("HSET", place.keys.meta, f"{log}:end", "6")
            await place.append(samples(6, 9))

    records = await shard.read(log, 0, max_records=100, max_bytes=ALL)

    assert (records.start, records.lost_as, numbers(records.entries)) == (6, reason, [6, 7, 8])


async def test_what_was_dropped_and_what_an_operator_trimmed_behind_it_are_told_apart(
    place: Any, samples: Any, numbers: Any
) -> None:
    shard = await place.shard()
    for start in range(0, 12, 3):
        log = UUID(await place.append(samples(start, start + 3)))
    await place.drop(str(log), 3)
    await place.do("XDEL", place.keys.log(log), "6-3")

    found = []
    at = 0
    while at < 12:
        records = await shard.read(log, at, max_records=100, max_bytes=ALL)
        found.append((at, records.start, records.lost_as if records.start > at else "", numbers(records.entries)))
        at = records.end

    assert found == [(0, 3, "overflow", []), (3, 6, "lost", [6, 7, 8, 9, 10, 11])]


@pytest.mark.parametrize("how", ["evicted", "trimmed", "evicted and appended to"])
async def test_what_producers_are_told_a_shard_holds_is_what_is_there(place: Any, samples: Any, how: str) -> None:
    shard = await place.shard()
    for start in range(0, 9, 3):
        log = await place.append(samples(start, start + 3))
    stream = place.keys.log(log)
    if how == "trimmed":
        await place.do("XTRIM", stream, "MINID", "7-0")
    else:
        await place.do("DEL", stream)
    if how == "evicted and appended to":
        await place.append(samples(9, 12))
    left = await place.do("XRANGE", stream, "-", "+")

    handler = RedisHandler(Target.of(HandlerURL(place.url())))
    await handler.open()
    held = await handler.sizes()
    await handler.close()

    assert held == [(3 * len(left), sum(len(fields[3]) for _, fields in left))]
    assert await shard.sizes() == Sizes(*held[0])


async def test_shard_of_which_something_was_evicted_has_room_again(place: Any, samples: Any) -> None:
    await place.shard()
    log = await place.append(samples(0, 5))
    await place.do("DEL", place.keys.log(log))
    connection = place.connection
    writer = ShardWriter(connection, place.keys, channel="", max_records=5, max_bytes=0, overflow="refuse")
    assert await writer.resume("origin", 0) == 0
    part = Part(commits=(3, b"content"), records=3, size=7)

    await writer.append("origin", 0, 3, part)
    with pytest.raises(TransientError, match="is full: 3 records"):
        await writer.append("origin", 3, 6, part)
