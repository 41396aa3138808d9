"""Reading from PostgreSQL: what it answers, and that a question ends there when its client goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Self
from uuid import UUID

import anyio
import anyio.to_thread
import asyncpg
import pyarrow as pa
import pytest

from eventrec.testing.servers import PostgresServer

pytestmark = pytest.mark.handlers

Client = Any
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    " AND state = 'active'"
)


@pytest.fixture
def url(postgres_server: PostgresServer, postgres_database: str) -> str:
    return postgres_server.url(postgres_database)


@pytest.fixture
async def filled(url: str, stored: Callable[..., Any], events: Sequence[Any]) -> str:
    await anyio.to_thread.run_sync(lambda: asyncio.run(stored(url, events)))
    return url


async def test_what_it_answers_is_what_a_file_answers(
    client_of: Callable[..., Client], client: Client, filled: str
) -> None:
    other = client_of(filled)

    questions: list[dict[str, str]] = [
        {},
        {"group": ""},
        {"newest_first": "1", "limit": "20"},
        {"from_": "2026-03-28", "zone": "Asia/Tokyo"},
    ]
    for asked in questions:
        for path in ("/rollups/orders_per_hour", "/rollups/orders_per_day"):
            here, there = await client.get(path, **asked), await other.get(path, **asked)
            assert here.status == there.status
            assert there.status == 400 or there.json["rows"] == here.json["rows"] != []
    page = (await other.get("/events", limit=500, type="visit")).json
    assert [event["payload"] for event in page["events"]] == [
        event["payload"] for event in (await client.get("/events", limit=500, type="visit")).json["events"]
    ]
    await other.app.state.server.pool.close()


async def test_a_table_of_another_program_that_fails_hides_no_events(
    client_of: Callable[..., Client], filled: str
) -> None:
    client = client_of(filled)
    before = (await client.get("/events", limit=500)).json
    async with Other(filled) as other:
        await other.run(
            "CREATE TABLE audit (id uuid, type text, timestamp timestamptz, payload jsonb, n int,"
            " r int GENERATED ALWAYS AS (1 / n) VIRTUAL);"
            " INSERT INTO audit VALUES (gen_random_uuid(), 'x', now(), '{}', 0)"
        )

    after = [await client.get("/events", limit=500, **more) for more in ({}, {"order": "newest"})]
    rolled_up = await client.get("/rollups/orders_per_day")

    assert after[0].json["events"] == before["events"] != []
    assert [list(answer.json["passed_over"]) for answer in after] == [
        ["table 'audit' cannot be read: division by zero (22012)"]
    ] * 2
    assert rolled_up.status == 200
    lines = await client.get("/events", format="ndjson")
    assert lines.status == 200
    assert list(json.loads(lines.headers["eventrec-passed-over"])) == list(after[0].json["passed_over"])
    await client.app.state.server.pool.close()


async def test_what_another_program_has_stored_for_the_year_3000_is_on_a_page_too(
    client_of: Callable[..., Client], filled: str
) -> None:
    async with Other(filled) as other:
        for year in (1600, 2300, 3000):
            await other.run(
                "INSERT INTO shop (id, type, timestamp, payload)"
                f" VALUES ('{UUID(int=year)}', 'order_cancelled', '{year}-06-01T12:00:00.5Z', '{{}}')"
            )
    client = client_of(filled)
    whole = (await client.get("/rollups/orders_per_day", group="", newest_first="1")).json["rows"]

    found: list[Any] = []
    cursor: dict[str, str] = {}
    while len(found) < 2 * len(whole):
        page = await client.get("/rollups/orders_per_day", group="", newest_first="1", limit="1", **cursor)
        assert page.status == 200, page.body
        found += page.json["rows"]
        if page.json["cursor"] is None:
            break
        cursor = {"cursor": page.json["cursor"]}
    arrow = await client.get("/rollups/orders_per_day", format="arrow", group="", newest_first="1")

    assert found == whole
    assert [row[0][:4] for row in (*whole[:2], whole[-1])] == ["3000", "2300", "1600"]
    table = pa.ipc.open_stream(arrow.body).read_all()
    assert table.column("day").to_pylist() == [datetime.fromisoformat(row[0]) for row in whole]
    await client.app.state.server.pool.close()


@pytest.mark.parametrize("path", ["/rollups/orders_per_hour", "/events"])
async def test_a_client_that_goes_takes_its_question_along(
    client_of: Callable[..., Client], filled: str, path: str
) -> None:
    client = client_of(filled)
    async with Other(filled) as other:
        await other.run("BEGIN; LOCK TABLE shop")
        async with client.stream(path):
            while await other.ask(WAITING) != 1:  # noqa: ASYNC110 - the server says it to those who ask
                await anyio.sleep(0.01)
        with anyio.fail_after(120):
            while await other.ask(WAITING):  # noqa: ASYNC110 - likewise
                await anyio.sleep(0.01)

    assert (await client.get(path)).status == 200
    await client.app.state.server.pool.close()


class Other:
    """A connection of another program, in a thread of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.new_event_loop()

    async def __aenter__(self) -> Self:
        self._connections = [await self._do(lambda: asyncpg.connect(self._url)) for _ in range(2)]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for connection in self._connections:
            await self._do(connection.close)
        self._loop.close()

    async def run(self, sql: str) -> None:
        await self._do(lambda: self._connections[0].execute(sql))

    async def ask(self, sql: str) -> Any:
        return await self._do(lambda: self._connections[1].fetchval(sql))

    async def _do(self, work: Callable[[], Any]) -> Any:
        return await anyio.to_thread.run_sync(lambda: self._loop.run_until_complete(work()))
