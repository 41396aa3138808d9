"""What every claim starts from: a destination of its own, open handlers, and an end."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio

from eventrec import DeliveryError, FencedError, PartialError, TransientError
from eventrec.testing.claims import HarnessedClaims, harnessed
from eventrec.testing.conformance.harness import watched_calls
from eventrec.testing.conformance.watched import FaultyCallError, watched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from eventrec import EventHandler
    from eventrec.testing.claims import T
    from eventrec.testing.conformance.harness import Capability, HandlerHarness
    from eventrec.testing.conformance.log import Log


ATTEMPTS: Final = 40
"""How often a batch is tried again after an outage is over, before it counts as lost."""

PAUSE: Final = 0.05
"""Seconds between two such attempts."""


class Claims(HarnessedClaims):
    """A room of claims about a handler: its fixture `harness` gives a `HandlerHarness`."""


def claim(*needs: Capability) -> Callable[[T], T]:
    """Mark a claim, with what it needs: see `harnessed`."""
    return harnessed(*needs, unreturned=_unreturned)


def _unreturned(harness: HandlerHarness, at: float) -> str | None:
    """The calls of its handlers that were still running at this moment of the loop."""
    cut = [
        f"`{call.name}` did not return for {call.seconds:.1f} s" for call in watched_calls(harness).cut if call.at >= at
    ]
    return " and ".join(cut) or None


def made(harness: HandlerHarness) -> EventHandler:
    """A new handler, not open, whose calls are seen."""
    return watched(harness.handler(), watched_calls(harness).call)


@asynccontextmanager
async def opened(harness: HandlerHarness) -> AsyncIterator[EventHandler]:
    """A new handler, open; closed at the end whatever happens."""
    handler = made(harness)
    await handler.open()
    async with closing(handler, harness):
        yield handler


@asynccontextmanager
async def closing(handler: EventHandler, harness: HandlerHarness) -> AsyncIterator[EventHandler]:
    """Close `handler` at the end, also when the claim is cancelled."""
    try:
        yield handler
    finally:
        with anyio.move_on_after(harness.patience, shield=True) as scope:
            await handler.close()
        if scope.cancelled_caught:
            raise AssertionError(f"`close` did not return within {harness.patience} s (`patience`)")


async def deliver(handler: EventHandler, log: Log, *, end: int | None = None, rows: int = 1_000) -> None:
    """Deliver `[acknowledged, end)` as a worker does: ask after any failure, try again while it is transient.

    Raises:
        DeliveryError: Any other one, at once; a transient one after `ATTEMPTS`.
    """
    end = log.end if end is None else end
    left = ATTEMPTS
    while True:
        try:
            await log.resume(handler)
            while log.acknowledged < end:
                upto = min(end, log.acknowledged + rows)
                await handler.handle(log.batch(log.acknowledged, upto))
                log.acknowledged = upto
        except TransientError as exc:
            left -= 1
            if not left:
                raise AssertionError(f"still failing after {ATTEMPTS} attempts") from exc
            await anyio.sleep(PAUSE)
        else:
            return


async def failure_of(attempt: Callable[[], Awaitable[object]]) -> BaseException | None:
    """What `attempt` raises, but for its cancellation and what no call may do; None where it succeeds."""
    try:
        await attempt()
    except FaultyCallError:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever it is, the claim judges it
        return exc
    return None


def assert_transient(failure: BaseException | None, *, when: str) -> None:
    """Assert that `failure` tells the worker to try the same batch again, or the records of it that it names."""
    assert failure is not None, f"{when}: nothing was raised, so the worker takes the records for delivered"
    assert isinstance(failure, DeliveryError), (
        f"{when}: {type(failure).__name__} came out ({failure}); at the seam to the driver, raise TransientError"
    )
    if isinstance(failure, PartialError):
        failure = next((each for each in failure.errors.values() if not isinstance(each, TransientError)), None)
        assert failure is None, f"{when}: {failure!r} was raised for a record, it must be TransientError"
        return
    assert isinstance(failure, TransientError), (
        f"{when}: {type(failure).__name__} was raised, it must be TransientError"
    )
    assert not isinstance(failure, FencedError), f"{when}: FencedError is for a checkpoint that stands elsewhere"
