"""A record that came with an id is stored once in a table without a layout, where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import anyio
import asyncpg
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


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_two_handlers_that_store_the_same_records_at_once_wait_for_each_other_and_no_more(
    opened: Any, database: Any, batch: Batches
) -> None:
    # Of so many records rows are made in several steps. Each handler meets them in an order of its own, and waits on
    # the way, for the id that it alone has, until the other one has come as far.
    some, others = ([brought(b"1", n) for n in range(start, start + 1_000)] for start in (1_000, 3_000))
    batches = [
        batch(*some, brought(b"1", 1), *others, subscription="one"),
        batch(*others, brought(b"1", 2), *some, subscription="two"),
    ]
    handlers = [await opened(database.url(), unique_ids=True) for _ in batches]
    for handler, each in zip(handlers, batches, strict=True):
        await handler.resume(each.log_id, each.subscription, 0)
    await handlers[0].handle(batch(brought(b"1")))
    other = await asyncpg.connect(database.url())
    try:
        await other.execute("BEGIN")
        await other.executemany(
            "INSERT INTO eventrec_seen (table_name, id) VALUES ('events', $1)",
            [(UUID(int=ID.int + number),) for number in (1, 2)],
        )
        async with anyio.create_task_group() as tasks:
            for handler, each in zip(handlers, batches, strict=True):
                tasks.start_soon(handler.handle, each)
            with anyio.fail_after(120):
                while await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < 2:  # noqa: ASYNC110 - the server says it
                    await anyio.sleep(0.01)
            await other.execute("ROLLBACK")
    finally:
        await other.close()

    assert database.rows("SELECT count(*) FROM events") == [(2_003,)]
    assert "deadlock" not in await anyio.to_thread.run_sync(database.server.log)


async def test_of_two_records_with_one_id_in_a_long_batch_the_first_is_stored(
    opened: Any, database: Any, batch: Batches
) -> None:
    events = [brought(b"%d" % number, number % 700) for number in range(1_500)]
    handler = await opened(database.url(), unique_ids=True)

    await handler.handle(batch(*events))

    payloads = database.rows("SELECT payload::text::int FROM events ORDER BY 1")
    assert payloads == [(number,) for number in range(700)]


def test_url_may_ask_for_it() -> None:
    assert from_url("postgresql://localhost/x?unique_ids=true")._store._unique_ids
    assert not from_url("postgresql://localhost/x")._store._unique_ids
