"""A worker with a source and no recorder: what is taken from its hands, and what it gives up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
import pytest

from eventrec import Backoff, Batch, TransientError
from eventrec.delivery.subscription import Subscription
from eventrec.delivery.worker.hand import Hand
from eventrec.delivery.worker.sending import Sending
from eventrec.delivery.worker.worker import Worker
from eventrec.runs.checkpoint import Checkpoint, Progress
from eventrec.testing.scripted import FencedHandler, ScriptedHandler, quickly

if TYPE_CHECKING:
    from eventrec.delivery.letters.dead_letters import DeadLetter
    from eventrec.delivery.sources.memory import MemorySource
    from eventrec.delivery.worker.piece import Piece

ID = UUID(int=7)


class NoLetters:
    async def write(self, letters: Sequence[DeadLetter]) -> None:
        raise AssertionError(letters)

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        del log_id, subscription
        return ()


class Keeping(ScriptedHandler):
    """Keeps offsets; the records of these tests have no numbers of their own."""

    def keep(self, batch: Batch) -> None:
        self.batches.append(list(batch.offsets))


class KeepingFenced(FencedHandler):
    def keep(self, batch: Batch) -> None:
        self.next[batch.log_id, batch.subscription] = batch.end
        self.batches.append(list(batch.offsets))


def subscribed(handler: ScriptedHandler, *, attempts: int | None = None, rows: int = 3) -> Subscription:
    retry = Backoff(first=1.0, max=10.0, jitter="none", attempts=attempts)
    settings = quickly(batch_rows=rows, flush_interval=1.0, retry=retry).resolve(has_log=True).delivery
    return Subscription("s", handler, settings, frozenset("a"))


@asynccontextmanager
async def at_work(worker: Worker) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        yield
        tasks.cancel_scope.cancel()


async def test_what_was_forfeited_before_it_begins_is_dropped_once_it_is_at_work(source: MemorySource) -> None:
    handler = Keeping()
    worker = Worker(subscribed(handler), source, NoLetters())

    worker.forfeit(9)
    async with at_work(worker):
        assert await worker.flush(10)

    assert handler.batches == [[0, 2, 4]]
    assert (worker.progress.dropped, worker.progress.delivered, worker.progress.filtered) == ({"retention": 4}, 3, 3)
    assert repr(worker) == "<Worker 's' next=10 lag=0 delivering>"


@pytest.mark.parametrize(
    ("below", "batches", "dropped"),
    [(9, [[0, 2, 4]], 2), (7, [[0, 2, 4], [8]], 1)],
    ids=["no record", "a record"],
)
async def test_what_is_left_of_a_piece_that_was_forfeited_is_settled(
    source: MemorySource, below: int, batches: list[list[int]], dropped: int
) -> None:
    class HangingOnce(Keeping):
        async def handle(self, batch: Batch) -> None:
            if batch.offsets[0] == 6:
                await anyio.sleep_forever()
            await super().handle(batch)

    handler = HangingOnce()
    worker = Worker(subscribed(handler), source, NoLetters())

    async with at_work(worker):
        worker.hurry(10)
        await anyio.wait_all_tasks_blocked()
        await anyio.sleep(1.0)
        worker.forfeit(below)
        await worker.wait_settled(10)

    assert handler.batches == batches
    assert (worker.progress.dropped, worker.progress.scanned) == ({"retention": dropped}, 10)
    assert worker.progress.is_balanced


async def test_what_a_destination_that_went_back_makes_void_is_not_given_up_with_the_last_attempt(
    source: MemorySource,
) -> None:
    def fail() -> None:
        if not failed:
            failed.append(True)
            raise ValueError("cannot take up what is kept")

    failed: list[bool] = []
    handler = KeepingFenced(next={(ID, "s"): 2})
    progress = Progress(0, 6, 6, delivered=3, filtered=3)
    saved = Checkpoint(subscription="s", progress=progress, destination="destination")
    worker = Worker(subscribed(handler, attempts=1), source, NoLetters(), checkpoint=saved, on_rewind=fail)

    async with at_work(worker):
        await worker.wait_settled(10)

    assert failed
    assert handler.delivered == [2, 4, 6, 8]
    assert (worker.progress.dropped, worker.progress.is_balanced) == ({}, True)


async def test_with_the_last_attempt_the_suspects_before_it_are_given_up_too(source: MemorySource) -> None:
    def refuse(batch: Batch) -> None:
        if 0 in batch.offsets:
            raise ValueError("of record 0")
        raise TransientError("down since")

    handler = Keeping(always=refuse)
    worker = Worker(subscribed(handler, attempts=20), source, NoLetters())

    async with at_work(worker):
        await worker.wait_settled(10)

    assert (worker.progress.dropped, worker.progress.dead) == ({"exhausted": 5}, 0)
    assert worker.progress.is_balanced


async def test_a_next_piece_that_cannot_be_read_yet_does_not_disturb_the_one_in_flight(
    piece: Callable[..., Piece],
) -> None:
    async def refuse() -> None:
        raise OSError("the disk does not give it")

    async def nothing(*_: object) -> None:
        await anyio.lowlevel.checkpoint()

    sent: list[Batch] = []

    async def handle(batch: Batch) -> None:
        await anyio.sleep(1.0)
        sent.append(batch)

    def stand_in(**attributes: object) -> Any:
        return SimpleNamespace(**attributes)

    hand, some = Hand(), piece(2)
    hand.add(some)
    as_batch: Callable[[Piece, int], Batch] = lambda each, start: each.as_batch(ID, "s", start)  # noqa: E731
    sending = Sending(
        hand=hand,
        reader=stand_in(next_piece=refuse),
        ledger=stand_in(progress=Progress(0, 0, 0), batch_of=as_batch),
        destination=stand_in(prepares=True, handle=handle),
        freezer=stand_in(freeze=nothing),
        quarantine=stand_in(suspects=dict),
    )

    await sending.send(some)

    assert ([list(each.offsets) for each in sent], len(hand)) == ([[2]], 1)
