"""`GET /events`: what is stored, page by page, and the newest."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from eventrec import EventRecorder
from eventrec.ingest.received import Reading, received_event

Client = Any


def identity(event: Any) -> tuple[str, str, str]:
    return event["table"], event["type"], json.dumps(event["payload"], sort_keys=True)


def told(events: Sequence[Any]) -> list[tuple[str, str, str]]:
    return [(each.table, each.type, json.dumps(json.loads(each.payload), sort_keys=True)) for each in events]


async def test_pages_are_together_all_that_is_stored_by_time(client: Client, events: Sequence[Any]) -> None:
    pages = [(await client.get("/events", limit=130)).json]
    while pages[-1]["cursor"] is not None:
        pages.append((await client.get("/events", limit=130, cursor=pages[-1]["cursor"])).json)

    assert [identity(event) for page in pages for event in page["events"]] == told(events)
    assert [len(page["events"]) for page in pages] == [130, 130, 130, 10]


async def test_events_are_chosen_by_type_table_and_time(client: Client, events: Sequence[Any]) -> None:
    types = [("type", "visit"), ("type", "order_cancelled"), ("from", "2026-03-27"), ("to", "2026-03-29T12:00Z")]
    start, end = (datetime.fromisoformat(text).timestamp() * 1e9 for text in ("2026-03-27T00:00Z", "2026-03-29T12:00Z"))

    by_type = (await client.get("/events", types)).json
    by_table = (await client.get("/events", table="visits", limit=10_000)).json

    wanted = [each for each in events if each.type != "order_placed" and start <= each.timestamp < end]
    assert [identity(event) for event in by_type["events"]] == told(wanted)
    assert [identity(event) for event in by_table["events"]] == told(
        [each for each in events if each.table == "visits"]
    )
    assert by_table["cursor"] is None


async def test_the_newest_come_latest_first(client: Client, events: Sequence[Any]) -> None:
    found = (await client.get("/events", order="newest", limit=7)).json

    assert [identity(event) for event in found["events"]] == told(events)[:-8:-1]
    assert found["cursor"] is None
    assert found["follow"]


async def test_a_line_of_ndjson_is_an_event(client: Client, events: Sequence[Any]) -> None:
    found = await client.get("/events", limit=20, headers={"Accept": "application/x-ndjson"})

    assert found.headers["content-type"] == "application/x-ndjson"
    assert [identity(json.loads(line)) for line in found.body.splitlines()] == told(events)[:20]
    following = await client.get("/events", limit=20, cursor=found.headers["eventrec-cursor"])
    assert [identity(event) for event in following.json["events"]] == told(events)[20:40]


async def test_what_another_program_wrote_is_told_as_it_is(
    client_of: Callable[..., Client], stored: Callable[..., Any], make_events: Callable[..., list[Any]], tmp_path: Path
) -> None:
    path = tmp_path / "odd.db"
    await stored(f"sqlite:///{path}", make_events(3))
    with sqlite3.connect(path) as connection:
        (columns,) = connection.execute("SELECT group_concat(name) FROM pragma_table_info('shop')").fetchone()
        names = columns.split(",")
        row = dict(zip(names, connection.execute("SELECT * FROM shop LIMIT 1").fetchone(), strict=True))
        for number, payload in enumerate(("not JSON", '{"a":\r\n1}', '{"n": 12345678901234567890.10}', '"\\ud800"')):
            values = {**row, "id": f"{row['id'][:-1]}{number + 4}", "payload": payload}
            marks = ",".join("?" * len(names))
            connection.execute(f"INSERT INTO shop VALUES ({marks})", list(values.values()))
    connection.close()

    found = await client_of(f"sqlite:///{path}").get("/events", format="ndjson", table="shop")

    lines = found.body.splitlines()
    said = [json.loads(line)["payload"] for line in lines]
    assert "not JSON" in said
    assert {"a": 1} in said
    assert '"\\ud800"' in said
    assert b'{"n": 12345678901234567890.10}' in found.body


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"from_": "soon"}, "from: 'soon' is not a time"),
        ({"from_": "2026-02-01", "to": "2026-01-01"}, "from: it is after to"),
        ({"order": "oldest"}, "order: one of time, newest, not 'oldest'"),
        ({"order": "newest", "from_": "2026-01-01"}, "from: it goes with order=time"),
        ({"cursor": "x"}, "cursor: it was not given"),
        ({"cursor": "eJyrBQAAfgB8"}, "cursor: it was not given"),
        ({"limit": "100000000"}, "limit: a whole number from 1 to 50000"),
        ({"limit": "1001", "order": "newest"}, "limit: a whole number from 1 to 1000"),
        ({"kind": "visit"}, "kind: there is no such parameter"),
    ],
)
async def test_a_question_that_cannot_be_answered_is_refused_by_its_parameter(
    client: Client, asked: dict[str, str], said: str
) -> None:
    found = await client.get("/events", **asked)

    assert found.status == 400
    assert found.detail.startswith(said)


async def test_a_page_ends_where_it_is_large_enough(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventrec.server.reading.events.MAX_BYTES", 4_000)
    monkeypatch.setattr("eventrec.server.reading.events.CHUNK", 10)

    found = (await client.get("/events", limit=300)).json
    following = (await client.get("/events", limit=300, cursor=found["cursor"])).json

    assert 10 <= len(found["events"]) < 300
    assert following["events"][0]["timestamp"] > found["events"][-1]["timestamp"]


async def test_a_page_ends_after_many_events_of_other_tables(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = (await client.get("/events", table="visits", limit=300)).json["events"]
    monkeypatch.setattr("eventrec.server.reading.events.MAX_LOOKED_AT", 20)
    monkeypatch.setattr("eventrec.server.reading.events.CHUNK", 10)

    found: list[Any] = []
    pages = 0
    cursor: str | None = ""
    while cursor is not None:
        page = (await client.get("/events", table="visits", limit=300, cursor=cursor)).json
        found += page["events"]
        cursor, pages = page["cursor"], pages + 1

    assert found == wanted
    assert pages >= 400 // 20


async def test_the_newest_of_a_table_are_looked_for_behind_those_of_others(
    client: Client, events: Sequence[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    visits = [each for each in events if each.table == "visits"]

    found = (await client.get("/events", order="newest", limit=5, table="visits")).json
    async with client.stream("/events/follow", table="visits", last=5) as stream:
        begun = await stream.part()
    monkeypatch.setattr("eventrec.server.reading.events.CHUNK", 10)
    fewer = (await client.get("/events", order="newest", limit=5, table="visits")).json

    assert [identity(each) for each in found["events"]] == told(visits[-5:][::-1])
    assert found["follow"] is not None
    assert begun.count(b"data: ") == 5
    assert fewer["events"] == found["events"][: len(fewer["events"])]
    assert len(fewer["events"]) == sum(each.table == "visits" for each in events[-10:]) < 5


async def test_what_is_told_is_taken_again_as_it_was(
    client: Client, client_of: Callable[..., Client], tmp_path: Path
) -> None:
    lines = (await client.get("/events", format="ndjson", limit=300)).body
    url = f"sqlite:///{tmp_path / 'copy.db'}?unique_ids=true"
    recorder = EventRecorder(url)
    copied = [received_event(each, Reading()) for each in lines.splitlines()]

    async with recorder:
        assert all(recorder.record(each) for each in copied)
        assert await recorder.flush(timeout=30) is True

    again = (await client_of(url).get("/events", format="ndjson", limit=300)).body
    assert sorted(again.splitlines()) == sorted(lines.splitlines())
    assert len(copied) == 300


async def test_names_in_a_filter_are_texts(client: Client) -> None:
    found = await client.get("/events", type="visit' OR '1'='1", table='shop"; DROP TABLE shop; --')

    assert found.json["events"] == []
    assert len((await client.get("/events", limit=5)).json["events"]) == 5
