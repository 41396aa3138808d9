"""Threads of a handler's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import anyio
import pytest
from anyio import to_thread

from eventrec import TransientError
from eventrec_handlers import _thread
from eventrec_handlers._thread import Portal, WorkThread, check_cancelled


@pytest.fixture
def work() -> Iterator[WorkThread]:
    work = WorkThread("tested")
    yield work
    work.end()


class Gate:
    """Work that waits until it is let go."""

    def __init__(self) -> None:
        self.entered, self.released = threading.Event(), threading.Event()
        self.is_over = False

    def __call__(self) -> str:
        self.entered.set()
        assert self.released.wait(10)
        self.is_over = True
        return "done"

    async def is_entered(self) -> None:
        assert await to_thread.run_sync(self.entered.wait, 10)


async def test_work_runs_in_one_daemon_thread_that_ends_when_told(work: WorkThread) -> None:
    first, second = await work.run(threading.current_thread), await work.run(threading.current_thread)
    work.end()
    await to_thread.run_sync(first.join, 10)
    third = await work.run(threading.current_thread)

    assert first is second
    assert (first.daemon, first.name) == (True, "tested")
    assert not first.is_alive()
    assert third is not first


async def test_thread_without_work_ends_by_itself(work: WorkThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_thread, "IDLE_SECONDS", 0.01)

    thread = await work.run(threading.current_thread)
    await to_thread.run_sync(thread.join, 10)

    assert not thread.is_alive()


@pytest.mark.parametrize("raised", [KeyError("x"), SystemExit(3)])
async def test_what_work_raises_is_raised_in_its_caller(work: WorkThread, raised: BaseException) -> None:
    def fail() -> None:
        raise raised

    with pytest.raises(type(raised)) as caught:
        await work.run(fail)

    assert caught.value is raised
    assert await work.run(lambda: 1) == 1


async def test_stop_iteration_does_not_end_the_caller_in_silence(work: WorkThread) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await work.run(lambda: next(iter(())))


async def test_jobs_run_one_at_a_time_in_order(work: WorkThread) -> None:
    gate = Gate()
    order: list[int] = []

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work.run, gate)
        await gate.is_entered()
        for n in range(3):
            tasks.start_soon(work.run, lambda n=n: order.append(n))
            await anyio.wait_all_tasks_blocked()
        assert order == []
        gate.released.set()

    assert order == [0, 1, 2]


async def test_job_that_has_begun_is_waited_for_when_its_scope_is_cancelled(work: WorkThread) -> None:
    gate = Gate()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work.run, gate)
        await gate.is_entered()
        tasks.cancel_scope.cancel()
        gate.released.set()

    assert gate.is_over


async def test_job_that_has_not_begun_is_left_out_when_its_caller_is_cancelled(work: WorkThread) -> None:
    gate = Gate()
    ran: list[int] = []

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work.run, gate)
        await gate.is_entered()
        with anyio.CancelScope() as scope:
            scope.cancel()
            threading.Timer(0.01, gate.released.set).start()
            await work.run(lambda: ran.append(1))
    await work.run(lambda: None)

    assert scope.cancelled_caught
    assert ran == []


async def test_job_that_asks_ends_when_its_caller_is_cancelled(work: WorkThread) -> None:
    entered = threading.Event()

    def wait() -> None:
        while True:
            entered.set()
            check_cancelled()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work.run, wait)
        await to_thread.run_sync(entered.wait, 10)
        tasks.cancel_scope.cancel()

    assert await work.run(lambda: "next") == "next"


def test_check_outside_a_job_does_nothing() -> None:
    check_cancelled()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_native_cancel_leaves_the_job_running_and_the_next_waits_for_it(work: WorkThread) -> None:
    gate = Gate()
    task = asyncio.create_task(work.run(gate))
    await gate.is_entered()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    threading.Timer(0.01, gate.released.set).start()

    assert await work.run(lambda: gate.is_over)


def test_loop_that_is_closed_under_a_job_does_not_harm_the_next(work: WorkThread) -> None:
    gate = Gate()

    async def leave() -> None:
        task = asyncio.create_task(work.run(gate))
        await gate.is_entered()
        task.cancel()

    asyncio.run(leave())
    gate.released.set()

    assert asyncio.run(work.run(lambda: "next")) == "next"


async def test_system_without_threads_is_transient(work: WorkThread, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(TransientError, match=r"no thread for tested: can't start new thread"):
            await work.run(lambda: 1)

    assert await work.run(lambda: 2) == 2


def test_where_the_system_gives_no_thread_work_is_done_in_an_idle_one_of_the_loop(
    work: WorkThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    async def ask() -> list[threading.Thread]:
        idle = await to_thread.run_sync(threading.current_thread)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            at_the_end = [await work.run(threading.current_thread) for _ in range(2)]
        return [idle, *at_the_end, await work.run(threading.current_thread)]

    idle, first, second, later = asyncio.run(ask())

    assert first is second is idle
    assert later is not idle


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_portal_runs_asyncio_for_trio_and_passes_cancellation_on() -> None:
    portal = Portal("portal")
    begun, cleaned = threading.Event(), threading.Event()

    async def loop_name() -> str:
        return type(asyncio.get_running_loop()).__module__

    async def hang() -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            cleaned.set()

    async def cancel(scope: anyio.CancelScope) -> None:
        await anyio.to_thread.run_sync(begun.wait)
        scope.cancel()

    name = await portal.run(loop_name)
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(cancel, scope)
            await portal.run(hang)
    was_cleaned = cleaned.is_set()
    await portal.close()

    assert name.startswith("asyncio")
    assert scope.cancelled_caught
    assert was_cleaned
    assert not any(thread.name == "portal" for thread in threading.enumerate())
