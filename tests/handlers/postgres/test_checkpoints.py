from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import anyio
import pytest

from eventrec import Batch, Event, EventRecorder, FencedError, TransientError
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, quickly
from eventrec_handlers.postgres import PostgresHandler

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]


def stored(database: Any) -> list[str]:
    return [payload for (payload,) in database.rows("SELECT payload FROM events ORDER BY id")]


async def test_overlapping_redelivery_is_fenced_and_stores_nothing(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, log_id: UUID
) -> None:
    one, two, three, four = (event(n) for n in range(1, 5))
    await handler.handle(batch(one, two, three))

    with pytest.raises(FencedError, match="the checkpoint stands at 3, the batch starts at 1"):
        await handler.handle(batch(two, three, four, start=1))
    at = await handler.resume(log_id, "tested", 0)
    await handler.handle(batch(four, start=at))

    assert stored(database) == ["1", "2", "3", "4"]


async def test_a_batch_before_resume_is_fenced(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    with pytest.raises(FencedError, match="stands at None"):
        await handler.handle(batch(event(1), subscription="unknown"))

    assert stored(database) == []


@pytest.mark.parametrize("name", ["it's", "a\\", "\\'; DROP TABLE eventrec_checkpoints; --", "é 🎉", "$1"])
async def test_any_subscription_name_has_its_own_row(  # noqa: PLR0917
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, log_id: UUID, name: str
) -> None:
    await handler.resume(log_id, name, 40)

    await handler.handle(batch(event(1), start=40, subscription=name))

    assert database.rows("SELECT subscription, next FROM eventrec_checkpoints ORDER BY next") == [
        ("tested", 0),
        (name, 41),
    ]


async def test_resume_makes_the_row_at_start_once(handler: PostgresHandler) -> None:
    log = UUID(int=5)

    assert await handler.resume(log, "a", 40) == 40
    assert await handler.resume(log, "a", 0) == 40
    assert await handler.resume(log, "b", 0) == 0


async def test_retired_row_answers_for_thirty_days(handler: PostgresHandler, database: Any, log_id: UUID) -> None:
    async def after(days: int) -> int:
        database.execute(f"UPDATE eventrec_checkpoints SET retired_at = now() - interval '{days} days'")
        return await handler.resume(log_id, "tested", 0)

    await handler.retire(log_id, "tested", 9)
    await handler.retire(log_id, "tested", 7)
    await handler.retire(UUID(int=1), "never seen", 3)

    assert await after(29) == 9
    assert await after(31) == 0


async def test_row_that_moves_again_is_not_swept(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, log_id: UUID
) -> None:
    await handler.retire(log_id, "tested", 1)

    await handler.handle(batch(event(1), start=1))

    assert database.rows("SELECT next, retired_at FROM eventrec_checkpoints") == [(2, None)]


async def test_destination_id_is_the_databases_own_and_stays(
    handler: PostgresHandler, opened: Any, database: Any
) -> None:
    first = await handler.destination_id()
    same, elsewhere = await opened(database.url()), await opened(database.url(), namespace="elsewhere")

    await handler.close()
    await handler.open()

    assert handler.checkpoints is handler
    assert first == await handler.destination_id() == await same.destination_id()
    assert first != await elsewhere.destination_id()
    assert database.rows("SELECT id::text FROM eventrec_destination") == [(first,)]


async def test_only_one_of_two_attempts_at_once_is_stored(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    one, other = await opened(database.url()), await opened(database.url())
    await one.handle(batch(event(0)))
    fenced = []

    async def attempt(handler: PostgresHandler, start: int) -> None:
        try:
            await handler.handle(batch(*(event(n) for n in range(start, start + 100)), start=start))
        except FencedError as exc:
            fenced.append(exc)

    for start in range(1, 1_001, 100):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt, one, start)
            tasks.start_soon(attempt, other, start)

    assert stored(database) == [str(n) for n in range(1_001)]
    assert len(fenced) == 10


async def test_retry_waits_for_a_backend_that_is_still_committing(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, log_id: UUID
) -> None:
    await handler.handle(batch(event(0)))
    other = database.session()
    # Another attempt at the same batch has written everything, and hangs before its end.
    database.run(other.execute("BEGIN"))
    database.run(
        other.execute("INSERT INTO events SELECT gen_random_uuid(), type, timestamp, '\"first\"'::jsonb FROM events")
    )
    database.run(other.execute("UPDATE eventrec_checkpoints SET next = 2 WHERE log_id = $1 AND next = 1", log_id))
    raised = []

    async def retry() -> None:
        try:
            await handler.handle(batch(event("second"), start=1))
        except FencedError as exc:
            raised.append(exc)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(retry)
        while not database.rows("SELECT 1 FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - the server's state
            await anyio.sleep(0.01)
        database.run(other.execute("COMMIT"))
    database.run(other.close())

    assert len(raised) == 1
    assert sorted(stored(database)) == ['"first"', "0"]
    assert await handler.resume(log_id, "tested", 0) == 2


async def test_restored_destination_answers_lower_and_gets_the_rest_again(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, log_id: UUID
) -> None:
    await handler.handle(batch(event(0)))
    database.execute("CREATE TABLE backup AS SELECT * FROM eventrec_checkpoints")
    await handler.handle(batch(event(1), start=1))
    database.execute(
        "DELETE FROM events WHERE payload = '1'",
        "UPDATE eventrec_checkpoints c SET next = b.next FROM backup b WHERE b.log_id = c.log_id",
    )

    with pytest.raises(FencedError, match="stands at 1, the batch starts at 2"):
        await handler.handle(batch(event(2), start=2))
    assert await handler.resume(log_id, "tested", 2) == 1
    await handler.handle(batch(event(1), event(2), start=1))

    assert stored(database) == ["0", "1", "2"]


async def test_own_tables_dropped_by_another_are_made_again(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, log_id: UUID
) -> None:
    before = await handler.destination_id()
    database.execute("DROP TABLE eventrec_checkpoints, eventrec_destination")

    with pytest.raises(TransientError):
        await handler.handle(batch(event(1)))
    assert await handler.destination_id() != before
    assert await handler.resume(log_id, "tested", 0) == 0
    await handler.handle(batch(event(1)))

    assert stored(database) == ["1"]


async def test_two_subscriptions_on_one_table_store_two_copies(database: Any) -> None:
    options = quickly(batch_rows=7, flush_interval=0.01)

    recorder = EventRecorder(options=options)
    for name in ("one", "two"):
        recorder.register(PostgresHandler(database.url()), name=name)
    async with recorder:
        for number in range(100):
            recorder.record(Numbered(number))
        assert await recorder.flush(timeout=60)

    counts = "SELECT count(*), count(DISTINCT id), count(DISTINCT payload) FROM events"
    assert database.rows(counts) == [(200, 100, 100)]
    assert_conserved(recorder.status(), offered=100)
