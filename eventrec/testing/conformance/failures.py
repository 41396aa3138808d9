"""Claims about what is raised: each row of the table in `eventrec.handler`, as far as it is the handler's to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from eventrec import BatchTooLargeError, PartialError, PauseError, PermanentError, TransientError
from eventrec.testing.conformance.claim import (
    ATTEMPTS,
    PAUSE,
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
    from eventrec import EventHandler
    from eventrec.testing.conformance.harness import HandlerHarness

CLOSES_WITHIN: Final = 10.0
"""Seconds that `close` may take where the destination is gone."""


async def _first_failure(handler: EventHandler, log: Log) -> BaseException | None:
    """What stops `log` from being delivered: at open, at resume, or in `handle`."""

    async def attempt() -> None:
        await handler.open()
        await log.resume(handler)
        await handler.handle(log.batch(log.acknowledged))

    return await failure_of(attempt)


class FailureClaims(Claims):
    """Every failure has the name that makes the worker do the right thing."""

    # -- TransientError: an outage

    @claim("outage")
    async def test_outage_at_open_is_transient(self, harness: HandlerHarness) -> None:
        """The destination is not there yet; opening again, without a close between, must work."""
        log = Log(*numbered(0, 3))
        handler = made(harness)
        async with closing(handler, harness):
            await harness.disconnect()
            for _ in range(2):
                assert_transient(await _first_failure(handler, log), when="opened out of reach")
            await harness.reconnect()

            await _open_again(handler)
            await deliver(handler, log)

        await assert_holds(harness, log)

    @claim("outage")
    async def test_outage_between_batches_is_transient(self, harness: HandlerHarness) -> None:
        """Nothing is lost, and the handler finds its way back by itself: the worker does not open it again."""
        log = Log(*numbered(0, 9))
        async with opened(harness) as handler:
            await deliver(handler, log, end=3)
            await harness.disconnect()
            for _ in range(2):
                failure = await failure_of(lambda: handler.handle(log.batch(3, 6)))
                assert_transient(failure, when="handled out of reach")
            await assert_holds(harness, log, end=3)
            await harness.reconnect()

            await deliver(handler, log)

        await assert_holds(harness, log)

    @claim("outage", "checkpoints")
    async def test_resume_out_of_reach_is_transient(self, harness: HandlerHarness) -> None:
        """The worker asks after every failure: what the checkpoints raise must have the same names."""
        log = Log(*numbered(0, 3))
        async with opened(harness) as handler:
            await deliver(handler, log)
            await harness.disconnect()

            assert_transient(await failure_of(lambda: log.resume(handler)), when="resumed out of reach")

            await harness.reconnect()
            await deliver(handler, log)

    @claim("outage")
    async def test_outage_during_a_batch_leaves_it_whole_or_absent(self, harness: HandlerHarness) -> None:
        """Cut at several instants: a commit, or a transient failure and nothing of the batch."""
        log = Log(*numbered(0, 400))
        async with opened(harness) as handler:
            for turn, delay in enumerate((0, 0.001, 0.003, 0.01), start=1):
                end = turn * 100
                await log.resume(handler)
                failures: list[BaseException | None] = []

                async def handle(end: int = end, failures: list[BaseException | None] = failures) -> None:
                    failures.append(await failure_of(lambda: handler.handle(log.batch(log.acknowledged, end))))

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(handle)
                    await anyio.sleep(delay)
                    await harness.disconnect()
                if failures[0] is not None:
                    assert_transient(failures[0], when="cut during a batch")
                elif handler.checkpoints is None:
                    log.acknowledged = end
                await harness.reconnect()
                if failures[0] is None:
                    await deliver(handler, log, end=log.acknowledged)
                    assert log.acknowledged == end, (
                        "`handle` returned, though the destination went out of reach before anything was written"
                    )
                await deliver(handler, log, end=end)

        await assert_holds(harness, log, may_double="checkpoints" in harness.lacks)

    @claim("outage")
    async def test_close_works_out_of_reach(self, harness: HandlerHarness) -> None:
        """Closing raises nothing and does not wait for a destination that is gone."""
        log = Log(*numbered(0, 3))
        handler = made(harness)
        await handler.open()
        async with closing(handler, harness):
            await deliver(handler, log)
            await harness.disconnect()

            start = anyio.current_time()
            with anyio.move_on_after(CLOSES_WITHIN):
                await handler.close()
            seconds = anyio.current_time() - start
            assert seconds < CLOSES_WITHIN, f"close took {seconds:.1f} s, while the destination was out of reach"

    # -- PermanentError and PartialError: a record at fault

    @claim("poison")
    async def test_poison_alone_is_permanent(self, harness: HandlerHarness) -> None:
        """It becomes a dead letter; called anything else it would be tried without end, and hold up the rest."""
        log = Log(harness.poison())
        async with opened(harness) as handler:
            await log.resume(handler)

            failure = await failure_of(lambda: handler.handle(log.batch(0)))

            assert failure is not None, "the destination refuses it, yet nothing was raised"
            assert _named(failure, log) <= {0}, f"it names records that are not in the batch: {failure!r}"
        await assert_holds(harness, log, end=0)

    @claim("poison")
    async def test_poison_goes_alone_and_its_neighbours_arrive(self, harness: HandlerHarness) -> None:
        """Named, or found by bisecting: the records beside it are delivered, once."""
        log = Log(*numbered(0, 4), harness.poison(), *numbered(5, 8), harness.poison(), *numbered(9, 10))
        async with opened(harness) as handler:
            dead = await _settle(handler, log)

        assert dead == {4, 8}, f"the records at fault are 4 and 8, refused for good were {sorted(dead)}"
        compare(
            await harness.delivered(),
            [row for offset, row in enumerate(log.rows()) if offset not in dead],
            harness=harness,
            may_double="checkpoints" in harness.lacks,
            unwritten=[row for offset, row in enumerate(log.rows()) if offset in dead],
            because="they were refused for good",
        )

    @claim("poison")
    async def test_refused_batch_leaves_nothing_behind(self, harness: HandlerHarness) -> None:
        """PermanentError says that nothing of the batch was written; PartialError, what was."""
        log = Log(*numbered(0, 2), harness.poison(), *numbered(3, 5))
        async with opened(harness) as handler:
            await log.resume(handler)

            failure = await failure_of(lambda: handler.handle(log.batch(0)))

            if not isinstance(failure, PartialError):
                assert await log.resume(handler) == 0, "the batch was refused, but the checkpoint moved"
        failed = set(failure.errors) if isinstance(failure, PartialError) else set(range(log.end))
        compare(
            await harness.delivered(),
            [row for offset, row in enumerate(log.rows()) if offset not in failed],
            harness=harness,
            unwritten=[row for offset, row in enumerate(log.rows()) if offset in failed],
            because=f"{type(failure).__name__} says that they were not written; PartialError names those that were not",
        )

    # -- BatchTooLargeError

    @claim("too_large")
    async def test_batch_that_is_too_large_is_named_so_and_its_records_arrive_alone(
        self, harness: HandlerHarness
    ) -> None:
        """The worker splits it; called permanent, good records would end as dead letters."""
        log = Log(*harness.oversized())
        async with opened(harness) as handler:
            await log.resume(handler)

            failure = await failure_of(lambda: handler.handle(log.batch(0)))
            assert isinstance(failure, BatchTooLargeError), f"expected BatchTooLargeError, got {failure!r}"
            await deliver(handler, log, rows=1)

        await assert_holds(harness, log, may_double="checkpoints" in harness.lacks)

    # -- PauseError

    @claim("pause")
    async def test_refused_credentials_pause_at_open(self, harness: HandlerHarness) -> None:
        """An operator must act: neither tried without end at full speed, nor the records' fault."""
        log = Log(*numbered(0, 3))
        handler = made(harness)
        async with closing(handler, harness):
            await harness.forbid()

            failure = await _first_failure(handler, log)
            assert isinstance(failure, PauseError), f"expected PauseError, got {failure!r}"

            await harness.permit()
            await _open_again(handler)
            await deliver(handler, log)
        await assert_holds(harness, log)

    @claim("pause")
    async def test_rights_taken_away_meanwhile_pause(self, harness: HandlerHarness) -> None:
        """And once they are given back, the same handler goes on."""
        log = Log(*numbered(0, 6))
        async with opened(harness) as handler:
            await deliver(handler, log, end=3)
            await harness.forbid()

            failure = await failure_of(lambda: handler.handle(log.batch(3)))
            assert isinstance(failure, PauseError), f"expected PauseError, got {failure!r}"
            await assert_holds(harness, log, end=3)

            await harness.permit()
            await _until_permitted(handler, log)
        await assert_holds(harness, log)

    # -- anything else: the worker closes and opens it

    @claim()
    async def test_handler_that_is_closed_and_opened_after_a_failure_goes_on(self, harness: HandlerHarness) -> None:
        """What the worker does after an error that has none of these names."""
        log = Log(*numbered(0, 9))
        async with opened(harness) as handler:
            for end in (3, 6, 9):
                await deliver(handler, log, end=end)
                await handler.close()
                await handler.open()
                assert await log.resume(handler) == end

        await assert_holds(harness, log)


async def _open_again(handler: EventHandler) -> None:
    """Open as a worker does after a failed `open`: without a close, until it works."""
    for _ in range(ATTEMPTS):
        failure = await failure_of(handler.open)
        if failure is None:
            return
        assert isinstance(failure, (TransientError, PauseError)), f"{type(failure).__name__}: {failure}"
        await anyio.sleep(PAUSE)
    raise AssertionError(f"cannot be opened, after {ATTEMPTS} attempts") from failure


async def _until_permitted(handler: EventHandler, log: Log) -> None:
    for _ in range(ATTEMPTS):
        failure = await failure_of(lambda: deliver(handler, log))
        if failure is None:
            return
        assert isinstance(failure, PauseError), f"{type(failure).__name__}: {failure}"
        await anyio.sleep(PAUSE)
    raise AssertionError(f"still paused, after {ATTEMPTS} attempts") from failure


async def _settle(handler: EventHandler, log: Log) -> set[int]:
    """Deliver `log` as a worker does, bisecting what is refused; the offsets that are dead."""
    dead: set[int] = set()
    parts: list[list[int]] = [list(range(log.end))]
    while parts:
        offsets = parts.pop()
        if not offsets:
            continue
        await log.resume(handler)
        batch = log.batch(log.acknowledged, offsets[-1] + 1, offsets=offsets)
        failure = await failure_of(lambda batch=batch: handler.handle(batch))  # type: ignore[misc]
        if failure is None:
            log.acknowledged = batch.end
            continue
        named = _named(failure, log)
        assert named <= set(offsets), f"it names records that are not in the batch: {named - set(offsets)}"
        if isinstance(failure, PartialError):
            dead |= named
        elif named or len(offsets) == 1:
            dead |= named or set(offsets)
            parts.append([offset for offset in offsets if offset not in dead])
        else:
            half = len(offsets) // 2
            parts += [offsets[half:], offsets[:half]]
    return dead


def _named(failure: BaseException, log: Log) -> set[int]:
    """The offsets that `failure` calls dead."""
    match failure:
        case PermanentError():
            return set(failure.records)
        case PartialError():
            others = {offset: error for offset, error in failure.errors.items() if not _is_final(error)}
            assert not others, f"refused for good, but called {others}"
            return set(failure.errors)
        case _:
            raise AssertionError(
                f"{log}: refused for good is PermanentError, or PartialError naming the record, "
                f"not {type(failure).__name__}: {failure}"
            ) from failure


def _is_final(error: BaseException) -> bool:
    return isinstance(error, (PermanentError, BatchTooLargeError))
