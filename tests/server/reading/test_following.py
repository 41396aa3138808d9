"""`GET /events/follow`: every event that arrives, to every client; the slow are dropped."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import compress

import anyio
import pytest

from eventrec import EventRecorder, EventRecorderOptions, ReceivedEvent
from eventrec.server import running
from eventrec.server.reading import followers

Client = Any
FAST = {"follow_interval": 0.02}


@dataclass
class Seen:
    """What a client of server-sent events understands."""

    events: list[Any] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    comments: int = 0
    id: str | None = None
    _rest: bytes = b""

    def feed(self, part: bytes) -> None:
        *blocks, self._rest = (self._rest + part).split(b"\n\n")
        for block in blocks:
            kind, data = "message", None
            for line in block.split(b"\n"):
                name, _, value = line.partition(b":")
                text = value.removeprefix(b" ").decode()
                match name:
                    case b"":
                        self.comments += 1
                    case b"id":
                        self.id = text
                    case b"event":
                        kind = text
                    case b"data":
                        data = text
            if data is not None and kind == "message":
                self.events.append(json.loads(data))
            elif data is not None:
                self.kinds.append(kind)

    async def until(self, stream: Any, number: int) -> None:
        while len(self.events) < number:
            self.feed(await stream.part())


def shown(events: Sequence[Any]) -> list[str]:
    return sorted(json.dumps([each["table"], each["payload"]], sort_keys=True) for each in events)


def told(events: Sequence[Any]) -> list[str]:
    return sorted(json.dumps([each.table, json.loads(each.payload)], sort_keys=True) for each in events)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'followed.db'}"


@pytest.fixture
def make(make_events: Callable[..., list[Any]]) -> Callable[[int, int], list[Any]]:
    """So many events, and others for another seed."""
    return lambda number, seed: make_events(number, seed=seed)


async def test_each_client_sees_each_event_once_whenever_it_comes(
    client_of: Callable[..., Client], stored: Callable[..., Any], make: Any, url: str
) -> None:
    before, after = make(20, 1), make(600, 2)
    await stored(url, before)
    client = client_of(url, **FAST)
    seen = [Seen() for _ in range(4)]

    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(client.stream("/events/follow", last=20)) for _ in range(3)]
        for stream, each in zip(streams, seen, strict=False):
            assert (await stream.started())[1]["content-type"].startswith("text/event-stream")
            await each.until(stream, 20)
        options = EventRecorderOptions(batch_rows=25, flush_interval=0.005)
        async with EventRecorder(url, options=options) as recorder:
            for number, event in enumerate(after):
                assert recorder.record(event)
                if number % 50 == 0:
                    await recorder.flush(timeout=20)
                if number == 300:
                    streams.append(await stack.enter_async_context(client.stream("/events/follow", cursor=seen[0].id)))
            assert await recorder.flush(timeout=20)
        for stream, each in zip(streams[:3], seen, strict=False):
            await each.until(stream, 620)
        held = len(seen[0].events)
        await seen[3].until(streams[3], 600)
        assert len(client.app.state.server.pool.tails) == 4

    assert [shown(each.events) for each in seen[:3]] == [told(before + after)] * 3
    assert shown(seen[3].events) == told(after)
    assert held == 620
    assert len(client.app.state.server.pool.tails) == 0


async def test_a_client_that_comes_again_goes_on_after_its_last_id(
    client_of: Callable[..., Client], stored: Callable[..., Any], make: Any, url: str
) -> None:
    first, second, third = make(30, 1), make(2_500, 2), make(30, 3)
    await stored(url, first)
    client = client_of(url, **FAST)
    seen = Seen()
    async with client.stream("/events/follow", last=30) as stream:
        await seen.until(stream, 30)
    await stored(url, second)

    async with client.stream("/events/follow", headers={"Last-Event-ID": seen.id}, cursor="ignored") as stream:
        await seen.until(stream, 2_530)
        await stored(url, third)
        await seen.until(stream, 2_560)

    assert shown(seen.events) == told(first + second + third)


async def test_only_what_is_asked_for_is_sent_and_ids_go_on_all_the_same(
    client_of: Callable[..., Client], stored: Callable[..., Any], make: Any, url: str
) -> None:
    await stored(url, make(10, 1))
    client = client_of(url, **FAST)
    arriving = make(200, 2)
    of_type, of_table = Seen(), Seen()
    visits = [event for event in arriving if event.table == "visits"]

    async with (
        client.stream("/events/follow", [("type", "visit"), ("type", "nothing")]) as one,
        client.stream("/events/follow", table="visits") as other,
    ):
        of_type.feed(await one.part())
        of_table.feed(await other.part())
        start = of_table.id
        await stored(url, arriving)
        await of_type.until(one, len(visits))
        await of_table.until(other, len(visits))

    assert shown(of_type.events) == shown(of_table.events) == told(visits)
    assert start != of_table.id


async def test_a_silent_stream_says_that_it_is_still_there(
    client_of: Callable[..., Client], shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.server.reading.following.HEARTBEAT", 0.02)
    seen = Seen()

    async with client_of(shop, **FAST).stream("/events/follow") as stream:
        while seen.comments < 3:
            seen.feed(await stream.part())

    assert seen.events == []
    assert seen.id


async def test_an_outage_is_told_and_its_end(
    client_of: Callable[..., Client], stored: Callable[..., Any], make: Any, tmp_path: Path
) -> None:
    path = tmp_path / "away.db"
    url = f"sqlite:///{path}"
    await stored(url, make(5, 1))
    seen = Seen()

    async with client_of(url, **FAST).stream("/events/follow", last=5) as stream:
        await seen.until(stream, 5)
        path.rename(tmp_path / "elsewhere")
        path.mkdir()
        while seen.kinds != ["unreadable"]:
            seen.feed(await stream.part())
        path.rmdir()
        (tmp_path / "elsewhere").rename(path)
        await stored(url, make(5, 2))
        await seen.until(stream, 10)

    assert seen.kinds == ["unreadable", "readable"]


async def test_a_client_whose_buffer_is_full_is_told_to_come_again(
    client_of: Callable[..., Client], stored: Callable[..., Any], make: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "MAX_BUFFERED", 20_000)
    await stored(url, make(5, 1))
    client = client_of(url, **FAST)
    fast, slow = Seen(), Seen()
    may_take = anyio.Event()
    taken = 0

    async def takes() -> None:
        nonlocal taken
        taken += 1
        if taken > 1:
            await may_take.wait()

    async with client.stream("/events/follow") as one, client.stream("/events/follow", takes=takes) as other:
        fast.feed(await one.part())
        slow.feed(await other.part())
        await until(lambda: joined(client) == 2)
        for seed in range(2, 12):
            await stored(url, make(40, seed))
            await fast.until(one, 40 * (seed - 1))
        may_take.set()
        async for part in other.parts():
            slow.feed(part)
        await until(lambda: len(client.app.state.server.pool.tails) == 1)

    assert slow.kinds == ["end"]
    assert len(slow.events) < 400

    async with client.stream("/events/follow", headers={"Last-Event-ID": slow.id}) as again:
        await slow.until(again, 400)
    assert shown(slow.events) == shown(fast.events)


async def test_a_client_that_takes_nothing_is_dropped_in_time(
    client_of: Callable[..., Client], shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.server.reading.following.SEND_SECONDS", 0.05)
    client = client_of(shop, **FAST)

    async with client.stream("/events/follow", last=1, takes=anyio.sleep_forever) as stream:
        await stream.started()
        with anyio.fail_after(120):
            await stream.ended.wait()

    assert len(client.app.state.server.pool.tails) == 0


async def test_followers_are_bounded(client_of: Callable[..., Client], shop: str) -> None:
    client = client_of(shop, max_followers=2, **FAST)

    async with AsyncExitStack() as stack:
        for _ in range(2):
            stream = await stack.enter_async_context(client.stream("/events/follow"))
            await stream.part()
        third = await client.get("/events/follow")
        assert (third.status, third.headers["retry-after"]) == (503, "5")
        assert "as many as may" in third.detail
    async with client.stream("/events/follow") as stream:
        assert (await stream.started())[0] == 200


async def test_many_clients_come_and_go(client_of: Callable[..., Client], shop: str) -> None:
    client = client_of(shop, max_followers=50, **FAST)
    statuses: list[int] = []

    async def come_and_go() -> None:
        async with client.stream("/events/follow") as stream:
            statuses.append((await stream.started())[0])

    for _ in range(3):
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(come_and_go)

    assert len(statuses) == 300
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 150
    await until(lambda: len(client.app.state.server.pool.tails) == 0)
    assert joined(client) == 0


async def test_the_end_of_the_server_ends_what_follows_it(client_of: Callable[..., Client], shop: str) -> None:
    client = client_of(shop, **FAST)
    seen = Seen()

    async with client.stream("/events/follow") as stream:
        seen.feed(await stream.part())
        client.app.state.server.pool.tails.end()
        async for part in stream.parts():
            seen.feed(part)
        late = await client.get("/events/follow")

    assert seen.kinds == ["end"]
    assert late.status == 503


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"cursor": "x"}, 400, "cursor: it was not given by this server"),
        ({"cursor": "eJyrVkrKLFJIyy_KVQIAHGQEqA"}, 400, "cursor: it was not given by this server"),
        ({"last": "1001"}, 400, "last: a whole number from 0 to 1000"),
        ({"types": "a"}, 400, "types: there is no such parameter"),
    ],
)
async def test_a_question_that_cannot_be_answered_is_refused(
    client: Client, asked: dict[str, str], status: int, said: str
) -> None:
    found = await client.get("/events/follow", **asked)

    assert found.status == status
    assert found.detail.startswith(said)


async def test_a_cursor_that_unpacks_to_very_much_is_refused(client: Client) -> None:
    bomb = urlsafe_b64encode(compress(b"[" * 30_000_000)).decode()

    found = await client.get("/events/follow", headers={"Last-Event-ID": bomb})

    assert found.status == 400


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(120):
        while not holds():  # noqa: ASYNC110 - it is told by nothing else
            await anyio.sleep(0.01)


def joined(client: Client) -> int:
    """How many clients share a look."""
    looks = client.app.state.server.pool.tails._here().values()
    return sum(len(look.followers) for look in looks)


@pytest.mark.parametrize("scheme", ["sqlite", "jsonl"])
async def test_a_destination_that_the_recorder_has_yet_to_make_is_empty_and_then_followed(
    client_of: Callable[..., Client], scheme: str, tmp_path: Path
) -> None:
    url = f"{scheme}:///{tmp_path / 'new'}"
    recorder = EventRecorder(url)
    client = client_of(url, recorder=recorder, **FAST)
    seen = Seen()

    async with running(client.app), client.stream("/events/follow") as stream:
        assert (await stream.started())[0] == 200
        before, told = await client.get("/events"), await client.get("/rollups/orders_per_hour")
        is_made = (tmp_path / "new").exists()
        assert recorder.record(ReceivedEvent("first", b"{}"))
        assert await recorder.flush(timeout=30) is True
        await seen.until(stream, 1)

    assert (before.status, before.json["events"], is_made) == (200, [], False)
    assert told.status == (200 if scheme == "sqlite" else 501)
    assert [event["type"] for event in seen.events] == ["first"]
    assert seen.kinds == []
