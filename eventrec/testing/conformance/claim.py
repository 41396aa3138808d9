"""What every claim starts from: a destination of its own, open handlers, and an end."""

from __future__ import annotations

import functools
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import anyio
import pytest

from eventrec import DeliveryError, FencedError, PartialError, TransientError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from eventrec import EventHandler
    from eventrec.testing.conformance.harness import Capability, HandlerHarness
    from eventrec.testing.conformance.log import Log

T = TypeVar("T", bound="Callable[..., Coroutine[Any, Any, None]]")

ATTEMPTS: Final = 40
"""How often a batch is tried again after an outage is over, before it counts as lost."""

PAUSE: Final = 0.05
"""Seconds between two such attempts."""


class Claims:
    """A room of claims. Overrides: the fixture `harness`, and `anyio_backend` where one backend alone will do."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture(params=["asyncio", *(["trio"] if find_spec("trio") else [])])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """The backends to run on."""
        return request.param

    @pytest.fixture
    def harness(self) -> HandlerHarness:
        """The author's own."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `harness` that returns a HandlerHarness")


def claim(*needs: Capability) -> Callable[[T], T]:
    """Run a claim with its destination made and removed around it; skip it, visibly, where it needs what is lacking."""

    def made(test: T) -> T:
        @functools.wraps(test)
        async def run(self: Claims, harness: HandlerHarness, **given: object) -> None:
            for need in needs:
                if need in harness.lacks:
                    pytest.skip(f"lacks {need}: {harness.lacks[need]}")
            with anyio.fail_after(harness.patience):
                try:
                    await harness.start()
                    await test(self, harness, **given)
                finally:
                    with anyio.move_on_after(harness.patience, shield=True):
                        await harness.stop()

        return cast("T", run)

    return made


@asynccontextmanager
async def opened(harness: HandlerHarness) -> AsyncIterator[EventHandler]:
    """A new handler, open; closed at the end whatever happens."""
    handler = harness.handler()
    await handler.open()
    async with closing(handler):
        yield handler


@asynccontextmanager
async def closing(handler: EventHandler) -> AsyncIterator[EventHandler]:
    """Close `handler` at the end, also when the claim is cancelled."""
    try:
        yield handler
    finally:
        with anyio.CancelScope(shield=True):
            await handler.close()


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
    """What `attempt` raises, but for its cancellation; None where it succeeds."""
    try:
        await attempt()
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
