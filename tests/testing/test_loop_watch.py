"""How long a loop stood still is told from how long a machine was busy."""

from __future__ import annotations

import time

import anyio
import pytest

from eventrec.testing.conformance import HandlerConformance, HandlerHarness
from eventrec.testing.conformance.blocking import MEASUREMENTS, BlockingClaims, LoopWatch
from eventrec.testing.conformance.model import ModelHandler, ModelHarness

pytestmark = pytest.mark.anyio

LONG = 0.05


class Processor:
    """A clock that stands while others have the processor."""

    had = 0.0

    def __call__(self) -> float:
        return self.had


async def waits() -> None:
    await anyio.sleep(2 * LONG)


async def blocks() -> None:
    time.sleep(LONG)  # noqa: ASYNC251 - what is measured


async def test_a_call_that_awaits_nothing_counts_as_a_whole() -> None:
    async with LoopWatch() as watch:
        await watch.call("handle", blocks)

    assert watch.longest["handle"] >= LONG


async def test_a_call_that_waits_beside_others_holds_up_nothing() -> None:
    longest = []
    for _ in range(MEASUREMENTS):  # a busy machine may hold up any one of them
        async with LoopWatch() as watch:
            await watch.call("handle", waits)
        longest.append(watch.longest["handle"])

    assert min(longest) < LONG


async def test_the_time_that_other_processes_had_counts_for_no_call() -> None:
    processor = Processor()

    async def blocks_for_long() -> None:
        processor.had += LONG

    async with LoopWatch(processor) as watch:
        await watch.call("handle", blocks)
        await watch.call("open", blocks_for_long)

    assert watch.longest == {"handle": 0, "open": LONG}


async def test_what_happens_between_two_calls_is_no_call() -> None:
    processor = Processor()

    async with LoopWatch(processor) as watch:
        await watch.call("open", anyio.lowlevel.checkpoint)
        processor.had += LONG
        await watch.call("handle", anyio.lowlevel.checkpoint)

    assert watch.longest == {"open": 0, "handle": 0}


class Patient(ModelHandler):
    """Takes its time, and lets others have theirs."""

    async def transact(self, change: object) -> None:
        await anyio.sleep(0.2)
        await super().transact(change)  # type: ignore[arg-type]


class PatientHarness(ModelHarness):
    handler_class = Patient


class TestPatientHandler(BlockingClaims):
    @pytest.fixture
    def harness(self) -> HandlerHarness:
        return PatientHarness()


def test_the_claims_about_blocking_are_in_the_suite() -> None:
    assert issubclass(HandlerConformance, BlockingClaims)
