"""The scripts of producers, run by themselves: what stands in Redis afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import Any
from uuid import uuid4

import pytest

from eventrec import PauseError
from eventrec_handlers.redis.connection import Connection
from eventrec_handlers.redis.keys import ShardKeys, is_name
from eventrec_handlers.redis.options import Target
from eventrec_handlers.redis.scripts import script

pytestmark = [pytest.mark.anyio, pytest.mark.handlers]

ORIGIN = "a log:a subscription"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Producer:
    """Appends by hand."""

    def __init__(self, connection: Connection, keys: ShardKeys) -> None:
        self.connection = connection
        self.keys = keys
        self.log = str(uuid4())

    async def resume(self, start: int = 0) -> int:
        return int(await self.connection.run(script("resume"), [self.keys.meta, self.keys.origins], [ORIGIN, start]))

    async def append(self, start: int, *contents: bytes, most: tuple[int, int] = (0, 0)) -> list[Any]:
        """One record a content."""
        new = str(uuid4())
        answer: list[Any] = await self.connection.run(
            script("append"),
            [self.keys.meta, self.keys.origins, self.keys.log(self.log), self.keys.log(new)],
            [
                *(self.log, new, ORIGIN, start, start + len(contents), *most),
                *(len(contents), sum(map(len, contents)), "", 0, 0),
                *(part for content in contents for part in (1, content)),
            ],
        )
        if answer[0] == b"ok":
            self.log = answer[1].decode()
        return answer

    async def append_to_current(self, start: int, *contents: bytes) -> None:
        """As a handler does it: to the log that the script says is the current one."""
        answer = await self.append(start, *contents)
        if answer[0] == b"log":
            self.log = answer[1].decode()
            answer = await self.append(start, *contents)
        assert answer[0] == b"ok"

    async def meta(self) -> dict[str, str]:
        held = await self.connection.call("HGETALL", self.keys.meta)
        return {name.decode(): value.decode() for name, value in held.items()}


@pytest.fixture
async def producer(target: Target, keys: ShardKeys) -> AsyncIterator[Producer]:
    async with Connection(target) as connection:
        yield Producer(connection, keys)


async def test_append_moves_the_origin_and_the_log_together(producer: Producer, keys: ShardKeys) -> None:
    await producer.resume()

    answer = await producer.append(0, b"one", b"three")

    assert answer == [b"ok", producer.log.encode(), b"2", b""]
    assert await producer.resume() == 2
    assert await producer.connection.call("XRANGE", keys.log(producer.log), "-", "+") == [
        (b"1-1", {b"b": b"0", b"c": b"one"}),
        (b"2-1", {b"b": b"3", b"c": b"three"}),
    ]
    meta = await producer.meta()
    assert (meta["live"], meta["logs"]) == (producer.log, producer.log)
    assert [meta[f"{producer.log}:{name}"] for name in ("oldest", "end", "put", "cut")] == ["0", "2", "8", "0"]


@pytest.mark.parametrize("start", [0, 1, 7])
async def test_append_from_elsewhere_than_the_origin_changes_nothing(producer: Producer, start: int) -> None:
    await producer.resume()
    await producer.append(0, b"a", b"b", b"c")
    before = await producer.meta()

    answer = await producer.append(start, b"d")

    assert answer == [b"fenced", b"3"]
    assert await producer.meta() == before


async def test_append_of_an_origin_that_is_not_there_changes_nothing(producer: Producer, keys: ShardKeys) -> None:
    answer = await producer.append(0, b"a")

    assert answer == [b"fenced", b""]
    assert await producer.connection.call("EXISTS", keys.meta) == 0


async def test_append_to_another_log_than_the_current_one_is_told_which_that_is(producer: Producer) -> None:
    await producer.resume()
    await producer.append(0, b"a")
    current, producer.log = producer.log, str(uuid4())

    answer = await producer.append(1, b"b")

    assert answer == [b"log", current.encode()]
    assert await producer.resume() == 1


async def test_offsets_beyond_what_a_float_prints_are_whole(producer: Producer, keys: ShardKeys) -> None:
    await producer.resume()
    await producer.append(0, b"a")
    await producer.connection.call("HSET", keys.meta, f"{producer.log}:end", 2**48 - 2)

    await producer.append(1, b"b")

    assert (await producer.meta())[f"{producer.log}:end"] == str(2**48 - 1)
    assert (await producer.connection.call("XREVRANGE", keys.log(producer.log), "+", "-", "COUNT", 1))[0][0] == (
        f"{2**48 - 1}-1".encode()
    )


async def test_another_life_of_the_server_begins_another_log(producer: Producer, keys: ShardKeys) -> None:
    await producer.resume()
    await producer.append(0, b"a", b"b")
    first = producer.log
    await producer.connection.call("HSET", keys.meta, "run_id", "f" * 40)

    await producer.append(2, b"c")

    meta = await producer.meta()
    assert meta["logs"].split() == [first, producer.log]
    assert first != producer.log == meta["live"]
    assert (meta[f"{first}:sealed"], meta[f"{first}:end"], meta[f"{producer.log}:end"]) == ("1", "2", "1")


async def test_full_shard_takes_nothing(producer: Producer) -> None:
    await producer.resume()
    await producer.append(0, b"aa", b"bb", most=(3, 0))

    answers = [await producer.append(2, b"cc", b"dd", most=most) for most in ((3, 0), (0, 7))]

    assert answers == [[b"full", b"2", b"4"]] * 2
    assert (await producer.append(2, b"cc", b"dd", most=(4, 8)))[0] == b"ok"


async def test_batch_larger_than_the_bound_goes_into_an_empty_shard(producer: Producer) -> None:
    await producer.resume()

    assert (await producer.append(0, b"aa", b"bb", most=(1, 1)))[0] == b"ok"


async def test_drop_removes_whole_commits_until_there_is_room(producer: Producer, keys: ShardKeys) -> None:
    await producer.resume()
    await producer.append(0, b"aa", b"bb", b"cc", b"dd")

    gone = await producer.connection.run(
        script("drop"), [keys.meta, keys.log(producer.log)], [producer.log, 4, 7, 1, 2, 100]
    )

    meta = await producer.meta()
    assert gone == [b"2", b"4"]
    assert [meta[f"{producer.log}:{name}"] for name in ("oldest", "end", "put", "cut")] == ["2", "4", "8", "4"]
    assert (await producer.append(4, b"e", most=(4, 7)))[0] == b"ok"


async def test_drop_of_an_evicted_stream_takes_note_of_it(producer: Producer, keys: ShardKeys) -> None:
    await producer.resume()
    await producer.append(0, b"aa", b"bb")
    await producer.connection.call("DEL", keys.log(producer.log))

    gone = await producer.connection.run(
        script("drop"), [keys.meta, keys.log(producer.log)], [producer.log, 2, 0, 1, 2, 100]
    )

    assert gone == [b"2", b"4"]
    assert (await producer.append(2, b"cc", most=(2, 0)))[0] == b"ok"
    assert await producer.connection.call("XLEN", keys.log(producer.log)) == 1


async def test_retired_origin_answers_until_its_time_is_over(producer: Producer, keys: ShardKeys) -> None:
    await producer.resume(4)
    both = [keys.meta, keys.origins]
    await producer.connection.run(script("retire"), both, [ORIGIN, 9, 60_000, 100, ""])
    assert await producer.resume() == 9

    await producer.connection.run(script("retire"), both, ["another", 1, -1, 100, ""])

    held = await producer.connection.call("HKEYS", keys.origins)
    assert ORIGIN.encode() not in held


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("SET", "meta", "x"), "wrong kind"),
        (("HSET", "meta", "a", "b"), "holds what is not ours"),
        (("HSET", "meta", "version", "2"), "is of version 2"),
        (("SET", "origins", "x"), "wrong kind"),
        (("HSET", "origins", ORIGIN, "x"), "holds what is not ours"),
    ],
)
async def test_what_is_not_ours_pauses_with_words_and_stays(
    producer: Producer, keys: ShardKeys, command: tuple[str, ...], said: str
) -> None:
    key = {"meta": keys.meta, "origins": keys.origins}[command[1]]
    await producer.connection.call(command[0], key, *command[2:])
    before = await producer.connection.call("DUMP", key)

    with pytest.raises(PauseError, match=said) as caught:
        await producer.append(0, b"a")

    assert await producer.connection.call("DUMP", key) == before
    assert "\n" not in str(caught.value)
    assert "script:" not in str(caught.value)


async def test_stream_that_others_have_written_pauses_and_stays(producer: Producer, keys: ShardKeys) -> None:
    await producer.resume()
    await producer.append(0, b"a")
    await producer.connection.call("XADD", keys.log(producer.log), "*", "theirs", "x")

    with pytest.raises(PauseError, match="equal or smaller"):
        await producer.append(1, b"b")

    assert await producer.resume() == 1


def test_names_with_what_parts_keys_are_not_names() -> None:
    assert [name for name in ("a", "ü-1_x.y", "a b") if not is_name(name)] == []
    assert [name for name in ("", "a:b", "{a", "a}", " a", "a ", "a\n", "x" * 201) if is_name(name)] == []


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_streams_and_sizes_are_those_of_a_model(
    producer: Producer, keys: ShardKeys, seed: int
) -> None:
    chance, connection = Random(seed), producer.connection
    logs: dict[str, list[tuple[int, int, bytes]]] = {}  # end, count, content of each commit
    ends: dict[str, int] = {}
    next_ = await producer.resume()
    for _ in range(150):
        match chance.choice(["append", "append", "append", "repeat", "elsewhere", "life", "drop"]):
            case "append":
                contents = [chance.randbytes(chance.randrange(1, 60)) for _ in range(chance.randrange(4))]
                await producer.append_to_current(next_, *contents)
                next_ += len(contents)
                for content in contents:
                    ends[producer.log] = ends.get(producer.log, 0) + 1
                    logs.setdefault(producer.log, []).append((ends[producer.log], 1, content))
            case "repeat" if next_:
                assert await producer.append(next_ - 1, b"again") == [b"fenced", str(next_).encode()]
            case "elsewhere":
                assert await producer.append(next_ + 1, b"too far") == [b"fenced", str(next_).encode()]
            case "life" if logs:
                await connection.call("HSET", keys.meta, "run_id", "0" * 40)
            case "drop" if logs:
                oldest = (await connection.run(script("oldest"), [keys.meta])).decode()
                most = chance.randrange(1, 40)
                records = sum(map(len, logs.values()))
                await connection.run(script("drop"), [keys.meta, keys.log(oldest)], [oldest, most, 0, 0, 0, 1_000])
                if oldest:
                    logs[oldest] = logs[oldest][max(0, records - most) :]

    for log, commits in logs.items():
        found = await connection.call("XRANGE", keys.log(log), "-", "+")
        assert [(id_, fields[b"c"]) for id_, fields in found] == [
            (f"{end}-{count}".encode(), content) for end, count, content in commits
        ]
    known = (await connection.call("HGET", keys.meta, "logs") or b"").decode()
    sizes = await connection.run(script("sizes"), [keys.meta, *map(keys.log, known.split())], [known])
    everything = [commit for commits in logs.values() for commit in commits]
    assert list(map(int, sizes)) == [len(everything), sum(len(content) for _, _, content in everything)]
    assert await producer.resume() == next_
