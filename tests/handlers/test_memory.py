from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest

from eventrec import Batch, Event, FencedError, HandlerURLError
from eventrec_handlers.memory import MemoryHandler, from_url

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]


async def test_records_are_kept_in_order(event: Events, batch: Batches, log_id: UUID) -> None:
    handler = MemoryHandler()
    await handler.resume(log_id, "tested", 0)

    await handler.handle(batch(event({"n": 1}), event({"n": 2})))
    await handler.handle(batch(event({"n": 3}), start=2))

    assert [(record.offset, record.payload) for record in handler.records] == [
        (0, b'{"n":1}'),
        (1, b'{"n":2}'),
        (2, b'{"n":3}'),
    ]


async def test_overlapping_redelivery_is_fenced_and_keeps_nothing(event: Events, batch: Batches, log_id: UUID) -> None:
    handler = MemoryHandler()
    await handler.resume(log_id, "tested", 0)
    await handler.handle(batch(event(1), event(2), event(3)))

    with pytest.raises(FencedError, match="next is 3, the batch starts at 1"):
        await handler.handle(batch(event(2), event(3), event(4), start=1))

    assert len(handler.records) == 3
    assert await handler.resume(log_id, "tested", 0) == 3


async def test_a_batch_before_resume_is_fenced(event: Events, batch: Batches) -> None:
    handler = MemoryHandler()

    with pytest.raises(FencedError):
        await handler.handle(batch(event(1)))

    assert handler.records == []


async def test_retired_row_still_answers_resume(log_id: UUID) -> None:
    handler = MemoryHandler()
    await handler.resume(log_id, "tested", 0)

    await handler.retire(log_id, "tested", 7)

    assert await handler.resume(log_id, "tested", 0) == 7


async def test_checkpoints_are_its_own_and_its_id_stays() -> None:
    handler, other = MemoryHandler(), MemoryHandler()

    assert handler.checkpoints is handler
    assert await handler.destination_id() == await handler.destination_id()
    assert await handler.destination_id() != await other.destination_id()


def test_url_takes_no_option() -> None:
    assert isinstance(from_url("memory:"), MemoryHandler)
    with pytest.raises(HandlerURLError, match="unknown option 'size' in a memory URL; allowed are none"):
        from_url("memory:?size=3")
    with pytest.raises(HandlerURLError, match="a memory URL has no host"):
        from_url("memory://here")
