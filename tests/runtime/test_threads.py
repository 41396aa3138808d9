"""Blocking work in daemon threads of our own, on asyncio."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from eventrec.runtime.threads import in_daemon_thread


@pytest.fixture
def anyio_backend() -> tuple[str, Mapping[str, Any]]:
    return "asyncio", {}


async def test_work_is_done_elsewhere_and_its_result_comes_back() -> None:
    ident = await in_daemon_thread(threading.get_ident)

    assert ident != threading.get_ident()
    assert await in_daemon_thread(lambda a, b: a + b, 1, 2) == 3


async def test_a_thread_is_used_again() -> None:
    first = await in_daemon_thread(threading.get_ident)

    assert {await in_daemon_thread(threading.get_ident) for _ in range(20)} == {first}


async def test_several_work_at_once() -> None:
    barrier = threading.Barrier(4)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(in_daemon_thread, barrier.wait, 10)


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration("no")])
async def test_what_it_raises_comes_out(error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises((ValueError, RuntimeError), match="no"):
        await in_daemon_thread(fail)


async def test_a_cancelled_caller_waits_for_its_work() -> None:
    done: list[bool] = []

    def work() -> None:
        time.sleep(0.2)
        done.append(True)

    with anyio.move_on_after(0.05) as scope:
        await in_daemon_thread(work)
        await anyio.lowlevel.checkpoint()

    assert done == [True]
    assert scope.cancelled_caught


def test_a_loop_that_is_closed_does_not_hold_up_the_exit() -> None:
    program = """
import asyncio, time
from eventrec.runtime.threads import in_daemon_thread

async def main():
    await in_daemon_thread(time.sleep, 0)
    asyncio.get_running_loop().create_task(in_daemon_thread(time.sleep, 1000))
    await asyncio.sleep(0.05)

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
for task in asyncio.all_tasks(loop):
    task._log_destroy_pending = False
loop.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="os.fork")
def test_a_child_that_was_forked_meanwhile_does_not_wait_for_a_thread_of_its_parent() -> None:
    program = """
import asyncio, os, time
from eventrec.runtime.threads import in_daemon_thread

async def main():
    asyncio.get_running_loop().create_task(in_daemon_thread(time.sleep, 1000))
    await asyncio.sleep(0.05)
    child = os.fork()
    if child == 0:
        raise SystemExit(3)  # `asyncio.run` cancels the copies of the parent's tasks, and waits for them.
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )

    assert (done.returncode, done.stderr) == (3, "")


def test_two_loops_have_threads_of_their_own() -> None:
    first, second = (asyncio.run(_ident()) for _ in range(2))

    assert threading.get_ident() not in (first, second)


async def _ident() -> int:
    return await in_daemon_thread(threading.get_ident)
