import threading

import anyio
import pytest

from eventrec.runtime.backend import in_thread, take_no_thread


async def test_what_blocks_runs_beside_the_loop_until_no_thread_may_be_taken() -> None:
    here = threading.get_ident()

    assert await in_thread(threading.get_ident) != here
    take_no_thread()
    assert await in_thread(threading.get_ident) == here


def test_what_blocks_runs_on_the_loop_where_the_system_gives_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """On asyncio alone: trio keeps threads of earlier tests."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("eventrec.runtime.threads.start_new_thread", refuse)

    assert anyio.run(in_thread, threading.get_ident, backend="asyncio") == threading.get_ident()


async def test_an_error_of_the_work_is_its_own_and_it_runs_once() -> None:
    runs: list[int] = []

    def fail() -> None:
        runs.append(1)
        raise RuntimeError("of the work")

    with pytest.raises(RuntimeError, match="of the work"):
        await in_thread(fail)

    assert runs == [1]
