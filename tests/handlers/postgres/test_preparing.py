"""A batch that was encoded while the one before it was in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventrec import Batch, ColumnSchema, ColumnType, Event, EventRecorder, EventRecorderOptions, PermanentError
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered
from eventrec_handlers.postgres import PostgresHandler
from eventrec_handlers.postgres.turns import SLICE

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]


async def test_a_prepared_batch_is_stored_like_any_other(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    columns = (ColumnSchema("a", ColumnType.INT64),)
    rows = SLICE + 30
    prepared = batch(*(event(n, columns=columns, values=(n,)) for n in range(rows)))

    await handler.prepare(prepared)
    await handler.handle(prepared)

    assert database.rows("SELECT count(*), sum(a), count(DISTINCT payload) FROM events") == [
        (rows, sum(range(rows)), rows)
    ]


async def test_what_was_prepared_for_another_batch_is_not_used(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    await handler.prepare(batch(event(1), event(2)))

    await handler.handle(batch(event(3)))

    assert database.rows("SELECT payload::text FROM events") == [("3",)]


async def test_preparing_leaves_a_refusal_to_handle(handler: PostgresHandler, event: Events, batch: Batches) -> None:
    columns = (ColumnSchema("a", ColumnType.STRING),)
    poisoned = batch(event(1, columns=columns, values=("nul\0",)), event(2, columns=columns, values=("fine",)))

    await handler.prepare(poisoned)

    with pytest.raises(PermanentError) as caught:
        await handler.handle(poisoned)
    assert list(caught.value.records) == [0]


async def test_through_a_recorder_batches_are_prepared_and_stored_once(database: Any) -> None:
    handler = PostgresHandler(database.url())
    options = EventRecorderOptions(batch_rows=50)

    async with EventRecorder(handler, options=options) as recorder:
        recorder.record_many(Numbered(n, kind="ab"[n % 2]) for n in range(2_000))
        assert await recorder.flush(timeout=30)

    assert database.rows("SELECT count(*), count(DISTINCT id), count(DISTINCT payload) FROM events") == [
        (2_000, 2_000, 2_000)
    ]
    assert_conserved(recorder.status(), offered=2_000)
