"""A record that came with an id is stored once in a table without a layout, where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from eventrec import Batch, ColumnSchema, ColumnType, PermanentError, ReceivedEvent
from eventrec_handlers.postgres import from_url

pytestmark = pytest.mark.handlers

Batches = Callable[..., Batch]
ID = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
COLUMN = (ColumnSchema("n", ColumnType.INT64),)


def brought(payload: bytes, number: int = 0, **members: Any) -> ReceivedEvent:
    return ReceivedEvent("e", payload, 1, id=UUID(int=ID.int + number).bytes, **members)


@pytest.mark.parametrize("is_prepared", [False, True])
async def test_record_that_comes_again_under_its_id_is_stored_once(
    opened: Any, database: Any, batch: Batches, *, is_prepared: bool
) -> None:
    handler = await opened(database.url(), unique_ids=True)
    for stored in (
        batch(brought(b"1"), brought(b"2", 1), brought(b"3")),
        batch(brought(b"4", 2), brought(b"5", context=b"{}"), start=3),
        batch(brought(b"6", table="others"), brought(b"7"), start=5),
        batch(brought(b"8"), brought(b"9", 1), start=7),
    ):
        if is_prepared:
            await handler.prepare(stored)
        await handler.handle(stored)

    assert database.rows("SELECT payload FROM events ORDER BY payload::text") == [("1",), ("2",), ("4",)]
    assert database.rows("SELECT payload FROM others") == [("6",)], "a table for itself"
    assert database.rows("SELECT next FROM eventrec_checkpoints") == [(9,)]


async def test_all_rows_of_a_record_are_stored_or_none(opened: Any, database: Any, batch: Batches) -> None:
    several = brought(b"1", columns=COLUMN, rows=[(1,), (2,)])
    handler = await opened(database.url(), unique_ids=True)

    await handler.handle(batch(several, several))

    assert database.rows("SELECT n FROM events ORDER BY n") == [(1,), (2,)]


async def test_record_that_was_refused_is_not_taken_for_stored(opened: Any, database: Any, batch: Batches) -> None:
    handler = await opened(database.url(), unique_ids=True)

    with pytest.raises(PermanentError) as caught:
        await handler.handle(batch(brought(b"1"), brought(b'"\\u0000"', 1)))
    assert list(caught.value.records) == [1]
    await handler.handle(batch(brought(b"1"), ReceivedEvent("e", b"2", 1)))

    assert database.rows("SELECT payload FROM events ORDER BY payload::text") == [("1",), ("2",)]


async def test_two_handlers_store_it_once(opened: Any, database: Any, batch: Batches) -> None:
    one = await opened(database.url(), unique_ids=True)
    other = await opened(database.url(), unique_ids=True)
    of_other = batch(brought(b"1"), subscription="other")
    await other.resume(of_other.log_id, "other", 0)

    await one.handle(batch(brought(b"1")))
    await other.handle(of_other)

    assert database.rows("SELECT id FROM events") == [(ID,)]


def test_url_may_ask_for_it() -> None:
    assert from_url("postgresql://localhost/x?unique_ids=true")._store._unique_ids
    assert not from_url("postgresql://localhost/x")._store._unique_ids
