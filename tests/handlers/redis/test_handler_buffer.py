"""A buffer of several shards, within bounds, with notices; and what others do to its keys."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import pytest
from anyio import to_thread

from eventrec import Batch, Event, FencedError, PauseError, TransientError
from eventrec.testing.redis import RedisServer
from eventrec_handlers.redis import RedisHandler, from_url
from eventrec_handlers.redis.commits import shard_of
from eventrec_handlers.redis.keys import ShardKeys, shard_keys, shards_key
from eventrec_handlers.redis.notices import PRODUCERS
from eventrec_handlers.redis.record_keys import RecordKey

pytestmark = [pytest.mark.anyio, pytest.mark.handlers]

Events = Callable[..., Event]
Batches = Callable[..., Batch]
Reads = Callable[..., Any]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def opened(server: RedisServer, stream: str) -> AsyncIterator[Callable[..., Any]]:
    """Opens handlers of the buffer, whose checkpoint for the log of `batch` stands at 0."""
    made: list[RedisHandler] = []

    async def open_one(**options: Any) -> RedisHandler:
        handler = from_url(server.url(stream=stream, **options))
        made.append(handler)
        await handler.open()
        await handler.resume(UUID("01990000-0000-7000-8000-000000000001"), "tested", 0)
        return handler

    yield open_one
    for handler in made:
        await handler.close()


@pytest.fixture
def numbers(event: Events) -> Callable[..., list[Event]]:
    """Events with the numbers from one to before another."""
    return lambda start, end: [event({"n": n}) for n in range(start, end)]


# -- shards


async def test_records_of_one_key_are_in_one_shard_in_order(
    opened: Any, event: Events, batch: Batches, server: RedisServer, read_buffer: Reads
) -> None:
    handler = await opened(shards=4, shard_by="who.id")
    events = [event({"who": {"id": f"visitor {n % 7}"}, "n": n}) for n in range(100)]
    for start in range(0, 100, 25):
        await handler.handle(batch(*events[start : start + 25], start=start))

    read = await to_thread.run_sync(lambda: read_buffer(server, shards=4))

    assert read.all == list(range(100))
    assert read.numbers == [
        [n for n in range(100) if shard_of(f"visitor {n % 7}".encode(), 4) == shard] for shard in range(4)
    ]
    assert [records for records, _ in await handler.sizes()] == [len(each) for each in read.numbers]


async def test_batch_that_reached_some_shards_is_completed(
    opened: Any, batch: Batches, numbers: Any, buffer: Any
) -> None:
    handler = await opened(shards=4, shard_by="n")
    meta, origins = shard_keys(buffer.stream, 2, 4).meta, shard_keys(buffer.stream, 2, 4).origins
    await handler.handle(batch(*numbers(0, 8)))
    held = await buffer.execute("DUMP", meta)
    await to_thread.run_sync(lambda: (buffer.server.execute("DEL", meta), buffer.server.execute("SET", meta, "theirs")))

    with pytest.raises(PauseError):
        await handler.handle(batch(*numbers(8, 40), start=8))
    await to_thread.run_sync(
        lambda: (buffer.server.execute("DEL", meta), buffer.server.execute("RESTORE", meta, 0, held))
    )
    log = batch(*numbers(0, 1)).log_id

    assert await handler.resume(log, "tested", 0) == 8
    # Another batch than the one that failed: what is further already takes what it lacks.
    await handler.handle(batch(*numbers(8, 60), start=8))
    assert await handler.resume(log, "tested", 0) == 60
    assert (await buffer.read(shards=4)).all == list(range(60))
    assert await buffer.execute("HGET", origins, f"{log}:tested") == b"60"


async def test_another_number_of_shards_pauses_and_says_which(opened: Any, server: RedisServer, stream: str) -> None:
    await opened(shards=4)

    with pytest.raises(PauseError, match="has 4 shards, the URL says 2"):
        await from_url(server.url(stream=stream, shards=2)).open()
    assert len(await (await opened()).sizes()) == 4


async def test_number_of_shards_that_was_lost_is_what_it_was_and_never_guessed(
    opened: Any, batch: Batches, numbers: Any, buffer: Any
) -> None:
    handler = await opened(shards=4, shard_by="n")
    other = await opened(shard_by="n")
    await buffer.execute("DEL", shards_key(buffer.stream))

    with pytest.raises(PauseError, match="say in the URL how many shards"):
        await from_url(buffer.server.url(stream=buffer.stream)).open()
    await other.resume(batch(*numbers(0, 1)).log_id, "tested", 0)

    assert await buffer.execute("GET", shards_key(buffer.stream)) == b"4"
    assert len(await handler.sizes()) == 4


async def test_what_is_not_a_number_of_shards_pauses(server: RedisServer, stream: str) -> None:
    await to_thread.run_sync(lambda: server.execute("SET", shards_key(stream), "four"))

    with pytest.raises(PauseError, match="holds what is not ours"):
        await from_url(server.url(stream=stream)).open()


def test_shard_of_a_key_is_the_same_for_ever() -> None:
    keys = [b"", b"visitor 1", "fräulein".encode(), b"\x00\xff", b"x" * 1_000]

    assert [shard_of(key, 64) for key in keys] == [0, 57, 61, 50, 38]


@pytest.mark.parametrize(
    ("path", "payload", "context", "key"),
    [
        ("type", b'{"type": "no"}', None, b"view"),
        ("a", b'{"a": "x"}', None, b"x"),
        ("a", b'{"b": 1, "a": "\\u0078"}', None, b"x"),
        ("a", b'{"a": 7}', None, b"7"),
        ("a", b'{"a": null}', None, b"view"),
        ("a", b'{"b": 1}', None, b"view"),
        ("a", b"[1]", None, b"view"),
        ("a", b'"text"', None, b"view"),
        ("a.b", b'{"a": {"b": true}}', None, b"true"),
        ("a.b", b'{"a": [1]}', None, b"view"),
        ("größe", '{"größe": "ü"}'.encode(), None, "ü".encode()),
        ("context:u", b'{"u": 1}', b'{"u": "of the call"}', b"of the call"),
        ("context:u", b'{"u": 1}', None, b"static"),
        ("context:v", b'{"v": 1}', None, b"view"),
    ],
)
def test_key_is_a_field_of_payload_or_context_else_the_type(
    path: str, payload: bytes, context: bytes | None, key: bytes
) -> None:
    class Shape:
        type = "view"

    entry: Any = (Shape, 1, payload, context, None, None, 200)

    assert RecordKey(path).of(entry, b'{"u": "static"}') == key


# -- bounds


async def test_full_buffer_refuses_and_takes_again_when_there_is_room(
    opened: Any, batch: Batches, numbers: Any
) -> None:
    handler = await opened(max_records=10)
    await handler.handle(batch(*numbers(0, 8)))

    with pytest.raises(TransientError, match="is full: 8 records"):
        await handler.handle(batch(*numbers(8, 12), start=8))
    assert (await handler.sizes())[0][0] == 8
    await handler.handle(batch(*numbers(8, 10), start=8))

    assert (await handler.sizes())[0][0] == 10


async def test_oldest_records_go_and_it_is_said_how_many(
    opened: Any, batch: Batches, numbers: Any, server: RedisServer, read_buffer: Reads
) -> None:
    handler = await opened(max_records=10, overflow="drop_oldest")
    for start in range(0, 30, 3):
        await handler.handle(batch(*numbers(start, start + 3), start=start))

    assert (await to_thread.run_sync(lambda: read_buffer(server))).all == list(range(21, 30))
    assert (await handler.sizes())[0][0] == 9
    assert "21 records were dropped" in handler.remarks[0]


async def test_bytes_are_counted_as_they_stand_in_the_stream(
    opened: Any, batch: Batches, numbers: Any, server: RedisServer, keys: ShardKeys
) -> None:
    handler = await opened(max_bytes=2_000, overflow="drop_oldest")
    for start in range(0, 60, 6):
        await handler.handle(batch(*numbers(start, start + 6), start=start))

    def stand() -> int:
        (log,) = server.execute("HGET", keys.meta, "logs").decode().split()
        return sum(len(fields[3]) for _, fields in server.execute("XRANGE", keys.log(log), "-", "+"))

    ((_, size),) = await handler.sizes()
    assert size == await to_thread.run_sync(stand)
    assert 1_000 < size <= 2_000


async def test_server_out_of_memory_is_transient_and_loses_nothing(
    make_server: Callable[..., RedisServer], batch: Batches, numbers: Any, read_buffer: Reads, stream: str
) -> None:
    server = await to_thread.run_sync(make_server)
    handler = from_url(server.url(stream=stream))
    await handler.open()
    await handler.resume(batch(*numbers(0, 1)).log_id, "tested", 0)
    await handler.handle(batch(*numbers(0, 3)))
    await to_thread.run_sync(lambda: server.execute("CONFIG", "SET", "maxmemory", "1"))

    with pytest.raises(TransientError, match="OOM"):
        await handler.handle(batch(*numbers(3, 6), start=3))
    await to_thread.run_sync(lambda: server.execute("CONFIG", "SET", "maxmemory", "0"))
    await handler.handle(batch(*numbers(3, 6), start=3))

    assert (await to_thread.run_sync(lambda: read_buffer(server))).all == list(range(6))
    await handler.close()


async def test_policy_that_evicts_is_a_remark(make_server: Callable[..., RedisServer]) -> None:
    settings = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
    server = await to_thread.run_sync(lambda: make_server(settings=settings))
    handler = from_url(server.url())
    await handler.open()

    assert ["allkeys-lru" in remark for remark in handler.remarks] == [True]
    await handler.close()


async def test_server_that_evicted_how_far_it_was_is_not_sent_everything_again_and_again(
    make_server: Callable[..., RedisServer], batch: Batches, numbers: Any
) -> None:
    settings = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
    server = await to_thread.run_sync(lambda: make_server(settings=settings))
    handler = from_url(server.url())
    await handler.open()
    sent = batch(*numbers(0, 5))
    await handler.resume(sent.log_id, sent.subscription, 0)
    await handler.handle(sent)
    keys = shard_keys("events", 0, 1)
    await to_thread.run_sync(lambda: server.execute("DEL", keys.origins))

    for _ in range(2):
        with pytest.raises(PauseError, match="was at 5 and is at 0: maxmemory-policy is allkeys-lru"):
            await handler.resume(sent.log_id, sent.subscription, 0)
    await to_thread.run_sync(lambda: server.execute("CONFIG", "SET", "maxmemory-policy", "noeviction"))

    assert await handler.resume(sent.log_id, sent.subscription, 0) == 0
    await handler.close()


# -- what was evicted, or removed by others


@pytest.mark.parametrize("gone", ["log", "meta", "origins"])
async def test_whatever_is_evicted_appends_go_on_and_no_offset_is_used_twice(
    opened: Any, batch: Batches, numbers: Any, buffer: Any, gone: str
) -> None:
    handler = await opened()
    await handler.handle(batch(*numbers(0, 5)))
    (first,) = (await buffer.read()).logs
    key = {"log": buffer.keys.log(first), "meta": buffer.keys.meta, "origins": buffer.keys.origins}[gone]
    await buffer.execute("DEL", key)

    try:
        await handler.handle(batch(*numbers(5, 8), start=5))
    except FencedError:
        assert gone == "origins"
        assert await handler.resume(batch(*numbers(0, 1)).log_id, "tested", 5) == 5
        await handler.handle(batch(*numbers(5, 8), start=5))

    read = await buffer.read()
    last = await buffer.execute("XREVRANGE", buffer.keys.log(read.logs[-1]), "+", "-", "COUNT", 1)
    assert read.all == list(range(0 if gone == "origins" else 5, 8))
    assert (read.logs == [first]) == (gone != "meta")
    assert last[0][0] == (b"3-3" if gone == "meta" else b"8-3")


async def test_buffer_that_was_flushed_is_begun_again(opened: Any, batch: Batches, numbers: Any, buffer: Any) -> None:
    handler = await opened(shards=2, shard_by="n")
    await handler.handle(batch(*numbers(0, 9)))
    keys = await buffer.execute("KEYS", f"{{eventrec:{buffer.stream}*")
    await buffer.execute("DEL", *keys)

    with pytest.raises(FencedError):
        await handler.handle(batch(*numbers(9, 12), start=9))
    assert await handler.resume(batch(*numbers(0, 1)).log_id, "tested", 0) == 0
    await handler.handle(batch(*numbers(0, 12)))

    assert (await buffer.read(shards=2)).all == list(range(12))
    assert await buffer.execute("GET", shards_key(buffer.stream)) == b"2"


# -- notices


async def test_listeners_are_told_of_each_batch_by_project(
    opened: Any, batch: Batches, event: Events, buffer: Any
) -> None:
    handler = await opened(notices="true", notice_by="project", heartbeat_by="who")
    events = [event({"project": project, "who": who}) for project, who in (("a", 1), ("a", 2), ("b", 1), (None, None))]
    async with handler._connection._client.pubsub() as listener:
        await listener.subscribe(f"eventrec:{buffer.stream}:event:received")
        await listener.get_message(timeout=10)

        await handler.handle(batch(*events))

        told = [(await listener.get_message(timeout=10))["data"] for _ in range(3)]
    assert [json.loads(each) for each in told] == [
        {"key": "a", "count": 2},
        {"key": "b", "count": 1},
        {"key": None, "count": 1},
    ]

    def seen(project: str) -> list[bytes]:
        return sorted(buffer.server.execute("ZRANGE", buffer.keys.seen(PRODUCERS, project), 0, -1))

    assert [await to_thread.run_sync(seen, project) for project in ("a", "b", "")] == [[b"1", b"2"], [b"1"], []]
    assert 0 < await buffer.execute("PTTL", buffer.keys.seen(PRODUCERS, "a")) <= 300_000


async def test_repeated_batch_is_told_once(opened: Any, batch: Batches, numbers: Any, stream: str) -> None:
    handler = await opened(notices="true")
    counts: Counter[int] = Counter()
    async with handler._connection._client.pubsub() as listener:
        await listener.subscribe(f"eventrec:{stream}:event:received")
        await handler.handle(batch(*numbers(0, 3)))
        with pytest.raises(FencedError):
            await handler.handle(batch(*numbers(0, 3)))
        other = await opened(notices="true")
        await other.handle(batch(*numbers(3, 4), start=3))
        while sum(counts.values()) < 3:
            message = await listener.get_message(timeout=10)
            assert message is not None
            counts[0 if message["type"] == "subscribe" else json.loads(message["data"])["count"]] += 1

    assert counts == {0: 1, 3: 1, 1: 1}


async def test_notice_that_fails_leaves_the_batch_as_it_is(batch: Batches, event: Events, buffer: Any) -> None:
    rights = ("reset", "on", ">pw", "~*", "+@all", "resetchannels")
    await buffer.execute("ACL", "SETUSER", buffer.stream, *rights)
    await buffer.execute("SET", buffer.keys.seen(PRODUCERS, ""), "theirs")
    handler = from_url(
        buffer.server.url(user=f"{buffer.stream}:pw", stream=buffer.stream, notices="true", heartbeat_by="n")
    )
    await handler.open()
    one = batch(event({"n": 1}))
    await handler.resume(one.log_id, "tested", 0)

    await handler.handle(one)

    assert (await buffer.read()).all == [1]
    assert ["notices are not sent" in remark for remark in handler.remarks] == [True]
    await handler.close()
    await buffer.execute("ACL", "DELUSER", buffer.stream)


async def test_producers_beside_one_another_share_a_log(
    opened: Any, batch: Batches, numbers: Any, server: RedisServer, read_buffer: Reads
) -> None:
    async def produce(number: int) -> None:
        handler = await opened()
        log = UUID(int=number + 1)
        await handler.resume(log, "tested", 0)
        for start in range(0, 50, 5):
            first = number * 1_000 + start
            await handler.handle(batch(*numbers(first, first + 5), start=start, log_id=log))

    await asyncio.gather(*(produce(number) for number in range(5)))

    read = await to_thread.run_sync(lambda: read_buffer(server))
    assert read.all == sorted(number * 1_000 + n for number in range(5) for n in range(50))
    assert len(read.logs) == 1
