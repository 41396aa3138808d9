"""Several writers in one database, which make the same tables and columns at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import anyio
import pytest

from eventrec import Batch, ColumnSchema, ColumnType, Event, TransientError
from eventrec_handlers.postgres import PostgresHandler

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]


async def test_handlers_that_open_an_empty_database_at_once(database: Any) -> None:
    handlers = [PostgresHandler(database.url()) for _ in range(8)]

    async with anyio.create_task_group() as tasks:
        for handler in handlers:
            tasks.start_soon(handler.open)
    ids = {await handler.destination_id() for handler in handlers}
    for handler in handlers:
        await handler.close()

    assert len(ids) == 1
    assert database.rows("SELECT count(*) FROM eventrec_destination") == [(1,)]


async def test_handlers_that_make_the_same_tables_and_columns_at_once(
    database: Any, event: Events, batch: Batches
) -> None:
    turns, tables, writers = 8, 5, 5

    async def deliver(writer: int) -> None:
        log_id = UUID(int=writer)
        handler = PostgresHandler(database.url())
        await handler.open()
        await handler.resume(log_id, "tested", 0)
        for turn in range(turns):
            columns = [ColumnSchema(f"c{n}", ColumnType.INT64) for n in range(turn)]
            # Each writer has an order of its own: locks taken in it would meet.
            events = [
                event(writer, into=f"t{(n * (writer + 1)) % tables}", columns=columns, values=(turn,) * turn)
                for n in range(1, tables)
            ]
            await handler.handle(batch(*events, event(writer, into="t0"), start=turn * tables, log_id=log_id))
        await handler.close()

    async with anyio.create_task_group() as tasks:
        for writer in range(writers):
            tasks.start_soon(deliver, writer)

    assert database.tables() == {f"t{n}" for n in range(tables)}
    assert sum(n for table in database.tables() for ((n,),) in [database.rows(f"SELECT count(*) FROM {table}")]) == (
        writers * turns * tables
    )
    assert list(database.declared("t1"))[4:] == [f"c{n}" for n in range(turns - 1)]
    assert "deadlock" not in await anyio.to_thread.run_sync(database.server.log)


async def test_table_that_another_program_makes_meanwhile_is_used_the_next_time(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    # Others do not know our lock.
    other = database.session()
    database.run(other.execute("BEGIN; CREATE TABLE events (id uuid, type text, timestamp timestamptz, payload jsonb)"))
    raised = []

    async def attempt() -> None:
        try:
            await handler.handle(batch(event(1)))
        except TransientError as exc:
            raised.append(str(exc))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt)
        while not database.rows("SELECT 1 FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - the server's state
            await anyio.sleep(0.01)
        database.run(other.execute("COMMIT"))
    database.run(other.close())
    await handler.handle(batch(event(1)))

    assert len(raised) == 1
    assert database.rows("SELECT payload FROM events") == [("1",)]
