"""SQLite: a record that came with an id is stored once in a table without a layout, where that is asked for."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from eventrec import Batch, ColumnSchema, ColumnType, PermanentError, ReceivedEvent
from eventrec_handlers.sqlite import SqliteHandler, from_url

pytestmark = pytest.mark.handlers

Batches = Callable[..., Batch]
ID = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
COLUMN = (ColumnSchema("n", ColumnType.INT64),)


@pytest.fixture
def anyio_backend() -> str:
    """One is enough: all of it runs in the handler's thread."""
    return "asyncio"


def rows(path: Path, sql: str = "SELECT id, payload FROM events ORDER BY rowid") -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def brought(payload: bytes, number: int = 0, **members: Any) -> ReceivedEvent:
    return ReceivedEvent("e", payload, 1, id=UUID(int=ID.int + number).bytes, **members)


async def opened(path: Path, log_id: UUID, **options: Any) -> SqliteHandler:
    handler = SqliteHandler(path, **{"unique_ids": True, **options})
    await handler.open()
    await handler.resume(log_id, "tested", 0)
    return handler


async def test_record_that_comes_again_under_its_id_is_stored_once(path: Path, log_id: UUID, batch: Batches) -> None:
    handler = await opened(path, log_id)

    await handler.handle(batch(brought(b"1"), brought(b"2", 1), brought(b"3")))
    await handler.close()
    handler = await opened(path, log_id)
    await handler.handle(batch(brought(b"4", 2), brought(b"5", context=b"{}"), start=3))
    await handler.handle(batch(brought(b"6", table="others"), brought(b"7"), start=5))
    await handler.close()

    assert [payload for _, payload in rows(path)] == ["1", "2", "4"]
    assert rows(path, "SELECT payload FROM others") == [("6",)], "a table for itself"
    assert rows(path, "SELECT next FROM eventrec_checkpoints") == [(7,)]


async def test_all_rows_of_a_record_are_stored_or_none(path: Path, log_id: UUID, batch: Batches) -> None:
    several = brought(b"1", columns=COLUMN, rows=[(1,), (2,)])
    handler = await opened(path, log_id)

    await handler.handle(batch(several, several))
    await handler.close()

    assert rows(path, "SELECT n FROM events ORDER BY n") == [(1,), (2,)]


async def test_record_without_an_id_is_stored_each_time_and_nothing_kept(
    path: Path, log_id: UUID, batch: Batches
) -> None:
    handler = await opened(path, log_id)

    await handler.handle(batch(*[ReceivedEvent("e", b"1", 1)] * 3))
    await handler.close()

    assert len(rows(path)) == 3
    assert rows(path, "SELECT name FROM sqlite_master WHERE name = 'eventrec_seen'") == []


async def test_record_that_was_refused_is_not_taken_for_stored(path: Path, log_id: UUID, batch: Batches) -> None:
    handler = await opened(path, log_id)
    too_large = brought(b"1", 1, columns=(ColumnSchema("n", ColumnType.UINT64),), rows=[(2**63,)])

    with pytest.raises(PermanentError):
        await handler.handle(batch(brought(b"1"), too_large))
    await handler.handle(batch(brought(b"1")))
    await handler.close()

    assert rows(path) == [(str(ID), "1")]


async def test_without_the_option_it_is_stored_again(path: Path, log_id: UUID, batch: Batches) -> None:
    handler = await opened(path, log_id, unique_ids=False)

    await handler.handle(batch(brought(b"1"), brought(b"1")))
    await handler.close()

    assert rows(path) == [(str(ID), "1")] * 2


def test_url_may_ask_for_it() -> None:
    assert from_url("sqlite:///a.db?unique_ids=true")._records._unique_ids
    assert not from_url("sqlite:///a.db")._records._unique_ids
