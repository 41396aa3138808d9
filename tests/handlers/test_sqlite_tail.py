"""Reading the newest events beside the writers: what `eventrec tail` shows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from eventrec import Batch, ColumnSchema, ColumnType, Event, PauseError
from eventrec_handlers.sqlite import SqliteHandler, StoredEvent

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]


def payloads(events: Sequence[StoredEvent]) -> list[str]:
    return [event.payload for event in events]


async def test_newest_events_of_all_tables_come_first_then_those_that_follow(
    handler: SqliteHandler, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(*(event(n, at=n, into="ab"[n % 2]) for n in range(10))))

    newest = await handler.tail(limit=4)
    nothing = await handler.tail(after=newest.cursor, limit=4)
    await handler.handle(batch(event(10, at=10, into="c"), event(11, at=3, into="a"), start=10))
    following = await handler.tail(after=nothing.cursor, limit=4)
    again = await handler.tail(after=following.cursor, limit=4)

    assert payloads(newest.events) == ["6", "7", "8", "9"]
    assert nothing.events == again.events == ()
    assert payloads(following.events) == ["11", "10"]


async def test_pages_after_a_cursor_miss_nothing_and_repeat_nothing(
    handler: SqliteHandler, event: Events, batch: Batches
) -> None:
    cursor = (await handler.tail(limit=0)).cursor
    await handler.handle(batch(*(event(n, at=n * 7 % 10, into="ab"[n % 3 == 0]) for n in range(30))))

    seen: list[StoredEvent] = []
    while (page := await handler.tail(after=cursor, limit=7)).events:
        assert len(page.events) <= 7
        cursor = page.cursor
        seen += page.events

    assert sorted(map(int, payloads(seen))) == list(range(30))


async def test_event_is_told_whole(handler: SqliteHandler, event: Events, batch: Batches, log_id: UUID) -> None:
    columns = (ColumnSchema("rowid", ColumnType.STRING), ColumnSchema("b", ColumnType.BINARY))
    stored = batch(event({"n": 1}, kind="k", at=5, columns=columns, values=("x", b"\0")), context=b'{"u":1}')
    await handler.handle(stored)

    (told,) = (await handler.tail(limit=9)).events

    assert told == StoredEvent(
        table="events",
        id=stored.records[0].id,
        type="k",
        timestamp=5,
        payload='{"n":1}',
        context='{"u":1}',
        columns={"rowid": "x", "b": b"\0"},
    )


async def test_tables_of_others_are_passed_over(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(1)))
    base = "id TEXT, type TEXT, timestamp INTEGER, payload TEXT"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE users (id TEXT)")
        connection.execute(f"CREATE TABLE unnumbered ({base}, PRIMARY KEY (id)) WITHOUT ROWID")
        connection.execute(f"CREATE TABLE taken ({base}, rowid, oid, _rowid_)")
        connection.execute(f"CREATE TABLE bytes ({base})")
        connection.execute("INSERT INTO bytes VALUES ('i', 't', 0, CAST(x'ff' AS TEXT))")

    seen = await handler.tail(limit=9)

    assert [(told.table, told.payload) for told in seen.events] == [("bytes", "\ufffd"), ("events", "1")]


async def test_reader_neither_waits_for_a_writer_nor_makes_it_wait(
    handler: SqliteHandler, path: Path, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(1)))
    reader = SqliteHandler(path, busy_timeout=0)

    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM events")
        seen = await reader.tail(limit=9)
        writer.execute("ROLLBACK")

    assert payloads(seen.events) == ["1"]


async def test_reader_makes_no_file_and_says_that_there_is_none(path: Path) -> None:
    with pytest.raises(PauseError, match=r"events.db: unable to open database file"):
        await SqliteHandler(path).tail(limit=1)
    with pytest.raises(ValueError, match=r"limit must not be negative"):
        await SqliteHandler(path).tail(limit=-1)

    assert not path.exists()
