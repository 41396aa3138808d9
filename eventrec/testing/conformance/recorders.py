"""Claims about a whole recorder over the handler: every event in exactly one term of the account, whatever happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import uuid4

import anyio

from eventrec import Backoff, EventRecorder, EventRecorderOptions
from eventrec.testing.account import assert_conserved
from eventrec.testing.conformance.claim import Claims, claim
from eventrec.testing.conformance.log import Sample
from eventrec.testing.conformance.rows import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec import Status
    from eventrec.testing.conformance.harness import Delivered, HandlerHarness

EVENTS: Final = 600


def _options(harness: HandlerHarness) -> EventRecorderOptions:
    """Impatient ones: small batches, short back-off, no end of attempts."""
    return EventRecorderOptions(
        batch_rows=25,
        flush_interval=0.01,
        retry=Backoff(first=0.01, max=0.1, jitter="none", attempts=None),
        close_timeout=harness.patience / 2,
    )


class RecorderClaims(Claims):
    """What was offered is delivered, dead or dropped: once, and counted."""

    @claim()
    async def test_recorder_delivers_every_event_once(self, harness: HandlerHarness) -> None:
        """Without any fault, from its opening to its closing."""
        async with EventRecorder(harness.handler(), options=_options(harness), environment={}) as recorder:
            await _record(recorder, 0, EVENTS)

        _assert_account(recorder.status(), await harness.delivered(), offered=EVENTS)

    @claim()
    async def test_recorder_with_two_subscriptions_delivers_to_each(self, harness: HandlerHarness) -> None:
        """Two names, one destination, one log."""
        recorder = EventRecorder(options=_options(harness), environment={})
        recorder.register(harness.handler(), name="one")
        recorder.register(harness.handler(), name="two", types=["even"])
        async with recorder:
            await _record(recorder, 0, 100)

        status = recorder.status()
        assert_conserved(status, offered=100)
        assert status.subscriptions["two"].filtered == 50
        assert sorted(numbers(await harness.delivered())) == sorted([*range(100), *range(0, 100, 2)])

    @claim("outage")
    async def test_recorder_survives_outages(self, harness: HandlerHarness) -> None:
        """The destination goes and comes back, twice, while events keep coming."""
        async with EventRecorder(harness.handler(), options=_options(harness), environment={}) as recorder:
            await _record(recorder, 0, 200)
            for start in (200, 400):
                await harness.disconnect()
                await _record(recorder, start, start + 200)
                await anyio.sleep(0.1)
                await harness.reconnect()
                await recorder.flush(timeout=harness.patience / 6)

        _assert_account(
            recorder.status(),
            await harness.delivered(),
            offered=EVENTS,
            may_double="checkpoints" in harness.lacks,
        )

    @claim("outage")
    async def test_recorder_opens_before_its_destination(self, harness: HandlerHarness) -> None:
        """An application starts while its database does not."""
        await harness.disconnect()
        async with EventRecorder(harness.handler(), options=_options(harness), environment={}) as recorder:
            await _record(recorder, 0, 100)
            await anyio.sleep(0.1)
            await harness.reconnect()
            assert await recorder.flush(timeout=harness.patience / 2), f"not delivered: {recorder.status()}"

        _assert_account(recorder.status(), await harness.delivered(), offered=100)

    @claim("lost_answer")
    async def test_recorder_survives_lost_answers(self, harness: HandlerHarness) -> None:
        """Commits whose connection broke, between batches that went well."""
        async with EventRecorder(harness.handler(), options=_options(harness), environment={}) as recorder:
            for start in range(0, EVENTS, 200):
                await harness.lose_answer()
                await _record(recorder, start, start + 200)
                await recorder.flush(timeout=harness.patience / 8)

        _assert_account(
            recorder.status(),
            await harness.delivered(),
            offered=EVENTS,
            may_double="checkpoints" in harness.lacks,
        )

    @claim("poison")
    async def test_recorder_sets_poison_aside(self, harness: HandlerHarness) -> None:
        """Each bad event becomes one dead letter, and its neighbours arrive."""
        async with EventRecorder(harness.handler(), options=_options(harness), environment={}) as recorder:
            for start in range(0, 300, 100):
                await _record(recorder, start, start + 60)
                recorder.record(harness.poison())
                await _record(recorder, start + 60, start + 100)

        status = recorder.status()
        assert_conserved(status, offered=303)
        (part,) = status.subscriptions.values()
        assert (part.delivered, part.dead, part.pending) == (300, 3, 0), f"{status}"
        _assert_arrived(await harness.delivered(), offered=300)

    @claim("checkpoints")
    async def test_recorder_that_is_cancelled_flushes(self, harness: HandlerHarness) -> None:
        """A program that is stopped delivers what it has taken, once."""
        log_id = uuid4()
        recorder = EventRecorder(harness.handler(), options=_options(harness), environment={}, new_id=lambda: log_id)
        with anyio.CancelScope() as scope:
            async with recorder:
                await _record(recorder, 0, 100)
                scope.cancel()

        _assert_account(recorder.status(), await harness.delivered(), offered=100)


async def _record(recorder: EventRecorder, start: int, end: int) -> None:
    for number in range(start, end):
        assert recorder.record(Sample({"n": number}, kind="odd" if number % 2 else "even"))
        if number % 20 == 0:
            await anyio.sleep(0.001)


def _assert_account(status: Status, found: Sequence[Delivered], *, offered: int, may_double: bool = False) -> None:
    """Every event was delivered; by the account, and by what the destination holds."""
    assert_conserved(status, offered=offered)
    (part,) = status.subscriptions.values()
    assert (part.delivered, part.pending) == (offered, 0), f"not everything was delivered: {status}"
    _assert_arrived(found, offered=offered, may_double=may_double)


def _assert_arrived(found: Sequence[Delivered], *, offered: int, may_double: bool = False) -> None:
    arrived = numbers(found)
    assert set(arrived) == set(range(offered)), f"lost: {sorted(set(range(offered)) - set(arrived))[:20]}"
    assert may_double or len(arrived) == offered, f"doubled: {len(arrived)} rows of {offered} events"
