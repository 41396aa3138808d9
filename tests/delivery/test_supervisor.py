"""The task that owns delivery: what interrupts it, what ends it, and who may call it from where."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from eventrec import RecorderStateError
from eventrec.delivery.supervisor import Supervisor
from eventrec.delivery.worker.containment import EndedFromWithinError
from eventrec.intake.drops import Drops
from eventrec.intake.queue import Intake
from eventrec.runtime.backend import current_backend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventrec.delivery.subscription import NewDestination
    from eventrec.status import SubscriptionStatus


class Scripted(Supervisor):
    """Does what `acts` say, one for each time that delivery begins, and then delivers until it is closed."""

    def __init__(self, *acts: Callable[[], Awaitable[object]]) -> None:
        intake = Intake(
            max_events=9, max_bytes=1 << 20, max_event_bytes=1 << 20, overflow="drop_new", wake=lambda: None
        )
        super().__init__(intake, current_backend(), Drops(None), close_timeout=1.0)
        self.workers = {}
        self.acts = list(acts)
        self.times: list[float] = []
        self.let_go = 0

    @property
    def counts(self) -> Any:
        raise NotImplementedError

    def status(self) -> dict[str, SubscriptionStatus]:
        return {}

    async def flush(self) -> bool:
        return True

    def resume(self, name: str, start: NewDestination | None = None) -> None: ...

    async def _deliver_until_closed(self) -> None:
        self.started.set()
        self.times.append(anyio.current_time())
        if self.acts:
            await self.acts.pop(0)()
        else:
            await self._closing.wait()

    async def _close_workers(self) -> None: ...

    async def _end(self) -> None: ...

    async def _let_go(self) -> None:
        self.let_go += 1


def fails(text: str, after: float = 0.0) -> Callable[[], Awaitable[None]]:
    async def act() -> None:
        await anyio.sleep(after)
        raise ValueError(text)

    return act


async def test_errors_from_within_are_followed_by_growing_pauses_and_one_that_goes_on_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    supervisor = Scripted(fails("one"), fails("one"), fails("one"), fails("other"), fails("other", after=31.0))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run)
        await anyio.sleep(60.0)
        supervisor.close(1.0)

    pauses = [later - earlier for earlier, later in pairwise(supervisor.times)]
    assert [round(pause, 3) for pause in pauses] == [0.5, 1.0, 2.0, 4.0, 31.5], "what ran for long begins again"
    assert caplog.text.count("task interrupted") == len(["one", "other", "other after long"])
    assert supervisor.defect is None


async def test_delivery_that_ends_by_itself_begins_again_and_an_error_while_it_closes_ends_it() -> None:
    supervisor = Scripted(anyio.lowlevel.checkpoint)

    async def fail_at_the_end() -> None:
        await supervisor._closing.wait()
        raise ValueError("at the end")

    supervisor.acts.append(fail_at_the_end)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run)
        await supervisor.started.wait()
        await anyio.wait_all_tasks_blocked()
        assert isinstance(supervisor.defect, EndedFromWithinError)
        await anyio.sleep(1.0)
        supervisor.close(1.0)

    assert isinstance(supervisor.defect, ValueError)
    assert (supervisor.is_ended, len(supervisor.times)) == (True, 2)


async def test_in_the_child_of_a_fork_it_neither_flushes_nor_ends() -> None:
    supervisor = Scripted()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run)
        await supervisor.started.wait()
        supervisor.abandon()
        tasks.cancel_scope.cancel()
    await supervisor._deliver()

    assert (supervisor.is_ended, len(supervisor.times)) == (False, 1)


async def test_while_no_handler_is_called_its_silence_is_looked_for_less_and_less_often() -> None:
    supervisor = Scripted()
    asked: list[float] = []
    answers = iter([True, True, False, False, False, False, False, False, True])

    def note_silence() -> bool:
        asked.append(anyio.current_time())
        return next(answers, True)

    worker: Any = SimpleNamespace(note_silence=note_silence)
    supervisor.workers = {"s": worker}

    with anyio.move_on_after(700):
        await supervisor._note_silence()

    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert [round(pause) for pause in pauses[:9]] == [10, 10, 20, 40, 80, 160, 160, 160, 10]


def test_closed_from_another_loop_it_ends_and_is_waited_for() -> None:
    """And once it has ended, there is nothing to wait for."""
    answers: list[object] = []

    async def deliver() -> None:
        supervisor = Scripted()

        def elsewhere() -> None:
            async def close() -> None:
                answers.append(await supervisor.close_and_wait(5.0))
                answers.append(await supervisor.close_and_wait(5.0))

            anyio.run(close)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervisor.run)
            await supervisor.started.wait()
            await anyio.to_thread.run_sync(elsewhere)

    anyio.run(deliver)

    assert answers == [True, True]


def test_what_is_called_on_a_loop_that_has_ended_is_refused() -> None:
    async def deliver() -> None:
        supervisor = Scripted()
        supervisor.is_ended = True

        async def work() -> None:
            raise AssertionError

        def elsewhere() -> None:
            async def call() -> None:
                with pytest.raises(RecorderStateError, match="closed"):
                    await supervisor.call(work)

            anyio.run(call)

        await anyio.to_thread.run_sync(elsewhere)

    anyio.run(deliver)


async def test_what_takes_its_time_on_the_loop_is_waited_for_from_another_one() -> None:
    supervisor = Scripted()

    async def work() -> int:
        await anyio.sleep(0.05)
        return 7

    assert await supervisor.call(work) == 7


def test_a_call_from_another_loop_waits_for_its_answer() -> None:
    answers: list[int] = []

    async def deliver() -> None:
        supervisor = Scripted()

        async def work() -> int:
            for _ in range(3):
                await anyio.sleep(0.01)
            return 7

        def elsewhere() -> None:
            async def call() -> None:
                answers.append(await supervisor.call(work))

            anyio.run(call)

        await anyio.to_thread.run_sync(elsewhere)

    anyio.run(deliver)

    assert answers == [7]


def test_what_is_called_on_a_loop_that_is_closed_is_refused() -> None:
    async def make() -> Supervisor:
        return Scripted()

    supervisor = anyio.run(make)

    async def call() -> None:
        with pytest.raises(RecorderStateError, match="closed"):
            await supervisor.call(anyio.lowlevel.checkpoint)

    anyio.run(call)
