"""Claims about arriving once: what handlers with checkpoints promise, and the little that the others do."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
import pytest

from eventrec import FencedError, TransientError
from eventrec.testing.conformance.claim import (
    Claims,
    assert_transient,
    claim,
    closing,
    deliver,
    failure_of,
    made,
    opened,
)
from eventrec.testing.conformance.log import Log, numbered
from eventrec.testing.conformance.rows import assert_holds, compare

if TYPE_CHECKING:
    from eventrec import Batch, DestinationCheckpoints, EventHandler
    from eventrec.testing.conformance.harness import HandlerHarness


def _checkpoints(handler: EventHandler) -> DestinationCheckpoints:
    checkpoints = handler.checkpoints
    assert checkpoints is not None, "a handler has checkpoints always, or never"
    return checkpoints


async def _assert_fenced(handler: EventHandler, batch: Batch, *, why: str) -> None:
    failure = await failure_of(lambda: handler.handle(batch))
    assert failure is not None, f"{why}: the batch was taken; compare the stored checkpoint with batch.start"
    assert isinstance(failure, FencedError), f"{why}: expected FencedError, got {type(failure).__name__}: {failure}"


class CheckpointClaims(Claims):
    """A record arrives once, whatever is repeated, lost, restored, or late."""

    @claim()
    async def test_repeated_batch_keeps_its_ids(self, harness: HandlerHarness) -> None:
        """At least once: a repeated record can be told by its id. Effectively once: it is not there twice."""
        log = Log(*numbered(0, 3))
        async with opened(harness) as handler:
            await deliver(handler, log)

            await failure_of(lambda: handler.handle(log.batch(0)))

        await assert_holds(harness, log, may_double="checkpoints" in harness.lacks)

    @claim()
    async def test_batch_with_a_token_that_was_seen_is_dropped(self, harness: HandlerHarness) -> None:
        """For handlers that say `dedupes_by_token`."""
        log = Log(*numbered(0, 3))
        async with opened(harness) as handler:
            if not handler.dedupes_by_token:
                pytest.skip("the handler does not say that its destination dedupes by token")
            await log.resume(handler)
            await handler.handle(log.batch(0))

            await failure_of(lambda: handler.handle(log.batch(0)))

        await assert_holds(harness, log)

    @claim("checkpoints")
    async def test_unknown_log_starts_where_it_is_told(self, harness: HandlerHarness) -> None:
        """A fresh destination answers `start`, and remembers it."""
        log = Log(*numbered(0, 9))
        async with opened(harness) as handler:
            checkpoints = _checkpoints(handler)

            answers = [await checkpoints.resume(log.id, log.subscription, start) for start in (7, 3)]
            await handler.handle(log.batch(7, 9))

            assert answers == [7, 7]
            assert await checkpoints.resume(log.id, log.subscription, 0) == 9

    @claim("checkpoints")
    async def test_checkpoint_moves_to_the_end_of_the_range(self, harness: HandlerHarness) -> None:
        """`batch.end`, not the last record plus one: what lies between was filtered, dead or forfeited."""
        log = Log(*numbered(0, 10))
        async with opened(harness) as handler:
            await log.resume(handler)

            await handler.handle(log.batch(0, 10, offsets=(2, 5)))

            assert await log.resume(handler) == 10
        compare(await harness.delivered(), [log.rows()[2], log.rows()[5]], harness=harness)

    @claim("checkpoints")
    async def test_overlapping_redelivery_leaves_each_record_once(self, harness: HandlerHarness) -> None:
        """`[1, 2, 3]`, then `[2, 3, 4]`: the second is fenced and writes nothing; then 4 alone."""
        log = Log(*numbered(1, 5))
        async with opened(harness) as handler:
            await log.resume(handler)
            await handler.handle(log.batch(0, 3))

            await _assert_fenced(handler, log.batch(1, 4), why="a batch that overlaps the last one")
            await assert_holds(harness, log, end=3)

            assert await log.resume(handler) == 3
            await handler.handle(log.batch(3, 4))
        await assert_holds(harness, log)

    @claim("checkpoints")
    async def test_repeated_batch_is_fenced(self, harness: HandlerHarness) -> None:
        """Its answer was lost, so the worker sends it again."""
        log = Log(*numbered(0, 3))
        async with opened(harness) as handler:
            await log.resume(handler)
            await handler.handle(log.batch(0))

            await _assert_fenced(handler, log.batch(0), why="the same batch again")

        await assert_holds(harness, log)

    @claim("checkpoints")
    async def test_batch_past_the_checkpoint_is_fenced(self, harness: HandlerHarness) -> None:
        """It would leave a hole."""
        log = Log(*numbered(0, 5))
        async with opened(harness) as handler:
            await log.resume(handler)

            await _assert_fenced(handler, log.batch(2, 5), why="a batch past the checkpoint")

            await deliver(handler, log)
        await assert_holds(harness, log)

    @claim("checkpoints")
    async def test_batch_of_an_unknown_log_is_fenced(self, harness: HandlerHarness) -> None:
        """No checkpoint, no answer of `resume`: it may have been delivered before the destination was replaced."""
        log = Log(*numbered(0, 3))
        async with opened(harness) as handler:
            await _assert_fenced(handler, log.batch(0), why="a batch before any resume")

            await deliver(handler, log)
        await assert_holds(harness, log)

    @claim("checkpoints")
    async def test_checkpoints_are_kept_per_log_and_subscription(self, harness: HandlerHarness) -> None:
        """Neither another log nor another name moves a checkpoint."""
        log, stranger = Log(*numbered(0, 3)), Log(*numbered(0, 3))
        other = log.for_subscription("other")
        async with opened(harness) as handler:
            await deliver(handler, log)

            assert await other.resume(handler) == 0
            assert await stranger.resume(handler) == 0
            assert await log.resume(handler) == 3

    @claim("checkpoints")
    async def test_checkpoint_outlives_the_handler(self, harness: HandlerHarness) -> None:
        """Another process, or the same one after a restart, goes on where the first one stopped."""
        log = Log(*numbered(0, 5))
        async with opened(harness) as handler:
            await deliver(handler, log, end=3)
            name = await _checkpoints(handler).destination_id()
        log.acknowledged = 0  # a process that has lost all it knew
        async with opened(harness) as successor:
            assert await _checkpoints(successor).destination_id() == name, "a destination's id is stored there, once"
            assert await log.resume(successor) == 3
            await deliver(successor, log)

        await assert_holds(harness, log)

    @claim("checkpoints")
    async def test_destination_has_one_id_for_all(self, harness: HandlerHarness) -> None:
        """Two handlers that come first at once agree."""
        names: set[str] = set()

        async def ask() -> None:
            async with opened(harness) as handler:
                names.add(await _checkpoints(handler).destination_id())

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(ask)

        assert len(names) == 1
        assert all(names), "an id is not empty"

    @claim("checkpoints")
    async def test_retired_log_still_answers_resume(self, harness: HandlerHarness) -> None:
        """A copy of the log that turns up later delivers nothing again; retiring twice is nothing new."""
        log = Log(*numbered(0, 3))
        stranger = uuid4()
        async with opened(harness) as handler:
            await deliver(handler, log)
            checkpoints = _checkpoints(handler)

            for _ in range(2):
                await checkpoints.retire(log.id, log.subscription, 3)
                await checkpoints.retire(stranger, log.subscription, 8)

            assert await checkpoints.resume(log.id, log.subscription, 0) == 3
            assert await checkpoints.resume(stranger, log.subscription, 0) == 8

    @claim("checkpoints")
    async def test_two_handlers_with_the_same_batch_store_it_once(self, harness: HandlerHarness) -> None:
        """Two processes that both believe they own the log: one of them is fenced, at every batch."""
        log = Log(*numbered(0, 40))

        async def compete(handler: EventHandler, batch: Batch) -> None:
            failure = await failure_of(lambda: handler.handle(batch))
            assert failure is None or isinstance(failure, TransientError), f"{type(failure).__name__}: {failure}"

        async with opened(harness) as one, opened(harness) as two:
            while await log.resume(one) < log.end:
                batch = log.batch(log.acknowledged, log.acknowledged + 10)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(compete, one, batch)
                    tasks.start_soon(compete, two, batch)

        await assert_holds(harness, log)

    # -- commits whose answer is lost

    @claim("lost_answer")
    async def test_commit_whose_answer_is_lost_is_transient_and_stored_once(self, harness: HandlerHarness) -> None:
        """The connection breaks after COMMIT has left: ask where the destination is, then go on from there."""
        log = Log(*numbered(0, 6))
        async with opened(harness) as handler:
            await deliver(handler, log, end=2)
            await harness.lose_answer()

            failure = await failure_of(lambda: handler.handle(log.batch(2, 4)))
            assert_transient(failure, when="the connection broke at the commit")
            await deliver(handler, log)

        await assert_holds(harness, log, may_double="checkpoints" in harness.lacks)

    @claim("late_commit")
    async def test_commit_that_is_still_under_way_while_the_retry_arrives_stores_once(
        self, harness: HandlerHarness
    ) -> None:
        """Whichever of the two commits first wins: the other one finds the checkpoint moved."""
        log = Log(*numbered(0, 6))
        async with opened(harness) as handler:
            await deliver(handler, log, end=2)
            await harness.lose_answer(late=0.3)

            failure = await failure_of(lambda: handler.handle(log.batch(2, 4)))
            assert_transient(failure, when="the connection broke at the commit")
            await deliver(handler, log)

        await anyio.sleep(0.5)
        await assert_holds(harness, log, may_double="checkpoints" in harness.lacks)

    # -- other destinations than before

    @claim("checkpoints", "restore")
    async def test_restored_destination_says_so_and_takes_what_it_lost(self, harness: HandlerHarness) -> None:
        """A backup is put back: the same id, a lower answer, and the records from there on are taken again."""
        log = Log(*numbered(0, 6))
        async with opened(harness) as handler:
            await deliver(handler, log, end=2)
            name = await _checkpoints(handler).destination_id()
        backup = await harness.backup()
        async with opened(harness) as handler:
            await deliver(handler, log, end=5)
        await harness.restore(backup)
        async with opened(harness) as handler:
            assert await _checkpoints(handler).destination_id() == name, "its id is part of a backup"
            assert await log.resume(handler) == 2
            await deliver(handler, log)

        await assert_holds(harness, log)

    @claim("checkpoints", "restore")
    async def test_restore_under_an_open_handler_is_noticed(self, harness: HandlerHarness) -> None:
        """What it remembers of the destination is not the authority; a batch that no longer fits is not taken."""
        log = Log(*numbered(0, 6))
        handler = made(harness)
        await handler.open()
        async with closing(handler, harness):
            await deliver(handler, log, end=2)
            backup = await harness.backup()
            await deliver(handler, log, end=4)
            await harness.restore(backup)

            failure = await failure_of(lambda: handler.handle(log.batch(4, 6)))
            assert isinstance(failure, TransientError), f"a batch past the restored checkpoint: {failure!r}"
            await deliver(handler, log)

        await assert_holds(harness, log)

    @claim("checkpoints", "replace")
    async def test_replaced_destination_has_another_id(self, harness: HandlerHarness) -> None:
        """An empty one in the old one's place: the worker must see that it is another."""
        log = Log(*numbered(0, 5))
        async with opened(harness) as handler:
            await deliver(handler, log, end=3)
            before = await _checkpoints(handler).destination_id()
        await harness.replace()
        async with opened(harness) as handler:
            assert await _checkpoints(handler).destination_id() != before
            assert await log.resume(handler) == 3, "it knows nothing of this log, so it starts where it is told"
            await handler.handle(log.batch(3, 5))
            assert await log.resume(handler) == 5

        compare(await harness.delivered(), log.rows(3), harness=harness)
