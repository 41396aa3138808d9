"""Tasks that may end before their first step."""

from __future__ import annotations

import asyncio
import inspect
import types
from typing import TYPE_CHECKING

import anyio
import pytest

from eventrec.runtime.starting import when_begun

if TYPE_CHECKING:
    from collections.abc import Generator


@types.coroutine
def pause() -> Generator[None, None, None]:
    yield


async def work(result: int = 7) -> int:
    await pause()
    return result


def test_what_has_not_begun_is_a_coroutine_that_says_how_far_it_is() -> None:
    """As anyio asks: up to 4.15 whether it is one, and still whether it has begun."""
    coroutine = when_begun(work, 8)()
    states = [inspect.getcoroutinestate(coroutine)]

    coroutine.send(None)
    states.append(inspect.getcoroutinestate(coroutine))
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    states.append(inspect.getcoroutinestate(coroutine))

    assert inspect.iscoroutine(coroutine)
    assert asyncio.iscoroutine(coroutine)
    assert (states, ended.value.value) == (["CORO_CLOSED", "CORO_SUSPENDED", "CORO_CLOSED"], 8)


def test_one_that_is_cancelled_before_it_begins_is_never_made() -> None:
    """Else Python would warn that it was never awaited, which is an error here."""
    made: list[object] = []

    def make() -> object:
        made.append(work())
        return made[-1]

    coroutine = when_begun(make)()  # type: ignore[arg-type]

    with pytest.raises(asyncio.CancelledError):
        coroutine.throw(asyncio.CancelledError())
    coroutine.close()

    assert made == []


async def test_a_group_begins_it_with_its_arguments() -> None:
    done: list[int] = []

    async def note(number: int) -> None:
        await anyio.lowlevel.checkpoint()
        done.append(number)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(when_begun(note, 1))
        tasks.start_soon(when_begun(note, 2), name="another")

    assert sorted(done) == [1, 2]
