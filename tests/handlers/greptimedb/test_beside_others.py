"""Four destinations of one type at once: a dead one and one that answers garbage hold up no other."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from eventrec import Backoff, EventModel, EventRecorder, EventRecorderOptions, Status
from eventrec.testing import assert_conserved
from eventrec.testing.posthog import FakePostHog
from eventrec.testing.proxy import FaultProxy

EACH: Final = 50
SUBSCRIPTIONS: Final = {"greptimedb", "posthog", "http", "sqlite"}
OPTIONS: Final = EventRecorderOptions(
    flush_interval=0.05, batch_rows=200, retry=Backoff(first=0.05, max=0.5), close_timeout=30
)
GARBAGE: Final = (b"\x16\x03\x01 nothing of HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n<html>welcome to the hotel</html>")


class OrderPlaced(EventModel):
    number: int


@pytest.fixture
def posthog() -> Iterator[FakePostHog]:
    with FakePostHog() as fake:
        yield fake


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(2, marks=pytest.mark.handlers),
        pytest.param(60, marks=[pytest.mark.faults, pytest.mark.timeout(240)]),
    ],
)
async def test_a_dead_destination_and_one_that_answers_garbage_hold_up_no_other(
    *,
    seconds: int,
    server: Any,
    proxy: FaultProxy,
    posthog: FakePostHog,
    endpoint_of: Callable[..., Any],
    tmp_path: Path,
) -> None:
    posted: list[int] = []

    def taken(request: Any) -> tuple[int, dict[str, str], bytes]:
        posted.extend(event["data"]["number"] for event in json.loads(request.body))
        return 204, {}, b""

    endpoint = endpoint_of(taken)
    database = tmp_path / "orders.db"
    recorder = EventRecorder(
        f"greptimedb://127.0.0.1:{proxy.port}/?timeout=2",
        posthog.url(distinct_id="shop"),
        f"http://127.0.0.1:{endpoint.port}/hook",
        f"sqlite:///{database}",
        log=tmp_path / "log",
        options=OPTIONS,
    )
    offered = 0

    async def record_some() -> None:
        nonlocal offered
        offered += recorder.record_many(OrderPlaced(number=offered + n) for n in range(EACH))

    async with recorder:
        await record_some()
        assert await recorder.flush(timeout=30)
        proxy.cut()
        posthog.answer_with(*GARBAGE * 1_000)
        with anyio.move_on_after(seconds):
            while True:
                await record_some()
                await _settled(recorder, {"http", "sqlite"}, offered)
                await anyio.sleep(0.1)
        status = recorder.status()
        assert {name for name, each in status.subscriptions.items() if not each.healthy} == {"greptimedb", "posthog"}
        assert {status.subscriptions[name].delivered for name in ("greptimedb", "posthog")} == {EACH}
        posthog.answer_normally()
        proxy.mend()
        assert await recorder.flush(timeout=60) is True
        assert_conserved(recorder.status(), offered=offered)

    expected = Counter(range(offered))
    with closing(sqlite3.connect(database)) as connection:
        stored = [json.loads(payload)["number"] for (payload,) in connection.execute("SELECT payload FROM events")]
    assert Counter(stored) == expected
    assert Counter(posted) == expected
    assert Counter(event["properties"]["number"] for event in posthog.events) == expected
    ids = {row["id"]: row["payload"]["number"] for _, row in server.rows}  # a repeat has the id of the first
    assert Counter(ids.values()) == expected
    assert list((tmp_path / "log").iterdir()) == []


async def _settled(recorder: EventRecorder, names: set[str], offered: int) -> None:
    """Wait until the subscriptions `names` have delivered all that was offered."""

    def delivered(status: Status) -> bool:
        return all(status.subscriptions[name].delivered == offered for name in names)

    with anyio.fail_after(120):
        while not delivered(recorder.status()):  # noqa: ASYNC110 - what another thread writes
            await anyio.sleep(0.01)
