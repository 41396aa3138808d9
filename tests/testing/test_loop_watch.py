"""How long a loop stood still is told from how long a machine was busy."""

from __future__ import annotations

import time

import anyio
import pytest

from eventrec.testing.conformance import HandlerConformance, HandlerHarness
from eventrec.testing.conformance.blocking import BlockingClaims, LoopWatch
from eventrec.testing.conformance.model import ModelHandler, ModelHarness

pytestmark = pytest.mark.anyio

LONG = 0.05


class Processor:
    """The seconds that a thread has had, of which others take some."""

    def __init__(self) -> None:
        self.taken = 0.0

    def __call__(self) -> float:
        return time.perf_counter() - self.taken


async def waits() -> None:
    await anyio.sleep(2 * LONG)


async def blocks() -> None:
    time.sleep(LONG)  # noqa: ASYNC251 - what is measured


async def test_a_call_that_awaits_nothing_counts_as_a_whole() -> None:
    async with LoopWatch() as watch:
        await watch.call("handle", blocks)

    assert watch.longest["handle"] >= LONG


async def test_a_call_that_waits_beside_others_holds_up_nothing() -> None:
    async with LoopWatch() as watch:
        await watch.call("handle", waits)

    assert watch.longest["handle"] < 2 * LONG


async def test_the_time_that_other_processes_had_counts_for_no_call() -> None:
    processor = Processor()

    async def is_held_up() -> None:
        time.sleep(LONG)  # noqa: ASYNC251 - stands for a wait in the queue
        processor.taken += LONG

    async with LoopWatch(processor) as watch:
        await watch.call("handle", is_held_up)
        await watch.call("open", blocks)

    assert watch.longest["handle"] < watch.longest["open"]


async def test_what_happens_between_two_calls_is_no_call() -> None:
    async with LoopWatch() as watch:
        await watch.call("open", anyio.lowlevel.checkpoint)
        await blocks()
        await anyio.sleep(0.005)
        await watch.call("handle", anyio.lowlevel.checkpoint)

    assert set(watch.longest) == {"open", "handle"}
    assert max(watch.longest.values()) < LONG


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
